"""Hold a table of scores, of a week say, against what validation promised, chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import binom

from lib.bundle.bundle import Bundle
from lib.data.datasets import Arrays
from lib.detectors.sampling import effective_size
from lib.evaluation import intervals
from lib.evaluation.at_threshold import SHARES, Tally, Worth
from lib.evaluation.figures import Figure
from lib.production.monitoring import Estimator
from lib.production.verdict import Evidence, judge

BAND = 0.99  # of tables like validation have an alert rate within the band
OF_MANIFEST = {
    "precision": "precision_at_budget",
    "recall": "recall_at_budget",
    "amount_recall": "amount_recall_at_budget",
}


@dataclass(frozen=True)
class Promise:
    """What validation says of a model at the threshold in use.

    Parameters
    ----------
    alert_rate : share of validation's weight that is alerts
    n : effective number of transactions that say so; infinite where it is the budget that was asked
    clustering : how many alerts of validation come together: the variance of its alert rate over
        blocks of time, as a multiple of the binomial one; at least 1
    figures : `precision`, `recall`, `amount_recall`, as far as they are known
    estimator : of precision without labels
    block_s : length of the blocks of time
    known_s : first and last second of what the model was fitted on and its threshold was set by
    """

    alert_rate: float
    n: float = np.inf
    clustering: float = 1.0
    figures: Mapping[str, Figure] = field(default_factory=dict)
    estimator: Estimator | None = None
    block_s: float = intervals.BLOCK_S
    known_s: tuple[float, float] | None = None

    @classmethod
    def of_validation(cls, model: Bundle, data: Arrays, seed: int = 0) -> Promise:
        """Return what the transactions of validation say of a model that has a threshold."""
        score = model.anomaly_score(data.X)
        alert = (score >= model.threshold).astype(np.int8)
        block_s = intervals.block_length(data.time_s)
        tally = Tally(block_s)
        tally.add(data, alert)
        worth = tally.worth(seed)
        n = effective_size(data.weight)
        rate = float(data.weight @ alert / data.weight.sum())
        return cls(
            # none of n: less than one, and nobody knows how much less
            alert_rate=max(rate, 0.5 / n),
            n=n,
            clustering=_clustering(data, alert, block_s),
            figures={} if worth is None else _shares(worth),
            estimator=Estimator(score, data.y, data.weight),
            block_s=block_s,
            known_s=_known_s(model, data.time_s),
        )

    @classmethod
    def of_manifest(cls, model: Bundle) -> Promise:
        """Return what the bundle itself says, where the transactions of validation are gone."""
        threshold = model.manifest.get("threshold", {})
        known = model.manifest.get("metrics", {}).get("validation", {})
        figures = {}
        # figures at a budget are those of the threshold only if the budget has set it
        if threshold.get("rule") == "alert_budget":
            figures = {name: known[key] for name, key in OF_MANIFEST.items() if key in known}
        rate = threshold.get("alert_budget") or 1 - model.threshold
        return cls(alert_rate=rate, figures=figures, known_s=_known_s(model))

    def band(self, n: float) -> tuple[float, float]:
        """Return between which alert rates `BAND` of tables with n effective transactions lie.

        Both the table and validation are samples, and alerts come in clusters in both.
        """
        size = 1 / (self.clustering * (1 / n + 1 / self.n))
        tails = [(1 - BAND) / 2, (1 + BAND) / 2]
        low, high = binom.ppf(tails, max(round(size), 1), self.alert_rate) / size
        return float(low), float(high)


def _known_s(model: Bundle, more: np.ndarray | None = None) -> tuple[float, float] | None:
    """Return the first and last second that a model knows, by its manifest and times `more`."""
    fit = model.manifest.get("fit", {})
    if fit.get("time") == "rows" or not {"start_s", "end_s"} <= set(fit):
        return None  # every table begins with row 0
    end_s = fit["end_s"] if more is None else max(fit["end_s"], float(more.max()))
    return fit["start_s"], end_s


def _shares(worth: Worth) -> dict[str, Figure]:
    return {name: getattr(worth, name) for name in SHARES}


def _clustering(data: Arrays, alert: np.ndarray, block_s: float) -> float:
    """Return the variance of the alert rate over blocks of time, relative to a binomial one."""
    block = intervals.blocks(data.time_s, block_s)
    alerts = np.bincount(block, data.weight * alert)
    weight = np.bincount(block, data.weight)
    rate = alerts.sum() / weight.sum()
    k = len(weight)
    binomial = rate * (1 - rate) / effective_size(data.weight)
    if k < 2 or not binomial > 0:
        return 1.0
    residual = alerts - rate * weight
    variance = (residual**2).sum() * k / (k - 1) / weight.sum() ** 2
    return max(1.0, float(variance / binomial))


class Week:
    """Adds up what is known of a table.

    Parameters
    ----------
    promise : what to expect of the model
    """

    def __init__(self, promise: Promise) -> None:
        self.promise = promise
        self.n = self.n_alerts = self.n_known = 0
        self.weight = self.alerts = 0.0
        self.start_s, self.end_s = np.inf, -np.inf
        self._squares = self._alert_squares = self._likely = 0.0
        self._tally = Tally(promise.block_s)

    def add(self, data: Arrays, score: np.ndarray, alert: np.ndarray) -> None:
        """Look at some rows, their anomaly scores and alerts, (n,) each."""
        if not len(score):
            return
        self.n += len(score)
        self.weight += float(data.weight.sum())
        self._squares += float((data.weight**2).sum())
        self.start_s = min(self.start_s, float(data.time_s.min()))
        self.end_s = max(self.end_s, float(data.time_s.max()))
        if self.promise.known_s is not None:
            first, last = self.promise.known_s
            self.n_known += int(((data.time_s >= first) & (data.time_s <= last)).sum())
        rows = np.flatnonzero(alert)
        self.n_alerts += len(rows)
        of_alerts = data.weight[rows]
        self.alerts += float(of_alerts.sum())
        self._alert_squares += float((of_alerts**2).sum())
        estimator = self.promise.estimator
        if estimator is not None and len(rows):
            self._likely += estimator.n_frauds(score[rows], of_alerts)
        self._tally.add(data, alert)

    @property
    def alert_rate(self) -> float:
        """Share of the weight that is alerts."""
        return self.alerts / self.weight

    def worth(self, seed: int = 0) -> Worth | None:
        """Return what labels say of the alerts; None where there are none."""
        return self._tally.worth(seed)

    def report(self, drift: Mapping[str, Any] | None, score: str, seed: int = 0) -> dict[str, Any]:
        """Return the verdict and what it rests on, as JSON has it.

        Parameters
        ----------
        drift, score : see `evidence`
        seed : of resamples
        """
        worth = self.worth(seed)
        evidence = self.evidence(worth, drift, score)
        return {
            "alert_band": [evidence.alert_low, evidence.alert_high],
            "expected_alert_rate": evidence.expected_rate,
            "n_known": evidence.n_known,
            "promised": dict(evidence.promised),
            "realised": None if worth is None else worth.to_dict(),
            "estimated_precision": evidence.estimated_precision,
            "drifted": None if evidence.drifted is None else list(evidence.drifted),
            "score_drifted": evidence.score_drifted,
            "verdict": judge(evidence).to_dict(),
        }

    def evidence(
        self,
        worth: Worth | None,
        drift: Mapping[str, Any] | None,
        score: str,
    ) -> Evidence:
        """Return what a verdict is made of.

        Parameters
        ----------
        worth : as `worth` gives it
        drift : of the table, as `lib.production.drift.Verdict.to_dict` has it; None: nobody looked
        score : name of the score's column there
        """
        low, high = self.promise.band(self.weight**2 / self._squares)
        flagged: Sequence[str] | None = None
        n_features = 0
        if drift is not None:
            flagged = [column["name"] for column in drift["columns"] if column["flagged"]]
            n_features = len(drift["columns"]) - 1
        return Evidence(
            alert_rate=self.alert_rate,
            alert_low=low,
            alert_high=high,
            expected_rate=self.promise.alert_rate,
            n=self.n,
            n_alerts=self.n_alerts,
            is_weighted=not np.isclose(self.weight, self.n),
            n_known=self.n_known,
            is_labelled=worth is not None and worth.n_labelled == self.n,
            promised=self.promise.figures,
            realised={} if worth is None else _shares(worth),
            estimated_precision=self._estimated(),
            drifted=None if flagged is None else [name for name in flagged if name != score],
            score_drifted=flagged is not None and score in flagged,
            n_features=n_features,
        )

    def _estimated(self) -> Figure | None:
        """Return the precision that scores alone make likely; None where nothing can be said."""
        estimator = self.promise.estimator
        if estimator is None or estimator.model is None or not self.alerts > 0:
            return None
        share = self._likely / self.alerts
        return intervals.clopper_pearson(share, self.alerts**2 / self._alert_squares)
