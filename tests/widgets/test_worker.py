"""The thread: one outcome per job, whatever happens."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from napari_attention3d.progress import Progress
from napari_attention3d.widgets.worker import JobRunner


@pytest.fixture
def runner(qtbot):
    made = JobRunner()
    yield made
    assert made.join()


def heard(run):
    events = []
    run.progressed.connect(lambda p: events.append(("progressed", p.done)))
    run.returned.connect(lambda value: events.append(("returned", value)))
    run.cancelled.connect(lambda: events.append(("cancelled",)))
    run.errored.connect(lambda failure: events.append(("errored", type(failure.error))))
    run.finished.connect(lambda: events.append(("finished",)))
    return events


def test_a_job_reports_and_returns_on_the_main_thread(runner, qtbot):
    threads = []

    def job():
        threads.append(threading.current_thread())
        yield Progress(1, 2, partial="x")
        yield Progress(2, 2, partial="y")
        return 7

    run = runner.submit(job)
    events = heard(run)
    run.returned.connect(lambda _: threads.append(threading.current_thread()))
    with qtbot.waitSignal(run.finished, timeout=5000):
        pass
    assert events == [("progressed", 1), ("progressed", 2), ("returned", 7), ("finished",)]
    assert threads[0] is not threading.main_thread()
    assert threads[1] is threading.main_thread()


def _out_of_memory():
    import torch

    return torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    "error",
    [
        lambda: RuntimeError("x"),
        lambda: ValueError("x"),
        lambda: MemoryError(),
        _out_of_memory,
        lambda: SystemExit(3),
        lambda: KeyboardInterrupt(),
    ],
)
@pytest.mark.parametrize("steps", [None, 0, 2])
def test_any_error_at_any_point_is_reported_and_the_thread_lives_on(runner, qtbot, error, steps):
    def broken_factory():
        raise error()

    def job():
        for _ in range(steps or 0):
            yield Progress(0, 0)
        raise error()

    run = runner.submit(broken_factory if steps is None else job)
    events = heard(run)
    with qtbot.waitSignal(run.finished, timeout=5000):
        pass
    assert [e for e in events if e[0] != "progressed"] == [
        ("errored", type(error())),
        ("finished",),
    ]
    again = runner.call(lambda: "alive")
    with qtbot.waitSignal(again.returned, timeout=5000) as signal:
        pass
    assert signal.args == ["alive"]


def test_cancel_closes_the_job_and_answers_once(runner, qtbot):
    closed = threading.Event()
    begun = threading.Event()

    def job():
        try:
            while True:
                begun.set()
                yield Progress(1, 10)
        finally:
            closed.set()

    run = runner.submit(job)
    events = heard(run)
    assert begun.wait(5)
    with qtbot.waitSignal(run.finished, timeout=5000):
        run.cancel()
    assert closed.is_set()
    assert events[-2:] == [("cancelled",), ("finished",)]
    assert not any(e[0] in ("returned", "errored") for e in events)


def test_a_job_cancelled_while_queued_never_starts(runner, qtbot):
    gate = threading.Event()
    begun = []
    first = runner.call(gate.wait)
    second = runner.call(lambda: begun.append(1))
    second.cancel()
    events = heard(second)
    with qtbot.waitSignals([first.finished, second.finished], timeout=5000):
        gate.set()
    assert begun == []
    assert events == [("cancelled",), ("finished",)]


def test_a_job_that_gives_way_is_cancelled_by_the_next_one(runner, qtbot):
    began, never = threading.Event(), threading.Event()

    def endless():
        began.set()
        while not never.wait(0.005):
            yield Progress(0, 0)

    def short():
        yield Progress(1, 1)
        return "done"

    idle = runner.submit(endless, gives_way=True)
    waiting = runner.submit(endless, gives_way=True)  # the first gives way to the second, too
    assert idle.gave_way
    wanted = runner.submit(short)
    events, others = heard(wanted), [heard(idle), heard(waiting)]
    with qtbot.waitSignal(wanted.finished, timeout=10_000):
        pass
    assert ("returned", "done") in events
    assert not wanted.gave_way
    assert waiting.gave_way
    assert all(one[-2:] == [("cancelled",), ("finished",)] for one in others)


def test_a_job_that_runs_for_a_person_does_not_give_way(runner, qtbot):
    began, go_on = threading.Event(), threading.Event()

    def job():
        began.set()
        go_on.wait(20)
        yield Progress(1, 1)
        return 1

    run = runner.submit(job)
    events = heard(run)
    assert began.wait(20)
    idle = runner.submit(job, gives_way=True)
    last = runner.submit(job)
    go_on.set()
    with qtbot.waitSignal(last.finished, timeout=10_000):
        pass
    assert ("returned", 1) in events
    assert not run.gave_way
    assert idle.gave_way


def test_an_error_after_cancel_counts_as_cancelled(runner, qtbot):
    begun = threading.Event()
    gate = threading.Event()

    def job():
        begun.set()
        gate.wait(5)
        raise RuntimeError("too late")
        yield

    run = runner.submit(job)
    events = heard(run)
    assert begun.wait(5)
    run.cancel()
    with qtbot.waitSignal(run.finished, timeout=5000):
        gate.set()
    assert events == [("cancelled",), ("finished",)]


def test_an_error_does_not_hold_the_memory_of_the_job(runner, qtbot):
    class Big:
        pass

    kept = []

    def job():
        big = Big()
        kept.append(weakref.ref(big))
        yield Progress(0, 0)
        raise RuntimeError(f"failed with {type(big).__name__}")

    run = runner.submit(job)
    failures = []
    run.errored.connect(failures.append)
    with qtbot.waitSignal(run.finished, timeout=5000):
        pass
    gc.collect()
    assert kept[0]() is None
    assert "failed with Big" in failures[0].details


def test_all_jobs_run_on_one_thread_until_stopped_and_a_new_one_after(runner, qtbot):
    names = []
    for _ in range(2):
        run = runner.call(lambda: names.append(threading.get_ident()))
        with qtbot.waitSignal(run.finished, timeout=5000):
            pass
    assert names[0] == names[1]
    assert runner.join()
    assert not runner.is_alive
    run = runner.call(lambda: "again")
    with qtbot.waitSignal(run.returned, timeout=5000):
        pass


def test_progress_is_thinned_so_that_the_window_is_not_flooded(runner, qtbot):
    def job():
        for i in range(5000):
            yield Progress(i, 5000)
        return "done"

    run = runner.submit(job)
    events = heard(run)
    with qtbot.waitSignal(run.finished, timeout=20000):
        pass
    assert events[-2:] == [("returned", "done"), ("finished",)]
    assert len(events) < 2500
