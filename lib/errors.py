"""Errors whose message is a sentence for people: what was wrong, and what to do about it."""

import difflib
from collections.abc import Iterable

MANY = 15  # names that a sentence can still list


class PipelineError(Exception):
    """Base of every error that a user can mend.

    `str(error)` is the whole message; no traceback is needed.
    """


class DataError(PipelineError, ValueError):
    """A table or its description cannot be used; the message names file, column, row and value."""

    def __str__(self) -> str:
        # it may quote a header, a cell or a file's name, and a terminal would obey what they hold
        return printable(super().__str__())


class RawFileMissing(DataError):  # noqa: N818 - reads as what happened
    """There is no raw file and none can be downloaded; the message says how to provide one."""


class BundleError(PipelineError, ValueError):
    """A bundle cannot be used; the message names the file or the entry of its manifest."""


class TrackingError(PipelineError, RuntimeError):
    """MLflow cannot be reached, or refuses."""


class Refused(PipelineError, ValueError):  # noqa: N818 - reads as what happened
    """What was asked for cannot be run; nothing has been started."""


def printable(text: str) -> str:
    """Return text with its control characters escaped."""
    characters = [c if c.isprintable() else repr(c)[1:-1] for c in text]
    return "".join(characters)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like `name`, whatever the case; None if none is near."""
    by_lower = {candidate.strip().lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.strip().lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that refuses `name`: the nearest known name, else all.

    Of many, the three that are least unlike it.
    """
    known = sorted(known)
    near = nearest(name, known)
    if near is not None:
        return f"did you mean {near!r}?"
    if len(known) > MANY:
        like = difflib.get_close_matches(name.strip().lower(), known, n=3, cutoff=0.0)
        return f"none of {len(known)} is like it; the nearest are {', '.join(like)}."
    return f"there are {', '.join(known) or 'none'}."


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence that refuses a name: `Unknown stage 'exprot': did you mean …?`."""
    return f"Unknown {what} {name!r}: {did_you_mean(name, known)}"


def listed(words: Iterable[str]) -> str:
    """Return words as a sentence lists them: `a`, `a and b`, `a, b and c`."""
    *before, last = words
    if not before:
        return last
    return f"{', '.join(before)} and {last}"
