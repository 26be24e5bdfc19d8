"""``napari-attention3d models rules``: the clean-up that suits a model's masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .common import JsonOption, print_json, say

if TYPE_CHECKING:
    from ..models.card import ModelCard

__all__ = ["rules_command"]


def rules_command(
    model: Annotated[str, typer.Argument(help="Name in the list, or a .safetensors file.")],
    file: Annotated[
        Path | None, typer.Argument(help="YAML or JSON file of rules to store with the model.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the rules.")] = False,
    json: Annotated[bool, JsonOption("the rules")] = False,
) -> None:
    """Show, store or remove the clean-up rules that go with a model.

    They are applied on request: `clean --model NAME`, `segment --clean-up`.
    """
    from ..analysis.cleanup import read_rules, store_rules

    if file is not None and clear:
        raise InputError("give a file of rules or --clear, not both")
    if file is None and not clear:
        card = _card(model)
    else:
        rules = read_rules(file) if file is not None else ()
        card = store_rules(model, rules)
        say(f"{len(card.clean_up)} rules are stored with {card.name}")
    if json:
        print_json({"model": card.name, "rules": list(card.clean_up)})
    elif file is None and not clear:
        import yaml

        print(yaml.safe_dump({"rules": list(card.clean_up)}, sort_keys=False).rstrip())


def _card(model: str) -> ModelCard:
    from ..models.header import read_card, read_header
    from ..models.store import find_model

    path, _ = find_model(model)
    return read_card(path, read_header(path))
