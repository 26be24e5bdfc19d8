"""A person correcting one scan: strokes, rounds, approvals, undo. No window, no threads.

Jobs change nothing; the caller applies their results (`CorrectionSession.apply`), in a
window on the main thread. Strokes may be added while a job runs: it learns from those
there were when it started, and `apply` puts those made meanwhile over its result.

    session = run(CorrectionSession.start_job(scan, model))  # or ...(scan, classes=[...])
    session.paint(strokes_layer)                # after each stroke
    session.take_mask_edits(mask_layer)         # before each change of the mask's layer
    session.apply(run(session.learn_job()))     # seconds
    session.apply_if_better(run(session.refine_job()))  # the network, minutes
    session.undo()
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..errors import InputError
from ..models.store import Model, save_model
from ..progress import Job, Progress
from ..volumes.volume import Volume
from .autosave import Autosave
from .autosave_rounds import SavedKind
from .fast_head import FastHead
from .features import ScanFeatures, scan_features
from .learn import Learned, learn_job
from .memory import clear_when_memory_ends
from .merge import box_at, flipped, merge
from .predict import predict_job
from .refine import RefineOptions
from .refine_round import refine_round_job
from .rounds import Round, RoundRecord
from .session_state import SessionState
from .working_copy import model_for_scan, renamed, with_classes

__all__ = ["CorrectionSession"]

Labels = npt.NDArray[Any]
Region = Sequence[Sequence[int]]


class CorrectionSession(SessionState):
    """Corrections of one scan, and what is learned from them.

    Parameters
    ----------
    scan, classes, labels, probabilities, model, folder, threads
        See `SessionState`; `start_job` makes them from a model or from nothing.
    """

    _features: ScanFeatures | None = None
    _head: tuple[int | None, FastHead] | None = None

    @classmethod
    def start_job(
        cls,
        scan: Volume,
        model: Model | None = None,
        classes: Sequence[str] | None = None,
        *,
        folder: Path | None = None,
        threads: int = 2,
        device: str = "auto",
    ) -> Job[CorrectionSession]:
        """Begin a session: from a model, from one with other classes, or from nothing.

        Parameters
        ----------
        scan
            The scan.
        model
            To be corrected; None: from nothing.
        classes
            Names, background first; None: the model's. If they differ from the model's,
            it gets a new head when it is trained, and the mask starts empty.
        folder, threads
            See `SessionState`.
        device
            Where the model predicts.

        Raises
        ------
        InputError
            If there is neither a model nor classes; else see `SessionState`, `predict_job`.
        """
        if classes is None:
            if model is None:
                raise InputError("name the classes to start from nothing, or choose a model")
            classes = model.card.class_names
        shares = None
        if model is not None and list(classes) == model.card.class_names:
            shares = yield from predict_job(model, scan, device=device)
        return cls(scan, classes, probabilities=shares, model=model, folder=folder, threads=threads)

    @classmethod
    def resume(cls, folder: Path, scan: Volume, *, threads: int = 2) -> CorrectionSession:
        """Go on where a saved session ended, however it ended.

        Rounds that are damaged are left out with those after them; `saved.problems` says so.

        Raises
        ------
        InputError
            If the folder holds no session, one of another scan, or a damaged one.
        """
        saved = Autosave(folder)
        about = saved.about(scan)
        session = cls(
            scan,
            about.classes,
            probabilities=saved.start_probabilities(),
            model=saved.start_model(),
            threads=threads,
        )
        for stroke in saved.strokes():
            session.strokes.add(stroke)
        kind = SavedKind(session.shape, session.grid.work_shape, len(about.classes))
        session.rounds = saved.rounds(kind, session._weights)
        session.current = min(saved.current(), len(session.rounds) - 1)
        session.approval = saved.approval()
        session.saved = saved
        session._show()
        return session

    # what is computed

    def prepare_job(self) -> Job[FastHead]:
        """Compute what does not depend on strokes; worth doing before the first one."""
        key = self.shown_round.record.network
        if self._head is not None and self._head[0] == key:
            return self._head[1]
        if self._features is None:
            image = self.grid.reduce(self.scan.array)
            spacing = np.array(self.scan.geometry.spacing) * np.array(self.grid.factors)
            for step in scan_features(image, spacing):
                if isinstance(step, ScanFeatures):
                    self._features = step
                else:
                    yield Progress(step[0], step[1], "Looking at the scan")
        detail = self._detail
        head = self._head_with(None if detail is None else self.grid.reduce(detail))
        self._head = (key, head)
        return head

    def learn_job(
        self,
        *,
        focus: Sequence[float] | None = None,
        axis: int = 0,
        region: Region | None = None,
    ) -> Job[Learned]:
        """Learn from all strokes and predict; `apply` the result. Takes seconds.

        Parameters
        ----------
        focus
            Voxel (z, y, x) that is looked at; None: the middle.
        axis
            Across which it is looked at: 0 where planes of one z are shown, 1 for y, 2 for x.
        region
            Index ranges ((z0, z1), (y0, y1), (x0, x1)) of the scan to predict; elsewhere
            the current round holds. None: everything.

        Yields
        ------
        Progress
            ``partial`` is a `learn.Patch` to be shown at once, or None.

        Raises
        ------
        InputError
            If nothing is painted, or only one class and there is no model.
        OutOfMemory
            If the memory does not suffice; the session is as before.
        """
        painted = self._painted()
        corrections, approval = self.strokes.corrections.copy(), self.approval
        movements, erased = len(self.strokes), self._erased

        def over(labels: Labels, start: tuple[int, int, int]) -> Labels:
            return merge(labels, corrections, approval, box_at(start, labels.shape))

        with clear_when_memory_ends():
            head = yield from self.prepare_job()
            learned = yield from learn_job(
                head,
                self.grid,
                painted,
                self.shown_round.state,
                detail=self._detail,
                focus=focus,
                axis=axis,
                region=region,
                merge=over,
                erased=erased,
            )
        learned.movements = movements
        return learned

    def refine_job(
        self,
        options: RefineOptions | None = None,
        *,
        focus: Sequence[float] | None = None,
        axis: int = 0,
        attention: npt.NDArray[Any] | None = None,
    ) -> Job[Learned]:
        """Train the network on all strokes, and predict with it; `apply_if_better` the result.

        A copy of the network is trained; what the current round shows is kept where nobody
        objected. The mask then comes from the network and the strokes together: the fast
        learner takes the network's probabilities as what is to be corrected.

        Parameters
        ----------
        options
            See `RefineOptions`.
        focus, axis
            See `learn_job`.
        attention
            (Z, Y, X) strokes "look here" and "not here" to follow besides; see
            `refine.refine_job`.

        Yields
        ------
        Progress
            With ``metrics["loss"]`` while it trains.

        Raises
        ------
        InputError, ModelMismatchError, OutOfMemory
            As `learn_job`, or if scan and model don't fit together; the session is as before.
        """
        painted = self._painted()
        movements, erased = len(self.strokes), self._erased
        with clear_when_memory_ends():
            head = yield from self.prepare_job()
            learned = yield from refine_round_job(
                self.current_model(),
                self.scan,
                head,
                self.grid,
                painted,
                self.shown_round,
                options or RefineOptions(),
                focus=focus,
                axis=axis,
                erased=erased,
                attention=attention,
            )
        learned.movements = movements
        return learned

    def _painted(self) -> Any:
        painted = self.strokes.painted()
        if not len(painted.voxels):
            raise InputError("nothing is painted yet; paint a stroke where the mask is wrong")
        if self._detail is None and len(np.unique(painted.values)) < 2:
            raise InputError(
                "all strokes are of one class; paint at least one stroke of a second class "
                "(background counts)"
            )
        return painted

    @property
    def _detail(self) -> npt.NDArray[Any] | None:
        """What the network of the current round says (K, Z, Y, X), or None without one."""
        network = self.shown_round.network
        return self.start_probabilities if network is None else network.probabilities

    def _head_with(self, prior: npt.NDArray[np.float32] | None) -> FastHead:
        assert self._features is not None
        return FastHead(self._features, len(self.classes), prior, self.threads)

    # what becomes of results

    def make_round(self, learned: Learned) -> Round:
        """Build the round that a result will be, and save it, not yet visible; for the worker.

        Nothing of the session changes; `apply` makes it the current one.

        Raises
        ------
        OutputError
            If it can't be saved.
        """
        made = self._round_of(learned)
        if self.saved is not None:
            self.saved.write_round(made, new_network=learned.network is not None)
        return made

    def _round_of(self, learned: Learned) -> Round:
        lost = flipped(learned.labels, self.approval, self.corrections)
        before = self.shown_round
        record = RoundRecord.of(learned, self.current + 1, before.record.network)
        record.flipped = len(lost)
        if len(lost):
            record.warnings.append(
                f"{len(lost)} approved voxels would have changed (first at "
                f"{tuple(lost[0].tolist())}); they are kept as approved"
            )
        network = before.network if learned.network is None else learned.network
        return Round(record, learned.labels, learned.state, learned.shown, network)

    def apply(self, learned: Learned, made: Round | None = None, *, shown: bool = False) -> Round:
        """Make a round's result the current one; rounds that were undone are forgotten.

        Parameters
        ----------
        learned
            The result.
        made
            What `make_round` made of it; None: it is made now.
        shown
            Whether its final patches were all written into the mask's layer and noted.

        Raises
        ------
        OutputError
            If it can't be saved; the session is as before.
        """
        if made is None:
            made = self.make_round(learned) if self.saved is not None else self._round_of(learned)
        if self.saved is not None:
            self.saved.keep_round(made.record.number)
        self._append(made)
        self._show(written=shown)
        return made

    def apply_if_better(
        self, learned: Learned, made: Round | None = None, *, shown: bool = False
    ) -> Round | None:
        """Apply a result unless it measures worse; then None, and ``warnings`` says why.

        Worse: on held-back strokes, or below 12 strokes by how much it changed of what was
        certain (`Learned.lost`).
        """
        return None if learned.lost else self.apply(learned, made, shown=shown)

    # the network

    def _weights(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the network's weights."""
        network = self.current_model().network
        return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    @property
    def has_network(self) -> bool:
        """Whether a network was trained, or a model given, whose classes are the session's."""
        given = self.start_model
        same = given is not None and given.card.class_names == list(self.classes)
        return same or self.shown_round.network is not None

    def current_model(self) -> Model:
        """Copy of the network as it is in the current round; new and untrained from nothing."""
        if self.start_model is not None:
            model = with_classes(self.start_model, self.classes)
        else:
            model = model_for_scan(self.scan, self.classes)
        trained = self.shown_round.network
        if trained is not None:
            state = {k: torch.from_numpy(v.copy()) for k, v in trained.weights.items()}
            model.network.load_state_dict(state, strict=True)
        return model

    def save_model(self, path: Path, title: str = "") -> Path:
        """Save the current round's network as a model file, to be used on other scans.

        Parameters
        ----------
        path
            Ends in .safetensors; its stem becomes the model's name.
        title
            What the model list shows; default: the name.

        Raises
        ------
        InputError
            If there is no trained network yet.
        OutputError
            If it can't be written.
        """
        if not self.has_network:
            raise InputError("no network was trained yet; refine the network first, then save it")
        model = self.current_model()
        return save_model(path, model.network, renamed(model.card, path, title, self.scan))
