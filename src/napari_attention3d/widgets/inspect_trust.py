"""Is a map faithful? Curves, a table, a verdict."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QFormLayout, QPushButton, QSizePolicy

from ..analysis.table import Table
from ..errors import Attention3DError
from . import inspect_jobs
from .curves import CurvePlot
from .inspect_curves import save_curves
from .inspect_maps import MapsSection
from .inspect_runs import Runs
from .inspect_section import Section, onto_scan
from .measure_table import FiguresTable

if TYPE_CHECKING:
    from ..attention.faithfulness import Faithfulness
    from ..volumes.volume import Volume
    from .inspect_tasks import RunRecord

__all__ = ["TrustSection"]

_CURVES = ("most", "random", "least")


class TrustSection(Section):
    """Tests the maps whose eyes are open, in a window around the view's middle."""

    tested = Signal(object)
    """List of `Faithfulness`, after it is shown."""

    def __init__(self, runs: Runs, maps: MapsSection) -> None:
        super().__init__(runs)
        self.maps = maps
        self.results: list[Faithfulness] = []
        self._of: object = None
        self.class_combo, self.fill_combo = QComboBox(), QComboBox()
        self.fill_combo.addItem("blur", "blur")
        self.fill_combo.addItem("noise of the local mean and spread", "noise")
        self.result_combo, self.way_combo = QComboBox(), QComboBox()
        self.way_combo.addItem("taken out", "deletion")
        self.way_combo.addItem("put back", "insertion")
        self.about_label = self.words(
            "Parts of the scan are hidden, those first that the map marks most. If the mask's "
            "own probability falls faster than with parts drawn at random, the map is faithful."
        )
        self.button = QPushButton("Test the maps in view")
        self.verdict_label = self.words()
        self.plot = CurvePlot("% of the window")
        self.plot.setToolTip(
            "The mask's own probability while parts are hidden or put back: those first that the "
            "map marks most, parts drawn at random, those first that it marks least"
        )
        for name in _CURVES:
            self.plot.add_curve(name, share=True)
        self.save_button = QPushButton("Save the curves …")
        self.save_button.setToolTip("Of all tested maps, as PNG or SVG")
        self.figures = FiguresTable("Areas under the curves of all tested maps, and their points")
        self._lay_out()
        self.button.clicked.connect(self.test)
        self.save_button.clicked.connect(self._ask_and_save)
        self.result_combo.currentIndexChanged.connect(self._draw)
        self.way_combo.currentIndexChanged.connect(self._draw)
        self.figures.saved.connect(lambda path: runs.status.idle(f"Saved {path}"))
        self.figures.failed.connect(runs.status.idle)
        runs.changed.connect(self._on_runs)

    def _lay_out(self) -> None:
        self.column.addWidget(self.about_label)
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        for text, widget in (("Class", self.class_combo), ("Hidden by", self.fill_combo)):
            widget.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            form.addRow(text, widget)
        self.column.addLayout(form)
        self.column.addWidget(self.button)
        self._results = (
            self.result_combo,
            self.way_combo,
            self.plot,
            self.verdict_label,
            self.save_button,
            self.figures,
        )
        for widget in self._results:
            self.column.addWidget(widget)
            widget.setVisible(False)
        self._on_runs()

    def _on_runs(self) -> None:
        """List the classes of the model that made the newest mask."""
        record, before = self.runs.known(), self.class_combo.currentText()
        self.class_combo.clear()
        self.class_combo.addItem("all but the background", None)
        if record is not None and record.card is not None:
            for number, name in enumerate(record.card.class_names[1:], start=1):
                self.class_combo.addItem(name, number)
        self.class_combo.setCurrentIndex(max(0, self.class_combo.findText(before)))

    def test(self) -> None:
        """Test the maps in view on the worker's thread."""
        record = self.record()
        if record is None:
            return
        from ..attention.faithfulness import FaithfulnessOptions, passes_needed

        maps: dict[str, Volume] = {}
        left_out: list[str] = []
        for entry in self.maps.shown:
            if entry.group in ("What a change does", "What painting moved", "Features"):
                continue
            if not self.runs.fits(entry.layer, record):
                left_out.append(entry.title)
                continue
            try:
                maps[entry.title] = onto_scan(entry.layer, record.source)
            except Attention3DError as error:
                self.runs.status.idle(str(error))
                return
        options = FaithfulnessOptions(
            fill=self.fill_combo.currentData(), label=self.class_combo.currentData()
        )
        count = passes_needed(options, max(1, len(maps)))
        voxel = self.voxel(record)
        job = partial(inspect_jobs.test_job, self.runs.desk, record, maps, voxel, options)
        without = ""
        if left_out:
            without = f"Left out, as another run made them: {', '.join(left_out)}"
            if not maps:
                self.runs.status.idle(f"Nothing to test. {without}")
                return
        words = f"Testing, {count} passes of the network …"
        self.ask(job, "test maps", words, partial(self._show, record, without))

    @property
    def present(self) -> list[Faithfulness]:
        """Results of the run that is inspected now."""
        return self.results if self.is_of_now(self._of) else []

    def _show(self, record: RunRecord, without: str, results: list[Faithfulness]) -> None:
        self.results, self._of = results, record
        self.result_combo.blockSignals(True)
        self.result_combo.clear()
        for found in results:
            self.result_combo.addItem(f"{found.name} ({found.gain:+.3f})")
        best = max(range(len(results)), key=lambda i: results[i].gain)
        self.result_combo.setCurrentIndex(best)
        self.result_combo.blockSignals(False)
        for widget in self._results:
            widget.setVisible(True)
        from ..attention.faithfulness import faithfulness_table

        self.figures.show_table(faithfulness_table(results))
        self._draw()
        self.runs.status.idle(f"Tested. {without}" if without else "Tested")
        self.tested.emit(results)

    @property
    def tables(self) -> list[Table]:
        """A table per tested map of the run that is inspected now."""
        return [found.table for found in self.present]

    def _ask_and_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the curves", "curves.png", "Pictures (*.png *.svg)"
        )
        if path:
            self.save_curves(path)

    def save_curves(self, path: str) -> None:
        """Write the curves of all tested maps as PNG or SVG."""
        try:
            saved = save_curves(path, self.results)
        except Attention3DError as error:
            self.runs.status.idle(str(error))
            return
        self.runs.status.idle(f"Saved {saved}")

    def _draw(self, *_: object) -> None:
        index = self.result_combo.currentIndex()
        if not 0 <= index < len(self.results):
            return
        from ..attention.faithfulness import LEAST, MOST, RANDOM

        found, way = self.results[index], self.way_combo.currentData()
        self.plot.clear()
        for name, order in zip(_CURVES, (MOST, RANDOM, LEAST), strict=True):
            curve = found.curve(order, way)
            for fraction, score in zip(curve.fractions, curve.scores, strict=True):
                self.plot.append(name, 100 * fraction, score)
        self.verdict_label.setText(found.verdict)
