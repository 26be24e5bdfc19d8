"""One process of a run with two: started by test_processes.py, as torchrun would."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from napari_attention3d.training import TrainConfig, train_job
from napari_attention3d.training.processes import joined


def main(config: str, output: str) -> None:
    torch.set_num_threads(1)
    with joined("cpu") as processes:
        assert processes.count == 2
        for _ in train_job(TrainConfig.from_yaml(config), Path(output), processes=processes):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
