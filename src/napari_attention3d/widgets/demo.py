"""The main job, done in a real window with real clicks: what a newcomer would do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, JobCancelled
from ..volumes.atomic import atomic_path
from .layers import KEY
from .worker import JobFailure

if TYPE_CHECKING:
    import napari

    from .main_widget import Attention3DWidget

__all__ = ["arrange_view", "run_demo", "wait_until"]

_PLUGIN = "napari-attention3d"


def run_demo(
    out: Path | None,
    headless: bool,
    *,
    model: str = "brain-attention-unet",
    size: tuple[int, int] = (1600, 1000),
) -> dict[str, Any]:
    """Segment the MNI152 brain in napari, as a person would.

    Opens a viewer and the plugin's dock, opens the sample, chooses the model, clicks
    Run, waits, arranges the view.

    Parameters
    ----------
    out
        Existing folder for ``napari.png``, a picture of the whole window; None: no picture.
    headless
        Close the viewer at the end. Else napari stays open until the person closes it.
    model
        Name of an installed model, or a model file.
    size
        Of the window, in pixels (width, height).

    Returns
    -------
    dict
        "segmentation": the `Segmentation`; "picture": its path or None.

    Raises
    ------
    InputError
        If the model or the sample is not there.
    JobCancelled
        If the person cancelled the run or closed the window.
    Attention3DError
        Whatever the run raises.
    """
    import napari

    viewer = napari.Viewer(title="napari")
    try:
        viewer.window.resize(*size)
        _, widget = viewer.window.add_plugin_dock_widget(_PLUGIN, "Attention 3D")
        viewer.open_sample(_PLUGIN, "mni152")
        segmentation = _segment(widget, model)
        arrange_view(viewer)
        picture = None
        if out is not None:
            picture = save_window(viewer, Path(out) / "napari.png")
        if not headless:
            napari.run()
    finally:
        if headless:
            viewer.close()
    return {"segmentation": segmentation, "picture": picture}


def _segment(widget: Attention3DWidget, model: str) -> Any:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    panel = widget.segment
    failures: list[JobFailure] = []
    panel.failed.connect(failures.append)
    wait_until(lambda: panel.is_ready or bool(failures))
    if failures:
        raise failures[0].error
    _choose(widget, model)
    button = panel.form.run_button
    wait_until(lambda: panel.has_looked_ahead)
    if not button.isEnabled():
        raise InputError(str(button.toolTip()))
    QTest.mouseClick(button, Qt.MouseButton.LeftButton)
    wait_until(lambda: not panel.is_running)
    if failures:
        raise failures[0].error
    if panel.last is None:
        raise JobCancelled("the demo was cancelled")
    return panel.last


def _choose(widget: Attention3DWidget, model: str) -> None:
    form = widget.segment.form
    form.attention_box.setChecked(True)  # whatever was remembered: the maps are the point
    index = form.model_combo.findData(model)
    if index >= 0:
        form.model_combo.setCurrentIndex(index)
    elif Path(model).is_file():
        form.add_model_file(model)
    else:
        raise InputError(
            f"model {model!r} is not installed; `napari-attention3d models list` shows what is"
        )


def wait_until(done: Callable[[], bool], interval: int = 30) -> None:
    """Let the window live until `done()`; checked every `interval` ms.

    Raises
    ------
    JobCancelled
        If the window is closed meanwhile.
    """
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    closed: list[RuntimeError] = []

    def check() -> None:
        try:
            if done():
                loop.quit()
        except RuntimeError as error:  # Qt's way of saying that the widget is gone
            closed.append(error)
            loop.quit()

    timer = QTimer()
    timer.timeout.connect(check)
    timer.start(interval)
    loop.exec()
    timer.stop()
    if closed:
        raise JobCancelled("the window was closed before the run was over") from closed[0]


def arrange_view(viewer: napari.Viewer) -> None:
    """Show a coronal slice, superior up, with labels and the finest attention map."""
    viewer.dims.order = (1, 0, 2)
    viewer.camera.orientation2d = ("up", "right")
    viewer.scale_bar.visible = True
    for layer in viewer.layers:
        entry = layer.metadata.get(KEY, {})
        role = entry.get("role", "")
        if role == "labels":
            layer.opacity = 0.4
        elif role.startswith("attention:"):
            layer.opacity = 0.3
    middle = [(low + high) / 2 for low, high, _ in viewer.dims.range]
    viewer.dims.point = middle
    viewer.reset_view()
    settle()


def save_window(viewer: napari.Viewer, path: Path) -> Path:
    """Save a picture of the whole window, atomically.

    Raises
    ------
    OutputError
        If the file can't be written.
    """
    settle()
    with atomic_path(path) as temporary:
        viewer.screenshot(path=str(temporary), canvas_only=False, flash=False)
    return path


def settle(milliseconds: int = 400) -> None:
    """Give the window time to draw."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()
