"""Figures: Axes in, Axes out; one palette, one colour per model everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter, PercentFormatter

from lib.data.columns import one_line
from lib.data.datasets import UNLABELLED
from lib.evaluation.figures import Figure as Interval
from lib.evaluation.figures import number as number_of
from lib.files import whole
from lib.reporting.names import label, own_colour

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any common colour-vision deficiency can tell apart.
GENUINE, FRAUD, INK, SOFT, FAINT = "#3B6A8F", "#C8402F", "#22262B", "#5F6872", "#9AA3AD"
MODEL_COLOURS = {
    "isolation_forest": "#0072B2",
    "autoencoder": "#D55E00",
    "gaussian_mixture": "#009E73",
    "fusion": "#CC79A7",
    "nearest_neighbours": "#9C5448",
    "robust_covariance": "#7B4F9E",
    "empirical_tails": "#8478FC",
    "few_labels": "#B8860B",
    "supervised_trees": "#4D4D4D",
    "max_abs_z": "#56B4E9",
    "amount": "#777777",
    "random": "#A3A3A3",
}
Curve = tuple[np.ndarray, np.ndarray]  # x and y, each (k,)
SAME = 0.004  # of the axes: curves that are nowhere further apart are drawn once
_STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    **dict.fromkeys(("figure.constrained_layout.h_pad", "figure.constrained_layout.w_pad"), 0.08),
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "axes.grid": True,
    "grid.color": "#E6E9EC",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "svg.hashsalt": "fraud",
}


def figure(
    n_rows: int = 1,
    n_columns: int = 1,
    width: float = 7.0,
    height: float = 3.4,
    **kwargs: Any,
) -> tuple[Figure, Any]:
    """Return a figure in the house style, sized in inches, and its Axes or an array of them."""
    plt.rcParams.update(_STYLE)
    return plt.subplots(n_rows, n_columns, figsize=(width, height), **kwargs)


def save(fig: Figure, folder: Path | str, name: str) -> Path:
    """Return the path of the PNG, written into `folder` with an SVG, each whole or not at all."""
    # without its date an SVG is the same bytes again; the PNG comes last: its path is returned
    for suffix, metadata in ((".svg", {"Date": None}), (".png", None)):
        path = Path(folder) / f"{name}{suffix}"
        with whole(path) as partial:
            fig.savefig(partial, metadata=metadata)
    return path


def plain(name: str, width: int = 32) -> str:
    """Return a user's name as it can stand in a figure.

    On one line, shortened in the middle (the windows of a recipe differ at their end), no formula
    between its dollar signs.
    """
    text = one_line(name)
    if len(text) > width:
        n_last = (width - 1) // 2
        text = f"{text[: width - 1 - n_last]}…{text[-n_last:]}"
    return text.replace("$", r"\$")


def colour(model: str) -> str:
    """Return the one colour of a candidate.

    Variants such as `autoencoder@latent=4` share their family's.
    """
    return own_colour(model) or MODEL_COLOURS.get(model.split("@")[0], INK)


@dataclass(frozen=True)
class _Line:
    """How the curve of a model is drawn.

    Parameters
    ----------
    models : whose curve it is: those that coincide are drawn once
    is_named : whether it stands for its family, the best of which has the name
    """

    models: tuple[str, ...]
    is_champion: bool = False
    is_named: bool = True

    @property
    def name(self) -> str:
        """The models' names; a candidate that is the present champion has its own."""
        own = [model for model in self.models if model != "present_champion"]
        return ", ".join(label(model) for model in own or self.models)

    @property
    def style(self) -> dict[str, Any]:
        """What matplotlib needs to know."""
        model = self.models[0]
        if self.is_champion:
            return {"color": colour(model), "linewidth": 3.2, "zorder": 3}
        if not self.is_named:
            return {"color": colour(model), "linewidth": 1.0, "linestyle": ":", "alpha": 0.9}
        # what is no detector stands behind
        dashed = family(model) in {"random", "amount", "max_abs_z", "supervised_trees"}
        return {"color": colour(model), "linewidth": 1.2, "linestyle": "--" if dashed else "-"}


def family(model: str) -> str:
    """Return the family of a variant: `autoencoder` of `autoencoder@code=4`."""
    return model.partition("@")[0]


