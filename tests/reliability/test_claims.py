"""Headers that claim 10^12 voxels, under a limit of 6 GB of address space: refused.

Each file of a kind is a small sound one whose header alone is changed.
"""

from __future__ import annotations

import gzip
import importlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
EDGE = 10_000
"""Of a cube of 10^12 voxels."""
LIMIT = 6 * 10**9

READ = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
import numpy as np
from napari_attention3d.errors import Attention3DError
from napari_attention3d.models import load_model
from napari_attention3d.volumes import read_volume

found = {{}}
for path in sys.argv[1:]:
    try:
        if path.endswith("safetensors"):
            load_model(path)
        else:
            np.asarray(read_volume(path).array)
        found[path] = ["read", ""]
    except Attention3DError as error:
        found[path] = ["refused", str(error)]
    except BaseException as error:
        found[path] = ["failed", repr(error)]
    print(json.dumps(found), flush=True)
print(json.dumps(found))
"""


def patched(path: Path, place: int, values: bytes) -> None:
    data = path.read_bytes()
    packed = data[:2] == b"\x1f\x8b"
    raw = bytearray(gzip.decompress(data) if packed else data)
    raw[place : place + len(values)] = values
    path.write_bytes(gzip.compress(bytes(raw)) if packed else bytes(raw))


def nifti1(path: Path) -> None:
    patched(path, 40, struct.pack("<4h", 3, EDGE, EDGE, EDGE))


def nifti2(path: Path) -> None:
    patched(path, 16, struct.pack("<4q", 3, EDGE, EDGE, EDGE))


def mgh(path: Path) -> None:
    patched(path, 4, struct.pack(">3i", EDGE, EDGE, EDGE))


def tiff(path: Path) -> None:
    """The first page is a million voxels wide and high; what its text says of shapes, too."""
    import tifffile

    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages[0].tags
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tags[name].overwrite(10**6)
        text = str(tags["ImageDescription"].value) if "ImageDescription" in tags else ""
        for old, new in (('SizeX="11"', 'SizeX="1000000"'), ('SizeY="10"', 'SizeY="1000000"')):
            text = text.replace(old, new)
        text = text.replace("[7, 10, 11]", "[1, 1000000, 1000000]")
        if text:
            tags["ImageDescription"].overwrite(text.encode())


def in_text(old: bytes, new: bytes):
    def change(path: Path) -> None:
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new, 1))

    return change


def dicom(path: Path) -> None:
    """As many rows and columns as can be said, in a million frames."""
    import pydicom

    data = pydicom.dcmread(path)
    data.Rows = data.Columns = 65535
    data.NumberOfFrames = 1000
    data.save_as(path)


def zarr(path: Path) -> None:
    (described,) = path.glob("*/.zarray") if path.name == "old.zarr" else path.glob("*/zarr.json")
    tree = json.loads(described.read_text())
    tree["shape"] = [EDGE] * len(tree["shape"][-3:])
    if "chunks" in tree:
        tree["chunks"] = tree["shape"]
    else:
        tree["chunk_grid"]["configuration"]["chunk_shape"] = tree["shape"]
    described.write_text(json.dumps(tree))


def safetensors(path: Path) -> None:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    tree = json.loads(data[8 : 8 + length])
    name = next(key for key in tree if key != "__metadata__")
    tree[name]["shape"] = [EDGE] * 3
    header = json.dumps(tree).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


CLAIMS = {
    "one.nii": nifti1, "one.nii.gz": nifti1, "two.nii": nifti2, "free.mgh": mgh, "free.mgz": mgh,
    "plain.tif": tiff, "packed.tif": tiff, "imagej.tif": tiff, "ours.tif": tiff,
    "ours.ome.tif": tiff,
    "one.nrrd": in_text(b"sizes: 11 10 7", b"sizes: 10000 10000 10000"),
    "packed.nrrd": in_text(b"sizes: 11 10 7", b"sizes: 10000 10000 10000"),
    "one.mha": in_text(b"DimSize = 11 10 7", b"DimSize = 10000 10000 10000"),
    "packed.mha": in_text(b"DimSize = 11 10 7", b"DimSize = 10000 10000 10000"),
    "slice.dcm": dicom, "old.zarr": zarr, "new.zarr": zarr, "tiny.safetensors": safetensors,
}  # fmt: skip
"""Files and how their headers are made to claim so much."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of each, all in one process under the limit."""
    folder = tmp_path_factory.mktemp("claims") / "seeds"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        importlib.import_module("_fuzz_seeds").make_seeds(folder)
        sys.modules.pop("_fuzz_seeds")
    for name, claim in CLAIMS.items():
        claim(folder / name)
    names = [str(folder / name) for name in CLAIMS]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ.format(limit=LIMIT), *names],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert run.stdout, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    return {Path(name).name: what for name, what in found.items()}


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux alone")
@pytest.mark.parametrize("name", CLAIMS)
def test_a_header_that_claims_a_million_million_voxels_takes_no_memory(outcomes, name):
    assert name in outcomes, "the process died at it, or before"
    outcome, words = outcomes[name]
    assert outcome == "refused", words
    assert "\n" not in words
