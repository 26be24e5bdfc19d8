"""Write a file completely or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError

__all__ = ["atomic_path"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Give a temporary path in the target's folder that becomes the target at success.

    Parameters
    ----------
    target
        The file to write. An older file there stays until the new one is complete. If it
        is a symbolic link, the file that it points to is replaced.

    Yields
    ------
    Path
        An empty file with the target's suffixes (".nii.gz"), for the caller to write.
        It is removed if the block raises or is interrupted.

    Raises
    ------
    OutputError
        If the disk is full, the folder is missing or can't be written to, or the system
        refuses for another reason.
    """
    target = Path(target)
    temporary: Path | None = None
    try:
        real = Path(os.path.realpath(target))
        if real.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # a short name of its own: the target's may already be as long as the system allows
        candidate = real.parent / f".na3d-{secrets.token_hex(6)}{_suffixes(real)}"
        os.close(os.open(candidate, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        temporary = candidate
        yield temporary
        _flush(temporary)
        os.replace(temporary, real)
    except OSError as error:
        raise OutputError(_explain(target, error)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # gone already after os.replace
                temporary.unlink()


def _suffixes(path: Path) -> str:
    """Last suffix, or the last two where the format needs both."""
    parts = path.suffixes
    two = "".join(parts[-2:])
    return two if two.lower() in (".nii.gz", ".ome.tif", ".ome.tiff", ".tar.gz") else path.suffix


def _flush(path: Path) -> None:
    """Make the system write the bytes now, so that a full disk shows before the rename."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _explain(target: Path, error: OSError) -> str:
    folder = target.parent
    start = f"can't write {target}: "
    if error.errno in _FULL:
        return start + "the disk is full; free some space or choose another folder"
    if error.errno in _FORBIDDEN:
        return start + f"no permission to write in {folder}; choose another folder"
    if error.errno == errno.ENOENT:
        return start + f"the folder {folder} does not exist; create it or choose another one"
    if error.errno == errno.ENOTDIR:
        return start + f"{folder} is not a folder; choose another one"
    if error.errno == errno.EISDIR:
        return start + "it is a folder; add a file name"
    if error.errno == errno.ENAMETOOLONG:
        return start + "the name is too long for this disk; choose a shorter one"
    return start + f"{error.strerror or error}; choose another folder"
