"""What labels of fraud a model has seen: in full for its manifest, in short for a table's cell."""

from __future__ import annotations

from dataclasses import dataclass

from lib.bundle.recipe import OF_LABELS, Recipe, Window


@dataclass(frozen=True)
class Words:
    """Both texts of one way to fit, side by side so that they say the same.

    Parameters
    ----------
    in_short : a few words for a cell below the heading `labels seen`
    in_full : for a manifest and the model card; `{n}` is a number of known frauds
    """

    in_short: str
    in_full: str


WORDS = {  # how a model was fitted (`train_on`) -> what that means for labels
    "genuine": Words("frauds removed", "known frauds of reference removed from the fit"),
    "all": Words("none", "none"),
    "labels": Words("in the fit", "{n:,} known frauds of reference, in the fit"),
}


def in_short(train_on: str | None, known_to_features: str | None = None) -> str:
    """Return the words of a table's cell, such as `none; fraud rates in features`.

    Parameters
    ----------
    train_on : `genuine`, `all` or `labels`; None: a rule without a fit, which sees no label either
    known_to_features : what `kinds_in_features` says of the features that it scores by
    """
    of_fit = WORDS[train_on or "all"].in_short
    if not known_to_features:
        return of_fit
    return f"{of_fit}; {known_to_features} in features"


def in_full(train_on: str, *, n_frauds: int = 0, n_unlabelled: int = 0) -> str:
    """Return what a manifest says.

    Parameters
    ----------
    train_on : `genuine`, `all` or `labels`
    n_frauds : known frauds of reference that a fit with labels has learnt from (n)
    n_unlabelled : transactions of reference without a label (n): not known to be genuine, so that
        `genuine` leaves them out, too
    """
    if train_on == "genuine" and n_unlabelled:
        return (
            f"known frauds and {n_unlabelled:,} unlabelled transactions of reference removed from "
            "the fit"
        )
    return WORDS[train_on].in_full.format(n=n_frauds)


def in_features(recipe: Recipe | None) -> str | None:
    """Return what labels the features themselves know, such as "fraud rates of merchant, 7d late".

    None where no feature knows any.
    """
    seen = _of_labels(recipe)
    words = [f"{f.statistic.replace('_', ' ')}s of {f.entity}, {f.delay} late" for f in seen]
    return "; ".join(dict.fromkeys(words)) or None


def kinds_in_features(recipe: Recipe | None) -> str | None:
    """Return in short what labels the features themselves know, such as "fraud rates".

    None where no feature knows any.
    """
    kinds = {f.statistic for f in _of_labels(recipe)}
    words = [f"{kind.replace('_', ' ')}s" for kind in OF_LABELS if kind in kinds]
    return " and ".join(words) or None


def _of_labels(recipe: Recipe | None) -> list[Window]:
    """Return the features that know labels."""
    if recipe is None:
        return []
    return [f for f in recipe.histories if isinstance(f, Window) and f.statistic in OF_LABELS]
