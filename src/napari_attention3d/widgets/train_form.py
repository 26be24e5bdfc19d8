"""The Train tab's controls; knows nothing of torch or threads."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from .train_pairs import PairsList

__all__ = ["TrainForm"]

ALL_LABELLED, ZERO, OTHER = "all", "zero", "other"
SPARSE = (
    ("none", ALL_LABELLED),
    ("those of value 0 (255: background)", ZERO),
    ("those of another value", OTHER),
)


class TrainForm(QWidget):
    """Data, name, preset, options, plan and Start; below, runs that can go on."""

    changed = Signal()

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._explanations: dict[str, str] = {}
        self._build_data(viewer)
        self._build_choices()
        self._build_options()
        self._build_start()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(self._data_row)
        layout.addWidget(self.pairs)
        layout.addWidget(self.folder_page)
        layout.addLayout(self._choices)
        layout.addWidget(self.fold)
        layout.addWidget(self.plan_label)
        layout.addWidget(self.start_button)
        self.show_page("layers")

    # ---- values

    @property
    def page(self) -> str:
        """Where the data come from: "layers" or "folder"."""
        return "layers" if self._pages["layers"].isChecked() else "folder"

    @property
    def ignore(self) -> int | None:
        """Value of voxels that nobody labelled."""
        kind = self.sparse_combo.currentData()
        return {ALL_LABELLED: None, ZERO: 0}.get(kind, self.ignore_spin.value())

    @property
    def folder(self) -> tuple[Path | None, Path | None]:
        """The folder, and that of the labels where they lie elsewhere."""
        one, other = self.folder_edit.text().strip(), self.labels_edit.text().strip()
        return Path(one).expanduser() if one else None, Path(other).expanduser() if other else None

    def values(self) -> dict[str, Any]:
        """Name, preset, network, device, length: keyword arguments of a `Wish`."""
        steps, minutes = self.steps_spin.value(), self.minutes_spin.value()
        return {
            "name": self.name_edit.text().strip(),
            "preset": str(self.preset_combo.currentData() or "quick"),
            "network": str(self.network_combo.currentData() or "attention-unet"),
            "device": str(self.device_combo.currentData() or "auto"),
            "ignore": self.ignore,
            "steps": steps or None,
            "minutes": minutes or None,
        }

    def show_page(self, name: str) -> None:
        """Show "layers" or "folder"."""
        for key, button in self._pages.items():
            button.setChecked(key == name)
        self.pairs.setVisible(name == "layers")
        self.folder_page.setVisible(name == "folder")
        self.changed.emit()

    def set_choices(
        self,
        presets: Sequence[tuple[str, str, str]],
        networks: Sequence[tuple[str, str]],
        devices: Sequence[tuple[str, str]],
    ) -> None:
        """Fill the combo boxes; what was chosen stays chosen."""
        self._explanations = {key: text for key, _, text in presets}
        named = [(key, title) for key, title, _ in presets]
        for combo, entries in (
            (self.preset_combo, named),
            (self.network_combo, networks),
            (self.device_combo, devices),
        ):
            before = combo.currentData()
            combo.blockSignals(True)
            combo.clear()
            for key, title in entries:
                combo.addItem(title, key)
            combo.setCurrentIndex(max(0, combo.findData(before)))
            combo.blockSignals(False)
        self._explain()

    def show_plan(self, lines: Sequence[str], warn: str = "") -> None:
        """Say what would be done, or why nothing can."""
        text = "\n".join(f"• {line}" for line in lines)
        self.plan_label.setText(f"⚠ {warn}" if warn else text)

    # ---- building

    def _build_data(self, viewer: Any) -> None:
        group = QButtonGroup(self)
        self._data_row = QHBoxLayout()
        self._data_row.setSpacing(4)
        self._pages: dict[str, QPushButton] = {}
        for key, title in (("layers", "From open layers"), ("folder", "From a folder")):
            button = QPushButton(title)
            button.setCheckable(True)
            button.clicked.connect(partial(self.show_page, key))
            group.addButton(button)
            self._data_row.addWidget(button)
            self._pages[key] = button
        self.pairs = PairsList(viewer)
        self.pairs.changed.connect(self.changed)
        self.folder_edit = QLineEdit()
        self.folder_edit.setPlaceholderText("with images/ and labels/, or nnU-Net's")
        self.folder_edit.setToolTip(
            "A folder with the folders images and labels in it (files of the same names), or in "
            "nnU-Net's layout: imagesTr, labelsTr, dataset.json"
        )
        self.labels_edit = QLineEdit()
        self.labels_edit.setPlaceholderText("if the labels lie elsewhere")
        self.folder_page = QWidget()
        form = QFormLayout(self.folder_page)
        form.setContentsMargins(0, 0, 0, 0)
        for title, edit in (("Folder", self.folder_edit), ("Labels", self.labels_edit)):
            edit.textChanged.connect(self._on_changed)
            form.addRow(_label(title, edit), self._with_browse(edit, title))

    def _with_browse(self, edit: QLineEdit, title: str) -> QWidget:
        button = QToolButton()
        button.setText("…")
        button.setToolTip(f"Choose: {title.lower()}")
        button.clicked.connect(partial(self._browse, edit, title))
        both = QWidget()
        row = QHBoxLayout(both)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        row.addWidget(edit, 1)
        row.addWidget(button)
        return both

    def _browse(self, edit: QLineEdit, title: str) -> None:
        path = QFileDialog.getExistingDirectory(self, title, edit.text())
        if path:
            edit.setText(path)

    def _build_choices(self) -> None:
        self.sparse_combo = _combo()
        for title, key in SPARSE:
            self.sparse_combo.addItem(title, key)
        self.sparse_combo.setToolTip(
            "Where only some voxels are labelled (a few strokes, some slices), say which value "
            "the others have: they are not learnt from"
        )
        self.ignore_spin = QSpinBox()
        self.ignore_spin.setRange(0, 65535)
        self.ignore_spin.setValue(255)
        self.ignore_spin.setToolTip("Label value of voxels that nobody labelled")
        self.ignore_spin.hide()
        self.name_edit = QLineEdit("my-model")
        self.name_edit.setMaxLength(80)
        self.name_edit.setToolTip("Under this name the model appears in the list of models")
        self.preset_combo = _combo()
        self.preset_combo.addItem("loading …", "")
        voxels = QWidget()
        row = QHBoxLayout(voxels)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.sparse_combo, 1)
        row.addWidget(self.ignore_spin)
        self._choices = QFormLayout()
        self._choices.setContentsMargins(0, 0, 0, 0)
        for title, field, buddy in (
            ("Unlabelled", voxels, self.sparse_combo),
            ("Name", self.name_edit, self.name_edit),
            ("Preset", self.preset_combo, self.preset_combo),
        ):
            self._choices.addRow(_label(title, buddy), field)
        self.sparse_combo.currentIndexChanged.connect(self._on_changed)
        self.preset_combo.currentIndexChanged.connect(self._on_changed)
        self.ignore_spin.valueChanged.connect(self._on_changed)
        self.name_edit.textChanged.connect(self._on_changed)

    def _build_options(self) -> None:
        self.network_combo, self.device_combo = _combo(), _combo()
        self.steps_spin, self.minutes_spin = QSpinBox(), QSpinBox()
        self.steps_spin.setRange(0, 1_000_000)
        self.steps_spin.setSingleStep(100)
        self.steps_spin.setSpecialValueText("the preset's")
        self.minutes_spin.setRange(0, 10_000)
        self.minutes_spin.setSuffix(" min")
        self.minutes_spin.setSpecialValueText("none")
        self.minutes_spin.setToolTip("The training ends then, well prepared, if not before")
        inner = QWidget()
        form = QFormLayout(inner)
        form.setContentsMargins(4, 2, 0, 2)
        for title, field in (
            ("Network", self.network_combo),
            ("Device", self.device_combo),
            ("Steps", self.steps_spin),
            ("Time limit", self.minutes_spin),
        ):
            form.addRow(_label(title, field), field)
            change = (
                field.currentIndexChanged if isinstance(field, QComboBox) else field.valueChanged
            )
            change.connect(self._on_changed)
        self.fold = QCollapsible("Options")
        self.fold.addWidget(inner)
        self.fold.setExpandedIcon("▾")
        self.fold.setCollapsedIcon("▸")
        self.fold.setDuration(0)
        self.fold.collapse(animate=False)

    def _build_start(self) -> None:
        self.plan_label = QLabel("")
        self.plan_label.setWordWrap(True)
        self.plan_label.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self.plan_label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.plan_label.setMinimumHeight(8 * self.fontMetrics().lineSpacing())
        self.start_button = QPushButton("Loading torch …")
        self.start_button.setEnabled(False)
        self.start_button.setMinimumHeight(34)
        font = self.start_button.font()
        font.setBold(True)
        self.start_button.setFont(font)

    def _on_changed(self, *_: object) -> None:
        self.ignore_spin.setVisible(self.sparse_combo.currentData() == OTHER)
        self._explain()
        self.changed.emit()

    def _explain(self) -> None:
        self.preset_combo.setToolTip(self._explanations.get(self.preset_combo.currentData(), ""))


def _combo() -> QComboBox:
    combo = QComboBox()
    combo.setMinimumContentsLength(10)
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return combo


def _label(text: str, buddy: QWidget) -> QLabel:
    label = QLabel(text)
    label.setBuddy(buddy)
    return label