def _lines(curves: Mapping[str, Curve], champion: str | None) -> list[tuple[_Line, Curve]]:
    """Return what to draw: curves that coincide once, the first of each family with its name.

    curves : the best first
    """
    together: list[list[str]] = []
    for model, curve in curves.items():
        same = [group for group in together if _coincide(curves[group[0]], curve)]
        if same:
            same[0].append(model)
        else:
            together.append([model])
    drawn = []
    families: set[str] = set()
    for group in together:
        # under the champion's name and colour, where it is among them
        models = sorted(group, key=lambda model: model != champion)
        is_champion = champion in models
        is_named = is_champion or any(family(model) not in families for model in models)
        families.update(map(family, models))
        drawn.append((_Line(tuple(models), is_champion, is_named), curves[models[0]]))
    return drawn


def _coincide(first: Curve, second: Curve) -> bool:
    """Return whether two rising or falling curves cannot be told apart, anywhere."""
    places = np.linspace(0, 1, 201)
    ours, theirs = (np.interp(places, *_ascending(curve)) for curve in (first, second))
    return bool(np.abs(ours - theirs).max() < SAME)


def _ascending(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    x, y = map(np.asarray, curve)
    return (x, y) if x[0] <= x[-1] else (x[::-1], y[::-1])


def _name_lines(ax: Axes, lines: Sequence[_Line]) -> None:
    """Write each line's name to the right of the axes, in order, beside its colour and dash."""
    named = [line for line in lines if line.is_named]
    step = min(0.085, 0.88 / (len(named) + 1))  # below it is room for the name of a straight line
    for row, line in enumerate(named):
        y = 0.98 - row * step
        ax.plot([1.015, 1.05], [y, y], transform=ax.transAxes, clip_on=False, **line.style)
        text = f"{line.name}, champion" if line.is_champion else line.name
        ax.annotate(
            text,
            (1.06, y),
            xycoords="axes fraction",
            color=INK,
            va="center",
            fontsize=9,
            fontweight="bold" if line.is_champion else "normal",
        )
    if len(named) < len(lines):
        y = 0.98 - len(named) * step
        words = "dotted: weaker variants, in the colour of their family"
        ax.annotate(
            words, (1.015, y), xycoords="axes fraction", color=SOFT, va="center", fontsize=8
        )


def by_class(  # noqa: PLR0913 - the axes' labels, by name
    ax: Axes,
    values: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    xlabel: str = "",
    bins: int = 60,
    log_x: bool = False,
) -> Axes:
    """Return the axes with the weighted share of each class over `values` (n,).

    Each class sums to one.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        ax.annotate("no value", (0.5, 0.5), xycoords="axes fraction", color=SOFT, ha="center")
        return ax
    # a few far values would press all others into one bar
    low, high = np.quantile(finite, [0.001, 0.999])
    if log_x:
        low = max(low, 0.01)
        edges = np.geomspace(low, max(high, low * 1.01), bins + 1)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(number))
    else:
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    clipped = np.clip(values, edges[0], edges[-1])
    classes = ((0, GENUINE), (1, FRAUD)) if (y != UNLABELLED).any() else ((UNLABELLED, GENUINE),)
    for cls, hue in classes:
        rows = (y == cls) & np.isfinite(values)
        if weight[rows].sum() > 0:
            share, _ = np.histogram(clipped[rows], edges, weights=weight[rows] / weight[rows].sum())
            ax.stairs(
                share,
                edges,
                color=hue,
                fill=cls != 1,
                alpha=1.0 if cls == 1 else 0.45,
                linewidth=1.6,
            )
    ax.set(xlabel=f"{xlabel} (log scale)" if log_x else xlabel, ylabel="share of the class")
    # with the digits that a tick needs: 2.5 % must not read 2 %
    ax.yaxis.set_major_formatter(FuncFormatter(percent))
    return ax


def number(value: float, _: int | None = None) -> str:
    """Return a tick of a logarithmic axis as people write it: `0.01`, `1,000`."""
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def percent(value: float, _: int | None = None) -> str:
    """Return a share as people write it: `10%`, `0.02%`."""
    return f"{100 * value:.6g}%"


def name_classes(ax: Axes, labelled: bool = True) -> None:
    """Return nothing; write beside the axes which colour is which class, in the colours."""
    classes = (
        ((0.97, "genuine", GENUINE), (0.87, "fraud", FRAUD))
        if labelled
        else ((0.97, "unlabelled", GENUINE),)
    )
    for y, name, hue in classes:
        ax.annotate(
            name, (1.01, y), xycoords="axes fraction", color=hue, va="top", fontweight="bold"
        )


def members(ax: Axes, alone: np.ndarray, averaged: float, model: str) -> Axes:
    """Return the axes with the average precision of each member alone (dots) and together (line).

    averaged : of the members' average; NaN where no fraud is known
    """
    # a row each: members that are equally good would hide each other
    rows = np.arange(len(alone))[::-1]
    ax.set(xlim=(0, 1), ylim=(-1, len(alone)), xlabel="average precision on validation")
    ax.grid(axis="y", visible=False)
    if not np.isfinite(averaged):
        ax.set_yticks([])
        ax.annotate("no fraud is known in validation", (0.5, 0), ha="center", color=SOFT)
        return ax
    step = 1 + len(alone) // 10  # of many members only some are named
    ax.set_yticks(rows[::step], [f"member {i}" for i in range(1, len(alone) + 1, step)])
    ax.axvline(averaged, color=colour(model), linewidth=2.5, alpha=0.45, zorder=1)
    ax.plot(alone, rows, "o", color=colour(model), markeredgecolor="white", markersize=9)
    ax.set_title(f"Line: averaged, {number_of(averaged)}; dots: each alone")
    return ax


def trims(ax: Axes, found: pd.DataFrame, used: float) -> Axes:
    """Return the axes with what each share left out before a fit does to precision and alerts.

    Parameters
    ----------
    found : with `trim`, `average precision` (NaN where no fraud is known) and
        `alerts kept at the next`, of which the last is NaN
    used : the trim without labels, a dotted line
    """
    # evenly apart: most trims are near zero, and their ticks would run into each other
    places = np.arange(len(found))
    trim = found["trim"].to_numpy(np.float64)
    precision = found["average precision"].to_numpy(np.float64)
    kept = found["alerts kept at the next"].to_numpy(np.float64)[:-1]
    ax.plot(places, precision, "o-", color=FRAUD)
    # between two trims, which it compares
    ax.plot(places[:-1] + 0.5, kept, "s--", color=GENUINE)
    ends = [
        (kept, GENUINE, "alerts that stay the same\nat the next trim (no label)"),
        (precision, FRAUD, "average precision\n(needs labels)"),
    ]
    known = [(line[np.isfinite(line)][-1], *end) for line, *end in ends if np.isfinite(line).any()]
    y = -1.0
    # from below: words that would cover those before move up
    for value, hue, words in sorted(known):
        y = max(value, y + 0.24)
        ax.annotate(words, (1.02, y), xycoords=("axes fraction", "data"), va="center", color=hue)
    xlabel = "share of the rows left out before the fit (trim)"
    if trim[0] <= used <= trim[-1] and (np.diff(trim) > 0).all():
        ax.axvline(np.interp(used, trim, places), color=SOFT, linestyle=":", linewidth=1.4)
        xlabel += "; dotted: the one used without labels"
    ax.set_xticks(places, [percent(share) for share in trim])
    ax.set(
        xlim=(-0.12, max(places[-1], 0.5) + 0.12),
        ylim=(0, 1.05),
        xlabel=xlabel,
        title="Fitted with frauds among the rows: what a stronger trim changes",
    )
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return ax


def spread(ax: Axes, results: pd.DataFrame, reference: float) -> Axes:
    """Return the axes with a dot for each fit of each model.

    Filled without labels of fraud, hollow where known frauds were left out.

    results : with `model`, `train_on`, `average_precision`
    reference : what supervised trees reach
    """
    names = list(dict.fromkeys(results["model"]))[::-1]
    for row, model in enumerate(names):
        for train_on, shift, face in (("genuine", 0.14, "white"), ("all", -0.14, colour(model))):
            is_shown = (results["model"] == model) & (results["train_on"] == train_on)
            part = results.loc[is_shown, "average_precision"]
            ax.plot(
                part,
                np.full(len(part), row + shift),
                "o",
                color=colour(model),
                markerfacecolor=face,
                markersize=7,
            )
    ax.axvline(reference, color=colour("supervised_trees"), linestyle="--", linewidth=1.4)
    ax.annotate(
        "supervised trees",
        (reference, len(names) - 0.45),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        va="top",
        color=colour("supervised_trees"),
        fontsize=8,
    )
    ax.annotate(
        "○ known frauds removed   ● no label",
        (0.01, 0.03),
        xycoords="axes fraction",
        fontsize=8,
        color=INK,
    )
    ax.set_yticks(range(len(names)), [label(m) for m in names])
    ax.set(xlim=(0, 1), ylim=(-1.2, len(names) - 0.4))  # room for the words on dots
    ax.grid(axis="y", visible=False)
    return ax


def scalings(ax: Axes, found: pd.DataFrame) -> Axes:
    """Return the axes with the average precision of two detectors by which columns are logged.

    Filled without labels of fraud, hollow where known frauds were left out.

    found : with `train_on` and what `lib.evaluation.scalings.compare` returns
    """
    for train_on, part in found.groupby("train_on"):
        for model in ("robust_covariance", "nearest_neighbours"):
            ax.plot(
                range(len(part)),
                part[model],
                "o-" if train_on == "all" else "o--",
                color=colour(model),
                markerfacecolor=colour(model) if train_on == "all" else "white",
                label=f"{label(model)}, {train_on}",
            )
    logged = {"never": "no column", "skewed": "by the rule", "always": "all skewed"}
    ax.set_xticks(range(len(logged)), [logged[rule] for rule in found["log"].unique()])
    ax.set(xlim=(-0.3, len(logged) - 0.7), ylim=(0, 1.02), ylabel="average precision")
    return ax


def learning_curves(ax: Axes, history: Mapping[str, np.ndarray]) -> Axes:
    """Return the axes with the loss by epoch; a dot marks the epoch kept.

    history : {"train", "validation"}, each (epochs, members)
    """
    hue = colour("autoencoder")
    for train, validation in zip(history["train"].T, history["validation"].T, strict=True):
        epochs = np.arange(1, len(train) + 1)
        best = int(np.argmin(validation))
        ax.plot(epochs, train, color=FAINT, linewidth=1.2)
        ax.plot(epochs, validation, color=hue)
        ax.plot(epochs[best], validation[best], "o", color=hue, markersize=6)
    ends = {
        "validation\n(dot: weights kept)": (validation[-1], hue),
        "reference,\nwith noise": (train[-1], SOFT),
    }
    upper = max(ends, key=lambda text: ends[text][0])
    # the upper text ends where the lower begins, however near the curves are
    for text, (loss, ink) in ends.items():
        y, va = (-6, "bottom") if text == upper else (-8, "top")
        ax.annotate(
            text,
            (epochs[-1], loss),
            (8, y),
            textcoords="offset points",
            va=va,
            color=ink,
            annotation_clip=False,
        )
    ax.set(xlabel="epoch", ylabel="loss (log scale)", yscale="log", xlim=(0.5, epochs[-1] + 0.3))
    ax.yaxis.set_major_formatter(FuncFormatter(number))
    ax.yaxis.set_minor_formatter(FuncFormatter(number))
    return ax


def scores(
    ax: Axes,
    anomaly_score: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    threshold: float | None = None,
) -> Axes:
    """Return the axes with scores (n,) by class; the scale stretches the last thousandths."""
    # 0.999 lies at 3; scores of one would lie nowhere
    nines = -np.log10(np.clip(1 - anomaly_score, 1e-6, 1))
    body, kind = (y == 0, "genuine") if (y == 0).any() else (y == UNLABELLED, "unlabelled")
    share = weight[body] / max(weight[body].sum(), 1e-300)
    edges = np.linspace(0, 6, 61).tolist()
    ax.hist(nines[body], edges, weights=share, color=GENUINE, alpha=0.45)
    above = ax.get_xaxis_transform()
    frauds = nines[y == 1]
    ax.plot(
        frauds,
        np.full(len(frauds), 1.05),
        "|",
        color=FRAUD,
        markersize=12,
        alpha=0.7,
        transform=above,
        clip_on=False,
    )
    if len(frauds):
        ax.annotate("| one fraud", (0.99, 0.93), xycoords="axes fraction", color=FRAUD, ha="right")
    ax.annotate(kind, (0.99, 0.85), xycoords="axes fraction", color=GENUINE, ha="right")
    ticks = [0, 1, 2, 3, 4, 5, 6]
    ax.set_xticks(ticks, ["0", "0.9", "0.99", "0.999", "0.9999", "0.99999", "1"][: len(ticks)])
    ax.set(
        xlabel="anomaly score (logarithmic in 1 − score)",
        xlim=(0, 6),
        yscale="log",
        ylabel=f"of {kind} transactions (log scale)",
    )
    ax.yaxis.set_major_formatter(FuncFormatter(percent))
    if threshold is not None:
        x = -np.log10(max(1 - threshold, 1e-6))
        ax.axvline(x, color=INK, linestyle="--", linewidth=1.2)
        ax.annotate(
            f"threshold {threshold:.4f}",
            (x, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            va="top",
            color=INK,
        )
    return ax


def precision_recall(
    ax: Axes,
    curves: Mapping[str, Curve],
    prevalence: float,
    champion: str | None = None,
) -> Axes:
    """Return the axes with precision over recall, the champion bold.

    curves : {model: (recall, precision)}, the best first; the dotted line is a random ranking,
        which has no other
    """
    lines = _lines({name: curve for name, curve in curves.items() if name != "random"}, champion)
    for line, (recall, precision) in lines:
        ax.plot(recall, precision, drawstyle="steps-pre", **line.style)
    _mark_prevalence(ax, prevalence)
    _name_lines(ax, [line for line, _ in lines])
    return ax


def _mark_prevalence(ax: Axes, prevalence: float) -> None:
    ax.axhline(prevalence, color=SOFT, linestyle=":", linewidth=1.4)
    ax.annotate(
        f"prevalence {prevalence:.2%}, a random ranking",
        (1, prevalence),
        (6, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        color=SOFT,
        fontsize=8,
        annotation_clip=False,
    )
    ax.set(
        xlabel="recall (share of frauds found)",
        ylabel="precision (share of alerts that are fraud)",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )


def money(
    ax: Axes,
    curves: Mapping[str, Curve],
    budgets: Iterable[float] = (),
    champion: str | None = None,
) -> Axes:
    """Return the axes with the share of fraud money caught over the share reviewed.

    curves : {model: (share reviewed, share of the money)}, the best first; the champion is bold
    """
    lines = _lines(curves, champion)
    for line, (reviewed, caught) in lines:
        ax.plot(reviewed, caught, **line.style)
    for budget in budgets:
        ax.axvline(budget, color=FAINT, linestyle=":", linewidth=1)
        ax.annotate(
            percent(budget),
            (budget, 0.99),
            (3, 0),
            xycoords=("data", "axes fraction"),
            va="top",
            textcoords="offset points",
            color=SOFT,
            fontsize=8,
        )
    ax.set(
        xscale="log",
        xlim=(1e-4, 0.1),
        ylim=(0, 1.02),
        xlabel="share of transactions reviewed (log scale)",
        ylabel="share of fraud money caught",
    )
    ax.xaxis.set_major_formatter(FuncFormatter(percent))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _name_lines(ax, [line for line, _ in lines])
    return ax


def intervals(
    ax: Axes,
    values: Mapping[str, Interval],
    xlabel: str,
    reference: float | None = None,
    champion: str | None = None,
) -> Axes:
    """Return the axes with a dot and its 95 % interval a model, the best on top, the champion bold.

    A model without a figure is left out. reference : what a random ranking reaches
    """
    shown = {m: v for m, v in values.items() if v["value"] is not None}
    order = sorted(shown, key=lambda m: shown[m]["value"])
    for row, model in enumerate(order):
        v = shown[model]
        if v["low"] is not None:
            ax.plot(
                [v["low"], v["high"]],
                [row, row],
                color=colour(model),
                linewidth=3,
                alpha=0.35,
                solid_capstyle="round",
            )
        ax.plot(v["value"], row, "o", color=colour(model), markersize=9 if model == champion else 6)
        right = v["value"] if v["high"] is None else v["high"]
        ax.annotate(
            number_of(v["value"]),
            (right, row),
            (8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    ax.set_yticks(range(len(order)), [label(m) for m in order])
    if champion in order:
        ax.get_yticklabels()[order.index(champion)].set_fontweight("bold")
    ax.set(xlabel=xlabel, xlim=(0, 1), ylim=(-0.6, len(order) - 0.4))
    if reference is not None:
        ax.axvline(reference, color=SOFT, linestyle=":", linewidth=1.4)
        ax.annotate(
            "a random ranking",
            (reference, -0.5),
            (4, 0),
            textcoords="offset points",
            va="center",
            color=SOFT,
            fontsize=8,
        )
    ax.grid(axis="y", visible=False)
    return ax
