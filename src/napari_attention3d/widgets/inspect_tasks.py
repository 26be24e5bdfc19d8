"""What the Inspect tab lets the worker's thread do. No Qt, no viewer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..progress import Progress
from .layers import LayerSource
from .tasks import NO_FILE, ModelShelf, Stamp, file_stamp

if TYPE_CHECKING:
    from ..attention.ask import Answer, Kind, Targets
    from ..attention.replay import Replay
    from ..models import Model
    from ..models.card import ModelCard
    from ..volumes.volume import Volume

__all__ = [
    "Asked",
    "Desk",
    "Question",
    "RunRecord",
    "ask_job",
    "find_guided",
    "made_by",
    "model_changed",
    "prepare_job",
]


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run that can be asked: whose scan, which model, how."""

    source: LayerSource
    model_ref: str
    provenance: dict[str, Any] | None
    """None: not a run, but a model that shall look at a window alone."""
    card: ModelCard | None = None
    stamp: Stamp = NO_FILE
    """Of the model's file, as of the run; see `tasks.file_stamp`."""


@dataclass(frozen=True)
class Question:
    """What to ask, where."""

    voxel: tuple[float, float, float]
    kind: Kind = "row"
    centred: bool = False
    mask: Callable[[], Volume] | None = None
    """Reads the label that is asked about."""
    with_lines: bool = False


@dataclass(frozen=True)
class Asked:
    """What came back."""

    question: Question
    record: RunRecord
    replay: Replay
    answer: Answer | None = None
    targets: Targets | None = None
    gates: dict[str, float] = field(default_factory=dict)


def made_by(record: RunRecord) -> dict[str, Any]:
    """What a layer of ours notes about the run that it comes from."""
    entry: dict[str, Any] = {"scan": record.source.volume.name}
    if record.card is not None:
        entry["model"] = record.card.name
    if record.provenance is not None:
        entry["provenance"] = dict(record.provenance)
    return entry


def model_changed(record: RunRecord) -> str:
    """Say whether the model's file was replaced since the run; empty if not."""
    now = file_stamp(record.model_ref)
    if now == record.stamp:
        return ""
    name = Path(record.model_ref).name
    return f"{name} was {'removed' if now == NO_FILE else 'replaced'} since the run"


class Desk:
    """Keeps the run that was asked last open; a kept tile can be asked from any thread."""

    def __init__(self, shelf: ModelShelf) -> None:
        self.shelf = shelf
        self._aside = ModelShelf()  # a second model must not push the first one out
        self._open: tuple[RunRecord, Replay] | None = None

    def model(self, record: RunRecord) -> Model:
        """Return the run's model; on the worker's thread only."""
        shelf = self.shelf if record.provenance is not None else self._aside
        return shelf.get(record.model_ref)

    def replay(self, record: RunRecord) -> Generator[Progress, None, Replay]:
        """Open a run, unless it is open."""
        from ..attention.replay import Replay

        if self._open is None or self._open[0] is not record:
            self._open = None
            yield Progress(0, 0, "Opening the run …")
            model = self.model(record)
            replay = yield from Replay.open(record.source.volume, model, record.provenance)
            self._open = record, replay
        return self._open[1]

    def at_once(self, record: RunRecord, question: Question) -> Asked | None:
        """Answer from a kept tile, in milliseconds; None if that needs the worker."""
        open_ = self._open
        if open_ is None or open_[0] is not record or question.kind != "row":
            return None
        from ..attention.ask import box_to_ask
        from ..attention.parts import has_position_attention

        replay = open_[1]
        if not has_position_attention(replay.network):
            return None
        if replay.kept(box_to_ask(replay, question.voxel, centred=question.centred)) is None:
            return None
        return _answer(record, question, replay)

    def why_no_rows(self, record: RunRecord, kind: str) -> str:
        """Why a kept tile can't be asked while the mouse moves; "" if it can, or is not known."""
        if kind != "row":
            return "Only “Where does it look?” follows the mouse; click for this question"
        open_ = self._open
        if open_ is not None and open_[0] is record:
            from ..attention.parts import has_position_attention

            card, asks = open_[1].model.card, has_position_attention(open_[1].network)
        elif record.card is not None:
            card, asks = record.card, record.card.network.get("name") == "guided-attention"
        else:
            return ""
        if asks:
            return ""
        return (
            f"{card.name} has gates, no position attention: no voxel of it looks anywhere. The "
            "values of its maps are read below; a guided model can be asked"
        )

    def seconds(self, record: RunRecord, voxel: Sequence[float]) -> float | None:
        """About how long a question about all voxels takes; None if the tile is not kept."""
        open_ = self._open
        if open_ is None or open_[0] is not record:
            return None
        from ..attention.ask import box_to_ask
        from ..attention.cost import question_seconds

        look = open_[1].kept(box_to_ask(open_[1], voxel))
        return None if look is None else question_seconds(look)

    def probabilities(self, record: RunRecord, voxel: Sequence[float]) -> dict[str, float]:
        """Classes and their probabilities at a voxel, if a tile or window there is kept."""
        open_ = self._open
        if open_ is None or open_[0] is not record:
            return {}
        replay = open_[1]
        look = replay.kept_around(replay.on_grid(voxel))
        if look is None:
            return {}
        index = [
            min(max(round(p) - a, 0), n - 1)
            for p, a, n in zip(
                replay.on_grid(voxel), look.box.start, look.logits.shape[1:], strict=True
            )
        ]
        z, y, x = index
        shares = look.logits[:, z, y, x].softmax(0).tolist()
        return dict(zip(replay.model.card.class_names, shares, strict=True))


def ask_job(desk: Desk, record: RunRecord, question: Question) -> Generator[Progress, None, Asked]:
    """Ask a run about a voxel; a job."""
    from ..attention.ask import gate_values
    from ..attention.parts import has_position_attention

    replay = yield from desk.replay(record)
    yield Progress(0, 0, "Looking …")
    if not has_position_attention(replay.network):
        if question.kind != "row":
            raise InputError(
                f"{replay.model.card.name} has no position attention: nobody looks anywhere; "
                "press “Ask the guided model here”"
            )
        return Asked(question, record, replay, gates=gate_values(replay, question.voxel))
    return _answer(record, question, replay)


def prepare_job(
    desk: Desk, record: RunRecord, voxel: Sequence[float]
) -> Generator[Progress, None, None]:
    """Open a run and look at the tile around a voxel beforehand; a job."""
    from ..attention.ask import box_to_ask
    from ..attention.parts import has_position_attention

    replay = yield from desk.replay(record)
    if has_position_attention(replay.network):
        yield Progress(0, 0, "Looking at the tile in view …")
        replay.look(box_to_ask(replay, voxel))


def _answer(record: RunRecord, question: Question, replay: Replay) -> Asked:
    from ..attention.ask import ALL_SCALES, ask, lines

    mask = None if question.mask is None else question.mask()
    answer = ask(replay, question.voxel, question.kind, centred=question.centred, mask=mask)
    targets = None
    if question.with_lines and question.kind == "row":
        targets = lines(replay, answer, ALL_SCALES)
    return Asked(question, record, replay, answer, targets)


def find_guided() -> str:
    """Return the first installed model that can be asked where it looks.

    Raises
    ------
    InputError
        If there is none.
    """
    from ..models import list_models

    for info in list_models():
        if info.card is not None and info.card.network.get("name") == "guided-attention":
            return info.name if info.built_in else str(info.path)
    raise InputError("no guided-attention model is installed; import or train one first")
