"""DICOM series made slice by slice; read, and compared with SimpleITK's reader (GDCM)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_attention3d.errors import InputError, VolumeFormatError
from napari_attention3d.volumes import read_volume
from napari_attention3d.volumes.formats import can_read, dicom

pydicom = pytest.importorskip("pydicom")
sitk = pytest.importorskip("SimpleITK")

SHAPE = (6, 7, 8)
ANGLE = np.radians(20)
ROW = (1.0, 0.0, 0.0)
COLUMN = (0.0, float(np.cos(ANGLE)), float(np.sin(ANGLE)))


def data_set(uid: str, number: int):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = generate_uid()
    one.Modality, one.SeriesInstanceUID, one.StudyInstanceUID = "CT", uid, f"{uid}.1"
    one.SeriesDescription, one.InstanceNumber = "abdomen", number
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 1
    return one


def write_series(
    folder: Path,
    *,
    row=ROW,
    column=COLUMN,
    step=3.0,
    left_out=(),
    shift=0.0,
    slope=1.0,
    intercept=-1024.0,
    uid="1.2.3",
    times=1,
) -> np.ndarray:
    """Slices in files whose names and numbers say nothing of their order."""
    folder.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(0).integers(0, 3000, (times, *SHAPE)).astype(np.int16)
    normal = np.cross(row, column)
    order = np.random.default_rng(1).permutation(SHAPE[0])
    for place in range(SHAPE[0]):
        if place in left_out:
            continue
        for time in range(times):
            one = data_set(uid, int(order[place]) * times + time + 1)
            one.ImageOrientationPatient = [*row, *column]
            at = np.array([-20.0, 15.0, 40.0]) + place * step * normal
            at += place * shift * np.asarray(column)
            one.ImagePositionPatient = [f"{v:.10g}" for v in at]
            one.PixelSpacing = [0.75, 0.5]  # between rows, between columns
            one.SliceThickness = step
            one.TemporalPositionIdentifier = time + 1
            one.RescaleSlope, one.RescaleIntercept = slope, intercept
            one.Rows, one.Columns = SHAPE[1:]
            one.PixelData = array[time, place].tobytes()
            name = folder / f"IM{order[place]:03d}_{time}.dcm"
            one.save_as(name, enforce_file_format=True)
    return array if times > 1 else array[0]


def by_simpleitk(folder: Path):
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return sitk.ReadImage(names)


def test_an_oblique_series_lies_where_simpleitk_puts_it(tmp_path):
    array = write_series(tmp_path / "ct")
    volume = read_volume(tmp_path / "ct")
    theirs = by_simpleitk(tmp_path / "ct")
    np.testing.assert_array_equal(volume.array, array - 1024)
    assert volume.dtype == np.int16
    found = sitk.GetArrayFromImage(theirs)
    np.testing.assert_array_equal(volume.array, found)
    assert volume.geometry.spacing == pytest.approx((3.0, 0.75, 0.5))
    assert volume.geometry.anatomical
    assert volume.geometry.obliquity == pytest.approx(20, abs=1e-4)
    for index in ((0, 0, 0), (5, 6, 7), (2, 3, 1)):
        x, y, z = theirs.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]])
        np.testing.assert_allclose(volume.geometry.to_world(index), (z, -y, -x), atol=1e-4)


def test_any_file_of_the_series_stands_for_it(tmp_path):
    write_series(tmp_path / "ct")
    file = sorted((tmp_path / "ct").iterdir())[3]
    whole, one = read_volume(tmp_path / "ct"), read_volume(file)
    np.testing.assert_array_equal(whole.array, one.array)
    assert one.name == "ct abdomen"
    assert whole.name == "ct"


def test_backward_slices_are_sorted_and_sagittal_ones_turned(tmp_path):
    array = write_series(tmp_path / "sag", row=(0, 1, 0), column=(0, 0, -1))
    volume = read_volume(tmp_path / "sag")
    np.testing.assert_array_equal(volume.array, array - 1024)
    assert volume.geometry.orientation == "RIP"
    upright = volume.canonical().geometry
    assert upright.spacing == pytest.approx((0.75, 0.5, 3.0))


@pytest.mark.parametrize("left_out", [(2,), (2, 3), (1, 4)])
def test_missing_slices_are_detected(tmp_path, left_out):
    write_series(tmp_path / "ct", left_out=left_out)
    with pytest.raises(InputError, match=f"about {len(left_out)} slices are missing"):
        read_volume(tmp_path / "ct")


def test_uneven_slices_are_refused(tmp_path):
    write_series(tmp_path / "ct")
    path = sorted((tmp_path / "ct").iterdir())[2]
    one = pydicom.dcmread(path)
    at = np.array(one.ImagePositionPatient, dtype=float) + 1.2 * np.cross(ROW, COLUMN)
    one.ImagePositionPatient = [f"{v:.10g}" for v in at]
    one.save_as(path)
    with pytest.raises(InputError, match="unevenly spaced"):
        read_volume(tmp_path / "ct")


def test_slopes_that_are_not_whole_give_floats(tmp_path):
    array = write_series(tmp_path / "pet", slope=0.25, intercept=2.5)
    volume = read_volume(tmp_path / "pet")
    assert volume.dtype == np.float32
    np.testing.assert_allclose(volume.array, array * 0.25 + 2.5)


def test_a_tilted_gantry_gives_sheared_voxels_and_a_note(tmp_path):
    write_series(tmp_path / "ct", column=(0, 1, 0), shift=1.0)
    volume = read_volume(tmp_path / "ct")
    assert "gantry tilt 18.4 degrees" in volume.notes[0]
    step = volume.geometry.to_world((1, 0, 0)) - volume.geometry.to_world((0, 0, 0))
    np.testing.assert_allclose(step, (3, -1, 0), atol=1e-6)
    assert volume.geometry.voxel_volume == pytest.approx(3 * 0.75 * 0.5)


def test_time_points_are_chosen(tmp_path):
    array = write_series(tmp_path / "dce", times=2)
    with pytest.raises(InputError, match="2 images at each place"):
        read_volume(tmp_path / "dce")
    np.testing.assert_array_equal(read_volume(tmp_path / "dce", time=1).array, array[1] - 1024)
    with pytest.raises(InputError, match="no time point 2"):
        read_volume(tmp_path / "dce", time=2)


def test_two_series_in_a_folder_are_told_and_one_is_chosen_by_a_file(tmp_path):
    write_series(tmp_path / "both")
    other = tmp_path / "other"
    array = write_series(other, uid="1.2.4", step=5.0)
    for file in list(other.iterdir()):
        file.rename(tmp_path / "both" / f"x{file.name}")
    with pytest.raises(InputError, match="holds 2 series"):
        read_volume(tmp_path / "both")
    chosen = next((tmp_path / "both").glob("x*"))
    volume = read_volume(chosen)
    np.testing.assert_array_equal(volume.array, array - 1024)
    assert volume.geometry.spacing[0] == pytest.approx(5)


def test_images_that_are_not_parallel_are_refused(tmp_path):
    write_series(tmp_path / "ct")
    write_series(tmp_path / "loc", row=(0, 1, 0), column=(0, 0, -1))
    for file in list((tmp_path / "loc").iterdir())[:1]:
        file.rename(tmp_path / "ct" / "localiser.dcm")
    with pytest.raises(InputError, match="not parallel"):
        read_volume(tmp_path / "ct")


def test_an_enhanced_multi_frame_file(tmp_path):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    array = np.random.default_rng(2).integers(0, 999, SHAPE).astype(np.int16)
    one = data_set("1.2.5", 1)
    shared, orientation, measures, values = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [*ROW, *COLUMN]
    measures.PixelSpacing = [0.75, 0.5]
    values.RescaleSlope, values.RescaleIntercept = 1, -1000
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([values])
    one.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for place in range(SHAPE[0]):
        frame, position = Dataset(), Dataset()
        at = np.cross(ROW, COLUMN) * 2.5 * (SHAPE[0] - 1 - place)  # stored from last to first
        position.ImagePositionPatient = [f"{v:.10g}" for v in at]
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    one.PerFrameFunctionalGroupsSequence = Sequence(frames)
    one.NumberOfFrames, one.Rows, one.Columns = SHAPE
    one.PixelData = array.tobytes()
    path = tmp_path / "enhanced.dcm"
    one.save_as(path, enforce_file_format=True)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array[::-1] - 1000)
    assert volume.geometry.spacing == pytest.approx((2.5, 0.75, 0.5))


def test_folders_are_told_apart(tmp_path):
    write_series(tmp_path / "ct")
    (tmp_path / "ct" / "readme.txt").write_text("not an image")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("nothing")
    assert can_read(tmp_path / "ct")
    assert not can_read(tmp_path / "notes")
    with pytest.raises(VolumeFormatError, match="is a folder"):
        read_volume(tmp_path / "notes")
    assert read_volume(tmp_path / "ct").array.shape == SHAPE


def test_what_has_no_place_is_refused(tmp_path):
    write_series(tmp_path / "ct")
    path = next((tmp_path / "ct").iterdir())
    one = pydicom.dcmread(path)
    del one.ImagePositionPatient
    one.save_as(path)
    with pytest.raises(InputError, match="does not say where it lies"):
        read_volume(tmp_path / "ct")


def test_damaged_files_are_told(tmp_path):
    write_series(tmp_path / "ct")
    path = next((tmp_path / "ct").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(VolumeFormatError, match="damaged"):
        read_volume(tmp_path / "ct")


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    write_series(tmp_path / "ct")
    monkeypatch.setattr(dicom, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"napari-attention3d\[dicom\]"):
        read_volume(tmp_path / "ct")


@pytest.mark.parametrize("what", ["folder", "files"])
def test_a_series_dropped_on_napari_is_one_upright_layer(tmp_path, what):
    from napari_attention3d._napari import get_reader

    write_series(tmp_path / "ct")
    files = sorted(str(one) for one in (tmp_path / "ct").iterdir())
    path = str(tmp_path / "ct") if what == "folder" else files
    ((data, keywords, kind),) = get_reader(path)(path)
    assert kind == "image"
    assert data.shape == SHAPE
    np.testing.assert_allclose(keywords["scale"], (3.0, 0.75, 0.5))
    assert keywords["units"] == ("mm",) * 3
