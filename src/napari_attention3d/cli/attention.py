"""``napari-attention3d attention``: compute, ask and test attention without a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .common import JsonOption, check_new_file, print_json, run_job, say
from .measure import _print_columns

if TYPE_CHECKING:
    from ..analysis.table import Table
    from ..attention.replay import Replay
    from ..attention.switches import Change
    from ..session import Segmentation
    from ..volumes import Volume

__all__ = ["app"]

app = typer.Typer(
    help="See, ask and test a network's attention.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Image = Annotated[Path, typer.Argument(help="Scan.")]
_Model = Annotated[str, typer.Option("--model", "-m", help="Model, name or file.")]
_Channel = Annotated[int | None, typer.Option(help="Channel to use, from 0.")]
_Overwrite = Annotated[bool, typer.Option(help="Replace files that are there.")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
_TableOut = Annotated[
    Path | None, typer.Option("-o", "--out", help="Table to write: .csv, .xlsx or .json.")
]
_Voxel = Annotated[
    str, typer.Option("--voxel", help="Index z,y,x in the scan's array (default: its middle).")
]


@app.command("map")
def compute_map(
    image: _Image,
    kind: Annotated[
        str, typer.Option(help="entropy, flip-spread, agreement or reconstruction-error.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Map to write.")],
    model: _Model = "brain-attention-unet",
    channel: _Channel = None,
    device: _Device = "auto",
    overwrite: _Overwrite = False,
) -> None:
    """Compute a map on request, on its own grid in the scan's world."""
    check_new_file(out, [image], overwrite=overwrite)
    from ..attention.request import expected_seconds, kind_named, request_map
    from ..volumes import write_volume
    from ..volumes.formats import format_for

    format_for(out, writing=True)
    chosen = kind_named(kind)
    replay, result = _run(image, model, channel, device)
    if chosen.passes > 1:
        seconds = expected_seconds(result.provenance, chosen)
        say(f"{kind}: {chosen.passes} passes of the network, about {max(1, round(seconds))} s")
    volume = run_job(request_map(replay, chosen), kind)
    write_volume(out, volume)
    say(f"{out} ({volume.metadata['map']['description']})")


@app.command("ask")
def ask_voxel(
    image: _Image,
    out: Annotated[Path, typer.Option("-o", "--out", help="Map to write.")],
    model: _Model = "brain-guided-attention",
    voxel: _Voxel = "",
    question: Annotated[
        str,
        typer.Option(
            help="row (where it looks), column (who looks there), label (who looks at the class "
            "there) or hubs."
        ),
    ] = "row",
    label: Annotated[
        str, typer.Option(help="Class to ask about with “label” (default: the one at the voxel).")
    ] = "",
    scale: Annotated[str, typer.Option(help="Scale and step, or all-scales.")] = "all-scales",
    centred: Annotated[
        bool, typer.Option("--centred", help="A window around the voxel, not what made the mask.")
    ] = False,
    channel: _Channel = None,
    device: _Device = "auto",
    overwrite: _Overwrite = False,
    json: Annotated[bool, JsonOption("the answer")] = False,
) -> None:
    """Ask what a voxel attends to, in the tile that counts most in the mask there."""
    check_new_file(out, [image], overwrite=overwrite)
    if question not in ("row", "column", "label", "hubs"):
        raise InputError(f"question {question!r} is not known; use row, column or hubs, or label")
    if label and question != "label":
        raise InputError("--label goes with --question label")
    from ..attention.ask import ask, box_to_ask
    from ..attention.cost import question_seconds
    from ..volumes import write_volume
    from ..volumes.formats import format_for

    format_for(out, writing=True)
    replay, result = _run(image, model, channel, device)
    place = _voxel(voxel, replay.volume)
    mask = _label_mask(result, label, place, replay) if question == "label" else None
    if question != "row":
        seconds = question_seconds(replay.look(box_to_ask(replay, place, centred=centred)))
        if seconds:
            say(f"{question}: goes through all voxels of the tile, about {max(0.1, seconds):.1f} s")
    answer = ask(replay, place, question, centred=centred, mask=mask)  # type: ignore[arg-type]
    if scale not in answer.volumes:
        raise InputError(f"there is no scale {scale!r}; there are: {', '.join(answer.volumes)}")
    volume = answer.volumes[scale]
    write_volume(out, volume)
    names = replay.model.card.class_names
    shares = {n: float(p) for n, p in zip(names, answer.probabilities, strict=True)}
    best = max(shares, key=lambda n: shares[n])
    say(f"{out} (voxel {_words(place)}: {best} {shares[best]:.2f}; {volume.name})")
    if json:
        print_json(
            {
                "voxel": list(place),
                "question": question,
                "probabilities": shares,
                "peak": float(volume.array.max()),
                "sum": float(volume.array.sum()),
                "tile": [list(answer.box.start), list(answer.box.stop)],
            }
        )


