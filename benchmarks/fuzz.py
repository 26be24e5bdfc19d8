"""Feed damaged and hostile files to every reader; each must end well or in our one-line error.

python benchmarks/fuzz.py --mutants 5000 --json fuzz.json

A mutant is a sound file or folder (scan, series, label map, model, card, weights of others,
recipe, rules, training settings, checkpoint) with bytes, numbers of its header or entries of its
metadata changed. It is read in a process of its own, whose current folder is watched, too.
What counts as a failure: an exception that is not ours or a message of several lines, more than
ten seconds of the processor, far more memory than the file's size explains, a file or folder
made or changed, a process gone. A run that was stopped goes on where it was (`--json` keeps one
line per failure and a count per reader).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _fuzz_mutations import mutate
from _fuzz_seeds import SEEDS, make_seeds

PATIENCE = 10.0
"""Seconds of the processor that a reader may take."""
LONGEST = 100.0
"""Seconds that it may take by the clock, whatever else the machine does."""
MEMORY = 160e6
"""Bytes above what the process had before, for any file."""
PER_BYTE = 1100
"""More bytes per byte of the file: gzip packs zeros about that tightly."""


# ---- in the reading process


def _read(kind: str, path: Path, lazy: bool) -> None:
    """Read a file as the program would; raises AssertionError if what comes is nonsense."""
    if kind == "volume":
        from napari_attention3d.volumes import read_volume

        volume = read_volume(path, lazy=lazy)
        assert volume.array.shape[-3:] == tuple(volume.geometry.shape), "shape"
        assert np.isfinite(volume.geometry.affine).all(), "affine"
        assert abs(np.linalg.det(volume.geometry.affine[:3, :3])) > 0, "singular affine"
        if not lazy:
            assert np.asarray(volume.array).shape == volume.array.shape, "voxels"
    elif kind == "model":
        from napari_attention3d.models import load_model

        load_model(path)
    elif kind == "recipe":
        from napari_attention3d.recipe import read_recipe

        read_recipe(path)
    elif kind == "training":
        from napari_attention3d.training import TrainConfig

        TrainConfig.from_yaml(path)
    elif kind == "dataset":
        from napari_attention3d.training.folders import open_training_folder

        open_training_folder(path)
    elif kind == "checkpoint":
        from napari_attention3d.training.checkpoint import load_checkpoint

        load_checkpoint(path, "same")
    elif kind == "weights":
        from napari_attention3d.models.convert_source import read_source

        read_source(path)
    elif kind == "import":
        from napari_attention3d.models.convert import convert

        convert(path)
    elif kind == "rules":
        from napari_attention3d.analysis.cleanup import read_rules

        read_rules(path)
    else:
        raise ValueError(kind)


def _peak(reset: bool = False) -> int:
    """Bytes that this process held at most since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


def _reader(pipe: Any) -> None:
    """Read what comes until nothing comes."""
    from napari_attention3d.errors import Attention3DError

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    while (task := pipe.recv()) is not None:
        kind, path, lazy, watched = task
        os.chdir(watched)  # what an executed tag or pickle makes is made here
        before = _peak(reset=True)
        try:
            _read(kind, Path(path), lazy)
            answer = ("valid", "")
        except Attention3DError as error:
            text = str(error)
            fine = text.strip() and "\n" not in text and len(text) < 1000
            answer = ("refused", text) if fine else ("failed", f"message: {text!r}")
        except BaseException:
            answer = ("failed", traceback.format_exc(limit=-6))
        pipe.send((*answer, _peak() - before))


# ---- in the asking process


class Readers:
    """A process that reads; a new one where it hung or died."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["napari_attention3d.session", "SimpleITK"])
        self._process: Any = None

    def ask(self, kind: str, path: Path, lazy: bool, watched: Path) -> tuple[str, str, int]:
        """Return outcome, words and bytes; the process reads in the watched folder."""
        if self._process is None:
            self._pipe, theirs = self._context.Pipe()
            self._process = self._context.Process(target=_reader, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
            for other in set(SEEDS.values()):  # imports are not the file's memory
                self._pipe.send((other.kind, str(watched / "nothing.there"), True, str(watched)))
                self._pipe.recv()
        self._pipe.send((kind, str(path), lazy, str(watched)))
        try:
            if self._answers():
                found: tuple[str, str, int] = self._pipe.recv()
                return found
            words = f"no answer in {PATIENCE:g} s"
        except EOFError:
            words = "the process died"
        self.close()
        return "failed", words, 0

    def _answers(self) -> bool:
        """Whether there is one before it took too long, on a busy machine too."""
        begin, until = self._used(), time.monotonic() + LONGEST
        while not self._pipe.poll(0.5):
            if self._used() - begin > PATIENCE or time.monotonic() > until:
                return False
        return True

    def _used(self) -> float:
        """Seconds of the processor that the process took."""
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self._process.pid).cpu_times()
            return float(times.user + times.system)
        return 0.0

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


@dataclass
class Book:
    """What was found, by reader."""

    done: int = 0
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    peak: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return what json can write."""
        return {
            "done": self.done,
            "outcomes": {name: dict(found) for name, found in self.outcomes.items()},
            "failures": self.failures,
            "peak": self.peak,
        }


