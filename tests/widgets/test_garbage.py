"""While jobs run no other thread than the window's collects garbage."""

from __future__ import annotations

import gc
import threading
from typing import ClassVar

import pytest

from napari_attention3d.widgets.garbage import WindowGarbage
from napari_attention3d.widgets.worker import JobRunner


class Node:
    """One end of a cycle that remembers the thread on which it died."""

    died_on: ClassVar[list[str]] = []

    def __init__(self):
        self.self = self

    def __del__(self):
        Node.died_on.append(threading.current_thread().name)


@pytest.fixture(autouse=True)
def _no_job_of_another_test(qtbot):
    qtbot.waitUntil(lambda: not WindowGarbage.get().is_held, timeout=20_000)


@pytest.fixture
def collected_on():
    """Names of the threads that collected, while the test runs."""
    threads = []

    def note(phase, info):
        threads.append(threading.current_thread().name)

    gc.callbacks.append(note)
    yield threads
    gc.callbacks.remove(note)


def test_a_job_full_of_garbage_collects_none_of_it_on_its_own_thread(qtbot, collected_on):
    runner = JobRunner()
    Node.died_on.clear()

    def make_garbage():
        for _ in range(20_000):  # many times what the thresholds allow
            Node()
        return "done"

    run = runner.call(make_garbage)
    with qtbot.waitSignal(run.finished, timeout=20_000):
        pass
    assert runner.join()
    assert "attention3d" not in collected_on
    gc.collect()
    assert len(Node.died_on) == 20_000
    assert set(Node.died_on) == {threading.current_thread().name}


def test_garbage_is_collected_while_a_job_runs(qtbot):
    runner, go_on = JobRunner(), threading.Event()
    Node.died_on.clear()

    def make_garbage():
        for _ in range(5_000):
            Node()
        go_on.wait(30)

    run = runner.call(make_garbage)
    try:
        qtbot.waitUntil(lambda: len(Node.died_on) >= 5_000, timeout=20_000)
        assert not run.is_over
    finally:
        go_on.set()
    qtbot.waitUntil(lambda: run.is_over, timeout=20_000)
    assert runner.join()


@pytest.mark.parametrize("end", ["returned", "errored", "cancelled"])
def test_python_collects_by_itself_again_after_every_kind_of_end(qtbot, end):
    runner, go_on = JobRunner(), threading.Event()

    def job():
        go_on.wait(30)
        if end == "errored":
            raise RuntimeError("as told")

    assert gc.isenabled()
    run = runner.call(job)
    second = runner.call(lambda: None)
    assert not gc.isenabled()
    if end == "cancelled":
        run.cancel()
    go_on.set()
    qtbot.waitUntil(lambda: run.is_over and second.is_over, timeout=20_000)
    assert gc.isenabled()
    assert not WindowGarbage.get().is_held
    assert runner.join()


def test_who_switched_collection_off_finds_it_off(qtbot):
    gc.disable()
    try:
        WindowGarbage.get().hold()
        WindowGarbage.get().release()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_job_out_of_memory_lets_the_window_look_for_cycles(qtbot, collected_on):
    import torch

    from napari_attention3d.inference.memory import release
    from napari_attention3d.widgets.tasks import look_around

    runner = JobRunner()
    ready = runner.call(look_around)
    qtbot.waitUntil(lambda: ready.is_over, timeout=60_000)
    Node.died_on.clear()

    def job():
        Node()
        release(torch.device("cpu"), collect=True)
        return len(Node.died_on)

    run = runner.call(job)
    with qtbot.waitSignal(run.returned, timeout=20_000) as returned:
        pass
    assert returned.args == [1]  # gone before the job went on
    assert runner.join()
    assert "attention3d" not in collected_on


def test_a_window_that_garbage_collection_meets_half_way_out_ends_its_runner(qtbot):
    """What Qt calls at the end must live, though it was garbage: else the process dies."""
    from qtpy.QtCore import QCoreApplication, QEvent
    from qtpy.QtWidgets import QWidget

    class Panel(QWidget):
        def __init__(self, window):
            super().__init__(window)
            self.runner = JobRunner()
            self.runner.end_with(self)
            self.window_of = window

    thread = []
    for _ in range(3):
        window = QWidget()
        window.panel = Panel(window)
        run = window.panel.runner.call(lambda: None)
        qtbot.waitUntil(lambda run=run: run.is_over, timeout=20_000)
        thread.append(window.panel.runner._thread)
        window.deleteLater()
        del window
        gc.collect()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        qtbot.wait(10)
    for one in thread:
        one.join(10)
        assert not one.is_alive()


def test_a_runner_that_nobody_holds_ends_its_thread(qtbot):
    runner = JobRunner()
    run = runner.call(lambda: None)
    qtbot.waitUntil(lambda: run.is_over, timeout=20_000)
    thread = runner._thread
    del runner
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
