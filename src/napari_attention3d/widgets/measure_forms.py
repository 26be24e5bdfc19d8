"""Controls of the Measure tab's three pages; they know nothing of threads or jobs."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ..errors import InputError
from .measure_choosers import ImageList, LabelsChooser, role_of
from .measure_table import FiguresTable

__all__ = ["CompareForm", "MeasureForm", "paragraph", "primary_button"]


def primary_button(text: str) -> QPushButton:
    """The page's one main button."""
    button = QPushButton(text)
    button.setMinimumHeight(30)
    font = button.font()
    font.setBold(True)
    button.setFont(font)
    return button


def paragraph() -> QLabel:
    """A line of text that wraps and can be selected."""
    label = QLabel("")
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


class MeasureForm(QWidget):
    """Which images to look into, parts or whole labels, the table."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.images = ImageList(viewer)
        self.components_box = QCheckBox("Each connected part on its own")
        self.components_box.setToolTip(
            "A row per connected component, the largest first, instead of one per label"
        )
        self.connectivity = QComboBox()
        for count, words in ((26, "faces, edges, corners"), (18, "faces, edges"), (6, "faces")):
            self.connectivity.addItem(f"parts share {words}", count)
        self.connectivity.setToolTip("What voxels of one part must have in common (26, 18, 6)")
        self.connectivity.setEnabled(False)
        self.components_box.toggled.connect(self.connectivity.setEnabled)
        self.percentiles = QLineEdit("5, 50, 95")
        self.percentiles.setToolTip("Percentiles of the intensities inside, 0 to 100")
        self.button = primary_button("Measure")
        self.table = FiguresTable("Click a row to go there, a heading to sort")
        self.note = paragraph()
        choices = QFormLayout()
        choices.setContentsMargins(0, 0, 0, 0)
        label = QLabel("Inside")
        label.setToolTip(self.images.toolTip())
        label.setBuddy(self.images)
        choices.addRow(label, self.images)
        percent = QLabel("Percentiles")
        percent.setBuddy(self.percentiles)
        choices.addRow(percent, self.percentiles)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(choices)
        layout.addWidget(self.components_box)
        layout.addWidget(self.connectivity)
        layout.addWidget(self.button)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.note)

    def settings(self) -> dict[str, Any]:
        """Choices by the names that `analysis.measure.measure` has for them.

        Raises
        ------
        InputError
            If the percentiles are no numbers from 0 to 100.
        """
        text = self.percentiles.text()
        words = text.replace(";", ",").replace(",", " ").split()
        try:
            percentiles = tuple(float(word) for word in words)
        except ValueError as error:
            raise InputError(f"percentiles {text!r} are no numbers such as 5, 50, 95") from error
        if any(not 0 <= one <= 100 for one in percentiles):
            raise InputError(f"percentiles {text!r} must lie between 0 and 100")
        return {
            "components": self.components_box.isChecked(),
            "connectivity": int(self.connectivity.currentData()),
            "percentiles": percentiles,
        }


class CompareForm(QWidget):
    """The mask that is taken as true, tolerance, the table."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.truth = LabelsChooser(
            viewer, "no labels open", lambda layer: role_of(layer) not in _NO_MASKS
        )
        self.truth.setToolTip("The mask that is taken as true, on whose grid they are compared")
        self.tolerance = QDoubleSpinBox()
        self.tolerance.setRange(0, 1000)
        self.tolerance.setDecimals(2)
        self.tolerance.setSpecialValueText("the longest side of a voxel")
        self.tolerance.setToolTip(
            "Surfaces that are no farther apart than this count as the same (surface Dice)"
        )
        self.resample_box = QCheckBox("Resample if the grids differ")
        self.resample_box.setToolTip(
            "Lay the first mask on the other one's grid (nearest voxel); otherwise masks of "
            "different grids are refused"
        )
        self.button = primary_button("Compare")
        self.table = FiguresTable("A row per class; click a heading to sort")
        self.note = paragraph()
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        for text, widget in (("Truth", self.truth), ("Tolerance", self.tolerance)):
            label = QLabel(text)
            label.setBuddy(widget)
            form.addRow(label, widget)
        row = QHBoxLayout()
        row.addWidget(self.resample_box)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addLayout(row)
        layout.addWidget(self.button)
        layout.addWidget(self.note)
        layout.addWidget(self.table, 1)


_NO_MASKS = ("disagreement", "clean-up preview")
