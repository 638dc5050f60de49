"""The rules of the house: imports, the notebooks' format, nothing that belongs to one machine."""

import ast
import re
import statistics
import subprocess
import sys
from functools import cache

import nbformat
import pytest
from conftest import ROOT

HEAVY = {
    "torch",
    "sklearn",
    "pandas",
    "mlflow",
    "papermill",
    "matplotlib",
    "scipy",
    "onnx",
    "onnxscript",
    "pyarrow",
}
PICKLE = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
HOSTS = r"p[y]pi\.org|p[y]thonhosted|n[p]mjs\.|d[e]bian\.org|anaconda\.[o]rg|p[y]torch\.org/whl"
HOSTS += r"|/w[o]rk/|/r[o]ot/|/t[m]p/"
PARAMETER = re.compile(r"(\w+): (str|int|float|bool|list|tuple)[\w\[\], .|]* = ([^=#]+?)  # [^=]+")

LIB = sorted((ROOT / "lib").rglob("*.py"))
SERVE = sorted((ROOT / "serve").glob("*.py"))
PYTHON = [*LIB, *SERVE, *sorted(ROOT.glob("*.py"))]
NOTEBOOKS = [
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    *sorted((ROOT / "notebooks" / "templates").glob("*.ipynb")),
]


def name(path):
    return str(path.relative_to(ROOT))


@cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def tracked():
    """Text files in git, and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    paths = [ROOT / each for each in names if each and (ROOT / each).is_file()]
    return [path for path in paths if b"\0" not in path.read_bytes()[:4096]]


def at_import(tree):
    """Nodes that run when the module is imported: all but the bodies of functions."""
    todo = list(tree.body)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))


def imports(nodes):
    """Dotted names of what import statements among the nodes may import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{each.name}" for each in node.names))


def packages(path, seen=None):
    """Top-level packages that the file imports anywhere, itself or through modules of ours."""
    seen = {path} if seen is None else seen
    found = set()
    for dotted in imports(ast.walk(parse(path))):
        found.add(dotted.partition(".")[0])
        place = ROOT / dotted.replace(".", "/")
        for ours in (place.with_suffix(".py"), place / "__init__.py"):
            if ours.is_file() and ours not in seen:
                seen.add(ours)
                found |= packages(ours, seen)
    return found


@pytest.mark.parametrize("path", LIB, ids=name)
def test_lib_module_is_documented_and_quiet_at_import(path):
    assert ast.get_docstring(parse(path)), "say in a docstring what the module is for"
    public = [node for node in parse(path).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert [
        node.name for node in public if node.name[0] != "_" and not ast.get_docstring(node)
    ] == []
    used = {node.attr for node in at_import(parse(path)) if isinstance(node, ast.Attribute)}
    assert (
        used & {"environ", "getenv", "basicConfig", "mkdir", "read_text", "read_csv", "write_text"}
        == set()
    )


def test_mlflow_is_imported_by_tracking_alone_and_only_when_used():
    users = [
        path
        for path in PYTHON
        if any(each.split(".")[0] == "mlflow" for each in imports(ast.walk(parse(path))))
    ]
    assert {name(path) for path in users} <= {"lib/registry/tracking.py"}
    assert "mlflow" not in {
        each.split(".")[0] for path in LIB for each in imports(at_import(parse(path)))
    }


@pytest.mark.parametrize("path", [ROOT / "lib" / "bundle" / "__init__.py", *SERVE], ids=name)
def test_server_and_bundle_need_nothing_heavy_and_no_pickle(path):
    assert packages(path) & (HEAVY | PICKLE) == set()


def test_bundle_needs_numpy_onnxruntime_and_the_standard_library():
    others = packages(ROOT / "lib" / "bundle" / "__init__.py") - set(sys.stdlib_module_names)
    assert others <= {"lib", "numpy", "onnxruntime"}


@pytest.mark.parametrize("path", [path for path in tracked() if path.suffix == ".py"], ids=name)
def test_no_error_is_swallowed_and_no_test_is_skipped(path):
    handlers = [node for node in ast.walk(parse(path)) if isinstance(node, ast.ExceptHandler)]
    assert [
        node.lineno for node in handlers if node.type is None or isinstance(node.body[0], ast.Pass)
    ] == []
    assert (
        re.findall(
            r"pytest\.(?:mark\.)?(?:skip|xfail)\w*|unittest\.skip\w*|T[O]DO|F[I]XME",
            path.read_text(),
        )
        == []
    )


def test_no_file_names_a_package_host_or_a_path_of_one_machine():
    found = {name(path): re.findall(HOSTS, path.read_text(encoding="utf-8")) for path in tracked()}
    assert {path: hosts for path, hosts in found.items() if hosts} == {}


def test_no_data_and_nothing_big_is_in_git():
    assert [
        name(path)
        for path in tracked()
        if path.suffix in {".csv", ".parquet", ".onnx", ".db", ".gz"}
    ] == []
    big = {
        name(path): path.stat().st_size
        for path in tracked()
        if not path.name.startswith("requirements")
    }
    assert {path: size for path, size in big.items() if size > 300_000} == {}


@pytest.mark.parametrize("path", [path for path in tracked() if path.suffix == ".md"], ids=name)
def test_document_names_files_and_make_targets_that_exist(path):
    text = path.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`|&& )make ([a-z]+)", text, re.M)) <= targets


@pytest.fixture(params=NOTEBOOKS, ids=name)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_notebook_is_valid_and_says_what_it_asks_reads_and_writes(notebook):
    nbformat.validate(notebook)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert [
        word for word in ("Question", "Reads", "Writes", "Runtime") if word not in first.source
    ] == []
    assert notebook.metadata.kernelspec.name == "python3"


def test_notebook_has_one_cell_of_parameters_each_with_type_default_and_meaning(notebook):
    (cell,) = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    lines = [line for line in cell.source.splitlines() if not line.startswith("#")]
    parsed = [PARAMETER.fullmatch(line) for line in lines]
    assert [line for line, match in zip(lines, parsed, strict=True) if not match] == []
    for match in parsed:
        ast.literal_eval(match[3])


def test_notebook_has_short_cells_without_magic_classes_or_silenced_warnings(notebook):
    lengths = [len(cell.source.splitlines()) for cell in code(notebook)]
    assert max(lengths) <= 25
    assert statistics.median(lengths) <= 10
    for cell in code(notebook):
        assert not re.search(
            r"^\s*[%!]|sys\.path|filterwarnings|simplefilter|get_ipython", cell.source, re.M
        ), cell.source
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not any(isinstance(node, ast.ClassDef) for node in nodes), cell.source
        assert "mlflow" not in {each.split(".")[0] for each in imports(nodes)}, cell.source
        assert len(re.findall(r"plt\.(?:subplots|figure)\(", cell.source)) <= 1, cell.source
        assert not re.search(r"(?:open|Path|read_\w+)\(f?[\"']", cell.source), "paths come from lib"


def test_notebook_keeps_no_output_but_what_nbval_compares(notebook):
    for cell in code(notebook):
        compared = "NBVAL_CHECK_OUTPUT" in cell.source
        assert bool(cell.outputs) == (cell.execution_count is not None) == compared, cell.source
        assert "execution" not in cell.metadata


def test_notebook_ends_by_writing_its_metrics(notebook):
    assert ".finish(" in code(notebook)[-1].source
