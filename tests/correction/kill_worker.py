"""Paint, learn, approve and undo without end; say what is finished. To be killed at any moment."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from napari_attention3d.correction import fast_head
from napari_attention3d.correction.session import CorrectionSession
from napari_attention3d.volumes.volume import Volume

SHAPE = (6, 10, 12)


def scan() -> Volume:
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    return Volume.from_array(image, name="noise")


def stroke(number: int) -> tuple[list[list[int]], int]:
    """Voxels and value of the stroke of that number; all different."""
    z, y = number % 6, (number // 6) % 10
    return [[z, y, x] for x in range(12)], (1, 2, 255)[number % 3]


def main(folder: Path) -> None:
    fast_head.TREES = 3
    session = CorrectionSession(scan(), ("background", "a", "b"), folder=folder, threads=1)
    print("begun", flush=True)
    number = 0
    while True:
        session.add_stroke(*stroke(number))
        number += 1
        print(f"stroke {number}", flush=True)
        if number % 3 == 0:
            job = session.learn_job()
            while True:
                try:
                    next(job)
                except StopIteration as stop:
                    session.apply(stop.value)
                    break
            session.approve_slice(number % 6)
            if number % 2 == 0:
                session.undo()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
