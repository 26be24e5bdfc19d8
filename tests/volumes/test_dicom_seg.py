"""Masks as DICOM Segmentation objects, read back with pydicom and with SimpleITK."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_attention3d.cli import main
from napari_attention3d.errors import InputError
from napari_attention3d.volumes import read_volume, write_volume
from napari_attention3d.volumes.dicom_seg import series_path, write_dicom_seg

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

SHAPE = (5, 6, 8)
CLASSES = [
    {"name": "background", "colour": "#000000"},
    {"name": "liver", "colour": "#e69f00"},
    {"name": "spleen", "colour": "#56b4e9"},
    {"name": "tumour", "colour": "#009e73"},
]
MODEL = {"name": "abdomen", "version": "1.2", "sha256": "ab" * 32}


@pytest.fixture
def series(tmp_path) -> Path:
    """An oblique CT in files whose order says nothing; without the patient's attributes."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder = tmp_path / "ct"
    folder.mkdir()
    angle = np.radians(15)
    row, column = (1.0, 0.0, 0.0), (0.0, np.cos(angle), np.sin(angle))
    normal = np.cross(row, column)
    study, uid, frame = generate_uid(), generate_uid(), generate_uid()
    for place in range(SHAPE[0]):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = CTImageStorage
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        one.Modality, one.StudyInstanceUID, one.SeriesInstanceUID = "CT", study, uid
        one.FrameOfReferenceUID, one.InstanceNumber = frame, place + 1
        one.PatientID = "P7"
        one.ImageOrientationPatient = [f"{v:.10g}" for v in (*row, *column)]
        at = np.array([-20.0, 15.0, 40.0]) + place * 3.0 * normal
        one.ImagePositionPatient = [f"{v:.10g}" for v in at]
        one.PixelSpacing, one.SliceThickness = [0.75, 0.5], 3.0
        one.Rows, one.Columns = SHAPE[1:]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation = 15, 1
        one.PixelData = np.full(SHAPE[1:], place, np.int16).tobytes()
        one.save_as(folder / f"{9 - place}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture
def mask(series):
    scan = read_volume(series)
    array = np.zeros(SHAPE, np.uint8)
    array[1:3, 1:4, 2:6] = 1
    array[3, 2:5, 0:3] = 3  # class 2 is not there
    about = {
        "kind": "labels",
        "classes": CLASSES,
        "provenance": {"model": MODEL, "source": {"path": str(series)}},
    }
    return scan.replace(array=array, name="mask", metadata=about)


def frames_of(path: Path):
    """Voxels of each segment by (label, source slice's UID), with pydicom alone."""
    data = pydicom.dcmread(path)
    labels = {int(s.SegmentNumber): str(s.SegmentLabel) for s in data.SegmentSequence}
    found = {}
    for pixels, frame in zip(
        np.atleast_3d(data.pixel_array), data.PerFrameFunctionalGroupsSequence, strict=True
    ):
        number = int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        image = frame.DerivationImageSequence[0].SourceImageSequence[0]
        place = [float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient]
        found[labels[number], str(image.ReferencedSOPInstanceUID)] = pixels, place
    return data, found


def test_each_frame_refers_to_its_slice_and_lies_where_it_lies(mask, series, tmp_path):
    path = write_dicom_seg(tmp_path / "seg.dcm", mask, series)
    data, found = frames_of(path)
    assert data.Modality == "SEG"
    assert data.PatientID == "P7"
    assert [str(s.SegmentLabel) for s in data.SegmentSequence] == ["liver", "tumour"]
    algorithm = data.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("abdomen", "1.2")
    assert MODEL["sha256"] in str(algorithm.AlgorithmParameters)
    seen = np.zeros(SHAPE, np.uint8)
    for file in series.iterdir():
        one = pydicom.dcmread(file)
        plane = int(one.InstanceNumber) - 1
        for label, value in (("liver", 1), ("tumour", 3)):
            if (label, str(one.SOPInstanceUID)) in found:
                pixels, place = found[label, str(one.SOPInstanceUID)]
                seen[plane][pixels > 0] = value
                np.testing.assert_allclose(place, one.ImagePositionPatient, atol=1e-6)
    np.testing.assert_array_equal(seen, mask.array)
    shared = data.SharedFunctionalGroupsSequence[0]
    np.testing.assert_allclose(shared.PixelMeasuresSequence[0].PixelSpacing, (0.75, 0.5))


def test_simpleitk_counts_the_same_voxels(mask, series, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    path = write_dicom_seg(tmp_path / "seg.dcm", mask, series)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert np.count_nonzero(found) == np.count_nonzero(mask.array)


def test_a_mask_that_is_stored_turned_is_turned_back(mask, series, tmp_path):
    from napari_attention3d.geometry import Reorientation

    turn = Reorientation((1, 0, 2), (True, False, True))
    turned = mask.replace(array=turn.apply(mask.array), geometry=mask.geometry.reorient(turn))
    _, plain = frames_of(write_dicom_seg(tmp_path / "a.dcm", mask, series))
    _, found = frames_of(write_dicom_seg(tmp_path / "b.dcm", turned, series))
    assert set(found) == set(plain)
    for key, (pixels, _) in plain.items():
        np.testing.assert_array_equal(found[key][0], pixels)


def test_masks_that_do_not_fit_are_told(mask, series, tmp_path):
    smaller = mask.replace(
        array=mask.array[:4], geometry=mask.geometry.cropped((0, 0, 0), (4, 6, 8))
    )
    with pytest.raises(InputError, match="not on the grid"):
        write_dicom_seg(tmp_path / "seg.dcm", smaller, series)
    with pytest.raises(InputError, match="no labels"):
        write_dicom_seg(tmp_path / "seg.dcm", mask.replace(array=mask.array * 0), series)
    with pytest.raises(InputError, match="--series"):
        series_path(mask.replace(metadata={}))
    assert not list(tmp_path.glob("*.dcm"))


def test_the_command_finds_the_series_by_the_masks_own_word(mask, series, tmp_path):
    file = write_volume(tmp_path / "mask.nii.gz", mask)
    with pytest.raises(SystemExit) as end:
        main(["export", str(file), "-o", str(tmp_path / "seg.dcm")])
    assert end.value.code in (0, None)
    _, found = frames_of(tmp_path / "seg.dcm")
    assert {label for label, _ in found} == {"liver", "tumour"}
    with pytest.raises(SystemExit) as end:
        main(["export", str(file), "-o", str(series / "seg.dcm")])
    assert end.value.code == 2
