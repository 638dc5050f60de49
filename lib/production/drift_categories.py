"""Compare the values of a category in two windows: their shares, by name.

A category reaches a model as a number that its encoder gives to each value. The number is no
measure: what drifts are the shares of the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.bundle import Bundle
from lib.bundle.categories import MISSING, rarity
from lib.data.columns import free_name, one_line
from lib.data.splits import Split
from lib.production import drift_statistics, usual_sizes
from lib.production.drift_statistics import Sample

MAX_VALUES = 50  # of a category that are told apart, the most frequent of reference
# with fewer effective rows a value, PSI's far tail is beyond chi-squared: it stands with others
MIN_PER_VALUE = 40
NO_VALUE = "(no value)"
UNSEEN = "values that reference lacks"
RARER = "rarer values"
WIDTH = 30  # characters of a value


@dataclass(frozen=True)
class Values:
    """Which values the numbers of a category stand for.

    Parameters
    ----------
    numbers : (k,) float32, ascending
    words : k texts, for people
    rest : what every other number stands for
    """

    numbers: np.ndarray
    words: tuple[str, ...]
    rest: str

    def codes(self, x: np.ndarray) -> np.ndarray:
        """Return the position (n,) of the value of each number of x (n,); k for the rest."""
        x = np.asarray(x, np.float32)
        place = np.searchsorted(self.numbers, x)
        place = np.minimum(place, len(self.numbers) - 1)
        return np.where(self.numbers[place] == x, place, len(self.numbers))

    def word(self, code: int) -> str:
        """Return the words for a position that `codes` gives."""
        return (*self.words, self.rest)[code]


@dataclass(frozen=True)
class Shift:
    """How the shares of a category's values differ between two windows.

    p_values : of the tests that apply
    psi : the population stability index of the values that are frequent enough, the others together
    null : its distribution without drift; None where there are too few rows
    total_variation : half the sum of the shares' absolute differences, 0 to 1: the largest
        difference that any set of values makes
    moved : what chance does not explain of it
    code : position of the value that has moved most clearly
    before, now : its shares
    unheard : share of the current window whose value the reference window does not hold
    """

    p_values: list[float]
    psi: float
    null: drift_statistics.PSINull | None
    total_variation: float
    moved: float
    code: int
    before: float
    now: float
    unheard: float


def of_split(split: Split) -> dict[str, Values]:
    """Return {feature: what its numbers stand for} of the categories in a split; empty without."""
    encoders = split.manifest.get("encoders") or {}
    return {name: of_encoder(encoder) for name, encoder in encoders.items()}


def of_bundle(model: Bundle) -> dict[str, Values]:
    """Return {feature: what its numbers stand for} of the categories of a bundle."""
    encoders = model.manifest.get("recipe", {}).get("encoders", {})
    return {name: of_encoder(encoder) for name, encoder in encoders.items()}


def of_encoder(encoder: dict) -> Values:
    """Return what the numbers that an encoder gives stand for.

    Values of one number, which are equally frequent in reference, stand together: a model cannot
    tell them apart either.
    """
    shares = encoder["shares"]
    ordered = sorted(shares, key=lambda value: (-shares[value], value))
    numbers = rarity(encoder, ordered).astype(np.float32)
    together: dict[float, list[str]] = {}
    for number, value in zip(numbers, ordered, strict=True):
        together.setdefault(float(number), []).append(value)
    kept = sorted(list(together)[:MAX_VALUES])
    words = [_words(together[number]) for number in kept]
    rest = UNSEEN if len(kept) == len(together) else RARER
    unseen = float(np.float32(rarity(encoder, [free_name("unseen", shares)])[0]))
    if unseen in kept:
        words[kept.index(unseen)] += f" or {UNSEEN}"
    return Values(np.array(kept, np.float32), tuple(words), rest)


def _words(values: Sequence[str]) -> str:
    """Return values that stand together as text: `travel`, `a or b`, `a, b or 3 more`."""
    shown = [_short(value) for value in values]
    if len(shown) > 3:
        shown = [*shown[:2], f"{len(shown) - 2} more"]
    *others, last = shown
    return f"{', '.join(others)} or {last}" if others else last


def _short(value: str) -> str:
    text = NO_VALUE if value == MISSING else one_line(value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def shares(values: Values, sample: Sample) -> np.ndarray:
    """Return the share of a sample's weight that each value has, (k + 1,), the rest last."""
    codes = values.codes(sample.values)
    counted = np.bincount(codes, sample.weight, minlength=len(values.numbers) + 1)
    return counted / sample.weight.sum()


def compare(
    values: Values,
    known: np.ndarray,
    reference: Sample,
    current: Sample,
    extra: np.ndarray,
) -> Shift:
    """Compare a category in two windows.

    Two tests: PSI over the values that are frequent enough, and, of each value by itself, Fisher's
    exact test of its share, with Bonferroni's correction, which also sees a rare value that grows.

    Parameters
    ----------
    known : (k + 1,), shares in the whole reference window, whichever rows are compared
    reference, current : without missing values
    extra : (k + 1, k + 1), what blocks of time add to the covariance of the shares' difference
    """
    before = shares(values, reference)
    now = shares(values, current)
    n, m = reference.effective_size, current.effective_size

    tested = np.flatnonzero((before > 0) | (now > 0))
    p_values = []
    for code in tested:
        pair = (float(before[code]), float(now[code]))
        variance = max(float(extra[code, code]), 0.0)
        p_values.append(drift_statistics.share_p_value(pair, (n, m), variance))
    # of those that are equally clear, the one that has moved furthest
    clearest = np.lexsort([-np.abs(now - before)[tested], p_values])[0]
    code = int(tested[clearest])
    found = [min(1.0, p_values[clearest] * len(tested))]

    group = _groups(known, min(n, m))
    one_hot = np.eye(group.max() + 1)[group]
    psi = drift_statistics.psi(
        np.maximum(before @ one_hot, 0.5 / n), np.maximum(now @ one_hot, 0.5 / m)
    )
    null = None
    if one_hot.shape[1] > 1:
        null = drift_statistics.psi_null(known @ one_hot, n, m, one_hot.T @ extra @ one_hot)
        found.append(null.p_value(psi))
    return Shift(
        p_values=found,
        psi=psi,
        null=null,
        total_variation=float(np.abs(now - before).sum() / 2),
        moved=usual_sizes.beyond_chance(before, now, 1 / n + 1 / m),
        code=code,
        before=float(before[code]),
        now=float(now[code]),
        unheard=float(now[known == 0].sum()),
    )


def _groups(share: np.ndarray, n: float) -> np.ndarray:
    """Return the group (k,) of each value, so that none has less than MIN_PER_VALUE of n rows.

    The frequent values are groups of their own, all others one, or part of the last.
    """
    order = np.argsort(-share, kind="stable")
    is_frequent = share[order] * n >= MIN_PER_VALUE
    n_frequent = int(np.count_nonzero(is_frequent))
    group = np.full(len(share), n_frequent)
    group[order[:n_frequent]] = np.arange(n_frequent)
    rest = share[order[n_frequent:]].sum()
    if rest * n < MIN_PER_VALUE and n_frequent:
        group = np.minimum(group, n_frequent - 1)
    return group
