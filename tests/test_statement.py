"""A recipe as one SQL statement: its result is what the pipeline derives, whatever the table holds.

Spark runs it in tests/test_spark.py.
"""

import json
import re

import duckdb
import pandas as pd
import pytest
import sqlglot
import yaml
from conftest import ROOT
from warehouse import SHOP, assert_same, by_id, by_the_pipeline, shop, simulated_payments

from lib.bundle.recipe import KINDS, PARTS
from lib.data import dialects, features, histories, shares, statement, statement_command
from lib.data.cuts import Instants
from lib.data.datasets import Dataset, load_description, prepare, read_transactions
from lib.data.shares import Rarity
from lib.data.times import ticks
from lib.errors import DataError


def having(kinds):
    """SHOP with the first of its features of each of these kinds."""
    found = {}
    for feature in SHOP["features"]:
        for kind in kinds:
            if kind in feature and isinstance(feature, dict):
                found.setdefault((kind, feature["time"] if kind == "time" else ""), feature)
    return SHOP | {"features": ["eur", *found.values()]}


OF_TIMES = having(("category", "time", "count", "mean", "since_last", "fraud_rate"))
OF_CATEGORIES = SHOP | {
    "features": [each for each in SHOP["features"] if "category" in each or "time" in each]
}


def run(sql, **tables):
    """What DuckDB answers, UTC being its session's time zone."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, frame in tables.items():
            connection.register(name, frame)
        return connection.execute(sql).df()


def printed(capsys, *arguments):
    """(exit code, output, errors) of the command."""
    code = statement_command.main([*map(str, arguments)])
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.fixture
def described(tmp_path):
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump(SHOP))
    return path


def test_the_example_has_every_feature_that_a_description_can_ask_for():
    asked = [feature for feature in SHOP["features"] if isinstance(feature, dict)]
    assert {kind for feature in asked for kind in feature} >= set(KINDS)
    assert {feature["time"] for feature in asked if "time" in feature} == set(PARTS)


@pytest.mark.parametrize("table", [simulated_payments, shop])
def test_what_is_printed_for_duckdb_derives_what_the_pipeline_derives(table, capsys, tmp_path):
    dataset, frame = table()
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump(SHOP))
    name = path if dataset.name == "shop" else dataset.name
    code, out, err = printed(capsys, "--dataset", name, "--dialect", "duckdb")
    assert (code, err) == (0, "")
    found = run(out, **{dataset.name: frame})
    assert list(found.columns) == statement.result_columns(dataset)
    assert len(found) == len(frame)
    assert_same(by_id(dataset, found), by_the_pipeline(dataset, frame))
    # what is no feature stays as it was
    first = dataset.ids[0]
    kept = [c for c in dataset.columns if c in found and c not in dataset.features]
    for column in {*kept} - {dataset.amount, dataset.weight, *dataset.recipe.coordinates}:
        pd.testing.assert_series_equal(
            found.set_index(first, drop=False)[column].sort_index(),
            frame.set_index(first, drop=False)[column].sort_index(),
            check_dtype=False,
        )


def test_the_windows_are_those_that_the_pipeline_runs():
    dataset = load_description("payments")
    of_card = [f for f in dataset.recipe.histories if f.entity == "card"]
    run_here = histories.sql(of_card)
    written = statement.statement(dataset, "payments")
    names = statement.Names.of(dataset)
    for ours, theirs in (("number_0", names.checked["amount"]), ("t", names.instant)):
        run_here = re.sub(rf"\b{ours}\b", theirs, run_here)
    expressions = re.findall(r"^(?:SELECT row_number,\n)?  (.*) AS feature_\d+,?$", run_here, re.M)
    assert len(expressions) == len(of_card)
    assert [each for each in expressions if each not in written] == []
    frames = re.findall(r"RANGE BETWEEN .* PRECEDING", run_here)
    assert [each for each in frames if each not in written] == []


def test_a_time_that_is_a_number_and_times_before_1970():
    mapping = OF_TIMES | {"time": "t", "time_unit": "ms"}
    del mapping["timezone"]
    dataset = Dataset.from_dict(mapping)
    _, frame = shop(600)
    since = frame["paid at"] - pd.Timestamp("2024-04-01")
    frame["t"] = since.dt.total_seconds() * 1e3
    found = run(statement.statement(dataset, "shop"), shop=frame)
    assert_same(by_id(dataset, found), by_the_pipeline(dataset, frame))


@pytest.mark.parametrize(
    ("time", "time_format", "written"),
    [
        ("t", "%d.%m.%Y %H:%M", lambda time: {"t": time.dt.strftime("%d.%m.%Y %H:%M")}),
        (
            ["day", "clock"],
            None,
            lambda time: {"day": time.dt.normalize(), "clock": time.dt.strftime("%H:%M:%S.%f")},
        ),
        ("t", None, lambda time: {"t": time.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}),
    ],
)
def test_times_in_other_shapes(time, time_format, written):
    mapping = OF_TIMES | {"time": time}
    if time_format is not None:
        mapping["time_format"] = time_format
    dataset = Dataset.from_dict(mapping)
    _, frame = shop(400)
    frame = frame.assign(**written(frame.pop("paid at")))
    found = run(statement.statement(dataset, "shop"), shop=frame)
    assert_same(by_id(dataset, found), by_the_pipeline(dataset, frame))


def test_names_of_ours_give_way_to_the_user_s():
    """Columns that are called like steps and columns of the statement, and a table like a step."""
    dataset = Dataset.from_dict(
        {
            "name": "x",
            "time": "_instant",
            "amount": "_row_weight",
            "features": [
                "_row_weight",
                "weight",
                {"category": "share"},
                {"category": "word", "name": "_share"},
                {"sum": "weight", "of": "n", "within": "1d", "name": "_clock"},
                {"time": "is_night"},
            ],
            "entities": ["n"],
            "ids": ["checked"],
            "missing": "median",
        }
    )
    _, frame = shop(300)
    columns = ["paid at", "eur", "age", "kind", "merchant", "card", "order"]
    names = ["_instant", "_row_weight", "weight", "share", "word", "n", "checked"]
    frame = frame[columns].set_axis(names, axis=1)
    frame["_row_weight"] = frame["_row_weight"].abs()
    found = run(statement.statement(dataset, "checked"), checked=frame)
    assert_same(by_id(dataset, found), by_the_pipeline(dataset, frame))


@pytest.mark.parametrize("seed", range(4))
def test_reference_ends_where_a_split_ends_it(seed):
    """Few rows, many of one instant, unequal weights: shares show which rows were counted."""
    dataset = Dataset.from_dict(
        {"name": "x", "time": "t", "features": [{"category": "kind"}], "weight": "w", "ids": ["id"]}
    )
    _, frame = shop(60, seed)
    times = frame["paid at"].dt.floor(["30s", "6h", "2D", "8h"][seed])
    frame = pd.DataFrame({"t": times, "kind": frame["merchant"], "w": frame["w"]})
    frame["id"] = [f"{i:03d}" for i in range(len(frame))]
    found = run(statement.statement(dataset, "x"), x=frame)
    checked = with_half_as_reference(dataset, frame)
    assert_same(by_id(dataset, found), checked)


def with_half_as_reference(dataset, frame):
    """What the pipeline derives where reference is half, and there may be no later batches."""
    checked = features.derive(dataset, prepare(dataset, frame, "memory"))
    instants = Instants.of(ticks(checked[dataset.time_column]), checked[dataset.weight].to_numpy())
    end = instants.row[instants.nearest(0.5 * instants.total)]
    known = features.encoders(dataset, checked.iloc[:end])
    return by_id(dataset, features.encode(dataset, checked, known))


def test_shares_of_a_split_of_a_bundle_and_of_a_given_time(tmp_path, capsys):
    dataset, frame = Dataset.from_dict(OF_CATEGORIES), shop()[1]
    described = tmp_path / "shop.yaml"
    described.write_text(yaml.safe_dump(OF_CATEGORIES))
    known = {
        name: {"shares": {"food": 0.75, "m'1": 1e-5, "": 0.2}, "unseen": 1e-7}
        for name in ("kind", "kind again", "merchant_rarity")
    }
    expected = by_the_pipeline(dataset, frame, known=known)
    for file, content in (
        ("splits.json", {"encoders": known}),
        ("manifest.json", {"recipe": {"encoders": known}}),
    ):
        folder = tmp_path / file.partition(".")[0]
        folder.mkdir()
        (folder / file).write_text(json.dumps(content))
        code, out, _ = printed(capsys, "--dataset", described, "--encoders", folder)
        assert code == 0
        assert_same(by_id(dataset, run(out, shop=frame)), expected)
    ordered = frame.sort_values("paid at", kind="stable")
    until = ordered["paid at"].iloc[400]
    code, out, _ = printed(
        capsys, "--dataset", described, "--reference-until", f"{until.isoformat()}Z"
    )
    derived = features.derive(dataset, prepare(dataset, frame, "memory"))
    known = features.encoders(dataset, derived[(derived["paid at"] < until).to_numpy()])
    expected = by_the_pipeline(dataset, frame, known=known)
    assert_same(by_id(dataset, run(out, shop=frame)), expected)


def test_only_the_most_frequent_values_are_known(monkeypatch):
    for module in (features, shares):
        monkeypatch.setattr(module, "MAX_VALUES", 3)
    dataset, frame = Dataset.from_dict(OF_CATEGORIES), shop()[1]
    found = run(statement.statement(dataset, "shop"), shop=frame)
    assert_same(by_id(dataset, found), by_the_pipeline(dataset, frame))
    assert found["merchant_rarity"].nunique() <= 4


def test_the_resulting_table_is_described(described, tmp_path, capsys):
    """Its features are columns: what the pipeline reads of it are the features of the recipe."""
    dataset, frame = shop()
    target = tmp_path / "derived.yaml"
    code, out, _ = printed(capsys, "--dataset", described, "--yaml", target)
    assert code == 0
    plain = load_description(target)
    assert plain.features == dataset.features
    assert plain.recipe.derived == ()
    assert plain.weight == "w"
    assert plain.name == "shop-derived"
    run(out, shop=frame).to_parquet(tmp_path / plain.raw.path)
    read = by_id(plain, read_transactions(plain, plain.raw_path))
    assert_same(read, by_the_pipeline(dataset, frame))
    mapping = {key: value for key, value in SHOP.items() if key != "weight"}
    assert statement.description(Dataset.from_dict(mapping))["weight"] == "weight"


def test_the_documented_description_is_the_one_that_is_written():
    described = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs/own-table.md").read_text(), re.M | re.S
    )
    dataset = Dataset.from_dict(yaml.safe_load(described[0]))
    (block,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/scale.md").read_text(), re.M | re.S)
    shown = Dataset.from_dict(yaml.safe_load(block))
    written = Dataset.from_dict(statement.description(dataset))
    assert shown == written


@pytest.mark.parametrize("dialect", ["spark", "databricks", "snowflake", "bigquery", "tsql"])
def test_dialects_are_printed_and_those_that_nobody_ran_say_so(dialect, tmp_path, capsys):
    described = tmp_path / "shop.yaml"
    described.write_text(yaml.safe_dump(having([*KINDS, *PARTS])))
    code, out, err = printed(capsys, "--dataset", described, "--dialect", dialect)
    assert code == 0
    is_run = dialect == "spark"
    assert ("Nobody has run" in err) != is_run
    assert ("-- Nobody has run" in out) != is_run
    body = [line for line in out.splitlines() if not line.startswith("--")]
    assert body[0].startswith("WITH")
    assert not re.search(r"NULLS (FIRST|LAST)", out)
    if dialect in dialects.OF_SPARK:
        assert "SIZE(COLLECT_SET(" in out.upper()
        assert not re.search(r"COUNT\(DISTINCT", out, re.I)


def test_a_statement_that_a_dialect_cannot_have_is_refused_in_a_sentence(monkeypatch):
    def fail(*_, **__):
        raise AttributeError("'Identifier' object has no attribute 'sql_name'")

    monkeypatch.setattr(sqlglot.generator.Generator, "generate", fail)
    with pytest.raises(DataError, match="--dialect bigquery: sqlglot cannot write") as caught:
        dialects.translated("SELECT 1", "bigquery")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dialect", "sparck"], ["'sparck'", "did you mean 'spark'"]),
        (["--dialect", "Spark"], ["'Spark'", "did you mean 'spark'"]),
        (["--encoders", "nowhere"], ["nowhere", "split", "bundle"]),
        (["--reference-until", "noon"], ["'noon'", "2024-03-31"]),
        (["--reference-until", "nan"], ["'nan'", "not a time"]),
        (["--yaml", "/dev/null/x.yaml"], ["/dev/null", "cannot be written"]),
    ],
)
def test_what_cannot_be_printed_is_refused_in_a_sentence(arguments, words, described, capsys):
    code, out, err = printed(capsys, "--dataset", described, *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert [word for word in words if word not in err] == []


def test_a_table_without_a_recipe_or_an_order_is_refused(capsys):
    code, _, err = printed(capsys, "--dataset", "creditcard")
    assert code == 2
    assert "derives nothing" in err
    mapping = {"name": "x", "time": None, "features": [{"category": "kind"}]}
    with pytest.raises(DataError, match="--encoders"):
        statement.statement(Dataset.from_dict(mapping), "x")
    known = {"kind": {"shares": {"a": 0.5}, "unseen": 0.25}}
    frame = pd.DataFrame({"kind": ["a", "b"]})
    found = run(statement.statement(Dataset.from_dict(mapping), "x", Rarity(known)), x=frame)
    assert found["kind"].tolist() == pytest.approx([0.6931471805599453, 1.3862943611198906])
    with pytest.raises(DataError, match="no shares of 'kind'"):
        statement.statement(Dataset.from_dict(mapping), "x", Rarity({}))