@app.command("test")
def check_maps(
    image: _Image,
    model: _Model = "brain-attention-unet",
    attention: Annotated[
        list[Path] | None,
        typer.Option("--map", help="Also this map, on its own grid; may be given again."),
    ] = None,
    voxel: _Voxel = "",
    window: Annotated[int, typer.Option(min=8, help="Edge in voxels of the model's grid.")] = 64,
    block: Annotated[int, typer.Option(min=1, help="Edge of the parts that are hidden.")] = 8,
    fill: Annotated[
        str, typer.Option(help="blur, or noise of the local mean and spread.")
    ] = "blur",
    label: Annotated[str, typer.Option(help="Class to follow (default: all).")] = "",
    out: _TableOut = None,
    plot: Annotated[Path | None, typer.Option(help="Curves to draw (.svg).")] = None,
    channel: _Channel = None,
    device: _Device = "auto",
    overwrite: _Overwrite = False,
    json: Annotated[bool, JsonOption("the table")] = False,
) -> None:
    """Are a model's maps faithful? Deletion and insertion curves in a window.

    Parts of the scan are hidden, those first that a map marks most, and the mask's own
    probability is followed; parts drawn at random say what a map must beat.
    """
    _check_tables(out, [image, *(attention or [])], overwrite)
    _check_plot(plot, [image], overwrite)
    from ..attention.asked import asked_of
    from ..attention.curves_svg import write_curves
    from ..attention.faithfulness import FaithfulnessOptions, faithfulness, faithfulness_table
    from ..volumes import read_volume

    replay = _replay(image, model, channel, device)
    number = _class_number(label, replay)
    options = FaithfulnessOptions(fill=fill, block=block, label=number)  # type: ignore[arg-type]
    place = replay.on_grid(_voxel(voxel, replay.volume))
    box = replay.window_at(place, (window, window, window))
    look = replay.look(box)
    from ..volumes.volume import Volume as Placed

    maps: dict[str, Volume] = {
        name: Placed(array.numpy(), replay.map_geometry(name, box), name)
        for name, array in look.maps.items()
    }
    for path in attention or []:
        maps[path.name] = read_volume(path).channel(0)
    if not maps:
        raise InputError(f"{model} has no maps of its own; give one with --map")
    results = run_job(faithfulness(replay, box, maps, options), image.name)
    table = faithfulness_table(results)
    question = {"test": "faithfulness", **asdict(options), "box": [list(box.start), list(box.stop)]}
    table = replace(table, made=asked_of(replay, question))
    for found in results:
        say(found.verdict)
    if plot is not None:
        say(str(write_curves(plot, results)))
    _give(table, out, json)


@app.command("share")
def share(
    attention: Annotated[Path, typer.Argument(help="Map, on its own grid.")],
    mask: Annotated[Path, typer.Argument(help="Mask of labels in the same world.")],
    plot: Annotated[Path | None, typer.Option(help="Bars to draw (.svg).")] = None,
    near: Annotated[
        float | None, typer.Option(help="How far “near” reaches, in the mask's unit.")
    ] = None,
    out: _TableOut = None,
    overwrite: _Overwrite = False,
    json: Annotated[bool, JsonOption("the table")] = False,
) -> None:
    """Share of a map inside, near and outside each label, and where its largest value lies."""
    _check_tables(out, [attention, mask], overwrite)
    _check_plot(plot, [attention, mask], overwrite)
    from ..analysis.masks import class_names
    from ..attention.localise import attention_shares
    from ..provenance import edit_note, made_with, origin
    from ..volumes import read_volume
    from .masks import read_mask

    labels = read_mask(mask)
    values = read_volume(attention).channel(0)
    table = attention_shares(values, labels, class_names(labels), near=near)
    made = made_with(map=origin(values), mask=origin(labels), settings={"near": near})
    table = replace(table, made=made).noted(edit_note(labels))
    for note in table.notes:
        say(note)
    if plot is not None:
        from ..attention.shares_svg import write_shares

        say(str(write_shares(plot, table)))
    _give(table, out, json)


