"""The dashboard of a simulated production: one column a batch, from alerts and drift to labels and
money.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator, PercentFormatter

from lib.data.budgets import Budget, percent
from lib.data.columns import SCORE
from lib.errors import listed
from lib.evaluation.figures import DASH, cell, number
from lib.reporting import plots
from lib.reporting.names import what_drifted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lib.data.simulation import Drift

Result = Mapping[str, Any]  # of one policy: deployment.Deployment.to_dict()
Results = Mapping[str, Result]  # {policy: result}
POLICY_COLOURS = {
    "frozen": "#4D4D4D",
    "refit": "#CC79A7",
    "threshold": "#0072B2",
    "retrain_every": "#009E73",
    "retrain_on_drift": "#D55E00",
}
DAY_S = 86_400
DOUBLINGS = 4  # of half the usual difference, up to the last colour of the drift panel
N_WORDS = 4  # columns that a sentence names
SMALL = 0.1  # of all fraud money, below which a linear axis would hide what a policy has caught
N_SHOWN = 12  # rows of the drift panel at most
HEAT = LinearSegmentedColormap.from_list(
    "heat", ["#F4F6F8", "#DCE6EE", "#F2C9A5", "#E08A4F", "#B5432B"]
)


def label(policy: str) -> str:
    """Return a policy's name as people read it, `retrain every few batches`."""
    return {
        "retrain_every": "retrain every few batches",
        "retrain_on_drift": "retrain on drift",
        "threshold": "threshold re-set",
        "frozen": "frozen",
        "refit": "refit, then frozen",
    }[policy]


def dashboard(
    results: Results,
    table: pd.DataFrame,
    title: str,
    injected: Sequence[Drift] = (),
    budget: Budget | None = None,
) -> Figure:
    """Return alerts, drift, recall and money over the batches; without labels the first two.

    Parameters
    ----------
    table : deployment.Deployment.drift() of the first policy
    injected : what is known to happen, framed in the drift panel
    budget : what people review, a line in the panel of alerts
    """
    names = _shown(table, injected)
    first = next(iter(results.values()))
    steps = first["steps"]
    # the drift panel has a row a column of the data
    heights = [1.5, 0.42 + 0.19 * len(names)]
    if judged(first):
        heights += [1.7, 1.7]
    fig, axes = plots.figure(
        len(heights),
        1,
        width=11.0,
        height=2.6 + sum(heights),
        sharex=True,
        height_ratios=heights,
    )
    alerts(axes[0], results, budget)
    drift(axes[1], table, names, injected)
    if judged(first):
        recall(axes[2], results)
        money(axes[3], results)
    axes[0].set_xlim(0.5, len(steps) + 0.5)
    promotions([axes[0], *axes[2:]], results)
    unit, ends = _ends(first)
    axes[-1].set_xticks(range(1, len(steps) + 1), ends, fontsize=8.5)
    axes[-1].set_xlabel(f"batch, and the {unit} at which it ends")
    for ax in axes:
        ax.tick_params(length=0)
        ax.grid(axis="x", visible=False)
    fig.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=plots.INK)
    return fig


def judged(result: Result) -> bool:
    """Return whether any transaction of the stream has a label in the end."""
    return any(step["realised"]["n_labelled"] for step in result["steps"])


