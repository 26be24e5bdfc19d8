from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from napari_attention3d.attention.localise import attention_shares
from napari_attention3d.attention.shares_svg import COLOURS, shares_svg, write_shares
from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes.volume import Volume

_SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def table():
    rng = np.random.default_rng(2)
    geometry = Geometry((6, 7, 8), np.diag([2.0, 1, 1, 1]), "mm")
    labels = np.zeros((6, 7, 8), np.uint8)
    labels[1:3, 1:3, 1:3], labels[4:, 5:, 5:] = 1, 2
    values = rng.random(labels.shape).astype(np.float32)
    values[5, 6, 6] = 3
    return attention_shares(
        Volume(values, geometry, "gate <2>"), Volume(labels, geometry, "mask"), {1: "a & b"}
    )


def test_bars_are_as_long_as_the_shares_and_a_dot_marks_the_largest_value(table):
    root = ElementTree.fromstring(shares_svg(table))  # names are escaped: it can be read
    bars = {
        bar.find(f"{_SVG}title").text.rsplit(":", 1)[0]: bar
        for bar in root.iter(f"{_SVG}rect")
        if bar.find(f"{_SVG}title") is not None
    }
    names = ("a & b", "label 2", "all labels")
    assert set(bars) == {f"{name}, {where}" for name in names for where in COLOURS}
    for row, name in enumerate(names):
        lengths = [float(bars[f"{name}, {where}"].get("width")) for where in COLOURS]
        shares = [table.column(f"share {where} (%)")[row] for where in COLOURS]
        np.testing.assert_allclose(
            np.array(lengths) / sum(lengths), np.array(shares) / 100, atol=1e-3
        )
        for where, colour in COLOURS.items():
            assert bars[f"{name}, {where}"].get("fill") == colour
    dots = list(root.iter(f"{_SVG}circle"))[1:]  # the first one explains
    assert len(dots) == len(names)
    for row, (name, dot) in enumerate(zip(names, dots, strict=True)):
        bar = bars[f"{name}, {table.column('largest value')[row]}"]
        left, width = float(bar.get("x")), float(bar.get("width"))
        assert left <= float(dot.get("cx")) <= left + width


def test_the_picture_is_written(table, tmp_path):
    text = write_shares(tmp_path / "bars.svg", table).read_text(encoding="utf-8")
    assert text == shares_svg(table)
    assert re.search(r"gate &lt;2&gt;", text)


def test_all_is_on_white_and_a_long_heading_is_not_cut(table):
    long = replace(table, notes=("a very long heading " * 8, *table.notes[1:]))
    for one in (table, long):
        root = ElementTree.fromstring(shares_svg(one))
        _, _, width, height = map(float, root.get("viewBox").split())
        ground = next(root.iter(f"{_SVG}rect"))
        assert ground.get("fill") == "white"
        assert (float(ground.get("width")), float(ground.get("height"))) == (width, height)
        heading = next(root.iter(f"{_SVG}text"))
        assert 0.6 * float(heading.get("font-size")) * len(heading.text) <= width
