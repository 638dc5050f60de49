"""What is served is what was decided: no other name's model takes its place unasked, and every page
says what is served.
"""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from bundles import rows, write
from conftest import ROOT
from pipelines import SMALL, Here, Project

from lib import bundle
from lib.pipeline.console import NOT_EXPORTED, summary, told
from lib.pipeline.notebook_execution import Execution
from lib.pipeline.stages import STAGES, notebook
from lib.registry import serving, tracking
from lib.registry.serving import Model, Now
from lib.reporting import names, pages

EXPORT = next(stage for stage in STAGES if stage.short == "export")


def now(champion="2", bundle="2", name="fraud-detector", **changes):
    """What is served: versions of the champion and of the bundle, None for nothing."""
    return Now(
        as_of="2026-01-02T03:04:05+00:00",
        name="fraud-detector",
        champion=champion
        and Model("fraud-detector", champion, "fusion", 0.998, "2026-01-01T00:00:00+00:00"),
        bundle=bundle and Model(name, bundle, "fusion", 0.998, dataset="creditcard", source="full"),
        **changes,
    )


# --- what is there
# ------------------------------------------------------------------------------------------------


def test_a_bundle_is_named_with_what_it_is_for(tmp_path):
    assert serving.exported(tmp_path) == (None, "")
    write(
        tmp_path / "bundle",
        provenance={"registered_name": "fraud-detector-shop", "exported_at": "then"},
    )
    found, damage = serving.exported(tmp_path / "bundle")
    assert (found.name, found.version, found.dataset, found.since, damage) == (
        "fraud-detector-shop",
        "3",
        "simulated",
        "then",
        "",
    )
    (tmp_path / "bundle" / "model.onnx").write_bytes(b"broken")
    found, damage = serving.exported(tmp_path / "bundle")
    assert found is None
    assert "model.onnx" in damage


@pytest.mark.parametrize(
    ("state", "words_said"),
    [
        (
            now(),
            ["Champion now: fraud-detector version 2 (fusion)", "since 2026", "serve/model holds"],
        ),
        (now(champion="1"), ["They differ", "--only 07_export"]),
        (now(bundle="2", name="fraud-detector-shop"), ["another registered name", "--replace"]),
        (now(bundle=None), ["serve/model is empty"]),
        (now(bundle=None, damage="model.onnx was changed"), ["cannot be served", "was changed"]),
        (now(champion=None), ["fraud-detector has none"]),
        (now(champion=None, unknown="unknown (no answer)"), ["no answer"]),
    ],
)
def test_what_is_served_is_said_in_sentences(state, words_said):
    text = " ".join(state.sentences())
    assert [word for word in words_said if word not in text] == []


# --- what a run decided, and what is served
# -------------------------------------------------------------------------

PROMOTED = {
    "dataset": "creditcard",
    "source": "full",
    "alert_budget": 0.002,
    "models": {},
    "champion": {
        "model": "fusion",
        "name": "fraud-detector",
        "version": "2",
        "metric": "average_precision",
    },
    "verdict": {"action": "promote", "promote": "fusion", "reasons": ["it is better"]},
}


def test_a_promotion_that_was_rolled_back_is_not_called_the_champion():
    assert (
        names.headline(PROMOTED, now())
        == "Fusion was promoted to champion, fraud-detector version 2."
    )
    rolled_back = names.headline(PROMOTED, now(champion="1", withdrawn={"2": "too many alerts"}))
    assert "This run promoted Fusion" in rolled_back
    assert "withdrawn (too many alerts)" in rolled_back
    assert "version 1 is the champion" in rolled_back
    assert "another has taken its place" in names.headline(PROMOTED, now(champion="3"))


@pytest.fixture
def run(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(PROMOTED))
    return SimpleNamespace(folder=tmp_path, name="run", info={"dataset": "creditcard"})


def test_the_console_says_what_is_served(run):
    state = now(champion="1", withdrawn={"2": "too many alerts"})
    text = told(summary(run, [], "done", now=state), state)
    assert "withdrawn (too many alerts)" in text
    assert "Champion now: fraud-detector version 1" in text
    assert "was promoted to champion" not in text
    assert "make serve" in text
    empty = now(bundle=None)
    assert "make serve" not in told(summary(run, [], "done", now=empty), empty)


def test_an_export_that_was_held_back_is_a_normal_end_of_its_own(run):
    (run.folder / "stages" / EXPORT.name).mkdir(parents=True)
    said = {
        "not_exported": "Not exported: model holds fraud-detector version 1; --replace puts "
        "another there."
    }
    (run.folder / "stages" / EXPORT.name / "metrics.json").write_text(json.dumps(said))
    task = SimpleNamespace(
        name=EXPORT.name,
        job=SimpleNamespace(stage=EXPORT),
        status="done",
        why="",
        record={},
        is_whole=True,
    )
    state = now()
    found = summary(run, [task], "done", now=state)
    assert found["status"] == NOT_EXPORTED
    assert "--replace" in told(found, state)
    assert summary(run, [task], "failed", now=state)["status"] == "failed"


