"""What a recipe starts from and what it makes: categories, entities, derived features."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator, PercentFormatter

from lib.bundle.categories import MISSING
from lib.data.columns import one_line
from lib.data.datasets import Arrays
from lib.detectors.sampling import effective_size
from lib.evaluation import intervals, separation
from lib.evaluation.figures import Figure, cell, number
from lib.reporting.eda_plots import dates
from lib.reporting.plots import FAINT, FRAUD, GENUINE, SOFT, percent, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lib.data.splits import Split

N_VALUES = 12  # of a category that are shown one by one
NO_VALUE = "(no value)"
DAY_S = 86_400
MAX_SLICES = 60  # of the time, in a figure
HUES = (GENUINE, "#E69F00", "#009E73", "#7B4F9E")  # of entities, one after the other


def by_value(values: pd.Series, data: Arrays, n: int = N_VALUES) -> pd.DataFrame:
    """Return the values of a category, the most frequent first, the rest together.

    Parameters
    ----------
    values : (m,) text, a transaction each; a missing one is a value of its own
    data : Arrays of the same transactions
    n : values that get a row of their own

    Returns
    -------
    DataFrame, a row a value: ``transactions`` (n), ``share`` of the weight, known ``frauds`` (n),
    and of the labelled transactions ``rate``, ``low``, ``high``: the fraud rate and its exact
    binomial 95 % interval, NaN where nothing is labelled. Shares and rates count weight.
    """
    text = values.astype(object)
    text = text.where(values.notna() & (text != MISSING), NO_VALUE).map(one_line)
    weight_of = pd.Series(data.weight).groupby(text.to_numpy()).sum()
    ranked = weight_of.sort_index().sort_values(ascending=False, kind="stable").index
    kept = ranked if len(ranked) <= n + 1 else ranked[:n]
    rest = f"the other {len(ranked) - len(kept):,} values"
    group = text.where(text.isin(kept), rest).to_numpy()
    rows = {}
    for value in [*kept, rest]:
        own = data.take(group == value)
        if len(own.y):
            rows[value] = _counted(own, data.weight.sum())
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("value")


def _counted(own: Arrays, total: float) -> dict[str, float]:
    rate = _rate(own.y == 1, own.weight, own.y >= 0)
    return {
        "transactions": len(own.y),
        "share": own.weight.sum() / total,
        "frauds": int((own.y == 1).sum()),
        "rate": _or_nan(rate["value"]),
        "low": _or_nan(rate["low"]),
        "high": _or_nan(rate["high"]),
    }


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _rate(is_it: np.ndarray, weight: np.ndarray, is_known: np.ndarray) -> Figure:
    """Return the share of the known weight that is it, with its exact binomial interval."""
    known = weight[is_known]
    if not known.sum() > 0:
        return intervals.figure(np.nan)
    share = weight[is_known & is_it].sum() / known.sum()
    return intervals.clopper_pearson(float(share), effective_size(known))


def categories(axes: np.ndarray, table: pd.DataFrame, overall: float | None) -> None:
    """Draw a table of `by_value`: shares on the first of two axes, fraud rates on the second.

    overall : the fraud rate of all labelled transactions, a dotted line; None without labels, and
        the second of the axes stays empty
    """
    rows = np.arange(len(table))[::-1]
    shares, rates = axes
    shares.barh(rows, table["share"], color=GENUINE, height=0.7)
    shares.set_yticks(rows, [plain(value, 24) for value in table.index])
    shares.set(xlabel="share of transactions")
    shares.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    shares.grid(axis="y", visible=False)
    for ax in axes:
        ax.set_ylim(-0.6, len(table) - 0.4)  # so that a value is on one line in both
    if overall is None:
        rates.set_visible(False)
        return
    rates.hlines(rows, table["low"], table["high"], color=FRAUD, linewidth=3, alpha=0.35)
    rates.plot(table["rate"], rows, "o", color=FRAUD, markersize=6)
    rates.set_yticks(rows, [""] * len(rows))
    rates.tick_params(axis="y", length=0)
    rates.axvline(overall, color=SOFT, linestyle=":", linewidth=1.4)
    # a value with few transactions has an interval that would push all others to the left
    furthest = max(table["rate"].max(), overall, table["high"].median())
    rates.set(xlabel="fraud rate, 95 % interval", xlim=(0, min(1.6 * furthest, 1) or 1))
    rates.xaxis.set_major_formatter(PercentFormatter(1))
    rates.grid(axis="y", visible=False)


def value_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of `by_value` as text."""
    rates = []
    for row in table.itertuples():
        figure = {"value": row.rate, "low": row.low, "high": row.high}
        rates.append(cell(figure if np.isfinite(row.rate) else None, 2, "%"))
    return pd.DataFrame(
        {
            "transactions": [f"{n:,}" for n in table["transactions"]],
            "share": [f"{share:.2%}" for share in table["share"]],
            "known frauds": [f"{n:,}" for n in table["frauds"]],
            "fraud rate": rates,
        },
        index=table.index,
    )


