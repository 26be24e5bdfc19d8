from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel
from scipy import ndimage
from skimage.measure import label

from napari_attention3d.analysis.cleanup import (
    AnyRule,
    clean_up,
    clean_up_report,
    read_rules,
    rules_from,
    rules_to_plain,
)
from napari_attention3d.analysis.instances import NumberComponents, SplitTouching, split_blob
from napari_attention3d.analysis.rules import FillHoles, KeepLargest, MinimumSize, RemoveOutside
from napari_attention3d.errors import InputError
from napari_attention3d.geometry import Geometry
from napari_attention3d.progress import finish
from napari_attention3d.volumes.volume import Volume

from .shapes import fill, mask, oblique

ALL = [
    {"rule": "fill_holes", "plane": "z"},
    {"rule": "smooth", "width": 0.5, "method": "median", "classes": [1, 2]},
    {"rule": "minimum_size", "size": 2.0, "unit": "mm", "connectivity": 6},
    {"rule": "keep_largest", "count": 2},
    {"rule": "remove_outside", "inside": [1], "classes": [2], "margin": 1.5},
    {"rule": "split_touching", "depth": 0.2, "classes": [1]},
    {"rule": "components", "connectivity": 18},
]
small = hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.integers(0, 3))


def grid(array, spacing=(2.0, 1.0, 0.5)) -> Geometry:
    return Geometry.from_spacing(array.shape, spacing, unit="mm")


def two_balls(affine, shape, radius, apart):
    """Two balls whose centres lie `apart` radii from each other, across the grid."""
    from .shapes import middle

    axis = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    centres = [middle(affine, shape) + side * axis * apart * radius / 2 for side in (-1, 1)]
    return centres, fill(
        affine,
        shape,
        lambda p: np.any([np.linalg.norm(p - c, axis=-1) <= radius for c in centres], axis=0),
    )


def test_rules_go_to_yaml_and_json_and_back(tmp_path):
    rules = rules_from(ALL)
    assert [type(rule).__name__ for rule in rules] == [
        "FillHoles",
        "Smooth",
        "MinimumSize",
        "KeepLargest",
        "RemoveOutside",
        "SplitTouching",
        "NumberComponents",
    ]
    for name, text in (
        ("a.yaml", yaml.safe_dump(rules_to_plain(rules))),
        ("b.yaml", yaml.safe_dump({"rules": ALL})),
        ("c.json", json.dumps(rules_to_plain(rules))),
    ):
        (tmp_path / name).write_text(text)
        assert read_rules(tmp_path / name) == rules
    assert rules_from([{"rule": "fill_holes", "classes": 3}])[0].classes == (3,)


def test_a_pydantic_model_can_hold_rules():
    class Card(BaseModel):
        clean_up: tuple[AnyRule, ...] = ()

    card = Card(clean_up=rules_from(ALL))
    assert Card.model_validate_json(card.model_dump_json()) == card


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("keep_largest", "a list of rules"),
        ([], "a list of rules"),
        ([{"rule": "polish"}], r"rule 1 .*polish"),
        ([{"rule": "fill_holes"}, {"rule": "smooth"}], r"rule 2 smooth width: Field required"),
        ([{"rule": "fill_holes", "axis": "z"}], r"rule 1 fill_holes axis: Extra"),
        (["fill_holes"], "rule 1"),
        ([{"classes": [1]}], "rule 1"),
    ],
)
def test_wrong_rules_are_told_in_one_line(content, says):
    with pytest.raises(InputError, match=says) as caught:
        rules_from(content)
    assert "\n" not in str(caught.value)


