"""What the engine's benchmark measures, and how labels are compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["cells", "compare"]

Cell = dict[str, Any]
ROUNDS = 3


def _cell(name: str, edge: Any, network: str, **more: Any) -> Cell:
    shape = (edge,) * 3 if isinstance(edge, int) else edge  # or the name of a real scan
    classes = 14 if network.endswith("-14") else 2
    return {"name": name, "shape": shape, "network": network, "classes": classes, **more}


def _monai(overlap: float, tile: int = 96, **more: Any) -> dict[str, Any]:
    return {"who": "monai", "overlap": overlap, "tile": (tile,) * 3, **more}


def _ours(**more: Any) -> dict[str, Any]:
    return {"who": "ours", **more}


def pilot() -> list[Cell]:
    """MONAI's settings, small."""
    return [
        _cell(
            f"pilot-{int(overlap * 100)}-{batch}", 128, "unet", tuned=True,
            how=_monai(overlap, batch=batch),
        )
        for overlap in (0.25, 0.5)
        for batch in (1, 2, 4)
    ]  # fmt: skip


def headline(edge: int, data: str = "", network: str = "unet") -> list[Cell]:
    """Attention U-Net small, 2 classes: everybody."""
    shape: Any = data if data else edge
    name = data or str(edge)

    def make(who: str, how: dict[str, Any], tuned: bool = True, warm: bool = True) -> Cell:
        about = {"tuned": tuned, "warm": warm, "against": f"single-{name}"}
        return _cell(f"{who}-{name}", shape, network, how=how, **about)

    return [
        make("single", {"who": "single"}),
        make("ours", _ours(planes=32)),
        make("ours-small", _ours(planes=4)),
        make("ours-plain", _ours(planes=32), tuned=False),
        make("single-plain", {"who": "single"}, tuned=False),
        make("monai", _monai(0.5), tuned=False, warm=False),
        make("monai-tuned", _monai(0.5), warm=False),
        make("monai-25-tuned", _monai(0.25), warm=False),
    ]


def once(edge: int) -> list[Cell]:
    """Single runs: other networks, precisions, and what else is asked of the engine."""
    middle = [[edge // 2 - 16, edge // 2 + 16]] * 3
    wide = {"shape": (1024, 512, 512)}
    tile = (96, 96, 96)
    one = {"tuned": True, "against": f"single-{edge}"}
    made = [
        _cell(f"nnunet-{edge}", edge, "unet", how={"who": "nnunet", "overlap": 0.5, "tile": tile},
              **one),
        _cell(f"monai-2-tuned-{edge}", edge, "unet", how=_monai(0.5, batch=2), **one),
        _cell(f"monai-2-{edge}", edge, "unet", how=_monai(0.5, batch=2),
              **(one | {"tuned": False})),
        _cell(f"ours-bf16-{edge}", edge, "unet", warm=True,
              how=_ours(precision="fast", planes=32, forced="bfloat16"), **one),
        _cell(f"single-bf16-{edge}", edge, "unet", warm=True, how={"who": "single", "bf16": True},
              **one),
        _cell(f"openvino-{edge}", edge, "unet", warm=True, how={"who": "openvino"}, **one),
        _cell(f"compiled-{edge}", edge, "unet", warm=True, how={"who": "compiled"}, **one),
        _cell(f"ours-maps-{edge}", edge, "unet", warm=True, how=_ours(planes=32, attention=True),
              **one),
        _cell("single-14-192", 192, "unet-14", tuned=True, how={"who": "single"}),
        _cell("ours-14-192", 192, "unet-14", tuned=True, against="single-14-192", how=_ours()),
        _cell("monai-14-192", 192, "unet-14", tuned=True, against="single-14-192",
              how=_monai(0.5)),
        _cell("single-instance-192", 192, "unet-instance", tuned=True, how={"who": "single"}),
        _cell("ours-instance-192", 192, "unet-instance", tuned=True, patch=64,
              against="single-instance-192", how=_ours()),
        *[
            _cell(f"{who}-guided-128", 128, "guided", tuned=True, patch=64, warm=who != "monai",
                  against="monai-guided-128", how=how)
            for who, how in (
                ("monai", _monai(0.5, 64)),
                ("ours", _ours(tile=(64,) * 3, overlap=0.5)),
                ("ours-fast", _ours(tile=(64,) * 3, overlap=0.5, precision="fast")),
                ("ours-usual", _ours()),
            )
        ],
        _cell("monai-cheap-14-256", 256, "cheap-14", how=_monai(0.5)),
        _cell("ours-cheap-14-256-tiles", 256, "cheap-14", against="monai-cheap-14-256",
              how=_ours(tile=tile, overlap=0.5)),
        _cell("ours-cheap-14-256", 256, "cheap-14", against="monai-cheap-14-256", how=_ours()),
        *[
            _cell(f"{who}-cheap-{size}", size, "cheap", against=f"monai-cheap-{size}", how=how)
            for size in (128, 256, 512)
            for who, how in (("monai", _monai(0.5)), ("ours", _ours()))
        ],
        _cell("monai-cheap-wide", wide["shape"], "cheap", how=_monai(0.5)),
        _cell("ours-cheap-wide", wide["shape"], "cheap", how=_ours(to_disk=True)),
        _cell("ours-cheap-wide-tiles", wide["shape"], "cheap",
              how=_ours(to_disk=True, tile=tile, overlap=0.5)),
        _cell("ours-cheap-14-wide", wide["shape"], "cheap-14", how=_ours(to_disk=True)),
        _cell("ours-cheap-14-wide-tiles", wide["shape"], "cheap-14",
              how=_ours(to_disk=True, tile=tile, overlap=0.5)),
        _cell(f"ours-region-{edge}", edge, "unet", tuned=True, warm=True, against=f"ours-{edge}",
              how=_ours(region=middle)),
    ]  # fmt: skip
    return made


def cells(quick: bool) -> Iterator[tuple[int, Cell]]:
    """Yield (round, cell), interleaved."""
    if quick:
        skip = ("monai-25", "single-plain", "wide", "192", "512", "cheap-128", "instance")
        for cell in [*headline(128), *once(128)]:
            if not any(part in cell["name"] for part in skip):
                yield 0, _within(cell)
        return
    yield from ((0, cell) for cell in pilot())
    for number in range(ROUNDS):
        yield from ((number, cell) for cell in headline(192))
    large = headline(256)
    yield from ((0, cell) for cell in [*large, *headline(0, "d02", "real")])
    yield from ((0, cell) for cell in once(256))


def _within(cell: Cell) -> Cell:
    """At most 128 voxels along each axis."""
    return cell | {"shape": tuple(min(n, 128) for n in cell["shape"])}


def compare(cell: Cell, work: Path) -> dict[str, float]:
    """Labels that differ from the reference's, per voxel and per voxel of the foreground."""
    mine, other = (work / f"{name}.npy" for name in (cell["name"], cell.get("against", "")))
    if not (mine.exists() and other.exists()):
        return {}
    a, b = np.load(mine), np.load(other)
    if "region" in cell["how"]:
        b = b[tuple(slice(*bounds) for bounds in cell["how"]["region"])]
    differ = int((a != b).sum())
    return {"mismatch": differ / b.size, "mismatch_fg": differ / max(1, int((b > 0).sum()))}
