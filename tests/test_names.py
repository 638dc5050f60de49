"""A user's columns may have any name: none is taken for one of ours, in any file, table or
figure.
"""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import columns as data_columns
from lib.data.datasets import Arrays, Dataset
from lib.engine import scored
from lib.production import drift, monitoring, replay
from lib.reporting import dashboard, eda_plots, names, plots, run_descriptions, tables
from serve.rows import Rows as ServedRows

OURS = [
    *monitoring.LOGGED,
    *scored.COLUMNS,
    "weight",
    "features",
    "batch",
    "name",
    "is_score",
    drift.SCORE,
]
AWKWARD = [
    "",
    " ",
    "a.b",
    "a/b",
    "'q'",
    '"',
    "$",
    "$x$ $",
    "_hidden",
    "two\nlines",
    "<b>",
    "|",
    "`",
    "é",
    "x" * 300,
]
ANY_NAME = st.one_of(st.sampled_from([*OURS, *map(str.upper, OURS), *AWKWARD]), st.text(max_size=8))


@settings(deadline=None, max_examples=60)
@given(st.lists(ANY_NAME, max_size=6, unique=True))
def test_beside_ours_every_name_is_free_and_most_stay(columns):
    found = data_columns.beside(OURS, columns)
    lower = {name.casefold() for name in OURS}
    assert list(found) == columns
    assert len(set(found.values())) == len(columns)
    for column, name in found.items():
        assert name.casefold() not in lower
        assert name == column or (
            column.casefold() in lower and name.endswith(column) and name.startswith("id.")
        )


def stream(folder, features, ids):
    """A deployment's folder with one batch of three rows; the second was refused."""
    n = 3
    log = pd.DataFrame(
        {"position": np.arange(n), "request": 0, "anomaly_score": [0.1, np.nan, 0.9]}
    )
    log = log.assign(
        alert=np.array([0, 0, 1], np.int8), model_version="1", latency_ms=1.0, n_tries=1
    )
    log = log.assign(status=[200, 422, 200])
    X = np.arange(n * len(features), dtype=np.float32).reshape(n, -1)
    X[0, 0] = np.nan
    data = Arrays(X, np.full(n, -1, np.int8), np.array([1.0, 2.0, 3.0]), np.arange(n) * 10.0, None)
    made = monitoring.Stream(folder, features)
    made.keep(
        "batch_01",
        log,
        data,
        pd.DataFrame({name: ["refused"] * n for name in ids}) if ids else None,
    )
    return made, log, data


@settings(deadline=None, max_examples=40)
@given(
    st.lists(ANY_NAME, min_size=1, max_size=5, unique=True),
    st.lists(ANY_NAME.filter(bool), max_size=4, unique=True),
)
def test_a_log_gives_back_what_the_server_said_whatever_the_columns_are_called(
    tmp_path_factory, features, ids
):
    folder = tmp_path_factory.mktemp("stream")
    made, log, data = stream(folder, features, ids)
    read = made.log("batch_01")
    pd.testing.assert_frame_equal(read, log.assign(time_s=data.time_s))
    X, weight = made.asked("batch_01")
    np.testing.assert_array_equal(X, data.X)
    assert weight.tolist() == [1, 2, 3]
    columns = pq.read_schema(folder / "log" / "batch_01.parquet").names
    assert len({*columns}) == len(replay.COLUMNS) + 1 + len(ids)
    assert all(name in columns or f"id.{name}" in columns for name in ids)


@settings(deadline=None, max_examples=40)
@given(st.lists(ANY_NAME.filter(bool), min_size=1, max_size=5, unique=True))
def test_a_table_of_scores_keeps_ours_and_theirs_apart(columns):
    time, *ids = columns
    dataset = Dataset(name="t", time=time, features=("f",), ids=tuple(ids))
    frame = pd.DataFrame({time: [1.0, 2.0], **{name: ["x", "y"] for name in ids}})
    score = np.array([0.25, 0.75])
    found = scored.Scored(raw=score, score=score, alert=np.array([0, 1]))
    table = scored.table(dataset, frame, 5, found)
    assert table["position"].to_pylist() == [5, 6]
    assert table["anomaly_score"].to_pylist() == [0.25, 0.75]
    assert table["alert"].to_pylist() == [0, 1]
    assert len(set(table.column_names)) == 3 + len(columns)


@pytest.fixture
def reference():
    """Two features called like our column of scores, one of them all missing."""
    rng = np.random.default_rng(0)
    X = np.c_[rng.normal(size=(600, 2)), np.full(600, np.nan)].astype(np.float32)
    data = Arrays(X, np.full(600, -1, np.int8), np.ones(600), np.arange(600) * 60.0, None)
    features = [drift.SCORE, "$\\frac$ $x", "is_score"]
    return drift.Reference(features, data, rng.random(600), drift.MonitorOptions(clock=False))


def test_drift_of_a_feature_called_like_the_score_is_not_drift_of_the_score(reference):
    rng = np.random.default_rng(1)
    X = np.c_[rng.normal(5, 1, 300), rng.normal(size=300), np.full(300, np.nan)]
    table = reference.compare(X, np.ones(300), np.arange(300) * 60.0, rng.random(300))
    assert table["is_score"].sum() == 1
    assert table.index.is_unique
    assert table.loc[drift.SCORE, "flagged"]
    assert not table.loc[reference.score, "flagged"]
    batch = pd.concat({"batch_01": table}, names=["batch", "name"]).reset_index()
    fig, ax = plots.figure()
    dashboard.drift(ax, batch, dashboard._shown(batch, ()))
    fig.canvas.draw()
    plt.close(fig)


