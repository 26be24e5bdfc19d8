"""Controls of the Batch tab; they know nothing of threads or jobs."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from .measure_choosers import LabelsChooser
from .measure_forms import paragraph, primary_button
from .measure_table import FiguresTable

__all__ = ["BatchForm"]


class BatchForm(QWidget):
    """Which scans, what to do, where to, the table of what became of them."""

    sources_changed = Signal()
    changed = Signal()

    def __init__(self, viewer: Any, offer: Any) -> None:
        super().__init__()
        self._build_sources()
        self._build_recipe(viewer, offer)
        self._build_run()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        for box in (self._scans_box, self._recipe_box):
            layout.addWidget(box)
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        row = QHBoxLayout()
        row.addWidget(self.out)
        row.addWidget(self.out_button)
        label = QLabel("Masks go to")
        label.setBuddy(self.out)
        form.addRow(label, row)
        layout.addLayout(form)
        layout.addWidget(self.overwrite_box)
        layout.addWidget(self.button)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.open_button)

    # ---- values

    @property
    def sources(self) -> list[str]:
        """Folders, files and patterns, in their order."""
        items = (self.list.item(i) for i in range(self.list.count()))
        return [item.text() for item in items if item is not None]

    def add_sources(self, sources: list[str]) -> None:
        """Add folders, files or patterns, each once."""
        known = self.sources
        for one in sources:
            if one and one not in known:
                self.list.addItem(one)
                item = self.list.item(self.list.count() - 1)
                if item is not None:
                    item.setToolTip(one)
                known.append(one)
        self.sources_changed.emit()

    def show_recipe(self, words: str, *, fixed: bool) -> None:
        """Say what will be done.

        Parameters
        ----------
        fixed
            Whether a recipe says all, so that the boxes don't count.
        """
        self.recipe_label.setText(words)
        for box in (self.clean_box, self.measure_box):
            box.setEnabled(not fixed)
        self.forget_button.setVisible(fixed)

    # ---- building

    def _build_sources(self) -> None:
        self.list = QListWidget()
        self.list.setFixedHeight(64)
        self.list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setToolTip(
            "Folders stand for all scans in them; masks that were made here are left out"
        )
        self.folder_button = QPushButton("Add folder …")
        self.files_button = QPushButton("Add files …")
        self.remove_button = QPushButton("Remove")
        self.pattern = QLineEdit()
        self.pattern.setPlaceholderText("or a pattern: /study/**/T1*.nii.gz, then Enter")
        self.pattern.setToolTip("* any letters, ? one letter, ** any folders; Enter adds it")
        self.count_label = paragraph()
        row = QHBoxLayout()
        for button in (self.folder_button, self.files_button, self.remove_button):
            row.addWidget(button)
        self._scans_box = QGroupBox("Scans")
        inside = QVBoxLayout(self._scans_box)
        inside.setContentsMargins(6, 4, 6, 6)
        inside.addWidget(self.list)
        inside.addLayout(row)
        inside.addWidget(self.pattern)
        inside.addWidget(self.count_label)
        self.folder_button.clicked.connect(self._ask_folder)
        self.files_button.clicked.connect(self._ask_files)
        self.remove_button.clicked.connect(self._remove)
        self.pattern.returnPressed.connect(self._add_pattern)

    def _build_recipe(self, viewer: Any, offer: Any) -> None:
        self.recipe_label = paragraph()
        self.clean_box = QCheckBox("The model's clean-up")
        self.clean_box.setToolTip("Apply the rules that are stored with the model")
        self.measure_box = QCheckBox("Measure")
        self.measure_box.setToolTip("Write a table of measures beside each mask")
        self.load_button = QPushButton("Open recipe …")
        self.load_button.setToolTip("Take model, options, clean-up and measures from a YAML file")
        self.save_button = QPushButton("Save recipe …")
        self.save_button.setToolTip("Write what will be done, for the command line or a colleague")
        self.forget_button = QToolButton()
        self.forget_button.setText("✕")
        self.forget_button.setToolTip("Forget the recipe: do as the Segment tab says")
        self.result = LabelsChooser(viewer, "no result open", offer)
        self.result.setToolTip("A mask that a model made: it says how")
        self.take_button = QPushButton("Do the same")
        self.again_button = QPushButton("Run again")
        words = QHBoxLayout()
        words.addWidget(self.recipe_label, 1)
        words.addWidget(self.forget_button, 0, Qt.AlignmentFlag.AlignTop)
        boxes = QHBoxLayout()
        boxes.addWidget(self.clean_box)
        boxes.addWidget(self.measure_box)
        boxes.addStretch(1)
        files = QHBoxLayout()
        files.addWidget(self.load_button)
        files.addWidget(self.save_button)
        result = QFormLayout()
        label = QLabel("As done for")
        label.setBuddy(self.result)
        result.addRow(label, self.result)
        buttons = QHBoxLayout()
        buttons.addWidget(self.take_button)
        buttons.addWidget(self.again_button)
        self._recipe_box = QGroupBox("What to do")
        inside = QVBoxLayout(self._recipe_box)
        inside.setContentsMargins(6, 4, 6, 6)
        for part in (words, boxes, files, result, buttons):
            inside.addLayout(part)

    def _build_run(self) -> None:
        self.out = QLineEdit()
        self.out.setPlaceholderText("beside each scan")
        self.out.setToolTip("A folder for all masks; empty: each beside its scan")
        self.out_button = QToolButton()
        self.out_button.setText("…")
        self.out_button.clicked.connect(self._ask_out)
        self.overwrite_box = QCheckBox("Replace masks that are there")
        self.overwrite_box.setToolTip("Otherwise scans whose mask is there are skipped")
        self.button = primary_button("Run")
        self.table = FiguresTable("A row per scan; click a heading to sort")
        self.open_button = QPushButton("Open scan and mask of the row")
        for box in (self.clean_box, self.measure_box, self.overwrite_box):
            box.toggled.connect(self.changed)

    # ---- dialogs

    def _ask_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "A folder of scans")
        self.add_sources([path])

    def _ask_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Scans")
        self.add_sources(list(paths))

    def _ask_out(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "A folder for the masks", self.out.text())
        if path:
            self.out.setText(path)

    def _add_pattern(self) -> None:
        self.add_sources([self.pattern.text().strip()])
        self.pattern.clear()

    def _remove(self) -> None:
        rows = {index.row() for index in self.list.selectedIndexes()}
        rows = rows or ({self.list.count() - 1} if self.list.count() else set())
        for row in sorted(rows, reverse=True):
            self.list.takeItem(row)
        self.sources_changed.emit()