def _present(owner: pd.Series) -> np.ndarray:
    """Return whether a transaction names its entity, (n,) bool."""
    return (owner.notna() & (owner.astype(object) != MISSING)).to_numpy()


def by_entity(owners: Mapping[str, pd.Series], data: Arrays) -> pd.DataFrame:
    """Return how many entities there are, how often they occur, and how many have a fraud, as text.

    Parameters
    ----------
    owners : {entity: (n,) text, whose transaction it is}; one without is left out
    data : Arrays of the same transactions
    """
    rows = {}
    for name, owner in owners.items():
        is_there = _present(owner)
        who = owner[is_there].astype(object)
        counts = who.value_counts()
        y = data.y[is_there]
        judged = pd.Series(y >= 0).groupby(who.to_numpy()).any()
        with_fraud = pd.Series(y == 1).groupby(who.to_numpy()).any()
        n_judged = int(judged.sum())
        share = None
        if n_judged:
            share = intervals.clopper_pearson(float(with_fraud.sum() / n_judged), n_judged)
        low, middle, high = counts.quantile([0.1, 0.5, 0.9]) if len(counts) else [0.0] * 3
        rows[one_line(name)] = {
            "how many": f"{len(counts):,}",
            "transactions each: median": f"{middle:,.0f}",
            "10 % to 90 %": f"{low:,.0f} to {high:,.0f}",
            "most": f"{counts.max() if len(counts) else 0:,}",
            "with a known fraud": cell(share, 2, "%"),
            "rows without": f"{(~is_there).sum():,}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("entity")


def newcomers(owners: Mapping[str, pd.Series], sizes: Mapping[str, int]) -> pd.DataFrame:
    """Return how many entities of each period occur in none before, as text.

    Parameters
    ----------
    owners : {entity: (n,) text} of all periods, one behind the other
    sizes : {period: transactions (n)}, in time order
    """
    rows: dict[str, dict[str, str]] = {}
    for name, owner in owners.items():
        is_there = _present(owner)
        seen: set = set()
        start = 0
        rows[one_line(name)] = {}
        for period, n in sizes.items():
            part = slice(start, start + n)
            start += n
            who = set(owner[part][is_there[part]])
            new = who - seen
            text = f"{len(who):,}"
            if seen:
                text = f"{len(new):,} of {len(who):,} ({len(new) / max(len(who), 1):.0%})"
            rows[one_line(name)][period] = text
            seen |= who
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("entity")


def arrivals(
    ax: Axes, owners: Mapping[str, pd.Series], time_s: np.ndarray, kind: str = "seconds"
) -> Axes:
    """Return the axes with the share of the entities of a day that have not occurred before.

    Where there are many days, several stand together; of one or two days, hours do.

    owners : {entity: (n,) text}; time_s : (n,) seconds, ascending; kind : of time, as splits.json
    has it
    """
    since = time_s - time_s[0]
    unit_s, unit = (DAY_S, "days") if since[-1] > 2 * DAY_S else (3600, "hours")
    n_units = since[-1] / unit_s
    step = max(1, int(np.ceil(n_units / MAX_SLICES)))
    place = (since // (unit_s * step)).astype(int)
    for hue, (name, owner) in zip(cycle(HUES), owners.items(), strict=False):
        is_there = _present(owner)
        pairs = pd.DataFrame({"who": owner[is_there].to_numpy(), "place": place[is_there]})
        pairs = pairs.drop_duplicates()
        first = pairs.groupby("who")["place"].transform("min") == pairs["place"]
        share = first.groupby(pairs["place"]).mean()
        x = (share.index + 0.5) * step
        ax.plot(x, share, ".-", color=hue, linewidth=1.6, markersize=5, label=plain(name))
    width = unit.removesuffix("s") if step == 1 else f"{step} {unit}"
    ax.set(
        xlabel=f"{unit} since the first transaction",
        ylabel=f"of those seen within a {width}" if step == 1 else f"of those seen within {width}",
    )
    if kind == "datetime":
        dates(ax, time_s[0], unit_s)
    # everybody is new at first, few are later: both can be read
    ax.set_yscale("symlog", linthresh=0.02, linscale=0.7)
    ax.set_ylim(0, 1.15)
    ticks = [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    ax.set_yticks(ticks, [percent(tick) for tick in ticks])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.legend()
    return ax


def alone(data: Arrays, features: Mapping[str, int]) -> dict[str, tuple[Figure, str]]:
    """Return how far each feature separates frauds, see `separation.either_way`, the best first.

    features : {name: its column of data.X}
    """
    found = {}
    for name, j in features.items():
        found[name] = separation.either_way(separation.roc_auc(data, data.X[:, j]))
    return dict(sorted(found.items(), key=lambda pair: -(pair[1][0]["value"] or 0)))


def separation_remarks(split: Split, found: Mapping[str, tuple[Figure, str]]) -> list[str]:
    """Return sentences on what the figures of `alone`, on reference, rest on.

    None where nothing is derived.
    """
    if not found:
        return []
    period = split.manifest["periods"]["reference"]
    n_frauds = period["n_frauds"] or 0
    is_judged = any(auc["value"] is not None for auc, _ in found.values())
    if not is_judged:
        known = "no fraud" if not n_frauds else "nothing but frauds"
        return [f"Of reference {known} is known: no feature can be judged."]
    said = []
    if not any(auc["low"] is not None for auc, _ in found.values()):
        said.append(f"{n_frauds:,} known frauds in reference: too few for an interval.")
    known_labels = split.manifest.get("labels_seen")
    if known_labels:
        said.append(
            f"These features know labels of earlier transactions: {known_labels}. The others know "
            "none; the labels of reference only judge here."
        )
    else:
        said.append("No feature knows a label; the labels of reference only judge here.")
    return said


def separations(ax: Axes, found: Mapping[str, tuple[Figure, str]]) -> Axes:
    """Return the axes with a dot and its 95 % interval a feature, the best on top; see `alone`.

    A feature whose frauds do not lie surely on one side is grey.
    """
    shown = [(name, auc, side) for name, (auc, side) in found.items() if auc["value"] is not None]
    rows = np.arange(len(shown))[::-1]
    for row, (_, auc, side) in zip(rows, shown, strict=True):
        hue = FRAUD if side else FAINT
        if auc["low"] is not None:
            # not `plot`, whose thick lines end beyond their ends: here 0.5 matters
            ax.hlines(row, auc["low"], auc["high"], color=hue, linewidth=3, alpha=0.35)
        ax.plot(auc["value"], row, "o", color=hue, markersize=6)
        said = f"{number(auc['value'], 2)}  {side}"
        ends = [end for end in (auc["value"], auc["high"]) if end is not None]
        ax.annotate(
            said,
            (max(ends), row),
            (8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=SOFT,
        )
    ax.axvline(0.5, color=SOFT, linestyle=":", linewidth=1.4)
    ax.set_yticks(rows, [plain(name, 40) for name, _, _ in shown])
    ax.set(xlabel="ROC AUC of the feature alone, either way", xlim=(0.3, 1.12))
    ax.set_ylim(-0.6, len(shown) - 0.4)
    ax.set_xticks([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    ax.grid(axis="y", visible=False)
    return ax
