from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8"
    )
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


HEAVY = {"torch", "monai", "napari", "qtpy", "PyQt6", "PySide6", "scipy", "dask"}


@pytest.mark.parametrize(
    "statement",
    [
        "import napari_attention3d",
        "import napari_attention3d; dir(napari_attention3d)",
        "import napari_attention3d._napari",
    ],
)
def test_importing_the_package_loads_neither_torch_nor_qt(statement):
    assert not modules_after(statement) & {"torch", "monai", "qtpy", "PyQt6", "PySide6"}


def test_the_command_lines_help_loads_nothing_heavy():
    statement = (
        "from napari_attention3d.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert not modules_after(statement) & HEAVY


def test_public_names_are_there():
    import napari_attention3d

    for name in napari_attention3d.__all__:
        assert getattr(napari_attention3d, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = napari_attention3d.nothing


def test_import_contracts_hold():
    pytest.importorskip("importlinter")
    code = "from importlinter.cli import lint_imports_command as c; c()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