def test_first_values_of_an_empty_feature_are_drift_and_no_crash(reference):
    rng = np.random.default_rng(2)
    quiet = np.c_[rng.normal(size=(300, 2)), np.full(300, np.nan)]
    table = reference.compare(quiet, np.ones(300), np.arange(300) * 60.0, rng.random(300))
    assert not table["flagged"].any()
    table = reference.compare(
        np.nan_to_num(quiet, nan=7.0), np.ones(300), np.arange(300) * 60.0, rng.random(300)
    )
    assert table.index[table["flagged"]].tolist() == ["is_score"]
    gone = np.c_[np.full((300, 1), np.nan), quiet[:, 1:]]
    table = reference.compare(gone, np.ones(300), np.arange(300) * 60.0, rng.random(300))
    assert table.loc[drift.SCORE, "flagged"]
    assert table.loc[drift.SCORE, "missing"] == 1


def test_figures_take_any_name():
    awkward = [*AWKWARD, *OURS]
    fig, axes = plots.figure(1, 3)
    eda_plots.bars(axes[0], awkward, np.arange(len(awkward), dtype=float), "distance")
    assert len(axes[0].patches) == len(awkward), (
        "a bar each, also where shortened names are the same"
    )
    eda_plots.heatmap(axes[1], np.eye(len(awkward)), awkward)
    plots.by_class(
        axes[2], np.full(9, np.nan), np.full(9, -1), np.ones(9), plots.plain("$a$ \\frac{")
    )
    axes[2].set_title(plots.plain("$x$") + " KS")
    fig.canvas.draw()
    assert [text.get_text() for text in axes[0].get_yticklabels()][6] == r"\$"
    plt.close(fig)


def test_rank_correlation_takes_empty_and_constant_features():
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    X = np.column_stack([x, 2 * x, np.full(50, np.nan), np.ones(50), np.where(x > 0, x, np.nan)])
    found = eda_plots.rank_correlation(X)
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 4] > 0.7
    assert (found[2, [0, 1, 3, 4]] == 0).all()
    assert np.isfinite(found).all()


def test_tables_in_markdown_stay_tables():
    table = pd.DataFrame({"a|b": ["x\ny", ""]}, index=pd.Index(["|", "<b>"], name="n"))
    lines = tables.markdown(table).splitlines()
    assert lines == ["| n | a\\|b |", "|---|---|", "| \\| | x y |", "| <b> |  |"]


@pytest.mark.parametrize(
    ("name", "shown"), [("a`b", "`` a`b ``"), ("x\ny", "`x y`"), ("", "`(no name)`")]
)
def test_names_as_code(name, shown):
    assert names.code(name) == shown


def test_rows_by_name_take_any_name():
    features = [*dict.fromkeys([*AWKWARD, *OURS, "features", 'a"b', "weight", "Weight"])]
    rows = ServedRows(features, "refuse", 10)
    row = {name: float(i) for i, name in enumerate(features)}
    body = {"features": [row, dict(reversed(row.items()))]}
    X = rows.decode(json.dumps(body).encode())
    assert X.tolist() == [list(range(len(features)))] * 2


def test_long_names_are_shortened_where_they_do_not_differ():
    names = [f"mean_amount_of_this_customer_over_the_last_{k}_days" for k in (7, 30)]
    shown = [plots.plain(name, 24) for name in names]
    assert shown == ["mean_amount_…last_7_days", "mean_amount_…ast_30_days"]
    assert max(map(len, shown)) <= 24
    assert eda_plots.with_distance(names[0], 0.333) == "mean_amount_…last_7_days\nKS 0.33"
    assert eda_plots.with_distance("V1", np.nan) == "V1"


def test_a_threshold_that_follows_the_budget_is_no_promotion():
    champion = {"model": "robust_covariance", "name": "fraud-detector", "version": "2"}
    verdict = {"action": "promote", "resets": "50 reviews a day"}
    said = names.headline({"champion": champion, "verdict": verdict})
    assert said == (
        "Robust covariance stays champion; its threshold is now set for 50 reviews a day "
        "(fraud-detector version 2)."
    )


def test_a_candidate_that_was_fitted_alone_is_said(tmp_path):
    stage = {"stage": "08b_lof", "status": "done"}
    (tmp_path / "stages" / "08b_lof").mkdir(parents=True)
    figure = {"value": 0.572, "low": 0.4, "high": 0.7}
    recorded = {"lof": {"validation": {"average_precision": figure}}, "intervals": {"n_frauds": 9}}
    (tmp_path / "stages" / "08b_lof" / "metrics.json").write_text(json.dumps(recorded))
    [said] = run_descriptions.not_compared(tmp_path, [stage])
    assert said.startswith("Lof: average precision 0.572 [0.400, 0.700] on validation")
    both = [stage, {"stage": "09_comparison", "status": "done"}]
    assert run_descriptions.not_compared(tmp_path, both) == []
