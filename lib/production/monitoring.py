"""See how a deployed model does: at once without labels, and later with them.

At once there are the prediction log and the features. Shares and rates count weight. Where the log
has no score, because the server refused the row, the row has been no alert and is ranked last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import binom
from sklearn.isotonic import IsotonicRegression

from lib.data import simulation, simulators
from lib.data.columns import beside
from lib.data.datasets import UNLABELLED, Arrays, Dataset
from lib.data.splits import Split
from lib.detectors.sampling import effective_size
from lib.evaluation import intervals, metrics
from lib.production import replay
from lib.production.drift import Reference

LOGGED = (*replay.COLUMNS, "time_s")  # our columns of a prediction log
APART_S = 60.0  # frauds nearer than that are often one attack, where blocks are of 600 s
N_NAMED = 3  # features that the scorecard names of a drift, its own columns first
BAND = 0.95  # of the alert rate that a budget makes likely
SHOWN = ("average_precision", "recall_at_budget", "precision_at_budget", "amount_recall_at_budget")
SUMS = (  # of weight and of money, that batches add up to
    "n_frauds",
    "money",
    "n_caught",
    "money_caught",
    "n_caught_in_time",
    "money_caught_in_time",
)

# how frauds are watched: with these figures, streams without a new kind are seldom disturbed
N_RECENT = 12  # latest frauds, held against those of the past
N_NEEDED = 5  # with fewer, nothing is said
N_JOINT = 5  # features in which a new kind shows at once
N_SHUFFLES = 1000
RATE = 0.03  # of looks at unchanged frauds that may still name something


class Stream:
    """The folder in which a deployment leaves its log and, beside it, what it was asked.

    Nothing here has labels. A log is for people, too: it has the identifiers under their own names,
    as far as none of ours is called like that (see :func:`lib.data.columns.beside`). What is read
    back are our columns only. In the files of features those of the user lie in a struct of their
    own.
    """

    def __init__(self, folder: Path | str, features: Sequence[str]) -> None:
        self.folder = Path(folder)
        self.features = list(features)

    def keep(
        self,
        batch: str,
        log: pd.DataFrame,
        data: Arrays,
        ids: pd.DataFrame | None = None,
    ) -> None:
        """Write one batch of n rows.

        log : as `replay` gives it; data : the batch's Arrays; ids : identifiers, n rows
        """
        log = log.assign(time_s=data.time_s)
        if ids is not None:
            theirs = ids.rename(columns=beside(LOGGED, ids.columns))
            theirs = theirs.reset_index(drop=True)
            log = log.reset_index(drop=True)
            log = pd.concat([log, theirs], axis="columns")
        columns = [pa.array(x) for x in data.X.T]
        asked = {
            "position": pa.array(log["position"].to_numpy()),
            "weight": pa.array(data.weight),
            "features": pa.StructArray.from_arrays(columns, names=self.features),
        }
        replay.write(log, self._path("log", batch))
        replay.write(pa.table(asked), self._path("features", batch))

    def _path(self, what: str, batch: str) -> Path:
        return self.folder / what / f"{batch}.parquet"

    def log(self, batch: str) -> pd.DataFrame:
        """Return the batch's prediction log, our columns only."""
        path = self._path("log", batch)
        return pd.read_parquet(path, columns=list(LOGGED))

    def asked(self, batch: str) -> tuple[np.ndarray, np.ndarray]:
        """Return what the server was asked: X (n, d) float32 and weight (n,) float64."""
        table = pq.read_table(self._path("features", batch))
        columns = table["features"].combine_chunks().flatten()
        # a column with missing values is copied
        arrays = [column.to_numpy(zero_copy_only=False) for column in columns]
        X = np.column_stack(arrays).astype(np.float32)
        weight = table["weight"].to_numpy()
        return X, weight


def alert_band(budget: float, weight: np.ndarray) -> tuple[float, float]:
    """Return the alert rates, low and high, between which 95 % of batches with this budget lie.

    `weight` (n,) makes n effective.
    """
    n = effective_size(weight)
    tails = [(1 - BAND) / 2, (1 + BAND) / 2]
    n_alerts = binom.ppf(tails, round(n), budget)
    low, high = n_alerts / n
    return float(low), float(high)


