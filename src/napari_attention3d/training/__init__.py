"""Training: real scans with labels, or label maps alone."""

from .config import TrainConfig
from .loop import TrainResult, run_folder, train_job

__all__ = ["TrainConfig", "TrainResult", "run_folder", "train_job"]
