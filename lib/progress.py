"""A bar for what takes long, where somebody watches a notebook."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

Step = TypeVar("Step")


def steps(iterable: Iterable[Step], what: str, total: int | None = None) -> Iterable[Step]:
    """Go through an iterable, in JupyterLab with a bar that disappears at the end.

    Parameters
    ----------
    what : what a step is: "epoch"
    total : number of steps where the iterable has no length
    """
    # set by Jupyter's server for the kernels of its notebooks
    if not os.environ.get("JPY_SESSION_NAME"):
        return iterable
    from tqdm.auto import tqdm

    return tqdm(iterable, total=total, unit=what, desc=f"{what}s", leave=False)
