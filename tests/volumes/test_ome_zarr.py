"""OME-Zarr: what others write is understood, what we write others understand."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from itertools import permutations

import dask.array
import numpy as np
import ome_zarr_models.v05
import pytest
import zarr

from napari_attention3d.errors import InputError, OutputError, VolumeFormatError
from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes import Volume, formats, read_volume, write_volume
from napari_attention3d.volumes.formats.ome_zarr import coarser_levels, label_groups

SIZES = {"t": 3, "c": 2, "z": 5, "y": 6, "x": 7}
TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
VERSIONS = ("0.4", "0.5")


def axes_of(letters, unit="micrometer"):
    return [
        {"name": a, "type": TYPES[a], **({"unit": unit} if a in "zyx" and unit else {})}
        for a in letters
    ]


def voxels(letters="zyx", dtype=np.uint16):
    shape = [SIZES[a] for a in letters]
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


def foreign(path, array, version="0.5", letters="zyx", *, image=None, axes=None, **ome):
    """Write an image with zarr alone, as other tools do."""
    size = [{"z": 2.0, "y": 0.5, "x": 0.25}.get(a, 1.0) for a in letters]
    description = {
        "axes": axes_of(letters) if axes is None else axes,
        "datasets": [
            {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": size}]}
        ],
        **(image or {}),
    }
    if version == "0.4":
        entry = {"multiscales": [{"version": "0.4", **description}], **ome}
    else:
        entry = {"ome": {"version": "0.5", "multiscales": [description], **ome}}
    kind = 2 if version == "0.4" else 3
    group = zarr.open_group(path, mode="a", zarr_format=kind, attributes=entry)
    if array is not None:
        group.create_array("s0", data=array, chunks=tuple(min(4, n) for n in array.shape))
    return path


# ---- what others write


@pytest.mark.parametrize("version", VERSIONS)
def test_a_foreign_image(tmp_path, version):
    array = voxels("czyx", np.dtype(">u2") if version == "0.4" else np.uint16)
    channels = [{"label": "DAPI"}, {"label": "GFP"}]
    path = foreign(tmp_path / "a.zarr", array, version, "czyx", omero={"channels": channels})
    volume = read_volume(path)
    assert isinstance(volume.array, dask.array.Array)
    assert volume.dtype == np.uint16
    assert volume.dtype.isnative
    np.testing.assert_array_equal(np.asarray(volume.array), array)
    np.testing.assert_array_equal(read_volume(path, lazy=False).array, array)
    assert volume.geometry.is_close(Geometry.from_spacing((5, 6, 7), (2, 0.5, 0.25), unit="um"))
    assert volume.channel_names == ("DAPI", "GFP")
    assert volume.metadata["format"] == f"OME-Zarr {version}"
    assert volume.name == "a"
    one = read_volume(path, channel=1)
    np.testing.assert_array_equal(np.asarray(one.array), array[1])
    assert one.channel_names == ("GFP",)
    with pytest.raises(InputError, match="no channel 2"):
        read_volume(path, channel=2)


@pytest.mark.parametrize("letters", ["".join(p) for p in permutations("czyx")])
def test_axes_in_any_order(tmp_path, letters):
    array = voxels(letters)
    volume = read_volume(foreign(tmp_path / "a.zarr", array, letters=letters))
    expected = array.transpose([letters.index(a) for a in "czyx"])
    np.testing.assert_array_equal(np.asarray(volume.array), expected)
    assert volume.geometry.spacing == (2, 0.5, 0.25)
    for part in (np.s_[1, 4:1:-2, ::-1, 3], np.s_[:, 2:2], np.s_[..., 1:6:3, -1]):
        np.testing.assert_array_equal(np.asarray(volume.array[part]), expected[part])


def test_a_series_in_time(tmp_path):
    array = voxels("tczyx")
    path = foreign(tmp_path / "a.zarr", array, letters="tczyx")
    with pytest.raises(InputError, match="3 time points"):
        read_volume(path)
    chosen = read_volume(path, time=2, channel=1)
    np.testing.assert_array_equal(np.asarray(chosen.array), array[2, 1])
    with pytest.raises(InputError, match="no time point 3"):
        read_volume(path, time=3)


@pytest.mark.parametrize(
    ("unit", "ours", "factor"),
    [
        ("micrometer", "um", 1),
        ("nanometer", "um", 1e-3),
        ("millimeter", "mm", 1),
        ("meter", "mm", 1e3),
        (None, "pixel", 1),
        ("parsec", "pixel", 1),
    ],
)
def test_units(tmp_path, unit, ours, factor):
    path = foreign(tmp_path / "a.zarr", voxels(), axes=axes_of("zyx", unit))
    volume = read_volume(path)
    assert volume.geometry.unit == ours
    np.testing.assert_allclose(volume.geometry.spacing, np.array([2, 0.5, 0.25]) * factor)
    assert bool(volume.notes) == (ours == "pixel")


def test_units_that_differ_meet_in_millimetres(tmp_path):
    axes = axes_of("zyx", "micrometer")
    axes[0]["unit"] = "millimeter"
    volume = read_volume(foreign(tmp_path / "a.zarr", voxels(), axes=axes))
    assert volume.geometry.unit == "mm"
    np.testing.assert_allclose(volume.geometry.spacing, (2, 0.5e-3, 0.25e-3))


def test_transformations_of_the_level_and_of_the_whole(tmp_path):
    def step(kind, *values):
        return {"type": kind, kind: list(values)}

    image = {
        "datasets": [
            {
                "path": "s0",
                "coordinateTransformations": [step("scale", 2, 3, 4), step("translation", 1, 1, 1)],
            }
        ],
        "coordinateTransformations": [step("scale", 10, 1, 0.5), step("translation", 0, -5, 0)],
    }
    volume = read_volume(foreign(tmp_path / "a.zarr", voxels(), image=image))
    assert volume.geometry.spacing == (20, 3, 2)
    assert volume.geometry.origin == (10, -4, 0.5)


def test_sizes_that_are_not_told(tmp_path):
    image = {"datasets": [{"path": "s0"}]}
    volume = read_volume(foreign(tmp_path / "a.zarr", voxels(), image=image))
    assert volume.geometry.spacing == (1, 1, 1)
    assert any("no voxel size" in note for note in volume.notes)


@pytest.mark.parametrize("version", VERSIONS)
def test_label_groups_inside_an_image(tmp_path, version):
    path = foreign(tmp_path / "cells.ome.zarr", voxels(), version)
    kind = 2 if version == "0.4" else 3
    listed = {"labels": ["nuclei", "../../x"]}
    zarr.open_group(
        path / "labels",
        mode="w",
        zarr_format=kind,
        attributes=listed if version == "0.4" else {"ome": {"version": "0.5", **listed}},
    )
    label = {
        "colors": [{"label-value": 1, "rgba": [255, 0, 0, 255]}],
        "properties": [{"label-value": 1, "name": "nucleus"}],
    }
    mask = voxels() > 50  # stored as bits by some
    foreign(path / "labels" / "nuclei", mask, version, **{"image-label": label})
    assert label_groups(path) == [path / "labels" / "nuclei"]
    for inner in (path / "labels" / "nuclei", path / "labels"):
        volume = read_volume(inner)
        assert volume.metadata["kind"] == "labels"
        assert volume.dtype == np.uint8
        np.testing.assert_array_equal(np.asarray(volume.array), mask)
        assert volume.metadata["classes"] == [
            {"name": "background", "colour": "#000000"},
            {"name": "nucleus", "colour": "#ff0000"},
        ]
    assert volume.name == "cells labels"
    assert read_volume(path).metadata.get("kind") is None


def test_the_only_image_inside_is_read_and_of_several_one_must_be_chosen(tmp_path):
    root = tmp_path / "converted.zarr"
    zarr.open_group(root, mode="w", attributes={"ome": {"bioformats2raw.layout": 3}})
    foreign(root / "0", voxels())
    volume = read_volume(root)
    assert any("image 0 inside" in note for note in volume.notes)
    foreign(root / "1", voxels())
    with pytest.raises(InputError, match=r"2 images; choose one, such as converted.zarr/0"):
        read_volume(root)
    assert read_volume(root / "1").name == "converted 1"


def test_coarser_levels_are_lazy_and_skip_what_is_broken(tmp_path):
    levels = [{"path": p} for p in ("s0", "s1", "gone", "s1", "s2")]
    path = foreign(tmp_path / "a.zarr", voxels("xczy"), letters="xczy", image={"datasets": levels})
    group = zarr.open_group(path)
    group.create_array("s1", data=voxels("xczy")[::2, :, ::2, ::2])
    group.create_array("s2", data=voxels("xczy")[:2, :1, :2, :2])  # lost a channel
    (level,) = coarser_levels(path)
    np.testing.assert_array_equal(
        np.asarray(level), voxels("xczy")[::2, :, ::2, ::2].transpose(1, 2, 3, 0)
    )


# ---- what nobody should write


def dataset(path="s0", *steps):
    return {"datasets": [{"path": path, "coordinateTransformations": list(steps)}]}


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (dataset("../outside"), "leaves its folder"),
        (dataset("a/../../outside"), "leaves its folder"),
        (dataset("/etc"), "leaves its folder"),
        (dataset("C:\\x"), "leaves its folder"),
        (dataset(""), "leaves its folder"),
        (dataset(7), "leaves its folder"),
        (dataset("s9"), "array s9 is missing"),
        ({"datasets": []}, "no arrays"),
        ({"datasets": ["s0"]}, "description is damaged"),
        ({"axes": ["z", "y", "x"]}, "newer tool"),
        ({"axes": None}, "newer tool"),
        ({"axes": axes_of("czyx"), "datasets": [{"path": "s0"}]}, "3 axes, its .* names 4"),
        ({"axes": axes_of("yx")}, "2D picture"),
        ({"axes": axes_of("zyy")}, "once each"),
        ({"axes": [*axes_of("zy"), {"name": "lambda"}]}, "once each"),
        (dataset("s0", {"type": "scale", "scale": [1, 2]}), "3 numbers"),
        (dataset("s0", {"type": "scale", "scale": [1, 0, 1]}), "no voxel size"),
        (dataset("s0", {"type": "scale", "scale": [1, "2", 1]}), "3 numbers"),
        (dataset("s0", {"type": "scale", "scale": [1, 1e999, 1]}), "no voxel size"),
        (dataset("s0", {"type": "affine", "affine": []}), "'affine'"),
        (dataset("s0", {"type": "scale", "path": "scales"}), "can't be read"),
        ({"datasets": [{"path": "s0", "coordinateTransformations": 3}]}, "damaged"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_descriptions_that_are_wrong(tmp_path, image, words, version):
    path = foreign(tmp_path / "odd.zarr", voxels(), version, image=image)
    with pytest.raises(InputError, match=words) as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)
    assert "odd.zarr" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"zarr_format": 3', "\xff", "[" * 9999])
@pytest.mark.parametrize("name", ["zarr.json", ".zattrs"])
def test_json_that_is_damaged(tmp_path, text, name):
    folder = tmp_path / "odd.zarr"
    folder.mkdir()
    (folder / name).write_text(text, encoding="latin-1")
    with pytest.raises(VolumeFormatError, match=r"odd.zarr.*damaged"):
        read_volume(folder)


@pytest.mark.parametrize("version", VERSIONS)
def test_damage_in_an_array(tmp_path, version):
    path = foreign(tmp_path / "odd.zarr", voxels(), version)
    (mark,) = [p for p in (path / "s0").iterdir() if p.name in ("zarr.json", ".zarray")]
    chunk = next(p for p in (path / "s0").rglob("*") if p.is_file() and p.name[-1].isdigit())
    chunk.write_bytes(chunk.read_bytes()[:-5])
    for read in (lambda: read_volume(path, lazy=False), lambda: read_volume(path).array.compute()):
        with pytest.raises(VolumeFormatError, match="chunk is damaged"):
            read()
    mark.write_text(mark.read_text()[:-20])
    with pytest.raises(VolumeFormatError, match=r"odd.zarr"):
        read_volume(path)


@pytest.mark.parametrize("packed", ["blosc", "zstd", "gzip", "none"])
@pytest.mark.parametrize("shards", [None, (8, 8, 8)])
def test_a_chunk_cut_anywhere_is_never_read_as_other_voxels(tmp_path, packed, shards):
    from zarr import codecs

    path = foreign(tmp_path / "odd.zarr", None)
    codec = {"blosc": codecs.BloscCodec, "zstd": codecs.ZstdCodec, "gzip": codecs.GzipCodec}
    how = codec[packed]() if packed in codec else None
    group = zarr.open_group(path)
    group.create_array("s0", data=voxels(), chunks=(4, 4, 4), shards=shards, compressors=how)
    chunk = path / "s0" / "c" / "0" / "0" / "0"
    raw = chunk.read_bytes()
    for keep in range(0, len(raw), 7):
        chunk.write_bytes(raw[:keep])
        with pytest.raises(VolumeFormatError, match=r"odd.zarr"):
            np.asarray(read_volume(path).array)


def test_folders_that_are_no_images(tmp_path):
    folder = tmp_path / "a.zarr"
    with pytest.raises(VolumeFormatError, match="does not exist"):
        read_volume(folder)
    folder.mkdir()
    with pytest.raises(VolumeFormatError, match="no group"):
        read_volume(folder)
    zarr.open_group(folder, mode="w")
    with pytest.raises(VolumeFormatError, match="multiscales"):
        read_volume(folder)
    zarr.save_array(tmp_path / "array.zarr", voxels())
    with pytest.raises(VolumeFormatError, match="no group"):
        read_volume(tmp_path / "array.zarr")
    zarr.open_group(tmp_path / "p.zarr", mode="w", attributes={"ome": {"plate": {}}})
    with pytest.raises(InputError, match="plate"):
        read_volume(tmp_path / "p.zarr")
    (tmp_path / "file.zarr").write_text("x")
    with pytest.raises(VolumeFormatError, match="a folder is expected"):
        read_volume(tmp_path / "file.zarr")
    plain = tmp_path / "plain"
    plain.mkdir()
    assert not formats.can_read(plain)
    assert formats.can_read(tmp_path / "A.OME.ZARR")


@pytest.mark.parametrize("dtype", ["complex64", "<U3"])
def test_voxels_that_are_no_numbers(tmp_path, dtype):
    path = foreign(tmp_path / "a.zarr", voxels().astype(dtype))
    with pytest.raises(InputError, match="are needed"):
        read_volume(path)


def change(path, **entries):
    mark = path / "s0" / "zarr.json"
    mark = mark if mark.exists() else path / "s0" / ".zarray"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), **entries}))


def test_very_many_chunks_are_read_a_few_at_once(tmp_path):
    path = foreign(tmp_path / "a.zarr", voxels(), "0.4")
    change(path, shape=[400, 400, 400])  # a million chunks, all but eight of them zeros
    array = read_volume(path).array
    assert array.npartitions <= 1 << 14
    assert array.nbytes / array.npartitions < 1 << 16
    assert not np.asarray(array[:4, 399, :2]).any()
    np.testing.assert_array_equal(np.asarray(array[:4, :4, :4]), voxels()[:4, :4, :4])


def test_absurd_shapes_take_no_memory(tmp_path):
    path = foreign(tmp_path / "a.zarr", voxels(), "0.4")
    change(path, shape=[10**9, 10**6, 10**6])
    with pytest.raises(VolumeFormatError, match="larger chunks"):
        read_volume(path)
    with pytest.raises(VolumeFormatError, match="bytes of memory are free"):
        read_volume(path, lazy=False)
    change(path, chunks=[10**4, 10**4, 10**4])
    with pytest.raises(VolumeFormatError, match="chunks of a few megabytes"):
        read_volume(path)
    change(path, shape=[4, 4, 4])
    with pytest.raises(VolumeFormatError, match="chunks of a few megabytes"):
        read_volume(path)
    change(path, shape=[4000, 4000, 4000], chunks=[4, 4, 4])
    for chunk in (path / "s0").iterdir():
        if chunk.name != ".zarray":
            chunk.unlink()
    with pytest.raises(VolumeFormatError, match="none of its chunks"):
        read_volume(path)
    change(path, shape=[0, 4, 4])
    with pytest.raises(InputError, match="empty"):
        read_volume(path)


class Payload:
    def __reduce__(self):
        return print, ("run!",)


def test_voxels_that_would_run_a_program_are_refused(tmp_path, capsys):
    path = foreign(tmp_path / "a.zarr", voxels(), "0.4")
    change(path, filters=[{"id": "pickle", "protocol": 5}], compressor=None)
    for chunk in (path / "s0").iterdir():
        if chunk.name != ".zarray":
            chunk.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(VolumeFormatError, match="could run a program"):
        np.asarray(read_volume(path).array)
    assert "run!" not in capsys.readouterr().out


# ---- what we write


def oblique():
    angle = np.radians(20)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([3.0, 0.7, 0.8])
    affine[:3, 3] = (-100, 20, 30)
    return affine


def scan(**more):
    array = np.random.default_rng(1).normal(size=(70, 9, 10)).astype(np.float32)
    return Volume.from_array(array, affine=oblique(), anatomical=True, **more)


def test_an_oblique_anisotropic_scan_comes_back_whole(tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", scan(metadata={"provenance": {"seed": 1}}))
    again = read_volume(path)
    np.testing.assert_array_equal(np.asarray(again.array), scan().array)
    np.testing.assert_allclose(again.geometry.affine, oblique())
    assert again.geometry.anatomical
    assert again.metadata["provenance"] == {"seed": 1}
    assert again.notes == []
    assert [p.name for p in tmp_path.iterdir()] == ["a.ome.zarr"]


def test_other_tools_find_size_position_and_levels(tmp_path):
    path = write_volume(tmp_path / "a.zarr", scan(channel_names=("T1",)))
    image = ome_zarr_models.v05.Image.from_zarr(zarr.open_group(path, mode="r"))
    (multiscale,) = image.attributes.ome.multiscales
    assert [a.unit for a in multiscale.axes] == ["millimeter"] * 3
    first, second = multiscale.datasets
    scale, shift = first.coordinateTransformations
    np.testing.assert_allclose(scale.scale, (3, 0.7, 0.8))
    np.testing.assert_allclose(shift.translation, (-100, 20, 30))
    np.testing.assert_allclose(second.coordinateTransformations[0].scale, (6, 0.7, 0.8))
    assert image.attributes.ome.omero["channels"][0]["label"] == "T1"
    group = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group["0"][:], scan().array)
    mean = (scan().array[::2] + scan().array[1::2]) / 2
    np.testing.assert_allclose(group["1"][:], mean, rtol=1e-6)
    assert group["0"].metadata.dimension_names == ("z", "y", "x")


def test_labels_keep_classes_and_colours_and_are_stored_small(tmp_path):
    classes = [
        {"name": "background", "colour": "#000000"},
        {"name": "liver", "colour": "#ff8000"},
    ]
    array = np.random.default_rng(2).integers(0, 2, (4, 80, 6))
    labels = Volume.from_array(array, metadata={"kind": "labels", "classes": classes})
    path = write_volume(tmp_path / "a.zarr", labels)
    model = ome_zarr_models.v05.ImageLabel.from_zarr(zarr.open_group(path, mode="r"))
    about = model.attributes.ome.image_label
    assert about.colors[1].rgba == (255, 128, 0, 255)
    assert about.properties[1].name == "liver"
    again = read_volume(path)
    assert again.metadata["kind"] == "labels"
    assert again.metadata["classes"] == classes
    assert again.dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(again.array), array)
    assert set(np.unique(coarser_levels(path)[-1].compute())) <= {0, 1}


def test_a_position_that_others_changed_is_believed(tmp_path):
    path = write_volume(tmp_path / "a.zarr", scan())
    mark = path / "zarr.json"
    node = json.loads(mark.read_text())
    steps = node["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    steps[1]["translation"] = [0, 0, 0]
    mark.write_text(json.dumps(node))
    changed = read_volume(path)
    np.testing.assert_allclose(changed.geometry.affine, np.diag([3, 0.7, 0.8, 1]))
    assert any("was changed" in note for note in changed.notes)


def test_label_maps_are_added_to_an_image(tmp_path):
    path = write_volume(tmp_path / "a.zarr", scan())
    mask = scan(metadata={"kind": "labels"}).replace(array=(scan().array > 0).astype(np.uint8))
    for name in ("one", "two", "one"):
        write_volume(path / "labels" / name, mask)
    group = ome_zarr_models.v05.Image.from_zarr(zarr.open_group(path, mode="r"))
    assert sorted(group.labels.attributes.ome.labels) == ["one", "two"]
    assert sorted(p.name for p in label_groups(path)) == ["one", "two"]
    again = read_volume(path / "labels" / "one")
    assert again.geometry.is_close(scan().geometry)
    assert again.metadata["kind"] == "labels"
    np.testing.assert_array_equal(np.asarray(again.array), mask.array)
    np.testing.assert_array_equal(np.asarray(read_volume(path).array), scan().array)


def test_only_label_maps_and_only_whole_ones_are_added(tmp_path):
    path = write_volume(tmp_path / "a.zarr", scan())
    before = sorted(p.name for p in path.iterdir())
    for inner in ("labels/x", "x", "0/labels/x"):
        with pytest.raises(OutputError, match="only label maps"):
            write_volume(path / inner, scan())
    broken = scan(metadata={"kind": "labels"}).replace(
        array=dask.array.from_array((scan().array > 0).astype(np.uint8)).map_blocks(
            lambda block: block / np.zeros(2), dtype=np.uint8
        )
    )
    with pytest.raises(ValueError, match="broadcast"):
        write_volume(path / "labels" / "x", broken)
    assert sorted(p.name for p in path.iterdir()) == before


@pytest.mark.parametrize(
    "entry",
    [
        {"classes": [{"name": "liver", "colour": "red"}]},
        {"classes": 3},
        {"classes": [None]},
        {"channel_names": 7},
        {"channel_names": [1]},
        {"kind": []},
        {"provenance": "x"},
        {"nifti": 5},
        {"geometry": {"shape": [1]}},
    ],
)
def test_entries_of_ours_that_we_would_not_write_are_left_out(tmp_path, entry):
    path = write_volume(tmp_path / "a.zarr", Volume.from_array(voxels("czyx"), spacing=(3, 2, 1)))
    node = json.loads((path / "zarr.json").read_text())
    node["attributes"]["napari-attention3d"] |= entry
    (path / "zarr.json").write_text(json.dumps(node))
    volume = read_volume(path)
    assert not set(entry) & set(volume.metadata)
    assert len(node["attributes"]["ome"]["omero"]["channels"]) == 2
    assert volume.channel_names == ()
    assert volume.geometry.spacing == (3, 2, 1)


@pytest.mark.parametrize("make", [np.asarray, dask.array.from_array], ids=["numpy", "dask"])
@pytest.mark.parametrize(
    ("array", "kind", "stored"),
    [
        (np.array([0, 1, 300]), "labels", "uint16"),
        (np.array([-1, 0, 5]), "labels", "int8"),
        (np.array([0.0, 1.0, 2.0]), "labels", "uint8"),
        (np.array([True, False, True]), None, "uint8"),
        (np.array([1, 2, 70_000]), "image", "uint32"),
        (np.array([1, 2, 3], ">i2"), "image", "int16"),
        (np.array([1, 2, 3], "float16"), "image", "float32"),
        (np.array([1, 2, 3], "float64"), "image", "float64"),
    ],
)
def test_types_that_are_stored(tmp_path, make, array, kind, stored):
    volume = Volume.from_array(make(array.reshape(1, 1, 3)), metadata={"kind": kind})
    again = read_volume(write_volume(tmp_path / "a.zarr", volume))
    assert again.dtype == stored
    np.testing.assert_array_equal(np.asarray(again.array).ravel(), array)


def test_labels_that_are_no_whole_numbers(tmp_path):
    volume = Volume.from_array(np.full((2, 2, 2), 0.5), metadata={"kind": "labels"})
    with pytest.raises(InputError, match="whole numbers"):
        write_volume(tmp_path / "a.zarr", volume)
    assert list(tmp_path.iterdir()) == []


def test_a_lazy_scan_is_copied_in_pieces_even_over_itself(tmp_path):
    taken = []

    class Source:
        shape, ndim, dtype = (300, 64, 64), 3, np.dtype(np.uint8)

        def __getitem__(self, box):
            taken.append(np.prod([len(range(n)[b]) for n, b in zip(self.shape, box, strict=True)]))
            z = np.arange(self.shape[0], dtype=np.int64)[box[0]]
            return np.broadcast_to(z[:, None, None] % 251, (len(z), 64, 64)).astype(np.uint8)

    volume = Volume(Source(), Geometry.from_spacing((300, 64, 64)))
    path = write_volume(tmp_path / "a.zarr", volume)
    assert max(taken) <= 64 * 64 * 64
    assert sum(taken) == 300 * 64 * 64
    again = read_volume(path)
    np.testing.assert_array_equal(np.asarray(again.array[:, 5, 5]), np.arange(300) % 251)
    write_volume(path, again.replace(array=again.array + 1))
    np.testing.assert_array_equal(
        np.asarray(read_volume(path).array[:, 5, 5]), np.arange(300) % 251 + 1
    )
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_a_source_that_fails_leaves_the_old_one(tmp_path):
    path = write_volume(tmp_path / "a.zarr", scan())

    def fail(block):
        raise VolumeFormatError("gone")

    array = dask.array.from_array(scan().array).map_blocks(fail, dtype=np.float32)
    with pytest.raises(VolumeFormatError, match="gone"):
        write_volume(path, scan().replace(array=array))
    np.testing.assert_array_equal(np.asarray(read_volume(path).array), scan().array)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zarr.storage._local._put", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_volume(tmp_path / "a.zarr", scan())
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_the_old_one(tmp_path):
    path = write_volume(tmp_path / "a.zarr", scan())
    script = f"""
