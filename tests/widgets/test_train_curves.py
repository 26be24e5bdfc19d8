"""The curves: what is drawn where."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_attention3d.widgets.curves import CurvePlot, nice_ticks


def pixels(plot):
    image = plot.grab().toImage().convertToFormat(plot.grab().toImage().Format.Format_RGB32)
    buffer = image.constBits()
    if hasattr(buffer, "setsize"):
        buffer.setsize(image.sizeInBytes())
    array = np.frombuffer(buffer, np.uint8).reshape(image.height(), image.bytesPerLine() // 4, 4)
    return array[:, : image.width(), 2::-1].astype(int)


def drawn(plot, colour):
    """Rows and columns, as shares of the size, where a colour is seen."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    shown = pixels(plot)
    rows, columns = np.nonzero(np.abs(shown - wanted).sum(-1) < 150)
    return rows / shown.shape[0], columns / shown.shape[1]


@pytest.fixture
def plot(qtbot):
    made = CurvePlot()
    qtbot.addWidget(made)
    made.resize(320, 160)
    return made


def test_a_falling_loss_runs_from_top_left_to_bottom_right(plot):
    plot.add_curve("loss", colour="#ff0000")
    for step in range(100):
        plot.append("loss", step, 2.0 * (1 - step / 100))
    rows, columns = drawn(plot, "#ff0000")
    rows, columns = rows[rows > 0.2], columns[rows > 0.2]  # below the legend
    assert np.corrcoef(rows, columns)[0, 1] > 0.95
    assert plot.points("loss")[-1] == (99, pytest.approx(0.02))


def test_shares_have_their_own_axis(plot):
    """A Dice of 0.9 stands high, however large the loss is."""
    plot.add_curve("loss", colour="#ff0000")
    plot.add_curve("Dice", share=True, colour="#0000ff")
    for step in range(50):
        plot.append("loss", step, 40.0)
    plot.append("Dice", 25, 0.9)
    rows, columns = drawn(plot, "#0000ff")
    rows, columns = rows[rows > 0.15], columns[rows > 0.15]
    assert rows.mean() < 0.35
    assert 0.4 < columns.mean() < 0.6


def test_what_is_not_finite_is_left_out_and_clear_empties(plot):
    plot.add_curve("loss")
    plot.append("loss", 1, math.nan)
    plot.append("loss", 2, math.inf)
    assert plot.points("loss") == []
    plot.grab()
    plot.append("loss", 3, 1.0)
    plot.grab()
    assert plot.points("loss") == [(3.0, 1.0)]
    plot.clear()
    assert plot.points("loss") == []
    with pytest.raises(KeyError):
        plot.append("other", 0, 0)


def test_very_long_curves_keep_their_shape(plot):
    plot.add_curve("loss", colour="#ff0000")
    for step in range(20_000):
        plot.append("loss", step, 1.0 if step < 10_000 else 0.3)
    rows, columns = drawn(plot, "#ff0000")
    rows, columns = rows[rows > 0.15], columns[rows > 0.15]
    assert rows[columns < 0.4].mean() < rows[columns > 0.7].mean()


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_round_inside_and_evenly_apart(low, width, most):
    high = low + width
    if not high > low:
        return
    ticks = nice_ticks(low, high, most)
    assert 1 <= len(ticks) <= most or width < 1e-2
    slack = 1e-6 * max(abs(low), abs(high), width)
    assert all(low - slack <= t <= high + slack for t in ticks)
    if len(ticks) > 2:
        gaps = np.diff(ticks)
        assert np.allclose(gaps, gaps[0], rtol=1e-3)
        digits = gaps[0] / 10 ** math.floor(math.log10(gaps[0]) + 1e-9)
        assert min(abs(digits - d) for d in (1, 2, 5, 10)) < 1e-2
