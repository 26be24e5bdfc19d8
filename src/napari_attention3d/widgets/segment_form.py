"""The Segment tab's controls; knows nothing of layers, models or threads."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, Signal
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
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from .settings import SegmentSettings

if TYPE_CHECKING:
    from ..models import ModelInfo

__all__ = ["SegmentForm"]


class SegmentForm(QWidget):
    """Model, device, options behind a fold, outlook and the Run button."""

    changed = Signal()
    refresh_clicked = Signal()
    open_clicked = Signal()

    def __init__(self, settings: SegmentSettings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._wanted_model = settings.model
        self._wanted_device = settings.device
        self._infos: dict[str, ModelInfo] = {}
        self._files: list[str] = []
        self._build_choices()
        self._build_options(settings)
        self._build_run()
        choices = QFormLayout()
        choices.setContentsMargins(0, 0, 0, 0)
        choices.addRow(_label("Model", self.model_combo), self.model_combo)
        choices.addRow(_label("Device", self.device_combo), self.device_combo)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(choices)
        layout.addWidget(self._model_row)
        layout.addWidget(self.outlook_label)
        layout.addWidget(self.run_button)
        layout.addWidget(self.fold)
        self._connect()

    # ---- values

    @property
    def model(self) -> str:
        """File or name of the chosen model, "" for none."""
        return str(self.model_combo.currentData() or "")

    @property
    def model_channels(self) -> int | None:
        """Channels that the chosen model wants, if its card is known."""
        info = self._infos.get(self.model)
        return len(info.card.channels) if info is not None and info.card is not None else None

    @property
    def region_only(self) -> bool:
        """Whether only the region in view shall be segmented."""
        return bool(self.region_box.isChecked())

    def options(self) -> dict[str, Any]:
        """Keyword arguments for `SegmentOptions`, without the region."""
        overlap = self.overlap_spin.value()
        return {
            "device": str(self.device_combo.currentData() or "auto"),
            "overlap": None if overlap < 0 else overlap / 100,
            "attention": self._attention(),
            "probabilities": self.probabilities_box.isChecked(),
            "uncertainty": self.uncertainty_box.isChecked(),
        }

    def remember(self, settings: SegmentSettings) -> None:
        """Write the values into the settings."""
        if self._infos:
            settings.model, settings.device = self.model, self.options()["device"]
        settings.overlap = self.overlap_spin.value()
        settings.attention = self.attention_box.isChecked()
        settings.probabilities = self.probabilities_box.isChecked()
        settings.uncertainty = self.uncertainty_box.isChecked()

    def _attention(self) -> bool | tuple[str, ...]:
        if not self.attention_box.isChecked():
            return False
        items = [self.maps_list.item(i) for i in range(self.maps_list.count())]
        if not items:  # the model has not said yet which it has
            return True
        wanted = [
            str(item.data(Qt.ItemDataRole.UserRole))
            for item in items
            if item is not None and item.checkState() == Qt.CheckState.Checked
        ]
        return tuple(wanted) if wanted else False

    # ---- what can be chosen

    def set_models(self, infos: Sequence[ModelInfo]) -> None:
        """Fill the models' combo; keeps the choice where it is still there."""
        wanted = self.model or self._wanted_model
        self.model_combo.blockSignals(True)
        self.model_combo.clear()
        self._infos = {}
        for info in infos:
            self._add_model(info)
        for path in self._files:
            if self.model_combo.findData(path) < 0:
                self.model_combo.addItem(Path(path).stem, path)
        found = self.model_combo.findData(wanted)
        self.model_combo.setCurrentIndex(found if found >= 0 else self._first_sound())
        self.model_combo.blockSignals(False)
        if self.model_combo.count() == 0:
            self.model_combo.addItem("no model installed", "")
        self._describe()

    def _add_model(self, info: ModelInfo) -> None:
        key = info.name if info.built_in else str(info.path)
        self._infos[key] = info
        self.model_combo.addItem(_short(info.title or info.name), key)
        index = self.model_combo.count() - 1
        role = Qt.ItemDataRole.ToolTipRole
        if not info.problem:
            self.model_combo.setItemData(index, str(info.path or info.name), role)
            return
        self.model_combo.setItemText(index, f"{_short(info.title or info.name)} (damaged)")
        self.model_combo.setItemData(index, info.problem, role)
        item = self.model_combo.model().item(index)
        item.setEnabled(False)

    def _first_sound(self) -> int:
        sound = [
            i
            for i in range(self.model_combo.count())
            if self.model_combo.model().item(i).isEnabled()
        ]
        return sound[0] if sound else -1

    def add_model_file(self, path: str) -> None:
        """Add a file to the models' combo and choose it."""
        if path not in self._files:
            self._files.append(path)
        if self.model_combo.count() == 1 and not self.model_combo.currentData():
            self.model_combo.clear()
        if self.model_combo.findData(path) < 0:
            self.model_combo.addItem(Path(path).stem, path)
        self.model_combo.setCurrentIndex(self.model_combo.findData(path))

    def set_devices(self, devices: Sequence[tuple[str, str]], reasons: dict[str, str]) -> None:
        """Fill the devices' combo."""
        wanted = str(self.device_combo.currentData() or self._wanted_device)
        self.device_combo.blockSignals(True)
        self.device_combo.clear()
        for request, title in devices:
            self.device_combo.addItem(title, request)
        self.device_combo.setCurrentIndex(max(0, self.device_combo.findData(wanted)))
        self.device_combo.blockSignals(False)
        if "auto" in reasons:
            self.device_combo.setToolTip(f"Automatic choice: {reasons['auto']}")

    def set_maps(self, maps: Sequence[tuple[str, str, bool]]) -> None:
        """Fill the list of attention maps (name, title, whether it is chosen at first)."""
        known = [
            self.maps_list.item(i).data(Qt.ItemDataRole.UserRole)
            for i in range(self.maps_list.count())
        ]
        if known == [name for name, _, _ in maps]:
            return
        self.maps_list.blockSignals(True)
        self.maps_list.clear()
        for name, title, chosen in maps:
            item = QListWidgetItem(title)
            item.setData(Qt.ItemDataRole.UserRole, name)
            item.setCheckState(Qt.CheckState.Checked if chosen else Qt.CheckState.Unchecked)
            self.maps_list.addItem(item)
        rows = max(1, min(5, len(maps)))
        self.maps_list.ensurePolished()
        self.maps_list.setFixedHeight(rows * max(14, self.maps_list.sizeHintForRow(0)) + 8)
        self.maps_list.blockSignals(False)

    def show_outlook(self, text: str, warn: bool = False) -> None:
        """Say what Run would do, or why it can't."""
        self.outlook_label.setText(f"⚠ {text}" if warn else text)

    # ---- building

    def _build_choices(self) -> None:
        self.model_combo = _combo("loading …")
        self.refresh_button = QToolButton()
        self.refresh_button.setText("⟳")
        self.refresh_button.setToolTip("Look for models again (built-in ones and your own folder)")
        self.open_button = QToolButton()
        self.open_button.setText("…")
        self.open_button.setToolTip("Open a model file (.safetensors)")
        for button in (self.refresh_button, self.open_button):
            button.setFixedSize(QSize(26, 24))
        self._model_row = QWidget()
        row = QHBoxLayout(self._model_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        self.model_label = _paragraph()
        row.addWidget(self.model_label, 1)
        row.addWidget(self.refresh_button, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self.open_button, 0, Qt.AlignmentFlag.AlignTop)
        self.device_combo = _combo("loading …")

    def _build_options(self, settings: SegmentSettings) -> None:
        self.overlap_spin = QSpinBox()
        self.overlap_spin.setRange(-1, 75)
        self.overlap_spin.setSuffix(" %")
        self.overlap_spin.setSpecialValueText("the model's own")
        self.overlap_spin.setValue(settings.overlap)
        self.overlap_spin.setToolTip(
            "How much neighbouring tiles share. More: smoother seams, slower"
        )
        self.attention_box = _box(
            "Attention maps",
            settings.attention,
            "Show where the network looked, one layer per attention map",
        )
        self.maps_list = QListWidget()
        self.maps_list.setToolTip("Which attention maps to keep")
        self.maps_list.setFixedHeight(28)
        self.maps_list.setEnabled(settings.attention)
        self.probabilities_box = _box(
            "Probabilities", settings.probabilities, "One layer per class; needs much more memory"
        )
        self.uncertainty_box = _box(
            "Uncertainty",
            settings.uncertainty,
            "How unsure the model is at each voxel (entropy, 0 sure to 1 undecided)",
        )
        self.region_box = _box(
            "Only the region in view", False, "Segment only what the 2D canvas shows: quicker"
        )
        inner = QWidget()
        form = QFormLayout(inner)
        form.setContentsMargins(4, 2, 0, 2)
        form.addRow(_label("Tile overlap", self.overlap_spin), self.overlap_spin)
        for widget in (
            self.attention_box,
            self.maps_list,
            self.probabilities_box,
            self.uncertainty_box,
            self.region_box,
        ):
            form.addRow(widget)
        self.fold = QCollapsible("Options")
        self.fold.addWidget(inner)
        self.fold.setExpandedIcon("▾")
        self.fold.setCollapsedIcon("▸")
        self.fold.setDuration(0)
        self.fold.collapse(animate=False)

    def _build_run(self) -> None:
        self.outlook_label = _paragraph()
        self.outlook_label.setMinimumHeight(3 * self.fontMetrics().lineSpacing())
        self.run_button = QPushButton("Loading torch …")
        self.run_button.setEnabled(False)
        self.run_button.setMinimumHeight(34)
        font = self.run_button.font()
        font.setBold(True)
        self.run_button.setFont(font)

    def _connect(self) -> None:
        for combo in (self.model_combo, self.device_combo):
            combo.currentIndexChanged.connect(self._on_changed)
        for box in (
            self.attention_box,
            self.probabilities_box,
            self.uncertainty_box,
            self.region_box,
        ):
            box.toggled.connect(self._on_changed)
        self.attention_box.toggled.connect(self.maps_list.setEnabled)
        self.overlap_spin.valueChanged.connect(self._on_changed)
        self.maps_list.itemChanged.connect(self._on_changed)
        self.refresh_button.clicked.connect(self.refresh_clicked)
        self.open_button.clicked.connect(self.open_clicked)

    def _on_changed(self, *_: object) -> None:
        self._describe()
        self.changed.emit()

    def _describe(self) -> None:
        """Say in a line what the chosen model is for."""
        info = self._infos.get(self.model)
        card = info.card if info is not None else None
        text = ""
        if card is not None:
            names = ", ".join(card.class_names[1:])
            many = f"{len(card.classes) - 1} classes"
            text = f"Finds {names if len(names) < 150 else many}"
            self.model_label.setToolTip(
                "\n".join(s for s in (card.description, card.intensity, card.limitations) if s)
            )
        title = info.title if info is not None else ""
        self.model_combo.setToolTip(title or self.model_combo.currentText())
        self.model_label.setText(text)


def _short(title: str, most: int = 32) -> str:
    """Return a title that fits the combo; its tooltip has the whole."""
    return title if len(title) <= most else title[: most - 1].rstrip(" (,") + "…"


def _combo(text: str) -> QComboBox:
    combo = QComboBox()
    combo.addItem(text, "")
    combo.setMinimumContentsLength(10)
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return combo


def _box(text: str, checked: bool, tip: str) -> QCheckBox:
    box = QCheckBox(text)
    box.setChecked(checked)
    box.setToolTip(tip)
    return box


def _label(text: str, buddy: QWidget) -> QLabel:
    label = QLabel(text)
    label.setBuddy(buddy)
    return label


def _paragraph() -> QLabel:
    label = QLabel("")
    label.setWordWrap(True)
    label.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label
