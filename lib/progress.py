"""A bar for what takes long, where somebody watches; notebooks that run headless print one line
when it is done.
"""

import os


def steps(iterable, what, total=None):
    """Go through an iterable, in JupyterLab with a bar that disappears at the end.

    Parameters
    ----------
    what : str, what a step is: "epoch"
    total : int, number of steps where the iterable has no length
    """
    # set by Jupyter's server for the kernels of its notebooks
    if not os.environ.get("JPY_SESSION_NAME"):
        return iterable
    from tqdm.auto import tqdm

    return tqdm(iterable, total=total, unit=what, desc=f"{what}s", leave=False)
