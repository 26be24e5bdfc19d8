"""The Clean up page's controls: a list of steps, one number each."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ..errors import InputError
from .measure_forms import paragraph, primary_button

__all__ = ["CleanForm", "rule_words"]


@dataclass(frozen=True)
class _Kind:
    """A kind of step: how it is called and its one number."""

    rule: str
    title: str
    tip: str
    key: str = ""
    default: float = 0.0
    decimals: int = 2
    unit: str = ""
    """"3" for volumes, "1" for lengths, "" for plain numbers."""
    lowest: float = 0.01
    choice: str = ""
    """A setting with a few values."""
    values: tuple[tuple[str, Any], ...] = ()
    """Words and value of each; None leaves the setting out."""
    inside: bool = False
    """Whether it asks for further classes."""


_CONNECTED = (
    ("voxels share faces, edges or corners", None),
    ("voxels share faces or edges", 18),
    ("voxels share faces", 6),
)


_KINDS = (
    _Kind(
        "fill_holes",
        "Fill holes",
        "Fill what is enclosed on all sides, or within each plane",
        choice="plane",
        values=(
            ("enclosed in 3D", None),
            ("enclosed in planes along z", "z"),
            ("enclosed in planes along y", "y"),
            ("enclosed in planes along x", "x"),
        ),
    ),
    _Kind(
        "minimum_size",
        "Remove parts smaller than",
        "Remove connected parts below this volume",
        "size",
        10.0,
        2,
        "3",
        choice="connectivity",
        values=_CONNECTED,
    ),
    _Kind(
        "keep_largest",
        "Keep the largest parts",
        "How many of each class",
        "count",
        1,
        0,
        lowest=1,
        choice="connectivity",
        values=_CONNECTED,
    ),
    _Kind(
        "smooth",
        "Smooth by",
        "Standard deviation of the Gaussian, or radius of the ball for the median",
        "width",
        1.0,
        2,
        "1",
        choice="method",
        values=(("Gaussian", None), ("median: the most frequent class", "median")),
    ),
    _Kind(
        "remove_outside",
        "Remove farther than",
        "Remove the classes where they lie farther than this outside of others and their holes",
        "margin",
        0.0,
        2,
        "1",
        lowest=0,
        inside=True,
    ),
    _Kind(
        "split_touching",
        "Split touching objects",
        "Cut where a neck is narrower than 1 minus this; each object gets its own number",
        "depth",
        0.1,
        2,
    ),
    _Kind(
        "components",
        "Number the parts",
        "Each connected part gets its own number",
        choice="connectivity",
        values=_CONNECTED,
    ),
)


class CleanForm(QWidget):
    """Steps, preview, apply, undo."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.rules: list[dict[str, Any]] = []
        self._unit = "voxel"
        self._build_editor()
        self._build_list()
        self._build_buttons()
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        for text, widget in (
            ("Step", self.kind),
            ("", self.number),
            ("", self.choice),
            ("Classes", self.classes),
            ("From", self.inside),
        ):
            form.addRow(text, widget)
        self._rows = form
        row = QHBoxLayout()
        for button in (self.add_button, self.remove_button, self.model_button):
            row.addWidget(button)
        files = QHBoxLayout()
        files.addWidget(self.load_button)
        files.addWidget(self.save_button)
        files.addWidget(self.store_button)
        files.addStretch(1)
        last = QHBoxLayout()
        last.addWidget(self.preview_button)
        last.addWidget(self.undo_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addLayout(row)
        layout.addWidget(QLabel("Done in this order:"))
        layout.addWidget(self.list)
        layout.addLayout(files)
        layout.addWidget(self.apply_button)
        layout.addLayout(last)
        layout.addWidget(self.note)
        self._on_kind()
        self._refresh()

    # ---- values

    def set_unit(self, unit: str) -> None:
        """Unit of the mask's lengths."""
        if unit != self._unit:
            self._unit = unit
            self._on_kind()
            self._refresh()

    def set_rules(self, rules: list[dict[str, Any]]) -> None:
        """Show other steps."""
        self.rules = list(rules)
        self._refresh()
        self.changed.emit()

    def add(self) -> None:
        """Add the step that is set up; says what is wrong with its classes."""
        kind = _KINDS[self.kind.currentIndex()]
        rule: dict[str, Any] = {"rule": kind.rule}
        if kind.key:
            value = float(self.number.value())
            rule[kind.key] = round(value) if kind.decimals == 0 else value
        if kind.choice and self.choice.currentData() is not None:
            rule[kind.choice] = self.choice.currentData()
        try:
            classes = _classes(self.classes.text())
            if kind.inside:
                rule["inside"] = _classes(self.inside.text())
                if not rule["inside"]:
                    raise InputError("say from which classes, such as 1")
        except InputError as error:
            self.note.setText(f"⚠ {error}")
            return
        if classes:
            rule["classes"] = classes
        self.note.setText("")
        self.set_rules([*self.rules, rule])

    def remove(self) -> None:
        """Remove the chosen step, else the last."""
        if not self.rules:
            return
        row = self.list.currentRow()
        at = row if 0 <= row < len(self.rules) else len(self.rules) - 1
        self.set_rules(self.rules[:at] + self.rules[at + 1 :])

    # ---- building

    def _build_editor(self) -> None:
        self.kind = QComboBox()
        self.kind.setMinimumContentsLength(14)
        for kind in _KINDS:
            self.kind.addItem(kind.title, kind.rule)
        self.number = QDoubleSpinBox()
        self.classes = QLineEdit()
        self.classes.setPlaceholderText("all")
        self.classes.setToolTip('Labels that the step works on, such as "1, 3"; empty: all')
        self.choice = QComboBox()
        self.choice.setMinimumContentsLength(14)
        self.inside = QLineEdit()
        self.inside.setPlaceholderText("such as 1")
        self.inside.setToolTip("Classes outside of which the others are removed")
        self.add_button = QPushButton("Add step")
        self.remove_button = QPushButton("Remove")
        self.remove_button.setToolTip("Remove the chosen step from the list")
        self.model_button = QPushButton("The model's")
        self.model_button.setToolTip("Take the steps that are stored with the mask's model")
        self.kind.currentIndexChanged.connect(self._on_kind)
        self.add_button.clicked.connect(self.add)
        self.remove_button.clicked.connect(self.remove)

    def _build_list(self) -> None:
        self.list = QListWidget()
        self.list.setFixedHeight(5 * 18 + 8)
        self.list.setToolTip("Steps are applied from top to bottom")

    def _build_buttons(self) -> None:
        self.load_button = QPushButton("Open rules …")
        self.save_button = QPushButton("Save rules …")
        self.save_button.setToolTip(
            "As YAML, for `clean --rules` or to store with a model (`models rules`)"
        )
        self.store_button = QPushButton("Store with model")
        self.store_button.setToolTip(
            "Keep these steps in the model that made the mask, to be applied on request"
        )
        self.preview_button = QPushButton("Preview")
        self.preview_button.setToolTip("Show what would change; the mask stays as it is")
        self.apply_button = primary_button("Clean up")
        self.apply_button.setToolTip("Change the mask; Undo brings it back")
        self.undo_button = QPushButton("Undo")
        self.undo_button.setToolTip("Take back the last clean-up; what was painted since stays")
        self.undo_button.setEnabled(False)
        self.note = paragraph()

    def _on_kind(self, *_: object) -> None:
        kind = _KINDS[self.kind.currentIndex()]
        self.number.setVisible(bool(kind.key))
        self.number.setDecimals(kind.decimals)
        self.number.setRange(kind.lowest, 1e9)
        self.number.setSuffix(f" {_unit_text(self._unit, kind.unit)}" if kind.unit else "")
        self.number.setValue(kind.default)
        self.choice.clear()
        for words, value in kind.values:
            self.choice.addItem(words, value)
        self.choice.setVisible(bool(kind.choice))
        self._rows.setRowVisible(self.inside, kind.inside)
        for widget in (self.kind, self.number):
            widget.setToolTip(kind.tip)

    def _refresh(self) -> None:
        self.list.clear()
        self.list.addItems([rule_words(rule, self._unit) for rule in self.rules])
        for button in (self.remove_button, self.save_button):
            button.setEnabled(bool(self.rules))


def _unit_text(unit: str, power: str) -> str:
    return f"{unit}{'³' if power == '3' else ''}"


def rule_words(rule: dict[str, Any], unit: str) -> str:
    """A step in plain words, as the list shows it."""
    kind = next((k for k in _KINDS if k.rule == rule["rule"]), None)
    words = kind.title if kind is not None else str(rule["rule"]).replace("_", " ").capitalize()
    if kind is not None and kind.key and kind.key in rule:
        given = str(rule.get("unit") or unit)
        tail = f" {_unit_text(given, kind.unit)}" if kind.unit else ""
        words += f" {rule[kind.key]:g}{tail}"
    if kind is not None and rule.get(kind.choice) is not None:
        said = {value: text for text, value in kind.values}.get(rule[kind.choice])
        words += f", {said}" if said else ""
    if rule.get("inside"):
        words += f" from {', '.join(map(str, rule['inside']))}"
    if rule.get("classes"):
        words += f" (classes {', '.join(map(str, rule['classes']))})"
    return words


def _classes(text: str) -> list[int]:
    words = [word for word in text.replace(";", ",").split(",") if word.strip()]
    try:
        found = [int(word) for word in words]
    except ValueError as error:
        raise InputError(f"classes {text!r} are not whole numbers such as 1, 3") from error
    if any(value < 1 for value in found):
        raise InputError("classes count from 1; 0 is the background")
    return found
