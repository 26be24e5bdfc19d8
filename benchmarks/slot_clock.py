"""Times each slot and callback of the plugin on the window's thread, without napari's own work.

`SlotClock.install` wraps every function of `napari_attention3d.widgets`, and what napari lets
others call on layers and layer lists. The outermost function of ours that Qt or napari calls
is a slot; its own time is what it took less what napari took for the layers it touched. What
napari calls back from there is a slot of its own.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np


class SlotClock:
    """Own times of slots, by phase."""

    def __init__(self) -> None:
        self.phase = ""
        self.slots: list[tuple[str, str, float]] = []
        """Phase, function, own seconds."""
        self._thread = threading.get_ident()
        self._stack: list[list[Any]] = []

    def install(self) -> None:
        """Wrap; before the first dock is made."""
        import napari_attention3d.widgets as ours

        for found in pkgutil.iter_modules(ours.__path__):
            module = importlib.import_module(f"{ours.__name__}.{found.name}")
            for owner in _classes(module):
                for name, function in list(vars(owner).items()):
                    if inspect.isfunction(function) and not inspect.isgeneratorfunction(function):
                        setattr(owner, name, self._wrapped(function, "ours"))
        from napari.components import LayerList
        from napari.layers import Layer
        from napari.utils.events import EventedModel, SelectableEventedList

        for kind in (LayerList, SelectableEventedList):
            for name in ("insert", "remove", "clear", "pop", "move", "append", "__delitem__"):
                if name in vars(kind):
                    setattr(kind, name, self._wrapped(vars(kind)[name], "napari"))
        for kind in (Layer, *_below(Layer)):
            for name in ("__init__", "refresh", "data_setitem", "__setattr__"):
                if name in vars(kind):
                    setattr(kind, name, self._wrapped(vars(kind)[name], "napari"))
        Layer.__setattr__ = self._wrapped(Layer.__setattr__, "napari")
        EventedModel.__setattr__ = self._wrapped(EventedModel.__setattr__, "napari")

    def _wrapped(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        code = function.__code__ if hasattr(function, "__code__") else None
        # Qt and napari hand over as many arguments as a slot takes.
        takes = code.co_argcount if code is not None and not code.co_flags & 0x04 else None

        @functools.wraps(function)
        def timed(*given: Any, **named: Any) -> Any:
            if kind == "ours":
                given = given[:takes]
            stack = self._stack
            top = stack[-1][0] if stack else "napari"
            if threading.get_ident() != self._thread or top == kind:
                return function(*given, **named)
            frame = [kind, 0.0]
            stack.append(frame)
            begin = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                lasted = time.perf_counter() - begin
                stack.pop()
                if stack:
                    stack[-1][1] += lasted
                if kind == "ours":
                    name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
                    self.slots.append((self.phase, name, lasted - frame[1]))

        return timed

    def row(self, phase: str) -> tuple[int, float, float, str]:
        """Return how many slots ran, p99 and longest own time (ms), and the longest's name."""
        found = [(seconds, name) for where, name, seconds in self.slots if where == phase]
        if not found:
            return 0, 0.0, 0.0, ""
        longest, name = max(found)
        p99 = float(np.percentile([seconds for seconds, _ in found], 99))
        return len(found), 1e3 * p99, 1e3 * longest, name


def _classes(module: Any) -> list[type]:
    return [
        one
        for one in vars(module).values()
        if inspect.isclass(one) and one.__module__ == module.__name__
    ]


def _below(kind: type) -> list[type]:
    found = []
    for one in kind.__subclasses__():
        found += [one, *_below(one)]
    return found
