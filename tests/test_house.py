"""The rules of the house: imports point one way, packages keep budgets, docstrings say enough."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EVERYONE = {"errors", "files", "progress"}
MAY_IMPORT = {  # package of lib -> what it may import besides itself and EVERYONE
    "bundle": set(),
    "data": {"bundle"},
    "detectors": {"bundle"},
    "engine": {"bundle", "data"},
    "evaluation": {"bundle", "data", "detectors"},
    "registry": {"bundle", "data", "detectors", "evaluation"},
    "reporting": {"bundle", "data", "detectors", "evaluation"},
    "pipeline": {"bundle", "data", "engine", "evaluation", "registry", "reporting"},
    "production": {
        "bundle",
        "data",
        "detectors",
        "engine",
        "evaluation",
        "registry",
        "reporting",
    },
    "notebook": {"bundle", "data", "registry", "reporting"},
    "errors": set(),
    "files": set(),
    "progress": set(),
}
PACKAGES = sorted(name for name in MAY_IMPORT if (ROOT / "lib" / name).is_dir())


def python_files(place):
    path = ROOT / place
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def imported(path):
    """The dotted names of lib that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("lib."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write it in full, as everywhere else"
            if node.module == "lib":
                yield from (f"lib.{alias.name}" for alias in node.names)
            elif node.module.startswith("lib."):
                yield node.module


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package):
    files = python_files(f"lib/{package}")
    assert files
    for path in files:
        for name in imported(path):
            other = name.split(".")[1]
            allowed = other == package or other in EVERYONE or other in MAY_IMPORT[package]
            assert allowed, (
                f"{path.relative_to(ROOT)} imports {name}: lib.{package} must not know lib.{other}"
            )


def test_every_part_of_lib_has_a_place_in_the_order():
    there = {
        p.stem
        for p in (ROOT / "lib").iterdir()
        if p.suffix == ".py" or (p / "__init__.py").is_file()
    }
    assert there - {"__init__"} == set(MAY_IMPORT)


def test_the_server_imports_the_bundle_and_nothing_else_of_lib():
    found = {name.split(".")[1] for path in python_files("serve") for name in imported(path)}
    assert found
    assert found <= {"bundle", "errors", "files"}


def test_only_the_registry_imports_mlflow():
    users = set()
    for path in [*python_files("lib"), *python_files("serve"), ROOT / "run_pipeline.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "mlflow" for name in names):
                users.add(path.relative_to(ROOT).parts[:2])
    assert users == {("lib", "registry")}


def drawing():
    """docs/draw_architecture.py as a module."""
    path = ROOT / "docs" / "draw_architecture.py"
    specification = importlib.util.spec_from_file_location("draw_architecture", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_architecture_page_is_as_the_code_has_it():
    drawn = drawing()
    text = drawn.PAGE.read_text(encoding="utf-8")
    assert text == drawn.redrawn(text), "run make architecture"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_keeps_to_its_budget_of_code_lines(package):
    drawn = drawing()
    budget = drawn.budgets(drawn.PAGE.read_text(encoding="utf-8"))[package]
    lines = sum(map(drawn.code_lines, python_files(f"lib/{package}")))
    assert lines <= budget, f"lib/{package} has {lines} lines of code, its budget is {budget}"
    assert lines > 0.6 * budget, (
        f"lib/{package} has {lines} lines of code: lower its budget of {budget}"
    )


def public_functions(path):
    """(name, node) of what a module offers: functions, classes, methods without an underscore."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            for child in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
                    yield f"{node.name}.{child.name}", child


@pytest.mark.parametrize("path", python_files("lib"), ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_public_has_a_docstring(path):
    for name, node in public_functions(path):
        assert ast.get_docstring(node), f"{path.relative_to(ROOT)}: {name} has no docstring"


ARRAYS = {"X", "y", "weight", "raw_score", "anomaly_score", "time_s"}
SHAPE = re.compile(r"\(\w+(, ?\w+)*,?\)|Arrays|:meth:|see |See |as in")


@pytest.mark.parametrize("path", python_files("lib"), ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_of_arrays_state_shapes(path):
    for name, node in public_functions(path):
        if isinstance(node, ast.FunctionDef):
            given = {a.arg for a in [*node.args.args, *node.args.kwonlyargs]} & ARRAYS
            if given:
                said = ast.get_docstring(node) or ""
                assert SHAPE.search(said), (
                    f"{path.relative_to(ROOT)}: {name} takes {given} of which shape?"
                )


def test_notebooks_are_committed_as_text():
    check = [sys.executable, str(ROOT / ".ci" / "notebooks.py")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    "path", [*python_files("benchmarks"), *python_files("docs")], ids=lambda p: p.name
)
def test_scripts_that_no_test_runs_import_what_is_there(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lib":
            module = importlib.import_module(node.module)
            for alias in node.names:
                found = hasattr(module, alias.name)
                if not found and hasattr(module, "__path__"):
                    found = importlib.util.find_spec(f"{node.module}.{alias.name}") is not None
                assert found, f"{path.name} imports {alias.name} from {node.module}"
