"""A notebook whose inputs are not there says in one sentence which notebook writes them."""

import pytest
from conftest import ROOT

from lib.data import splits
from lib.errors import DataError
from lib.pipeline.stages import read_cells

READERS = (
    "03_isolation_forest",
    "04_autoencoder",
    "05_gaussian_mixture",
    "06_nearest_neighbours",
    "07_robust_covariance",
    "08_empirical_tails",
    "09_comparison",
    "11_production",
)


def start(name, **parameters):
    """Execute the cells of a notebook here, with these parameters, until one of them fails -> its
    error.
    """
    space, parameters = {}, {"track": False} | parameters
    for kind, source, tags in read_cells(ROOT / "notebooks" / f"{name}.ipynb"):
        if kind == "code":
            try:
                exec(source, space)
            except DataError as error:
                return str(error)
        if "parameters" in tags:
            assert parameters.keys() <= space.keys()
            space.update(parameters)
    return ""


@pytest.mark.parametrize("name", READERS)
def test_without_its_split_a_notebook_names_the_one_that_makes_it(name, tmp_path):
    said = start(name, split_dir=str(tmp_path / "nothing"), run_dir=str(tmp_path / "run"))
    assert said.startswith(
        f"{tmp_path / 'nothing'}: there is no whole split; run notebook 02_split"
    )
    assert "\n" not in said


def test_without_a_bundle_production_names_the_notebook_that_exports_it(tmp_path):
    said = start(
        "11_production", bundle_dir=str(tmp_path / "nothing"), run_dir=str(tmp_path / "run")
    )
    assert said.startswith(f"{tmp_path / 'nothing'} holds no bundle; run notebook 10_export first")
    assert "\n" not in said


def test_without_candidates_the_comparison_names_the_notebooks_that_fit_them(tmp_path):
    split = splits.ensure("simulated", rows=4_000, seed=7)
    said = start(
        "09_comparison",
        split_dir=str(split),
        run_dir=str(tmp_path / "run"),
        registered_name="nobody",
    )
    assert said.startswith(
        f"{tmp_path / 'run' / 'models'} holds no candidate of this split; run notebook 03_isolation"
    )
    assert "\n" not in said
