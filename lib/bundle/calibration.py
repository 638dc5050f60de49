"""Raw scores of any detector to anomaly scores in [0, 1], without labels. numpy only: the server
uses it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np

N_TAIL, N_BODY = 260, 100  # knots above and below the upper tenth of the weight
TAIL_FOLD = 10.0  # the tail's scale is read between 10 p and p of the weight


def survival(raw, weight):
    """Share of weight that scores as high, at each distinct score.

    Parameters
    ----------
    raw : (n,) float, higher = more anomalous.
    weight : (n,) float, not negative; rows of weight 0 are left out.

    Returns
    -------
    scores : (k,) float64, distinct, ascending.
    share : (k,) float64, share of the weight with raw >= scores[i]; falls from 1.

    Raises
    ------
    ValueError : no weight, a score or weight that is not finite, a negative weight, lengths that
        differ.
    """
    raw, weight = np.asarray(raw, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    if raw.ndim != 1 or raw.shape != weight.shape:
        raise ValueError(f"raw scores and weights differ in shape: {raw.shape} and {weight.shape}")
    for what, values in (("raw score", raw), ("weight", weight)):
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise ValueError(
                f"{what} of row {bad[0]} is {values[bad[0]]}; a finite number is needed"
            )
    if (weight < 0).any():
        row = int(np.flatnonzero(weight < 0)[0])
        raise ValueError(f"weight of row {row} is negative: {weight[row]}")
    scores, group = np.unique(raw[weight > 0], return_inverse=True)
    if not scores.size:
        raise ValueError("no row has any weight; there is nothing to learn a scale from")
    mass = np.bincount(group, weights=weight[weight > 0], minlength=scores.size)
    at_least = np.cumsum(mass[::-1])[::-1]
    return scores, at_least / at_least[0]


def threshold_for_budget(raw, weight, budget):
    """Return the smallest observed raw score at or above which at most `budget` of the weight lies.

    Parameters
    ----------
    raw, weight : (n,) float, higher = more anomalous; no label is needed.
    budget : share of the weight, 0 to 1.

    If even the highest score is shared by more than the budget, the next float above it: nobody is
    alerted.
    """
    scores, share = survival(raw, weight)
    within = np.flatnonzero(share <= budget * (1 + 1e-12))  # the sums of weights carry rounding
    return float(scores[within[0]]) if within.size else float(np.nextafter(scores[-1], np.inf))


@dataclass(frozen=True)
class Calibration:
    """Non-decreasing map from raw score to anomaly score.

    At a knot, anomaly_score is 1 - share of the fitted weight that scores as high, so 0.999 means
    that one transaction in a thousand does. Straight lines between knots; 0 below the first one;
    beyond the last one (q, with the share p left) 1 - p / (1 + (r - q) / s): a Lomax tail of shape
    1, which never reaches 1 before float64 does.

    Attributes
    ----------
    raw_score : (k,) float64, strictly ascending knots, dense in the upper tail.
    anomaly_score : (k,) float64 in [0, 1), strictly ascending.
    tail_scale : s above, > 0, in units of the raw score.
    """

    raw_score: np.ndarray
    anomaly_score: np.ndarray
    tail_scale: float

    @classmethod
    def fit(cls, raw, weight):
        """Learn from raw (n,), higher = more anomalous, and weight (n,) of all validation
        transactions.
        """
        scores, share = survival(raw, weight)
        wanted = np.concatenate(
            [np.geomspace(share[-1], 0.1, N_TAIL), np.linspace(0.1, 1.0, N_BODY)]
        )
        # share falls with the score: the lowest score whose share does not exceed the wanted one
        at = scores.size - np.searchsorted(
            share[::-1], np.append(wanted, 1.0) * (1 + 1e-12), side="right"
        )
        at = np.unique(np.clip(np.append(at, scores.size - 1), 0, scores.size - 1))
        knots, score = scores[at], 1.0 - share[at]
        keep = np.append(True, np.diff(score) > 0)  # weights too small for float64 to tell apart
        knots, score = knots[keep], score[keep]
        # The Lomax tail, followed backwards from q, passes through the share TAIL_FOLD * p at the
        # score `low`.
        left = 1.0 - score
        low = max(int(np.searchsorted(-left, -TAIL_FOLD * left[-1], side="right")) - 1, 0)
        fold = left[low] / left[-1]
        scale = (knots[-1] - knots[low]) * fold / (fold - 1.0) if fold > 1.0 else 1.0
        return cls(knots, score, float(scale))

    def apply(self, raw):
        """anomaly_score, float64 in [0, 1], of raw scores of any shape; NaN stays NaN."""
        raw = np.asarray(raw, dtype=np.float64)
        if raw.size == 1:
            return np.full(raw.shape, self._apply_one(raw.item()))
        q, p = self.raw_score, self.anomaly_score
        if q.size > 1:
            left = np.minimum(np.maximum(q.searchsorted(raw, side="right") - 1, 0), q.size - 2)
            start, low, high = q.take(left), p.take(left), p.take(left + 1)
            along = np.minimum(np.maximum((raw - start) / (q.take(left + 1) - start), 0.0), 1.0)
            body = np.minimum(low + along * (high - low), high)
            body = np.where(along >= 1, high, body)  # rounding would miss the knot by an ulp
        else:
            body = np.where(np.isnan(raw), raw, p[-1])
        beyond = raw > q[-1]
        if beyond.any():
            tail = 1.0 - (1.0 - p[-1]) / (1.0 + np.maximum(raw - q[-1], 0.0) / self.tail_scale)
            body = np.where(beyond, np.maximum(tail, p[-1]), body)
        return body

    def strangeness(self, raw):
        """-log(1 - anomaly_score) of raw scores (n,), float64 >= 0: -log of the share that scores
        as high.
        """
        raw, (q, share, slope) = np.asarray(raw, dtype=np.float64), self.lines
        at = self.raw_score[1:-1].searchsorted(raw, side="right")
        left = share[at] + (np.clip(raw, self.raw_score[0], self.raw_score[-1]) - q[at]) * slope[at]
        return np.log1p(np.maximum(raw - self.raw_score[-1], 0.0) / self.tail_scale) - np.log(left)

    @cached_property
    def lines(self):
        """Where each line between two knots begins: its raw score, the share left there, and its
        slope; (k - 1,).
        """
        q, share = self.raw_score, 1.0 - self.anomaly_score
        if q.size == 1:
            return q, share, np.zeros(1)
        return q[:-1], share[:-1], np.diff(share) / np.diff(q)

    def _apply_one(self, raw):
        """`apply` on one float, step by step the same: numpy takes twenty times as long for it."""
        q, p = self._lists
        if raw != raw:
            return raw
        if raw > q[-1]:
            return max(1.0 - (1.0 - p[-1]) / (1.0 + (raw - q[-1]) / self.tail_scale), p[-1])
        if len(q) == 1:
            return p[-1]
        left = min(max(bisect_right(q, raw) - 1, 0), len(q) - 2)
        along = max((raw - q[left]) / (q[left + 1] - q[left]), 0.0)
        return (
            p[left + 1]
            if along >= 1
            else min(p[left] + along * (p[left + 1] - p[left]), p[left + 1])
        )

    @cached_property
    def _lists(self):
        return self.raw_score.tolist(), self.anomaly_score.tolist()

    def to_dict(self):
        """As JSON-able lists; `from_dict` gives back the same floats."""
        return {
            "raw_score": self.raw_score.tolist(),
            "anomaly_score": self.anomaly_score.tolist(),
            "tail_scale": self.tail_scale,
        }

    @classmethod
    def from_dict(cls, values):
        """Read `to_dict`'s output; ValueError in a sentence if it is not a calibration."""
        try:
            raw = np.asarray(values["raw_score"], dtype=np.float64)
            score = np.asarray(values["anomaly_score"], dtype=np.float64)
            scale = float(values["tail_scale"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the calibration cannot be read: {error!r}") from error
        if raw.ndim != 1 or raw.shape != score.shape or not raw.size:
            raise ValueError(
                f"the calibration's knots differ in shape: {raw.shape} and {score.shape}"
            )
        if not (np.isfinite(raw).all() and (np.diff(raw) > 0).all()):
            raise ValueError("the calibration's raw scores do not rise from knot to knot")
        if not ((score >= 0).all() and (score <= 1).all() and (np.diff(score) >= 0).all()):
            raise ValueError(
                "the calibration's anomaly scores are not non-decreasing within [0, 1]"
            )
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"the calibration's tail_scale is {scale}; it must be above 0")
        return cls(raw, score, scale)