def test_pages_say_what_is_served_and_what_became_of_a_champion(tmp_path):
    folder = tmp_path / "20260101-000000-creditcard"
    folder.mkdir()
    period = {"n": 10, "n_frauds": 1, "weight": 10.0, "start": 0, "end": 1}
    splits = {name: period for name in ("reference", "validation", "untouched")}
    metrics = PROMOTED | {"splits": splits, "seed": 0, "alert_budgets": [0.002]}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "run.json").write_text(json.dumps({"status": "done", "dataset": "creditcard"}))
    pages.write(folder, now=now())
    assert "Champion now: fraud-detector version 2" in (folder / "index.html").read_text()
    assert "champion now" in (tmp_path / "index.html").read_text()
    pages.write(folder, now=now(champion="1", withdrawn={"2": "too many alerts"}))
    for page in (folder / "index.html", tmp_path / "index.html"):
        text = page.read_text()
        assert "version 1" in text
        assert "withdrawn" in text
        assert "was promoted to champion" not in text


# --- the fallback ---------------------------------------------------------------------------------
# ------------------


@pytest.fixture
def small(tmp_path, capsys, monkeypatch):
    return Here(Project.create(tmp_path / "project"), capsys, monkeypatch)


def real_bundle(project):
    write(project.folder / "serve" / "model", dataset={"name": "shop", "source": "custom"})


def real_run(project):
    folder = project.folder / "reports" / "20260101-000000-creditcard"
    folder.mkdir(parents=True)
    about = {
        "dataset": "creditcard",
        "status": "done",
        "asked": {},
        "raw_file": "/mnt/cards/creditcard.csv",
    }
    (folder / "run.json").write_text(json.dumps(about))


@pytest.mark.parametrize("past", [real_bundle, real_run])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_simulated_transactions_never_stand_in_where_real_ones_have_been(small, past, dry):
    past(small)
    _, said = small.run(*dry, code=2)
    assert "This folder has held real transactions" in said
    assert "--dataset simulated" in said
    if past is real_run:
        assert "/mnt/cards/creditcard.csv" in said
    assert not list(small.folder.glob("data/simulated/*"))


def test_simulated_transactions_stand_in_where_there_has_been_nothing_else(small):
    for _ in range(2):
        out, said = small.run("-p", "rows", "3000", "--until", "split")
        assert "SIMULATED TRANSACTIONS stand in" in out + said


def test_real_transactions_may_be_asked_to_make_room(small):
    real_run(small)
    small.run(*SMALL, "--until", "split")


# --- the notebook ---------------------------------------------------------------------------------
# ------------------


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """An MLflow store in which two names have a champion."""
    folder = tmp_path_factory.mktemp("registry")
    kept = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    try:
        for seed, name in enumerate(("fraud-detector-simulated", "fraud-detector-other")):
            made = write(folder / name, seed=seed, name=name, version=None)
            X = rows(500, seed=seed)
            np.savez(made / "parity.npz", X=X, raw_score=bundle.load(made).raw_score(X))
            tracking.register(made, name)
        yield os.environ["MLFLOW_TRACKING_URI"]
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI")
        if kept is not None:
            os.environ["MLFLOW_TRACKING_URI"] = kept


def exported(tmp_path, registry, name, **parameters):
    """Execute 07_export for a registered name -> its metrics.json."""
    run = tmp_path / "run"
    given = {
        "run_dir": str(run),
        "bundle_dir": str(tmp_path / "model"),
        "track": False,
        "dataset": "simulated",
    }
    environment = {**os.environ, "MLFLOW_TRACKING_URI": registry}
    outcome = Execution(
        notebook(ROOT, EXPORT),
        run / "07",
        given | {"registered_name": name} | parameters,
        ROOT,
        environment,
    ).run()
    assert outcome.message == ""
    return json.loads((run / "stages" / EXPORT.name / "metrics.json").read_text())


def test_an_export_replaces_another_name_only_when_told(tmp_path, registry):
    first = exported(tmp_path, registry, "fraud-detector-other")
    assert (first["not_exported"], first["withheld"]) == ("", [])
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

    held = exported(tmp_path, registry, "fraud-detector-simulated")
    assert "fraud-detector-other version 1" in held["not_exported"]
    assert "--replace" in held["not_exported"]
    assert held["withheld"] == ["serve/model"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert serving.exported(tmp_path / "run" / "bundle")[0].name == "fraud-detector-simulated"

    exported(tmp_path, registry, "fraud-detector-simulated", replace=True)
    assert serving.exported(tmp_path / "model")[0].name == "fraud-detector-simulated"
