"""Writing OME-Zarr piece by piece: complete or not there, in bounded memory."""

from __future__ import annotations

import json
import pickle
import tracemalloc

import numpy as np
import pytest
import zarr

from napari_attention3d.errors import InputError, OutputError
from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes.formats.ome_zarr_pyramid import halve, level_factors
from napari_attention3d.volumes.formats.ome_zarr_write import default_chunks, streamed

SHAPE = (70, 40, 131)


def grid(shape=SHAPE):
    return Geometry.from_spacing(shape, (2.0, 0.5, 0.25), (10.0, 20.0, -30.0), unit="um")


def begin(path, shape=SHAPE, dtype="uint8", kind="labels", **more):
    return streamed(path, shape, dtype, grid(shape[-3:]), name="mask", kind=kind, **more)


def attributes(path):
    return json.loads((path / "zarr.json").read_text())["attributes"]


def blobs(shape=SHAPE):
    return np.random.default_rng(0).integers(0, 4, shape).astype(np.uint8)


def test_pieces_of_any_size_give_what_one_write_gives(tmp_path):
    voxels = blobs()
    with begin(tmp_path / "whole.zarr") as out:
        out.array[:] = voxels
    with begin(tmp_path / "pieces.zarr", chunks=(16, 32, 32)) as out:
        for z in range(0, 70, 9):
            for x in range(0, 131, 50):
                out.array[z : z + 9, :, x : x + 50] = voxels[z : z + 9, :, x : x + 50]
    for level in range(len(level_factors(SHAPE))):
        whole, pieces = (
            zarr.open_array(tmp_path / n / str(level)) for n in ("whole.zarr", "pieces.zarr")
        )
        np.testing.assert_array_equal(whole[:], pieces[:])
    np.testing.assert_array_equal(pieces_of(tmp_path / "pieces.zarr"), voxels)


def pieces_of(path):
    return zarr.open_group(path, mode="r")["0"][:]


def test_levels_lie_on_one_another(tmp_path):
    with begin(tmp_path / "m.zarr", dtype="float32", kind="image") as out:
        out.array[:] = 1
    (image,) = attributes(tmp_path / "m.zarr")["ome"]["multiscales"]
    edges = []
    for level, entry in enumerate(image["datasets"]):
        scale, shift = entry["coordinateTransformations"]
        shape = zarr.open_array(tmp_path / "m.zarr" / str(level)).shape
        assert all(n <= 64 for n in shape) or level < len(image["datasets"]) - 1
        edges.append(np.array(shift["translation"]) - np.array(scale["scale"]) / 2)
    assert len(edges) == 3
    np.testing.assert_allclose(edges, [edges[0]] * len(edges))
    assert [a["unit"] for a in image["axes"]] == ["micrometer"] * 3


def test_the_array_goes_to_another_process_and_back(tmp_path):
    with begin(tmp_path / "m.zarr") as out:
        pickle.loads(pickle.dumps(out.array))[:64] = 2
        zarr.open_array(out.path, mode="r+")[64:] = 3
        assert out.chunks == default_chunks(SHAPE) == (64, 40, 128)
    voxels = pieces_of(tmp_path / "m.zarr")
    assert (voxels[:64] == 2).all()
    assert (voxels[64:] == 3).all()


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("when", ["writing", "coarser", "late"])
def test_whatever_stops_it_the_old_one_stays_and_nothing_else(tmp_path, fault, when):
    with begin(tmp_path / "m.zarr") as out:
        out.array[:] = 7

    def stopped():
        with begin(tmp_path / "m.zarr") as out:
            out.array[:64] = 1
            if when == "writing":
                raise fault
            for done, total in out.coarser():
                if when == "coarser" and done < total:
                    raise fault
            raise fault

    with pytest.raises(fault):
        stopped()
    assert [p.name for p in tmp_path.iterdir()] == ["m.zarr"]
    assert (pieces_of(tmp_path / "m.zarr") == 7).all()


def test_what_is_known_last_can_be_told_last(tmp_path):
    with begin(
        tmp_path / "m.zarr", metadata={"nifti": {"version": 1}, "notes": ["not kept"]}
    ) as out:
        out.metadata["provenance"] = {"seconds": 3}
        out.metadata["classes"] = [
            {"name": "background", "colour": "#000000"},
            {"name": "nucleus", "colour": "#ff8000"},
        ]
    found = attributes(tmp_path / "m.zarr")
    ours = found["napari-attention3d"]
    assert ours["provenance"] == {"seconds": 3}
    assert ours["nifti"] == {"version": 1}
    assert "notes" not in ours
    label = found["ome"]["image-label"]
    assert label["colors"][1] == {"label-value": 1, "rgba": [255, 128, 0, 255]}
    assert label["properties"][1] == {"label-value": 1, "name": "nucleus"}


def test_provenance_that_is_no_json_is_refused_and_nothing_stays(tmp_path):
    with pytest.raises(InputError, match="JSON"), begin(tmp_path / "m.zarr") as out:
        out.metadata["provenance"] = {"network": object()}
    assert list(tmp_path.iterdir()) == []


