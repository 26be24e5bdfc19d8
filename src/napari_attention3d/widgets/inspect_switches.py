"""The gate switch: force attention and see what becomes of the mask."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFormLayout, QHBoxLayout, QPushButton

from . import inspect_jobs
from .inspect_runs import Runs
from .inspect_section import Section, fit_dock, outline_mask, show_map
from .measure_table import FiguresTable

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..analysis.table import Table
    from ..attention.switches import Change, Effect
    from .inspect_tasks import RunRecord

__all__ = ["SwitchSection", "effect_words", "show_change"]

_CHOICES = {
    "one": [("forced to 1: all passes", ("one", 1.0))],
    "zero": [("forced to 0: nothing passes", ("zero", 1.0))],
    "scaled": [("scaled by …", ("scaled", 0.5))],
}
_NAMES = ("background", "gone", "new", "another class")
_COLOURS: dict[int | None, str] = {1: "#d55e00", 2: "#009e73", 3: "#cc79a7"}


class SwitchSection(Section):
    """A row per level: as learned, or forced."""

    changed = Signal(object)
    """`Effect`, after it is shown."""

    def __init__(self, runs: Runs) -> None:
        super().__init__(runs)
        self.combos: dict[str, QComboBox] = {}
        self.factors: dict[str, QDoubleSpinBox] = {}
        self._shown_of: object = None
        self._of: RunRecord | None = None
        self.about_label = self.words(
            "If a map matters, the mask must change when its attention is taken away."
        )
        self.form = QFormLayout()
        self.form.setContentsMargins(0, 0, 0, 0)
        self.where_combo = QComboBox()
        self.where_combo.addItem("In the tile in view", "tile")
        self.where_combo.addItem("In the whole run", "all")
        self.button = QPushButton("Show the levels")
        self.result_label = self.words()
        self.figures = FiguresTable("Dice between the mask before and after")
        self.figures.setVisible(False)
        self.column.addWidget(self.about_label)
        self.column.addLayout(self.form)
        for widget in (self.where_combo, self.button, self.result_label, self.figures):
            self.column.addWidget(widget)
        self.button.clicked.connect(self.start)
        self.figures.saved.connect(lambda path: runs.status.idle(f"Saved {path}"))
        self.figures.failed.connect(runs.status.idle)
        runs.changed.connect(self._forget)

    def _forget(self) -> None:
        """Another scan or run: its network may have other levels."""
        if self.runs.known() is self._of:
            return
        while self.form.rowCount():
            self.form.removeRow(0)
        self.combos.clear()
        self.factors.clear()
        self._of = None
        self.button.setText("Show the levels")

    def start(self) -> None:
        """List the levels first; then compute what changes."""
        record = self.record()
        if record is None:
            return
        if self._of is not record:
            opening = partial(inspect_jobs.parts_job, self.runs.desk, record)
            self.ask(opening, "open the run", "Opening the run …", partial(self._list, record))
            return
        changes = self.changes
        if not changes:
            self.runs.status.idle("All levels are as learned: force one of them first")
            return
        voxel = self.voxel(record) if self.where_combo.currentData() == "tile" else None
        job = partial(inspect_jobs.effect_job, self.runs.desk, record, changes, voxel)
        words = "Computing the mask as it is, and with the change …"
        self.ask(job, "force attention", words, partial(self._show, record))

    @property
    def changes(self) -> tuple[Change, ...]:
        """What is chosen."""
        from ..attention.switches import Change

        chosen: list[Change] = []
        for name, combo in self.combos.items():
            if combo.currentData() is not None:
                how, factor = combo.currentData()
                factor = self.factors[name].value() if how == "scaled" else factor
                chosen.append(Change(name, how, factor))
        return tuple(chosen)

    def _list(self, record: RunRecord, found: Any) -> None:
        self._forget()
        parts, _, titles = found
        self._of = record
        for name, ways in parts.items():
            combo = QComboBox()
            combo.addItem("as learned", None)
            for way in ways:
                for words, data in _CHOICES[way]:
                    combo.addItem(words, data)
            title = titles.get(name, name).removeprefix("attention ").removeprefix("guided ")
            self.form.addRow(title.removeprefix("attention, ").capitalize(), self._row(name, combo))
            self.combos[name] = combo
        fit_dock(self)
        self.button.setText("What changes?")
        self.button.setToolTip(
            "Computes the mask as it is and with the change: two runs of the tile, or of all"
        )
        if not parts:
            self.runs.status.idle("This model has neither gates nor position attention")
        else:
            self.runs.status.idle("Force a level, then press “What changes?”")

    def _row(self, name: str, combo: QComboBox) -> QHBoxLayout:
        """A level's combo, and how much it is scaled where that is chosen."""
        spin = QDoubleSpinBox()
        spin.setRange(0.0, 100.0)
        spin.setSingleStep(0.1)
        spin.setDecimals(2)
        spin.setValue(0.5)
        spin.setPrefix("× ")
        spin.setAccessibleName(f"Factor of {name}")
        spin.setToolTip("Factor of this level's attention: 0 takes it away, 1 leaves it as it is")
        spin.setVisible(False)
        self.factors[name] = spin

        def show_factor(*_: object) -> None:
            data = combo.currentData()
            spin.setVisible(data is not None and data[0] == "scaled")

        combo.currentIndexChanged.connect(show_factor)
        row = QHBoxLayout()
        row.addWidget(combo, 1)
        row.addWidget(spin)
        return row

    @property
    def tables(self) -> list[Table]:
        """Figures of the run that is inspected now."""
        table = self.figures.table
        return [table] if table is not None and self.is_of_now(self._shown_of) else []

    def _show(self, record: RunRecord, effect: Effect) -> None:
        show_change(self.runs, record, effect)
        self.result_label.setText(effect_words(effect))
        self._shown_of = record
        self.figures.show_table(effect.table, left_out=("label",))
        self.figures.setVisible(True)
        self.runs.status.idle("Compared")
        self.changed.emit(effect)


