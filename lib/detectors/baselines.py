"""Score by naive rules, which every model must beat."""

import numpy as np
from numpy.typing import NDArray

NAIVE = ("random", "amount", "max_abs_z")
WITHOUT_FEATURES = ("random", "amount")  # rules that score by none of a table's features


def naive_scores(
    arrays,
    reference,
    seed: int = 0,
) -> dict[str, NDArray]:
    """Return the raw scores of the rules that every model must beat.

    Parameters
    ----------
    arrays, reference : lib.data.datasets.Arrays
        The rows to score and the rows that models were fitted on.
    seed : int
        Of `random`.

    Returns
    -------
    dict of str to (n,) float64, higher is more anomalous
        ``random``; ``amount``, if there is one; ``max_abs_z``, the largest distance of a column
        from its weighted mean, in standard deviations. Columns that hold no value in `reference`
        are left out.
    """
    rng = np.random.default_rng(seed)
    n = len(arrays.X)
    scores = {"random": rng.random(n)}
    if arrays.amount is not None:
        amount = arrays.amount
        scores["amount"] = np.asarray(amount, dtype=np.float64)
    scores["max_abs_z"] = _max_abs_z(arrays.X, reference)
    return scores


def _max_abs_z(X, reference):
    weight = reference.weight
    weighed = reference.X[weight > 0]
    finite = np.isfinite(weighed)
    empty = ~finite.any(axis=0)
    known = reference.X.astype(np.float64)
    known = np.ma.masked_invalid(known)
    mean = np.ma.average(known, axis=0, weights=weight)
    square = (known - mean) ** 2
    variance = np.ma.average(square, axis=0, weights=weight)
    mean = np.ma.filled(mean, 0.0)
    sd = np.sqrt(variance)
    sd = np.ma.filled(sd, 0.0)
    sd[sd == 0] = 1.0  # a constant column counts in its own units
    z = (X - mean) / sd
    z = np.abs(z)
    z[:, empty] = 0.0
    z = np.nan_to_num(z, nan=0.0)  # a missing value is not anomalous
    return z.max(axis=1)
