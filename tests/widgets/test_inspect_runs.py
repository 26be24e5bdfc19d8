"""Two scans, two models: what belongs to which run, and what is out of date."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtCore import QObject, Qt, Signal

from napari_attention3d.analysis.table import Column, Table
from napari_attention3d.errors import Attention3DError
from napari_attention3d.widgets import tasks
from napari_attention3d.widgets.inspect_look import map_layers, thumbnail
from napari_attention3d.widgets.inspect_mask import label_reader
from napari_attention3d.widgets.inspect_panel import InspectPanel
from napari_attention3d.widgets.inspect_report import gather
from napari_attention3d.widgets.layer_chooser import LayerChooser
from napari_attention3d.widgets.layers import KEY, layer_to_volume
from napari_attention3d.widgets.status_bar import StatusBar
from napari_attention3d.widgets.worker import JobRunner


class Segment(QObject):
    """What the tab needs of the Segment tab."""

    about_to_show = Signal(object)

    def __init__(self):
        super().__init__()
        self.shelf, self.source_layer = tasks.ModelShelf(), None
        self.form = SimpleNamespace(model="chosen-meanwhile")


@pytest.fixture
def panel(qtbot, viewer):
    runner = JobRunner()
    made = InspectPanel(viewer, runner, LayerChooser(viewer), StatusBar(), Segment())
    qtbot.addWidget(made)
    yield made
    made.close_down()
    assert runner.join()


NUMBER = iter(range(1000))


def run(panel, layer, model="net", *, leading=None, ref=None):
    """As if a model had been run on a layer: record, map and mask, but no network."""
    lead = (0 if leading is None else leading) if layer.ndim == 4 else None
    source = layer_to_volume(layer, leading=lead)
    card = SimpleNamespace(
        name=model, title=model, version="1", limitations="", class_names=("none", "cell"),
        network={"name": "attention-unet"},
    )  # fmt: skip
    provenance = {
        "model": {"name": model},
        "seconds": next(NUMBER),
        "grid": {"shape": list(source.shown.shape)},
        "plan": {"engine": "tiles", "box": [[0, 0, 0], list(source.shown.shape)]},
    }
    result = SimpleNamespace(provenance=provenance, card=card)
    panel.runs.segment.source_layer = layer
    ref = ref or model
    panel.runs.segment.about_to_show.emit(
        tasks.Finished(result, [], source, ref, tasks.file_stamp(ref))
    )
    entry = {"model": model, "provenance": dict(provenance)}
    shape = source.shown.shape
    made = [
        panel.runs.viewer.add_image(
            np.full(shape, 0.5, np.float32),
            name=f"{layer.name} · {model} · attention gate",
            metadata={KEY: {**entry, "role": "attention:gate-level-2"}},
            contrast_limits=(0, 1),
            **source.transform,
        ),
        panel.runs.viewer.add_labels(
            np.ones(shape, np.uint8),
            name=f"{layer.name} · {model} · labels",
            metadata={KEY: {**entry, **source.record()[KEY], "role": "labels"}},
            **source.transform,
        ),
    ]
    panel.maps.refresh()
    return made


def marked(panel):
    return {item.data(0, Qt.ItemDataRole.UserRole): item.text(0)[:1] == "⚠"
            for item in panel.maps._items()}  # fmt: skip


@pytest.fixture
def scans(viewer, scan_array):
    return [
        viewer.add_image(scan_array.copy(), name=name, translate=(0, 0, 40 * i))
        for i, name in enumerate(("one", "two"))
    ]


def test_the_model_of_a_run_is_the_one_it_began_with(panel, scans):
    run(panel, scans[0], "net")
    assert panel.runs.records[scans[0]].model_ref == "net"  # not what is chosen by now


def test_each_scan_has_its_own_run_and_mask(panel, scans):
    masks = [run(panel, scan)[1] for scan in scans]
    for scan, mask in zip(scans, masks, strict=True):
        panel.runs.chooser.choose(scan)
        assert panel.runs.source().volume.array is panel.runs.records[scan].source.volume.array
        assert panel.runs.mask_layer() is mask


def test_only_maps_of_the_moved_scan_are_out_of_date(panel, scans):
    first, second = (run(panel, scan)[0] for scan in scans)
    assert not any(marked(panel).values())
    scans[0].translate = (0, 0, 3)
    for scan in scans:  # whichever of them is chosen
        panel.runs.chooser.choose(scan)
        panel._on_runs()
        assert marked(panel) == {first: True, second: False}
    assert "moved or rescaled" in panel.runs.stale_of(first)
    scans[0].translate = (0, 0, 0)
    panel._on_runs()
    assert not any(marked(panel).values())


def test_a_scan_whose_array_was_replaced_by_one_as_large_makes_its_maps_old(panel, scans):
    gate, _ = run(panel, scans[0])
    panel.runs.chooser.choose(scans[0])
    assert panel.runs.stale() == ""
    scans[0].data = scans[0].data.copy()
    panel._on_runs()
    assert marked(panel) == {gate: True}
    assert "voxels were replaced" in panel.runs.stale()


def test_a_replaced_model_file_makes_its_maps_old_and_not_the_other_models(panel, scans, tmp_path):
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"weights")
    gate, _ = run(panel, scans[0], "net", ref=str(file))
    other, _ = run(panel, scans[0], "another")
    panel.runs.chooser.choose(scans[0])
    assert not any(marked(panel).values())
    before = file.stat()
    file.write_bytes(b"weight2")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    panel._on_runs()
    assert marked(panel) == {gate: True, other: False}
    assert panel.runs.stale_of(gate) == "net.safetensors was replaced since the run"
    file.unlink()
    assert "removed" in panel.runs.stale_of(gate)


def test_maps_of_an_earlier_run_are_old_only_if_something_changed_between(panel, scans, tmp_path):
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"weights")
    first, _ = run(panel, scans[0], ref=str(file))
    second, _ = run(panel, scans[0], ref=str(file))
    assert marked(panel) == {first: False, second: False}
    file.write_bytes(b"other weights")
    third, _ = run(panel, scans[0], ref=str(file))
    assert marked(panel) == {first: True, second: True, third: False}
    scans[0].data = scans[0].data.copy()
    fourth, _ = run(panel, scans[0], ref=str(file))
    assert marked(panel) == {first: True, second: True, third: True, fourth: False}
    assert "voxels were replaced" in panel.runs.stale_of(third)
    assert len(panel.runs.history[scans[0]]) == 1  # no array is kept that nobody has any more


def test_a_corrected_mask_makes_its_maps_old_until_the_rounds_are_undone(panel, scans):
    first, second = (run(panel, scan)[0] for scan in scans)
    source = panel.runs.records[scans[0]].source
    record = SimpleNamespace(number=2, kind="fast")
    panel.correction = lambda: (source, record)
    panel._on_runs()
    assert marked(panel) == {first: True, second: False}
    assert "mask was corrected since the run" in panel.runs.stale_of(first)
    record.kind = "network"
    assert "network was trained" in panel.runs.stale_of(first)
    panel.correction = lambda: None  # the session is closed: the mask stays corrected
    assert panel.runs.stale_of(first)
    panel.correction = lambda: (source, SimpleNamespace(number=0, kind="start"))
    panel._on_runs()
    assert not any(marked(panel).values())


def test_figures_of_another_run_do_not_get_into_the_report(panel, scans, tmp_path):
    for scan in scans:
        run(panel, scan)
    table = Table((Column("a figure of the first scan"),), ((1,),))
    panel.runs.chooser.choose(scans[0])
    here = panel.runs.here()
    panel.numbers._show("within", here, Table((*table.columns, Column("name")), ((1, "x"),)))
    panel.switches.figures.show_table(table)
    panel.switches._shown_of = here
    panel.trust.results, panel.trust._of = [SimpleNamespace(table=table)], here
    moved = SimpleNamespace(table=table, effect=SimpleNamespace(table=table))
    panel.paint.result = SimpleNamespace(record=here, moved=moved)
    panel.asking.last = SimpleNamespace(record=here)
    sections = (panel.numbers.tables, panel.switches.tables, panel.trust.tables, panel.paint.tables)
    assert [len(one) for one in sections] == [1, 1, 1, 2]
    assert panel.asking.present is panel.asking.last
    panel.runs.chooser.choose(scans[1])
    sections = (panel.numbers.tables, panel.switches.tables, panel.trust.tables, panel.paint.tables)
    assert not any(sections)
    assert panel.asking.present is None
    panel.save_report(str(tmp_path / "report.html"))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Where the network looked: two" in text
    assert "figure of the first scan" not in text
    panel.runs.chooser.choose(scans[0])
    run(panel, scans[0])  # a newer run of the same scan: the figures are of the one before
    assert not panel.numbers.tables
    panel.paint.result = None


def test_a_report_of_a_time_series_shows_the_time_that_was_run(panel, viewer, scan_array):
    series = np.zeros((3, *scan_array.shape), np.float32)
    series[1] = 1
    layer = viewer.add_image(series, name="series", contrast_limits=(0, 1))
    gate, mask = run(panel, layer, leading=1)
    gate.visible = mask.visible = True
    gate.data = np.zeros_like(gate.data)
    assert brightest(panel) > 100
    run(panel, layer, leading=0)
    viewer.layers[-2].data = np.zeros_like(gate.data)
    assert brightest(panel) < 60


def test_a_report_without_a_run_shows_the_time_in_view(panel, viewer, scan_array):
    series = np.zeros((3, *scan_array.shape), np.float32)
    series[2] = 1
    viewer.add_image(series, name="series", contrast_limits=(0, 1))
    viewer.add_image(
        np.zeros(scan_array.shape, np.float32), name="map", metadata={KEY: {"role": "uncertainty"}}
    )
    panel.maps.refresh()
    for time, bright in ((0, False), (2, True)):
        viewer.dims.set_point(0, time)
        assert (brightest(panel) > 100) == bright


def brightest(panel):
    """Of the middle of the report's first slice."""
    import imageio.v3 as iio

    _, sections = gather(panel.runs, panel.maps.shown, None, [], None)
    picture = next(s for s in sections if s.title == "Maps").pictures[0]
    drawn = iio.imread(picture.png)
    return drawn[drawn.shape[0] // 2, drawn.shape[1] // 2].max()


def test_a_report_reads_only_the_slices_it_draws(panel, viewer):
    dask = pytest.importorskip("dask.array")
    read = set()

    def block(block_info=None):
        read.add(block_info[None]["chunk-location"])
        return np.zeros((4, 4, 4), np.float32)

    lazy = dask.map_blocks(
        block, chunks=((4,) * 4,) * 3, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)
    )
    viewer.add_image(lazy, name="large", contrast_limits=(0, 1))
    viewer.add_image(
        np.zeros((16, 16, 16), np.float32), name="map", metadata={KEY: {"role": "uncertainty"}}
    )
    panel.maps.refresh()
    viewer.dims.point = (1, 1, 1)
    read.clear()
    gather(panel.runs, panel.maps.shown, None, [], None)
    assert read
    assert all(0 in where for where in read)  # those that a slice at 1 goes through


