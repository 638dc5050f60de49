"""Raw scores of any detector to anomaly scores in [0, 1], without labels.

numpy only: the server uses it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_TAIL, N_BODY = 260, 100  # knots above and below the upper tenth of the weight
TAIL_FOLD = 10.0  # the tail's scale is read between 10 p and p of the weight
ROUNDING = 1e-12  # relative; sums of weights carry it


def survival(
    raw: ArrayLike,
    weight: ArrayLike,
) -> tuple[NDArray, NDArray]:
    """Return the share of weight that scores as high, at each distinct score.

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
    raw = np.asarray(raw, dtype=np.float64)
    weight = np.asarray(weight, dtype=np.float64)
    _check_weighted(raw, weight)
    has_weight = weight > 0
    scores, group = np.unique(raw[has_weight], return_inverse=True)
    if not scores.size:
        raise ValueError("no row has any weight; there is nothing to learn a scale from")
    mass = np.bincount(
        group,
        weights=weight[has_weight],
        minlength=scores.size,
    )
    from_the_top = np.cumsum(mass[::-1])
    at_least = from_the_top[::-1]
    return scores, at_least / at_least[0]


def _check_weighted(
    raw: NDArray,
    weight: NDArray,
) -> None:
    if raw.ndim != 1 or raw.shape != weight.shape:
        raise ValueError(f"raw scores and weights differ in shape: {raw.shape} and {weight.shape}")
    _check_finite("raw score", raw)
    _check_finite("weight", weight)
    negative = np.flatnonzero(weight < 0)
    if negative.size:
        row = negative[0]
        raise ValueError(f"weight of row {row} is negative: {weight[row]}")


def _check_finite(what: str, values: NDArray) -> None:
    odd = np.flatnonzero(~np.isfinite(values))
    if odd.size:
        row = odd[0]
        raise ValueError(f"{what} of row {row} is {values[row]}; a finite number is needed")


def threshold_for_budget(
    raw: ArrayLike,
    weight: ArrayLike,
    budget: float,
) -> float:
    """Return the smallest observed raw score at or above which at most `budget` of the weight lies.

    Parameters
    ----------
    raw, weight : (n,) float, higher = more anomalous; no label is needed.
    budget : share of the weight, 0 to 1.

    If even the highest score is shared by more than the budget, the next float above it: nobody is
    alerted.
    """
    scores, share = survival(raw, weight)
    allowed = budget * (1 + ROUNDING)
    within = np.flatnonzero(share <= allowed)
    if not within.size:
        above_all = np.nextafter(scores[-1], np.inf)
        return float(above_all)
    lowest = within[0]
    return float(scores[lowest])


