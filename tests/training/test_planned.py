"""From cases to a configuration."""

from __future__ import annotations

import numpy as np
import pytest

from napari_attention3d.errors import InputError
from napari_attention3d.progress import finish
from napari_attention3d.training.cases import CaseFacts, DataFacts, TrainingCase
from napari_attention3d.training.planned import class_values, model_name, plan_job
from napari_attention3d.training.planning import PRESETS
from napari_attention3d.volumes import Volume

MEMORY = 4 * 10**9


def volumes(labels, image=None, unit="um", anatomical=False):
    rng = np.random.default_rng(0)
    if image is None:
        image = labels * 100.0 + rng.normal(size=labels.shape)
    keys = {"spacing": (1, 1, 1), "unit": unit, "anatomical": anatomical}
    return Volume.from_array(image.astype(np.float32), **keys), Volume.from_array(labels, **keys)


def planned(labels, image=None, unit="um", anatomical=False, **options):
    case = TrainingCase("a", *volumes(labels, image, unit, anatomical))
    return finish(plan_job([case], name="My model", memory=MEMORY, device="cpu", **options))


def facts_of(*values):
    case = CaseFacts("a", (4, 4, 4), (1, 1, 1), dict.fromkeys(values, 10))
    return DataFacts((case,), "um", False)


def test_classes_are_the_labels_that_occur():
    assert class_values(facts_of(0, 1, 7)) == (0, 1, 7)
    assert class_values(facts_of(0, 1, 9), ignore=9) == (0, 1)
    # strokes: 0 is not painted, 255 is painted background
    assert class_values(facts_of(0, 1, 2, 255), ignore=0) == (255, 1, 2)
    assert class_values(facts_of(0, 1, 2), ignore=0) == (1, 2)


@pytest.mark.parametrize(
    ("values", "ignore", "says"),
    [
        ((0,), None, "one background only"),
        ((3,), None, "one class only"),
        ((0, 1), 0, "paint some background"),
        ((0,), 0, "no voxel is labelled"),
        ((), None, "no voxel is labelled"),
    ],
)
def test_fewer_than_two_classes_are_refused(values, ignore, says):
    with pytest.raises(InputError, match=says):
        class_values(facts_of(*values), ignore)


def test_names_become_file_names():
    assert model_name("My model: Kidneys (v2)") == "my-model-kidneys-v2"
    assert model_name("…") == "my-model"


def test_a_plan_is_written_down():
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[5:15, 5:15, 5:15] = 3
    config, plan = planned(
        labels, class_names={3: "nucleus"}, schedule={"steps": 7}, data={"flip": [False] * 3}
    )
    assert (config.name, config.title) == ("my-model", "My model")
    assert [c.name for c in config.classes] == ["background", "nucleus"]
    assert config.data.values == (0, 3)
    assert config.data.flip == (False, False, False)
    assert config.schedule.steps == 7
    assert config.schedule.learning_rate == PRESETS["quick"].learning_rate
    assert config.schedule.patch_sizes == (plan.patch_size,)
    assert config.unit == "um"
    assert config.orientation is None


@pytest.mark.parametrize(("network", "weight"), [("guided-attention", 8), ("attention-unet", 1)])
def test_the_mask_of_a_guided_network_counts_as_its_side_outputs_together(network, weight):
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[5:15, 5:15, 5:15] = 3
    config, plan = planned(labels, network=network)
    assert plan.network["name"] == network
    assert config.schedule.mask_loss == weight
    chosen, _ = planned(labels, network=network, schedule={"mask_loss": 2})
    assert chosen.schedule.mask_loss == 2


def test_ct_gets_a_window_and_patients_are_not_mirrored():
    labels = np.zeros((12, 16, 16), np.uint8)
    labels[3:9, 3:9, 3:9] = 1
    image = np.where(labels > 0, 60.0, -1000.0)
    config, _ = planned(labels, image, unit="mm", anatomical=True)
    assert config.normalisation.kind == "window"
    assert config.normalisation.lower <= 60 <= config.normalisation.upper
    assert config.orientation == "SAR"
    assert config.data.flip == (False, False, False)


def test_sides_are_not_mirrored():
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[2:4], labels[6:8] = 1, 2
    config, _ = planned(labels, class_names={1: "left lobe", 2: "right lobe"})
    assert config.data.flip == (True, True, False)