def test_titles_tell_models_scans_and_pins_apart(panel, scans):
    for scan in scans:
        for model in ("net", "another"):
            run(panel, scan, model)
    titles = [entry.title for entry in map_layers(panel.runs.viewer)]
    assert len(set(titles)) == 4
    assert "Gate · net · one" in titles
    panel.runs.viewer.layers.clear()
    for pin in (None, 1, 2):
        entry = {"role": "asked", **({"pin": pin} if pin else {})}
        panel.runs.viewer.add_image(np.zeros((2, 2, 2)), name="net · row", metadata={KEY: entry})
    assert [entry.title for entry in map_layers(panel.runs.viewer)] == [
        "📌 2 Row", "📌 1 Row", "Row",
    ]  # fmt: skip


def test_maps_of_another_model_are_left_out_of_the_test_and_named(panel, scans, monkeypatch):
    run(panel, scans[0], "another")
    run(panel, scans[0], "net")
    panel.runs.chooser.choose(scans[0])
    asked = []
    monkeypatch.setattr(
        panel.trust, "ask", lambda job, name, words, done: asked.append((job, done))
    )
    panel.trust.test()
    ((job, done),) = asked
    assert list(job.args[2]) == ["Gate · net"]
    assert "Left out, as another run made them: Gate · another" in done.args[1]
    panel.maps.entries[0].layer.visible = False
    panel.trust.test()
    assert len(asked) == 1
    assert "Nothing to test" in panel.runs.status.text


