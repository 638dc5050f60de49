"""Print environment.yml: what requirements.txt locks and pyproject.toml's torch, for conda, a
purpose to each line.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = """\
# The environment of requirements.txt for conda users: conda env create -f environment.yml
# Written by `make lock`; do not edit.
name: fraud-pipeline  # conda activate fraud-pipeline
channels:  # where conda looks
  - conda-forge  # python and pip; everything else is the lock's
dependencies:  # what it installs
  - python=3.11  # the oldest version that the lock serves
  - pip  # installs what follows
  - pip:  # the versions of requirements.txt
"""


def purposes():
    """The declared packages of pyproject.toml: {requirement's name: (version pin or "",
    comment)}.
    """
    # the groups that follow are other environments
    ours, _, _ = (ROOT / "pyproject.toml").read_text().partition("[dependency-groups]")
    lines = re.findall(r'^    "([\w.-]+)[^"=<>]*([^"]*)", +# (.+)$', ours, re.M)
    return {name: (version, comment) for name, version, comment in lines}


def locked():
    """The lock's lines without hashes: [(name, requirement with marker, names of the packages that
    need it)].
    """
    text = (ROOT / "requirements.txt").read_text().split("\n# The following")[0]
    text = re.sub(r" \\\n    --hash=\S+", "", text)
    for block in re.split(r"\n(?=[a-z])", text):
        requirement, *rest = block.splitlines()
        via = [re.sub(r"^ *# +(via ?)?", "", line) for line in rest]
        yield (
            requirement.split("==")[0],
            requirement,
            [name for name in via if name and "pyproject" not in name],
        )


if __name__ == "__main__":
    declared = purposes()
    torch, purpose = declared["torch"]
    print(HEADER, f"      - torch{torch}  # {purpose}", sep="")
    for name, requirement, via in locked():
        print(
            f"      - {requirement}  # "
            f"{declared[name][1] if name in declared else 'for ' + ', '.join(via[:3])}"
        )
    print("      - --editable .  # lib and serve, importable from anywhere")
