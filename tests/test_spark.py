"""The statement that is printed for Spark, and the functions of a part, on Spark itself."""

import re

import bundles
import pandas as pd
import pyarrow.parquet as pq
import pytest
import spark
import yaml
from by_parts import N, description, scores_in, write_table
from conftest import ROOT
from warehouse import SHOP, assert_same, by_id, by_the_pipeline, shop, simulated_payments

from lib import bundle
from lib.data import statement
from lib.data.datasets import load_description, read_transactions
from lib.engine import executors
from lib.production import scoring, thin

pytestmark = [pytest.mark.check, pytest.mark.xdist_group("spark")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return spark.install(tmp_path_factory.mktemp("pyspark"))


@pytest.fixture(scope="module")
def warehouse(environment, tmp_path_factory):
    """A folder in which Spark has run what is printed for it, and {name: description, rows}."""
    folder = tmp_path_factory.mktemp("warehouse")
    (folder / "shop.yaml").write_text(yaml.safe_dump(SHOP))
    tables = {"payments": simulated_payments(), "shop": shop()}
    for name, (_, frame) in tables.items():
        frame.to_parquet(folder / f"{name}.parquet")
        described = folder / "shop.yaml" if name == "shop" else name
        words = ["--dataset", described, "--dialect", "spark"]
        words += ["--yaml", folder / f"{name}-derived.yaml"]
        environment_of_print = environment | {"TZ": "UTC"}
        printed = spark.run(environment_of_print, "-m", "lib.data.features", *words)
        (folder / f"{name}.sql").write_text(printed)
    spark.run(environment, spark.__file__, folder)
    return folder, tables


@pytest.mark.parametrize("name", ["payments", "shop"])
def test_spark_derives_what_duckdb_derives(name, warehouse):
    folder, tables = warehouse
    dataset, frame = tables[name]
    found = pd.read_parquet(folder / f"{name}-derived.parquet")
    assert list(found.columns) == statement.result_columns(dataset)
    assert len(found) == len(frame)
    assert_same(by_id(dataset, found), by_the_pipeline(dataset, frame))


@pytest.mark.parametrize("name", ["payments", "shop"])
def test_the_pipeline_goes_on_from_spark_s_table(name, warehouse, tmp_path):
    """Its description reads it, cell by cell, and the engine thins it."""
    folder, tables = warehouse
    dataset, frame = tables[name]
    plain = load_description(folder / f"{name}-derived.yaml")
    read = read_transactions(plain, plain.raw_path)
    assert_same(by_id(plain, read), by_the_pipeline(dataset, frame))
    run = thin.Run(plain, str(plain.raw_path), str(tmp_path / "thin.parquet"), rows=600)
    record = thin.thin(run, executors.Inline())
    assert record["of"] == len(frame)
    assert pq.read_metadata(tmp_path / "thin.parquet").num_rows == record["rows"]


def test_the_functions_of_a_part_run_on_spark_as_the_docs_show(environment, tmp_path):
    """The lines of docs/scale.md, to the letter: the scores are those of one process."""
    (lines,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/scale.md").read_text(), re.M | re.S
    )
    script = tmp_path / "on_spark.py"
    script.write_text(lines)
    (tmp_path / "table").mkdir()
    table = write_table(tmp_path / "table")
    dataset = description()
    described = tmp_path / "described.yaml"
    described.write_text(yaml.safe_dump(dataset.to_dict()))
    served = bundles.write(tmp_path / "model", "mixture", features=dataset.features)
    said = spark.run(environment, script, described, table, served, tmp_path / "out")
    assert f"{N:,}" in said
    scoring.score_table(dataset, table, bundle.load(served), tmp_path)
    expected = pd.read_parquet(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(scores_in(tmp_path / "out"), expected, check_exact=True)
