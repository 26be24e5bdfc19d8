"""Clean up a mask: rules applied one after the other, with a report of what they changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from ..errors import InputError
from ..models.card import ModelCard
from ..progress import Job, Progress
from ..provenance import fingerprint, made_with, origin, was_edited
from ..volumes.volume import Volume
from ..volumes.yaml_text import parse_yaml
from .instances import Instances, NumberComponents, SplitTouching
from .masks import label_array
from .rules import FillHoles, KeepLargest, Labels, MinimumSize, RemoveOutside, Rule, Smooth

__all__ = [
    "AnyRule",
    "card_with_rules",
    "clean_up",
    "clean_up_report",
    "read_rules",
    "rules_from",
    "rules_of_card",
    "rules_to_plain",
    "store_rules",
]

AnyRule = Annotated[
    KeepLargest
    | MinimumSize
    | FillHoles
    | Smooth
    | RemoveOutside
    | NumberComponents
    | SplitTouching,
    Field(discriminator="rule"),
]
"""A rule, told apart by its name under "rule": for pydantic models that hold rules."""

_RULES: TypeAdapter[tuple[AnyRule, ...]] = TypeAdapter(tuple[AnyRule, ...])


def clean_up(labels: Volume, rules: Sequence[Rule]) -> Job[Volume]:
    """Job: apply rules to a mask, in their order.

    Parameters
    ----------
    labels
        ``(Z, Y, X)`` of whole numbers from 0 (background) up; read as a whole, and not
        changed.
    rules
        See the modules `rules` and `instances`.

    Returns
    -------
    Volume
        The new mask on the same grid: of the same type if its values fit. What each rule
        did is added to ``metadata["provenance"]["clean_up"]``: see `clean_up_report`.
        After a rule that makes instances the names of the classes are gone.

    Raises
    ------
    InputError
        If the volume is no mask, or a rule's unit can't be expressed in the scan's.
    """
    array: Labels = label_array(labels)
    if array is labels.array:
        array = array.copy()
    reports = []
    for number, rule in enumerate(rules, start=1):
        job = rule.job(array, labels.geometry)
        before = array
        while True:
            try:
                step = next(job)
            except StopIteration as end:
                array = np.asarray(end.value)
                break
            message = step.message if len(rules) == 1 else f"{number}/{len(rules)} {step.message}"
            total = max(1, step.total)
            yield Progress((number - 1) * total + step.done, len(rules) * total, message)
        reports.append(_report(rule, before, array))
    metadata = {**labels.metadata, "kind": "labels"}
    # A mask of unknown making says from now on what it was, and who cleaned it.
    provenance = dict(metadata.get("provenance") or made_with(source=origin(labels)))
    if provenance.get("fingerprint"):
        if was_edited(labels):
            provenance["edited"] = True
        provenance["fingerprint"] = fingerprint(array)
    provenance["clean_up"] = [*provenance.get("clean_up", []), *reports]
    metadata["provenance"] = provenance
    if any(isinstance(rule, Instances) for rule in rules):
        metadata.pop("classes", None)
    return labels.channel(0).replace(
        array=array, name=f"{labels.name} cleaned", source=None, metadata=metadata
    )


def clean_up_report(labels: Volume) -> list[dict[str, Any]]:
    """What the rules changed in a mask that `clean_up` made.

    Returns
    -------
    list of dict
        For each rule: ``rule`` (its settings), ``changed`` (voxels), and ``classes``: by
        value the voxels that it ``lost`` and ``gained``. For rules that make instances,
        ``instances`` instead: how many of each class.
    """
    return list((labels.metadata.get("provenance") or {}).get("clean_up", []))


def _report(rule: Rule, before: Labels, after: Labels) -> dict[str, Any]:
    different = before != after
    report: dict[str, Any] = {
        "rule": rule.model_dump(mode="json", exclude_none=True),
        "changed": int(different.sum()),
    }
    if isinstance(rule, Instances):
        report["instances"] = _instances(rule, before, after)
        return report
    classes: dict[str, dict[str, int]] = {}
    for key, values in (("lost", before[different]), ("gained", after[different])):
        found, counts = np.unique(values, return_counts=True)
        for value, count in zip(found.tolist(), counts.tolist(), strict=True):
            if value:
                classes.setdefault(str(value), {"lost": 0, "gained": 0})[key] = count
    report["classes"] = {value: classes[value] for value in sorted(classes, key=int)}
    return report


def _instances(rule: Instances, before: Labels, after: Labels) -> dict[str, int]:
    return {
        str(region.value): len(np.unique(after[region.box][before[region.box] == region.value]))
        for region in rule.regions(before)
    }


def rules_from(content: Any, where: str = "the rules") -> tuple[Rule, ...]:
    """Build rules from plain values, as a YAML or JSON file holds them.

    Parameters
    ----------
    content
        A list of mappings, each with the rule's name under "rule" and its settings; or a
        mapping with that list under "rules".
    where
        What to call it in errors.

    Raises
    ------
    InputError
        If a rule or a setting is not known or wrong; the message names it.
    """
    if isinstance(content, dict) and set(content) == {"rules"}:
        content = content["rules"]
    if not isinstance(content, list) or not content:
        raise InputError(f'{where}: a list of rules is needed, such as "- rule: keep_largest"')
    try:
        return _RULES.validate_python([_listed(one) for one in content])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        number, *path = first["loc"]
        place = " ".join(str(p) for p in path)
        raise InputError(f"{where}: rule {int(number) + 1} {place}: {first['msg']}") from error


def _listed(rule: Any) -> Any:
    """One class may be written as ``classes: 1``."""
    if not isinstance(rule, dict):
        return rule
    return {
        key: [value] if key in ("classes", "inside") and isinstance(value, int) else value
        for key, value in rule.items()
    }


def read_rules(path: str | Path) -> tuple[Rule, ...]:
    """Read rules from a YAML or JSON file: see `rules_from`.

    Raises
    ------
    InputError
        If the file can't be read or holds something else.
    """
    import yaml

    path = Path(path)
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path.name} is not valid YAML: {text}") from error
    return rules_from(content, path.name)


def rules_to_plain(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """Plain values of rules, to be written to YAML or JSON."""
    return [rule.model_dump(mode="json", exclude_none=True) for rule in rules]


def rules_of_card(card: ModelCard) -> tuple[Rule, ...]:
    """Rules that are stored with a model; none if there are none.

    Raises
    ------
    InputError
        If they are not rules, or name classes that the model has not.
    """
    return _fitting(card, rules_from(list(card.clean_up), card.name)) if card.clean_up else ()


def card_with_rules(card: ModelCard, rules: Sequence[Rule]) -> ModelCard:
    """The card with these rules in place of its own; errors as `rules_of_card`."""
    plain = tuple(rules_to_plain(_fitting(card, tuple(rules))))
    return card.model_copy(update={"clean_up": plain})


def store_rules(model: str | Path, rules: Sequence[Rule]) -> ModelCard:
    """Write a model's file anew with these rules in its card; returns the card.

    Raises
    ------
    Attention3DError
        If there is no such model, the rules do not fit it, or its file can't be written.
    """
    from ..models.store import load_model, update_card  # torch

    loaded = load_model(model)
    return update_card(loaded, card_with_rules(loaded.card, rules)).card


def _fitting(card: ModelCard, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    for number, rule in enumerate(rules, start=1):
        for value in (*(rule.classes or ()), *getattr(rule, "inside", ())):
            if value >= len(card.classes):
                raise InputError(
                    f"rule {number} names class {value}; {card.name} has classes 1 to "
                    f"{len(card.classes) - 1}"
                )
    return rules