def test_pictures_in_the_list_of_a_flipped_map(viewer):
    data = np.zeros((3, 40, 20), np.float32)
    data[1, 5, 5] = 1
    layer = viewer.add_image(data, scale=(1, -1, -1), contrast_limits=(0, 1), colormap="gray")
    assert thumbnail(layer, 20).shape == (20, 10, 4)


def test_only_questions_give_way_to_questions(qtbot, panel, scans):
    ended = []

    def job(name, wait):
        def steps():
            from napari_attention3d.progress import Progress

            while wait[0]:
                yield Progress(0, 0, name)
            return name

        return steps

    panel.runs.chooser.choose(scans[0])
    wait = [True]
    first = panel.runs.submit(job("ask", wait), "ask", "…", ended.append, question=True)
    training = panel.runs.submit(job("train", wait), "train", "…", ended.append)
    assert first.is_cancelling
    run(panel, scans[0])
    panel.asking.ask((1, 1, 1))
    assert "press Cancel" in panel.runs.status.text
    assert panel.runs.submit(job("count", wait), "count", "…", ended.append) is None
    assert not training.is_cancelling
    wait[0] = False
    qtbot.waitUntil(lambda: not panel.runs.is_busy, timeout=30_000)
    assert ended == ["train"]


def test_a_job_may_begin_another_one_when_it_returns(qtbot, panel):
    ended = []

    def steps():
        return "one"
        yield

    def second():
        return "two"
        yield

    def go_on(value):
        ended.append(value)
        panel.runs.submit(second, "two", "…", ended.append)

    panel.runs.submit(steps, "one", "…", go_on)
    qtbot.waitUntil(lambda: len(ended) == 2 and not panel.runs.is_busy, timeout=30_000)
    assert ended == ["one", "two"]


