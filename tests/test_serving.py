"""What is served is what was decided: no other name's model takes its place unasked, and every page
says what is served.
"""

import json
import os
import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from bundles import rows, write
from conftest import ROOT
from pipelines import SMALL, Here, Project

import run_pipeline
from lib import bundle
from lib.pipeline.console import summary, told
from lib.pipeline.notebook_execution import NotebookExecution
from lib.pipeline.runs import Run
from lib.pipeline.settings import Settings
from lib.pipeline.stages import STAGES, notebook
from lib.registry import export, serving, tracking
from lib.registry.serving import Model, Now
from lib.reporting import names, pages
from lib.reporting.names import NOT_EXPORTED

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
        (now(champion="1"), ["They differ", "--only 10_export"]),
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


def test_people_read_of_a_variant_in_words():
    state = now()
    variant = "robust_covariance@train_on=all,isolated=0.15"
    champion = replace(state.champion, model=variant)
    told = " ".join(names.served(replace(state, champion=champion)))
    assert "version 2 (Robust covariance (no labels, 15 % isolated))" in told
    assert "(Fusion)" in told
    assert "@" not in told


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


def test_the_console_calls_the_models_in_remarks_as_people_do(run):
    remarks = ["Labels would help: supervised_trees has average_precision 0.860 on validation."]
    (run.folder / "metrics.json").write_text(json.dumps(PROMOTED | {"remarks": remarks}))
    text = told(summary(run, [], "done", now=now()), now())
    assert "Labels would help: Supervised trees has average precision 0.860" in text


def test_the_console_says_what_is_served(run):
    state = now(champion="1", withdrawn={"2": "too many alerts"})
    text = told(summary(run, [], "done", now=state), state)
    assert "withdrawn (too many alerts)" in text
    assert "Champion now: fraud-detector version 1" in text
    assert "was promoted to champion" not in text
    assert "make serve" in text
    empty = now(bundle=None)
    assert "make serve" not in told(summary(run, [], "done", now=empty), empty)


def test_page_and_console_begin_with_what_is_served_in_the_same_words(run):
    state = now()
    facts = names.served_facts(state)
    assert facts["version"] == "fraud-detector version 2"
    text = told(summary(run, [], "done", now=state), state)
    title = names.served_title(state)
    assert text.startswith(f"{title}\n")
    (run.folder / "run").mkdir()
    page = pages.write(run.folder / "run", now=state).read_text()
    runs = (run.folder / "index.html").read_text()
    heading = f'<h2 id="serving">{title}</h2>'
    assert heading in page
    assert heading in runs
    for name, said in facts.items():
        assert f"<dt>{name}</dt><dd>{said}</dd>" in page
        assert said in text
    nothing = now(bundle=None)
    assert names.served_title(nothing) == "Served now: nothing"
    assert "serve/model is empty" in told(summary(run, [], "done", now=nothing), nothing)


def test_times_are_written_for_people():
    assert names.when("2026-11-27T01:15:41+01:00") == "27 November 2026, 00:15 UTC"
    assert names.when("by hand") == "by hand"


