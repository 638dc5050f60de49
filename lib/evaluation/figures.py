"""Write a figure and its interval as text: one notation wherever people read them.

A figure is ``{"value", "low", "high"}``, as `lib.evaluation.intervals` gives it, each a float or
None: no ``value`` where no label says anything, no ``low`` and ``high`` without an interval.
"""

from __future__ import annotations

from collections.abc import Mapping

Figure = Mapping[str, float | None]
DASH = "–"


def number(value: float | None, digits: int = 3, kind: str = "f") -> str:
    """Write a number with its digits after the point, a dash where there is none.

    Parameters
    ----------
    value : in its own unit, a share as a share
    digits : after the point (n)
    kind : `f` as it is, `%` a share in per cent
    """
    if value is None:
        return DASH
    return f"{value:,.{digits}{kind}}"


def interval(figure: Figure | None, digits: int = 3, kind: str = "f") -> str:
    """Write the bounds of an interval, `[0.740, 0.866]`; empty where there is none.

    Parameters
    ----------
    digits, kind : as in :func:`number`
    """
    if figure is None:
        return ""
    if figure["value"] is None or figure["low"] is None:
        return ""
    low = number(figure["low"], digits, kind)
    high = number(figure["high"], digits, kind)
    return f"[{low}, {high}]"


def cell(figure: Figure | None, digits: int = 3, kind: str = "f") -> str:
    """Write a figure and its interval as in a table: `0.812 [0.740, 0.866]`, `0.812`, or a dash.

    Parameters
    ----------
    digits, kind : as in :func:`number`
    """
    if figure is None:
        return DASH
    value = number(figure["value"], digits, kind)
    bounds = interval(figure, digits, kind)
    return f"{value} {bounds}".rstrip()


def in_words(figure: Figure, digits: int = 3) -> str:
    """Write a figure within a sentence, where no heading says what the bounds are.

    `0.812 (95 % interval 0.740 to 0.866)` or `0.812 (no interval)`.
    """
    value = number(figure["value"], digits)
    if figure["low"] is None:
        return f"{value} (no interval)"
    low = number(figure["low"], digits)
    high = number(figure["high"], digits)
    return f"{value} (95 % interval {low} to {high})"


def rate(share: float) -> str:
    """Return a share to two significant digits, of any size: `12 %`, `0.1 %`, `0.0063 %`."""
    return f"{float(f'{100 * share:.2g}'):g} %"


def percent(share: float) -> str:
    """Return a share as people write it: `12.3 %`, `0.4 %`, `0.03 %`."""
    is_tiny = 0 < share < 0.001
    return f"{100 * share:.1g} %" if is_tiny else f"{100 * share:.1f} %"