def contents(folder: Path) -> dict[str, str]:
    """What is in a folder: hashes of files, where links lead, folders."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _size(folder: Path) -> int:
    files = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return sum(p.stat().st_size for p in files)


def _mutants(folder: Path, begin: int, end: int) -> Iterator[tuple[int, str, Path, bool, str]]:
    """Make one mutant after the other; each number always gives the same."""
    seeds = folder / "seeds"
    names = sorted(p.name for p in seeds.iterdir())
    for number in range(begin, end):
        rng = random.Random(number)
        name = names[number % len(names)]
        place = folder / "mutant"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        target = place / name
        (shutil.copytree if (seeds / name).is_dir() else shutil.copy)(seeds / name, target)
        how = mutate(target, rng)
        yield number, name, target / SEEDS[name].inner, rng.random() < 0.5, how


def fuzz(
    folder: Path,
    mutants: int,
    book: Book | None = None,
    begin: int | None = None,
    keep: Callable[[Book], None] = lambda book: None,
) -> Book:
    """Read so many mutants; see the module."""
    book = book or Book()
    make_seeds(folder / "seeds")
    begin = book.done if begin is None else begin
    readers = Readers()
    try:
        place = folder / "mutant"
        for number, name, path, lazy, how in _mutants(folder, begin, begin + mutants):
            before, size = contents(place), _size(place)
            outcome, words, memory = readers.ask(SEEDS[name].kind, path, lazy, place)
            book.peak = max(book.peak, memory)
            if (now := contents(place)) != before:
                changed = sorted(f for f in now.keys() | before if now.get(f) != before.get(f))
                outcome, words = "failed", f"written: {', '.join(changed)}"
            elif memory > MEMORY + PER_BYTE * size:
                outcome, words = "failed", f"{memory / 1e6:.0f} MB for a file of {size} bytes"
            book.outcomes.setdefault(name, Counter())[outcome] += 1
            if outcome == "failed":
                book.failures.append(
                    {"number": number, "file": name, "how": how, "lazy": lazy, "words": words}
                )
            book.done = number + 1
            if number % 50 == 0:
                keep(book)
    finally:
        readers.close()
    keep(book)
    return book


def table(book: Book) -> str:
    """Return the outcomes as Markdown."""
    lines = ["| file | mutants | read | refused | failed |", "|---|---:|---:|---:|---:|"]
    for name, found in sorted(book.outcomes.items()):
        row = [found["valid"], found["refused"], found["failed"]]
        lines.append(f"| {name} | {sum(row)} | " + " | ".join(map(str, row)) + " |")
    total = [sum(f[k] for f in book.outcomes.values()) for k in ("valid", "refused", "failed")]
    lines.append(f"| all | {sum(total)} | " + " | ".join(map(str, total)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=5000, help="in all")
    parser.add_argument("--json", type=Path, help="kept up to date; a stopped run goes on")
    parser.add_argument("--quick", action="store_true", help="300")
    options = parser.parse_args()
    if options.quick:
        options.mutants = 300
    book = Book()
    if options.json and options.json.is_file():
        old = json.loads(options.json.read_text())
        counters = {name: Counter(found) for name, found in old["outcomes"].items()}
        book = Book(old["done"], counters, old["failures"], old["peak"])

    def keep(now: Book) -> None:
        if options.json:
            options.json.write_text(json.dumps(now.as_json(), indent=1))

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fuzz(Path(folder), max(0, options.mutants - book.done), book, keep=keep)
    print(table(book))
    print(f"largest growth of memory {book.peak / 1e6:.0f} MB; {time.perf_counter() - began:.0f} s")
    for failure in book.failures:
        print(json.dumps(failure, indent=1).replace("\\n", "\n"))
    raise SystemExit(bool(book.failures))


if __name__ == "__main__":
    main()
