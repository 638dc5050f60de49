"""Score by naive rules, which every model must beat."""

import numpy as np


def naive_scores(arrays, reference, seed=0):
    """Raw scores of the rules that every model must beat.

    Parameters
    ----------
    arrays, reference : lib.datasets.Arrays
        The rows to score and the rows that models were fitted on.
    seed : int, of `random`

    Returns
    -------
    dict of str to (n,) float64
        ``random``; ``amount``, if there is one; ``max_abs_z``, the largest distance of a column from its weighted mean,
        in standard deviations. Columns that hold no value in `reference` are left out.
    """
    there = np.isfinite(reference.X[reference.weight > 0]).any(axis=0)
    X = np.ma.masked_invalid(reference.X.astype(np.float64))
    mean = np.ma.average(X, axis=0, weights=reference.weight)
    sd = np.ma.filled(np.sqrt(np.ma.average((X - mean) ** 2, axis=0, weights=reference.weight)), 0.0)
    scores = {"random": np.random.default_rng(seed).random(len(arrays.X))}
    if arrays.amount is not None:
        scores["amount"] = np.asarray(arrays.amount, dtype=np.float64)
    z = np.abs((arrays.X - np.ma.filled(mean, 0.0)) / np.where(sd > 0, sd, 1.0))
    z[:, ~there] = 0.0
    scores["max_abs_z"] = np.nan_to_num(z, nan=0.0).max(axis=1)  # a missing value is not strange
    return scores