def test_wrong_files_are_told(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml"):
        read_rules(tmp_path / "absent.yaml")
    (tmp_path / "a.yaml").write_text("rules: [")
    with pytest.raises(InputError, match="not valid YAML"):
        read_rules(tmp_path / "a.yaml")


def test_rules_are_applied_in_order_and_reported():
    array = np.zeros((6, 10, 10), dtype=np.uint16)
    array[1:5, 1:6, 1:6] = 1
    array[2, 3, 3] = 0
    array[0, 9, 9] = 1
    array[5, 8:, 8:] = 2
    labels = mask(array, oblique(), name="mask", metadata={"provenance": {"model": "m"}})
    found = finish(clean_up(labels, [FillHoles(), KeepLargest(classes=(1,))]))
    assert np.asarray(found.array)[2, 3, 3] == 1
    assert np.asarray(found.array)[0, 9, 9] == 0
    assert found.dtype == np.uint16
    assert found.geometry is labels.geometry
    assert found.name == "mask cleaned"
    holes, largest = clean_up_report(found)
    assert holes == {
        "rule": {"rule": "fill_holes"},
        "changed": 1,
        "classes": {"1": {"lost": 0, "gained": 1}},
    }
    assert largest["classes"] == {"1": {"lost": 1, "gained": 0}}
    assert found.metadata["provenance"]["model"] == "m"
    json.dumps(found.metadata["provenance"])
    again = finish(clean_up(found, [MinimumSize(size=1000)]))
    assert len(clean_up_report(again)) == 3
    assert array[0, 9, 9] == 1


def test_no_rules_give_a_copy_and_lazy_and_float_masks_will_do():
    import dask.array as da

    array = np.zeros((4, 4, 4), dtype=np.float32)
    array[1:3] = 2
    same = finish(clean_up(mask(array.astype(np.uint8)), []))
    assert np.array_equal(same.array, array)
    for kind in (array, da.from_array(array, chunks=2), array > 0):
        found = finish(clean_up(mask(kind), [KeepLargest()]))
        assert np.array_equal(np.asarray(found.array) > 0, array > 0)
        assert found.dtype.kind in "iu"
    with pytest.raises(InputError, match="not whole numbers"):
        finish(clean_up(mask(array + 0.5), [KeepLargest()]))


def test_progress_is_told_and_closing_cancels():
    array = np.random.default_rng(0).integers(0, 4, (8, 8, 8)).astype(np.uint8)
    rules = [KeepLargest(), RemoveOutside(inside=(1,)), NumberComponents()]
    steps = list(clean_up(mask(array), rules))
    assert steps[0].message == "1/3 Keeping the largest, class 1"
    shares = [step.fraction for step in steps]
    assert shares[0] == 0
    assert max(shares) <= 1
    job = clean_up(mask(array), rules)
    next(job)
    job.close()
    with pytest.raises(StopIteration):
        next(job)


@settings(max_examples=40, deadline=None)
@given(small, st.sampled_from([6, 18, 26]))
def test_components_are_those_of_scikit_image(array, connectivity):
    after = NumberComponents(connectivity=connectivity).apply(array, grid(array))
    expected = label(array, connectivity=(6, 18, 26).index(connectivity) + 1)
    assert np.array_equal(after > 0, array > 0)
    pairs = np.unique(np.stack([after.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == expected.max() + 1 if (array == 0).any() else expected.max()
    numbers = np.unique(after[after > 0])
    assert numbers.tolist() == list(range(1, len(numbers) + 1))


def test_splitting_keeps_a_voxel_that_hangs_on_by_a_corner():
    array = np.ones((5, 3, 4), dtype=np.uint8)
    array[
        tuple(np.transpose([(1, 0, 0), (2, 1, 1), (2, 2, 1), (3, 0, 3), (4, 0, 2), (4, 1, 3)]))
    ] = 0
    parts = split_blob(array > 0, (2.0, 1.0, 1.0), 0.1)
    assert parts.max() == 2
    assert np.array_equal(parts > 0, array > 0)


@settings(max_examples=25, deadline=None)
@given(small, st.sampled_from([(1,), (2, 3), None]))
def test_splitting_keeps_every_voxel_and_every_other_class(array, classes):
    after = SplitTouching(classes=classes).apply(array, grid(array))
    assert np.array_equal(after > 0, array > 0)
    chosen = array > 0 if classes is None else np.isin(array, classes)
    assert np.array_equal(after[~chosen], array[~chosen])
    assert not set(np.unique(after[chosen])) & (set(np.unique(array[~chosen])) - {0})
    for number in np.unique(after[chosen]):
        assert len(np.unique(array[after == number])) == 1
        assert ndimage.label(after == number, np.ones((3, 3, 3)))[1] == 1


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2.0, 1.0, 0.5)])
@pytest.mark.parametrize(("apart", "parts"), [(0.6, 1), (1.5, 2), (1.9, 2)])
def test_balls_are_split_by_their_neck_in_world_units(spacing, apart, parts):
    affine = oblique(spacing, 30)
    shape = [round(26 / spacing[0]), round(26 / spacing[1]), round(46 / spacing[2])]
    centres, array = two_balls(affine, shape, 10.0, apart)
    after = SplitTouching().apply(array, Geometry(tuple(shape), affine, "mm"))
    assert after.max() == parts
    if parts == 2:
        where = Geometry(tuple(shape), affine, "mm")
        found = [where.to_world(np.argwhere(after == n)).mean(axis=0) for n in (1, 2)]
        found.sort(key=lambda p: np.linalg.norm(p - centres[0]))
        for centre, other in zip(centres, found, strict=True):
            assert np.linalg.norm(centre - other) < 2.0


@pytest.mark.parametrize("half", [(10, 5, 5), (12, 4, 4), (8, 8, 3), (3, 3, 3), (5, 2, 2)])
def test_a_single_ellipsoid_stays_whole(half):
    shape = [2 * h + 7 for h in half]
    places = np.indices(shape).T.swapaxes(0, 2) - np.array(half) - 3
    ellipsoid = ((places / np.array(half)) ** 2).sum(axis=-1) <= 1
    assert split_blob(ellipsoid, (1.0, 1.0, 1.0), 0.1).max() == 1
    assert split_blob(ellipsoid, (2.0, 1.0, 1.0), 0.1).max() == 1


def test_instances_are_numbered_after_the_other_classes_in_a_type_that_holds_them():
    array = np.zeros((4, 40, 40), dtype=np.uint8)
    array[1, ::2, ::2] = 1  # 400 specks
    array[3] = 7
    labels = mask(array, metadata={"classes": [{"name": "background"}, {"name": "cell"}]})
    found = finish(clean_up(labels, [NumberComponents(classes=(1,))]))
    after = np.asarray(found.array)
    assert after.dtype == np.uint16
    assert (after[3] == 7).all()
    assert after[1, ::2, ::2].ravel().tolist() == list(range(8, 408))
    assert clean_up_report(found)[0]["instances"] == {"1": 400}
    assert "classes" not in found.metadata
    few = NumberComponents(classes=(7,)).apply(array, grid(array))
    assert few.dtype == np.uint8
    assert (few[3] == 2).all()


def test_instance_images_with_large_labels_are_cleaned_one_by_one():
    array = np.zeros((6, 12, 12), dtype=np.uint32)
    array[1:5, 1:5, 1:5] = 4_000_000_000
    array[5, 11, 11] = 4_000_000_000
    array[1:5, 7:11, 7:11] = 70_001
    array[3, 9, 9] = 0
    after = np.asarray(finish(clean_up(mask(array), [KeepLargest(), FillHoles()])).array)
    assert after.dtype == np.uint32
    assert after[5, 11, 11] == 0
    assert after[3, 9, 9] == 70_001
    assert (after == 4_000_000_000).sum() == 64


def test_touching_nuclei_of_a_real_scan_come_apart(shared_data):
    """Their published instances, made one mask, are found again."""
    from napari_attention3d.volumes import read_volume

    truth = read_volume(shared_data / "d03_nuclei_ovule1135" / "label_instances.tif")
    instances = np.asarray(truth.array)
    assert ndimage.label(instances > 0, np.ones((3, 3, 3)))[1] == 44
    merged = truth.replace(array=(instances > 0).astype(np.uint8))
    found = np.asarray(finish(clean_up(merged, [SplitTouching()])).array).astype(np.int64)
    table = np.zeros((instances.max() + 1, found.max() + 1))
    np.add.at(table, (instances.ravel(), found.ravel()), 1)
    union = table.sum(axis=1, keepdims=True) + table.sum(axis=0, keepdims=True) - table
    overlap = (table / np.maximum(union, 1))[1:, 1:]
    assert found.max() == 54
    assert (overlap.max(axis=1)[table[1:].sum(axis=1) > 0] > 0.9).all()


def test_bare_volumes_are_cleaned_in_pixels():
    array = np.zeros((3, 3, 3), dtype=np.uint8)
    array[0, 0, 0] = 1
    found = finish(clean_up(Volume.from_array(array), [MinimumSize(size=2)]))
    assert not np.asarray(found.array).any()


def test_the_rules_in_the_guide_are_rules():
    guide = Path(__file__).resolve().parents[2] / "docs" / "guide-cli.md"
    (block,) = re.findall(r"```yaml\n(rules:.*?)```", guide.read_text(), flags=re.DOTALL)
    rules = rules_from(yaml.safe_load(block))
    assert {type(rule) for rule in rules} == {type(rule) for rule in rules_from(ALL)}
