"""Controls of the probe: on and off, which question, which scale, what came back."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    from ..attention.ask import Kind

__all__ = ["ProbeForm"]

_QUESTIONS: tuple[tuple[Kind, str, str], ...] = (
    (
        "row",
        "Where does it look?",
        "The position-attention row of the voxel: the share of its attention that it gives to "
        "every place; sums to 1. Milliseconds once its tile is kept.",
    ),
    (
        "column",
        "Who looks here?",
        "The column: the share of its attention that every place gives to this voxel. "
        "Up to about a second per tile.",
    ),
    (
        "label",
        "Who looks at this label?",
        "The share of its attention that every place gives to the label under the mouse. "
        "A second or two per tile.",
    ),
    (
        "hubs",
        "Most looked-at places",
        "The share of all attention in the tile that falls on each place. About a second per tile.",
    ),
)


class ProbeForm(QWidget):
    """What the person sets for a question; knows nothing of layers or networks."""

    switched = Signal(bool)
    changed = Signal()
    scale_changed = Signal()
    guided_clicked = Signal()
    pin_clicked = Signal()
    peak_clicked = Signal()
    clear_clicked = Signal()
    dim_changed = Signal()
    same_changed = Signal()
    pin_toggled = Signal(int, bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.probe_button = QPushButton("Ask a voxel")
        self.probe_button.setCheckable(True)
        self.probe_button.setMinimumHeight(30)
        self.probe_button.setToolTip(
            "Click a voxel, in 2D or 3D, to see where the network looks for it (Ctrl+Alt+P)"
        )
        self.hover_box = QCheckBox("Follow the mouse")
        self.hover_box.setToolTip(
            "Answer while the mouse moves, within tiles that were asked before"
        )
        self.question_combo = QComboBox()
        for kind, title, tip in _QUESTIONS:
            self.question_combo.addItem(title, kind)
            self.question_combo.setItemData(
                self.question_combo.count() - 1, tip, Qt.ItemDataRole.ToolTipRole
            )
        self.scale_combo = QComboBox()
        self.scale_combo.setToolTip("Of the guided network's scales and refinement steps")
        self.scale_combo.setEnabled(False)
        self.centre_box = QCheckBox("Re-centre the window on the voxel")
        self.centre_box.setToolTip(
            "Compute a window around the voxel instead of the tile that made the mask: it sees as "
            "far to all sides, but it is not what made the mask. Costs one tile."
        )
        self.lines_box = QCheckBox("Lines to its strongest targets")
        self.lines_box.setToolTip("A Vectors layer to the 12 strongest places; costs nothing")
        self.dim_box = QCheckBox("Dim the scan, outline the mask")
        self.dim_box.setChecked(True)
        self.dim_box.setToolTip("While answers lie on them, to let these be seen; undone by Clear")
        self._answer()
        self._pins()
        self._lay_out()
        self._connect()
        self._explain()

    # ---- values

    @property
    def kind(self) -> Kind:
        """Which question is asked."""
        kind: Kind = self.question_combo.currentData()
        return kind

    @property
    def scale(self) -> str:
        """Name of the map to show; "" if none was answered yet."""
        return str(self.scale_combo.currentData() or "")

    def set_scales(self, scales: list[tuple[str, str]]) -> None:
        """List the maps of an answer (name, title); keeps the choice where it is still there."""
        names = [self.scale_combo.itemData(i) for i in range(self.scale_combo.count())]
        if names == [name for name, _ in scales]:
            return
        before = self.scale
        self.scale_combo.blockSignals(True)
        self.scale_combo.clear()
        for name, title in scales:
            self.scale_combo.addItem(title, name)
        self.scale_combo.setCurrentIndex(max(0, self.scale_combo.findData(before)))
        self.scale_combo.setEnabled(bool(scales))
        self.scale_combo.blockSignals(False)

    def say(self, text: str, *, offer_guided: bool = False) -> None:
        """Show an answer in words."""
        self.answer_label.setText(text)
        self.guided_button.setVisible(offer_guided)

    def set_pinned(self, titles: list[str]) -> None:
        """List the pinned answers; all are shown."""
        self.pins_list.blockSignals(True)
        self.pins_list.clear()
        for title in titles:
            item = QListWidgetItem(title)
            item.setCheckState(Qt.CheckState.Checked)
            self.pins_list.addItem(item)
        self.pins_list.blockSignals(False)
        self.pins_list.setVisible(bool(titles))
        self.same_box.setVisible(bool(titles))
        self.clear_button.setEnabled(bool(titles))

    # ---- building

    def _answer(self) -> None:
        self.answer_label = QLabel("Switch the probe on and click a voxel.")
        self.answer_label.setWordWrap(True)
        self.answer_label.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self.answer_label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.answer_label.setMinimumHeight(5 * self.fontMetrics().lineSpacing())
        self.guided_button = QPushButton("Ask the guided model here")
        self.guided_button.setToolTip(
            "Look at a window around the voxel with an installed guided-attention model: one "
            "tile, a few seconds. It is another model than the one that made this mask."
        )
        self.guided_button.setVisible(False)

    def _pins(self) -> None:
        self.peak_button = QPushButton("Go to the peak")
        self.peak_button.setToolTip("Move to the slice where the map is strongest")
        self.peak_button.setEnabled(False)
        self.pin_button = QPushButton("Pin")
        self.pin_button.setToolTip("Keep its layers, to compare with the next places")
        self.pin_button.setEnabled(False)
        self.clear_button = QPushButton("Clear")
        self.clear_button.setToolTip("Remove all answers from the viewer")
        self.same_box = QCheckBox("Same range for all answers")
        self.same_box.setToolTip(
            "Colours of pinned answers and of the newest one reach to the same value, so that "
            "they can be compared; else each to its own largest value"
        )
        self.same_box.setVisible(False)
        self.pins_list = QListWidget()
        self.pins_list.setMaximumHeight(84)
        self.pins_list.setVisible(False)
        self.pins_list.setToolTip("Pinned answers; untick to hide")

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        top.addWidget(self.probe_button, 1)
        top.addWidget(self.hover_box)
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        for text, widget in (("Question", self.question_combo), ("Scale", self.scale_combo)):
            widget.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            label = QLabel(text)
            label.setBuddy(widget)
            form.addRow(label, widget)
        pins = QHBoxLayout()
        pins.addWidget(self.peak_button, 1)
        pins.addWidget(self.pin_button)
        pins.addWidget(self.clear_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(top)
        layout.addLayout(form)
        for box in (
            self.centre_box,
            self.lines_box,
            self.dim_box,
            self.answer_label,
            self.guided_button,
        ):
            layout.addWidget(box)
        layout.addLayout(pins)
        layout.addWidget(self.same_box)
        layout.addWidget(self.pins_list)

    def _connect(self) -> None:
        self.probe_button.toggled.connect(self.switched)
        self.question_combo.currentIndexChanged.connect(self._explain)
        for signal in (
            self.question_combo.currentIndexChanged,
            self.centre_box.toggled,
            self.lines_box.toggled,
        ):
            signal.connect(self._on_changed)
        self.scale_combo.currentIndexChanged.connect(self._on_scale)
        self.guided_button.clicked.connect(self.guided_clicked)
        self.pin_button.clicked.connect(self.pin_clicked)
        self.peak_button.clicked.connect(self.peak_clicked)
        self.clear_button.clicked.connect(self.clear_clicked)
        self.dim_box.toggled.connect(self._on_dim)
        self.same_box.toggled.connect(self._on_same)
        self.pins_list.itemChanged.connect(self._on_pin)

    def _explain(self, *_: object) -> None:
        index = self.question_combo.currentIndex()
        tip = self.question_combo.itemData(index, Qt.ItemDataRole.ToolTipRole)
        self.question_combo.setToolTip(str(tip))

    def _on_changed(self, *_: object) -> None:
        self.changed.emit()

    def _on_scale(self, *_: object) -> None:
        self.scale_changed.emit()

    def _on_dim(self, *_: object) -> None:
        self.dim_changed.emit()

    def _on_same(self, *_: object) -> None:
        self.same_changed.emit()

    def _on_pin(self, item: QListWidgetItem) -> None:
        on = item.checkState() == Qt.CheckState.Checked
        self.pin_toggled.emit(self.pins_list.row(item), on)
