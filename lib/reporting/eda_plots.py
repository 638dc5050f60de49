"""Exploration: figures and statistics of a transactions table; Axes in, Axes out."""

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter

from lib.evaluation.distances import ks
from lib.reporting.plots import FAINT, FRAUD, GENUINE, INK, plain

PERIOD_COLOURS = {"reference": GENUINE, "validation": "#E69F00", "untouched": FAINT}


def rhythm(ax, time_s, weight, y=None):
    """Transactions an hour over the whole file (line) and known frauds (ticks at the bottom)."""
    hours = (time_s - time_s.min()) / 3600
    edges = np.linspace(
        0, max(1.0, np.ceil(hours.max())), int(min(400, max(1, np.ceil(hours.max())))) + 1
    )
    counts, _ = np.histogram(hours, edges, weights=weight)
    ax.stairs(counts / np.diff(edges), edges, fill=True, color=GENUINE, alpha=0.85)
    if y is not None and (y == 1).any():
        # above the axis: half of a tick on it would strike through the numbers below
        at_bottom = ax.get_xaxis_transform()
        ax.vlines(hours[y == 1], 0, 0.05, color=FRAUD, linewidth=1.2, transform=at_bottom)
        ax.annotate("| one fraud", (0.99, 0.93), xycoords="axes fraction", color=FRAUD, ha="right")
    ax.set(
        xlabel="hours since the first transaction", ylabel="transactions an hour", ylim=(0, None)
    )
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    return ax


def periods(ax, split):
    """Transactions an hour over the whole file, coloured by period; thin lines part the batches."""
    start = split.manifest["periods"]["reference"]["start_s"]
    for name, hue in PERIOD_COLOURS.items():
        data, period = split.arrays(name), split.manifest["periods"][name]
        low, high = ((period[key] - start) / 3600 for key in ("start_s", "end_s"))
        edges = np.linspace(low, high, max(2, int(np.ceil(high - low)) + 1))
        counts, _ = np.histogram((data.time_s - start) / 3600, edges, weights=data.weight)
        ax.stairs(counts / np.diff(edges), edges, fill=True, color=hue, alpha=0.85)
        ax.annotate(
            name,
            ((low + high) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            va="top",
            ha="center",
            color=INK,
        )
    for name, period in split.manifest["periods"].items():
        if name.startswith("batch_"):
            ax.axvline((period["start_s"] - start) / 3600, color="white", linewidth=1)
    ax.set(
        xlabel="hours since the first transaction",
        ylabel="transactions an hour",
        ylim=(0, ax.get_ylim()[1] * 1.12),
    )
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    return ax


def heatmap(ax, matrix, names, limit=1.0):
    """A square matrix in [-limit, limit], zero white; names are thinned where there are many."""
    image = ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    step, names = max(1, len(names) // 30), [plain(name, 24) for name in names]
    ax.set_xticks(range(0, len(names), step), names[::step], rotation=90, fontsize=7)
    ax.set_yticks(range(0, len(names), step), names[::step], fontsize=7)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.figure.colorbar(image, ax=ax, shrink=0.8, label="correlation")
    return ax


def bars(ax, names, values, xlabel, threshold=None, hue=GENUINE):
    """Horizontal bars, the largest on top; a dashed line marks the threshold."""
    order = np.argsort(values)
    rows = np.arange(len(order))  # by position: names that look alike keep a bar each
    ax.barh(rows, np.asarray(values)[order], color=hue, height=0.7)
    ax.set_yticks(rows, [plain(names[i]) for i in order])
    if threshold is not None:
        ax.axvline(threshold, color=FRAUD, linestyle="--", linewidth=1.2)
    ax.set(xlabel=xlabel)
    ax.grid(axis="y", visible=False)
    return ax


def distances(first, second):
    """Kolmogorov-Smirnov distance (d,) of each feature in two Arrays, by the values there are; NaN
    without any.
    """
    columns = range(first.X.shape[1])
    return np.array(
        [ks(first.X[:, j], second.X[:, j], first.weight, second.weight) for j in columns]
    )


def figures(names, values):
    """{name: figure without an interval} for a notebook's metrics; values (d,), NaN becomes
    None.
    """
    return {
        name: {
            "value": round(float(value), 4) if np.isfinite(value) else None,
            "low": None,
            "high": None,
        }
        for name, value in zip(names, values, strict=True)
    }


def remarks(names, early, data):
    """Sentences on features that hold no value, or one value only, in `early` (Arrays) or in all of
    `data`.
    """
    said = []
    for j, name in enumerate(names):
        first, all_of_them = (
            np.unique(each.X[np.isfinite(each.X[:, j]), j]) for each in (early, data)
        )
        if not all_of_them.size:
            said.append(f"feature {name!r} has no value at all")
        elif not first.size:
            said.append(
                f"feature {name!r} has no value in the first half of the time: to a model it is a "
                "constant"
            )
        elif all_of_them.size == 1:
            said.append(f"feature {name!r} is always {all_of_them[0]:g}")
    return said


def rank_correlation(X):
    """Spearman's correlation of the columns of X (n, d) -> (d, d); 0 where a column is constant or
    rows are too few.

    Two columns are compared in the rows where both have a value.
    """
    matrix = (
        pd.DataFrame(np.asarray(X, np.float64)).corr("spearman", min_periods=3).to_numpy(copy=True)
    )
    np.fill_diagonal(matrix, 1.0)
    return np.nan_to_num(matrix)
