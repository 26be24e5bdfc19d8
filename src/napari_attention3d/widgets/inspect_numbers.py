"""How much of the chosen map falls on each label: a table."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton, QVBoxLayout, QWidget

from ..errors import Attention3DError
from .inspect_cursor import class_name
from .inspect_maps import MapsSection
from .inspect_runs import Runs
from .layers import LayerSource, layer_to_volume
from .measure_table import FiguresTable

if TYPE_CHECKING:
    from ..analysis.table import Table
    from ..volumes.volume import Volume

__all__ = ["NumbersSection", "in_view"]


_WHAT = (
    (
        "Within each label",
        "within",
        "mean, largest value and share of the map; “times even” above 1: more than the label's "
        "size alone would give",
    ),
    (
        "Inside, near and outside",
        "shares",
        "where the map lies about each label, in volumes of the scan's unit, and whether its "
        "largest value lies inside (pointing game)",
    ),
)


class NumbersSection(QWidget):
    """Counts the map that is chosen in the list within the mask that is shown."""

    counted = Signal()
    """A table is there."""

    def __init__(self, runs: Runs, maps: MapsSection) -> None:
        super().__init__()
        self.runs, self.maps = runs, maps
        self.tables: dict[str, Table] = {}
        self.what_combo = QComboBox()
        for title, name, tip in _WHAT:
            self.what_combo.addItem(title, name)
            self.what_combo.setItemData(
                self.what_combo.count() - 1, tip, Qt.ItemDataRole.ToolTipRole
            )
        self.what_combo.setToolTip("\n".join(f"{title}: {tip}" for title, _, tip in _WHAT))
        self.button = QPushButton("Count the chosen map")
        self.button.setToolTip("Of the map that is chosen in the list, in the mask that is shown")
        self.caption = QLabel("")
        self.caption.setWordWrap(True)
        self.figures = FiguresTable("Click a heading to sort")
        self.figures.setVisible(False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.what_combo, self.button, self.caption, self.figures):
            layout.addWidget(widget)
        self.button.clicked.connect(self.count)
        self.figures.saved.connect(self._on_saved)
        self.figures.failed.connect(runs.status.idle)

    def count(self) -> None:
        """Count, on the worker's thread."""
        layer, mask = self.maps.layer, self.runs.mask_layer()
        if layer is None:
            self.runs.status.idle("Choose a map in the list first")
            return
        if mask is None:
            self.runs.status.idle("No mask is shown: run the model, or make its mask visible")
            return
        try:
            values, labels = in_view(layer_to_volume(layer)), in_view(layer_to_volume(mask))
        except Attention3DError as error:
            self.runs.status.idle(str(error))
            return
        top = len(mask.features["index"]) if "index" in mask.features else 0
        names = {value: class_name(mask, value) for value in range(1, top)}
        what = str(self.what_combo.currentData())
        work = partial(_count, what, values, labels, names)
        self.runs.submit_call(work, "count per label", "Counting …", partial(self._show, what))

    def _show(self, what: str, table: Table) -> None:
        self.tables[what] = table
        self.figures.show_table(table, left_out=("label",) if _named(table) else ())
        self.figures.setVisible(True)
        self.caption.setText("\n".join(table.notes if what == "shares" else table.notes[:1]))
        self.runs.status.idle("Counted")
        self.counted.emit()

    def _on_saved(self, path: str) -> None:
        self.runs.status.idle(f"Saved {path}")


def in_view(source: LayerSource) -> Volume:
    """Return a layer's volume as it is shown, in the viewer's world: where maps and mask meet."""
    volume = source.volume
    array = source.show(np.asarray(volume.array))
    return volume.replace(array=array, geometry=source.shown)


def _named(table: Table) -> bool:
    return all(name is not None for name in table.column("name"))


def _count(what: str, values: Volume, labels: Volume, names: dict[int, str]) -> Table:
    from ..attention.by_label import attention_by_label
    from ..attention.localise import attention_shares

    if what == "shares":
        return attention_shares(values, labels, names)
    return attention_by_label(values, labels, names)