class Lines(NamedTuple):
    """Where each of the k - 1 lines between two knots begins.

    In terms of the share that scores as high, which falls from knot to knot.
    """

    raw_score: NDArray
    share: NDArray
    slope: NDArray


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
    def fit(
        cls,
        raw: ArrayLike,
        weight: ArrayLike,
    ) -> Calibration:
        """Learn from raw (n,), higher = more anomalous, and weight (n,) of all of validation."""
        scores, share = survival(raw, weight)
        knots, score = _knots(scores, share)
        return cls(knots, score, _tail_scale(knots, score))

    def apply(self, raw: ArrayLike) -> NDArray:
        """Return the anomaly score, float64 in [0, 1], of raw scores of any shape; NaN stays."""
        raw = np.asarray(raw, dtype=np.float64)
        if raw.size == 1:
            score = self._apply_one(raw.item())
            return np.full(raw.shape, score)
        score = self._between_knots(raw)
        beyond = raw > self.raw_score[-1]
        if beyond.any():
            score = np.where(beyond, self._beyond_knots(raw), score)
        return score

    def _between_knots(self, raw: NDArray) -> NDArray:
        q = self.raw_score
        p = self.anomaly_score
        if q.size == 1:
            return np.where(np.isnan(raw), raw, p[-1])
        left = q.searchsorted(raw, side="right") - 1
        left = np.maximum(left, 0)
        left = np.minimum(left, q.size - 2)
        right = left + 1
        start = q.take(left)
        end = q.take(right)
        low = p.take(left)
        high = p.take(right)
        along = (raw - start) / (end - start)
        along = np.maximum(along, 0.0)
        along = np.minimum(along, 1.0)
        score = low + along * (high - low)
        score = np.minimum(score, high)
        return np.where(along >= 1, high, score)  # rounding would miss the knot by an ulp

    def _beyond_knots(self, raw: NDArray) -> NDArray:
        last = self.anomaly_score[-1]
        end = self.raw_score[-1]
        distance = np.maximum(raw - end, 0.0)
        fall = 1.0 + distance / self.tail_scale
        tail = 1.0 - (1.0 - last) / fall
        return np.maximum(tail, last)

    def strangeness(self, raw: ArrayLike) -> NDArray:
        """Return -log of the share that scores as high: -log(1 - anomaly_score), float64 >= 0.

        raw : (n,) raw scores
        """
        raw = np.asarray(raw, dtype=np.float64)
        q = self.raw_score
        first = q[0]
        last = q[-1]
        inner = q[1:-1]
        at = inner.searchsorted(raw, side="right")
        start, share, slope = self.lines
        between = np.clip(raw, first, last)
        along = between - start[at]
        left = share[at] + along * slope[at]
        distance = np.maximum(raw - last, 0.0)
        beyond = np.log1p(distance / self.tail_scale)
        return beyond - np.log(left)

    @cached_property
    def lines(self) -> Lines:
        """The lines between the knots; one that is level where there is one knot."""
        q = self.raw_score
        share = 1.0 - self.anomaly_score
        if q.size == 1:
            return Lines(q, share, np.zeros(1))
        slope = np.diff(share) / np.diff(q)
        return Lines(q[:-1], share[:-1], slope)

    def _apply_one(self, raw: float) -> float:
        """Apply to one float, step by step the same: numpy takes twenty times as long for it."""
        q, p = self._lists
        if raw != raw:
            return raw
        last = p[-1]
        if raw > q[-1]:
            fall = 1.0 + (raw - q[-1]) / self.tail_scale
            tail = 1.0 - (1.0 - last) / fall
            return max(tail, last)
        if len(q) == 1:
            return last
        left = bisect_right(q, raw) - 1
        left = max(left, 0)
        left = min(left, len(q) - 2)
        right = left + 1
        start = q[left]
        low = p[left]
        high = p[right]
        along = (raw - start) / (q[right] - start)
        if along >= 1:
            return high
        along = max(along, 0.0)
        score = low + along * (high - low)
        return min(score, high)

    @cached_property
    def _lists(self) -> tuple[list[float], list[float]]:
        return self.raw_score.tolist(), self.anomaly_score.tolist()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; `from_dict` gives back the same floats."""
        return {
            "raw_score": self.raw_score.tolist(),
            "anomaly_score": self.anomaly_score.tolist(),
            "tail_scale": self.tail_scale,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read `to_dict`'s output; ValueError in a sentence if it is not a calibration."""
        try:
            raw = np.asarray(values["raw_score"], dtype=np.float64)
            score = np.asarray(values["anomaly_score"], dtype=np.float64)
            scale = float(values["tail_scale"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the calibration cannot be read: {error!r}") from error
        _check_knots(raw, score)
        is_scale = np.isfinite(scale) and scale > 0
        if not is_scale:
            raise ValueError(f"the calibration's tail_scale is {scale}; it must be above 0")
        return cls(raw, score, scale)


def _knots(
    scores: NDArray,
    share: NDArray,
) -> tuple[NDArray, NDArray]:
    """Return raw and anomaly scores of the knots, of a survival function; dense in the tail."""
    tail = np.geomspace(share[-1], 0.1, N_TAIL)
    body = np.linspace(0.1, 1.0, N_BODY)
    wanted = np.concatenate([tail, body, [1.0]])
    # share falls with the score: the lowest score whose share does not exceed the wanted one
    ascending = share[::-1]
    allowed = wanted * (1 + ROUNDING)
    n_within = np.searchsorted(ascending, allowed, side="right")
    last = scores.size - 1
    at = np.append(scores.size - n_within, last)
    at = np.clip(at, 0, last)
    at = np.unique(at)
    knots = scores[at]
    score = 1.0 - share[at]
    # weights may be too small for float64 to tell apart
    rises = np.append(True, np.diff(score) > 0)
    return knots[rises], score[rises]


def _tail_scale(knots: NDArray, score: NDArray) -> float:
    """Return the scale of the Lomax tail.

    Followed backwards from the last knot, it passes through TAIL_FOLD times the share left there.
    """
    left = 1.0 - score
    last = left[-1]
    n_above = np.searchsorted(-left, -TAIL_FOLD * last, side="right")
    low = max(int(n_above) - 1, 0)
    fold = left[low] / last
    if not fold > 1.0:  # one knot, or shares too small to divide: any scale is as good
        return 1.0
    distance = knots[-1] - knots[low]
    return float(distance * fold / (fold - 1.0))


def _check_knots(raw: NDArray, score: NDArray) -> None:
    is_alike = raw.ndim == 1 and raw.shape == score.shape
    if not is_alike or not raw.size:
        raise ValueError(f"the calibration's knots differ in shape: {raw.shape} and {score.shape}")
    step = np.diff(raw)
    is_finite = np.isfinite(raw).all()
    rises = (step > 0).all()
    if not (is_finite and rises):
        raise ValueError("the calibration's raw scores do not rise from knot to knot")
    is_share = (score >= 0).all() and (score <= 1).all()
    step = np.diff(score)
    falls = (step < 0).any()
    if falls or not is_share:
        raise ValueError("the calibration's anomaly scores are not non-decreasing within [0, 1]")
