"""Tables scored and thinned part by part: here, in processes, and on two workers over TCP."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap

import bundles
import numpy as np
import online
import pandas as pd
import pytest
from by_parts import N, at_part, executions, logged, run_of, scores_in

from lib import bundle
from lib.data import simulation, splits
from lib.data.datasets import Arrays, Dataset, prepare, read_transactions
from lib.engine import executors, parts, score_histogram, scored, storage
from lib.engine.samples import Sample, lots
from lib.engine.score_histogram import Histogram
from lib.engine.time_histogram import TimeHistogram
from lib.errors import DataError
from lib.evaluation import metrics
from lib.production import scoring, scoring_by_parts, thin
from lib.production.week import Promise
from lib.reporting import cards, pages

pytest_plugins = ["by_parts"]
pytestmark = pytest.mark.xdist_group("engine")  # one cluster for all of them


@pytest.fixture(scope="module")
def reference(dataset):
    return dataset.arrays(
        prepare(dataset, simulation.simulate(2_000, seed=1).assign(nr="0"), "reference")
    )


@pytest.fixture
def small_sample(monkeypatch):
    for module in (scoring, scoring_by_parts):
        monkeypatch.setattr(module, "SAMPLE_ROWS", 500)


# --- parts and storage


def test_parts_cover_a_table_in_the_order_of_its_files(table):
    found = parts.of_table(str(table), part_rows=700)
    assert found.rows == N
    assert [part.first for part in found.parts] == list(
        np.cumsum([0, *(part.rows for part in found.parts)])[:-1]
    )
    assert [part.rows for part in found.parts] == [602, 602, 602, 195, 997, 997, 997, 997, 11]
    alone = parts.of_table(str(table / "a.parquet"), part_rows=10_000)
    assert [part.rows for part in alone.parts] == [2_000]


def test_csv_is_left_to_the_local_path(tmp_path):
    (tmp_path / "a.csv").write_text("x\n1\n")
    with pytest.raises(DataError, match="--engine"):
        parts.of_table(str(tmp_path))


def test_addresses_keep_their_query_and_hide_their_secrets():
    place = "s3://key:secret@bucket/folder?endpoint_override=localhost:9000&scheme=http"
    assert storage.join(place, "x") == place.replace("folder?", "folder/x?")
    assert storage.shown(place) == "s3://bucket/folder"
    assert storage.is_within("s3://bucket/a/b?x=1", "s3://bucket/a")
    assert not storage.is_within("s3://bucket/ab", "s3://bucket/a")


def test_a_file_that_is_not_written_whole_is_not_there(tmp_path, monkeypatch):
    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        storage.write(str(tmp_path / "x.parquet"), b"content")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["local:0", "local:many", "host:8786", "http://host"])
def test_an_address_of_no_engine_is_refused(address):
    with pytest.raises(DataError, match="local:4"), executors.opened(address):
        pass


def test_a_scheduler_that_is_not_there_is_named(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(executors, "CONNECT_S", 0.2)
    with pytest.raises(DataError, match="no Dask scheduler"), executors.opened("tcp://127.0.0.1:9"):
        pass


def test_a_place_that_cannot_be_written_is_named(dataset, table, served, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file.*cannot be"):
        scoring_by_parts.score(
            run_of(dataset, table, served, tmp_path / "file" / "out"), executors.Inline()
        )
    with pytest.raises(DataError, match=r"file.*cannot be"):
        thinned(dataset, table, tmp_path / "file" / "thin.parquet")


def test_nothing_of_dask_is_imported_unless_asked_for():
    code = """
        import sys
        import lib.production.scoring, lib.production.thin
        print(sorted({"dask", "distributed"} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# --- scoring


@pytest.mark.usefixtures("small_sample")
def test_scores_and_sample_are_those_of_one_process(
    dataset, table, served, reference, cluster, tmp_path
):
    model = bundle.load(served)
    known = scoring.Known(reference, Promise.of_manifest(model))
    local = scoring.score_table(dataset, table, model, tmp_path / "local", known).report
    expected = pd.read_parquet(tmp_path / "local" / "scores.parquet")
    for engine, rows in (("", 250), ("local:2", 3_000), (cluster.address, 700)):
        out = tmp_path / engine.partition(":")[0]
        run = run_of(dataset, table, served, out, part_rows=rows, labelled=True)
        with executors.opened(engine) as pool:
            report = scoring_by_parts.score(run, pool, reference)
        pd.testing.assert_frame_equal(scores_in(out), expected, check_exact=True)
        assert report["drift"] == local["drift"]
        assert report["drift"]["n"] == 500
        assert report["n_alerts"] == local["n_alerts"] > 20
        of_one = (tmp_path / "local" / "alerts.csv").read_text()
        assert (out / "alerts.csv").read_text() == of_one
        assert of_one.count("\n") == 1 + report["n_alerts"]
        assert "<table" in (out / "alerts.html").read_text()
        assert report["alert_rate"] == pytest.approx(local["alert_rate"])
        assert json.loads((out / "drift.json").read_text()) == json.loads(json.dumps(report))
        names = {path.name for path in (out / "scores").iterdir()}
        assert names == {"_SUCCESS", *(f"part-{i:06d}.parquet" for i in range(report["parts"]))}


def test_the_command_scores_with_labels(dataset, table, served, cluster, tmp_path, capsys):
    import yaml

    described = tmp_path / "cards.yaml"
    described.write_text(yaml.safe_dump(dataset.to_dict()))
    command = [str(table), "--bundle", str(served), "--dataset", str(described)]
    engine = ["--out", str(tmp_path / "out"), "--engine", cluster.address, "--labels"]
    assert scoring.main([*command, *engine]) == 0
    said = capsys.readouterr().out
    assert "average precision" in said
    assert "money" in said
    assert scoring.main([*command, "--labels"]) == 2
    assert "--engine" in capsys.readouterr().err


@pytest.mark.parametrize("kind", bundles.KINDS)
def test_a_score_does_not_depend_on_the_rows_before_it(kind, tmp_path):
    model = bundle.load(bundles.write(tmp_path, kind))
    X = bundles.rows(1_501, seed=3)
    whole = scored.raw_score(model, X, 0)
    np.testing.assert_allclose(whole, model.raw_score(X), rtol=1e-5)
    for size in (1, 2, 3, 7, 13, 511, 513):
        starts = range(0, min(len(X), 100 * size), size)
        pieces = [scored.raw_score(model, X[start : start + size], start) for start in starts]
        found = np.concatenate(pieces)
        np.testing.assert_array_equal(found, whole[: len(found)])


def test_bounds_hold_the_exact_figures(dataset, table, served, tmp_path):
    run = run_of(dataset, table, served, tmp_path, labelled=True)
    report = scoring_by_parts.score(run, executors.Inline())
    data = dataset.arrays(read_transactions(dataset, table))
    raw = scored.raw_score(bundle.load(served), data.X, 0)
    budget = bundle.load(served).manifest["threshold"]["alert_budget"]
    options = metrics.Options(dataset.alert_budgets, budget, n_resamples=0)
    exact = metrics.evaluate(data, {"model": raw}, options)["model"]
    assert "amount_recall_at_budget" in report["figures"]
    for name, pair in report["figures"].items():
        assert pair["low"] - 1e-12 <= exact[name]["value"] <= pair["high"] + 1e-12, name
    assert report["labelled"]["n_frauds"] == (data.y == 1).sum()


@pytest.mark.parametrize("seed", range(20))
def test_bounds_hold_with_ties_weights_and_few_frauds(seed, monkeypatch):
    monkeypatch.setattr(score_histogram, "MAX_BINS", 60)
    rng = np.random.default_rng(seed)
    n = 400
    raw = rng.choice(rng.normal(size=60), n) if seed % 2 else rng.normal(size=n)
    raw = np.where(rng.random(n) < 0.1, rng.choice([0.0, -0.0], n), raw)
    # neighbours that share a bin
    raw = (raw * (1 + rng.integers(-3, 3, n) * 2.0**-14)).astype(np.float32)
    y = rng.choice([0, 1, -1], n, p=[0.8, 0.1, 0.1]).astype(np.int8)
    weight = rng.choice([0.0, 1.0, 2.5], n)
    data = Arrays(np.zeros((n, 1)), y, weight, np.arange(n) * 1.0, rng.exponential(10, n))
    halves = [Histogram.of(raw[rows], data.take(rows)) for rows in (slice(150), slice(150, n))]
    added = halves[0] + halves[1]
    options = metrics.Options((0.01, 0.05, 0.3), 0.1, n_resamples=0)
    found = added.ranking().figures(options.suffixes())
    exact = metrics.evaluate(data, {"model": raw}, options)["model"]
    assert len(added.bins) <= 60
    for name, pair in found.items():
        assert pair.low - 1e-12 <= exact[name]["value"] <= pair.high + 1e-12, name


@pytest.mark.parametrize("max_bins", [40, 300, 1 << 16])
def test_a_histogram_does_not_depend_on_the_parts(max_bins, monkeypatch):
    monkeypatch.setattr(score_histogram, "MAX_BINS", max_bins)
    rng = np.random.default_rng(0)
    n = 3_000
    y = rng.choice([0, 1, -1], n, p=[0.8, 0.1, 0.1]).astype(np.int8)
    # one part has scores close together, whose bins alone would be narrow
    raw = np.where(np.arange(n) < 500, 7 + rng.normal(size=n) * 1e-5, rng.normal(size=n) * 100)
    data = Arrays(np.zeros((n, 1)), y, rng.choice([1.0, 2.5], n), np.arange(n) * 1.0, None)
    whole = Histogram.of(raw, data)
    for ends in ((0, 500, 900, n), (0, 100, 2_000, n)):
        pieces = [slice(*pair) for pair in itertools.pairwise(ends)]
        added = Histogram.empty()
        for rows in pieces[::-1]:
            part = Histogram.of(raw[rows], data.take(rows))
            added += Histogram.from_arrays(part.to_arrays())
        assert added.shift == whole.shift
        np.testing.assert_array_equal(added.bins, whole.bins)
        np.testing.assert_array_equal(added.score, whole.score)
        np.testing.assert_allclose(added.mass, whole.mass, rtol=1e-12)


def test_bounds_are_narrow():
    rng = np.random.default_rng(0)
    n = 200_000
    y = (rng.random(n) < 0.005).astype(np.int8)
    raw = rng.normal(size=n) + 2 * y
    data = Arrays(np.zeros((n, 1)), y, np.ones(n), np.arange(n) * 1.0, None)
    bounds = Histogram.of(raw, data).ranking().figures({"": 0.002})
    assert bounds["average_precision"].high - bounds["average_precision"].low < 5e-4
    assert bounds["recall_at_budget"].high - bounds["recall_at_budget"].low < 5e-4


def test_what_ties_is_certain():
    """As of repeated transactions, and of trees: a few different scores, one in each bin."""
    rng = np.random.default_rng(1)
    n = 2_000
    y = (rng.random(n) < 0.05).astype(np.int8)
    raw = (rng.integers(0, 12, n) + 3 * y).astype(np.float32)
    weight = rng.choice([1.0, 7.5], n)
    data = Arrays(np.zeros((n, 1)), y, weight, np.arange(n) * 1.0, rng.exponential(10, n))
    options = metrics.Options((0.01, 0.05, 0.3), 0.1, n_resamples=0)
    exact = metrics.evaluate(data, {"model": raw}, options)["model"]
    halves = [Histogram.of(raw[rows], data.take(rows)) for rows in (slice(900), slice(900, n))]
    found = (halves[0] + halves[1]).ranking().figures(options.suffixes())
    for name, pair in found.items():
        assert pair.low == pytest.approx(exact[name]["value"], abs=1e-12), name
        assert pair.high == pytest.approx(exact[name]["value"], abs=1e-12), name


def test_with_a_worker_only_what_it_was_doing_is_lost(
    dataset, table, served, cluster, tmp_path, monkeypatch
):
    log = tmp_path / "log"
    killed = []

    def kill():
        killed.append(min(process for _, process in executions(log)))
        os.kill(killed[0], signal.SIGKILL)

    at_part(6, kill, monkeypatch)
    monkeypatch.setattr(scored, "score_part", logged(str(log)))
    run = run_of(dataset, table, served, tmp_path / "out", part_rows=100)
    with executors.opened(cluster.address) as pool:
        report = scoring_by_parts.score(run, pool)
    assert killed
    assert len(scores_in(tmp_path / "out")) == N
    done = [number for number, _ in executions(log)]
    assert set(done) == set(range(report["parts"]))
    assert len(done) <= report["parts"] + 2  # in its hands: one that it did, one not yet fetched
    assert list((tmp_path / "out" / "scores").glob(".*")) == []


def test_a_driver_that_is_killed_is_gone_on_with(dataset, table, served, tmp_path):
    code = f"""
        import os, signal
        from lib.data.datasets import Dataset
        from lib.engine import executors, meter
        from lib.production import scoring_by_parts
        from pathlib import Path

        def add(self, *args, **options):
            self.done += 1
            if self.done == 4:
                os.kill(os.getpid(), signal.SIGKILL)

        meter.Meter.add = add
        dataset = Dataset.from_dict({dataset.to_dict()!r})
        run = scoring_by_parts.Run(
            dataset, {str(table)!r}, Path({str(served)!r}), {str(tmp_path)!r}, part_rows=700
        )
        scoring_by_parts.score(run, executors.Inline())
    """
    script = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    folder = tmp_path / "scores"
    written = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert len(written) == 4
    assert not (folder / "_SUCCESS").exists()
    run = run_of(dataset, table, served, tmp_path)
    report = scoring_by_parts.score(run, executors.Inline())
    assert report["parts_of_an_earlier_run"] == 4
    assert {path: path.stat().st_mtime_ns for path in written} == written
    again = scores_in(tmp_path)
    other = scoring_by_parts.score(
        run_of(dataset, table, served, tmp_path / "other"), executors.Inline()
    )
    pd.testing.assert_frame_equal(again, scores_in(tmp_path / "other"))
    assert other["alert_rate"] == report["alert_rate"]


def test_another_model_or_another_table_is_scored_anew(dataset, table, served, tmp_path):
    run = run_of(dataset, table, served, tmp_path / "out")
    scoring_by_parts.score(run, executors.Inline())
    other = bundles.write(tmp_path / "model", "forest", features=dataset.features)
    changed = scoring_by_parts.score(
        run_of(dataset, table, other, tmp_path / "out", part_rows=2_000), executors.Inline()
    )
    assert changed["parts_of_an_earlier_run"] == 0
    found = scores_in(tmp_path / "out")
    X = np.concatenate([part.frame[list(dataset.features)] for part in checked(dataset, table)])
    expected = scored.score(bundle.load(other), X.astype(np.float32), 0).score
    np.testing.assert_array_equal(found["anomaly_score"], expected)


def checked(dataset, table):
    """The rows of a table, checked, in its order."""
    for part in parts.of_table(str(table)).parts:
        yield from parts.rows_of(dataset, part, labelled=False)


@pytest.mark.parametrize("engine", ["", "cluster"])
def test_a_bad_cell_is_refused_in_the_words_of_the_local_path(
    dataset, table, served, tmp_path, engine, request
):
    address = request.getfixturevalue("cluster").address if engine else ""
    folder = tmp_path / "table"
    folder.mkdir()
    frame = pd.read_parquet(table / "a.parquet")
    frame.to_parquet(folder / "a.parquet")
    frame.loc[1_234, "V3"] = np.nan
    frame.to_parquet(folder / "b.parquet", row_group_size=500)
    with pytest.raises(DataError) as local:
        scoring.score_table(dataset, folder, bundle.load(served), tmp_path / "local")
    run = run_of(dataset, folder, served, tmp_path / "out")
    with pytest.raises(DataError) as found, executors.opened(address) as pool:
        scoring_by_parts.score(run, pool)
    assert str(found.value) == str(local.value)
    assert "b.parquet, row 1,235, column 'V3'" in str(found.value)
    there = {path.name for path in (tmp_path / "out" / "scores").iterdir()}
    assert "_SUCCESS" not in there
    n_before = sum(part.first < 2_000 for part in parts.of_table(str(folder), 700).parts)
    bad = f"part-{n_before + 2:06d}.parquet"
    assert bad not in there


def test_a_column_that_is_missing_is_refused_as_ever(dataset, table, served, tmp_path):
    pd.read_parquet(table / "a.parquet").drop(columns="V9").to_parquet(tmp_path / "x.parquet")
    run = run_of(dataset, tmp_path / "x.parquet", served, tmp_path / "out")
    with pytest.raises(DataError, match="column 'V9' is missing"):
        scoring_by_parts.score(run, executors.Inline())


def test_two_kinds_of_time_are_refused(dataset, table, served, tmp_path):
    frame = pd.read_parquet(table / "a.parquet")
    frame.to_parquet(tmp_path / "a.parquet")
    frame["Time"] = pd.to_datetime(frame["Time"], unit="s")
    frame.to_parquet(tmp_path / "b.parquet")
    run = run_of(dataset, tmp_path, served, tmp_path.parent / "out", part_rows=2_000)
    with pytest.raises(DataError, match=r"a number in .*a\.parquet and a date in .*b\.parquet"):
        scoring_by_parts.score(run, executors.Inline())


def test_the_scores_do_not_go_into_the_table(dataset, table, served):
    with pytest.raises(DataError, match="--out"):
        scoring_by_parts.score(run_of(dataset, table, served, table / "out"), executors.Inline())


def test_histories_are_refused(dataset, table, served, tmp_path):
    described = dataset.to_dict() | {
        "entities": ["nr"],
        "ids": [],
        "features": [*dataset.features, {"count": "nr", "within": "1h"}],
    }
    run = run_of(Dataset.from_dict(described), table, served, tmp_path)
    with pytest.raises(DataError, match="histories"):
        scoring_by_parts.score(run, executors.Inline())


def test_features_that_a_row_tells_by_itself_are_derived_part_by_part(tmp_path):
    recipe = [
        {"category": "kind"},
        {"time": "hour_of_day"},
        {"distance_km": ["lat", "long", "to_lat", "to_long"]},
        {"ratio": ["eur", "lat"]},
    ]
    prepared = online.Prepared(online.shop(recipe), online.table())
    folder = prepared.write(tmp_path / "served", 0)
    later = tmp_path / "later.parquet"
    online.table(seed=5).to_parquet(later, row_group_size=30)
    scoring.score_table(prepared.dataset, later, bundle.load(folder), tmp_path)
    run = run_of(prepared.dataset, later, folder, tmp_path / "out", part_rows=50)
    scoring_by_parts.score(run, executors.Inline())
    expected = pd.read_parquet(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(scores_in(tmp_path / "out"), expected, check_exact=True)


def test_workers_with_other_packages_are_refused(cluster, monkeypatch, request):
    real = executors.importlib.metadata.version
    executors._versions.cache_clear()
    request.addfinalizer(executors._versions.cache_clear)
    monkeypatch.setattr(
        executors.importlib.metadata,
        "version",
        lambda name: "0.1" if name == "pandas" else real(name),
    )
    with (
        pytest.raises(DataError, match=r"worker tcp://.* has pandas .* 0\.1"),
        executors.opened(cluster.address),
    ):
        pass


def test_a_worker_that_joined_later_compares_versions_by_itself():
    assert "numpy" in str(executors.attempt(len, "x", {"numpy": "0.1"}))


def test_lots_are_those_of_one_stream():
    stream = np.random.default_rng(7).random(1_000)
    np.testing.assert_array_equal(lots(7, 0, 1_000), stream)
    np.testing.assert_array_equal(lots(7, 640, 50), stream[640:690])


def test_a_sample_in_chunks_is_the_rows_with_the_smallest_lots():
    n = 5_000
    sample = Sample(100, seed=3)
    position = np.arange(n, dtype=float)
    for rows in np.split(np.arange(n), 77 * np.arange(1, 60)):
        data = Arrays(np.zeros((len(rows), 1)), rows * 0, rows * 0 + 1.0, position[rows], None)
        sample.add(data, position[rows])
    _, found = sample.rows()
    assert found.tolist() == sorted(np.argsort(lots(3, 0, n))[:100])


def test_a_table_without_a_time_has_its_rows_for_one(dataset, tmp_path):
    ordered = Dataset.from_dict(dataset.to_dict() | {"time": None})
    frame = simulation.simulate(2_000, seed=0)[:700].assign(nr="0")
    frame[:400].to_parquet(tmp_path / "a.parquet", row_group_size=100)
    frame[400:].to_parquet(tmp_path / "b.parquet")
    found = []
    for part in parts.of_table(str(tmp_path), 150).parts:
        for rows in parts.rows_of(ordered, part, labelled=False, chunk_rows=70):
            found += rows.frame[ordered.time_column].tolist()
    assert found == list(range(700))
    chunks = scoring.datasets.iter_transactions(ordered, tmp_path, rows_per_chunk=70)
    assert [t for chunk in chunks for t in chunk[ordered.time_column]] == list(range(700))


# --- thinning


def thinned(dataset, table, out, engine="", **options):
    run = thin.Run(dataset, str(table), str(out), **({"rows": 1_500, "part_rows": 700} | options))
    with executors.opened(engine) as pool:
        return thin.thin(run, pool)


def test_the_thinned_sample_depends_neither_on_parts_nor_on_the_engine(
    dataset, table, cluster, tmp_path
):
    tables = []
    for engine, rows in (("", 250), ("", 5_000), (cluster.address, 700)):
        out = tmp_path / f"{len(tables)}.parquet"
        record = thinned(dataset, table, out, engine, part_rows=rows)
        assert json.loads(out.with_suffix(".thin.json").read_text()) == record
        tables.append(out.read_bytes())
    assert record["rows"] == pytest.approx(1_500, rel=0.1)
    assert tables[1] == tables[0]
    assert tables[2] == tables[0]


@pytest.mark.parametrize("by_score", [False, True])
def test_totals_are_exact(by_score, dataset, table, served, tmp_path):
    out = tmp_path / "thin.parquet"
    record = thinned(dataset, table, out, bundle=served if by_score else None)
    whole = dataset.arrays(read_transactions(dataset, table))
    data = dataset.arrays(read_transactions(dataset, out))
    assert (data.y == 1).sum() == (whole.y == 1).sum()
    assert data.weight[data.y == 1].tolist() == [1.0] * (data.y == 1).sum()
    assert record["of"] == N
    edges = [-np.inf, *record["cuts_s"].values(), np.inf]
    for (period, said), low, high in zip(
        record["totals"].items(), edges[:-1], edges[1:], strict=True
    ):
        for name, y in (("genuine", 0), ("fraud", 1)):
            of_all = (whole.y == y) & (whole.time_s >= low) & (whole.time_s < high)
            of_kept = (data.y == y) & (data.time_s >= low) & (data.time_s < high)
            if of_all.any():
                assert said[name]["rows"] == of_all.sum(), period
                assert said[name]["kept"] == of_kept.sum()
                assert data.weight[of_kept].sum() == pytest.approx(of_all.sum(), rel=1e-9)
    shares = [np.mean(whole.time_s < cut) for cut in record["cuts_s"].values()]
    assert shares == pytest.approx([0.5, 0.7], abs=0.005)


def test_notebooks_split_a_thinned_table_and_say_what_it_is(dataset, table, tmp_path):
    out = tmp_path / "thin.parquet"
    record = thinned(dataset, table, out)
    frame = read_transactions(dataset, out)
    split = splits.make(dataset, frame, tmp_path / "split", source="custom", raw_sha256="")
    assert split.manifest["thinned"]["of"] == N
    assert f"{record['rows']:,} of {N:,}" in cards.data(split)
    weights = [split.manifest["periods"][name]["weight"] for name in ("reference", "validation")]
    assert weights == pytest.approx([0.5 * N, 0.2 * N], rel=0.01)


def test_a_report_says_how_many_transactions_there_were():
    period = {"n": 100_000, "n_frauds": 10}
    run = {"dataset": "shop", "source": "custom", "seed": 0, "champion": None}
    run |= {"thinned_from": 2_000_000_000, "splits": dict.fromkeys(pages.PERIODS, period)}
    assert pages._facts(run, [])["transactions"] == "300,000 of 2,000,000,000"


def test_a_table_that_is_small_enough_is_kept_whole(dataset, table, tmp_path):
    record = thinned(dataset, table, tmp_path / "all.parquet", rows=N)
    assert record["rows"] == N
    assert set(pd.read_parquet(tmp_path / "all.parquet")["weight"]) == {1.0}


def test_frauds_beyond_the_cap_are_thinned_too(dataset, table, tmp_path):
    record = thinned(dataset, table, tmp_path / "few.parquet", rows=90)
    frauds = [period["fraud"] for period in record["totals"].values()]
    assert sum(f["kept"] for f in frauds) < sum(f["rows"] for f in frauds)


def test_a_model_draws_rows_by_their_score(dataset, table, served, tmp_path):
    data = dataset.arrays(read_transactions(dataset, table))
    model = bundle.load(served)
    record = thinned(dataset, table, tmp_path / "even.parquet", rows=900)
    start = record["cuts_s"]["validation"]
    later = data.take(data.time_s >= start)
    exact = metrics.average_precision(later.y, model.raw_score(later.X), later.weight)
    errors = {}
    for name, options in (("even", {}), ("by score", {"bundle": served})):
        found = []
        for seed in range(8):
            out = tmp_path / f"{seed}.parquet"
            thinned(dataset, table, out, rows=900, seed=seed, part_rows=10_000, **options)
            part = dataset.arrays(read_transactions(dataset, out))
            part = part.take(part.time_s >= start)
            raw = model.raw_score(part.X)
            found.append(metrics.average_precision(part.y, raw, part.weight))
        errors[name] = np.sqrt(np.mean((np.array(found) - exact) ** 2))
    assert errors["by score"] < errors["even"] / 4


def test_what_cannot_be_thinned_is_refused(dataset, table, tmp_path, capsys):
    plain = Dataset.from_dict(dataset.to_dict() | {"weight": None})
    with pytest.raises(DataError, match="weight: weight"):
        thinned(plain, table, tmp_path / "x.parquet")
    raw = tmp_path / "raw.parquet"
    raw.write_bytes((table / "a.parquet").read_bytes())
    with pytest.raises(DataError, match="no thinned table"):
        thinned(dataset, table, raw)
    assert thin.main([str(tmp_path / "nothing"), "--dataset", "creditcard", "--out", "x"]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(5))
def test_totals_over_time_do_not_depend_on_parts(seed):
    rng = np.random.default_rng(seed)
    n = 2_000
    time_s = rng.normal(size=n) * 10.0 ** rng.integers(-2, 9)
    y = rng.choice([0, 1, -1], n).astype(np.int8)
    weight = rng.integers(0, 4, n).astype(float)
    whole = TimeHistogram.of(time_s, y, weight)
    cuts = np.sort(rng.integers(1, n, 5))
    pieces = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, n], strict=True) if a < b]
    total = None
    for piece in pieces:
        one = TimeHistogram.of(time_s[piece], y[piece], weight[piece])
        total = one if total is None else total + one
    assert total.power == whole.power
    for field in ("bins", "rows", "weight"):
        np.testing.assert_array_equal(getattr(total, field), getattr(whole, field))