def look(
    stream: Stream,
    batch: str,
    reference: Reference,
    alert_budget: float,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Look at one batch without labels.

    Parameters
    ----------
    reference : the transactions that the champion was made from, with their scores
    alert_budget : share of transactions that people can review

    Returns
    -------
    figures : dict of the batch's size, alert rate and band, latency, and what was refused or
        missing
    table : DataFrame, a row a feature and one for the score; see `drift.Reference.compare`
    """
    log = stream.log(batch)
    X, weight = stream.asked(batch)
    share = weight / weight.sum()
    low, high = alert_band(alert_budget, weight)
    versions = set(log["model_version"])
    versions.discard("")  # of a row that was refused
    figures = {
        "batch": batch,
        "n": len(log),
        "weight": float(weight.sum()),
        "start_s": float(log["time_s"].iloc[0]),
        "end_s": float(log["time_s"].iloc[-1]),
        "model_version": ", ".join(sorted(versions)),
        "n_alerts": float(weight @ log["alert"]),
        "alert_rate": float(share @ log["alert"]),
        "alert_low": low,
        "alert_high": high,
        "latency_p50_ms": float(log["latency_ms"].median()),
        "latency_p99_ms": float(log["latency_ms"].quantile(0.99)),
        "share_missing": float(share @ np.isnan(X).mean(axis=1)),
    }
    figures |= replay.count(log, len(log))
    table = reference.compare(
        X,
        weight,
        log["time_s"].to_numpy(),
        log["anomaly_score"].to_numpy(),
        scored=log["status"].to_numpy() == 200,
    )
    flagged = list(table.index[table["flagged"]])
    figures["level"] = reference.verdict.level
    figures["note"] = reference.verdict.note
    figures["score_drifted"] = reference.score in flagged
    figures["drifted"] = [name for name in flagged if name != reference.score]
    columns = reference.verdict.columns
    figures["moved"] = {c.name: c.in_words for c in columns if c.flagged and c.in_words}
    figures["n_significant"] = len(reference.verdict.significant)
    figures["flags"] = [asdict(c) for c in columns if c.flagged]
    figures["persistent"] = list(table.index[table["loud"]])
    return figures, table


class Estimator:
    """Which share of frauds the alerts catch, guessed without labels of the batch.

    On older, labelled transactions an isotonic regression learns how likely fraud is at each score;
    sums of these likelihoods over alerts and over all rows stand for frauds. It knows only the
    frauds of the past: a new kind that scores low is not in the guess.

    Parameters
    ----------
    score, weight : (n,) float64, higher = more anomalous
    y : (n,) int, 1 = fraud, 0 = genuine, -1 = not known
    """

    def __init__(
        self,
        score: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray,
    ) -> None:
        self.model: IsotonicRegression | None = None
        is_used = (y != UNLABELLED) & (weight > 0)
        if is_used.any():
            self.model = IsotonicRegression(out_of_bounds="clip")
            self.model.fit(score[is_used], y[is_used], sample_weight=weight[is_used])

    def n_frauds(self, score: np.ndarray, weight: np.ndarray) -> float:
        """Return the expected weight of frauds among rows with scores and weights (n,); 0 where no
        label has been known.
        """
        if self.model is None:
            return 0.0
        return float(self.model.predict(score) @ weight)

    def recall(self, log: pd.DataFrame, weight: np.ndarray) -> float | None:
        """Return the estimated recall of a batch's alerts; `weight` is (n,), a row of the log each.

        None where no fraud is expected, or no label has been known.
        """
        if self.model is None:
            return None
        is_scored = log["anomaly_score"].notna().to_numpy()
        score = log["anomaly_score"][is_scored]
        likelihood = self.model.predict(score)
        expected = likelihood * weight[is_scored]
        if not expected.sum() > 0:
            return None
        caught = expected @ log["alert"][is_scored]
        return float(caught / expected.sum())


class Frauds:
    """Watches what frauds look like, as far as labels are known.

    A new kind of fraud shows here before anywhere else. The latest frauds are held against those of
    the past. A new kind is strange in a few features at once, each of them hardly significant among
    a dozen frauds: the statistic is the sum of the N_JOINT largest squared Kolmogorov-Smirnov
    distances (a truncated product as of Dudbridge and Koeleman, Genet. Epidemiol. 2003, on the
    statistics themselves), and shuffling old and new tells how often chance alone gets as far.
    Unweighted: samples of transactions keep their frauds.

    Parameters
    ----------
    names : of the features (d)
    past : Arrays of the labelled transactions to compare with
    apart_s : of frauds within so many seconds, which are often one attack, the first counts
    seed : of the shuffles
    """

    def __init__(
        self,
        names: Sequence[str],
        past: Arrays,
        apart_s: float = APART_S,
        seed: int = 0,
    ) -> None:
        self.names = list(names)
        self.apart_s = apart_s
        self.seed = seed
        instants = np.unique(past.time_s)
        steps = np.diff(instants)
        # days, say: nobody knows what lies apart
        self.is_coarse = bool(steps.size) and np.median(steps) > apart_s
        self.old = self._first_of_each(past)

    def _first_of_each(self, data: Arrays) -> np.ndarray:
        """Return the features of one fraud of each attack, (n, d), in time order."""
        frauds = data.take(data.y == 1)
        if self.is_coarse:
            return frauds.X
        attack = frauds.time_s // self.apart_s
        _, first = np.unique(attack, return_index=True)
        return frauds.X[first]

    def look(self, known: Arrays) -> list[str]:
        """Return the features in which the latest frauds differ most, if they differ.

        known : the stream, as far as it is labelled
        """
        new = self._first_of_each(known)[-N_RECENT:]
        if len(new) < N_NEEDED or not len(self.old):
            return []
        frauds = np.concatenate([new, self.old])
        distance = self._distances(frauds, len(new))
        ascending = np.sort(distance**2, axis=1)
        largest = ascending[:, -N_JOINT:]
        joint = largest.sum(axis=1)
        p_value = np.mean(joint >= joint[0])
        if p_value > RATE:
            return []
        actual = distance[0]
        p_values = np.mean(distance >= actual, axis=0)
        most_first = np.argsort(-actual, kind="stable")
        first, *others = most_first[:N_JOINT]
        # the largest is part of what was found, even if it is not clear on its own
        named = [first]
        named += [j for j in others if p_values[j] <= RATE]
        return [self.names[j] for j in named]

    def _distances(self, X: np.ndarray, n_new: int) -> np.ndarray:
        """Return distances (N_SHUFFLES, d) of the first `n_new` rows of X (n, d) to the rest.

        The first row of the result is as they are, the others with rows shuffled. A row without a
        value of a feature counts as its smallest.
        """
        rng = np.random.default_rng(self.seed)
        n = len(X)
        orders = [np.arange(n)]
        for _ in range(N_SHUFFLES - 1):
            orders.append(rng.permutation(n))
        # steps of the difference of the two distribution functions, (N_SHUFFLES, n)
        step = np.where(np.array(orders) < n_new, 1 / n_new, -1 / (n - n_new))
        X = np.where(np.isfinite(X), X, -np.inf)
        # recorded only since: that says nothing about fraud
        is_new_feature = ~np.isfinite(X[n_new:]).any(axis=0)
        X[:, is_new_feature] = 0.0
        distance = np.empty((N_SHUFFLES, X.shape[1]))
        for j, x in enumerate(X.T):
            order = np.argsort(x, kind="stable")
            ascending = x[order]
            is_last = np.append(ascending[1:] != ascending[:-1], True)  # of equal values
            gap = step[:, order].cumsum(axis=1)
            gap = gap[:, is_last]
            distance[:, j] = np.abs(gap).max(axis=1)
        return distance


def injected(split: Split) -> list[simulation.Drift]:
    """Return the drifts that a simulated split is known to hold; none for real data.

    Each names the features that models see: those of its columns, and behind them those that the
    recipe derives from its columns. Drifts of none of them are left out.
    """
    if not split.drifts_on_purpose:
        return []
    drifts = []
    for drift in simulators.of(split.dataset).drifts:
        features = _affected(split.dataset, drift.features)
        if features:
            drifts.append(replace(drift, features=features))
    return drifts


def _affected(dataset: Dataset, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the features that are among the columns, and those that are derived from them."""
    features = [column for column in columns if column in dataset.features]
    derived = [] if dataset.recipe is None else dataset.recipe.in_order()
    moved = set(columns)
    for feature in derived:
        if moved & _inputs(feature):
            moved.add(feature.name)
            features.append(feature.name)
    return tuple(dict.fromkeys(features))


def _inputs(feature: object) -> set[str]:
    """Return the columns and features that a derived feature is made of."""
    found = set(getattr(feature, "columns", ()))
    for role in ("column", "entity", "left", "right"):
        found.add(getattr(feature, role, None))
    return {name for name in found if name is not None}


def scorecard(
    steps: Sequence[dict[str, Any]], drifts: Sequence[simulation.Drift]
) -> dict[str, Any]:
    """Return which known drifts were noticed, and what was flagged without cause.

    `noticed`: a dict a drift: what, features, starts (batch, from 1 on), noticed (batch, or None;
    one beyond the last where only the last labels told) and delay (batches);
    `n_false`: how often a feature was flagged in a batch although nothing had happened to it yet.
    """
    noticed = []
    moved_from: dict[str, int] = {}  # feature -> the first batch in which it has drifted
    for d in drifts:
        if d.what == "fraud":
            told = [step["fraud_drifted"] for step in steps]
            told.append(steps[-1].get("fraud_drifted_after", []))
        else:
            told = [step["drifted"] for step in steps]
            moved_from |= dict.fromkeys(d.features, d.first_batch)
        first = _first_told(told, d)
        names = ", ".join(d.features[:N_NAMED])
        if len(d.features) > N_NAMED:
            names += f" and {len(d.features) - N_NAMED} more"
        found = {
            "what": d.what,
            "features": names,
            "starts": d.first_batch,
            "noticed": first,
            "delay": None if first is None else first - d.first_batch,
        }
        noticed.append(found)
    n_false = 0
    for number, step in enumerate(steps, 1):
        for name in step["drifted"]:
            first = moved_from.get(name, np.inf)
            if number < first:
                n_false += 1
    return {"noticed": noticed, "n_false": n_false}


def _first_told(told: Sequence[Sequence[str]], drift: simulation.Drift) -> int | None:
    """Return the first batch (from 1 on) since the drift that names one of its features."""
    for number, names in enumerate(told, 1):
        if number >= drift.first_batch and set(drift.features) & set(names):
            return number
    return None


def realise(
    log: pd.DataFrame,
    data: Arrays,
    options: metrics.Options,
) -> dict[str, Any]:
    """Return what labels say of a batch or several, once they are known.

    Parameters
    ----------
    log : the rows' log
    data : their Arrays; where y is -1 nothing is known, and such a row is in none of the figures
    options : of the figures; `headline_budget` is the alert budget

    Returns
    -------
    dict
        `n_labelled` rows; the metrics of `SHOWN`, as figures {"value", "low", "high"}, of the
        ranking; of the alerts as they were fired `recall`, a figure, and the weighted sums
        `n_frauds`, `n_caught`, `money` and `money_caught`; and what people catch of it,
        `…_in_time`, who review alerts as they arrive until the budget of the rows is used up.
    """
    # a row without a score ranks last
    score = log["anomaly_score"].fillna(-1.0).to_numpy()
    found = metrics.evaluate(data, {"it": score}, options)["it"]
    fraud = np.where(data.y == 1, data.weight, 0.0)
    money = np.zeros(len(fraud))
    if data.amount is not None:
        # a negative amount, a refund, is no loss
        money = fraud * np.maximum(data.amount, 0.0)
    alert = log["alert"].to_numpy(np.float64)
    reviewed = _reviewed(alert, data.weight, options.headline_budget)
    n_caught = float(fraud @ alert)
    recall = {"value": None, "low": None, "high": None}
    n_frauds = float(fraud.sum())
    if n_frauds > 0:
        recall = intervals.clopper_pearson(n_caught / n_frauds, effective_size(fraud))
    return {metric: found[metric] for metric in SHOWN} | {
        "n_labelled": int(np.count_nonzero(data.y != UNLABELLED)),
        "recall": recall,
        "n_frauds": n_frauds,
        "n_caught": n_caught,
        "money": float(money.sum()),
        "money_caught": float(money @ alert),
        "n_caught_in_time": float(fraud @ reviewed),
        "money_caught_in_time": float(money @ reviewed),
    }


def _reviewed(
    alert: np.ndarray,
    weight: np.ndarray,
    alert_budget: float,
) -> np.ndarray:
    """Return which part of each alert (n,) is reviewed in time, 0 to 1.

    Alerts are reviewed as they arrive until the budget is used up, which may be within a row.
    """
    alerted = weight * alert
    up_to_here = np.cumsum(alerted)
    before = up_to_here - alerted
    budget = alert_budget * weight.sum()
    left = np.maximum(budget - before, 0.0)
    part = np.divide(left, weight, out=np.zeros_like(left), where=weight > 0)
    return alert * np.minimum(part, 1.0)


def totals(steps: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return sums over batches, as labels will have told.

    Policies that fire different numbers of alerts compare by `…_in_time`: the same number of
    reviews for each.
    """
    sums = {"n_alerts": sum(step["n_alerts"] for step in steps)}
    for kind in SUMS:
        sums[kind] = sum(step["realised"][kind] for step in steps)
    return sums