def test_an_export_that_was_held_back_is_a_normal_end_of_its_own(run):
    (run.folder / "stages" / EXPORT.name).mkdir(parents=True)
    said = {
        "not_exported": "serve/model holds fraud-detector version 1; --replace puts another there."
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
    assert "fraud-detector version 2" in (folder / "index.html").read_text()
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


def damaged_bundle(project):
    real_bundle(project)
    (project.folder / "serve" / "model" / "model.onnx").write_bytes(b"broken")


def champion_of_a_shop(project):
    with sqlite3.connect(project.folder / "mlflow.db") as connection:
        connection.executescript(
            """
            CREATE TABLE experiments (name);
            CREATE TABLE registered_model_aliases (name, alias, version);
            CREATE TABLE model_version_tags (name, version, key, value);
            INSERT INTO registered_model_aliases VALUES ('fraud-detector-shop', 'champion', 1);
            INSERT INTO model_version_tags VALUES ('fraud-detector-shop', 1, 'source', 'custom');
            """
        )


@pytest.mark.parametrize("past", [damaged_bundle, champion_of_a_shop])
def test_a_damaged_bundle_and_any_real_champion_are_proof_too(small, past, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    past(small)
    _, said = small.run(code=2)
    assert "This folder has held real transactions" in said


def test_a_simulated_table_of_another_name_is_no_proof(small):
    folder = small.folder / "reports" / "20260101-000000-mine"
    folder.mkdir(parents=True)
    about = {"dataset": "mine", "source": "simulated", "status": "done", "asked": {}}
    (folder / "run.json").write_text(json.dumps(about))
    small.run("-p", "rows", "3000", "--until", "split")


def test_what_was_accepted_once_is_not_inherited(tmp_path):
    folder = tmp_path / "20260101-000000-shop"
    folder.mkdir()
    parameters = {"10_export.replace": True, "09_comparison.accept": True, "seed": 3}
    about = {"dataset": "shop", "asked": {"dataset": "/tables/shop.yaml", "parameters": parameters}}
    (folder / "run.json").write_text(json.dumps(about))
    asked = run_pipeline.laid_over(Settings(dataset="shop"), Run(folder))
    assert asked == Settings(dataset="/tables/shop.yaml", parameters={"seed": 3})
    again = run_pipeline.laid_over(Settings(parameters={"10_export.replace": True}), Run(folder))
    assert again.parameters == {"seed": 3, "10_export.replace": True}


def test_what_was_accepted_once_is_no_reason_to_run_again(small):
    small.run(*SMALL, "--accept")
    _, said = small.run(*SMALL)
    assert "Nothing has changed" in said


def test_no_request_is_offered_for_a_model_that_is_not_served(tmp_path):
    run = tmp_path / "20260101-000000-shop"
    (run / "models" / "fusion").mkdir(parents=True)
    champion = {"name": "fraud-detector-shop", "version": "1", "model": "fusion"}
    period = {"n": 10, "n_labelled": 10, "n_frauds": 1}
    metrics = {
        "champion": champion,
        "models": {},
        "splits": dict.fromkeys(["reference", "validation", "untouched"], period),
        "dataset": "shop",
        "seed": 0,
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    manifest = {"reference": {"median": [1.0, 2.0]}}
    (run / "models" / "fusion" / "manifest.json").write_text(json.dumps(manifest))
    offered = {}
    for status in ("done", NOT_EXPORTED):
        pages.write(run, [], status, now(name="fraud-detector-shop"))
        offered[status] = "[[1.0, 2.0]]" in (run / "index.html").read_text()
    assert offered == {"done": True, NOT_EXPORTED: False}


def test_a_part_says_which_run_it_reuses_and_how_that_ended(small):
    small.run(*SMALL, "--until", "split")
    (run,) = small.runs
    about = json.loads((run / "run.json").read_text()) | {"status": "failed"}
    (run / "run.json").write_text(json.dumps(about))
    _, said = small.run("--only", "split", "--force", "split")
    assert f"reports/{run.name} (failed)" in said


def test_a_rollback_rewrites_pages_and_descriptions(small):
    small.run(*SMALL)
    small.run("--rollback", "--why", "too many alerts")
    entries = small.logged("describe")
    assert [entry["id"] for entry in entries] == [
        json.loads((run / "run.json").read_text())["mlflow_run"] for run in small.runs
    ]


def test_the_list_remembers_how_each_run_ended_and_what_became_of_each_champion(tmp_path):
    for name, dataset in (("fraud-detector", "creditcard"), ("fraud-detector-shop", "shop")):
        folder = tmp_path / f"20260101-00000{len(dataset)}-{dataset}"
        folder.mkdir()
        (folder / "index.html").write_text("page")
        metrics = PROMOTED | {"champion": PROMOTED["champion"] | {"name": name}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        about = {"status": "done", "outcome": NOT_EXPORTED, "dataset": dataset}
        (folder / "run.json").write_text(json.dumps(about))

    def look(name):
        champion = Model(name, "1")
        return Now("", name, champion, None, withdrawn={"2": "too many alerts"})

    pages.write_index(tmp_path, {}, now(), look)
    text = (tmp_path / "index.html").read_text()
    assert text.count(NOT_EXPORTED) == 2
    assert "champion now" in text
    assert "withdrawn" in text


def test_a_damaged_bundle_of_another_name_is_not_overwritten(tmp_path):
    folder = tmp_path / "serve" / "model"
    write(folder, provenance={"registered_name": "fraud-detector"})
    (folder / "model.onnx").write_bytes(b"broken")
    said = export.held_back(folder, "fraud-detector-shop", "shop.yaml")
    assert "serve/model holds fraud-detector, damaged" in said
    assert "--dataset shop.yaml --replace" in said
    assert export.held_back(folder, "fraud-detector", "creditcard") == ""


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
    """Execute 10_export for a registered name -> its metrics.json."""
    run = tmp_path / "run"
    given = {
        "run_dir": str(run),
        "bundle_dir": str(tmp_path / "model"),
        "track": False,
        "dataset": "simulated",
    }
    environment = {**os.environ, "MLFLOW_TRACKING_URI": registry}
    outcome = NotebookExecution(
        notebook(ROOT, EXPORT),
        run / "10",
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
