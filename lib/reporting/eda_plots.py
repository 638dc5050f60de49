"""Exploration: figures and statistics of a transactions table; Axes in, Axes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter

from lib.data.datasets import Arrays
from lib.data.splits import Split
from lib.evaluation.distances import ks
from lib.evaluation.figures import Figure
from lib.reporting.plots import FAINT, FRAUD, GENUINE, INK, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PERIOD_COLOURS = {
    "reference": GENUINE,
    "validation": "#E69F00",
    "untouched": FAINT,
}
HOUR_S = 3600
# more bars than this are narrower than a pixel
MAX_BARS = 400
# so many names can be read beside a matrix
MAX_NAMES = 30


def rhythm(
    ax: Axes,
    time_s: np.ndarray,
    weight: np.ndarray,
    y: np.ndarray | None = None,
) -> Axes:
    """Return the axes with transactions an hour (line) and known frauds (ticks at the bottom)."""
    hours = (time_s - time_s.min()) / HOUR_S
    n_hours = np.ceil(hours.max())
    n_bars = int(min(MAX_BARS, max(1, n_hours)))
    edges = np.linspace(0, max(1.0, n_hours), n_bars + 1)
    _hourly(ax, hours, weight, edges, GENUINE)
    if y is not None and (y == 1).any():
        _ticks(ax, hours[y == 1])
    _time_axes(ax)
    ax.set_ylim(0, None)
    return ax


def _hourly(
    ax: Axes,
    hours: np.ndarray,
    weight: np.ndarray,
    edges: np.ndarray,
    hue: str,
) -> None:
    counts, _ = np.histogram(hours, edges, weights=weight)
    # bars of another width than an hour are still read as transactions an hour
    an_hour = counts / np.diff(edges)
    ax.stairs(an_hour, edges, fill=True, color=hue, alpha=0.85)


def _ticks(ax: Axes, hours: np.ndarray) -> None:
    # above the axis: half of a tick on it would strike through the numbers below
    at_bottom = ax.get_xaxis_transform()
    ax.vlines(hours, 0, 0.05, color=FRAUD, linewidth=1.2, transform=at_bottom)
    ax.annotate(
        "| one fraud",
        (0.99, 0.93),
        xycoords="axes fraction",
        color=FRAUD,
        ha="right",
    )


def _time_axes(ax: Axes) -> None:
    ax.set_xlabel("hours since the first transaction")
    ax.set_ylabel("transactions an hour")
    ax.yaxis.set_major_formatter(FuncFormatter(_whole))


def _whole(value: float, _: int) -> str:
    return f"{value:,.0f}"


def periods(ax: Axes, split: Split) -> Axes:
    """Return the axes with transactions an hour, coloured by period; thin lines part batches."""
    told = split.manifest["periods"]
    start = told["reference"]["start_s"]
    for name, hue in PERIOD_COLOURS.items():
        data = split.arrays(name)
        low = (told[name]["start_s"] - start) / HOUR_S
        high = (told[name]["end_s"] - start) / HOUR_S
        # a short period still gets two bars, which show whether it rises
        n_bars = max(2, int(np.ceil(high - low)))
        edges = np.linspace(low, high, n_bars + 1)
        hours = (data.time_s - start) / HOUR_S
        _hourly(ax, hours, data.weight, edges, hue)
        ax.annotate(
            name,
            ((low + high) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            va="top",
            ha="center",
            color=INK,
        )
    for name, period in told.items():
        if name.startswith("batch_"):
            begins = (period["start_s"] - start) / HOUR_S
            ax.axvline(begins, color="white", linewidth=1)
    _time_axes(ax)
    # room for the periods' names above the highest bar
    _, top = ax.get_ylim()
    ax.set_ylim(0, top * 1.12)
    return ax


def heatmap(
    ax: Axes,
    matrix: np.ndarray,
    names: Sequence[str],
    limit: float = 1.0,
) -> Axes:
    """Return the axes with a square matrix in [-limit, limit], zero white.

    Names are thinned where there are many.
    """
    image = ax.imshow(
        matrix,
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        interpolation="nearest",
    )
    step = max(1, len(names) // MAX_NAMES)
    places = range(0, len(names), step)
    shown = [plain(name, 24) for name in names[::step]]
    ax.set_xticks(places, shown, rotation=90, fontsize=7)
    ax.set_yticks(places, shown, fontsize=7)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.figure.colorbar(image, ax=ax, shrink=0.8, label="correlation")
    return ax


def bars(
    ax: Axes,
    names: Sequence[str],
    values: np.ndarray,
    xlabel: str,
    threshold: float | None = None,
    hue: str = GENUINE,
) -> Axes:
    """Return the axes with horizontal bars, the largest on top; a dashed line marks `threshold`."""
    order = np.argsort(values)
    # by position: names that look alike keep a bar each
    rows = np.arange(len(order))
    lengths = np.asarray(values)[order]
    ax.barh(rows, lengths, color=hue, height=0.7)
    shown = [plain(names[i]) for i in order]
    ax.set_yticks(rows, shown)
    if threshold is not None:
        ax.axvline(threshold, color=FRAUD, linestyle="--", linewidth=1.2)
    ax.set(xlabel=xlabel)
    ax.grid(axis="y", visible=False)
    return ax


def distances(first: Arrays, second: Arrays) -> np.ndarray:
    """Return the Kolmogorov-Smirnov distance (d,) of each feature; NaN where one has no value."""
    found = []
    for j in range(first.X.shape[1]):
        here = first.X[:, j]
        there = second.X[:, j]
        found.append(ks(here, there, first.weight, second.weight))
    return np.array(found)


def with_distance(name: str, distance: float) -> str:
    """Return the title of one feature's panel: its name, and the distance on a line of its own."""
    shown = plain(name, 24)
    return f"{shown}\nKS {distance:.2f}" if np.isfinite(distance) else shown


def figures(names: Sequence[str], values: np.ndarray) -> dict[str, Figure]:
    """Return {name: figure without an interval} for a notebook's metrics.

    values : (d,); NaN becomes None, which JSON can hold
    """
    found: dict[str, Figure] = {}
    for name, value in zip(names, values, strict=True):
        rounded = round(float(value), 4) if np.isfinite(value) else None
        found[name] = {
            "value": rounded,
            "low": None,
            "high": None,
        }
    return found


def remarks(names: Sequence[str], early: Arrays, data: Arrays) -> list[str]:
    """Return sentences on features with no value, or one only, in `early` or in all of `data`."""
    said = []
    for j, name in enumerate(names):
        first = _distinct(early, j)
        everywhere = _distinct(data, j)
        if not everywhere.size:
            said.append(f"feature {name!r} has no value at all")
        elif not first.size:
            said.append(
                f"feature {name!r} has no value in the first half of the time: to a model it is a "
                "constant"
            )
        elif everywhere.size == 1:
            said.append(f"feature {name!r} is always {everywhere[0]:g}")
    return said


def _distinct(data: Arrays, j: int) -> np.ndarray:
    column = data.X[:, j]
    return np.unique(column[np.isfinite(column)])


def rank_correlation(X: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation (d, d) of the columns of X (n, d).

    It is 0 where a column is constant or rows are too few. Two columns are compared in the rows
    where both have a value.
    """
    frame = pd.DataFrame(np.asarray(X, np.float64))
    # two rows always correlate by 1 or -1
    correlation = frame.corr("spearman", min_periods=3)
    matrix = correlation.to_numpy(copy=True)
    np.fill_diagonal(matrix, 1.0)
    return np.nan_to_num(matrix)
