"""Arrays in, `Axes` out: every kind of figure in the book, and the only module that knows matplotlib.

Each function draws on ``ax``, or on a new figure where none is given, and returns the axes, so a notebook can add a
title or a second layer. A figure's words (caption, alternative text) belong to the notebook cell that shows it.

Reference for the palette: Okabe & Ito 2008, "Color Universal Design".
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.patches import Rectangle
from matplotlib_inline.backend_inline import set_matplotlib_formats
from numpy.typing import ArrayLike

STYLE = Path(__file__).with_name("book.mplstyle")


def use_style() -> None:
    """The book's style, and figures as vector graphics that come out the same at every run."""
    plt.style.use(STYLE)
    set_matplotlib_formats("svg", metadata={"Date": None})  # a date would change the stored output at every run


def axes(xlabel: str = "", ylabel: str = "", size: tuple[float, float] | None = None) -> Axes:
    """An empty figure with labelled axes; ``size`` is width and height in inches."""
    ax = plt.figure(figsize=size).add_subplot()
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def panels(columns: int, size: tuple[float, float] | None = None, share_y: bool = True) -> list[Axes]:
    """Axes side by side, for small multiples; panels share the vertical scale unless told otherwise."""
    return list(plt.subplots(1, columns, figsize=size, sharey=share_y, squeeze=False)[1][0])


def lines(
    x: ArrayLike,
    series: Mapping[str, ArrayLike],
    xlabel: str,
    ylabel: str,
    log: str = "",
    bands: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One line a series over a shared ``x``; ``log`` is "", "x", "y" or "xy"; ``bands`` holds (low, high) by series.

    Raises ValueError where a series is not as long as ``x``, naming it.
    """
    ax = ax or axes()
    for name, y in series.items():
        if len(np.asarray(y)) != len(np.asarray(x)):
            raise ValueError(f"series {name!r} has {len(np.asarray(y))} values for {len(np.asarray(x))} places on x")
        (line,) = ax.plot(x, y, label=name, markevery=max(1, len(np.asarray(x)) // 12))
        if bands and name in bands:
            ax.fill_between(x, *bands[name], color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(xlabel=xlabel, ylabel=ylabel, **{f"{axis}scale": "log" for axis in log})
    if len(series) > 1:
        ax.legend()
    return ax


def dots(
    labels: Sequence[str],
    values: ArrayLike,
    xlabel: str,
    intervals: Sequence[tuple[float, float]] | None = None,
    name: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A dot chart: one row a label, the first on top, a whisker where ``intervals`` gives (low, high).

    Position along a common scale is what the eye reads best (Cleveland & McGill 1984). Call it again with another
    ``name`` on the same ``ax`` for a second series.
    """
    ax = ax or axes(size=(6.4, 0.9 + 0.32 * len(labels)))
    values, rows = np.asarray(values, dtype=float), np.arange(len(labels))
    whiskers = np.abs(np.asarray(intervals, dtype=float).T - values) if intervals is not None else None
    ax.errorbar(values, rows, xerr=whiskers, linestyle="none", capsize=3, label=name)
    ax.set(xlabel=xlabel, yticks=rows, yticklabels=labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    if name is not None:
        ax.legend()
    return ax


def bars(labels: Sequence[str], series: Mapping[str, ArrayLike], ylabel: str, xlabel: str = "", ax: Axes | None = None):
    """Bars side by side, one group a label, hatched so that the series differ without colour."""
    ax = ax or axes()
    width, places = 0.8 / len(series), np.arange(len(labels))
    for i, (name, heights) in enumerate(series.items()):
        offset = (i - (len(series) - 1) / 2) * width
        ax.bar(places + offset, heights, width, label=name, hatch=["", "///", "...", "xxx"][i % 4], edgecolor="white")
    ax.set(xlabel=xlabel, ylabel=ylabel, xticks=places, xticklabels=labels)
    ax.grid(axis="x", visible=False)
    if len(series) > 1:
        ax.legend()
    return ax


def heatmap(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    xlabel: str = "",
    ylabel: str = "",
    fmt: str | None = ".2f",
    ax: Axes | None = None,
) -> Axes:
    """A matrix as shades of grey, darker is larger, with each value written into its cell unless ``fmt`` is None.

    Raises ValueError where ``values`` is not ``len(rows)`` by ``len(columns)``.
    """
    values = np.asarray(values, dtype=float)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"values is {values.shape}, the labels say ({len(rows)}, {len(columns)})")
    ax = ax or axes(size=(1.6 + 0.55 * len(columns), 1.0 + 0.4 * len(rows)))
    ax.imshow(values, aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for i, j in np.ndindex(values.shape) if fmt is not None else ():
        ink = "white" if values[i, j] > middle else "black"
        ax.text(j, i, format(values[i, j], fmt), ha="center", va="center", color=ink, fontsize=9)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(visible=False)
    return ax


def flow(steps: Mapping[str, str], ax: Axes | None = None) -> Axes:
    """A row of boxes joined by arrows: each key is a station, its value says what is left there."""
    ax = ax or axes(size=(1.45 * len(steps), 1.2))
    for place, (name, left) in enumerate(steps.items()):
        ax.add_patch(Rectangle((place, 0), 0.8, 1, fill=False, linewidth=1.2))
        ax.text(place + 0.4, 0.66, name, ha="center", va="center", fontweight="bold")
        ax.text(place + 0.4, 0.3, left, ha="center", va="center", fontsize=9)
        if place:
            ax.annotate("", (place - 0.02, 0.5), (place - 0.18, 0.5), arrowprops={"arrowstyle": "->"})
    ax.set(xlim=(-0.05, len(steps) - 0.15), ylim=(-0.05, 1.05))
    ax.axis("off")
    return ax


def plain_ticks(ax: Axes, axis: str = "y") -> Axes:
    """Write the numbers of a logarithmic axis as 0.5, 20, 1000 instead of as powers of ten.

    Between these, an axis shorter than two powers of ten has 2 and 5 times a power as well.
    """
    for which in axis:
        one = getattr(ax, f"{which}axis")
        one.set_major_formatter(lambda value, _: f"{value:.10g}")
        one.set_minor_formatter(lambda value, _, one=one: f"{value:.10g}" if _between(one, value) else "")
    return ax


def _between(axis: Axis, value: float) -> bool:
    low, high = axis.get_view_interval()
    return bool(high < 100 * low) and f"{value:e}"[0] in "25"


def live(ylabel: str = "nats per token") -> Callable[[Mapping[str, Any]], None]:
    """A curve below the cell that grows while a model trains: ``train(..., watch=live())``.

    Each record redraws it in its place: the loss on the training batches, and on the held-out text where measured.
    """
    ax, records = axes(size=(6.4, 3.2)), []
    plt.close(ax.figure)  # it is displayed here, not once more at the end of the cell
    handle = display(ax.figure, display_id=True)

    def watch(record: Mapping[str, Any]) -> None:
        records.append(record)
        names = {"train_loss": "training", "val_loss": "held-out"}
        series = {label: [one[name] for one in records] for name, label in names.items() if name in record}
        ax.clear()
        lines([one["step"] for one in records], series, "step", ylabel, ax=ax)
        if handle is not None:  # None outside a notebook
            handle.update(ax.figure)

    return watch
