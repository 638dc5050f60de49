"""What lies behind each drift that was called: a line that opens, and both distributions below it.

Static HTML for notebooks and for the run's page; colours follow the page's text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lib.data.columns import one_line
from lib.evaluation.figures import percent

WIDTH, HEIGHT, ROW = 520, 120, 22  # of a figure, and of one value of a category
LABELS = 190  # width of the words for a category's values
BATCH_COLOUR = "#C44E1B"


def html(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return a `details` element for each column that was called drifted; empty without any.

    Parameters
    ----------
    steps : batches in order, as `lib.production.monitoring.look` gives them; each has `batch` and
        `flags`, see `lib.production.drift.ColumnDrift`
    """
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for step in steps:
        for flag in step.get("flags", ()):
            found.setdefault(flag["name"], []).append((step["batch"], flag))
    return "\n".join(_details(name, flags) for name, flags in found.items())


def _details(name: str, flags: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    batch, largest = max(flags, key=lambda flag: flag[1]["moved"] or 0.0)
    numbers = ", ".join(batch.removeprefix("batch_").lstrip("0") for batch, _ in flags)
    plural = "es" if len(flags) > 1 else ""
    said = escape(in_words(largest))
    # a batch of the simulation is a number, a file has a name
    which = f"batch{plural} {numbers}" if batch.startswith("batch_") else numbers
    shown = batch.replace("batch_0", "batch ").replace("batch_", "batch ")
    lines = [
        f"<details><summary>{escape(one_line(name))}: {escape(which)}</summary>",
        f"<p>{escape(shown[:1].upper() + shown[1:])}: {said}.</p>",
        _drawn(largest.get("profile"), shown),
        "</details>",
    ]
    return "\n".join(line for line in lines if line)


def in_words(flag: Mapping[str, Any]) -> str:
    """Return what differs in a column, `23 % of … lie elsewhere …; up to 9 % is usual`."""
    said = []
    if flag["moved"] is not None:
        usual = percent(flag["usual"])
        said.append(
            f"{percent(flag['moved'])} of the transactions lie elsewhere than in the reference "
            f"window; up to {usual} is usual"
        )
    if flag["missing"] or flag["missing_before"]:
        said.append(
            f"{percent(flag['missing'])} are missing, before {percent(flag['missing_before'])}"
        )
    if flag["out_of_range"]:
        said.append(f"{percent(flag['out_of_range'])} were never seen before")
    if flag["value"] is not None:
        before, now = percent(flag["before"]), percent(flag["now"])
        said.append(f"{flag['value']} {before} → {now}")
    return "; ".join(said)


def _drawn(profile: Mapping[str, Any] | None, batch: str) -> str:
    """Return both distributions as SVG; empty without values."""
    if profile is None:
        return ""
    drawn = _numbers if profile["edges"] is not None else _values
    height, marks = drawn(profile)
    legend = (
        f'<text x="0" y="12" fill="currentColor">grey: reference window</text>'
        f'<text x="{WIDTH}" y="12" text-anchor="end" fill="currentColor">coloured: '
        f"{escape(batch)}</text>"
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" style="max-width:46rem;width:100%;height:auto" '
        f'font-size="12" role="img" aria-label="Distribution in the '
        f'reference window and in {escape(batch)}">{legend}{marks}</svg>'
    )


def _numbers(profile: Mapping[str, Any]) -> tuple[int, str]:
    """Return the height and the marks of two histograms over each other."""
    reference, current, edges = profile["reference"], profile["current"], profile["edges"]
    highest = max(*reference, *current)
    step = WIDTH / len(reference)
    floor = HEIGHT - 18

    def y(share: float) -> float:
        return round(floor - share / highest * (floor - 20), 1)

    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{y(share)}" width="{step:.1f}" '
        f'height="{floor - y(share):.1f}" fill="currentColor" opacity="0.22"/>'
        for i, share in enumerate(reference)
    )
    outline = f"M0 {floor}"
    for i, share in enumerate(current):
        outline += f"V{y(share)}H{(i + 1) * step:.1f}"
    line = f'<path d="{outline}V{floor}" fill="none" stroke="{BATCH_COLOUR}" stroke-width="2"/>'
    axis = (
        f'<line x1="0" x2="{WIDTH}" y1="{floor}" y2="{floor}" stroke="currentColor"/>'
        f'<text x="0" y="{HEIGHT - 3}" fill="currentColor">{_edge(edges[0])}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end" fill="currentColor">'
        f"{_edge(edges[-1])}</text>"
    )
    return HEIGHT, bars + line + axis


def _edge(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _values(profile: Mapping[str, Any]) -> tuple[int, str]:
    """Return the height and the marks of two bars for each value."""
    highest = max(*profile["reference"], *profile["current"])
    scale = (WIDTH - LABELS - 50) / highest
    marks = ""
    rows = zip(profile["values"], profile["reference"], profile["current"], strict=True)
    for i, (word, before, now) in enumerate(rows):
        top = 24 + i * ROW
        marks += (
            f'<text x="{LABELS - 8}" y="{top + 12}" text-anchor="end" fill="currentColor">'
            f"{escape(word)}</text>"
            f'<rect x="{LABELS}" y="{top}" width="{before * scale:.1f}" height="8" '
            f'fill="currentColor" opacity="0.3"/>'
            f'<rect x="{LABELS}" y="{top + 8}" width="{now * scale:.1f}" height="8" '
            f'fill="{BATCH_COLOUR}"/>'
            f'<text x="{LABELS + max(before, now) * scale + 6:.1f}" y="{top + 12}" '
            f'fill="currentColor">{escape(percent(now))}</text>'
        )
    return 24 + len(profile["values"]) * ROW, marks
