"""``napari-attention3d models``: which models there are, what each one is, more of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .common import JsonOption, print_json
from .models_import import import_command
from .models_rules import rules_command

__all__ = ["app"]

app = typer.Typer(help="List the models, show one's card, import weights.", no_args_is_help=True)

app.command("import")(import_command)
app.command("rules")(rules_command)


@app.command("list")
def list_command(json: Annotated[bool, JsonOption("the list")] = False) -> None:
    """List the built-in models and those in your folder."""
    from ..models.store import list_models, user_models_folder

    infos = list_models()
    if json:
        print_json([_info(info) for info in infos])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "title", "where", "problem")
    for info in infos:
        where = "built in" if info.built_in else str(info.path)
        table.add_row(info.name, info.title, where, info.problem)
    console = Console()
    console.print(table)
    console.print(f"Your folder: {user_models_folder()}", soft_wrap=True)


def _info(info: Any) -> dict[str, Any]:
    return {
        "name": info.name,
        "title": info.title,
        "path": str(info.path),
        "built_in": info.built_in,
        "problem": info.problem or None,
    }


@app.command("show")
def show_command(
    model: Annotated[str, typer.Argument(help="Name in the list, or a .safetensors file.")],
    json: Annotated[bool, JsonOption("the card")] = False,
) -> None:
    """Show a model's card: classes, channels, spacing, training data, figures, limits."""
    from ..models.store import load_model

    loaded = load_model(model)
    card = loaded.card.model_dump(mode="json")
    parameters = sum(weights.numel() for weights in loaded.network.parameters())
    if json:
        print_json({**card, "parameters": parameters})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    for key, value in card.items():
        if key == "classes":
            value = "\n".join(f"{i} {c['name']} {c['colour']}" for i, c in enumerate(value))
        elif key in ("network", "metrics", "normalisation"):
            value = "\n".join(f"{k}: {v}" for k, v in value.items())
        elif key == "channels":
            value = "\n".join(" - ".join(filter(None, c.values())) for c in value)
        table.add_row(key, str(value))
    table.add_row("parameters", f"{parameters:,}")
    Console().print(table)
