"""What a notebook has imported of ours in a kernel, beside what the pipeline knows that it does."""

import json

from lib.pipeline.dependencies import BY_HAND, IN_THE_DATA, imported_files

LOADED = """
import json, sys
from pathlib import Path
ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "lib"]
files = [getattr(module, "__file__", None) for module in ours]
Path({path!r}).write_text(json.dumps([file for file in files if file]))
"""


def code(source):
    """A cell of code, as a notebook's file has it."""
    return {
        "cell_type": "code",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": [source],
    }


def last_cell(path):
    """The cell that writes, behind all others of a notebook, what has been imported."""
    return code(LOADED.format(path=str(path)))


def unknown_imports(folder, sources, path):
    """Return which files of a project were imported that the pipeline does not know of.

    Parameters
    ----------
    folder : the project's
    sources : of the notebook's cells
    path : what `last_cell` has written
    """
    left_out = [
        module for each in (BY_HAND, IN_THE_DATA) for modules in each.values() for module in modules
    ]
    known = {*imported_files(sources, folder)}
    known |= {*imported_files([f"import {module}" for module in left_out], folder)}
    return {folder / file for file in json.loads(path.read_text())} - known
