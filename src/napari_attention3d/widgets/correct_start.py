"""The Correct tab before a session: what to start from, which classes, what can be resumed."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from .correct_sessions import SavedSession

__all__ = ["StartForm", "class_names"]

NOTHING = "nothing"


def class_names(text: str) -> list[str]:
    """Names in a line, by commas; the background, which needs no name, comes first."""
    names = [name.strip() for name in text.replace(";", ",").split(",")]
    return ["background", *[name for name in names if name]]


class StartForm(QWidget):
    """Start from nothing, a mask or a model; or resume."""

    changed = Signal()
    start_clicked = Signal()
    open_clicked = Signal()
    resume_clicked = Signal(object)
    """`SavedSession`."""
    discard_clicked = Signal(object)
    """`SavedSession`."""

    def __init__(self) -> None:
        super().__init__()
        self._starts: dict[str, tuple[str, list[str]]] = {}
        self._typed = ""
        self.intro = _paragraph(
            "Paint a few strokes where the mask is wrong, or on a scan that no model knows: "
            "a learner takes them up in seconds, you look, and paint where it still errs."
        )
        self.start_combo = QComboBox()
        self.start_combo.setMinimumContentsLength(10)
        self.start_combo.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.start_combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.start_combo.setToolTip(
            "A mask is kept where you do not object. A model predicts the mask first. "
            "Nothing: your strokes alone teach it"
        )
        self.classes_edit = QLineEdit()
        self.classes_edit.setPlaceholderText("nucleus, cell wall")
        self.classes_edit.setToolTip(
            "What you want to tell apart, separated by commas; the background is there already. "
            "Other names than the model's give it a new output layer, the rest of it is kept"
        )
        self.open_button = QPushButton("Open a model file …")
        self.open_button.setToolTip("Start from a model that is not in the list")
        self.note = _paragraph("")
        self.start_button = QPushButton("Start correcting")
        self.start_button.setMinimumHeight(34)
        font = self.start_button.font()
        font.setBold(True)
        self.start_button.setFont(font)
        self._build_resume()
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow(_label("Start from", self.start_combo), self.start_combo)
        form.addRow(_label("Classes", self.classes_edit), self.classes_edit)
        row = QHBoxLayout()
        row.addStretch(1)
        row.addWidget(self.open_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.intro)
        layout.addWidget(self.resume_box)
        layout.addLayout(form)
        layout.addLayout(row)
        layout.addWidget(self.note)
        layout.addWidget(self.start_button)
        self.start_combo.currentIndexChanged.connect(self._on_start)
        self.classes_edit.textEdited.connect(self._on_typed)
        self.classes_edit.returnPressed.connect(self.start_clicked)
        self.open_button.clicked.connect(self.open_clicked)
        self.start_button.clicked.connect(self.start_clicked)

    def _build_resume(self) -> None:
        self.resume_box = QFrame()
        self.resume_box.setFrameShape(QFrame.Shape.StyledPanel)
        self.resume_combo = QComboBox()
        self.resume_combo.setMinimumContentsLength(10)
        self.resume_combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.resume_combo.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.resume_button = QPushButton("Resume")
        self.resume_button.setToolTip("Go on where this session ended, with all its strokes")
        self.discard_button = QPushButton("Discard")
        self.discard_button.setToolTip("Delete this session from the disk")
        buttons = QHBoxLayout()
        buttons.addWidget(self.resume_button, 1)
        buttons.addWidget(self.discard_button)
        layout = QVBoxLayout(self.resume_box)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.addWidget(_paragraph("This scan was being corrected before:"))
        layout.addWidget(self.resume_combo)
        layout.addLayout(buttons)
        self.resume_box.hide()
        self.resume_button.clicked.connect(self._on_resume)
        self.discard_button.clicked.connect(self._on_discard)

    # ---- values

    @property
    def start(self) -> str:
        """Key of what to start from: `NOTHING`, "mask:..." or "model:..."."""
        return str(self.start_combo.currentData() or NOTHING)

    @property
    def classes(self) -> list[str]:
        """Names, background first."""
        names = class_names(self.classes_edit.text())
        known = self._starts.get(self.start, ("", []))[1]
        if known and names[1:] == known[1:]:
            names[0] = known[0]  # whatever the model calls its background
        return names

    def set_starts(self, starts: dict[str, tuple[str, list[str]]]) -> None:
        """Show what can be started from.

        Parameters
        ----------
        starts
            By key: title and class names (background first).
        """
        wanted, known = self.start, set(self._starts)
        self._starts = starts
        self.start_combo.blockSignals(True)
        self.start_combo.clear()
        for key, (title, _) in starts.items():
            self.start_combo.addItem(title, key)
            self.start_combo.setItemData(
                self.start_combo.count() - 1, title, Qt.ItemDataRole.ToolTipRole
            )
        masks = [key for key in starts if key.startswith("mask:")]
        if masks and masks[0] not in known and self._typed == "":
            wanted = masks[0]  # a mask that has just appeared is what one wants to correct
        self.start_combo.setCurrentIndex(max(0, self.start_combo.findData(wanted)))
        self.start_combo.blockSignals(False)
        self._on_start()

    def choose(self, key: str) -> None:
        """Choose what to start from."""
        self.start_combo.setCurrentIndex(max(0, self.start_combo.findData(key)))

    def set_sessions(self, sessions: Sequence[SavedSession]) -> None:
        """Offer sessions of this scan, the latest first."""
        before = self.resume_combo.currentData()
        self.resume_combo.clear()
        for one in sessions:
            names = ", ".join(one.classes[1:])
            self.resume_combo.addItem(one.text, one)
            tip = f"{names}\n{one.folder}"
            self.resume_combo.setItemData(
                self.resume_combo.count() - 1, tip, Qt.ItemDataRole.ToolTipRole
            )
        for index, one in enumerate(sessions):
            if before is not None and one.folder == before.folder:
                self.resume_combo.setCurrentIndex(index)
        self.resume_box.setVisible(bool(sessions))

    def set_state(self, reason: str, busy: bool) -> None:
        """Enable or disable; `reason` says why it can't start."""
        self.start_button.setEnabled(not busy and not reason)
        self.start_button.setToolTip(reason or "Opens a layer to paint on, above the mask")
        self.start_button.setText("Starting …" if busy else "Start correcting")
        self.note.setText("" if busy or not reason else reason)
        self.resume_button.setEnabled(not busy)
        self.discard_button.setEnabled(not busy)

    # ---- slots

    def _on_start(self, *_: Any) -> None:
        names = self._starts.get(self.start, ("", []))[1]
        text = ", ".join(names[1:]) if names else self._typed
        if text != self.classes_edit.text():
            self.classes_edit.setText(text)
            self.classes_edit.setCursorPosition(0)
        self.start_combo.setToolTip(self.start_combo.currentText())
        self.changed.emit()

    def _on_typed(self, text: str) -> None:
        if self.start == NOTHING:
            self._typed = text
        self.changed.emit()

    def _on_resume(self) -> None:
        chosen = self.resume_combo.currentData()
        if chosen is not None:
            self.resume_clicked.emit(chosen)

    def _on_discard(self) -> None:
        chosen = self.resume_combo.currentData()
        if chosen is not None:
            self.discard_clicked.emit(chosen)


def short_path(path: Path) -> str:
    """Name of a model file for the list."""
    return f"Model file: {path.name}"


def _paragraph(text: str) -> QLabel:
    label = QLabel(text)
    label.setWordWrap(True)
    label.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
    return label


def _label(text: str, buddy: QWidget) -> QLabel:
    label = QLabel(text)
    label.setBuddy(buddy)
    return label
