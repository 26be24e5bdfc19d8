"""napari.yaml: valid, complete, and every command does what it says."""

from __future__ import annotations

from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from napari.components import ViewerModel
from npe2 import PluginManager, PluginManifest

REPOSITORY = Path(__file__).resolve().parents[1]
NAME = "napari-attention3d"


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_file(REPOSITORY / "napari.yaml")


@pytest.fixture(scope="module", autouse=True)
def _discovered():
    PluginManager.instance().discover()


def test_the_installed_manifest_is_the_top_level_one(manifest):
    installed = PluginManager.instance().get_manifest(NAME)
    assert installed.contributions == manifest.contributions
    link = REPOSITORY / "src" / "napari_attention3d" / "napari.yaml"
    assert link.read_text() == (REPOSITORY / "napari.yaml").read_text()


def test_every_command_can_be_imported(manifest):
    manifest.validate_imports()
    for command in manifest.contributions.commands:
        assert callable(_target(command)), command.id


def _target(command):
    module, name = command.python_name.split(":")
    return getattr(import_module(module), name)


def test_every_contribution_names_a_command_that_exists(manifest):
    raw = yaml.safe_load((REPOSITORY / "napari.yaml").read_text())["contributions"]
    known = {c["id"] for c in raw["commands"]}
    used = {
        entry["command"]
        for kind in ("widgets", "readers", "writers", "sample_data")
        for entry in raw[kind]
    } | {item["command"] for items in raw["menus"].values() for item in items}
    assert used == known


def test_menus_are_ones_that_plugins_may_add_to(manifest):
    from napari._app_model.constants import MenuId

    assert set(manifest.contributions.menus) <= {m.value for m in MenuId.contributables()}


def test_every_suffix_that_can_be_read_or_written_is_offered(manifest):
    from napari_attention3d.volumes.formats import supported_suffixes, writable_suffixes

    (reader,) = manifest.contributions.readers
    for suffix in supported_suffixes():
        assert any(fnmatch(f"scan{suffix}", one) for one in reader.filename_patterns), suffix
    for pattern in reader.filename_patterns:
        assert pattern.removeprefix("*") in supported_suffixes()
    for writer in manifest.contributions.writers:
        known = {".dcm"} if "dicom_seg" in writer.command else set(writable_suffixes())
        assert set(writer.filename_extensions) <= known


def test_settings_match_the_manifest(manifest):
    from dataclasses import asdict

    from napari_attention3d.widgets.settings import SegmentSettings

    section = (
        manifest.contributions.configuration["segment"]
        if isinstance(getattr(manifest.contributions, "configuration", None), dict)
        else yaml.safe_load((REPOSITORY / "napari.yaml").read_text())["contributions"][
            "configurations"
        ]["segment"]
    )
    properties = section["properties"]
    assert {k: v["default"] for k, v in properties.items()} == asdict(SegmentSettings())


def _scan_file(folder: Path, codes: str = "PSR") -> Path:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 1000, (5, 6, 7)).astype(np.int16)
    canonical = nib.Nifti1Image(data, np.diag([1.0, 2.0, 3.0, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(canonical.affine), nib.orientations.axcodes2ornt(codes)
    )
    path = folder / "scan.nii.gz"
    nib.save(canonical.as_reoriented(turn), path)
    return path


@pytest.mark.parametrize("codes", ["RAS", "PSR", "LPI"])
def test_a_mask_saved_over_an_opened_scan_overlays_it_in_nibabel(tmp_path, codes):
    path = _scan_file(tmp_path, codes)
    viewer = ViewerModel()
    (layer,) = viewer.open(path, plugin=NAME)
    np.testing.assert_allclose(layer.scale, (3, 2, 1))  # upright: S, A, R
    assert [str(u) for u in layer.units] == ["millimeter"] * 3
    labels = viewer.add_labels(
        (layer.data > 500).astype(np.uint8),
        metadata=layer.metadata,
        scale=layer.scale,
        translate=layer.translate,
        units=layer.units,
    )
    (written,) = labels.save(str(tmp_path / "mask.nii.gz"), plugin=NAME)
    scan, mask = nib.load(path), nib.load(written)
    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)
    assert np.asanyarray(mask.dataobj).dtype.kind == "u"
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), np.asanyarray(scan.dataobj) > 500)


def test_an_image_layer_is_written_where_it_lay(tmp_path):
    path = _scan_file(tmp_path, "PSR")
    viewer = ViewerModel()
    (layer,) = viewer.open(path, plugin=NAME)
    (written,) = layer.save(str(tmp_path / "copy.nii"), plugin=NAME)
    np.testing.assert_allclose(nib.load(written).affine, nib.load(path).affine, atol=1e-5)
    np.testing.assert_array_equal(nib.load(written).get_fdata(), nib.load(path).get_fdata())


def test_a_tiff_keeps_spacing_and_unit(tmp_path):
    viewer = ViewerModel()
    layer = viewer.add_labels(
        np.ones((3, 4, 5), np.uint8), scale=(2, 0.5, 0.5), units=("um",) * 3, name="nuclei"
    )
    (written,) = layer.save(str(tmp_path / "n.tif"), plugin=NAME)
    (back,) = viewer.open(written, plugin=NAME)
    np.testing.assert_allclose(back.scale, (2, 0.5, 0.5))
    assert [str(u) for u in back.units] == ["micrometer"] * 3


def test_real_cord_scan_stored_psr_stands_upright(shared_data, tmp_path):
    path = shared_data / "d04_mr_cord_t2" / "image.nii.gz"
    viewer = ViewerModel()
    (layer,) = viewer.open(path, plugin=NAME)
    canonical = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_allclose(layer.scale, canonical.header.get_zooms()[2::-1], rtol=1e-5)
    np.testing.assert_allclose(layer.translate, canonical.affine[2::-1, 3], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(layer.data), canonical.get_fdata().T, rtol=1e-6)


def test_real_nuclei_tiff_is_in_micrometres_and_anisotropic(shared_data):
    viewer = ViewerModel()
    (path,) = sorted((shared_data / "d03_nuclei_ovule1135").glob("image.*"))
    (layer,) = viewer.open(path, plugin=NAME)
    assert [str(u) for u in layer.units] == ["micrometer"] * 3
    assert layer.scale[0] > layer.scale[1]


def test_the_real_brain_opens_as_a_sample():
    pytest.importorskip("nilearn")
    viewer = ViewerModel()
    (layer,) = viewer.open_sample(NAME, "mni152")
    assert layer.data.shape == (189, 233, 197)
    assert [str(u) for u in layer.units] == ["millimeter"] * 3


def test_without_nilearn_the_sample_names_the_extra(monkeypatch):
    from napari_attention3d import _napari
    from napari_attention3d.errors import InputError
    from napari_attention3d.volumes import samples

    monkeypatch.setattr(samples, "find_spec", lambda name, *a: None)
    with pytest.raises(InputError, match=r"napari-attention3d\[demo\]"):
        _napari.sample_mni152()


def test_labels_painted_by_hand_over_a_turned_scan_are_saved_on_its_grid(
    tmp_path, make_napari_viewer
):
    path = _scan_file(tmp_path, "LPI")
    viewer = make_napari_viewer()
    (layer,) = viewer.open(path, plugin=NAME)
    labels = viewer.add_labels(
        (layer.data > 500).astype(np.uint8),
        scale=layer.scale,
        translate=layer.translate,
        units=layer.units,
    )
    (written,) = labels.save(str(tmp_path / "mask.nii.gz"), plugin=NAME)
    scan, mask = nib.load(path), nib.load(written)
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), np.asanyarray(scan.dataobj) > 500)
