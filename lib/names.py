"""Name models and metrics for people, the same in figures, tables, pages and MLflow."""

import re

HEADLINE = {
    "average_precision": "average precision",
    "recall_at_budget": "recall",
    "precision_at_budget": "precision",
    "amount_recall_at_budget": "money caught",
    "recall_at_fpr_0.01": "recall at 1 % false positives",
    "roc_auc": "ROC AUC",
}
SHARES = {metric: text for metric, text in HEADLINE.items() if metric.endswith("_at_budget")}
_MODELS = {"gaussian_mixture": "Gaussian mixture", "max_abs_z": "largest |z|", "amount": "amount alone"}
LOWER = {"random", "max_abs_z", "amount"}


def label(model):
    """A candidate's name as people read it: `gaussian_mixture` -> `Gaussian mixture`."""
    family, _, variant = model.partition("@")
    text = _MODELS.get(family, family.replace("_", " "))
    text = text if family in LOWER else text[0].upper() + text[1:]
    return f"{text} ({variant.replace('train_on=all', 'no labels')})" if variant else text


def free_name(wanted, taken):
    """`wanted`, with as many `_` behind it as it takes to be unlike all of `taken`, ignoring case."""
    lower = {name.casefold() for name in taken}
    while wanted.casefold() in lower:
        wanted += "_"
    return wanted


def beside(ours, columns, prefix="id."):
    """Name a user's columns in a file that has columns of ours -> {column: its name there}.

    A column keeps its own name unless it equals one of ours, ignoring case: then it gets the prefix, as often as it
    takes to be unlike all others.
    """
    taken, found = {name.casefold() for name in ours}, {}
    for column in columns:
        name = column
        while name.casefold() in taken or (name != column and name in columns):
            name = prefix + name
        found[column] = name
    return found


def one_line(name):
    """A name of a user's column on one line, and never empty: line breaks and the like become blanks."""
    text = "".join(character if character.isprintable() else " " for character in str(name)).strip()
    return text or "(no name)"


def code(name):
    """A name of a user's column as code in Markdown, whatever characters it has."""
    text = one_line(name)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"
