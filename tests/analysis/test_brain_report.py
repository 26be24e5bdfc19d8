from __future__ import annotations

import json

import numpy as np
import pytest

from napari_attention3d.analysis.brain_report import (
    brain_report,
    otsu_tissues,
    tissue_truth,
    to_tissues,
)
from napari_attention3d.errors import InputError
from napari_attention3d.volumes.volume import Volume

NAMES = (
    "background",
    "CSF",
    "cortical grey matter",
    "cerebral white matter",
    "deep grey matter",
    "cerebellar grey matter",
    "cerebellar white matter",
    "brainstem",
)
SHAPE = (20, 20, 20)


def volume(array, name="v") -> Volume:
    return Volume.from_array(array, spacing=(1, 2, 1), name=name)


def case():
    """Scan, grey and white maps: slabs along z of background, CSF, grey and white."""
    truth = np.repeat(np.array([0, 1, 2, 3], dtype=np.uint8), 5)[:, None, None]
    truth = np.broadcast_to(truth, SHAPE)
    scan = np.choose(truth, [0, 50, 120, 200]).astype(np.uint8)
    grey = np.choose(truth, [0, 20, 230, 10]).astype(np.uint8)
    white = np.choose(truth, [0, 5, 20, 240]).astype(np.uint8)
    return truth, volume(scan, "scan"), volume(grey, "grey"), volume(white, "white")


def perfect(truth) -> np.ndarray:
    mask = truth.copy()
    mask[(truth == 2) & (np.indices(SHAPE)[2] > 9)] = 4  # some grey is deep grey
    mask[(truth == 3) & (np.indices(SHAPE)[2] > 9)] = 6  # some white is cerebellar
    return mask


def test_a_perfect_mask_scores_one_whatever_the_order_of_the_classes():
    truth, scan, grey, white = case()
    order = [0, 7, 6, 5, 4, 3, 2, 1]  # background stays first
    shuffled = np.array(order)[perfect(truth)].astype(np.uint8)
    names = [""] * len(NAMES)
    for old, new in enumerate(order):
        names[new] = NAMES[old]
    for mask, called in ((perfect(truth), NAMES), (shuffled, names)):
        report = brain_report(volume(mask), called, scan=scan, grey=grey, white=white)
        assert report["dice"] == {"csf": 1.0, "grey_matter": 1.0, "white_matter": 1.0}
        assert report["brainstem"]["fraction_of_brain"] == 0
        json.dumps(report, allow_nan=False)


def test_volumes_and_confusion_count_every_voxel():
    truth, scan, grey, white = case()
    mask = perfect(truth)
    mask[12] = 1  # a slab of grey called CSF
    report = brain_report(volume(mask), NAMES, scan=scan, grey=grey, white=white)
    voxel_ml = 2e-3
    assert report["volumes_ml"]["CSF"] == pytest.approx(6 * 400 * voxel_ml)
    assert report["volumes_ml"]["brainstem"] == 0
    assert "background" not in report["volumes_ml"]
    table = np.array(report["confusion"]["voxels"])
    assert table.sum() == truth.size
    assert table[2, 1] == 400
    assert table[2, [2, 4]].sum() == 4 * 400
    assert report["dice"]["csf"] == pytest.approx(2 * 5 / (5 + 6), abs=1e-4)
    assert report["dice"]["grey_matter"] == pytest.approx(2 * 4 / (4 + 5), abs=1e-4)
    assert report["grey_to_white"] == {"mask": pytest.approx(0.8), "maps": pytest.approx(1.0)}


def test_brainstem_is_left_out_and_what_it_holds_is_told():
    truth, scan, grey, white = case()
    mask = perfect(truth)
    mask[10:12] = 7  # two of the five grey slabs
    report = brain_report(volume(mask), NAMES, scan=scan, grey=grey, white=white)
    assert report["dice"]["grey_matter"] == 1.0
    assert report["brainstem"]["fraction_of_tissue"] == {
        "csf": 0.0,
        "grey_matter": 0.4,
        "white_matter": 0.0,
    }
    assert report["brainstem"]["fraction_of_brain"] == pytest.approx(2 / 15, abs=1e-4)
    assert report["brainstem"]["plausible"] is False  # far more than a brainstem
    assert report["dice_nothing_left_out"]["grey_matter"] == pytest.approx(6 / 8, abs=1e-4)


def test_truth_is_the_most_probable_tissue_inside_the_scan():
    scan = np.array([0, 1, 1, 1, 1], dtype=np.uint8).reshape(5, 1, 1)
    grey = np.array([0.9, 0.2, 0.6, 0.3, 0.4], dtype=np.float32).reshape(5, 1, 1)
    white = np.array([0.0, 0.1, 0.3, 0.6, 0.45], dtype=np.float32).reshape(5, 1, 1)
    found = tissue_truth(volume(scan), volume(grey), volume(white))
    assert found.ravel().tolist() == [0, 1, 2, 3, 3]


def test_otsu_finds_separable_tissues_in_any_order():
    truth, scan, _, _ = case()
    inverted = 255 - np.asarray(scan.array)
    rng = np.random.default_rng(0)
    noisy = inverted + rng.normal(0, 4, SHAPE)
    assert (otsu_tissues(noisy, truth) == truth).mean() > 0.99


def test_unknown_classes_and_values_are_refused():
    with pytest.raises(InputError, match="'tumour' is no known brain tissue"):
        to_tissues(np.zeros((2, 2, 2), dtype=np.uint8), ["background", "tumour"])
    with pytest.raises(InputError, match="holds 2, but there are 2 classes"):
        to_tissues(np.full((2, 2, 2), 2), ["background", "CSF"])


def test_other_grids_are_refused():
    truth, scan, grey, white = case()
    with pytest.raises(InputError, match="different grids"):
        brain_report(volume(truth[1:]), NAMES, scan=scan, grey=grey, white=white)


def test_truth_of_the_template_is_that_of_the_baselines(shared_data):
    """Voxel counts of the template's tissues are known: see the data's README."""
    samples = pytest.importorskip("napari_attention3d.volumes.samples")
    pytest.importorskip("nilearn")
    from napari_attention3d.volumes import read_volume

    tissue = samples.mni152_tissue_paths()
    truth = tissue_truth(
        read_volume(samples.mni152_t1_path()),
        read_volume(tissue["grey_matter"]),
        read_volume(tissue["white_matter"]),
    )
    label = read_volume(shared_data / "d02_mr_brain_mni152" / "label.nii.gz")
    assert (truth == np.asarray(label.array)).mean() > 0.9999
