"""One persistent thread that drives jobs and reports to the window.

napari's own workers swallow RuntimeError (so also an exhausted GPU memory) and leave
cancelled generators open; and a new thread per run would make cuDNN plan its
convolutions anew. So one thread lives as long as the dock, takes jobs one after the
other and reports through queued Qt signals: every signal of a `Run` is emitted on the
thread that made the runner (the window's).
"""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import atexit
import queue
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Generator
from typing import Any, ClassVar

from qtpy.QtCore import QObject, Qt, Signal

from ..progress import Progress
from .garbage import WindowGarbage

__all__ = ["JobFailure", "JobRunner", "Run"]

JobFactory = Callable[[], Generator[Progress, None, Any]]
_REPORT_EVERY = 0.1  # s; each draws the window anew, with its canvas


class JobFailure:
    """What went wrong in a job, without holding on to its memory.

    Parameters
    ----------
    error
        The exception; the local variables of its frames are released.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.details = "".join(traceback.format_exception(error))
        _release(error)


def _release(error: BaseException) -> None:
    """Clear the local variables of an error's frames, and of those of what it came from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        waiting += [one.__cause__, one.__context__]


class Run(QObject):
    """One job on its way: exactly one of returned, cancelled, errored, then finished."""

    progressed = Signal(object)
    """`Progress`."""
    returned = Signal(object)
    """What the job returned."""
    cancelled = Signal()
    errored = Signal(object)
    """`JobFailure`."""
    finished = Signal()

    def __init__(self, factory: JobFactory, name: str) -> None:
        super().__init__()
        self.name = name
        self._factory: JobFactory | None = factory
        self.gives_way = False
        self._gave_way = False
        self._cancel = threading.Event()
        self._over = False

    def give_way(self) -> None:
        """Cancel for the sake of another job; its owner may ask for it again."""
        self._gave_way = True
        self.cancel()

    @property
    def gave_way(self) -> bool:
        """Whether another job came in before it was over."""
        return self._gave_way

    def cancel(self) -> None:
        """Ask the job to stop; it answers at its next step, with `cancelled` and nothing else."""
        self._cancel.set()

    @property
    def is_cancelling(self) -> bool:
        """True once `cancel` was called."""
        return self._cancel.is_set()

    @property
    def is_over(self) -> bool:
        """True once the outcome was reported."""
        return self._over

    # ---- on the worker's thread

    def _drive(self, report: Callable[[Run, str, Any], None]) -> None:
        """Run the job to its end and report one outcome."""
        factory, self._factory = self._factory, None
        if factory is None or self._cancel.is_set():
            report(self, "cancelled", None)
            return
        try:
            kind, value = self._steps(factory, report)
        except BaseException as error:  # whatever a job raises, the thread must live on
            kind, value = "errored", JobFailure(error)
        del factory
        report(self, kind, value)

    def _steps(
        self, factory: JobFactory, report: Callable[[Run, str, Any], None]
    ) -> tuple[str, Any]:
        job = factory()
        last = 0.0
        try:
            while not self._cancel.is_set():
                try:
                    step = next(job)
                except StopIteration as end:
                    return "returned", end.value
                now = time.monotonic()
                if step.partial is not None or now - last >= _REPORT_EVERY:
                    last = now
                    report(self, "progressed", step)
                del step
        finally:
            job.close()
        return "cancelled", None

    # ---- on the window's thread

    def _deliver(self, kind: str, value: Any) -> None:
        if kind == "progressed":
            if not self._cancel.is_set():
                self.progressed.emit(value)
            return
        self._over = True
        WindowGarbage.get().release()
        if kind == "cancelled" or self._cancel.is_set():  # after Cancel nothing else counts
            self.cancelled.emit()
        else:
            getattr(self, kind).emit(value)
        self.finished.emit()


class _Mail(QObject):
    """Carries reports to the window's thread; lives as long as the process.

    A thread must never emit a signal of an object that the window may be destroying.
    """

    _sent = Signal(object)
    _only: ClassVar[_Mail | None] = None

    def __init__(self) -> None:
        super().__init__()
        self._sent.connect(self._on_sent, Qt.ConnectionType.QueuedConnection)

    @classmethod
    def get(cls) -> _Mail:
        """Return the one object; call it on the window's thread first."""
        if cls._only is None:
            cls._only = cls()
        return cls._only

    def post(self, run: Run, kind: str, value: Any) -> None:
        """Report from any thread."""
        self._sent.emit((run, kind, value))

    def _on_sent(self, message: tuple[Run, str, Any]) -> None:
        run, kind, value = message
        run._deliver(kind, value)


class JobRunner:
    """Owner of the thread; make it on the window's thread."""

    def __init__(self) -> None:
        self._mail = _Mail.get()
        self._queue: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._runs: list[Run] = []
        _runners.add(self)

    def submit(self, factory: JobFactory, name: str = "job", *, gives_way: bool = False) -> Run:
        """Queue a job; connect to the returned run's signals before returning to Qt.

        Parameters
        ----------
        factory
            Called on the thread; returns the generator to drive.
        gives_way
            Nobody waits for this job: the next one that is submitted cancels it, and the
            run's `gave_way` is then true.
        """
        run = Run(factory, name)
        run.gives_way = gives_way
        self._runs = [one for one in self._runs if not one.is_over]
        for one in self._runs:
            if one.gives_way and not one.is_cancelling:
                one.give_way()
        self._runs.append(run)
        WindowGarbage.get().hold()  # until the run has reported its end
        if self._thread is None or not self._thread.is_alive():
            self._queue = queue.SimpleQueue()
            self._thread = threading.Thread(
                target=_work, args=(self._queue, self._mail.post), name="attention3d", daemon=True
            )
            self._thread.start()
        self._queue.put(run)
        return run

    def call(self, function: Callable[[], Any], name: str = "call") -> Run:
        """Queue a plain function; it can't be cancelled once it runs."""

        def job() -> Generator[Progress, None, Any]:
            return function()
            yield  # makes this a generator

        return self.submit(job, name)

    def end_with(self, owner: QObject) -> None:
        """Stop when `owner` is destroyed; call it on the window's thread.

        What Qt calls then must not be part of `owner`: Python may have cleared a `partial`
        or a closure that is garbage together with it, and Qt would call an empty one.
        """
        runner = weakref.ref(self)

        def end(*_: object) -> None:
            _endings.discard(end)
            if (alive := runner()) is not None:
                alive.stop()

        _endings.add(end)
        owner.destroyed.connect(end)

    def __del__(self) -> None:
        self.stop()  # nobody can hear of its jobs any more

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Cancel everything and let the thread end at its next step; does not wait.

        A later `submit` starts a new thread.
        """
        for run in self._runs:
            run.cancel()
        if self._thread is not None:
            self._queue.put(None)
            self._thread = None

    def join(self, timeout: float = 10.0) -> bool:
        """Stop and wait for the thread (tests, interpreter exit); True if it ended."""
        thread = self._thread
        self.stop()
        if thread is not None:
            thread.join(timeout)
            return not thread.is_alive()
        return True


_endings: set[Callable[..., None]] = set()
_runners: weakref.WeakSet[JobRunner] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Let threads end before the interpreter does: torch must not outlive Python."""
    for runner in list(_runners):
        runner.join(timeout=5.0)


def _work(jobs: queue.SimpleQueue[Run | None], post: Callable[[Run, str, Any], None]) -> None:
    while True:
        run = jobs.get()
        if run is None:
            return
        run._drive(post)
        del run