def test_the_label_that_is_asked_about_is_read_only_when_it_is_needed(viewer, scan_array):
    """Also of a mask of a part of the scan, and of one on the disk."""
    dask = pytest.importorskip("dask.array")
    source = layer_to_volume(viewer.add_image(scan_array, scale=(2, 1, 1)))
    part = np.zeros((8, 10, 12), np.uint8)
    part[2:4, 3:5, 4:6] = 3
    read = []

    def block():
        read.append(1)
        return part

    lazy = dask.map_blocks(block, chunks=((8,), (10,), (12,)), dtype=np.uint8,
                           meta=np.empty((0, 0, 0), np.uint8))  # fmt: skip
    layer = viewer.add_labels(lazy, scale=(2, 1, 1), translate=(2 * 5, 6, 7))
    label = label_reader(source, layer, (7, 9, 11))
    count = len(read)
    mask = label()
    assert len(read) > count
    expected = np.zeros(scan_array.shape, np.uint8)
    expected[7:9, 9:11, 11:13] = 1
    np.testing.assert_array_equal(mask.array, expected)
    for voxel in ((5, 6, 7), (0, 0, 0)):  # background of the mask; outside of it
        with pytest.raises(Attention3DError, match="background"):
            label_reader(source, layer, voxel)
    layer.translate = (10.5, 6, 7)
    with pytest.raises(Attention3DError, match="does not lie on the scan's voxels"):
        label_reader(source, layer, (7, 9, 11))
