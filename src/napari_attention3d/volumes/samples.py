"""Where sample volumes lie: our phantoms, and the MNI152 brain that nilearn carries."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError

__all__ = ["mni152_t1_path", "mni152_tissue_paths", "phantom_paths"]

_PHANTOMS = {
    "mri": "phantom_mri.nii.gz",
    "mri_labels": "phantom_mri_labels.nii.gz",
    "nuclei": "phantom_nuclei.tif",
    "nuclei_labels": "phantom_nuclei_labels.tif",
}


def phantom_paths() -> dict[str, Path]:
    """Find the generated phantoms: "mri", "mri_labels", "nuclei", "nuclei_labels".

    Raises
    ------
    InputError
        If the installation lacks them.
    """
    package = Path(__file__).resolve().parents[1]
    # an installed wheel carries them inside the package; a checkout has them at its top
    for folder in (package / "sample_data", package.parents[1] / "sample_data"):
        found = {key: folder / name for key, name in _PHANTOMS.items()}
        if all(path.is_file() for path in found.values()):
            return found
    raise InputError(
        "the sample volumes are missing from this installation; install napari-attention3d "
        "again, or run sample_data/make_samples.py in a checkout"
    )


def mni152_t1_path() -> Path:
    """Find the real brain scan: the MNI152 T1 template, skull-stripped, 1 mm.

    Raises
    ------
    InputError
        If nilearn, which carries the file, is not installed.
    """
    return _mni152("t1")


def mni152_tissue_paths() -> dict[str, Path]:
    """Find the template's own tissue probability maps: "grey_matter", "white_matter".

    Raises
    ------
    InputError
        If nilearn, which carries the files, is not installed.
    """
    return {"grey_matter": _mni152("gm"), "white_matter": _mni152("wm")}


def _mni152(kind: str) -> Path:
    step = 'install it with: pip install "napari-attention3d[demo]"'
    spec = find_spec("nilearn")  # does not import it: that would take seconds
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places:
        raise InputError(f"the MNI152 brain comes with the nilearn package; {step}")
    name = f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    path = Path(places[0]) / "datasets" / "data" / name
    if not path.is_file():
        raise InputError(f"this version of nilearn does not carry {name}; {step}")
    return path
