"""What the commands share: errors, progress, JSON."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import Attention3DError, InputError, JobCancelled, OutputError
from ..progress import Job

__all__ = [
    "BAD_INPUT",
    "CANCELLED",
    "SOME_FAILED",
    "JsonOption",
    "check_new_file",
    "check_writable_folder",
    "error_line",
    "print_json",
    "report_error",
    "run_job",
    "say",
]

SOME_FAILED = 1
BAD_INPUT = 2
CANCELLED = 130
_SECONDS_BETWEEN_LINES = 10.0

T = TypeVar("T")


def JsonOption(what: str) -> Any:
    """``--json``: print `what` as JSON on standard output, and nothing else there."""
    return typer.Option("--json", help=f"Print {what} as JSON and nothing else.")


def say(text: str) -> None:
    """Print for a person, on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_json(result: Any) -> None:
    """Print valid JSON (no NaN) on standard output."""
    print(json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False))


def error_line(error: BaseException) -> str:
    """One line that says what went wrong."""
    text = " ".join(str(error).split())
    if isinstance(error, Attention3DError):
        return f"error: {text}"
    if isinstance(error, OSError) and error.strerror:
        return f"error: {error.filename or 'file'}: {error.strerror}"
    return (
        f"error: unexpected {type(error).__name__}: {text or 'no message'} "
        "(add --debug for the whole story, and please report it)"
    )


def report_error(error: BaseException) -> int:
    """Print the error in one line and return the exit code that it means."""
    if isinstance(error, (JobCancelled, KeyboardInterrupt)):
        say("cancelled")
        return CANCELLED
    say(error_line(error))
    return BAD_INPUT if isinstance(error, (InputError, OutputError, OSError)) else SOME_FAILED


def run_job(job: Job[T], title: str) -> T:
    """Drive a job to its end with a progress line on standard error.

    Ctrl-C closes the job, which cancels it.

    Raises
    ------
    JobCancelled
        After Ctrl-C.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        return _run_in_log(job, title)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[message]}"),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=None, message="")
            while True:
                try:
                    step = next(job)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                bar.update(
                    task, completed=step.done, total=step.total or None, message=step.message
                )
    except KeyboardInterrupt as error:
        raise JobCancelled("cancelled") from error
    finally:
        job.close()


def _run_in_log(job: Job[T], title: str) -> T:
    """Drive a job where there is no terminal: a line now and then instead of a bar."""
    said = -math.inf
    try:
        while True:
            try:
                step = next(job)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            now = time.monotonic()
            if now - said >= _SECONDS_BETWEEN_LINES:
                say(f"{title}: {step.message or 'working'} ({step.fraction:.0%})")
                said = now
    except KeyboardInterrupt as error:
        raise JobCancelled("cancelled") from error
    finally:
        job.close()


def check_new_file(path: Path, inputs: Collection[Path] = (), *, overwrite: bool) -> None:
    """Fail now, not after the long run, if a result can't be written to `path`.

    Parameters
    ----------
    path
        The file to write.
    inputs
        Files that are read; none of them may be replaced.
    overwrite
        Whether an older file may be replaced.

    Raises
    ------
    InputError
        If it is one of the inputs, or is there and must not be replaced.
    OutputError
        If its folder can't be written.
    """
    if path.resolve() in {one.resolve() for one in inputs}:
        raise InputError(f"{path} is read; it must not be replaced by a result")
    from ..volumes.formats.ome_zarr_group import enclosing_zarr

    # a zarr's own folders are made when the result is written
    check_writable_folder(enclosing_zarr(path) or path.parent)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; add --overwrite to replace it")


def check_writable_folder(folder: Path, *, make: bool = False) -> None:
    """Fail now, not after the long run, if nothing can be written into `folder`.

    Parameters
    ----------
    folder
        Where files will be written.
    make
        Make the folder (and those above it) if it is missing.

    Raises
    ------
    OutputError
        If it is missing, not a folder or not writable.
    """
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"can't make the folder {folder}: {error.strerror}") from error
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist; make it first"
        raise OutputError(f"can't write into {folder}: it {what}")
    probe = folder / f".napari-attention3d-{id(folder):x}.tmp"
    try:
        probe.touch(exist_ok=False)
    except OSError as error:
        raise OutputError(
            f"can't write into {folder}: {error.strerror}; choose another folder with -o"
        ) from error
    finally:
        with suppress(OSError):
            probe.unlink()
