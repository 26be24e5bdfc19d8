"""Take the pictures of the documentation from the real program.

    scripts/with-screen.sh python scripts/screenshots.py [docs/images]

Opens napari, works through the tabs as a person would and saves the window after
each step. Settings are those of a newcomer: napari's own are not read. Those of the Inspect tab in
use are taken by `inspect_pictures.py`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

SIZE = (1280, 960)
DEMO_SIZE = (1600, 1000)
"""Of demo.png, as the command `demo` makes it."""
VENTRICLES = {  # strokes on the MNI152 template: (z, y), from x to x, whether inside
    "left": ((94, 131), 86, 93, True),
    "right": ((94, 101), 115, 121, True),
    "white matter": ((94, 150), 60, 92, False),
    "grey matter": ((94, 131), 126, 150, False),
    "outside": ((94, 10), 20, 170, False),
}
MODEL = "brain-attention-unet"


def main(folder: Path) -> None:
    """Take all pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["NAPARI_CONFIG"] = str(Path(temporary) / "settings.yaml")
        os.environ.setdefault("NAPARI_ATTENTION3D_MODELS", str(Path(temporary) / "models"))
        os.environ["NAPARI_ATTENTION3D_SESSIONS"] = str(Path(temporary) / "sessions")
        take_all(folder, Path(temporary))


def take_all(folder: Path, temporary: Path) -> None:
    """Work through the tabs; `temporary` takes the scans of the batch."""
    import napari
    from napari.settings import get_settings

    from napari_attention3d.widgets.demo import _segment, arrange_view, settle

    get_settings().application.confirm_close_window = False
    viewer = napari.Viewer(title="napari")
    viewer.window.resize(*DEMO_SIZE)
    _, dock = viewer.window.add_plugin_dock_widget("napari-attention3d", "Attention 3D")
    viewer.open_sample("napari-attention3d", "mni152")
    _segment(dock, MODEL)
    arrange_view(viewer)
    save(viewer, folder / "demo.png")
    viewer.window.resize(*SIZE)
    settle(1000)
    viewer.reset_view()
    save(viewer, folder / "tab-segment.png")
    fold = dock.segment.form.fold
    fold.expand(animate=False)
    save(viewer, folder / "panel.png")
    fold.collapse(animate=False)
    steps = {"Correct": correct, "Measure": measure, "Batch": batch}
    for index in range(dock.tabs.count()):
        name = dock.tabs.tabText(index)
        if name == "Segment":
            continue
        dock.tabs.setCurrentIndex(index)
        settle(600)
        if name in steps:
            steps[name](viewer, dock, folder, temporary)
        else:
            save(viewer, folder / f"tab-{name.lower()}.png")
    viewer.close()


def correct(viewer: Any, dock: Any, folder: Path, temporary: Path) -> None:
    """The Correct tab before and after strokes for a class that no model here knows."""
    from napari_attention3d.widgets.demo import settle

    save(viewer, folder / "tab-correct.png")
    panel, scan = dock.correct, dock.chooser.layer
    seen = {one: one.visible for one in viewer.layers}
    order, point = viewer.dims.order, viewer.dims.point
    for one in seen:
        one.visible = one is scan
    viewer.dims.order = (0, 1, 2)
    viewer.dims.set_point(0, float(scan.data_to_world((94, 0, 0))[0]))
    viewer.reset_view()
    panel.start_form.choose("nothing")
    panel.start_form.changed.emit()
    settle(500)  # the classes of the mask go
    panel.start_form.classes_edit.setText("ventricle")
    panel.start_form.changed.emit()
    wait(lambda: panel.start_form.start_button.isEnabled())
    panel.start_form.start_button.click()
    wait(lambda: panel.link is not None)
    strokes = panel.link.layers.strokes
    for (z, y), first, last, inside in VENTRICLES.values():
        value = 1 if inside else panel.link.marker
        strokes.selected_label = value
        strokes.brush_size = 3
        with strokes.block_history():  # one stroke, not many
            for x in range(first, last, 2):
                strokes.paint((z, y, x), value)
    click(panel, panel.form.learn_button)
    strokes.mode = "pan_zoom"
    save(viewer, folder / "correct.png")
    panel.form.close_button.click()
    wait(lambda: panel.link is None)
    for one in [one for one in viewer.layers if one not in seen]:
        viewer.layers.remove(one)
    for one, visible in seen.items():
        one.visible = visible
    viewer.dims.order, viewer.dims.point = order, point
    viewer.reset_view()


def measure(viewer: Any, dock: Any, folder: Path, temporary: Path) -> None:
    """The Measure tab: figures, clean-up with its preview, comparison with the cleaned mask."""
    from napari_attention3d.widgets.measure_choosers import role_of

    panel = dock.measure
    mask = panel.mask.layer
    before = viewer.add_labels(
        mask.data.copy(),
        name="before the clean-up",
        scale=mask.scale,
        translate=mask.translate,
        units=mask.units,
        visible=False,
        metadata=dict(mask.metadata),
    )
    panel.mask.choose(mask)
    click(panel, panel.form.button)
    panel.form.table.view.setCurrentCell(0, 0)
    save(viewer, folder / "tab-measure.png")
    panel.show_page("clean")
    panel.clean.form.set_rules(
        [
            {"rule": "fill_holes"},
            {"rule": "minimum_size", "size": 50.0},
            {"rule": "smooth", "width": 1.0},
        ]
    )
    click(panel, panel.clean.form.preview_button)
    save(viewer, folder / "tab-measure-clean.png")
    click(panel, panel.clean.form.apply_button)
    panel.show_page("compare")
    panel.compare_form.truth.choose(before)
    click(panel, panel.compare_form.button)
    save(viewer, folder / "tab-measure-compare.png")
    panel.show_page("measure")
    viewer.layers.remove(before)
    for layer in [one for one in viewer.layers if role_of(one) == "disagreement"]:
        viewer.layers.remove(layer)


def batch(viewer: Any, dock: Any, folder: Path, temporary: Path) -> None:
    """The Batch tab over three scans, one of them damaged."""
    import numpy as np

    from napari_attention3d.volumes import read_volume, write_volume
    from napari_attention3d.volumes.samples import phantom_paths

    scans = temporary / "study"
    scans.mkdir()
    phantom = read_volume(phantom_paths()["mri"])
    for number in (1, 2, 3):
        array = np.roll(np.asarray(phantom.array), 2 * number, axis=1)
        write_volume(scans / f"subject-0{number}.nii.gz", phantom.replace(array=array))
    (scans / "subject-02.nii.gz").write_bytes(b"cut off")
    panel = dock.batch
    panel.form.add_sources([str(scans)])
    panel.form.out.setText(str(temporary / "masks"))
    wait(lambda: panel.form.button.isEnabled())
    click(panel, panel.form.button)
    save(viewer, folder / "tab-batch.png")


def click(panel: Any, button: Any) -> None:
    """Click and wait for the job."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    wait(lambda: button.isEnabled())
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)
    wait(lambda: not panel.is_busy)


def wait(done: Any) -> None:
    """Let the window live until `done()`."""
    from napari_attention3d.widgets.demo import wait_until

    wait_until(done)


def save(viewer: Any, path: Path) -> None:
    """Save the window."""
    from inspect_pictures import shrink
    from PIL import Image

    from napari_attention3d.widgets.demo import settle

    settle(800)
    viewer.status = "Ready"
    picture = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)).convert("RGB")
    picture.save(path)
    shrink(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/images"))
    main(parser.parse_args().folder)
