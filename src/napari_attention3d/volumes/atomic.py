"""Write a file or a folder completely or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError

__all__ = ["atomic_folder", "atomic_path", "flush_file"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def atomic_path(target: str | Path, *, flush: bool = True) -> Iterator[Path]:
    """Give a temporary path in the target's folder that becomes the target at success.

    Parameters
    ----------
    target
        The file to write. An older file there stays until the new one is complete. If it
        is a symbolic link, the file that it points to is replaced.
    flush
        Whether to wait until the bytes are on the disk, a second where it is busy. Without,
        they outlive this process, but not a computer that loses its power now.

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
        if flush:
            flush_file(temporary)
        os.replace(temporary, real)
    except OSError as error:
        raise OutputError(_explain(target, error)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # gone already after os.replace
                temporary.unlink()


@contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside the target that becomes the target at success.

    Parameters
    ----------
    target
        The folder to write. An older one stays until the new one is complete, then goes
        with all that is in it. If it is a symbolic link, what it points to is replaced.

    Yields
    ------
    Path
        An empty folder with the target's last suffix, for the caller to fill. It is
        removed if the block raises or is interrupted.

    Raises
    ------
    OutputError
        As for `atomic_path`.
    """
    target = Path(target)
    temporary: Path | None = None
    try:
        real = Path(os.path.realpath(target))
        if real.exists() and not real.is_dir():
            raise NotADirectoryError(errno.EEXIST, "a file of that name is there")
        candidate = real.parent / f".na3d-{secrets.token_hex(6)}{real.suffix}"
        candidate.mkdir()
        temporary = candidate
        yield temporary
        _replace_folder(temporary, real)
    except OSError as error:
        raise OutputError(_explain(target, error)) from error
    finally:
        if temporary is not None:
            _remove_folder(temporary)


def _replace_folder(new: Path, target: Path) -> None:
    """Rename; a folder can't be replaced in one step, so the older one is put aside first."""
    if not target.exists():
        os.rename(new, target)
        return
    aside = new.with_name(f"{new.stem}-old{new.suffix}")
    os.rename(target, aside)
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(aside, target)
        raise
    _remove_folder(aside)


def _remove_folder(folder: Path) -> None:
    """Remove all of it, even if a thread that is being stopped still writes a last file."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def _suffixes(path: Path) -> str:
    """Last suffix, or the last two where the format needs both."""
    parts = path.suffixes
    two = "".join(parts[-2:])
    return two if two.lower() in (".nii.gz", ".ome.tif", ".ome.tiff", ".tar.gz") else path.suffix


def flush_file(path: Path) -> None:
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
