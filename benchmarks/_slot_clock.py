"""Times each slot and callback of the plugin on the window's thread, without napari's own work.

`SlotClock.install` must come before `napari_attention3d.widgets` is first imported: the package's
modules and `_napari` are compiled with every function timed: methods (static ones and those of
classes, too), properties, functions of modules, inner functions and lambdas, whatever they are
connected to. Left out are generators (jobs, which the worker's thread runs) and `demo`, which
waits on purpose. What napari lets others call on layers and layer lists is timed as napari's.

The outermost function of ours that Qt or napari calls is a slot; its own time is what it took
less what napari took for the layers it touched. What napari calls back from there is a slot of
its own. What Qt does for us (styles, drawing, import of modules) is in the own time of the slot
that made it do so. What Python's collector takes when it begins by itself is counted apart: it
comes at any allocation, and to napari alone as well; collections that we ask for are ours.
"""

from __future__ import annotations

import ast
import builtins
import functools
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

OURS = ("napari_attention3d.widgets", "napari_attention3d._napari")
LEFT_OUT = ("napari_attention3d.widgets.demo",)
MARK = "__slot_clock__"
"""Name by which compiled modules find what times their functions."""


class SlotClock:
    """Own times of slots, by phase."""

    def __init__(self) -> None:
        self.phase = ""
        self.slots: list[tuple[str, str, float]] = []
        """Phase, function, own seconds."""
        self.collections: list[tuple[str, float]] = []
        """Phase, seconds, of collections within slots that Python began by itself."""
        self._thread = threading.get_ident()
        self._stack: list[list[Any]] = []
        self._collecting = 0.0

    def install(self) -> None:
        """Time ours and napari; before the first dock is made."""
        self.watch_modules(OURS)
        self.watch_napari()
        gc.callbacks.append(self.on_collection)

    def on_collection(self, when: str, about: Any = None) -> None:
        """Take a collection out of the slot that it fell into; for `gc.callbacks`."""
        if threading.get_ident() != self._thread or not self._stack:
            return
        if when == "start":
            self._collecting = time.perf_counter()
            return
        lasted, top = time.perf_counter() - self._collecting, self._stack[-1]
        if top[0] == "ours" and not top[2].startswith("WindowGarbage."):
            top[1] += lasted
            self.collections.append((self.phase, lasted))

    def watch_modules(self, names: Sequence[str]) -> _Finder:
        """Let modules of these names and below be imported with all functions timed.

        Raises
        ------
        RuntimeError
            If one was imported already.
        """
        there = [name for name in sys.modules if _is_of(name, names)]
        if there:
            raise RuntimeError(f"{there[0]} was imported before it could be timed")
        setattr(builtins, MARK, self.ours)
        finder = _Finder(names)
        sys.meta_path.insert(0, finder)
        return finder

    def watch_napari(self) -> None:
        """Time what is called on layers and lists of layers."""
        from napari.components import LayerList
        from napari.layers import Layer
        from napari.layers.base.base import PostInit
        from napari.utils.events import EventedModel
        from napari.utils.events.containers import Selection

        # Inherited ones too, from lists that are not of layers.
        for name in ("insert", "remove", "clear", "pop", "move", "append", "extend", "__delitem__"):
            setattr(LayerList, name, self.timed(getattr(LayerList, name), "napari"))
        for kind in (Layer, *_below(Layer)):
            for name in ("__init__", "refresh", "data_setitem", "__setattr__"):
                if name in vars(kind):
                    setattr(kind, name, self.timed(vars(kind)[name], "napari"))
        Layer.__setattr__ = self.timed(Layer.__setattr__, "napari")
        PostInit.__call__ = self.timed(PostInit.__call__, "napari")  # what makes any layer
        Selection.__setattr__ = self.timed(Selection.__setattr__, "napari")
        EventedModel.__setattr__ = self.timed(EventedModel.__setattr__, "napari")

    def ours(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of ours that is timed; generators as they are."""
        if inspect.isgeneratorfunction(function):
            return function
        return self.timed(function, "ours")

    def timed(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        """Return the function with its time added to whom it belongs to."""
        code = function.__code__ if hasattr(function, "__code__") else None
        # Qt and napari hand over as many arguments as a slot takes.
        takes = code.co_argcount if code is not None and not code.co_flags & 0x04 else None

        @functools.wraps(function)
        def timed(*given: Any, **named: Any) -> Any:
            if kind == "ours":
                given = given[:takes]
            stack = self._stack
            if threading.get_ident() != self._thread:
                return function(*given, **named)
            if (stack[-1][0] if stack else "napari") == kind:
                return function(*given, **named)
            frame = [kind, 0.0, function.__qualname__]
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
        return summary(found)


def summary(slots: Sequence[tuple[float, str]]) -> tuple[int, float, float, str]:
    """Return how many slots, p99 and longest (ms) and the longest's name."""
    if not slots:
        return 0, 0.0, 0.0, ""
    longest, name = max(slots)
    p99 = float(np.percentile([seconds for seconds, _ in slots], 99))
    return len(slots), 1e3 * p99, 1e3 * longest, name


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that are to be timed where they are."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not _is_of(name, self.names) or name in LEFT_OUT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module anew, each of its functions handed to the clock."""

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        tree = _Marks().visit(ast.parse(Path(path).read_bytes(), path))
        return compile(ast.fix_missing_locations(tree), path, "exec")


class _Marks(ast.NodeTransformer):
    """Hands functions to the clock: innermost, so that `property` and others get its result."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        mark = ast.Name(MARK, ast.Load())
        node.decorator_list.append(ast.copy_location(mark, node))
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.Call:
        self.generic_visit(node)
        mark = ast.copy_location(ast.Name(MARK, ast.Load()), node)
        return ast.copy_location(ast.Call(mark, [node], []), node)


def _is_of(name: str, names: Sequence[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in names)


def _below(kind: type) -> list[type]:
    found = []
    for one in kind.__subclasses__():
        found += [one, *_below(one)]
    return found
