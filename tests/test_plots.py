"""Figures are compared by the data they hold, not by their pixels."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from minilm import plots


@pytest.fixture(autouse=True)
def style():
    plots.use_style()
    yield
    plt.close("all")


def test_lines_hold_the_series_and_the_scales():
    band = {"a": ([0.5, 1.5], [1.5, 2.5])}
    ax = plots.lines([1, 10], {"a": [1, 2], "b": [3, 4]}, "tokens", "bits per byte", log="x", bands=band)
    assert [line.get_label() for line in ax.lines] == ["a", "b"]
    assert np.array_equal(ax.lines[1].get_xydata(), [[1, 3], [10, 4]])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("tokens", "bits per byte")
    assert len(ax.collections) == 1 and ax.collections[0].get_paths()[0].vertices[:, 1].max() == 2.5


def test_series_differ_without_colour():
    ax = plots.lines([0, 1], {str(i): [i, i] for i in range(7)}, "x", "y")
    assert len({(line.get_marker(), line.get_linestyle()) for line in ax.lines}) == 7


def test_lines_refuse_a_series_of_another_length():
    with pytest.raises(ValueError, match="'b' has 3 values for 2"):
        plots.lines([1, 2], {"b": [1, 2, 3]}, "x", "y")


def test_dots_stand_on_their_rows_with_whiskers_at_the_interval():
    ax = plots.dots(["first", "second"], [2.0, 3.0], "bits per byte", intervals=[(1.5, 2.25), (2.0, 5.0)])
    whiskers = ax.collections[0].get_segments()
    assert np.allclose(whiskers, [[[1.5, 0], [2.25, 0]], [[2.0, 1], [5.0, 1]]])
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first label is on top
    assert [label.get_text() for label in ax.get_yticklabels()] == ["first", "second"]


def test_bars_stand_side_by_side():
    ax = plots.bars(["x", "y"], {"a": [1, 2], "b": [3, 4]}, "count")
    left, right = ([patch.get_x() for patch in group] for group in ax.containers)
    assert [patch.get_height() for group in ax.containers for patch in group] == [1, 2, 3, 4]
    assert np.allclose(np.subtract(right, left), 0.4)


def test_heatmap_writes_each_value_and_stays_readable():
    ax = plots.heatmap([[0.0, 1.0]], ["row"], ["a", "b"], fmt=".1f")
    assert [(text.get_text(), text.get_color()) for text in ax.texts] == [("0.0", "black"), ("1.0", "white")]
    with pytest.raises(ValueError, match="labels say"):
        plots.heatmap([[1.0]], ["row"], ["a", "b"])


def test_flow_joins_its_boxes_in_order():
    ax = plots.flow({"file": "3 MB", "tokens": "700", "rows": "5 x 2"})
    written = sorted((text.get_position()[0], text.get_text()) for text in ax.texts if text.get_text())
    assert [text for _, text in written] == ["3 MB", "file", "700", "tokens", "5 x 2", "rows"]
    assert [patch.get_x() for patch in ax.patches if patch.get_width() == 0.8] == [0, 1, 2]
    assert [text.xy[0] > text.xyann[0] for text in ax.texts if not text.get_text()] == [True, True]  # left to right


def test_svg_is_the_same_at_every_run(tmp_path):
    for name in ("a", "b"):
        plots.lines([1, 2], {"s": [1, 2]}, "x", "y").figure.savefig(tmp_path / f"{name}.svg", metadata={"Date": None})
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_live_curve_is_redrawn_in_its_place(monkeypatch):
    shown, updated = [], []

    class Handle:
        update = staticmethod(updated.append)

    monkeypatch.setattr(plots, "display", lambda figure, display_id: shown.append(figure) or Handle)
    watch = plots.live()
    for step, loss in ((10, 3.0), (20, 2.5)):
        watch({"step": step, "train_loss": loss, "val_loss": loss + 0.1, "seconds": 1.0})
    assert len(shown) == 1 and updated == shown * 2
    curves = {line.get_label(): line.get_xydata().tolist() for line in shown[0].axes[0].lines}
    assert curves == {"training": [[10, 3.0], [20, 2.5]], "held-out": [[10, 3.1], [20, 2.6]]}


@pytest.mark.parametrize(
    ("x", "written"),
    [
        ([1, 1000], ["1", "10", "100", "1000"]),  # not 1.0, and nothing in between
        ([0.5, 8], ["0.5", "1", "2", "5"]),
        ([50, 800], ["50", "100", "200", "500"]),  # one power of ten alone would leave the axis without numbers
        ([2e5, 3e6], ["200000", "500000", "1000000", "2000000"]),
    ],
)
def test_plain_ticks_are_numbers_as_one_writes_them(x, written):
    ax = plots.plain_ticks(plots.lines(x, {"a": [1, 2]}, "n", "y", log="x"), "x")
    ax.set_xlim(x)
    ax.figure.canvas.draw()
    shown = [*ax.get_xticklabels(minor=True), *ax.get_xticklabels()]
    inside = {label.get_text() for label in shown if x[0] <= label.get_position()[0] <= x[1]} - {""}
    assert sorted(inside, key=float) == written