@app.command("switch")
def switch(
    image: _Image,
    force: Annotated[
        list[str],
        typer.Option(help="LEVEL=VALUE: gate-level-2=1, =0, or x0.5; may be given again."),
    ],
    model: _Model = "brain-attention-unet",
    change: Annotated[
        Path | None,
        typer.Option(help="Mask of what changes: 1 gone, 2 new, 3 another class."),
    ] = None,
    out: _TableOut = None,
    channel: _Channel = None,
    device: _Device = "auto",
    overwrite: _Overwrite = False,
    json: Annotated[bool, JsonOption("the table")] = False,
) -> None:
    """Force attention open or shut, and measure how the mask changes."""
    _check_tables(out, [image], overwrite)
    changes = [_change(text) for text in force]
    from ..attention.switches import effect_of
    from ..volumes import write_volume

    if change is not None:
        from ..volumes.formats import format_for

        check_new_file(change, [image], overwrite=overwrite)
        format_for(change, writing=True)
    effect = run_job(effect_of(_replay(image, model, channel, device), changes), image.name)
    if change is not None:
        write_volume(change, effect.difference)
        say(str(change))
    say(f"Dice {effect.dice:.4f} between before and after, {effect.changed_voxels} voxels changed")
    _give(effect.table, out, json)


def _replay(image: Path, model: str, channel: int | None, device: str) -> Replay:
    """Segment a scan and open the run, to be asked."""
    return _run(image, model, channel, device)[0]


def _run(image: Path, model: str, channel: int | None, device: str) -> tuple[Replay, Segmentation]:
    """Segment a scan; the run, to be asked, and its result."""
    from ..attention.replay import Replay
    from ..models.store import load_model
    from ..session import make_options, segment_job
    from ..volumes import read_volume

    loaded, scan = load_model(model), read_volume(image)
    for note in scan.notes:
        say(f"note: {note}")
    if channel is not None:
        scan = scan.channel(channel)
    result = run_job(segment_job(scan, loaded, make_options(device=device)), image.name)
    for warning in result.warnings:
        say(f"warning: {warning}")
    return run_job(Replay.open(scan, loaded, result.provenance), image.name), result


def _label_mask(result: Segmentation, label: str, place: Sequence[float], replay: Replay) -> Volume:
    """A class of the run's mask as a mask of its own: the named one, or that at a voxel."""
    import numpy as np

    labels = np.asarray(result.labels.array)
    number = _class_number(label, replay)
    if number is None:
        index = tuple(
            min(max(round(p), 0), n - 1) for p, n in zip(place, labels.shape, strict=True)
        )
        number = int(labels[index])
        if number == 0:
            raise InputError(
                f"there is background at voxel {_words(place)}: choose another voxel, or a class "
                "with --label"
            )
    return result.labels.replace(array=(labels == number).astype(np.uint8), metadata={})


def _voxel(text: str, scan: Volume) -> tuple[float, float, float]:
    size = scan.geometry.shape
    if not text:
        return (size[0] - 1) / 2, (size[1] - 1) / 2, (size[2] - 1) / 2
    try:
        z, y, x = (float(word) for word in text.split(","))
    except ValueError as error:
        raise InputError(f"--voxel {text!r} is not z,y,x such as 40,64,64") from error
    return z, y, x


def _words(voxel: Sequence[float]) -> str:
    return ", ".join(f"{v:.0f}" for v in voxel)


def _class_number(label: str, replay: Replay) -> int | None:
    names = replay.model.card.class_names
    if not label:
        return None
    if label in names:
        return names.index(label)
    raise InputError(f"the model has no class {label!r}; it has: {', '.join(names)}")


def _change(text: str) -> Change:
    from ..attention.switches import Change

    part, _, value = text.partition("=")
    wrong = InputError(f"--force {text!r}: write LEVEL=1, LEVEL=0 or LEVEL=x0.5")
    if value in ("0", "1"):
        return Change(part, "one" if value == "1" else "zero")
    if not value.startswith("x"):
        raise wrong
    try:
        return Change(part, "scaled", float(value[1:]))
    except ValueError as error:
        raise wrong from error


def _check_tables(out: Path | None, inputs: list[Path], overwrite: bool) -> None:
    if out is not None:
        from ..analysis.table import check_table_path

        check_table_path(out)
        check_new_file(out, inputs, overwrite=overwrite)


def _check_plot(plot: Path | None, inputs: list[Path], overwrite: bool) -> None:
    if plot is not None:
        if plot.suffix.lower() != ".svg":
            raise InputError(f"can't draw into {plot.name}: plots are written as .svg")
        check_new_file(plot, inputs, overwrite=overwrite)


def _give(table: Table, out: Path | None, json: bool) -> None:
    if out is not None:
        say(f"{table.write(out)} ({len(table.rows)} rows)")
    if json:
        result: dict[str, Any] = table.to_dict()
        print_json(result)
    elif out is None:
        _print_columns(table, [column.heading for column in table.columns])
