"""How much of the chosen map falls on each label: a table."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ..errors import Attention3DError
from .inspect_cursor import class_name
from .inspect_curves import SvgView, save_drawing
from .inspect_maps import MapsSection
from .inspect_runs import Runs
from .layer_series import time_in_view
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
        self._tables: dict[str, tuple[object, Table]] = {}
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
        self.plot = SvgView()
        self.plot.setToolTip(
            "Where the map lies about each label; a dot marks where its largest value is"
        )
        self.plot_button = QPushButton("Save the bars …")
        self.plot_button.setToolTip("As PNG or SVG")
        for widget in (self.figures, self.plot, self.plot_button):
            widget.setVisible(False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (
            self.what_combo,
            self.button,
            self.caption,
            self.plot,
            self.plot_button,
            self.figures,
        ):
            layout.addWidget(widget)
        self.button.clicked.connect(self.count)
        self.plot_button.clicked.connect(self._ask_and_save)
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
            values = layer_to_volume(layer)
            labels = layer_to_volume(mask, leading=time_in_view(self.runs.viewer, mask))
        except Attention3DError as error:
            self.runs.status.idle(str(error))
            return
        top = len(mask.features["index"]) if "index" in mask.features else 0
        names = {value: class_name(mask, value) for value in range(1, top)}
        what = str(self.what_combo.currentData())
        work = partial(_count, what, values, labels, names)
        done = partial(self._show, what, self.runs.here())
        self.runs.submit_call(work, "count per label", "Counting …", done)

    @property
    def tables(self) -> dict[str, Table]:
        """Those of the run that is inspected now."""
        here = self.runs.here()
        return {what: table for what, (of, table) in self._tables.items() if of == here}

    def _show(self, what: str, of: object, table: Table) -> None:
        self._tables[what] = of, table
        self._draw(what, table)
        self.figures.show_table(table, left_out=("label",) if _named(table) else ())
        self.figures.setVisible(True)
        notes = table.notes if what == "shares" else table.notes[:1] + table.notes[2:]
        self.caption.setText("\n".join(notes))
        self.runs.status.idle("Counted")
        self.counted.emit()

    def _draw(self, what: str, table: Table) -> None:
        """Show shares as bars, too."""
        from ..attention.shares_svg import shares_svg

        bars = what == "shares"
        if bars:
            self.plot.show_svg(shares_svg(table))
        self.plot.setVisible(bars)
        self.plot_button.setVisible(bars)

    def _ask_and_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the bars", "attention-shares.png", "Pictures (*.png *.svg)"
        )
        if path:
            self.save_plot(path)

    def save_plot(self, path: str) -> None:
        """Write the bars that were drawn last as PNG or SVG."""
        from ..attention.shares_svg import shares_svg

        try:
            saved = save_drawing(path, shares_svg(self._tables["shares"][1]))
        except Attention3DError as error:
            self.runs.status.idle(str(error))
            return
        self._on_saved(str(saved))

    def _on_saved(self, path: str) -> None:
        self.runs.status.idle(f"Saved {path}")


def in_view(source: LayerSource, *, lazy: bool = False) -> Volume:
    """Return a layer's volume as it is shown, in the viewer's world: where maps and mask meet.

    Parameters
    ----------
    lazy
        Leave an array that is on the disk there.
    """
    volume = source.volume
    array = source.show(volume.array if lazy else np.asarray(volume.array))
    return volume.replace(array=array, geometry=source.shown)


def _named(table: Table) -> bool:
    return all(name is not None for name in table.column("name"))


def _count(what: str, layer: LayerSource, mask: LayerSource, names: dict[int, str]) -> Table:
    values, labels = in_view(layer), in_view(mask)  # lazy ones are read here, not by the window
    from ..attention.by_label import attention_by_label
    from ..attention.localise import attention_shares
    from ..provenance import edit_note

    figures = attention_shares if what == "shares" else attention_by_label
    return figures(values, labels, names).noted(edit_note(mask.volume))
