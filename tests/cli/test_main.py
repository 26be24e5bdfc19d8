from __future__ import annotations

import pytest

import napari_attention3d
from napari_attention3d.cli import main
from napari_attention3d.cli.common import check_writable_folder, error_line, run_job
from napari_attention3d.errors import InputError, JobCancelled, OutOfMemory, OutputError
from napari_attention3d.progress import Progress


def test_version(run):
    outcome = run("--version")
    assert outcome.code == 0
    assert outcome.out.strip() == napari_attention3d.__version__


@pytest.mark.parametrize("words", [["segment"], ["evaluate", "a"], ["nothing"], ["demo", "--nix"]])
def test_wrong_usage_is_bad_input(run, words):
    outcome = run(*words)
    assert outcome.code == 2
    assert outcome.out == ""


def test_each_command_explains_itself(run):
    for command in ("demo", "segment", "train", "evaluate", "models", "doctor"):
        assert run(command, "--help").code == 0
        assert command in run("--help").out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("a is wrong; do b"), 2),
        (OutputError("disk full"), 2),
        (PermissionError(13, "Permission denied", "f"), 2),
        (OutOfMemory("too large"), 1),
        (RuntimeError("surprise"), 1),
        (JobCancelled("stop"), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_are_one_line_with_their_exit_code(run, monkeypatch, error, code):
    def fail():
        raise error

    monkeypatch.setattr("napari_attention3d.cli.doctor.examine", fail)
    outcome = run("doctor", "--json")
    assert outcome.code == code
    assert outcome.out == ""
    assert len(outcome.err.strip().splitlines()) == 1
    assert "Traceback" not in outcome.err
    if code not in (130,):
        assert outcome.err.startswith("error: ")


def test_debug_shows_the_error_as_it_is(monkeypatch):
    def fail():
        raise RuntimeError("surprise")

    monkeypatch.setattr("napari_attention3d.cli.doctor.examine", fail)
    with pytest.raises(RuntimeError, match="surprise"):
        main(["doctor", "--debug"])


def test_an_unexpected_error_names_its_type():
    assert error_line(ValueError("two\nlines")).startswith(
        "error: unexpected ValueError: two lines"
    )


def test_a_job_returns_its_result_and_tells_its_progress(capsys):
    def job():
        yield Progress(1, 2, "first half")
        return "result"

    assert run_job(job(), "Job") == "result"
    caught = capsys.readouterr()
    assert caught.out == ""
    assert "first half (50%)" in caught.err


def test_an_interrupt_closes_the_job(run, monkeypatch):
    closed = []

    def job():
        try:
            yield Progress(0, 2)
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    monkeypatch.setattr("napari_attention3d.cli.doctor.examine", lambda: run_job(job(), "Job"))
    outcome = run("doctor")
    assert outcome.code == 130
    assert closed == [True]
    assert "cancelled" in outcome.err


def test_a_folder_that_cannot_be_written_is_found_out(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not a folder"):
        check_writable_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="does not exist"):
        check_writable_folder(tmp_path / "absent")
    with pytest.raises(OutputError, match="can't make the folder"):
        check_writable_folder(tmp_path / "file" / "below", make=True)
    check_writable_folder(tmp_path / "new" / "below", make=True)
    assert not list((tmp_path / "new" / "below").iterdir())
