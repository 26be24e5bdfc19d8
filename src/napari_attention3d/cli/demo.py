"""``napari-attention3d demo``: the main job on a real scan, for a first look."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import OutputError
from .common import JsonOption, check_writable_folder, print_json, say

if TYPE_CHECKING:
    from ..session import Segmentation

__all__ = ["demo", "has_screen", "write_demo"]

_ON_VIRTUAL_SCREEN = "NAPARI_ATTENTION3D_VIRTUAL_SCREEN"
_SCREEN = ("xvfb-run", "-a", "-s", "-screen 0 1920x1080x24")


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results of --headless.")
    ] = Path("demo-output"),
    headless: Annotated[
        bool, typer.Option("--headless", help="Open no window; write files and a picture.")
    ] = False,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Another brain model's name or file.")
    ] = "brain-attention-unet",
    json: Annotated[bool, JsonOption("the report")] = False,
) -> None:
    """Segment a real brain MRI in napari, with the network's attention as layers.

    Opens napari; without a screen, or with --headless, it does the same on a virtual
    screen and writes labels.nii.gz, attention/, napari.png and report.json.
    """
    from ..volumes.samples import mni152_t1_path

    mni152_t1_path()  # says what to install where the scan is missing
    headless = headless or not has_screen()
    if headless:
        check_writable_folder(out, make=True)
        _get_virtual_screen(["--out", str(out), "--model", model] + ["--json"] * json)
    say("segmenting the MNI152 brain in napari; this takes about a minute")
    from ..widgets.demo import run_demo

    found = run_demo(out if headless else None, headless, model=model)
    if headless:
        report = write_demo(out, found["segmentation"])
        if json:
            print_json(report)
        else:
            _print_summary(out, report)


def has_screen(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> bool:
    """Whether windows can be opened here."""
    if platform != "linux":
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def _get_virtual_screen(options: list[str]) -> None:
    """Start this command again on a virtual screen, unless it is on one already."""
    if sys.platform != "linux" or os.environ.get(_ON_VIRTUAL_SCREEN):
        return
    if shutil.which(_SCREEN[0]) is None:
        if has_screen():
            return
        raise OutputError(
            "there is no screen, and no xvfb-run to make one up; "
            "install it (Debian: apt-get install xvfb xauth) and try again"
        )
    again = "from napari_attention3d.cli import main; main()"
    command = [*_SCREEN, sys.executable, "-c", again, "demo", "--headless", *options]
    environment = {**os.environ, _ON_VIRTUAL_SCREEN: "1", "QT_QPA_PLATFORM": "xcb"}
    environment.pop("WAYLAND_DISPLAY", None)
    sys.stdout.flush()
    os.execvpe(command[0], command, environment)


def write_demo(out: Path, result: Segmentation) -> dict[str, Any]:
    """Write the mask, the attention maps and the report of the demo's segmentation.

    Parameters
    ----------
    out
        An existing folder.
    result
        Of the MNI152 T1 template.

    Returns
    -------
    dict
        The report, as in ``report.json``.
    """
    from ..analysis.brain_report import brain_report
    from ..volumes import read_volume, write_volume
    from ..volumes.samples import mni152_t1_path, mni152_tissue_paths

    write_volume(out / "labels.nii.gz", result.labels)
    maps = out / "attention"
    check_writable_folder(maps, make=True)
    for name, volume in result.attention.items():
        write_volume(maps / f"{name}.nii.gz", volume)
    say("scoring against the template's own tissue maps")
    tissue = mni152_tissue_paths()
    scores = brain_report(
        result.labels,
        result.card.class_names,
        scan=read_volume(mni152_t1_path()),
        grey=read_volume(tissue["grey_matter"]),
        white=read_volume(tissue["white_matter"]),
    )
    report = {
        **scores,
        "seconds": round(result.seconds, 2),
        "device": result.device,
        "model": f"{result.card.name} {result.card.version}",
        "model_sha256": result.card.sha256,
        "warnings": list(result.warnings),
        "provenance": result.provenance,
    }
    _write_json(out / "report.json", report)
    return report


def _write_json(path: Path, content: dict[str, Any]) -> None:
    import json

    from ..volumes.atomic import atomic_path

    with atomic_path(path) as temporary:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _print_summary(out: Path, report: dict[str, Any]) -> None:
    dice, otsu = report["dice"], report["otsu_dice"]
    share = report["brainstem"]["fraction_of_brain"]
    print(f"model   {report['model']} on {report['device']}, {report['seconds']:.1f} s")
    for tissue in ("grey_matter", "white_matter"):
        name = tissue.replace("_", " ")
        print(f"Dice    {name} {dice[tissue]:.3f} (thresholds alone {otsu[tissue]:.3f})")
    print(f"        brainstem left out: {100 * share:.1f} % of the brain")
    for name in ("labels.nii.gz", "attention/", "napari.png", "report.json"):
        print(f"wrote   {(out / name).resolve()}{'/' if name.endswith('/') else ''}")