def _ends(result: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return what tells when batches end, and that of each batch below its number."""
    ends_s = [step["end_s"] for step in result["steps"]]
    days = (ends_s[-1] - ends_s[0]) / DAY_S
    if not result["clock"]:
        unit, ends = "row", [f"{end_s:,.0f}" for end_s in ends_s]
    elif days <= len(ends_s):
        clock = [divmod(int(end_s // 60 % 1440), 60) for end_s in ends_s]
        unit, ends = "hour of the day", [f"{hour:02d}:{minute:02d}" for hour, minute in clock]
        if result.get("dates"):
            days_of = [datetime.fromtimestamp(end_s, UTC) for end_s in ends_s]
            unit = "date and hour (UTC)"
            ends = [f"{end}\n{day.day} {day:%b}" for end, day in zip(ends, days_of, strict=True)]
    elif result.get("dates"):
        dates = [datetime.fromtimestamp(end_s, UTC) for end_s in ends_s]
        unit, ends = "day", [f"{date.day} {date:%b}" for date in dates]
    else:
        unit, ends = "day", [f"{end_s / DAY_S:,.0f}" for end_s in ends_s]
    return unit, [f"{i}\n{end}" for i, end in enumerate(ends, 1)]


def _shown(table: pd.DataFrame, injected: Iterable[Drift]) -> list[str]:
    """Return the columns worth a row: flagged or injected, the earliest first, the score on top.

    Those that only differ significantly follow, the most often first.
    """
    is_score = table["is_score"]
    score = table["name"][is_score].iloc[0]
    features = table[~is_score]
    flagged = features[features["flagged"]]
    begun = flagged.groupby("name")["batch"].agg(["min", "size"])
    # of those that begin together, the one flagged most often
    begun = begun.sort_values(["min", "size"], ascending=[True, False])
    known: list[str] = []
    own: list[str] = []
    for drift_ in injected:
        if drift_.what != "fraud":
            known += drift_.features
            own += drift_.features[:1]
    # what was injected and found must not fall behind N_SHOWN false alarms, and of what was
    # injected a column not behind the many features that are derived from another
    both = [name for name in begun.index if name in known]
    own = [name for name in both if name in own]
    differs = features[features["significant"]].groupby("name").size()
    differs = differs.sort_values(ascending=False, kind="stable")
    names = dict.fromkeys([*own, *both, *begun.index, *known, *differs.index])
    return [score, *list(names)[: N_SHOWN - 1]]


def _x(steps: Sequence[Any]) -> np.ndarray:
    return np.arange(1, len(steps) + 1)


def _spread(i: int, n: int) -> float:
    """Return the offset of the i-th of n policies, so that their dots lie beside each other."""
    return 0.13 * (i - (n - 1) / 2)


def _hint(ax: Axes, text: str) -> None:
    """Write how to read a panel, at the right of its title."""
    ax.annotate(
        text,
        (1, 1),
        (0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color="#5F6872",
    )


def promotions(axes: Iterable[Axes], results: Results) -> None:
    """Return nothing; draw a dotted line through all panels where a new model went live."""
    for i, (policy, result) in enumerate(results.items()):
        for k, step in enumerate(result["steps"], 1):
            if not step["promoted"]:
                continue
            # between two batches; lines of policies that agree lie beside each other
            x = k + 0.5 + 0.03 * (i - 1)
            for ax in axes:
                ax.axvline(
                    x,
                    color=POLICY_COLOURS[policy],
                    linewidth=1.6,
                    linestyle=(0, (1, 1.4)),
                    zorder=0.5,
                )


def alerts(ax: Axes, results: Results, budget: Budget | None = None) -> Axes:
    """Return the axes with the alert rate by batch and policy, and the budget as a line.

    The band holds 95 % of batches if the threshold fits the budget.
    """
    steps = next(iter(results.values()))["steps"]
    x, top = _x(steps), 0.0
    edges = np.r_[x - 0.5, x[-1] + 0.5]
    low, high = ([step[key] for step in steps] for key in ("alert_low", "alert_high"))
    ax.stairs(
        high, edges, baseline=low, fill=True, color="#DCE6EE", label="95 % band around the budget"
    )
    for i, (policy, result) in enumerate(results.items()):
        rate = [step["alert_rate"] for step in result["steps"]]
        # beside each other: policies that agree would hide all but the last
        ax.plot(
            x + _spread(i, len(results)),
            rate,
            "o-",
            color=POLICY_COLOURS[policy],
            markersize=5,
            linewidth=1.6,
            label=label(policy),
        )
        top = max(top, *rate, *high)
    if budget is not None:
        ax.axhline(budget.share, color=plots.SOFT, linestyle=":", linewidth=1.4)
        ax.annotate(
            f"budget {percent(budget.share)}\n{_a_day(budget)}".rstrip(),
            (1, budget.share),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            color=plots.SOFT,
            fontsize=8.5,
            annotation_clip=False,
        )
    ticks = [
        t for t in (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if t <= 1.2 * top
    ]
    ax.set_yscale("symlog", linthresh=max(*high, 1e-4), linscale=1.0)
    ax.set_yticks(ticks[:1] + ticks[-4:], [plots.percent(t) for t in ticks[:1] + ticks[-4:]])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set(ylabel="of transactions", ylim=(0, 1.3 * top), title="Alert rate")
    hint = "logarithmic above the band"
    if any(step["promoted"] for result in results.values() for step in result["steps"]):
        hint += "   ·   dotted: a new model goes live"
    _hint(ax, hint)
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.14),
        ncols=5,
        fontsize=9,
        borderaxespad=0,
        columnspacing=1.4,
    )
    return ax


def _a_day(budget: Budget) -> str:
    return "" if budget.reviews_per_day is None else f"{budget.short}"


def injected_words(drifts: Sequence[Drift]) -> list[str]:
    """Return what a simulation has injected, a sentence each, in the order of its begin."""
    by_begin = sorted(drifts, key=lambda drift_: drift_.first_batch)
    return [f"From batch {each.first_batch} on {_happens(each)}." for each in by_begin]


def _happens(drift_: Drift) -> str:
    columns = listed(drift_.features[:N_WORDS])
    if len(drift_.features) > N_WORDS:
        columns = f"{', '.join(drift_.features[:N_WORDS])} and others"
    of = "" if drift_.share == 1 else f" in {drift_.share:.0%} of the transactions"
    if drift_.what == "shift":
        return f"{columns} shift by {drift_.strength:g} standard deviations{of}"
    if drift_.what == "spread":
        return f"{columns} spread {drift_.strength:g} times as far{of}"
    if drift_.what == "inflation":
        return f"amounts are {drift_.strength:g} times as large ({columns})"
    if drift_.what == "online":
        return f"{drift_.share:.0%} of the payments move to online merchants"
    if drift_.share < 1:
        return f"{drift_.share:.0%} of the frauds are of a kind that was not there before"
    return "the kinds of fraud change"


def drift(
    ax: Axes,
    table: pd.DataFrame,
    names: Sequence[str],
    injected: Sequence[Drift] = (),
) -> Axes:
    """Return the axes with the share that has moved as a multiple of what is usual.

    The darker, the larger. A row a column of the data; a dot where drift is called, a bar where a
    difference is significant and no larger than usual.
    """
    batches = list(dict.fromkeys(table["batch"]))
    is_barred = False
    for row, name in enumerate(names):
        of_column = table[table["name"] == name].set_index("batch").loc[batches]
        for column, (_, found) in enumerate(of_column.iterrows(), 1):
            # what chance may explain stays pale, however small the batch
            has_moved = found["significant"] and pd.notna(found["moved"])
            ratio = found["moved"] / found["usual"] if has_moved else 0.0
            heat = np.clip((np.log2(max(ratio, 0.5)) + 1) / DOUBLINGS, 0, 1)
            shade = HEAT(heat)
            corner = (column - 0.46, row - 0.44)
            ax.add_patch(Rectangle(corner, 0.92, 0.88, facecolor=shade, linewidth=0))
            # flagged by something else than what has moved: the cell is pale
            ink = "white" if heat > 0.6 else plots.INK
            if found["flagged"]:
                size = 5.5 if found["loud"] else 3.5
                ax.plot(column, row, "o", color=ink, markersize=size, markeredgewidth=0)
            elif found["significant"]:
                is_barred = True
                ax.plot(column, row, "_", color=ink, markersize=4, markeredgewidth=0.8, alpha=0.6)
    for d in (d for d in injected if d.what != "fraud"):
        for name in (n for n in d.features if n in names):
            corner = (d.first_batch - 0.49, names.index(name) - 0.47)
            # what has begun lasts to the end of the stream
            width = len(batches) - d.first_batch + 0.98
            ax.add_patch(
                Rectangle(
                    corner,
                    width,
                    0.94,
                    fill=False,
                    edgecolor=plots.INK,
                    linewidth=1.1,
                    clip_on=False,
                )
            )
    ax.set_yticks(range(len(names)), [plots.plain(name) for name in names], fontsize=8.5)
    ax.set(ylim=(len(names) - 0.4, -0.6), title="Drift against the reference window")
    said = ["dot: drift, large if again"]
    if is_barred:
        said.append("small bar: significant only")
    if injected:
        said.append("frame: injected")
    _hint(ax, "   ·   ".join(said))
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return ax


def recall(ax: Axes, results: Results) -> Axes:
    """Return the axes with the share of frauds alerted and its 95 % interval.

    A dash is what was estimated before there were labels.
    """
    for i, (policy, result) in enumerate(results.items()):
        steps = result["steps"]
        hue = POLICY_COLOURS[policy]
        x = _x(steps) + _spread(i, len(results))
        found = [step["realised"]["recall"] for step in steps]
        for at, figure in zip(x, found, strict=True):
            if figure["value"] is not None:
                ax.plot(
                    [at, at],
                    [figure["low"], figure["high"]],
                    color=hue,
                    linewidth=3,
                    alpha=0.28,
                    solid_capstyle="round",
                )
                ax.plot(at, figure["value"], "o", color=hue, markersize=5)
        estimated = [
            np.nan if s["estimated_recall"] is None else s["estimated_recall"] for s in steps
        ]
        ax.plot(x, estimated, "_", color=hue, markersize=7, markeredgewidth=1.8)
    for step, at in zip(steps, _x(steps), strict=True):
        ax.annotate(
            f"{step['realised']['n_frauds']:.0f}",
            (at, 0.93),
            xycoords=("data", "axes fraction"),
            ha="center",
            color=plots.FRAUD,
            fontsize=8.5,
        )
    ax.set(ylabel="of frauds", ylim=(-0.03, 1.12), title="Recall of the alerts")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _hint(
        ax, "dot and bar: late labels, 95 % interval   ·   dash: estimated before   ·   red: frauds"
    )
    return ax


def money(ax: Axes, results: Results) -> Axes:
    """Return the axes with the share of all fraud money saved so far.

    By reviewers who take alerts as they arrive, up to the budget. Where that is little beside all
    fraud money, the axis is logarithmic, so that both can be seen.
    """
    steps = next(iter(results.values()))["steps"]
    x = np.r_[0.5, _x(steps) + 0.5]
    ends: dict[str, float] = {}
    total = np.cumsum([0.0, *(step["realised"]["money"] for step in steps)])
    scale = total[-1] or 1.0
    ax.fill_between(x, total / scale, color="#EDEFF1", linewidth=0)
    for policy, result in results.items():
        caught = [step["realised"]["money_caught_in_time"] for step in result["steps"]]
        share = np.cumsum([0.0, *caught]) / scale
        ax.plot(x, share, color=POLICY_COLOURS[policy], linewidth=2.2)
        ends[policy] = share[-1]
    ax.set(ylabel="of all fraud money", title="Money caught, cumulated")
    hint = "alerts reviewed as they arrive, up to the budget   ·   grey: all fraud money"
    least = min((end for end in ends.values() if end > 0), default=1.0)
    if 0 < max(ends.values()) < SMALL:
        # a tick a tenfold, linear from nothing to a third of the least that a policy has caught
        first = 10.0 ** np.floor(np.log10(max(least / 3, 1e-6)))
        ticks = [0.0, *(t for t in np.geomspace(1e-6, 1, 7) if t > 0.99 * first)]
        ax.set_yscale("symlog", linthresh=first, linscale=0.5)
        ax.set_yticks(ticks, [plots.percent(float(f"{t:.6g}")) for t in ticks])
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_ylim(0, 1.4)
        hint += "   ·   logarithmic"
    else:
        ax.set_ylim(0, 1.04)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _hint(ax, hint)
    # from below, as parts of the panel's height: a name that would cover the one before moves up
    to_height = ax.transScale.transform
    low, high = (to_height((1.0, limit))[1] for limit in ax.get_ylim())
    y = -1.0
    for policy in sorted(ends, key=lambda policy: ends[policy]):
        height = (to_height((1.0, ends[policy]))[1] - low) / (high - low)
        y = max(height, y + 0.1)
        ax.annotate(
            f"{plots.percent(float(f'{ends[policy]:.2g}'))} {label(policy)}",
            (1, y),
            (6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=POLICY_COLOURS[policy],
            fontsize=9,
            annotation_clip=False,
        )
    return ax


def by_batch(result: Result) -> pd.DataFrame:
    """Return one policy's batches as text; what labels say is left out where there are none."""
    is_judged = judged(result)
    rows = []
    for step in result["steps"]:
        row = _seen(step)
        if is_judged:
            row |= _told(step)
        rows.append(row)
    return pd.DataFrame(rows).set_index("batch")


def _seen(step: Mapping[str, Any]) -> dict[str, Any]:
    drifted = what_drifted(step)
    if step["score_drifted"]:
        drifted.append(SCORE)
    more = f" and {len(drifted) - 4} more" if len(drifted) > 4 else ""
    # the bounds are of what a threshold that fits the budget would give, not of this rate
    rate = {
        "value": step["alert_rate"],
        "low": step["alert_low"],
        "high": step["alert_high"],
    }
    return {
        "batch": step["batch"],
        "transactions": f"{step['n']:,}",
        "version": step["model_version"],
        "alerts": cell(rate, 2, "%"),
        "p99": f"{step['latency_p99_ms']:.0f} ms",
        "drifted": ", ".join(drifted[:4]) + more or DASH,
    }


def _told(step: Mapping[str, Any]) -> dict[str, Any]:
    told = step["realised"]
    n_labelled = told["n_labelled"]
    n_unlabelled = step["n"] - n_labelled
    known = {}
    if n_unlabelled > 0:
        known["unlabelled"] = f"{n_unlabelled:,}"
    after, frauds = DASH, DASH
    if n_labelled:
        after = step["labels_known_after"] or "the stream"
        frauds = f"{told['n_frauds']:.0f}"
    return known | {
        "labels after": after,
        "frauds": frauds,
        "recall": cell(told["recall"], 2),
        "estimated": number(step["estimated_recall"], 2),
        "average precision": cell(told["average_precision"], 2),
        "money at budget": cell(told["amount_recall_at_budget"], 2),
    }


def by_policy(results: Results) -> pd.DataFrame:
    """Return the totals of all policies as text; what labels say is left out where none are."""
    rows = {}
    for policy, result in results.items():
        t = result["totals"]
        caught = {
            "frauds alerted": f"{t['n_caught']:.0f} of {t['n_frauds']:.0f}",
            "their money": f"{t['money_caught']:,.0f} of {t['money']:,.0f}",
            "frauds caught in time": f"{t['n_caught_in_time']:.1f}",
            "money caught in time": f"{t['money_caught_in_time']:,.0f}",
        }
        rows[label(policy)] = {
            "alerts": f"{t['n_alerts']:,.0f}",
            **(caught if judged(result) else {}),
            "promotions": sum(step["promoted"] for step in result["steps"]),
            "time spent fitting": f"{t['fit_s']:.0f} s",
        }
    return pd.DataFrame(rows).T.rename_axis("policy")


def drilled(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a drill found (`lib.production.drill`), with words for its keys."""
    words = {
        "n_lines": "lines in the log",
        "n_lost": "transactions without a line",
        "n_duplicated": "transactions with more than one line",
        "n_refused": "transactions that were refused",
        "n_retries": "requests that were sent again",
        "n_wrong": "scores that are not those of the version named beside them",
        "n_reloads": "times that the server took up another version",
        "n_kills": "times that the server was killed",
        "versions": "versions in the order in which they answered",
    }
    shown = {words.get(key, key): value for key, value in found.items()}
    shown[words["versions"]] = ", ".join(found["versions"])
    return shown
