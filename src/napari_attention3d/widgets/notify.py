"""Errors, said so that the person knows what to do next."""

from __future__ import annotations

import errno
import platform
from importlib.metadata import PackageNotFoundError, version

from ..errors import Attention3DError
from .worker import JobFailure

__all__ = ["notify_failure", "report_text", "summarise"]


def summarise(error: BaseException) -> str:
    """One line: what is wrong and what to do next."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Attention3DError):
        return text
    if _is_out_of_memory(error):
        return (
            "Not enough memory for this run; tick “Only the region in view”, "
            "switch off probabilities, or choose the CPU as device"
        )
    if isinstance(error, RuntimeError) and "CUDA error" in text:
        return (
            f"The GPU stopped answering ({text[:100]}); your layers are unchanged. Choose the CPU "
            "as device, or restart napari to use the GPU again"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full ({text}); free some space or set TMPDIR to a larger disk"
    if isinstance(error, PermissionError):
        return f"{text}; choose a folder and files that you may read and write, then try again"
    if isinstance(error, OSError):
        return f"{text}; check that the file exists and can be read, then try again"
    return (
        f"Unexpected error ({type(error).__name__}: {text[:200]}); your layers are unchanged. "
        "Try again, or press “Copy report” and open an issue"
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """As `inference.memory.is_out_of_memory`, without torch, which the window need not have."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error)
    texts = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(text in said for text in texts)


def notify_failure(failure: JobFailure) -> str:
    """Show a napari notification and return its line."""
    from napari.utils.notifications import show_error

    summary = summarise(failure.error)
    show_error(summary)
    return summary


def report_text(summary: str, details: str = "") -> str:
    """Return what "Copy report" puts on the clipboard: versions, summary, traceback."""
    lines = [summary, ""]
    for name in ("napari-attention3d", "napari", "torch", "numpy", "PyQt6", "PySide6"):
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    lines += [f"Python {platform.python_version()}, {platform.platform()}", "", details]
    return "\n".join(lines).rstrip() + "\n"