def test_channels_and_their_brightness(tmp_path):
    with begin(
        tmp_path / "p.zarr", (2, *SHAPE), "float32", "image", channel_names=("a", "b")
    ) as out:
        assert out.array.chunks[0] == 1
        ramp = np.linspace(0, 1, SHAPE[2], dtype=np.float32)
        out.array[0] = np.broadcast_to(ramp, SHAPE)
        out.array[1] = np.nan
    ome = attributes(tmp_path / "p.zarr")["ome"]
    assert [c["label"] for c in ome["omero"]["channels"]] == ["a", "b"]
    first, second = (c["window"] for c in ome["omero"]["channels"])
    assert 0 <= first["start"] < 0.05
    assert 0.95 < first["end"] <= 1
    assert (second["start"], second["end"]) == (0.0, 1.0)
    assert [a["name"] for a in ome["multiscales"][0]["axes"]] == ["c", "z", "y", "x"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"shape": (2, *SHAPE)}, "labels are whole numbers"),
        ({"dtype": "float32"}, "labels are whole numbers"),
        ({"dtype": "complex64"}, "complex"),
        ({"kind": "mask"}, "neither"),
        ({"chunks": (1, 2)}, "three sizes"),
        ({"channel_names": ("a", "b")}, "2 channel names for 1"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, more, words):
    with pytest.raises(InputError, match=words), begin(tmp_path / "m.zarr", **more):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_shape_that_is_not_the_grids(tmp_path):
    with (
        pytest.raises(InputError, match="grid"),
        streamed(tmp_path / "m.zarr", (1, 2, 3), "uint8", grid(), name="m", kind="image"),
    ):
        pass


def test_other_peoples_folders_and_files_are_not_replaced(tmp_path):
    mine = tmp_path / "thesis.zarr"
    mine.mkdir()
    (mine / "chapter.txt").write_text("x")
    with pytest.raises(OutputError, match="other things"), begin(mine):
        pass
    (tmp_path / "f.zarr").write_text("x")
    with pytest.raises(OutputError, match="a file of that name"), begin(tmp_path / "f.zarr"):
        pass
    with pytest.raises(OutputError, match="does not exist"), begin(tmp_path / "none" / "m.zarr"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.zarr", "thesis.zarr"]
    assert (mine / "chapter.txt").read_text() == "x"


def test_memory_does_not_grow_with_the_volume(tmp_path):
    def peak(depth):
        shape = (depth, 128, 128)
        with begin(
            tmp_path / f"{depth}.zarr", shape, "uint16", "image", chunks=(32, 64, 64)
        ) as out:
            tracemalloc.start()
            for z in range(0, depth, 32):
                out.array[z : z + 32] = np.full((32, 128, 128), z + 1, np.uint16)
            out.finish()
            highest = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return highest

    peak(32)  # what zarr loads once
    small, large = peak(128), peak(1024)  # 4 and 32 MiB
    assert large < 1.3 * small


@pytest.mark.parametrize("shape", [(1, 1, 1), (64, 64, 64), (65, 64, 300), (9000, 3, 70)])
def test_level_factors_end_at_64(shape):
    factors = level_factors(shape)
    assert factors[0] == (1, 1, 1)
    last = [-(-n // f) for n, f in zip(shape, factors[-1], strict=True)]
    assert max(last) <= 64
    assert all(f == 1 for n, f in zip(shape, factors[-1], strict=True) if n <= 64)


def test_halving_means_and_modes():
    block = np.array([[[0, 2], [4, 6]], [[0, 2], [4, 7]]], np.uint8)
    assert halve(block, (True, True, True), labels=False) == 3
    assert halve(block, (True, False, False), labels=False)[0, 1, 1] == 6  # 6.5 to even
    odd = np.array([1.0, 3.0, 10.0], np.float32).reshape(1, 1, 3)
    np.testing.assert_array_equal(halve(odd, (False, False, True), labels=False)[0, 0], [2, 10])


@pytest.mark.parametrize("labels", [(0, 3, 200, 60_000), (0, 1), (0, 60_000), (0, 0), (3, 7)])
def test_coarser_labels_are_the_most_frequent_and_never_invented(labels):
    rng = np.random.default_rng(1)
    fine = rng.choice(np.array(labels, np.uint16), (6, 7, 8))
    coarse = halve(fine, (True, True, True), labels=True)
    assert coarse.dtype == fine.dtype
    assert coarse.shape == (3, 4, 4)
    padded = np.pad(fine, [(0, 0), (0, 1), (0, 0)], mode="edge")
    for z, y, x in np.ndindex(coarse.shape):
        cell = padded[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        values, counts = np.unique(cell, return_counts=True)
        chosen = coarse[z, y, x]
        assert counts[values == chosen] == counts.max()
        if chosen == 0:  # background wins only alone
            assert (counts == counts.max()).sum() == 1
