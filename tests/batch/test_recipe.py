"""Recipes: written, read, made from what a result says of itself."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.analysis.cleanup import rules_from
from napari_attention3d.batch import Plan, segment_file
from napari_attention3d.batch.run import apply_recipe
from napari_attention3d.errors import InputError
from napari_attention3d.recipe import (
    Measures,
    ModelReference,
    Recipe,
    read_recipe,
    recipe_of,
    write_recipe,
)
from napari_attention3d.volumes import read_volume

RULES = rules_from([{"rule": "minimum_size", "size": 6}, {"rule": "fill_holes", "classes": 1}])


def full() -> Recipe:
    return Recipe(
        model=ModelReference(name="tiny"),
        overlap=0.5,
        attention=True,
        clean_up=RULES,
        measure=Measures(components=True, percentiles=(10, 90)),
        suffix=".nii.gz",
    )


def test_it_goes_to_yaml_and_back(tmp_path):
    recipe = full()
    path = write_recipe(tmp_path / "recipe.yaml", recipe)
    assert read_recipe(path) == recipe
    assert path.read_text().startswith("# napari-attention3d segment")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: tiny", "model"),
        ("model: {name: tiny}\nnonsense: 1", "nonsense"),
        ("model: {name: tiny}\nclean_up: [{rule: polish}]", "clean_up"),
        ("model: {name: tiny}\nsuffix: .png", "masks are written as"),
        ("- a list", "holds no recipe"),
        ("a: [", "not valid YAML"),
        ("model: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_wrong_files_are_told_in_one_line(tmp_path, text, says):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="can't read"):
        read_recipe(tmp_path / "none.yaml")


def test_a_results_own_recipe_gives_identical_labels(tmp_path, models_folder, tools):
    scan = read_volume(tools.write_scan(tmp_path / "scan.nii.gz"))
    recipe = full()
    first = tools.finish(apply_recipe(scan, recipe.load_model(), recipe))
    again = recipe_of(first.labels.metadata["provenance"])
    assert again.clean_up == RULES
    assert again.measure == recipe.measure
    assert again.model.sha256 == first.result.card.sha256
    second = tools.finish(apply_recipe(scan, again.load_model(), again))
    np.testing.assert_array_equal(first.labels.array, second.labels.array)
    assert first.table.rows == second.table.rows
    raw = np.asarray(first.result.labels.array)
    assert np.count_nonzero(raw != first.labels.array)  # the rules had something to do


def test_what_no_model_made_has_no_recipe():
    with pytest.raises(InputError, match="which model made it"):
        recipe_of({"compared": ["a", "b"]})
    with pytest.raises(InputError, match="corrected by painting"):
        recipe_of({"model": {"name": "tiny"}, "corrections": {"strokes": 3}})
    broken = {"model": {"name": "tiny"}, "options": {"overlap": 7}}
    with pytest.raises(InputError, match="overlap"):
        recipe_of(broken)


def test_a_model_with_other_weights_is_not_taken_for_it(models_folder, tools):
    recipe = Recipe(model=ModelReference(name="tiny", sha256="0" * 64))
    with pytest.raises(InputError, match="other weights"):
        recipe.load_model()
    sha256 = Recipe(model=ModelReference(name="tiny")).load_model().card.sha256
    renamed = Recipe(model=ModelReference(name="once-called-so", sha256=sha256))
    assert renamed.load_model().card.name == "tiny"


def test_rules_for_classes_that_the_model_has_not_are_refused(models_folder):
    rules = rules_from([{"rule": "keep_largest", "classes": 9}])
    with pytest.raises(InputError, match="names class 9"):
        Recipe(model=ModelReference(name="tiny"), clean_up=rules).load_model()


def test_all_results_are_written_and_the_mask_last(tmp_path, models_folder, tools):
    scan = tools.write_scan(tmp_path / "scan.nii.gz")
    plan = Plan(scan, tmp_path / "out_labels.nii.gz")
    recipe = full()
    outcome = tools.finish(segment_file(plan, recipe.load_model(), recipe))
    assert outcome.status == "done"
    table = tmp_path / "out_measures.csv"
    assert outcome.written["measures"] == str(table)
    assert table.read_text().startswith("label,")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out_*")}
    assert times[plan.labels] == max(times.values())
    about = read_volume(plan.labels).metadata["provenance"]
    assert about["source"]["path"] == str(scan.resolve())
    assert [step["rule"]["rule"] for step in about["clean_up"]] == ["minimum_size", "fill_holes"]


def test_zarr_is_cleaned_and_measured_too(tmp_path, models_folder, tools):
    scan = tools.write_scan(tmp_path / "scan.ome.zarr")
    model = full().load_model()
    plain = full().model_copy(update={"clean_up": (), "suffix": None, "attention": False})
    tables = []
    for name, recipe in (("streamed", plain), ("whole", plain)):
        suffix = ".ome.zarr" if name == "streamed" else ".nii.gz"
        plan = Plan(scan, tmp_path / f"{name}_labels{suffix}")
        tools.finish(segment_file(plan, model, recipe))
        tables.append(plan.beside("measures", ".csv").read_text())
    assert tables[0] == tables[1]
    cleaned = plain.model_copy(update={"clean_up": RULES})
    plan = Plan(scan, tmp_path / "clean_labels.ome.zarr")
    tools.finish(segment_file(plan, model, cleaned))
    kept = np.asarray(read_volume(plan.labels).array)
    before = np.asarray(read_volume(tmp_path / "whole_labels.nii.gz").array)
    assert np.count_nonzero(kept != before)
