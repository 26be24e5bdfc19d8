"""Tables of the engine's benchmark: from whole, partial and failed runs."""

from __future__ import annotations

import json

import pytest
from engine import report as tables
from engine.table import cells


def row(name, cpu, number=0, **more):
    return {"name": name, "round": number, "plan": "p", "cpu_s": cpu, "wall_s": cpu, **more}


def line_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(start))


BOOK = [
    row("single-192", 4.0, 0, peak_mb=2000.0, mismatch=0.0),
    row("single-192", 9.0, 1, peak_mb=2200.0, mismatch=0.0),
    row("single-192", 5.0, 2, peak_mb=2100.0, mismatch=0.0),
    row("ours-192", 6.0, peak_mb=700.0, mismatch=0.0, note="as told"),
    row("ours-small-192", 4.0, peak_mb=1050.0),
    row("single-256", 12.0, dice=0.945),
    row("ours-256", 8.0, mismatch=0.0, dice=0.945),
    row("ours-bf16-256", 4.0, mismatch=3e-4, dice=0.945),
    row("monai-tuned-256", 80.0),
    row("monai-2-tuned-256", 64.0),
    row("monai-256", 60.0),
    {"name": "nnunet-256", "round": 0, "error": "no | memory"},
]


@pytest.mark.parametrize("quick", [True, False])
def test_a_cell_is_measured_once_a_round(quick):
    names = [(number, cell["name"]) for number, cell in cells(quick)]
    assert len(set(names)) == len(names)
    by_name = {}
    for _, cell in cells(quick):  # rounds repeat the same measurement
        assert by_name.setdefault(cell["name"], cell) == cell
    shown = tables.report([], quick).splitlines()
    for name in by_name:
        assert shown.count(f"| {name} | not measured | | | | | | | |") == 1


def test_every_reference_is_a_cell_of_its_table():
    names = {cell["name"] for _, cell in cells(False)}
    for name in names:
        against = tables.reference_of(name)
        assert against in names or not against


def test_rows_hold_medians_and_times_of_the_single_pass():
    text = tables.report(BOOK, quick=False)
    assert "192^3; medians of 3 rounds" in text
    single = line_of(text, "| single-192 |")
    assert "| p | 5.00 | 5.00 | 2,100 | 1.00 | 0.0e+00 |" in single
    ours = line_of(text, "| ours-192 (as told) |")
    assert "| 6.00 | 6.00 | 700 | 1.20 |" in ours
    assert "error: no / memory" in line_of(text, "| nnunet-256 |")
    assert "not measured" in line_of(text, "| monai-d02 |")


def test_targets_compare_what_was_measured():
    text = tables.targets(BOOK, quick=False)
    assert line_of(text, "| exact float32 against one warm").endswith("| 1.2x; mismatch 0 | no |")
    assert "| <= 0.5x | 0.5x | yes |" in line_of(text, "| the same, smallest plan: peak")
    assert "| 0.8x | yes |" in line_of(text, "| the same, smallest plan: CPU")
    # the quicker of MONAI's batches
    tuned = line_of(text, "| exact float32 against MONAI tuned")
    assert "| >= 4x | 8x (monai-2-tuned-256); mismatch 0 | yes |" in tuned
    assert line_of(text, "| exact float32 against MONAI as").endswith("| no |")
    # fast enough, but too many labels differ
    fast = line_of(text, "| fast path against MONAI tuned")
    assert "| >= 10x | 16x (ours-bf16-256); mismatch 0.0003, Dice 0.9450 | no |" in fast
    assert line_of(text, "| guided network, fast").endswith("| >= 2.5x | not measured | - |")


def test_unequal_labels_reach_no_target():
    wrong = [row("ours-256", 8.0, mismatch=1e-3), row("monai-tuned-256", 80.0)]
    line = line_of(tables.targets(wrong, quick=False), "| exact float32 against MONAI tuned")
    assert "10x" in line
    assert line.endswith("| no |")


def test_empty_and_failed_books_have_tables():
    for book in ([], [{"name": "ours-256", "round": 0, "error": "killed"}]):
        for quick in (True, False):
            tables.report(book, quick)
            found = tables.found_targets(book, quick)
            assert all(t.reached is None for t in found)


def test_section_and_figures_are_written_and_replaced(tmp_path):
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n\n## The engine\n\nformer\n\n## After\n\nkept\n")
    tables.write(BOOK, tmp_path)
    text = results.read_text()
    assert "former" not in text
    assert text.endswith("## After\n\nkept\n")
    assert text.count("## The engine\n") == 1
    assert "| ours-256 | p | 8.00 |" in text
    whole = json.loads((tmp_path / "results" / "inference.json").read_text())
    assert whole["cells"]["single-192"] == {
        "rounds": 3, "cpu_s": 5.0, "wall_s": 5.0, "peak_mb": 2100.0, "mismatch": 0.0, "plan": "p",
    }  # fmt: skip
    assert whole["cells"]["nnunet-256"] == {"rounds": 1, "error": "no | memory"}
    assert whole["targets"][0]["reached"] is False
    assert whole["machine"]["threads"] == 1


def test_json_holds_medians_and_targets_under_stable_names():
    found = tables.found_figures(BOOK, quick=False)
    assert found["cells"]["single-192"]["cpu_s"] == 5.0
    assert found["quick"] is False
    names = [t["what"] for t in found["targets"]]
    assert names == [t["what"] for t in tables.found_figures([], quick=False)["targets"]]
    assert len(set(names)) == len(names)
    json.dumps(found)


def test_what_failed_is_tried_again_and_what_went_well_later_counts(tmp_path):
    from inference import read_book

    book = tmp_path / "cells.jsonl"
    assert read_book(book) == []
    rows = [row("a", 1.0), {"name": "b", "round": 0, "error": "killed"}, row("c", 2.0)]
    rows += [{"name": "d", "round": 0, "error": "killed"}, row("d", 3.0), row("a", 4.0, 1)]
    book.write_text("".join(json.dumps(one) + "\n" for one in rows))
    found = {(one["name"], one["round"]): one["cpu_s"] for one in read_book(book)}
    assert found == {("a", 0): 1.0, ("c", 0): 2.0, ("d", 0): 3.0, ("a", 1): 4.0}


def test_quick_and_full_runs_share_scans_and_networks_but_no_labels(tmp_path, monkeypatch):
    from engine import cell as module

    started = []

    class Done:
        returncode, stdout, stderr = 0, '{"cpu_s": 1}', ""

    monkeypatch.setattr(
        module.subprocess, "run", lambda command, **_: started.append(command) or Done()
    )
    module.start({"name": "ours-128"}, tmp_path, 10, tmp_path / "quick")
    command = started[0]
    assert command[command.index("--work") + 1] == str(tmp_path)
    assert command[command.index("--out") + 1] == str(tmp_path / "quick")
