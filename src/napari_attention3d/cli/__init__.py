"""The command line: ``napari-attention3d COMMAND``.

Results go to standard output, everything else to standard error. Exit codes: 0 all
went well, 1 some files of a batch failed, 2 bad input, 130 cancelled.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from . import (
    attention,
    clean,
    demo,
    doctor,
    evaluate,
    export,
    measure,
    models,
    refine,
    rerun,
    segment,
    train,
)
from .common import CANCELLED, report_error

__all__ = ["app", "main"]

app = typer.Typer(
    name="napari-attention3d",
    help="Segment 3D scans with attention networks, and see what they look at.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("segment")(segment.segment)
app.command("train")(train.train)
app.command("refine")(refine.refine)
app.command("evaluate")(evaluate.evaluate)
app.command("measure")(measure.measure)
app.command("clean")(clean.clean)
app.command("export")(export.export)
app.command("recipe")(rerun.recipe)
app.command("rerun")(rerun.rerun)
app.add_typer(attention.app, name="attention")
app.add_typer(models.app, name="models")
app.command("doctor")(doctor.doctor)


def _print_version(value: bool) -> None:
    if value:
        from .. import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the whole story of an error."),
) -> None:
    """Segment 3D scans with attention networks, and see what they look at."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; always ends in `SystemExit` with the exit code.

    Parameters
    ----------
    arguments
        Without the program's name; default ``sys.argv[1:]``.
    """
    if arguments is None:  # a program of its own, and not a call within another one
        from ..inference.allocator import keep_large_buffers

        keep_large_buffers()
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    try:
        app(args=given, prog_name="napari-attention3d")
    except SystemExit as end:
        if end.code == CANCELLED:  # typer turns Ctrl-C into this, without a word
            report_error(KeyboardInterrupt())
        raise
    except Exception as error:
        if debug:
            raise
        sys.exit(report_error(error))
