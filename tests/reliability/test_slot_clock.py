"""Every kind of function of a watched module is a slot when someone else calls it."""

from __future__ import annotations

import importlib
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MODULE = """
class Panel:
    def method(self): return 1
    @staticmethod
    def static(): return 2
    @classmethod
    def of_class(cls): return 3
    @property
    def shown(self): return 4
    def takes_none(self): return self.method()
    def made(self):
        def inner(): return 5
        return inner, lambda: 6
    def uses(self, other): return other()

def function(): return 7
def generator(): yield 8
"""


@pytest.fixture
def clock_and_module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(tmp_path))
    made = importlib.import_module("_slot_clock")
    package = tmp_path / "watched_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "panel.py").write_text(MODULE)
    clock = made.SlotClock()
    finder = clock.watch_modules(["watched_package"])
    try:
        yield clock, importlib.import_module("watched_package.panel")
    finally:
        sys.meta_path.remove(finder)
        for name in ("watched_package.panel", "watched_package", "_slot_clock"):
            sys.modules.pop(name, None)


def names(clock):
    return [name for _, name, _ in clock.slots]


def test_every_kind_of_function_is_timed(clock_and_module):
    clock, module = clock_and_module
    panel = module.Panel()
    inner, short = panel.made()
    clock.slots.clear()
    assert [panel.method(), panel.static(), module.Panel.of_class(), panel.shown] == [1, 2, 3, 4]
    assert [inner(), short(), module.function(), *module.generator()] == [5, 6, 7, 8]
    assert names(clock) == [
        "panel.Panel.method",
        "panel.Panel.static",
        "panel.Panel.of_class",
        "panel.Panel.shown",
        "panel.Panel.made.<locals>.inner",
        "panel.Panel.made.<locals>.<lambda>",
        "panel.function",
    ]


def test_what_ours_calls_of_ours_is_one_slot_and_takes_no_more_than_it_can(clock_and_module):
    clock, module = clock_and_module
    assert module.Panel().takes_none("what Qt says of a button") == 1
    assert names(clock) == ["panel.Panel.takes_none"]


def test_what_napari_does_for_a_slot_is_not_its_own_time(clock_and_module, monkeypatch):
    clock, module = clock_and_module
    looks = iter([10.0, 12.0, 17.0, 20.0])  # ours begins, napari begins, ends, ours ends
    watch = SimpleNamespace(perf_counter=lambda: next(looks))
    monkeypatch.setattr(sys.modules["_slot_clock"], "time", watch)
    module.Panel().uses(clock.timed(lambda: None, "napari"))
    assert clock.slots == [("", "panel.Panel.uses", 5.0)]


def test_what_napari_calls_back_is_a_slot_of_its_own(clock_and_module):
    clock, module = clock_and_module
    panel = module.Panel()
    panel.uses(clock.timed(panel.method, "napari"))
    assert names(clock) == ["panel.Panel.method", "panel.Panel.uses"]


def test_other_threads_are_left_out(clock_and_module):
    clock, module = clock_and_module
    thread = threading.Thread(target=module.function)
    thread.start()
    thread.join()
    assert clock.slots == []


def test_what_was_imported_before_can_not_be_timed(clock_and_module):
    clock, _ = clock_and_module
    with pytest.raises(RuntimeError, match="imported before"):
        clock.watch_modules(["watched_package"])


def test_pythons_own_collections_are_counted_apart(clock_and_module, monkeypatch):
    clock, module = clock_and_module
    looks = iter([10.0, 11.0, 14.0, 20.0])  # ours begins, the collector, ends, ours ends
    watch = SimpleNamespace(perf_counter=lambda: next(looks))
    monkeypatch.setattr(sys.modules["_slot_clock"], "time", watch)

    def collector():
        clock.on_collection("start")
        clock.on_collection("stop")

    module.Panel().uses(collector)
    assert clock.slots == [("", "panel.Panel.uses", 7.0)]
    assert clock.collections == [("", 3.0)]


def test_collections_between_slots_are_nobodys(clock_and_module):
    clock, _ = clock_and_module
    clock.on_collection("start")
    clock.on_collection("stop")
    assert clock.collections == []
