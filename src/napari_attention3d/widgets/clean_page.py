"""The Clean up page's logic: preview on the worker's thread, apply, undo."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFileDialog

from ..errors import Attention3DError
from . import measure_tasks
from .clean_form import CleanForm
from .clean_layer import CleanUps
from .layers import KEY
from .measure_choosers import LabelsChooser

if TYPE_CHECKING:
    from napari.layers import Layer

    from ..analysis.rules import Rule
    from ..models.card import ModelCard
    from .measure_panel import MeasurePanel

__all__ = ["CleanPage"]


class CleanPage:
    """Controller of the page; `panel` runs its jobs and shows its status."""

    def __init__(self, viewer: Any, mask: LabelsChooser, panel: MeasurePanel) -> None:
        self.viewer, self.mask, self.panel = viewer, mask, panel
        self.form = CleanForm()
        self.steps = CleanUps()
        self._preview: weakref.ref[Layer] | None = None
        self._wanted: tuple[weakref.ref[Layer], bool] | None = None
        self.form.preview_button.clicked.connect(self.preview)
        self.form.apply_button.clicked.connect(self.apply)
        self.form.undo_button.clicked.connect(self.undo)
        self.form.model_button.clicked.connect(self.take_models)
        self.form.load_button.clicked.connect(self._ask_and_load)
        self.form.save_button.clicked.connect(self._ask_and_save)
        self.form.store_button.clicked.connect(self.store)
        self.form.changed.connect(self.update)

    def update(self) -> None:
        """Buttons and unit, as the chosen mask wants them."""
        layer = self.mask.layer
        reason = ""
        if self.panel.is_busy:
            reason = "Something runs; Cancel is below"
        elif layer is None:
            reason = "Open or make a mask first"
        elif not self.form.rules:
            reason = "Add a step first"
        tips = {
            self.form.preview_button: "Show what would change; the mask stays as it is",
            self.form.apply_button: "Change the mask; Undo brings it back",
        }
        for button, tip in tips.items():
            button.setEnabled(not reason)
            button.setToolTip(reason or tip)
        self.form.undo_button.setEnabled(
            not self.panel.is_busy and self.steps.can_undo(self.viewer.layers)
        )
        of_model = layer is not None and bool(_model_of(layer))
        self.form.model_button.setEnabled(of_model)
        self.form.store_button.setEnabled(of_model and bool(self.form.rules))
        if layer is not None:
            try:
                self.form.set_unit(measure_tasks.read_labels(layer).volume.geometry.unit)
            except Attention3DError:
                return  # told when it is cleaned

    # ---- steps from elsewhere

    def take_models(self) -> None:
        """Take the rules that are stored with the model that made the mask."""
        from ..analysis.cleanup import rules_of_card, rules_to_plain

        info = self._model()
        if info is None:
            return
        try:
            rules = rules_to_plain(rules_of_card(info.card))
        except Attention3DError as error:
            self.panel.refuse(error)
            return
        if rules:
            self.form.set_rules(rules)
            self.panel.status.idle(f"{len(rules)} steps of {info.card.name}")
        else:
            self.panel.status.idle(
                f"No steps are stored with {info.card.name}; make some and press Store with model"
            )

    def store(self) -> None:
        """Store the steps with the model that made the mask; its file is written anew."""
        from ..analysis.cleanup import card_with_rules

        info = self._model()
        if info is None:
            return
        try:
            rules = self._rules()
            card_with_rules(info.card, rules)  # told at once if they do not fit
        except Attention3DError as error:
            self.panel.refuse(error)
            return
        job = partial(measure_tasks.store_job, info.path, rules)
        self.panel.submit(job, "store the steps", self._on_stored)

    def _on_stored(self, card: ModelCard) -> None:
        self.panel.status.idle(
            f"{len(card.clean_up)} steps are stored with {card.name}: segment --clean-up, or the "
            "Batch tab, applies them"
        )

    def _model(self) -> Any:
        """The installed model that made the mask; says so if there is none."""
        from ..models.store import list_models

        layer = self.mask.layer
        sha256 = _model_of(layer) if layer is not None else ""
        for info in list_models() if sha256 else ():
            if info.card is not None and info.card.sha256 == sha256:
                return info
        self.panel.status.idle("The model that made this mask is not installed")
        return None

    def load(self, path: str) -> None:
        """Take the rules of a file."""
        from ..analysis.cleanup import read_rules, rules_to_plain

        try:
            self.form.set_rules(rules_to_plain(read_rules(path)))
        except Attention3DError as error:
            self.panel.refuse(error)

    def save(self, path: str) -> None:
        """Write the steps as YAML."""
        import yaml

        from ..volumes.atomic import atomic_path

        try:
            with atomic_path(Path(path)) as temporary:
                text = yaml.safe_dump({"rules": self.form.rules}, sort_keys=False)
                temporary.write_text(text, encoding="utf-8")
        except Attention3DError as error:
            self.panel.refuse(error)
            return
        self.panel.status.idle(f"Saved {path}")

    def _ask_and_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self.panel, "Open rules", "", "Rules (*.yaml *.yml *.json)"
        )
        if path:
            self.load(path)

    def _ask_and_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self.panel, "Save rules", "rules.yaml", "Rules (*.yaml)"
        )
        if path:
            self.save(path)

    # ---- jobs

    def preview(self) -> None:
        """Show what the steps would change."""
        self._submit(apply=False)

    def apply(self) -> None:
        """Change the mask."""
        self._submit(apply=True)

    def _rules(self) -> tuple[Rule, ...]:
        from ..analysis.cleanup import rules_from

        return rules_from(self.form.rules, "the steps")

    def _submit(self, *, apply: bool) -> None:
        layer = self.mask.layer
        if layer is None or not self.form.apply_button.isEnabled():
            return
        try:
            source, rules = measure_tasks.read_labels(layer), self._rules()
        except Attention3DError as error:
            self.panel.refuse(error)
            return
        self._wanted = weakref.ref(layer), apply
        job = partial(measure_tasks.clean_job, source, rules, not apply)
        self.panel.submit(job, "clean up", self._on_cleaned)

    def _on_cleaned(self, cleaned: measure_tasks.Cleaned) -> None:
        assert self._wanted is not None
        ref, apply = self._wanted
        layer = ref()
        words = "; ".join(_line(one) for one in cleaned.report)
        self.form.note.setText(words)
        if layer is None or layer not in self.viewer.layers:
            self.panel.status.idle("The mask was removed meanwhile; nothing was changed")
            return
        self._drop_preview()
        if not apply:
            self._show_preview(cleaned)
            self.panel.status.idle("Preview: red goes, green comes. Clean up to keep it")
            return
        try:
            changed = self.steps.apply(layer, cleaned)
        except Attention3DError as error:
            self.panel.refuse(error)
            return
        self.panel.status.idle(f"{changed:,} voxels changed; Undo takes it back")

    def undo(self) -> None:
        """Take back the newest clean-up."""
        layer = self.steps.undo()
        if layer is not None:
            self.panel.status.idle(f"{layer.name} is as it was before the clean-up")
        self.form.note.setText("")
        self.update()

    def _show_preview(self, cleaned: measure_tasks.Cleaned) -> None:
        from napari.layers import Labels

        from .results import make_layer

        plan = cleaned.preview
        assert plan is not None
        objects = plan.kind == "objects"
        made = Labels(plan.array, **plan.keywords) if objects else make_layer(plan)
        made.editable = False
        active = self.viewer.layers.selection.active
        self.viewer.layers.append(made)
        if active is not None and active in self.viewer.layers:
            self.viewer.layers.selection.active = active
        self._preview = weakref.ref(made)

    def _drop_preview(self) -> None:
        layer = self._preview() if self._preview is not None else None
        if layer is not None and layer in self.viewer.layers:
            self.viewer.layers.remove(layer)
        self._preview = None


def _model_of(layer: Layer) -> str:
    """sha256 of the model that made a mask, or ""."""
    entry = layer.metadata.get(KEY)
    provenance = entry.get("provenance") if isinstance(entry, dict) else None
    model = provenance.get("model") if isinstance(provenance, dict) else None
    return str(model.get("sha256") or "") if isinstance(model, dict) else ""


def _line(done: dict[str, Any]) -> str:
    name = str(done["rule"]["rule"]).replace("_", " ")
    if "instances" in done:
        return f"{name}: {sum(done['instances'].values()):,} objects"
    lost = sum(row["lost"] for row in done["classes"].values())
    gained = sum(row["gained"] for row in done["classes"].values())
    moves = [f"{n:,} {what}" for n, what in ((lost, "removed"), (gained, "added")) if n]
    return f"{name}: {' and '.join(moves) + ' voxels' if moves else 'nothing to change'}"