import time
from napari_attention3d.volumes import read_volume
from napari_attention3d.volumes.formats.ome_zarr_write import streamed
grid = read_volume({str(path)!r}).geometry
with streamed({str(path)!r}, grid.shape, "uint8", grid, name="x", kind="image") as out:
    out.array[:] = 1
    print("half", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"half\n"
        process.kill()
        process.wait(10)
    np.testing.assert_array_equal(np.asarray(read_volume(path).array), scan().array)


def test_a_mask_saved_as_nifti_keeps_the_scans_form(tmp_path):
    import nibabel as nib

    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    image = nib.Nifti1Image(voxels(), affine)
    image.set_sform(affine, 4)
    nib.save(image, tmp_path / "a.nii")
    through = read_volume(write_volume(tmp_path / "a.zarr", read_volume(tmp_path / "a.nii")))
    back = nib.load(write_volume(tmp_path / "b.nii", through))
    assert int(back.header["sform_code"]) == 4
    np.testing.assert_array_equal(back.affine, affine)


def test_real_scans_keep_their_grid(tmp_path, shared_data):
    for case in ("d04_mr_cord_t2", "d03_nuclei_ovule1135"):
        (source,) = sorted((shared_data / case).glob("image.*"))
        volume = read_volume(source)
        again = read_volume(write_volume(tmp_path / f"{case}.ome.zarr", volume))
        assert again.geometry.is_close(volume.geometry)
        assert again.geometry.orientation == volume.geometry.orientation
        np.testing.assert_array_equal(np.asarray(again.array), np.asarray(volume.array))
