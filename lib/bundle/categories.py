"""Encode categories as numbers: how rare a value is, as an encoder counted it in reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MISSING = ""  # the key of missing cells; no value is empty


def rarity(encoder: dict[str, Any], values: Sequence[str | None]) -> np.ndarray:
    """Return −log(share of the value in reference), float64 (n,), from 0 up; higher = rarer.

    Parameters
    ----------
    encoder : `shares`, {value: share of reference's weight}, in which "" stands for a missing cell,
        and `unseen`, the share that any other value is taken to have
    values : text (n,); None or "" is missing
    """
    shares, unseen = encoder["shares"], encoder["unseen"]
    found = [shares.get(MISSING if value is None else value, unseen) for value in values]
    # + 0.0: −log(1) is −0.0, which prints oddly
    return -np.log(np.array(found, np.float64)) + 0.0
