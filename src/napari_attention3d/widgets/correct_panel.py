"""The Correct tab: paint, learn, look, paint again."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QVBoxLayout, QWidget

from ..errors import Attention3DError
from . import correct_tasks
from .correct_beginning import Beginning
from .correct_checking import Checking
from .correct_form import SessionForm
from .correct_history import History
from .correct_link import SessionLink
from .correct_painting import Painting
from .correct_view import bind_keys, looked_at
from .layer_chooser import LayerChooser
from .notify import notify_failure, summarise
from .paint_layers import attention_strokes
from .status_bar import StatusBar
from .worker import JobFailure, JobRunner, Run

if TYPE_CHECKING:
    from ..correction.session import CorrectionSession
    from ..progress import Progress
    from .tasks import ModelShelf

__all__ = ["CorrectPanel"]

PAUSE = 1200  # ms without a stroke after which auto mode learns
_NO_SESSION = "Start correcting first"
_BUSY = "Something runs; Cancel is below. Strokes made meanwhile are kept for the next round"


class CorrectPanel(QWidget):
    """Controller of the tab: translates between forms, session, worker and viewer.

    Parameters
    ----------
    viewer, runner, chooser, status
        Shared by all tabs.
    shelf
        Keeps the last model loaded; None: a new one.
    """

    started = Signal(object)
    """`CorrectionSession`."""
    learned = Signal(object)
    """`Round` that is shown now, or None if the trained network was not better."""
    failed = Signal(object)
    """`JobFailure`, or an `Attention3DError` that was refused before a job began."""
    model_saved = Signal(object)
    """Path."""

    def __init__(
        self,
        viewer: Any,
        runner: JobRunner,
        chooser: LayerChooser,
        status: StatusBar,
        shelf: ModelShelf | None = None,
    ) -> None:
        super().__init__()
        self.viewer, self.runner, self.chooser, self.status = viewer, runner, chooser, status
        self.link: SessionLink | None = None
        self.form = SessionForm()
        self._run: Run | None = None
        self._kind = ""
        self._preparing: Run | None = None
        self._patches: Callable[[Any], bool] = lambda partial: False
        self._learned_from = self._learning_from = 0
        self.painting, self.checking, self.history = Painting(self), Checking(self), History(self)
        self.beginning = Beginning(self, shelf)
        self.start_form = self.beginning.form
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addWidget(self.start_form)
        layout.addWidget(self.form)
        layout.addStretch(1)
        self.form.hide()
        self._pause = self._timer(PAUSE, self._on_pause)
        self._connect()
        bind_keys(self)
        self.update_state()

    def _timer(self, milliseconds: int, slot: Callable[[], None]) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(milliseconds)
        timer.timeout.connect(slot)
        return timer

    def _connect(self) -> None:
        form = self.form
        form.class_chosen.connect(self.painting.choose)
        form.learn_clicked.connect(self.learn)
        form.auto_toggled.connect(self._on_auto)
        form.train_clicked.connect(self.train)
        form.next_clicked.connect(self.checking.next_place)
        form.approve_clicked.connect(self.checking.approve)
        form.save_clicked.connect(self.checking.save_model)
        form.close_clicked.connect(self.close_session)
        form.flip_clicked.connect(self.checking.next_flip)
        self.status.cancel_clicked.connect(self.cancel)

    # ---- state

    @property
    def session(self) -> CorrectionSession | None:
        """The open session."""
        return None if self.link is None else self.link.session

    @property
    def is_busy(self) -> bool:
        """Whether a job of this tab is on its way."""
        return self._run is not None

    def start(self) -> None:
        """Follow the viewer's layers (again)."""
        self.beginning.attach()
        if self.link is not None:
            self.painting.start()

    def close_down(self) -> None:
        """Follow them no longer; a session stays as it is."""
        self._pause.stop()
        self.painting.stop()
        self.beginning.detach()

    def showEvent(self, event: Any) -> None:
        """Bring what can be started from up to date."""
        super().showEvent(event)
        self.beginning.look()

    # ---- jobs

    def submit(self, job: Any, kind: str, on_returned: Callable[[Any], None], words: str) -> None:
        """Queue a job of this tab; one at a time."""
        run = self.runner.submit(job, f"correct: {kind}")
        self._run, self._kind = run, kind
        run.progressed.connect(self._on_progress)
        run.returned.connect(on_returned)
        run.cancelled.connect(self._on_cancelled)
        run.errored.connect(self._on_failed)
        run.finished.connect(self._on_finished)
        self.status.busy(words)
        self.update_state()

    def cancel(self) -> None:
        """Stop what runs at its next step."""
        for run in (self._run, self._preparing):
            if run is not None:
                run.cancel()

    def refuse(self, error: BaseException | str) -> None:
        """Say why something can't be done."""
        text = error if isinstance(error, str) else summarise(error)
        self.status.idle(f"⚠ {text}")
        if not isinstance(error, str):
            self.failed.emit(error)

    def _on_progress(self, step: Progress) -> None:
        self.status.progress(step)
        if self.link is not None and self._patches(step.partial):
            self.link.show_patch(step.partial)
        if "loss" in step.metrics:
            self.form.rounds.add_loss(step.done, step.metrics["loss"])

    def _on_cancelled(self) -> None:
        if self.link is not None and self._kind in ("learn", "train"):
            self.link.restore()
        self.status.idle("Cancelled; mask and strokes are as they were")

    def _on_failed(self, failure: JobFailure) -> None:
        if self.link is not None and self._kind in ("learn", "train"):
            self.link.restore()
        if isinstance(failure.error, Attention3DError) and self._kind == "learn":
            self.status.idle(f"⚠ {summarise(failure.error)}")  # nothing broke: paint on
        else:
            self.status.error(notify_failure(failure), failure.details)
        self.failed.emit(failure)

    def _on_finished(self) -> None:
        kind, self._run, self._kind = self._kind, None, ""
        self.update_state()
        if kind in ("learn", "train") and self.session is not None:
            # after an error or Cancel it does not begin again by itself with the same strokes
            new = len(self.session.strokes) > self._learning_from
            if new and self.form.auto_box.isChecked():
                self._pause.start()

    # ---- beginning and end of a session

    def open_session(self, started: correct_tasks.Started) -> None:
        """Show a session that was started or resumed."""
        from ..correction.learn import Patch

        self._patches = lambda partial: isinstance(partial, Patch)
        self.link = link = SessionLink(self.viewer, started)
        link.scan_layer = self.beginning.scan_layer
        link.layers.painted.connect(self.painting.take)
        link.layers.class_chosen.connect(self.painting.show_class)
        link.layers.removed.connect(self.painting.tell_removed)
        self.form.set_classes(link.session.classes, link.colours, link.marker)
        self.form.show_brush(1)
        names = ", ".join(link.session.classes[1:])
        self.form.title.setText(f"Correcting <b>{link.source.volume.name}</b>: {names}")
        self._learned_from = link.session.shown_round.record.movements
        self.form.rounds.begin_losses()
        self.start_form.hide()
        self.form.show()
        self.update_state()
        self.status.idle(started.note or "Paint a stroke or two of each class, then press Learn")
        self.painting.start()
        self._prepare()
        self.started.emit(link.session)

    def _prepare(self) -> None:
        """Look at the scan while the first strokes are painted."""
        assert self.link is not None
        self._preparing = self.runner.submit(
            partial(correct_tasks.prepare, self.link.session), "correct: prepare"
        )
        self._preparing.finished.connect(self._on_prepared)

    def _on_prepared(self) -> None:
        self._preparing = None

    def close_session(self) -> None:
        """End the session; what was painted stays in its folder."""
        if self.link is None or self._run is not None:
            return
        try:
            self.link.collect()
        except Attention3DError as error:
            self.refuse(error)
            return
        self._pause.stop()
        self.painting.stop()
        if self._preparing is not None:
            self._preparing.cancel()
        link, self.link = self.link, None
        link.close()
        self.form.hide()
        self.start_form.show()
        self.beginning.closed(link.session)
        self.update_state()
        self.status.idle("Session closed; it can be resumed" if len(link.session.strokes) else "")

    # ---- learning

    @property
    def unlearned(self) -> int:
        """Strokes that no round has learned from yet."""
        session = self.session
        return 0 if session is None else len(session.strokes) - self._learned_from

    def _on_auto(self, on: bool) -> None:
        if on and self.unlearned:
            self._pause.start()

    def pause(self) -> None:
        """Auto mode: learn a moment from now, unless something is painted before."""
        self._pause.start()

    def _on_pause(self) -> None:
        if QGuiApplication.mouseButtons() != Qt.MouseButton.NoButton:
            self._pause.start()  # in the middle of a stroke
        elif self._run is None and self.link is not None and self.unlearned:
            self.learn()

    def learn(self) -> None:
        """Learn from all corrections; the button's and the shortcut's slot."""
        link = self.collected()
        if link is None:
            return
        self._begin(link)
        focus, axis = looked_at(self.viewer, link)
        job = partial(correct_tasks.learn, link.session, focus, axis, link.lock)
        self.submit(job, "learn", self._on_learned, "Learning …")

    def train(self) -> None:
        """Train the network on all corrections."""
        link = self.collected()
        if link is None:
            return
        self._begin(link)
        self.form.rounds.begin_losses()
        seconds = float(self.form.seconds_spin.value())
        looks = attention_strokes(self.viewer, link.source)
        focus, axis = looked_at(self.viewer, link)
        job = partial(correct_tasks.train, link.session, seconds, focus, axis, link.lock, looks)
        also = "" if looks is None else ", its attention follows the strokes in view"
        self.submit(job, "train", self._on_learned, f"Training the network{also} …")

    def _begin(self, link: SessionLink) -> None:
        self._learning_from = len(link.session.strokes)
        link.begin()

    def collected(self) -> SessionLink | None:
        """The open session with all that was painted; None if nothing can begin now."""
        link = self.link
        if link is None or self._run is not None:
            self.status.label.setText(_NO_SESSION if link is None else _BUSY)
            return None
        self._pause.stop()
        try:
            self.beginning.check_scan(link)
            link.notes += link.collect()
        except Attention3DError as error:
            self.refuse(error)
            return None
        self.form.show_painted(link.stroke_counts())
        return link

    def _on_learned(self, outcome: correct_tasks.Outcome) -> None:
        link, learned = self.link, outcome.learned
        assert link is not None
        if outcome.problem is not None:
            link.stop_saving(outcome.problem)
        made = link.apply(learned, outcome.made)
        if made is not None:
            self._learned_from = self._learning_from
        many = "s" * (learned.strokes != 1)
        words = [f"Learned from {learned.strokes} stroke{many} in {learned.seconds:.1f} s"]
        if made is None:
            words = ["The trained network measured worse, so all is left as it was"]
        warnings = learned.warnings if made is None else made.record.warnings
        words += [f"⚠ {text}" for text in (*warnings, *link.notes)]
        link.notes.clear()
        self.status.idle(". ".join(words))
        self.history.show()
        self.learned.emit(made)

    # ---- how it looks

    def tell_notes(self) -> None:
        """Say what went wrong with saving."""
        if self.link is not None and self.link.notes:
            self.status.idle("⚠ " + "; ".join(self.link.notes))
            self.link.notes.clear()

    def update_state(self) -> None:
        """Enable what can be done, and say why not."""
        self.beginning.update(self._run is not None and self._kind == "start")
        link = self.link
        if link is None:
            return
        free = self._run is None
        session, form = link.session, self.form
        form.set_free(free, _BUSY, learning=self._kind, network=session.has_network)
        form.show_painted(link.stroke_counts())
        form.show_approved(link.approved_share())
        self.history.show()
