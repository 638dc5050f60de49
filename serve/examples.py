"""Find rows to try a bundle with: one that it lets pass and one that it reports."""

from dataclasses import dataclass

import numpy as np

from lib.bundle import Bundle

FACTORS = (1, 2, 4, 8, 16, 64, 256, 2**12, 2**20)  # times as far from the median as usual values go
N_TRIED = 64  # rows that are tried when the medians themselves are reported
LIMIT = 1e38  # within float32


@dataclass(frozen=True)
class Example:
    """A row and what the bundle says of it.

    Attributes
    ----------
    values : d numbers in the order of the features, short enough to read
    score : anomaly score, 0 to 1
    is_alert : whether the score reaches the threshold
    origin : how the row was made, a phrase
    """

    values: list[float]
    score: float
    is_alert: bool
    origin: str

    @property
    def verdict(self) -> str:
        """The score in words."""
        return f"{'alert' if self.is_alert else 'no alert'}, anomaly score {self.score:.6g}"


def find(bundle: Bundle) -> tuple[Example, Example]:
    """Make a normal and an anomalous row from the reference ranges; both are scored as they stand.

    Parameters
    ----------
    bundle : with threshold and calibration

    Returns
    -------
    (normal, anomalous): `normal` holds the reference medians or, should they be reported, the row
    of a few near them with the lowest score; `anomalous` is the first that alerts as more and more
    features are moved further and further out, or else the one with the highest score. Each says
    itself whether it alerts.
    """
    low, median, high = _ranges(bundle)
    return _normal(bundle, low, median, high), _anomalous(bundle, low, median, high)


def _ranges(bundle):
    """Low, median and high of each feature, (d,) float64; -1, 0 and 1 if the manifest has none."""
    d = len(bundle.features)
    absent = {"low": np.full(d, -1.0), "median": np.zeros(d), "high": np.ones(d)}
    given = absent | bundle.reference
    return [np.asarray(given[key], np.float64) for key in absent]


def _normal(bundle, low, median, high):
    values, alerts, scores = _score(bundle, median[None])
    if not alerts[0]:
        return Example(values[0].tolist(), float(scores[0]), False, "every feature at its median")
    share = np.random.default_rng(0).uniform(-0.5, 0.5, (N_TRIED, len(median)))
    near = median + np.where(share < 0, share * (median - low), share * (high - median))
    values, alerts, scores = _score(bundle, near)
    best = int(np.argmin(scores))
    origin = "near the medians, the lowest score of a few that were tried"
    return Example(values[best].tolist(), float(scores[best]), bool(alerts[best]), origin)


def _anomalous(bundle, low, median, high):
    up, order = _directions(bundle, low, median, high)
    step = np.where(up, high - median, low - median)
    # a feature that never varies has no usual distance
    step = np.where(step == 0, np.where(up, 1, -1) * np.maximum(np.abs(median), 1), step)
    d, best = len(median), None
    counts = np.unique(np.geomspace(1, d, 24).round().astype(int))
    for factor in FACTORS:
        rows = np.repeat(median[None], len(counts), axis=0)
        for row, count in zip(rows, counts, strict=True):
            moved = order[:count]
            row[moved] = _bounded(median[moved] + factor * step[moved], low[moved])
        values, alerts, scores = _score(bundle, rows)
        # the first that alerts has the fewest unusual values
        chosen = int(np.argmax(alerts)) if alerts.any() else int(np.argmax(scores))
        if best is None or scores[chosen] > best.score:
            score, is_alert = float(scores[chosen]), bool(alerts[chosen])
            origin = _origin(counts[chosen], d, factor)
            best = Example(values[chosen].tolist(), score, is_alert, origin)
        if best.is_alert:
            break
    return best


def _directions(bundle, low, median, high):
    """Which features are more anomalous upwards, (d,) bool; all features, the strongest first."""
    d = len(median)
    rows = np.repeat(median[None], 2 * d, axis=0)
    each = np.arange(d)
    rows[each, each] = median + 4 * (high - median)
    rows[d + each, each] = _bounded(median + 4 * (low - median), low)
    upwards, downwards = bundle.raw_score(_float32(rows)).reshape(2, d)
    return upwards >= downwards, np.argsort(-np.maximum(upwards, downwards), kind="stable")


def _bounded(values, low):
    """Keep what is never negative from becoming so: amounts, counts, durations."""
    return np.where((low >= 0) & (values < 0), 0.0, values)


def _score(bundle, rows):
    """Rows (n, d) rounded to what a reader sees, their alerts (n,) bool and scores (n,)."""
    text = [[f"{value:.4g}" for value in row] for row in np.clip(rows, -LIMIT, LIMIT)]
    values = np.array(text, dtype=np.float64)
    predictions, scores = bundle.predict(_float32(values))
    return values, predictions == 1, scores


def _float32(rows):
    return np.clip(rows, -LIMIT, LIMIT).astype(np.float32)


def _origin(count, d, factor):
    which = f"{count} of {d} features {'is' if count == 1 else 'are'}" if d > 1 else "the only feature is"
    times = "as far" if factor == 1 else f"{factor:,} times as far"
    return f"{which} {times} from the median as the 1 % or the 99 % quantile of the reference"
