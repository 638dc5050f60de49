"""Find rows to try a bundle with: one that it lets pass and one that it reports."""

from dataclasses import dataclass, replace

import numpy as np

from lib.bundle import Bundle

FACTORS = (1, 2, 4, 8, 16, 64, 256, 2**12, 2**20)  # times as far from the median as usual values go
N_TRIED = 64  # rows that are tried when the medians themselves are reported
N_CLIMBED, N_STEPS = 50, 30  # features that are tried in each of so many steps, at most
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
    `normal` and `anomalous`. `normal` holds the reference medians or, should they be reported, that
    row of a few near them with the lowest score; `anomalous` is the first that alerts as more and
    more features are moved further and further out, or else the one with the highest score. Each
    says itself whether it alerts.
    """
    search = _Search(bundle)
    normal, anomalous = search.normal(), search.pushed()
    return normal, anomalous if anomalous.is_alert else search.climbed(anomalous)


class _Search:
    """Rows around the reference medians of a bundle.

    Attributes
    ----------
    low, median, high : (d,) float64; -1, 0 and 1 if the manifest has none
    digits : significant digits of each feature that are shown, (d,) int
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.d = d = len(bundle.features)
        absent = {"low": np.full(d, -1.0), "median": np.zeros(d), "high": np.ones(d)}
        given = absent | bundle.reference
        self.low, self.median, self.high = (np.asarray(given[key], np.float64) for key in absent)
        self.digits = self._digits()

    def _digits(self):
        """Enough digits to tell usual values apart, where they are large and close together."""
        spread = self.high - self.low
        size = np.max(np.abs([self.low, self.median, self.high]), axis=0)
        varies = (spread > 0) & (size > 0)
        ratio = np.divide(size, spread, out=np.full(self.d, 1e9), where=varies)
        return np.clip(4 + np.floor(np.log10(ratio)), 4, 9).astype(int)

    def score(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return alerts (n,) bool and scores (n,) of rows (n, d)."""
        rows = np.clip(rows, -LIMIT, LIMIT).astype(np.float32)
        predictions, scores = self.bundle.predict(rows)
        return predictions == 1, scores

    def best(self, rows: np.ndarray, sign: int = 1) -> tuple[Example, int]:
        """Return the first row that alerts, or else that with the highest score, and its place.

        With `sign` -1 the row with the lowest score. The row is rounded to what a reader sees, and
        scored as it then stands.
        """
        alerts, scores = self.score(rows)
        is_found = sign > 0 and alerts.any()
        at = int(np.argmax(alerts) if is_found else np.argmax(sign * scores))
        row = np.clip(rows[at], -LIMIT, LIMIT)
        values = [float(f"{x:.{n}g}") for x, n in zip(row, self.digits, strict=True)]
        (is_alert,), (score,) = self.score(np.array([values]))
        return Example(values, float(score), bool(is_alert), ""), at

    def normal(self) -> Example:
        """Return the medians, or a row near them if they alert."""
        found, _ = self.best(self.median[None])
        if not found.is_alert:
            return replace(found, origin="every feature at its median")
        share = np.random.default_rng(0).uniform(-0.5, 0.5, (N_TRIED, self.d))
        down, up = share * (self.median - self.low), share * (self.high - self.median)
        found, _ = self.best(self.median + np.where(share < 0, down, up), sign=-1)
        return replace(found, origin="near the medians, the lowest score of a few that were tried")

    def moved(self, factor: int, is_up: np.ndarray | bool) -> np.ndarray:
        """Move each feature, even a constant one, `factor` times as far out as usual, (d,)."""
        step = np.where(is_up, self.high - self.median, self.low - self.median)
        instead = np.where(is_up, 1, -1) * np.maximum(np.abs(self.median), 1)
        values = self.median + factor * np.where(step == 0, instead, step)
        # amounts, counts and durations do not become negative
        return np.where((self.low >= 0) & (values < 0), 0.0, values)

    def directions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which features are more anomalous upwards, (d,) bool, and their order, (d,) int.

        The strongest feature comes first.
        """
        rows = np.repeat(self.median[None], 2 * self.d, axis=0)
        each = np.arange(self.d)
        rows[each, each], rows[self.d + each, each] = self.moved(4, True), self.moved(4, False)
        rows = np.clip(rows, -LIMIT, LIMIT).astype(np.float32)
        upwards, downwards = self.bundle.raw_score(rows).reshape(2, self.d)
        return upwards >= downwards, np.argsort(-np.maximum(upwards, downwards), kind="stable")

    def pushed(self) -> Example:
        """Move more and more features out together, from the strongest on."""
        is_up, order = self.directions()
        counts = np.unique(np.geomspace(1, self.d, 24).round().astype(int))
        best = None
        for factor in FACTORS:
            target = self.moved(factor, is_up)
            rows = np.repeat(self.median[None], len(counts), axis=0)
            for row, count in zip(rows, counts, strict=True):
                row[order[:count]] = target[order[:count]]
            found, at = self.best(rows)
            if best is None or found.score > best.score:
                best = replace(found, origin=_origin(counts[at], self.d, factor))
            if best.is_alert:
                break
        return best

    def climbed(self, start: Example) -> Example:
        """Set one feature after the other to what raises the score most, beginning with `start`.

        A model that weighs features against each other, such as trees with labels, may only
        report a combination that `pushed` does not meet.
        """
        found = start
        _, order = self.directions()
        targets = [self.moved(factor, is_up) for factor in (1, 4, 16) for is_up in (True, False)]
        places = [(j, values[j]) for values in [self.median, *targets] for j in order[:N_CLIMBED]]
        for _ in range(N_STEPS):
            rows = np.repeat(np.array([found.values]), len(places), axis=0)
            for row, (j, value) in zip(rows, places, strict=True):
                row[j] = value
            better, _ = self.best(rows)
            if better.score <= found.score:
                break
            origin = "features were moved away from their medians, one after the other"
            found = replace(better, origin=origin)
            if found.is_alert:
                break
        return found


def _origin(count, d, factor):
    which = (
        f"{count} of {d} features {'is' if count == 1 else 'are'}"
        if d > 1
        else "the only feature is"
    )
    times = "as far" if factor == 1 else f"{factor:,} times as far"
    return f"{which} {times} from the median as the 1 % or the 99 % quantile of the reference"
