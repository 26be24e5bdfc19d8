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
    # Else the mutants of a kind die at the door, and what is behind it is never reached.
    none = [name for name, found in book.outcomes.items() if not found["valid"]]
    assert none == [] or (mutants < 1000 and len(none) < 4), none


def test_most_mutants_of_a_models_card_reach_the_card(fuzz, tmp_path):
    import random
    import shutil

    fuzz.make_seeds(tmp_path / "seeds")
    target, ways = tmp_path / "tiny.safetensors", []
    for number in range(60):
        shutil.copy(tmp_path / "seeds" / "tiny.safetensors", target)
        ways.append(fuzz.mutate(target, random.Random(number)))
    assert sum(how.startswith("card: ") for how in ways) > 20
    assert sum(not how.startswith("card: ") for how in ways) > 10


@pytest.mark.parametrize("made", ["a folder", "a file", "other content", "a link"])
def test_the_script_sees_what_a_reader_makes(fuzz, tmp_path, monkeypatch, made):
    """Readers run where the mutant lies; one that does something there is played."""

    class Reader:
        def ask(self, kind, path, lazy, watched):
            if made == "a folder":
                (watched / "owned").mkdir()
            elif made == "a file":
                (watched / "owned").touch()
            elif made == "a link":
                (watched / "owned").symlink_to("nothing")
            else:
                data = bytearray(path.read_bytes())
                data[-1] ^= 1
                path.write_bytes(data)
            return "refused", "no", 0

        def close(self):
            pass

    monkeypatch.setattr(fuzz, "Readers", Reader)
    monkeypatch.setattr(fuzz, "_mutants", lambda folder, *_: [(0, "one.nii", scan, False, "")])
    (tmp_path / "mutant").mkdir()
    scan = tmp_path / "mutant" / "one.nii"
    scan.write_bytes(b"a scan")
    book = fuzz.fuzz(tmp_path, 1)
    assert [row["words"].split(":")[0] for row in book.failures] == ["written"]


def test_readers_run_in_the_watched_folder(fuzz, tmp_path):
    fuzz.make_seeds(tmp_path / "seeds")
    readers = fuzz.Readers()
    try:
        readers.ask("volume", Path("one.nii"), False, tmp_path / "seeds")
        outcome, words, _ = readers.ask("volume", Path("one.nii"), False, tmp_path / "seeds")
        assert outcome == "valid", words  # found by a name that means something there alone
    finally:
        readers.close()


def test_every_sound_file_is_read(fuzz, tmp_path):
    fuzz.make_seeds(tmp_path / "seeds")
    readers = fuzz.Readers()
    try:
        for name, seed in fuzz.SEEDS.items():
            path = tmp_path / "seeds" / name / seed.inner
            outcome, words, _ = readers.ask(seed.kind, path, False, tmp_path)
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


@pytest.mark.parametrize("name", ["one.mha", "packed.mha"])
@pytest.mark.parametrize("axes", [b"-32768", b"1000000000000", b"0", b"", b"three"])
def test_a_metaimage_header_of_odd_axes_is_refused(fuzz, tmp_path, name, axes):
    """SimpleITK's reader goes down with the process at some."""
    from napari_attention3d.errors import VolumeFormatError
    from napari_attention3d.volumes import read_volume

    fuzz.make_seeds(tmp_path / "seeds")
    path = tmp_path / "seeds" / name
    data = path.read_bytes()
    for old, sign in ((b"NDims = 3", b" = "), (b"NDims = 3", b":")):
        path.write_bytes(data.replace(old, b"NDims" + sign + axes))
        with pytest.raises(VolumeFormatError, match="its header says"):
            read_volume(path)


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


def test_a_network_that_torch_explains_in_many_lines_is_refused_in_one():
    from napari_attention3d.errors import InputError
    from napari_attention3d.networks import build_network

    with pytest.raises(InputError, match="can't be built") as told:
        build_network("attention-unet", preset="tiny", num_classes=2, psi_bias="odd")
    assert "\n" not in str(told.value)


def test_a_message_that_quotes_a_file_is_not_as_long_as_the_file(tmp_path):
    from napari_attention3d.analysis.cleanup import read_rules
    from napari_attention3d.errors import InputError

    path = tmp_path / "rules.yaml"
    path.write_text(f"- rule: {'x' * 100_000}")
    with pytest.raises(InputError) as told:
        read_rules(path)
    assert len(str(told.value)) < 1000
    assert str(told.value).startswith("rules.yaml")
    assert "split_touching" in str(told.value)  # what to write instead is still there


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
