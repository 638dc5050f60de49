"""Names of a user's columns beside names of ours, whatever they are called."""

SCORE = "anomaly score"  # a column of scores beside features, unless a feature has that name


def free_name(wanted, taken):
    """`wanted`, with as many `_` behind it as it takes to be unlike all of `taken`, ignoring
    case.
    """
    lower = {name.casefold() for name in taken}
    while wanted.casefold() in lower:
        wanted += "_"
    return wanted


def beside(ours, columns, prefix="id."):
    """Name a user's columns in a file that has columns of ours -> {column: its name there}.

    A column keeps its own name unless it equals one of ours, ignoring case: then it gets the
    prefix, as often as it takes to be unlike all others.
    """
    taken, found = {name.casefold() for name in ours}, {}
    for column in columns:
        name = column
        while name.casefold() in taken or (name != column and name in columns):
            name = prefix + name
        found[column] = name
    return found


def one_line(name):
    """A name of a user's column on one line, and never empty: line breaks and the like become
    blanks.
    """
    text = "".join(character if character.isprintable() else " " for character in str(name)).strip()
    return text or "(no name)"


def printable(name: str) -> str:
    """A name of a user's column for a message, its control characters escaped."""
    shown = [c if c.isprintable() else repr(c)[1:-1] for c in name]
    return "".join(shown)