def show_change(runs: Runs, record: RunRecord, effect: Effect, what: str = "change") -> Layer:
    """Show the voxels of the mask that changed, as a layer; the mask itself as outlines.

    Parameters
    ----------
    what
        End of the layer's name; one of the same name is replaced.
    """
    from napari.utils.colormaps import DirectLabelColormap

    colours = {None: "transparent", 0: "transparent", **_COLOURS}
    model = record.card.name if record.card is not None else "model"
    features = {"index": list(range(4)), "name": list(_NAMES)}
    outline_mask(runs)  # its classes may have the same colours
    return show_map(
        runs.viewer,
        record,
        effect.difference,
        "change",
        f"{record.source.volume.name} · {model} · {what}",
        labels=True,
        colormap=DirectLabelColormap(color_dict=colours),
        features=features,
        opacity=0.8,
    )


def effect_words(effect: Effect) -> str:
    """Tell how much a change matters."""
    text = _changes_words(effect)
    count = effect.changed_voxels
    if not count:
        return f"{text}: not a voxel of the mask changes"
    changed = effect.table.rows[-1][-1]
    unit = effect.table.columns[-1].unit.replace("3", "³")
    assert isinstance(changed, int | float)
    return (
        f"{text}: Dice {effect.dice:.3f} between before and after, {changed:,.0f} {unit} changed "
        "(orange gone, green new, pink another class)"
    )


def _changes_words(effect: Effect) -> str:
    """What was forced; many of one kind are counted."""
    kinds = {replace(change, part="") for change in effect.changes}
    if len(kinds) == 1 and len(effect.changes) > 2:
        return f"{len(effect.changes)} maps {kinds.pop().text.strip()}"
    return "; ".join(change.text.replace("-", " ") for change in effect.changes)
