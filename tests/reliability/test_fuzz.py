"""Damaged and hostile files: read, or refused in one line; never a hang, a flood or a crash."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("fuzz")
    for name in ("fuzz", "_fuzz_seeds", "_fuzz_mutations"):
        sys.modules.pop(name, None)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory by /proc")
@pytest.mark.parametrize(
    "mutants", [pytest.param(300, id="300"), pytest.param(5000, id="5000", marks=pytest.mark.long)]
)
def test_every_mutant_is_read_or_refused(fuzz, tmp_path, mutants):
    book = fuzz.fuzz(tmp_path, mutants)
    assert book.done == mutants
    assert book.failures == []
    outcomes = [set(found) for found in book.outcomes.values()]
    assert len(outcomes) == len(fuzz.SEEDS)
    assert set.union(*outcomes) == {"valid", "refused"}


def test_every_sound_file_is_read(fuzz, tmp_path):
    fuzz.make_seeds(tmp_path / "seeds")
    readers = fuzz.Readers()
    try:
        for name, seed in fuzz.SEEDS.items():
            outcome, words, _ = readers.ask(seed.kind, tmp_path / "seeds" / name, False)
            assert outcome == "valid", f"{name}: {words}"
    finally:
        readers.close()


@pytest.mark.parametrize("field", ["sizes: ", "anything: ", "no field at all"])
def test_a_long_line_in_a_nrrd_header_is_refused(fuzz, tmp_path, field):
    from napari_attention3d.errors import VolumeFormatError
    from napari_attention3d.volumes import read_volume

    fuzz.make_seeds(tmp_path / "seeds")
    path = tmp_path / "seeds" / "one.nrrd"
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(b"\n".join((first, field.encode() + b"9" * 5000, rest)))
    with pytest.raises(VolumeFormatError, match="line of its header"):
        read_volume(path)


@pytest.mark.parametrize("field", [b"# ", b"note:="])
def test_long_comments_and_notes_in_a_nrrd_header_are_fine(fuzz, tmp_path, field):
    from napari_attention3d.volumes import read_volume

    fuzz.make_seeds(tmp_path / "seeds")
    path = tmp_path / "seeds" / "one.nrrd"
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(b"\n".join((first, field + b"9" * 5000, rest)))
    assert read_volume(path).array.shape == (7, 10, 11)


@pytest.mark.parametrize(
    "text",
    ["a: " + "[" * 3000, "a: 2001-99-99", "a: " + "9" * 5000],
    ids=["deep", "date", "long"],
)
def test_yaml_that_python_can_not_take_is_refused_by_all_who_read_it(tmp_path, text):
    from napari_attention3d.analysis.cleanup import read_rules
    from napari_attention3d.errors import InputError
    from napari_attention3d.recipe import read_recipe
    from napari_attention3d.training import TrainConfig

    path = tmp_path / "settings.yaml"
    path.write_text(text)
    for read in (read_recipe, read_rules, TrainConfig.from_yaml):
        with pytest.raises(InputError, match="not valid YAML"):
            read(path)


def test_a_card_with_a_network_beyond_all_bounds_is_refused(fuzz, tmp_path):
    import json
    import struct

    from napari_attention3d.errors import ModelFileError
    from napari_attention3d.models import load_model

    fuzz.make_seeds(tmp_path / "seeds")
    path = tmp_path / "seeds" / "tiny.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    for key, text in header["__metadata__"].items():
        if '"network"' in text:
            card = json.loads(text)
            card["network"]["channels"] = [10**12] * len(card["network"]["channels"])
            header["__metadata__"][key] = json.dumps(card)
    packed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(packed)) + packed + data[8 + length :])
    with pytest.raises(ModelFileError, match="can't be built"):
        load_model(path)
