"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("NAPARI_CONFIG", "")  # before napari: no settings in the user's folder

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real scans; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("NA3D_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "labels.json").exists():
        pytest.skip(f"real scans are not at {folder}; set NA3D_SHARED_DATA to their folder")
    return folder
