"""Ways to damage a file, or to make it claim what is not so."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD_NUMBERS = (
    0, 1, -1, 2, 7, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 10**12, 2**63,
)  # fmt: skip
ODD_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), float("-inf"))
ODD_VALUES: tuple[Any, ...] = (
    *ODD_NUMBERS, *ODD_FLOATS[:6], None, True, "", "a", "../../../etc", "/etc/passwd", "\x00",
    "x" * 5000, [], {}, [[]], [1e308] * 3, [-1, 0, 5], [10**12] * 3, {"name": "blosc"},
    "<script>alert(1)</script>", "|O", "<M8[s]", "<f8", "zstd",
)  # fmt: skip


def mutate(path: Path, rng: random.Random) -> str:
    """Damage a file, or one of a folder; returns how, in words."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        described = [p for p in files if p.name in _DESCRIPTIONS]
        target = rng.choice(described if described and rng.random() < 0.8 else files)
        if rng.random() < 0.08:
            return _of_a_folder(path, target, rng)
        return f"{target.relative_to(path)}: {_file(target, rng)}"
    return _file(path, rng)


_DESCRIPTIONS = {
    "zarr.json", ".zattrs", ".zarray", ".zgroup", "dataset.json", "tiny.json",
    "session.json", "current.json", "round.json",
}  # fmt: skip


def _of_a_folder(path: Path, target: Path, rng: random.Random) -> str:
    how = rng.choice(("gone", "a folder", "a link to itself", "a link to nothing", "empty"))
    target.unlink()
    if how == "a folder":
        target.mkdir()
    elif how == "a link to itself":
        target.symlink_to(target)
    elif how == "a link to nothing":
        target.symlink_to(path / "nothing")
    elif how == "empty":
        target.touch()
    return f"{target.relative_to(path)}: {how}"


