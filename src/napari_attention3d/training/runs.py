"""The folder of a training run: configuration, checkpoint, log, how far it came."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, OutputError
from ..volumes.atomic import atomic_path
from .config import TrainConfig

__all__ = ["RunFolder", "RunInfo", "list_runs", "run_folder"]

SUFFIX = ".safetensors"


def run_folder(output: Path) -> Path:
    """Where a run keeps its checkpoint, last model and log."""
    return output.with_name(output.name.removesuffix(SUFFIX) + ".run")


@dataclass(frozen=True)
class RunInfo:
    """A run that was begun.

    Parameters
    ----------
    output
        The model that it makes.
    config
        As it was begun.
    step, steps
        Done and in all.
    finished
        Whether it came to its end.
    """

    output: Path
    config: TrainConfig
    step: int
    steps: int
    finished: bool


class RunFolder:
    """Reads and writes a run's folder; every file is whole at any moment.

    Parameters
    ----------
    output
        The model that the run makes.
    """

    def __init__(self, output: Path) -> None:
        if output.suffix != SUFFIX:
            raise InputError(f"{output} must end in {SUFFIX}")
        self.output, self.path = output, run_folder(output)
        self.checkpoint = self.path / "checkpoint.pt"
        self.last = self.path / "last.safetensors"
        self.log = self.path / "log.csv"
        self._config = self.path / "config.yaml"
        self._progress = self.path / "progress.json"

    def make(self) -> None:
        """Make the folder, and take away what a killed run left half-written.

        Raises
        ------
        OutputError
            If that is not possible.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for remains in self.path.glob(".na3d-*"):  # of a run that was killed while writing
                if remains.is_file():
                    remains.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"can't write to {self.path.parent}: {error.strerror}") from error

    def clear(self) -> None:
        """Forget an earlier run; the model itself stays until a better one replaces it."""
        for path in (self.checkpoint, self.log, self._config, self._progress):
            path.unlink(missing_ok=True)

    def write_config(self, config: TrainConfig) -> None:
        """Keep the configuration; folders in it are made absolute."""
        raw = config.model_dump(mode="json", exclude_none=True)
        for key in ("folder", "images", "labels"):
            if isinstance(raw["data"].get(key), str):
                raw["data"][key] = str(Path(raw["data"][key]).resolve())
        with atomic_path(self._config) as temporary:
            temporary.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")

    def config(self) -> TrainConfig | None:
        """Return the configuration of the run that was begun here, if one was."""
        if not (self._config.exists() and self.checkpoint.exists()):
            return None
        return TrainConfig.from_yaml(self._config)

    def write_progress(self, step: int, steps: int, finished: bool) -> None:
        """Note how far the run came."""
        with atomic_path(self._progress) as temporary:
            entry = {"step": step, "steps": steps, "finished": finished}
            temporary.write_text(json.dumps(entry), encoding="utf-8")

    def info(self) -> RunInfo | None:
        """Return what is known of the run; None without one, or if it can't be read."""
        try:
            config = self.config()
            raw = json.loads(self._progress.read_text(encoding="utf-8"))
            step, steps, finished = int(raw["step"]), int(raw["steps"]), bool(raw["finished"])
        except (InputError, OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return None if config is None else RunInfo(self.output, config, step, steps, finished)

    # ---- log

    def cut_log(self, step: int) -> None:
        """Take out lines after a step: those of work that was lost."""
        rows = [row for row in self.read_log() if row["step"] <= step]
        if not rows:
            self.log.unlink(missing_ok=True)
            return
        with open(self.log, encoding="utf-8", newline="") as file:
            fields = csv.DictReader(file).fieldnames or []
        with atomic_path(self.log) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, fields, restval="")
            writer.writeheader()
            for row in rows:
                writer.writerow(
                    {k: f"{v:.6g}" for k, v in row.items()} | {"step": int(row["step"])}
                )

    def read_log(self) -> list[dict[str, float]]:
        """Return the log's lines; a line that was cut off in writing is left out."""
        found: list[dict[str, float]] = []
        try:
            with open(self.log, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except OSError:
            return []
        for row in rows:
            try:
                found.append({k: float(v) for k, v in row.items() if v})
                found[-1]["step"]
            except (TypeError, ValueError, KeyError):
                found = [one for one in found if "step" in one]
        return found

    def add_to_log(self, classes: list[str], row: Mapping[str, Any]) -> None:
        """Append a line; figures that the log's first line does not name are left out."""
        fields = ["step", "seconds", "loss", "learning_rate", "grad_norm", "val_dice"]
        fields += [f"val_{name}" for name in classes]
        fields += [key for key in row if key not in fields]
        new = not self.log.exists()
        try:
            if not new:
                with open(self.log, encoding="utf-8", newline="") as file:
                    fields = next(csv.reader(file), fields)
            with open(self.log, "a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fields, restval="")
                if new:
                    writer.writeheader()
                writer.writerow({k: v for k, v in row.items() if k in fields})
        except OSError as error:
            raise OutputError(f"can't write to {self.log}: {error.strerror}") from error


def list_runs(folder: Path) -> list[RunInfo]:
    """Runs that were begun in a folder of models and did not come to their end."""
    found = []
    for path in sorted(folder.glob("*.run")):
        info = RunFolder(path.with_name(path.name.removesuffix(".run") + SUFFIX)).info()
        if info is not None and not info.finished:
            found.append(info)
    return found
