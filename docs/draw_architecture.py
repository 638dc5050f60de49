"""Write the generated parts of docs/architecture.md anew: `make architecture`; a test compares.

Between the markers of that page stand a picture of the packages of lib (Mermaid, drawn from the
import statements) and a table of them; the budgets of code lines in the table are kept as they are,
since raising one is a decision.
"""

import ast
import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
EVERYWHERE = {"errors", "files", "progress"}  # arrows to what everybody uses would hide the others


def files_of(part: str) -> list[Path]:
    """Return the Python files of `lib/<part>`, a package or a module; of `serve` for `serve`."""
    path = ROOT / "serve" if part == "serve" else ROOT / "lib" / part
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def parts() -> list[str]:
    """Return the packages and modules of lib by name."""
    found = [
        p for p in (ROOT / "lib").iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()
    ]
    return sorted(p.stem for p in found if p.stem != "__init__")


def imported(path: Path) -> set[str]:
    """Return the parts of lib that a file imports, at its top or within a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "lib":
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lib."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found.update(name[1] for name in names if name[0] == "lib" and len(name) > 1)
    return found


def arrows() -> dict[str, set[str]]:
    """Return {part: the parts that it imports}, itself and what everybody uses left out."""
    return {
        part: set().union(*map(imported, files_of(part))) - {part} - EVERYWHERE
        for part in [*parts(), "serve"]
        if part not in EVERYWHERE
    }


def picture() -> str:
    """Return the Mermaid drawing of the arrows that are not implied by a longer way round."""
    known = arrows()

    def reached(part: str, way: tuple[str, ...] = ()) -> set[str]:
        """Return all that a part imports, directly or not."""
        if part in way:
            raise SystemExit(f"imports run in a circle: {' -> '.join([*way, part])}")
        found = set(known.get(part, ()))
        for other in known.get(part, ()):
            found |= reached(other, (*way, part))
        return found

    lines = ["```mermaid", "graph TD"]
    for part, others in sorted(known.items()):
        implied = set().union(*(reached(other) for other in others))
        lines += [f"  {part} --> {other}" for other in sorted(others - implied)]
    return "\n".join([*lines, "```"])


def code_lines(path: Path) -> int:
    """Return the number of lines that hold code: no blank lines, comments or docstrings."""
    source = path.read_text(encoding="utf-8")
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def about(part: str) -> str:
    """Return the first line of a package's docstring."""
    path = ROOT / "lib" / part / "__init__.py"
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]


def budgets(text: str) -> dict[str, int]:
    """Return the budgets of code lines that the page states, {package: lines}."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \|$", text, re.MULTILINE)
    return {package: int(lines.replace(",", "")) for package, lines in rows}


def table(text: str) -> str:
    """Return the table of packages: what each is for, its files, its budget of code lines."""
    kept = budgets(text)
    lines = ["| package | what it is for | files | budget of code lines |", "|---|---|---|---:|"]
    for part in parts():
        if (ROOT / "lib" / part).is_dir():
            modules = [p.stem for p in files_of(part) if p.stem != "__init__"]
            budget = kept.get(part) or sum(map(code_lines, files_of(part)))
            lines.append(f"| `{part}` | {about(part)} | {', '.join(modules)} | {budget:,} |")
    return "\n".join(lines)


def redrawn(text: str) -> str:
    """Return the page with its picture and its table as the code has them now."""
    for name, content in (("picture", picture()), ("packages", table(text))):
        block = f"<!-- {name} -->\n{content}\n<!-- /{name} -->"
        text = re.sub(
            rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, b=block: b, text, flags=re.S
        )
    return text


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
