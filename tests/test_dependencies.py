"""What a stage depends on is found, and nothing else: the real detectors and the real notebooks."""

import ast
import inspect

import pytest
from conftest import ROOT

from lib.data import splits
from lib.detectors.registry import DETECTORS, SUPERVISED
from lib.pipeline.dependencies import BY_HAND, imported_files, made_from
from lib.pipeline.settings import Settings, jobs
from lib.pipeline.stages import read_cells

NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
FITTED = {  # the detectors that a notebook fits
    "03_isolation_forest": ("isolation_forest",),
    "04_autoencoder": ("autoencoder", "robust_covariance"),
    "05_gaussian_mixture": ("gaussian_mixture",),
    "06_nearest_neighbours": ("nearest_neighbours", "robust_covariance"),
    "07_robust_covariance": ("robust_covariance",),
    "08_empirical_tails": ("empirical_tails",),
    "09_comparison": (*SUPERVISED, "fusion"),
    "12_stability": tuple(DETECTORS),
    "13_few_labels": ("few_labels", "supervised_trees", "gaussian_mixture"),
}
PAIRS = [(notebook, name) for notebook, names in FITTED.items() for name in names]
LATER = {
    *("reporting/cards", "registry/challengers", "evaluation/comparison", "registry/export"),
    *("registry/fused_candidate", "detectors/fusion", "evaluation/gate", "registry/descriptions"),
    *("reporting/pages", "data/simulation", "registry/tracking"),
}


@pytest.fixture(scope="module")
def depends_on():
    """{stage: names of the files that the pipeline finds it to depend on}."""
    return {
        job.stage.name: set(made_from(job, ROOT, {}, {})["files"]) for job in jobs(ROOT, Settings())
    }


def inside(file):
    return file and ROOT / "lib" in ROOT.joinpath(file).parents


@pytest.mark.parametrize(("notebook", "name"), PAIRS)
def test_an_edit_of_a_detector_fits_it_again(depends_on, notebook, name):
    ancestors = [inspect.getsourcefile(cls) for cls in DETECTORS[name]().__mro__[:-1]]
    ours = [ROOT.joinpath(file) for file in ancestors if inside(file)]
    needed = {*ours, *imported_files([], ROOT, ours)}
    assert len(ours) >= 2  # the class and the contract
    assert {path.relative_to(ROOT).as_posix() for path in needed} <= depends_on[notebook]


def test_every_detector_is_fitted_by_some_notebook():
    assert {name for _, name in PAIRS} == set(DETECTORS)


@pytest.mark.parametrize(
    "notebook",
    [
        *("03_isolation_forest", "04_autoencoder", "05_gaussian_mixture"),
        *("06_nearest_neighbours", "07_robust_covariance", "08_empirical_tails"),
    ],
)
def test_an_edit_of_what_comes_after_the_fit_does_not_fit_again(depends_on, notebook):
    found = depends_on[notebook]
    assert found & {f"lib/{name}.py" for name in LATER} == set()
    families = {
        "lib/detectors/registry.py": (),
        "lib/detectors/supervised_trees.py": (),
        "lib/detectors/autoencoder.py": ("04_autoencoder",),
        "lib/detectors/gaussian_mixture.py": ("05_gaussian_mixture",),
        "lib/detectors/robust_covariance.py": (
            "04_autoencoder",
            "05_gaussian_mixture",
            "06_nearest_neighbours",
            "07_robust_covariance",
        ),
        "lib/detectors/nearest_neighbours.py": ("06_nearest_neighbours",),
        "lib/detectors/empirical_tails.py": ("08_empirical_tails",),
    }
    assert {file for file in families if file in found} == {
        file for file, stages in families.items() if notebook in stages
    }


def test_another_simulator_makes_other_data(tmp_path, monkeypatch):
    before = splits.find("simulated", rows=3_000).source_id
    edited = tmp_path / "simulation.py"
    edited.write_text((ROOT / "lib" / "data" / "simulation.py").read_text() + "\n# edited\n")
    monkeypatch.setattr("lib.data.simulation.__file__", str(edited))
    assert splits.find("simulated", rows=3_000).source_id != before


def test_the_files_that_must_not_count_are_there():
    missing = [name for name in LATER if not (ROOT / "lib" / f"{name}.py").is_file()]
    assert missing == []


def test_what_a_notebook_imports_only_by_hand_stands_behind_its_parameter():
    for importer, modules in BY_HAND.items():
        tree = ast.parse((ROOT / importer).read_text())
        guarded = [
            node
            for branch in ast.walk(tree)
            if isinstance(branch, ast.If) and ast.unparse(branch.test) == "self.track"
            for node in ast.walk(branch)
        ]
        for module in modules:
            package, _, name = module.rpartition(".")
            imports = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom)
                and node.module in (package, module)
                and (node.module == module or name in [alias.name for alias in node.names])
            ]
            assert imports
            assert all(node in guarded for node in imports)


def test_nothing_is_imported_by_a_name_in_a_string():
    """Such imports are invisible to the pipeline, which follows statements."""
    by_name = ("import_module", "__import__", "spec_from_file_location", "find_spec")
    for path in [*ROOT.glob("lib/**/*.py"), *ROOT.glob("serve/**/*.py")]:
        used = {
            getattr(node, "id", getattr(node, "attr", getattr(node, "name", "")))
            for node in ast.walk(ast.parse(path.read_text()))
        }
        assert not used & set(by_name), path
    for path in NOTEBOOKS.values():
        code = "".join(source for kind, source, _ in read_cells(path) if kind == "code")
        assert not any(name in code for name in by_name), path


def write(root, **sources):
    for name, source in sources.items():
        path = root / "lib" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import lib.a", ["a"]),
        ("import lib.a as x, numpy", ["a"]),
        ("from lib import a as x", ["a"]),
        ("from lib.a import f", ["a"]),
        ("def f():\n    if True:\n        from lib import a", ["a"]),
        ("from lib.kin import near", ["kin/__init__", "kin/near", "kin/far", "a"]),
        ("import lib.kin.far", ["kin/__init__", "kin/far", "a"]),
        ("%matplotlib inline\nfrom lib import a\n!ls", ["a"]),
        ("this is no Python", []),
    ],
)
def test_every_form_of_import_is_followed(tmp_path, source, found):
    write(tmp_path, __init__="", a="def f(): ...", b="")
    (tmp_path / "lib" / "kin").mkdir()
    for name, text in {
        "__init__": "",
        "near": "from . import far\nfrom .far import g",
        "far": "from .. import a\nfrom ..a import f",
        "unused": "",
    }.items():
        (tmp_path / "lib" / "kin" / f"{name}.py").write_text(text)
    files = {
        path.relative_to(tmp_path / "lib").with_suffix("").as_posix()
        for path in imported_files([source], tmp_path)
    }
    assert files == ({"__init__", *found} if found else set())


def test_a_parser_that_another_thread_disturbs_is_asked_again(monkeypatch):
    """As CPython 3.11 fails where two threads parse at once."""
    parse, failures = ast.parse, iter([SystemError("AST constructor recursion depth mismatch")] * 3)

    def disturbed(source):
        for failure in failures:
            raise failure
        return parse(source)

    monkeypatch.setattr(ast, "parse", disturbed)
    found = imported_files(["import lib.errors"], ROOT)
    assert ROOT / "lib" / "errors.py" in found
