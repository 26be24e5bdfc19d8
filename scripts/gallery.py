"""Take a picture of attention maps on a scan, in 2D and in 3D, from the real program.

    scripts/with-screen.sh python scripts/gallery.py --image FILE --model NAME|FILE -o FILE.png
        [--axis z|y|x] [--map gate-level-2] [--paint]

Opens napari, runs the model, shows the map as the Inspect tab does with a dark scan and an
outlined mask, and joins its snapshots of a slice and of the whole, with colour bar and
scale bar. With --paint the window is taken after two strokes have moved the attention. For
scans that are not in the repository; docs/attention.md names theirs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

SIZE = (1500, 900)
HEIGHT = 460


def main() -> None:
    """Take one picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--axis", default="z", choices=("z", "y", "x"))
    parser.add_argument("--map", default="gate-level-2", help="which one is shown")
    parser.add_argument(
        "--angles", type=float, nargs=3, default=(-20, 25, 150), help="of the 3D view"
    )
    parser.add_argument("--whole-range", action="store_true", help="colours over the stated range")
    parser.add_argument("--paint", action="store_true", help="move the attention, take the window")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["NAPARI_CONFIG"] = str(Path(temporary) / "settings.yaml")
        os.environ.setdefault("NAPARI_ATTENTION3D_MODELS", str(Path(temporary) / "models"))
        take(args, Path(temporary))


def take(args: argparse.Namespace, folder: Path) -> None:
    """Run the model, arrange the view, save both snapshots as one picture."""
    import napari
    from napari.settings import get_settings

    from napari_attention3d.widgets.demo import _segment, settle
    from napari_attention3d.widgets.inspect_look import role_of

    get_settings().application.confirm_close_window = False
    viewer = napari.Viewer(title="napari")
    viewer.window.resize(*SIZE)
    _, dock = viewer.window.add_plugin_dock_widget("napari-attention3d", "Attention 3D")
    viewer.open(str(args.image), plugin="napari-attention3d")
    _segment(dock, args.model)
    panel = dock.inspect
    dock.tabs.setCurrentIndex([dock.tabs.tabText(i) for i in range(6)].index("Inspect"))
    settle(500)
    if args.paint:
        paint(viewer, dock, args.out)
        return
    for entry in panel.maps.entries:
        entry.layer.visible = role_of(entry.layer) == f"attention:{args.map}"
        if entry.layer.visible:
            panel.maps.choose(entry.layer)
    panel.view.dark_box.setChecked(True)
    panel.view.stretch_box.setChecked(not args.whole_range)
    order = {"z": (0, 1, 2), "y": (1, 0, 2), "x": (2, 0, 1)}[args.axis]
    viewer.dims.order = order
    if args.axis != "z":
        viewer.scene.camera.orientation2d = ("up", "right")
    viewer.reset_view()
    shots = [shot(panel, folder / "slice.png")]
    viewer.dims.ndisplay = 3
    viewer.scene.camera.orientation = ("towards", "up", "right")
    viewer.reset_view()
    viewer.scene.camera.angles = tuple(args.angles)
    shots.append(shot(panel, folder / "whole.png"))
    viewer.close()
    join(shots, args.out)


def paint(viewer: Any, dock: Any, path: Path) -> None:
    """Paint "look here" in the middle and "not here" beside it, train, take the canvas."""
    from PIL import Image

    from napari_attention3d.widgets.demo import settle, wait_until

    section, scan = dock.inspect.paint, dock.inspect.runs.chooser.layer
    z, y, x = (n // 2 for n in scan.data.shape)
    viewer.dims.set_point(0, float(scan.data_to_world((z, y, x))[0]))
    for value, start in ((1, x - 6), (2, x + scan.data.shape[2] // 5)):
        section.choose(value)
        layer = section.layer()
        layer.brush_size = 10
        for column in range(start, start + 14, 2):
            layer.paint((z, y, column), value)
    section.start()
    wait_until(lambda: not dock.inspect.runs.is_busy)
    print(section.result_label.text())
    settle(1000)
    picture = Image.fromarray(viewer.screenshot(canvas_only=True, flash=False)).convert("RGB")
    picture.thumbnail((HEIGHT * 2, HEIGHT))
    viewer.close()
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path} {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB")


def shot(panel: Any, path: Path) -> Any:
    """Return the Inspect tab's snapshot of the view."""
    from PIL import Image

    from napari_attention3d.widgets.demo import settle

    settle(1200)
    panel.save_snapshot(str(path))
    return Image.open(path).convert("RGB")


def join(shots: list[Any], path: Path) -> None:
    """Save pictures side by side with 256 colours."""
    from PIL import Image

    scaled = [one.resize((round(one.width * HEIGHT / one.height), HEIGHT)) for one in shots]
    whole = Image.new("RGB", (sum(one.width for one in scaled), HEIGHT))
    left = 0
    for one in scaled:
        whole.paste(one, (left, 0))
        left += one.width
    whole.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path} {whole.width} x {whole.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
