"""Which values of a row are unusual, and what each feature adds to its score.

A value is unusual outside `QUANTILES` of reference. Where none is, the row is unusual by the
combination of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.01, 0.99)  # of reference, weighted: the ends of the range of usual values
MIN_SHARE = 0.01  # of the score, that an unusual value adds at least to be a reason


@dataclass(frozen=True)
class Reason:
    """What one feature has to do with the score of a row.

    Parameters
    ----------
    column : position of the feature
    direction : 'high' or 'low', outside the usual range; 'missing'; or 'within' it: such a value is
        named only in a row without an unusual one, as part of the combination
    share : of all that features add to the score, 0 to 1
    """

    column: int
    direction: str
    share: float

    @property
    def is_unusual(self) -> bool:
        """Whether the value is unusual by itself."""
        return self.direction in ("high", "low")


def shares(contributions: NDArray) -> NDArray:
    """Return which part of what raises its score each feature adds: (n, d), rows sum to 1 or are 0.

    contributions : (n, d), see `lib.bundle.Bundle.contributions`; below 0 a feature lowers the
        score, and has no share
    """
    raising = np.maximum(contributions, 0.0)
    total = raising.sum(axis=1, keepdims=True)
    return np.divide(raising, total, out=np.zeros_like(raising), where=total > 0)


def reasons(
    X: NDArray,
    contributions: NDArray,
    reference: Mapping[str, NDArray],
    top: int = 3,
) -> list[list[Reason]]:
    """Return for each row of X (n, d) at most `top` reasons, the largest share first.

    Unusual values that add `MIN_SHARE` of the score or more; in a row without any, the features
    that add most, whose combination it is.

    Parameters
    ----------
    contributions : (n, d)
    reference : `low` and `high`, (d,) each
    """
    share = shares(contributions)
    is_high = reference["high"] < X
    is_low = reference["low"] > X
    is_unusual = is_high | is_low
    stands_out = is_unusual & (share >= MIN_SHARE)
    has_any = stands_out.any(axis=1, keepdims=True)
    counts = np.where(has_any, stands_out, ~is_unusual)
    # what does not count comes last
    rank = np.where(counts, contributions, -np.inf)
    order = np.argsort(-rank, axis=1, kind="stable")[:, :top]
    direction = np.select([np.isnan(X), is_high, is_low], ["missing", "high", "low"], "within")
    found = []
    for i, columns in enumerate(order):
        named = [j for j in columns.tolist() if counts[i, j]]
        found.append([Reason(j, str(direction[i, j]), float(share[i, j])) for j in named])
    return found


def of_range(manifest: Mapping[str, Any]) -> str:
    """Return what the usual range is, in words: of which transactions of reference."""
    train_on = manifest.get("fit", {}).get("train_on")
    whose = "all" if train_on == "all" else "the genuine"
    return f"1 % to 99 % of {whose} transactions of reference"
