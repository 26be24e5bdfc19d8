"""What the soak's script calls growth, and a few of its cycles in a window."""

from __future__ import annotations

import gc

import pytest


def test_growth_after_the_warm_up_is_seen_and_growth_before_it_is_not(soak):
    rows = [
        {"process": 1, "cycle": n, "rss": min(n, 20) * 10**6, "widgets": 5 + n} for n in range(60)
    ]
    found = soak.growth(rows)
    assert found["rss"] == (20e6, 20e6)
    assert found["widgets"] == (26.5, 62.5)
    assert "| 1 | 60 | widgets | 26.5 | 62.5 |" in soak.table(rows)


def test_too_few_cycles_are_not_judged(soak):
    rows = [{"process": 1, "cycle": n, "rss": 1} for n in range(soak.WARM_UP)]
    assert "too few to judge" in soak.table(rows)


def rows_of(process, cycles, **counts):
    """Rows in which a count is what its function makes of the cycle's number."""
    counts = {"rss": lambda n: 100, "slots": lambda n: 9, **counts}
    return [
        {
            "process": process,
            "cycle": number,
            **{name: count(number) for name, count in counts.items() if name != "by_name"},
            "threads": 5,
            "by_name": counts.get("by_name", lambda n: {"MainThread": 1})(number),
        }
        for number in range(cycles)
    ]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({}, []),
        ({"rss": lambda n: 100 if n < 30 else 105}, []),
        ({"rss": lambda n: 100 if n < 30 else 106}, ["rss 100 to 106"]),
        ({"rss": lambda n: min(n, 20)}, []),  # the warm-up
        ({"slots": lambda n: 9 + (n > 50)}, ["slots 9 to 10"]),
        ({"by_name": lambda n: {"MainThread": 1, "asyncio_": n}}, []),
        ({"by_name": lambda n: {"MainThread": 1, "lost": n // 40}}, ["threads 1 to 2"]),
    ],
)
def test_what_grew_is_told_by_process(soak, counts, words):
    rows = [*rows_of(1, 60), *rows_of(2, 60, **counts), *rows_of(3, 25, slots=lambda n: n)]
    assert soak.grown(rows) == [f"process 2: {one}" for one in words]


def test_a_journal_that_was_cut_off_is_gone_on_with(soak, tmp_path):
    path = tmp_path / "soak.jsonl"
    path.write_text('{"cycle": 0}\n{"cycle": 1, "rs')
    assert soak.read_journal(path) == [{"cycle": 0}]
    assert path.read_text() == '{"cycle": 0}\n'


@pytest.fixture
def folders(monkeypatch):
    for name in ("MODELS", "SESSIONS"):  # put back after the script has set them
        monkeypatch.setenv(f"NAPARI_ATTENTION3D_{name}", "")


@pytest.fixture
def quick_collection():
    """What is there now stays: napari collects whenever a layer goes."""
    was_frozen = gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    yield
    if not was_frozen:
        gc.unfreeze()


def test_ten_cycles_leave_nothing_behind(soak, qapp, folders, quick_collection):
    rows = soak.run(10, window=False, freeze=False)
    early, late = rows[2:5], rows[-3:]
    for name in ("widgets", "qt_objects", "layers", "our_objects", "slots"):
        assert max(row[name] for row in late) <= max(row[name] for row in early), name
    for row in late:  # zarr's pool, "asyncio_", grows to its bound and not beyond
        found = {name: n for name, n in row["by_name"].items() if not name.startswith("asyncio")}
        assert found.items() <= early[-1]["by_name"].items()


@pytest.mark.long
def test_nothing_grows_over_forty_cycles(soak, qapp, folders):
    found = soak.growth(soak.run(soak.WARM_UP + 20))
    for name, (first, last) in found.items():
        allowed = 1.05 * first if name == "rss" else first
        assert last <= allowed, name
