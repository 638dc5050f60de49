"""Check that notebooks are committed as text: cells as lists of lines, no outputs to speak of.

Usage: python .ci/notebooks.py [NOTEBOOK ...]; all of notebooks/ by default. Exit status 1 if one
is not. Outputs that nbval compares are allowed.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def faults(path: Path) -> list[str]:
    """Return what is wrong with a notebook's file, a sentence each."""
    text = path.read_text(encoding="utf-8")
    book = json.loads(text)
    found = []
    if text != json.dumps(book, indent=1, ensure_ascii=False) + "\n":
        found.append(
            "is not written with an indent of 1, plain characters and a newline at its end"
        )
    for number, cell in enumerate(book["cells"]):
        source = cell["source"]
        if isinstance(source, str):
            found.append(f"cell {number} is stored as one string, not as a list of lines")
        is_compared = "NBVAL_CHECK_OUTPUT" in "".join(source)
        if cell["cell_type"] == "code" and cell["outputs"] and not is_compared:
            found.append(f"cell {number} holds outputs")
    return found


def main(names: list[str]) -> int:
    """Check notebooks and print what is wrong; return the exit status."""
    paths = [Path(name) for name in names]
    for folder in ("notebooks", "notebooks/templates") if not names else ():
        paths += sorted((ROOT / folder).glob("*.ipynb"))
    found = [f"{path}: {fault}" for path in paths for fault in faults(path)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
