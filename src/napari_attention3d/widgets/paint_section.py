"""Paint the attention: strokes, a trained copy, what moved, accept or discard."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
)

from ..errors import Attention3DError
from .correct_form import _swatch
from .inspect_runs import Runs
from .inspect_section import Section, outline_mask
from .measure_table import FiguresTable
from .paint_jobs import PaintResult, move_job, save_painted
from .paint_layers import (
    COLOURS,
    NAMES,
    find_strokes,
    make_strokes,
    painted_counts,
    read_strokes,
    write_strokes,
)
from .paint_results import MovedLayers, result_words

if TYPE_CHECKING:
    from napari.layers import Labels

    from ..analysis.table import Table
    from ..volumes.volume import Volume

__all__ = ["PaintSection"]

_FORMATS = "NIfTI (*.nii.gz *.nii);;TIFF (*.tif);;All files (*)"


class PaintSection(Section):
    """Brushes, the button that trains, and what is done with the result."""

    painting = Signal()
    """A brush was chosen: scan and maps must be seen."""
    moved = Signal(object)
    """`PaintResult`, after it is shown."""
    accepted = Signal(object)
    """Path of the saved model."""

    def __init__(self, runs: Runs) -> None:
        super().__init__(runs)
        self.result: PaintResult | None = None
        self._layers: MovedLayers | None = None
        self.about_label = self.words(
            "Paint where the network shall look, and where not. A copy of it is trained until its "
            "attention follows; the mask is kept as far as possible. Ctrl+Z takes a stroke back. "
            "Strokes are saved only if you save them."
        )
        self.column.addWidget(self.about_label)
        self._add_brushes()
        self._add_training()
        self._add_outcome()
        self._update()

    def _add_brushes(self) -> None:
        self.brushes = QButtonGroup(self)
        self.brushes.setExclusive(True)
        row = QHBoxLayout()
        for value, text in ((1, "Look here"), (2, "Not here"), (0, "Erase")):
            button = QPushButton(text)
            button.setCheckable(True)
            if value:
                button.setIcon(_swatch(COLOURS[value]))
            button.setToolTip(f"Paint “{NAMES[value]}”" if value else "Take strokes away again")
            button.clicked.connect(partial(self.choose, value))
            self.brushes.addButton(button, value)
            row.addWidget(button)
        self.column.addLayout(row)
        self.save_button, self.open_button = QPushButton("Save strokes …"), QPushButton("Open …")
        self.save_button.clicked.connect(self._ask_and_save)
        self.open_button.clicked.connect(self._ask_and_open)
        self.open_button.setToolTip("Strokes that were painted on this scan before")
        row = QHBoxLayout()
        row.addWidget(self.save_button)
        row.addWidget(self.open_button)
        self.column.addLayout(row)

    def _add_training(self) -> None:
        self.button = QPushButton("Move the attention")
        self.button.setToolTip(
            "Trains a copy of the network on the strokes; then computes attention and mask with "
            "the network as it was, and with the copy. Nothing is taken over before you accept"
        )
        self.seconds_spin = QSpinBox()
        self.seconds_spin.setRange(5, 3600)
        self.seconds_spin.setValue(60)
        self.seconds_spin.setSuffix(" s")
        self.seconds_spin.setToolTip("Most time that the training takes")
        self.where_combo = QComboBox()
        self.where_combo.addItem("Compare around the strokes", False)
        self.where_combo.addItem("Compare in the whole run", True)
        row = QHBoxLayout()
        row.addWidget(self.button, 1)
        row.addWidget(self.seconds_spin)
        self.column.addWidget(self.where_combo)
        self.column.addLayout(row)
        self.button.clicked.connect(self.start)

    def _add_outcome(self) -> None:
        self.result_label = self.words()
        # A fold does not ask how high words get at its width.
        for label, lines in ((self.about_label, 6), (self.result_label, 8)):
            label.setMinimumHeight(lines * self.fontMetrics().lineSpacing())
        self.figures = FiguresTable("Share of each map under the strokes")
        self.accept_button = QPushButton("Accept …")
        self.accept_button.setToolTip(
            "Save the trained copy as a model and choose it for the next run; corrections can "
            "start from it, too. The model that you had stays"
        )
        self.discard_button = QPushButton("Discard")
        self.discard_button.setToolTip("Forget the trained copy; the network is as before")
        row = QHBoxLayout()
        row.addWidget(self.accept_button)
        row.addWidget(self.discard_button)
        for widget in (self.result_label, self.figures):
            self.column.addWidget(widget)
        self.column.addLayout(row)
        self.accept_button.clicked.connect(self._ask_and_accept)
        self.discard_button.clicked.connect(self.discard)
        self.figures.saved.connect(lambda path: self.runs.status.idle(f"Saved {path}"))
        self.figures.failed.connect(self.runs.status.idle)

    def _update(self) -> None:
        there = self.result is not None
        for widget in (self.result_label, self.figures, self.accept_button, self.discard_button):
            widget.setVisible(there)

    # ---- strokes

    def layer(self) -> Labels | None:
        """Return the strokes on the chosen scan, if there are any."""
        try:
            return find_strokes(self.runs.viewer, self.runs.source())
        except Attention3DError:
            return None

    def choose(self, value: int, *_: object) -> None:
        """Paint 1, look here, or 2, not here, from now on; 0 erases."""
        try:
            source = self.runs.source()
        except Attention3DError as error:
            self._refuse(str(error))
            return
        layer = self.layer() or make_strokes(self.runs.viewer, source)
        layer.visible = True
        outline_mask(self.runs)  # one paints on the scan, which must be seen
        self.painting.emit()
        self.runs.viewer.layers.selection.active = layer
        if value:
            layer.selected_label = value
        layer.mode = "paint" if value else "erase"
        button = self.brushes.button(value)
        if button is not None:
            button.setChecked(True)
        in_3d = self.runs.viewer.dims.ndisplay == 3
        where = "; strokes in 3D land on the surface, 2D is easier" if in_3d else ""
        words = (
            f"Paint “{NAMES[value]}” on the scan" if value else "Wipe over strokes to erase them"
        )
        self.runs.status.idle(words + where)

    def strokes(self) -> Volume | None:
        """Return a copy of what is painted on the chosen scan; else the status says what to do."""
        layer = self.layer()
        if layer is None:
            self._refuse("Press “Look here” or “Not here” and paint on the scan first")
            return None
        try:
            volume = read_strokes(layer, self.runs.source())
        except Attention3DError as error:
            self._refuse(str(error))
            return None
        if not any(painted_counts(volume)):
            self._refuse("Nothing is painted: press “Look here” or “Not here” and paint first")
            return None
        return volume

    def _refuse(self, words: str) -> None:
        button = self.brushes.checkedButton()
        if button is not None and self.layer() is None:
            self.brushes.setExclusive(False)
            button.setChecked(False)
            self.brushes.setExclusive(True)
        self.runs.status.idle(words)

    def _ask_and_save(self) -> None:
        if self.strokes() is not None:
            path, _ = QFileDialog.getSaveFileName(
                self, "Save the strokes", "attention-strokes.nii.gz", _FORMATS
            )
            if path:
                self.save_strokes(path)

    def save_strokes(self, path: str) -> None:
        """Write the strokes on the scan's grid, as labels 1 and 2."""
        from ..volumes import write_volume

        volume = self.strokes()
        if volume is not None:
            metadata = {**volume.metadata, "kind": "labels"}
            work = partial(write_volume, path, volume.replace(metadata=metadata))
            done = self.runs.status.idle
            self.runs.submit_call(
                work, "save strokes", "Saving the strokes …", lambda _: done(f"Saved {path}")
            )

    def _ask_and_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open strokes", "", _FORMATS)
        if path:
            self.open_strokes(path)

    def open_strokes(self, path: str) -> None:
        """Show strokes of a file instead of those that are there."""
        from ..volumes import read_volume

        try:
            self.runs.source()
        except Attention3DError as error:
            self._refuse(str(error))
            return
        work = partial(read_volume, path)
        self.runs.submit_call(work, "open strokes", "Opening the strokes …", self._on_opened)

    def _on_opened(self, volume: Volume) -> None:
        try:
            source = self.runs.source()
            layer = self.layer() or make_strokes(self.runs.viewer, source)
            write_strokes(layer, source, volume)
        except Attention3DError as error:
            self._refuse(str(error))
            return
        look, away = painted_counts(volume)
        self.runs.status.idle(f"{look:,} voxels to look at, {away:,} not to look at")

    # ---- training

    def start(self) -> None:
        """Train a copy on the worker's thread and compare."""
        record = self.record()
        strokes = None if record is None else self.strokes()
        if record is None or strokes is None:
            return
        job = partial(
            move_job,
            self.runs.desk,
            record,
            strokes,
            float(self.seconds_spin.value()),
            bool(self.where_combo.currentData()),
        )
        words = "Training a copy on the strokes …"
        run = self.runs.submit(job, "paint the attention", words, self._show)
        if run is not None:
            run.cancelled.connect(self._on_cancelled)

    def _on_cancelled(self) -> None:
        self.runs.status.idle("Cancelled; the network is as before, the strokes are kept")

    def _show(self, result: PaintResult) -> None:
        self._forget()
        self.result = result
        self._layers = MovedLayers(self.runs, result)
        self.result_label.setText(result_words(result))
        self.figures.show_table(result.moved.table)
        self.accept_button.setEnabled(True)
        self._update()
        self.runs.status.idle(result_words(result).split("\n", 1)[0])
        self.moved.emit(result)

    def _forget(self) -> None:
        if self._layers is not None:
            self._layers.remove()
        self.result = self._layers = None
        self.figures.clear()

    @property
    def tables(self) -> list[Table]:
        """Figures of the run that is inspected now."""
        if self.result is None or not self.is_of_now(self.result.record):
            return []
        return [self.result.moved.table, self.result.moved.effect.table]

    def discard(self) -> None:
        """Forget the trained copy and its layers; the strokes stay."""
        self._forget()
        self._update()
        self.runs.status.idle("Discarded; the network is as before, the strokes are kept")

    def _ask_and_accept(self) -> None:
        from ..models.store import user_models_folder

        if self.result is None:
            return
        folder = user_models_folder()
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.result.model.card.name}-looks.safetensors"
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the model", str(folder / name), "Models (*.safetensors)"
        )
        if path:
            self.accept(Path(path))

    def accept(self, path: Path) -> None:
        """Save the trained copy as a model file, to be used from now on."""
        if self.result is None:
            return
        if path.suffix != ".safetensors":
            path = path.with_name(path.name + ".safetensors")
        work = partial(save_painted, self.result, path)
        self.runs.submit_call(work, "save the model", "Saving the model …", self._on_saved)

    def _on_saved(self, path: Any) -> None:
        self.accept_button.setEnabled(False)
        self.runs.status.idle(f"Saved {path}; it is chosen for the next run")
        self.accepted.emit(path)
