"""From folders or open scans to a training configuration: survey, plan, write down."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import InputError
from ..inference.memory import available_bytes
from ..models.convert_card import COLOURS
from ..progress import Job
from .cases import CaseSource, DataFacts, survey_job
from .config import TrainConfig
from .folders import TrainingFolder
from .planning import PRESETS, STANDARD_NETWORK, Plan, plan_training
from .where import device_to_plan_for

__all__ = ["class_values", "folder_settings", "model_name", "plan_job", "planned_config"]

PAINTED_BACKGROUND = (255, 65535)
"""Values that mean background where 0 means "not painted"."""
GUIDED_NETWORK = "guided-attention"
MASK_LOSS = 8.0
"""Of guided attention: the mask counts as much as its eight side outputs together."""
SIDES = re.compile(r"\b(left|right)\b|[ _-](l|r)$", re.IGNORECASE)


def model_name(text: str) -> str:
    """Return a name that files and lists take: lower case, no blanks."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    return name[:80] or "my-model"


def class_values(facts: DataFacts, ignore: int | None = None) -> tuple[int, ...]:
    """Label value of each class, the background's first.

    Where 0 is the value of unlabelled voxels, the background is 255 (65535), as painted
    corrections have it; without those, the lowest value.

    Raises
    ------
    InputError
        If fewer than two classes are labelled.
    """
    found = [value for value in facts.values if value != ignore]
    if not found:
        raise InputError("no voxel is labelled; label a few voxels of two classes first")
    if len(found) == 1:
        what = "background" if found[0] in (0, *PAINTED_BACKGROUND) else "class"
        hint = "the background counts as one"
        if ignore == 0:
            hint = f"paint some background, too (value {PAINTED_BACKGROUND[0]})"
        raise InputError(
            f"the labels hold one {what} only (value {found[0]}); at least two are needed, {hint}"
        )
    if ignore == 0:
        for value in PAINTED_BACKGROUND:
            if value in found:
                found.remove(value)
                found.insert(0, value)
    return tuple(found)


def plan_job(
    sources: Sequence[CaseSource],
    *,
    name: str,
    preset: str = "quick",
    network: str = STANDARD_NETWORK,
    ignore: int | None = None,
    class_names: Mapping[int, str] | None = None,
    channel_names: Sequence[str] = (),
    device: str = "auto",
    data: Mapping[str, Any] | None = None,
    schedule: Mapping[str, Any] | None = None,
    processes: int = 1,
    memory: int | None = None,
) -> Job[tuple[TrainConfig, Plan]]:
    """Look at the training set and plan its training.

    Parameters
    ----------
    sources
        The cases.
    name
        Of the model.
    preset, network
        See `plan_training`.
    ignore
        Value of unlabelled voxels.
    class_names
        By label value; others get "class 3".
    channel_names
        Of the images.
    device
        See `choose_device`.
    data
        Settings of `PairsData` that are known: folders, validation.
    schedule
        Settings of `ScheduleSettings` that replace the plan's.
    processes
        See `plan_training`.
    memory
        Free bytes; default: what the device has.

    Raises
    ------
    InputError
        If data do not fit together, or hold fewer than two classes.
    OutOfMemory
        If even a small patch does not fit.
    """
    facts = yield from survey_job(sources, ignore)
    values = class_values(facts, ignore)
    doubt = ""
    if memory is None:
        chosen, doubt = device_to_plan_for(device, network)
        memory = available_bytes(chosen)
    plan = plan_training(facts, len(values), memory, preset, network, processes)
    if doubt:
        plan = replace(plan, notes=(doubt, *plan.notes))
    config = planned_config(
        facts,
        plan,
        name=name,
        values=values,
        ignore=ignore,
        class_names=class_names or {},
        channel_names=channel_names,
        device=device,
        data=data or {},
        schedule=schedule or {},
    )
    length = config.schedule
    return config, replace(plan, steps=length.steps, batch_size=length.batch_size)


def planned_config(
    facts: DataFacts,
    plan: Plan,
    *,
    name: str,
    values: Sequence[int],
    ignore: int | None,
    class_names: Mapping[int, str],
    channel_names: Sequence[str] = (),
    device: str = "auto",
    data: Mapping[str, Any],
    schedule: Mapping[str, Any],
) -> TrainConfig:
    """Write a plan down as a configuration; see `plan_job`."""
    names = [
        class_names.get(v) or ("background" if i == 0 else f"class {v}")
        for i, v in enumerate(values)
    ]
    colours = ["#000000", *(_colour(i) for i in range(len(names) - 1))]
    channels = list(channel_names) or [f"channel {i + 1}" for i in range(facts.channels)]
    if facts.channels == 1 and not channel_names:
        channels = ["intensity"]
    low, high = facts.intensities
    rule = {"kind": "percentile", "lower": 0.5, "upper": 99.5}
    if facts.is_ct:
        rule = {"kind": "window", "lower": round(low), "upper": max(round(high), round(low) + 1)}
    # Where patients always lie the same way, a mirrored one is never seen later.
    mirror = not facts.anatomical
    sided = any(SIDES.search(one) for one in names)
    steps = plan.steps
    return TrainConfig.checked(
        {
            "name": model_name(name),
            "title": name,
            "classes": [{"name": n, "colour": c} for n, c in zip(names, colours, strict=True)],
            "channels": [{"name": one} for one in channels],
            "spacing": plan.spacing,
            "unit": facts.unit if plan.spacing is not None else "pixel",
            "orientation": "SAR" if facts.anatomical else None,
            "normalisation": rule,
            "intensity": "CT, Hounsfield units" if facts.is_ct else "",
            "training_data": f"{len(facts.cases)} scan{'s' * (len(facts.cases) > 1)}",
            "network": plan.network,
            "data": {
                "kind": "pairs",
                "values": list(values),
                "ignore": ignore,
                "flip": [mirror, mirror, mirror and not sided],
                "rotate": "in-plane" if plan.in_plane else "all",
                **data,
            },
            "schedule": {
                "steps": steps,
                "patch_sizes": [plan.patch_size],
                "batch_size": plan.batch_size,
                "learning_rate": PRESETS[plan.preset].learning_rate,
                **({"mask_loss": MASK_LOSS} if plan.network["name"] == GUIDED_NETWORK else {}),
                "validate_every": max(1, steps // 20),
                "checkpoint_every": max(1, min(100, steps // 10)),
                "device": device,
                **schedule,
            },
        },
        "training plan",
    )


def _colour(index: int) -> str:
    """Okabe and Ito's, then spread over the hues."""
    if index < len(COLOURS):
        return COLOURS[index]
    import colorsys

    hue = (index * 0.618034) % 1.0
    r, g, b = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.6, 0.9))
    return f"#{r:02x}{g:02x}{b:02x}"


def folder_settings(folder: TrainingFolder) -> dict[str, Any]:
    """Keyword arguments of `plan_job` that a folder gives."""
    return {
        "class_names": folder.class_names,
        "channel_names": folder.channel_names,
        "ignore": folder.ignore,
        "data": {"images": str(folder.images), "labels": str(folder.labels)},
    }
