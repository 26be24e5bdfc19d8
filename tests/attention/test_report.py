"""The report is one file, runs nothing, loads nothing and shows every name as it is."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import imageio.v3 as iio
import numpy as np
import pytest

from napari_attention3d.analysis.table import Column, Table
from napari_attention3d.attention.pictures import Overlay, png, slice_picture
from napari_attention3d.attention.report import Picture, Section, html_report, write_report
from napari_attention3d.errors import OutputError
from napari_attention3d.geometry import Geometry
from napari_attention3d.volumes.volume import Volume

EVIL = "<script>alert('x')</script> & \"so on\" <img src=http://x/y>"


class Page(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


def grey(values):
    return np.stack((values,) * 3 + (np.ones_like(values),), axis=1)


def red(values):
    return np.stack((values, 0 * values, 0 * values, np.ones_like(values)), axis=1)


def volume(array, spacing=(1, 1, 1), origin=(0, 0, 0)):
    affine = np.diag((*spacing, 1.0))
    affine[:3, 3] = origin
    return Volume(array, Geometry(array.shape[-3:], affine, "mm", False), "one")


def test_names_are_shown_and_never_run(tmp_path):
    picture = png(np.zeros((4, 5, 3), np.uint8))
    table = Table(
        (Column(EVIL), Column("n", "mm3")), ((EVIL, 12345), (None, 0.00012)), (EVIL, EVIL)
    )
    section = Section(
        EVIL,
        text=[EVIL],
        facts={EVIL: EVIL},
        pictures=[Picture(picture, EVIL)],
        tables=[table],
        details={EVIL: [EVIL, 3]},
    )
    text = html_report(EVIL, [section], subtitle=EVIL)
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 1
    head, data = sources[0].split(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(iio.imread(base64.b64decode(data)), np.zeros((4, 5, 3)))
    words = "".join(page.words)
    assert words.count(EVIL) == 12
    assert "12,345" in words
    assert "0.00012" in words
    assert not re.search(r"<[^>]*\son\w+=", text)
    path = write_report(tmp_path / "report.html", EVIL, [section], subtitle=EVIL)
    assert path.read_text(encoding="utf-8") == text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_what_is_empty_is_left_out():
    page = Page(html_report("A", [Section("B")]))
    assert not {"table", "dl", "figure", "details", "img"} & set(page.tags)


def test_a_report_that_can_not_be_written_says_so(tmp_path):
    with pytest.raises(OutputError):
        write_report(tmp_path / "none" / "report.html", "A", [])


def test_slices_have_square_pixels_and_the_scans_values():
    array = np.zeros((4, 10, 10), np.float32)
    array[2] = np.linspace(0, 1, 10)
    scan = volume(array, (2, 1, 1))
    axial = slice_picture(scan, (0, 1), 0, 2, pixels=20, brightness=1)
    assert axial.shape == (20, 20, 3)
    assert axial[:, 0].max() < 20
    assert axial[:, -1].min() > 235
    side = slice_picture(scan, (0, 1), 1, 5, pixels=20)
    assert side.shape == (16, 20, 3)


def test_maps_are_added_where_they_lie_and_only_there():
    scan = volume(np.full((4, 8, 8), 0.5, np.float32))
    array = np.zeros((2, 2, 2), np.float32)
    array[0, 0, 0] = 2
    overlay = Overlay(volume(array, (2, 2, 2), (0.5, 0.5, 0.5)), (0, 2), red, opacity=1)
    picture = slice_picture(scan, (0, 1), 0, 0, [overlay], pixels=8, brightness=1)
    assert picture[0, 0].tolist() == [255, 128, 128]
    assert (picture[4:, 4:] == 128).all()
    assert (picture[..., 1] == 128).all()


def test_outlines_have_the_labels_colours_and_the_inside_is_left_free():
    scan = volume(np.zeros((1, 9, 9), np.float32))
    labels = np.zeros((1, 9, 9), np.uint8)
    labels[0, 2:7, 2:7] = 1
    picture = slice_picture(scan, (0, 1), 0, 0, mask=(volume(labels), grey), pixels=9)
    assert (picture[2, 2:7] == 255).all()
    assert (picture[4, 4] == 0).all()
    assert (picture[0] == 0).all()
