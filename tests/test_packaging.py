from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
QT = ("pyqt", "pyside")


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> list[str]:
    return [re.split(r"[\s<>=!~;]", line)[0].lower() for line in requirements]


def test_base_requirements_bring_no_qt(project):
    base = names(project["dependencies"])
    assert "napari" in base  # without extras
    assert not [name for name in base if name.startswith(QT) or name.startswith("napari[")]


def test_licences_of_all_direct_dependencies_are_listed():
    script = ROOT / "scripts" / "licences.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_a_licence_that_is_told_wrongly_or_not_at_all_is_seen():
    name = "docs_licences"
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / "licences.py")
    licences = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(licences)
    text = licences.PAGE.read_text(encoding="utf-8")
    assert licences.is_pinned("numpy") or licences.is_pinned("pydantic")
    name = "numpy" if licences.is_pinned("numpy") else "pydantic"
    row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    cut = text.replace(row, row[:-12] + " |")
    assert any(one.startswith(f"{name} says") for one in licences.problems(cut))
    assert f"{name} is missing" in licences.problems(text.replace(row, ""))


def test_all_brings_qt_and_every_extra(project):
    extras = {extra: names(lines) for extra, lines in project["optional-dependencies"].items()}
    assert "napari[all]" in extras["all"]
    # OpenVINO has no wheels for every system and must not keep the rest from being installed.
    of_users = sorted(set(extras) - {"all", "dev", "docs", "openvino", "test"})
    assert f"napari-attention3d[{','.join(of_users)}]" in extras["all"]
    assert "nilearn" in extras["demo"]


def imported_packages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def test_what_is_imported_is_required(project):
    required = {name.partition("[")[0].replace("-", "_") for name in names(project["dependencies"])}
    called = {"yaml": "pyyaml", "skimage": "scikit_image", "sklearn": "scikit_learn"}
    optional = {"napari_attention3d", "nilearn", "openpyxl", "SimpleITK", "pydicom", "distributed"}
    optional |= {"highdicom", "openvino"}
    missing = set()
    for path in (ROOT / "src").rglob("*.py"):
        for name in imported_packages(path) - set(sys.stdlib_module_names) - optional:
            if called.get(name, name).lower() not in required:
                missing.add(f"{name} in {path.name}")
    assert not missing


def test_pins_are_exact_and_name_no_host():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert "torch==2.13.0" in pins


def test_the_manifest_is_found_where_it_is_installed():
    from npe2 import PluginManifest

    (entry,) = entry_points(group="napari.manifest", name="napari-attention3d")
    assert entry.value == "napari_attention3d:napari.yaml"
    manifest = PluginManifest.from_distribution("napari-attention3d")
    assert manifest.name == "napari-attention3d"
    assert manifest.contributions.widgets
    assert (ROOT / "src/napari_attention3d/napari.yaml").resolve() == ROOT / "napari.yaml"


@pytest.mark.parametrize("script", ["scripts/system-libs.sh", "scripts/with-screen.sh", ".ci/run"])
def test_scripts_are_sound_and_executable(script):
    path = ROOT / script
    subprocess.run(["bash", "-n", path], check=True)
    assert path.stat().st_mode & 0o111


def test_system_libraries_are_named_where_they_cannot_be_installed(tmp_path):
    """Without rights the script prints one line and does not fail."""
    for name, body in {
        "dpkg-query": "exit 1",
        "apt-get": "echo no rights >&2; exit 100",
        "id": "echo 0",
        "env": 'shift; exec "$@"',
    }.items():
        fake = tmp_path / name
        fake.write_text(f"#!/bin/bash\n{body}\n")
        fake.chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", ROOT / "scripts/system-libs.sh"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith("Missing"))
    assert "libegl1" in line
    assert "xvfb" in line


@pytest.mark.long
def test_wheel_and_sdist_hold_the_manifest_and_the_weights(tmp_path):
    pytest.importorskip("build")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", tmp_path, ROOT], check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    (sdist,) = tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
        assert files.count("napari_attention3d/napari.yaml") == 1
        manifest = archive.read("napari_attention3d/napari.yaml")
        assert manifest == (ROOT / "napari.yaml").read_bytes()
    weights = [f.name for f in (ROOT / "src/napari_attention3d/models/weights").glob("*")]
    assert weights
    for name in weights:
        assert f"napari_attention3d/models/weights/{name}" in files
    with tarfile.open(sdist) as archive:
        inside = [name.partition("/")[2] for name in archive.getnames()]
    assert "napari.yaml" in inside
    assert {f"src/napari_attention3d/models/weights/{name}" for name in weights} <= set(inside)


@pytest.mark.long
def test_an_installed_wheel_is_whole():
    done = subprocess.run(
        [ROOT / "scripts/check-wheel.sh", sys.executable],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the wheel is whole" in done.stdout
