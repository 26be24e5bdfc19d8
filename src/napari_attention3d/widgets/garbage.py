"""Python's garbage is collected on the window's thread alone while jobs run.

A closed dock leaves cycles of Qt objects. Python collects them on whichever thread happens
to allocate next, and a Qt object that dies on a job's thread takes the process with it
(pyqtgraph and others met the same crash). So while jobs run the automatic collection is
off, and a timer of the window's thread does it instead, by the same thresholds.
"""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import gc
import threading
import time
from typing import ClassVar

from qtpy.QtCore import QObject, Qt, QThread, QTimer, Signal

__all__ = ["WindowGarbage"]

_LOOK_EVERY = 100  # ms
_FULL_EVERY = 300.0  # s; a full collection looks at every object there is, half a second long
_WAIT = 5.0  # s; for a window that may be waiting for the very thread that asks


class WindowGarbage(QObject):
    """The collector of the window's thread; one per process, called on that thread only."""

    _only: ClassVar[WindowGarbage | None] = None
    _asked = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._asked.connect(self._on_asked, Qt.ConnectionType.QueuedConnection)
        self._holders = 0
        self._was_enabled = True
        self._last_full = time.monotonic()
        self._timer = QTimer(self)
        self._timer.setInterval(_LOOK_EVERY)
        self._timer.timeout.connect(self.collect)

    @classmethod
    def get(cls) -> WindowGarbage:
        """Return the one collector."""
        if cls._only is None:
            cls._only = cls()
        return cls._only

    @property
    def is_held(self) -> bool:
        """Whether only the window's thread collects now."""
        return self._holders > 0

    def hold(self) -> None:
        """Let only this thread collect until `release`; calls nest."""
        self._holders += 1
        if self._holders == 1:
            self._was_enabled = gc.isenabled()
            self._last_full = time.monotonic()  # between jobs Python collects by itself
            gc.disable()
            self._timer.start()

    def release(self) -> None:
        """End one `hold`; after the last one Python collects by itself again."""
        self._holders -= 1
        if self._holders == 0:
            self._timer.stop()
            if self._was_enabled:
                gc.enable()

    def collect(self) -> None:
        """Collect the oldest generation that is due by Python's own thresholds."""
        due = [
            threshold and count > threshold
            for count, threshold in zip(gc.get_count(), gc.get_threshold(), strict=True)
        ]
        if due[2] and time.monotonic() - self._last_full > _FULL_EVERY:
            gc.collect(2)
            self._last_full = time.monotonic()
        elif due[1]:
            gc.collect(1)
        elif due[0]:
            gc.collect(0)

    def collect_all(self) -> None:
        """Collect everything, from any thread; another thread waits for it, not for ever."""
        if QThread.currentThread() is self.thread():
            gc.collect()
            return
        done = threading.Event()
        self._asked.emit(done)
        done.wait(_WAIT)

    def _on_asked(self, done: threading.Event) -> None:
        gc.collect()
        done.set()
