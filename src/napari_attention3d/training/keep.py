"""Training cases from memory, kept as files: so a run can go on later, or on another machine."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..progress import Job, Progress
from ..volumes import write_volume
from .cases import CaseSource, aligned_labels, whole_numbers
from .folders import PairFiles, match_pairs

__all__ = ["kept_cases_job"]


def kept_cases_job(cases: Sequence[CaseSource], folder: Path) -> Job[list[PairFiles]]:
    """Write cases into ``folder/images`` and ``folder/labels``, as OME-Zarr.

    What the folder held before is removed.

    Parameters
    ----------
    cases
        Their names become file names.
    folder
        Made if it is missing.

    Returns
    -------
    list of PairFiles
        The same cases, read from the files.

    Raises
    ------
    InputError
        If two have one name, or image and labels of one do not fit together.
    OutputError
        If they can't be written.
    """
    names = [case.name for case in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two training cases are called {twice[0]}; rename a layer")
    images, labels = folder / "images", folder / "labels"
    if folder.exists():
        shutil.rmtree(folder)
    for part in (images, labels):
        part.mkdir(parents=True)
    for number, case in enumerate(cases):
        yield Progress(number, len(cases), f"Keeping a copy of {case.name}")
        image, mask = case.read()
        mask = aligned_labels(case.name, image, mask)
        values = whole_numbers(mask)
        small = values.astype(np.min_scalar_type(int(values.max(initial=0))))
        about = {**mask.metadata, "kind": "labels"}
        file = f"{case.name}.zarr"
        write_volume(images / file, image.replace(name=case.name))
        write_volume(labels / file, mask.replace(array=small, name=case.name, metadata=about))
    return match_pairs(images, labels)
