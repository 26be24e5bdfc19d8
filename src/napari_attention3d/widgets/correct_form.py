"""The Correct tab during a session: classes to paint, Learn, approvals, rounds, curves."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from .correct_rounds import RoundsView
from .correct_view import DEPTH

__all__ = ["SessionForm"]

_COLUMNS = 2
APPROVE = {
    "slice": "This slice",
    "region": f"What the canvas shows, ± {DEPTH} slices",
    "label": "The chosen class, everywhere",
    "all": "The whole scan",
}


class SessionForm(QWidget):
    """Controls of an open session; knows nothing of layers, sessions or threads."""

    class_chosen = Signal(int)
    """Label to paint with; 0 erases strokes."""
    learn_clicked = Signal()
    auto_toggled = Signal(bool)
    train_clicked = Signal()
    next_clicked = Signal()
    flip_clicked = Signal()
    approve_clicked = Signal(str)
    """Key of `APPROVE`, or "withdraw"."""
    save_clicked = Signal()
    close_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.title = QLabel("")
        self.title.setWordWrap(True)
        self.close_button = QPushButton("Close")
        self._close_tip = "End this session; the mask stays, the strokes can be resumed"
        self._build_brushes()
        self._build_learn()
        self._build_rest()
        head = QHBoxLayout()
        head.addWidget(self.title, 1)
        head.addWidget(self.close_button, 0, Qt.AlignmentFlag.AlignTop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(head)
        layout.addWidget(self._brushes)
        layout.addWidget(self.painted_label)
        layout.addWidget(self.learn_button)
        layout.addWidget(self.auto_box)
        layout.addLayout(self._row)
        layout.addWidget(self.approved_label)
        layout.addWidget(self.flip_button)
        layout.addWidget(self.rounds)
        layout.addWidget(self.network_fold)
        self.close_button.clicked.connect(self.close_clicked)

    # ---- building

    def _build_brushes(self) -> None:
        self._brushes = QWidget()
        self._grid = QGridLayout(self._brushes)
        self._grid.setContentsMargins(0, 2, 0, 2)
        self._grid.setSpacing(4)
        self._group = QButtonGroup(self)
        self._group.setExclusive(True)
        self.brush_buttons: dict[int, QPushButton] = {}
        self.painted_label = QLabel("")
        self.painted_label.setWordWrap(True)

    def _build_learn(self) -> None:
        self.learn_button = QPushButton("Learn from corrections")
        self.learn_button.setMinimumHeight(34)
        font = self.learn_button.font()
        font.setBold(True)
        self.learn_button.setFont(font)
        self.learn_button.clicked.connect(self.learn_clicked)
        self.auto_box = QCheckBox("Learn by itself when I pause")
        self.auto_box.setToolTip("Begins a moment after your last stroke")
        self.auto_box.toggled.connect(self.auto_toggled)

    def _build_rest(self) -> None:
        self.next_button = QPushButton("Next place to check")
        self.approve_button = QPushButton("Approve")
        self.approve_button.setToolTip(
            "What you approve stays as it is, whatever is learned; only a stroke changes it"
        )
        menu = QMenu(self.approve_button)
        for key, text in APPROVE.items():
            menu.addAction(text, partial(self.approve_clicked.emit, key))
        menu.addSeparator()
        self.withdraw_action = menu.addAction(
            "Withdraw all approvals", partial(self.approve_clicked.emit, "withdraw")
        )
        self.approve_button.setMenu(menu)
        self.approved_label = QLabel("")
        self.approved_label.setWordWrap(True)
        self.flip_button = QPushButton("")
        self.flip_button.setToolTip(
            "Goes to one place after the other where the last round would have changed what you "
            "approved (Ctrl+Alt+F)"
        )
        self.flip_button.hide()
        self.flip_button.clicked.connect(self.flip_clicked)
        self._row = QHBoxLayout()
        self._row.addWidget(self.next_button, 1)
        self._row.addWidget(self.approve_button)
        self.rounds = RoundsView()
        self.train_button = QPushButton("Train the network")
        self.seconds_spin = QSpinBox()
        self.seconds_spin.setRange(10, 3600)
        self.seconds_spin.setSingleStep(30)
        self.seconds_spin.setValue(60)
        self.seconds_spin.setSuffix(" s")
        self.seconds_spin.setToolTip("Most time the training takes; it stops when nothing improves")
        self.save_button = QPushButton("Save model as …")
        row = QHBoxLayout()
        row.addWidget(self.train_button, 1)
        row.addWidget(self.seconds_spin)
        inner = QWidget()
        box = QVBoxLayout(inner)
        box.setContentsMargins(4, 2, 0, 2)
        about = QLabel(
            "Learning corrects this scan. To use it on other scans, train the network on your "
            "strokes and save it."
        )
        about.setWordWrap(True)
        box.addWidget(about)
        box.addLayout(row)
        box.addWidget(self.rounds.loss_plot)
        box.addWidget(self.save_button)
        self.network_fold = QCollapsible("A model for other scans")
        self.network_fold.addWidget(inner)
        self.network_fold.setExpandedIcon("▾")
        self.network_fold.setCollapsedIcon("▸")
        self.network_fold.setDuration(0)
        self.network_fold.collapse(animate=False)
        self.next_button.clicked.connect(self.next_clicked)
        self.train_button.clicked.connect(self.train_clicked)
        self.save_button.clicked.connect(self.save_clicked)

    # ---- what it shows

    def set_classes(self, classes: Sequence[str], colours: Sequence[str], marker: int) -> None:
        """Make a button per class, the background's first, and one that erases strokes."""
        for button in self.brush_buttons.values():
            self._group.removeButton(button)
            self._grid.removeWidget(button)
            button.deleteLater()
        self.brush_buttons = {}
        entries = [(value, classes[value], colours[value]) for value in range(1, len(classes))]
        entries.append((marker, classes[0], "#f5f5f5"))
        entries.append((0, "erase strokes", ""))
        for number, (value, name, colour) in enumerate(entries):
            button = QPushButton(name if len(name) <= 18 else name[:17] + "…")
            button.setCheckable(True)
            if colour:
                button.setIcon(_swatch(colour))
            button.setToolTip(_brush_tip(value, name, marker))
            button.clicked.connect(partial(self.class_chosen.emit, value))
            self._group.addButton(button)
            self._grid.addWidget(button, number // _COLUMNS, number % _COLUMNS)
            self.brush_buttons[value] = button

    def show_brush(self, value: int) -> None:
        """Mark the class that the brush paints."""
        button = self.brush_buttons.get(value)
        if button is not None:
            button.setChecked(True)

    def set_free(self, free: bool, why: str, *, learning: str, network: bool) -> None:
        """Enable the buttons.

        Parameters
        ----------
        free
            Whether nothing runs.
        why
            What to say if something does.
        learning
            "learn" or "train" while that runs.
        network
            Whether there is a network to save.
        """
        self.learn_button.setText(
            {"learn": "Learning …", "train": "Training …"}.get(learning, "Learn from corrections")
        )
        untrained = "" if network else "Train the network first; then there is a model to save"
        for button, tip, block in (
            (self.learn_button, "Take up all strokes, and correct the mask (Ctrl+Alt+L)", ""),
            (self.next_button, "Where the mask is most doubtful (Ctrl+Alt+N)", ""),
            (self.train_button, "Fine-tune a copy of the network on all strokes", ""),
            (self.save_button, "Save the network, to segment other scans with it", untrained),
            (self.close_button, self._close_tip, ""),
        ):
            reason = block if free else why
            button.setEnabled(not reason)
            button.setToolTip(reason or tip)
        self.approve_button.setEnabled(free)

    def show_painted(self, counts: Mapping[str, int]) -> None:
        """Say how many strokes there are of each class."""
        total = sum(counts.values())
        if not total:
            text = "Choose a class and paint on the scan: a stroke or two of each."
        else:
            parts = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
            text = f"{total} stroke{'s' * (total != 1)}: {parts}"
        self.painted_label.setText(text)

    def show_flipped(self, voxels: int, free: bool) -> None:
        """Offer to look at approved voxels that the current round would change."""
        many = "s" * (voxels != 1)
        self.flip_button.setText(f"Next of {voxels} approved voxel{many} it would have changed")
        self.flip_button.setVisible(voxels > 0)
        self.flip_button.setEnabled(free)

    def show_approved(self, share: float) -> None:
        """Say how much of the scan is approved, 0 to 1."""
        self.approved_label.setText(f"{100 * share:.3g} % of the scan is approved and stays")
        self.approved_label.setVisible(share > 0)
        self.withdraw_action.setEnabled(share > 0)


def _brush_tip(value: int, name: str, marker: int) -> str:
    if value == 0:
        return "Take strokes away again; the mask there is up to the learner (Ctrl+Alt+E)"
    key = "0" if value == marker else str(value)
    return f"Paint “{name}”" + (f" (Ctrl+Alt+{key})" if len(key) == 1 else "")


def _swatch(colour: str) -> QIcon:
    size = QSize(14, 14)
    picture = QPixmap(size)
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setBrush(QColor(colour))
    painter.setPen(QColor(128, 128, 128))
    painter.drawRoundedRect(1, 1, 12, 12, 3, 3)
    painter.end()
    return QIcon(picture)