def _file(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    name = path.name.lower()
    if name.endswith((".gz", ".mgz")) and rng.random() < 0.75:
        inner, how = _bytes(gzip.decompress(data), rng)
        path.write_bytes(gzip.compress(inner, 1))
        return f"inside gzip: {how}"
    ways: list[Callable[[bytes, random.Random], tuple[bytes, str]]] = [_bytes]
    if name.endswith((".json", ".zattrs", ".zarray", ".zgroup")):
        ways += [_json] * 4 + [_text]
    elif name.endswith((".yaml", ".nrrd", ".mha")):
        ways += [_text] * 3
    elif name.endswith(".safetensors"):
        ways += [_safetensors] * 3 + [_card] * 6 * _has_card(data)
    elif name.endswith((".pt", ".pth")):
        ways += [_zipped] * 3
    elif name.endswith((".nii", ".nii.gz", ".mgz", ".mgh")):
        ways += [_bomb] if name.endswith("gz") else []
    data, how = rng.choice(ways)(data, rng)
    path.write_bytes(data)
    return how


# ---- any bytes


def _bytes(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Change bytes, most often near the beginning, where headers are."""
    kind = rng.choice(("flip", "flip", "number", "number", "number", "cut", "splice", "longer"))
    raw = bytearray(data)
    near = min(len(raw), 400 if rng.random() < 0.8 else len(raw)) or 1
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 2, 5, 30))):
            if raw:
                raw[rng.randrange(near)] = rng.randrange(256)
    elif kind == "number" and len(raw) > 16:
        packed = _number(rng)
        place = rng.randrange(near) // 2 * 2
        raw[place : place + len(packed)] = packed
    elif kind == "cut":
        del raw[rng.randrange(len(raw) + 1) :]
    elif kind == "splice" and raw:
        a, b = rng.randrange(len(raw)), rng.randrange(len(raw))
        raw[a:a] = raw[b : b + rng.randrange(200)]
    else:
        raw += bytes(rng.randrange(256) for _ in range(rng.randrange(1, 300)))
    return bytes(raw), kind


def _number(rng: random.Random) -> bytes:
    order = rng.choice("<>")
    code = rng.choice("bhhhiiqfffd")
    if code in "fd":
        return struct.pack(order + code, rng.choice(ODD_FLOATS))
    bits = 8 * struct.calcsize(code)
    value = rng.choice(ODD_NUMBERS) & (2**bits - 1)
    return struct.pack(order + code.upper(), value)


def _bomb(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Zeros that gzip packs a thousandfold, behind the header; or gzip inside gzip."""
    if rng.random() < 0.3:
        return gzip.compress(data), "gzip in gzip"
    megabytes = rng.choice((1, 30, 300))
    packed = gzip.compress(bytes(10**6), 9)
    return gzip.compress(gzip.decompress(data)[:352], 1) + packed * megabytes, f"{megabytes} MB"


# ---- text


def _text(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    text = data.decode("latin-1")
    lines = text.split("\n")
    row = rng.randrange(len(lines))
    kind = rng.choice(("value", "value", "value", "gone", "twice", "deep", "aliases", "tag", "big"))
    if kind == "value":
        head, sign, _ = lines[row].partition(rng.choice((":", "=")))
        lines[row] = f"{head}{sign} {rng.choice(ODD_VALUES)}"[:6000]
    elif kind == "gone":
        del lines[row]
    elif kind == "twice":
        lines.insert(row, lines[row])
    elif kind == "deep":
        lines.insert(row, "a: " + rng.choice("[{") * 20_000)
    elif kind == "aliases":
        lines.insert(0, "a0: &a0 [x, x]")
        for n in range(1, 40):
            lines.insert(n, f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]")
    elif kind == "tag":
        lines.insert(row, "x: !!python/object/apply:os.mkdir ['owned']")
    else:
        lines[row] += "9" * 5000
    return "\n".join(lines).encode("latin-1", "replace"), kind


def _json(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Change, drop or add an entry anywhere in the tree."""
    if rng.random() < 0.05:
        return b'{"a":' * 50_000, "deep"
    tree = json.loads(data)
    places = list(_places(tree))
    holder, key = rng.choice(places)
    kind = rng.choice(("value", "value", "value", "gone", "twice"))
    if kind == "gone":
        del holder[key]
    elif kind == "twice" and isinstance(holder, list):
        holder.extend(holder[:3])
    else:
        holder[key] = rng.choice(ODD_VALUES)
    return json.dumps(tree).encode(), f"{kind} of {key}"


def _places(tree: Any) -> Any:
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])


# ---- safetensors


def _safetensors(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Change the header's length, or an entry of it: shapes, offsets, types."""
    length = struct.unpack("<Q", data[:8])[0]
    if rng.random() < 0.15:
        odd = rng.choice(ODD_NUMBERS) & (2**64 - 1)
        return struct.pack("<Q", odd) + data[8:], f"header of {odd} bytes"
    header, how = _json(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :], how


def _card(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Change an entry of the card, and nothing else: else the tensors are what is refused."""
    length = struct.unpack("<Q", data[:8])[0]
    tree = json.loads(data[8 : 8 + length])
    card = tree["__metadata__"]
    for key, text in card.items():
        inner, how = _json(text.encode(), rng)
        card[key] = inner.decode()
    header = json.dumps(tree).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + length :], f"card: {how}"


def _has_card(data: bytes) -> bool:
    return b'"__metadata__"' in data


# ---- torch's files


def _zipped(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Change a member of the archive, most often the pickle; its check sum is right again."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        pickled = [name for name in names if name.endswith("data.pkl")]
        target = rng.choice(pickled if rng.random() < 0.8 else names)
        how = ""
        for name in names:
            content = old.read(name)
            if name == target:
                content, how = _bytes(content, rng)
            elsewhere = name == target and rng.random() < 0.1
            new.writestr("../../owned" if elsewhere else name, content)
    return out.getvalue(), f"{target}: {how}"
