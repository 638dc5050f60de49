"""What can be seen of a deployed model: at once, from the prediction log and the features; later,
with the labels.

Shares and rates count weight. Where the log has no score, because the server refused the row, the
row has been no alert and is ranked last.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import binom
from sklearn.isotonic import IsotonicRegression

from lib.data import simulation
from lib.data.columns import beside
from lib.data.datasets import UNLABELLED
from lib.detectors.sampling import effective_size
from lib.evaluation import intervals, metrics
from lib.production import replay

LOGGED = (*replay.COLUMNS, "time_s")  # our columns of a prediction log
APART_S = 60.0  # frauds nearer than that are often one attack, where blocks are of 600 s
BAND = 0.95  # of the alert rate that a budget makes likely
SHOWN = ("average_precision", "recall_at_budget", "precision_at_budget", "amount_recall_at_budget")


class Stream:
    """The folder in which a deployment leaves its log and, beside it, what it was asked; nothing
    here has labels.

    A log is for people, too: it has the identifiers under their own names, as far as none of ours
    is called like that (see :func:`lib.reporting.names.beside`). What is read back are our columns
    only. In the files of features those of the user lie in a struct of their own.
    """

    def __init__(self, folder, features):
        self.folder, self.features = Path(folder), list(features)

    def keep(self, batch, log, data, ids=None):
        """Write one batch: `log` as `replay` gives it, `data` the batch's Arrays, `ids` a frame of
        identifiers.
        """
        log = log.assign(time_s=data.time_s)
        if ids is not None:
            theirs = ids.rename(columns=beside(LOGGED, ids.columns)).reset_index(drop=True)
            log = pd.concat([log.reset_index(drop=True), theirs], axis="columns")
        features = pa.StructArray.from_arrays([pa.array(x) for x in data.X.T], names=self.features)
        position = pa.array(log["position"].to_numpy())
        asked = pa.table(
            {"position": position, "weight": pa.array(data.weight), "features": features}
        )
        replay.write(log, self.folder / "log" / f"{batch}.parquet")
        replay.write(asked, self.folder / "features" / f"{batch}.parquet")

    def log(self, batch):
        """The batch's prediction log -> DataFrame of our columns."""
        return pd.read_parquet(self.folder / "log" / f"{batch}.parquet", columns=list(LOGGED))

    def asked(self, batch):
        """What the server was asked -> X (n, d) float32, weight (n,) float64."""
        table = pq.read_table(self.folder / "features" / f"{batch}.parquet")
        columns = table["features"].combine_chunks().flatten()
        X = np.column_stack([column.to_numpy(zero_copy_only=False) for column in columns])
        return X.astype(np.float32), table["weight"].to_numpy()


def alert_band(budget, weight):
    """The alert rates, low and high, that 95 % of batches with this budget have; `weight` (n,)
    makes n effective.
    """
    n = effective_size(weight)
    low, high = binom.ppf([(1 - BAND) / 2, (1 + BAND) / 2], round(n), budget) / n
    return float(low), float(high)


def look(stream, batch, reference, alert_budget):
    """Look at one batch without labels.

    Parameters
    ----------
    stream : Stream
    reference : drift.Reference of the transactions that the champion was made from, with their
        scores
    alert_budget : share of transactions that people can review

    Returns
    -------
    figures : dict of the batch's size, alert rate and band, latency, and what was refused or
        missing
    table : DataFrame, a row a feature and one for the score; see `drift.Reference.compare`
    """
    log, (X, weight) = stream.log(batch), stream.asked(batch)
    share = weight / weight.sum()
    scored = log["status"].to_numpy() == 200
    low, high = alert_band(alert_budget, weight)
    figures = {
        "batch": batch,
        "n": len(log),
        "weight": float(weight.sum()),
        "start_s": float(log["time_s"].iloc[0]),
        "end_s": float(log["time_s"].iloc[-1]),
        "model_version": ", ".join(sorted(set(log["model_version"]) - {""})),
        "n_alerts": float(weight @ log["alert"]),
        "alert_rate": float(share @ log["alert"]),
        "alert_low": low,
        "alert_high": high,
        "latency_p50_ms": float(log["latency_ms"].median()),
        "latency_p99_ms": float(log["latency_ms"].quantile(0.99)),
        "share_missing": float(share @ np.isnan(X).mean(axis=1)),
    } | replay.count(log, len(log))
    table = reference.compare(
        X, weight, log["time_s"].to_numpy(), log["anomaly_score"].to_numpy(), scored
    )
    flagged = list(table.index[table["flagged"]])
    figures |= {
        "level": reference.verdict.level,
        "note": reference.verdict.note,
        "score_drifted": reference.score in flagged,
    }
    figures |= {
        "drifted": [name for name in flagged if name != reference.score],
        "persistent": list(table.index[table["loud"]]),
    }
    return figures, table


class Estimator:
    """Which share of frauds the alerts catch, guessed without labels of the batch.

    On older, labelled transactions an isotonic regression learns how likely fraud is at each score;
    sums of these likelihoods over alerts and over all rows stand for frauds. It knows only the
    frauds of the past: a new kind that scores low is not in the guess.
    """

    def __init__(self, score, y, weight):
        told, self.model = (y != UNLABELLED) & (weight > 0), None
        if told.any():
            self.model = IsotonicRegression(out_of_bounds="clip").fit(
                score[told], y[told], sample_weight=weight[told]
            )

    def recall(self, log, weight):
        """Return the estimated recall of a batch's alerts; `weight` is (n,), a row of the log each.

        None where no fraud is expected, or no label has been known.
        """
        if self.model is None:
            return None
        known = log["anomaly_score"].notna().to_numpy()
        expected = self.model.predict(log["anomaly_score"][known]) * weight[known]
        return (
            float(expected @ log["alert"][known] / expected.sum()) if expected.sum() > 0 else None
        )


class Frauds:
    """Watches what frauds look like, as far as labels are known: a new kind of fraud shows here
    before anywhere else.

    The latest frauds are held against those of the past. A new kind is strange in a few features at
    once, each of them hardly significant among a dozen frauds: the statistic is the sum of the
    `n_joint` largest squared Kolmogorov-Smirnov distances (a truncated product as of Dudbridge and
    Koeleman, Genet. Epidemiol. 2003, on the statistics themselves), and shuffling old and new tells
    how often chance alone gets as far. Of frauds within one minute (`apart_s`), which are often one
    attack, the first counts. Unweighted: samples of transactions keep their frauds.
    """

    def __init__(  # noqa: PLR0913 - the bands of a look
        self,
        names,
        past,
        *,
        n_recent=12,
        n_needed=5,
        n_joint=5,
        rate=0.03,
        n_shuffles=1000,
        seed=0,
        apart_s=60.0,
    ):
        self.names, self.n_recent, self.n_needed, self.apart_s = (
            list(names),
            n_recent,
            n_needed,
            apart_s,
        )
        self.n_joint, self.rate, self.n_shuffles, self.seed = n_joint, rate, n_shuffles, seed
        steps = np.diff(np.unique(past.time_s))
        # days, say: nobody knows what lies apart
        self.is_coarse = bool(steps.size) and np.median(steps) > apart_s
        self.old = self._first_of_each(past)

    def _first_of_each(self, data):
        frauds = data.take(data.y == 1)
        if self.is_coarse:
            return frauds.X
        return frauds.X[np.unique(frauds.time_s // self.apart_s, return_index=True)[1]]

    def look(self, known):
        """Features in which the latest frauds of the labelled stream `known` (Arrays) differ most,
        if they differ.
        """
        new = self._first_of_each(known)[-self.n_recent :]
        if len(new) < self.n_needed or not len(self.old):
            return []
        distance = self._distances(np.concatenate([new, self.old]), len(new))
        joint = np.sort(distance**2, axis=1)[:, -self.n_joint :].sum(axis=1)
        if np.mean(joint >= joint[0]) > self.rate:
            return []
        first, *others = np.argsort(-distance[0], kind="stable")[: self.n_joint]
        clear = [j for j in others if np.mean(distance[:, j] >= distance[0, j]) <= self.rate]
        return [self.names[j] for j in (first, *clear)]

    def _distances(self, X, n_new):
        """Kolmogorov-Smirnov distances (n_shuffles, features) of the first `n_new` rows to the
        rest, then shuffled.

        Rows without a value of a feature count as its smallest.
        """
        rng, n = np.random.default_rng(self.seed), len(X)
        shuffled = [np.arange(n), *(rng.permutation(n) for _ in range(self.n_shuffles - 1))]
        step = np.where(np.array(shuffled) < n_new, 1 / n_new, -1 / (n - n_new))  # (n_shuffles, n)
        X = np.where(np.isfinite(X), X, -np.inf)
        # recorded only since: that says nothing about fraud
        X[:, ~np.isfinite(X[n_new:]).any(axis=0)] = 0.0
        distance = np.empty((self.n_shuffles, X.shape[1]))
        for j, x in enumerate(X.T):
            order = np.argsort(x, kind="stable")
            is_last = np.append(x[order][1:] != x[order][:-1], True)  # of equal values
            distance[:, j] = np.abs(step[:, order].cumsum(axis=1)[:, is_last]).max(axis=1)
        return distance


def injected(split):
    """The drifts that a simulated split is known to hold -> list of lib.data.simulation.Drift;
    empty for real data.
    """
    known = split.source == "simulated" and (split.dataset.simulation or {}).get("drift", True)
    return list(simulation.DRIFTS) if known else []


def scorecard(steps, drifts):
    """Which known drifts were noticed, and what was flagged without cause -> dict.

    `noticed`: a dict a drift: what, features, starts (batch, from 1 on), noticed (batch, or None;
    one beyond the last where only the last labels told) and delay (batches);
    `n_false`: how often a feature was flagged in a batch although nothing had happened to it yet.
    """
    noticed, moved = [], {}
    for d in drifts:
        key = "fraud_drifted" if d.what == "fraud" else "drifted"
        told = [step[key] for step in steps] + (
            [steps[-1].get("fraud_drifted_after", [])] if d.what == "fraud" else []
        )
        flagged = (i for i, names in enumerate(told, 1) if set(d.features) & set(names))
        first = next((i for i in flagged if i >= d.first_batch), None)
        found = {
            "what": d.what,
            "features": ", ".join(d.features),
            "starts": d.first_batch,
            "noticed": first,
        }
        noticed.append(found | {"delay": None if first is None else first - d.first_batch})
        moved |= {} if d.what == "fraud" else dict.fromkeys(d.features, d.first_batch)
    n_false = sum(
        i < moved.get(name, np.inf) for i, step in enumerate(steps, 1) for name in step["drifted"]
    )
    return {"noticed": noticed, "n_false": int(n_false)}


def realise(log, data, alert_budget, block_s=0.0, n_resamples=200, seed=0):
    """What labels say of a batch or several, once they are known.

    log : the rows' log; data : their Arrays; where y is -1 nothing is known, and such a row is in
        none of the figures
    -> dict: `n_labelled` rows; the metrics of `SHOWN`, as figures {"value", "low", "high"}, of the
    ranking; of the alerts as they were fired `recall`, a figure, and the weighted sums `n_frauds`,
    `n_caught`, `money` and `money_caught`; and what people catch of it, `…_in_time`, who review
    alerts as they arrive until the budget of the rows is used up.
    """
    score = log["anomaly_score"].fillna(-1.0).to_numpy()
    options = metrics.Options(
        budgets=(),
        headline_budget=alert_budget,
        block_s=block_s,
        n_resamples=n_resamples,
        seed=seed,
    )
    found = metrics.evaluate(data, {"it": score}, options)["it"]
    fraud = data.weight * (data.y == 1)
    money = fraud * (0.0 if data.amount is None else np.maximum(data.amount, 0.0))
    alert = log["alert"].to_numpy(np.float64)
    before = np.cumsum(data.weight * alert) - data.weight * alert
    # of the reviewers' time; it may end within a row
    left = np.maximum(alert_budget * data.weight.sum() - before, 0.0)
    reviewed = alert * np.minimum(
        np.divide(left, data.weight, out=np.zeros_like(left), where=data.weight > 0), 1.0
    )
    caught, n_effective = float(fraud @ alert), effective_size(fraud)
    recall = {"value": None, "low": None, "high": None}
    if fraud.sum() > 0:
        recall = intervals.clopper_pearson(caught / fraud.sum(), n_effective)
    return {metric: found[metric] for metric in SHOWN} | {
        "n_labelled": int(np.count_nonzero(data.y != UNLABELLED)),
        "recall": recall,
        "n_frauds": float(fraud.sum()),
        "n_caught": caught,
        "money": float(money.sum()),
        "money_caught": float(money @ alert),
        "n_caught_in_time": float(fraud @ reviewed),
        "money_caught_in_time": float(money @ reviewed),
    }


def totals(steps):
    """Sums over batches, as labels will have told -> dict.

    Policies that fire different numbers of alerts compare by `…_in_time`: the same number of
    reviews for each.
    """
    kinds = (
        "n_frauds",
        "money",
        "n_caught",
        "money_caught",
        "n_caught_in_time",
        "money_caught_in_time",
    )
    sums = {kind: sum(step["realised"][kind] for step in steps) for kind in kinds}
    return {"n_alerts": sum(step["n_alerts"] for step in steps)} | sums
