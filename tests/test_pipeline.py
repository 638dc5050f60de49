"""The command line on a small project: what runs, what does not, and why."""

import contextlib
import io
import json
import re
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
from pipelines import FIXTURES, NOTEBOOKS, SMALL, Here, Project

from lib.pipeline.console import PULSE_S, Bars, Progress, summary, told
from lib.pipeline.dependencies import imported_files, made_from
from lib.pipeline.settings import Job
from lib.pipeline.stages import Stage
from lib.registry.serving import Now


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """A small project before any run -> Project."""
    return Project.create(tmp_path_factory.mktemp("pristine") / "project")


@pytest.fixture
def small(pristine, tmp_path, capsys, monkeypatch):
    """A small project before any run."""
    return Here(pristine.copy(tmp_path / "project"), capsys, monkeypatch)


@pytest.fixture
def done(small):
    """A small project after one run."""
    small.run(*SMALL)
    return small


def order(err):
    """Stages in the order in which a run has started them."""
    return [
        line.split("] ")[1][:2]
        for line in err.splitlines()
        if "] " in line and "/" in line.split("] ")[0]
    ]


def test_the_longest_of_those_that_can_run_go_first(small):
    _, err = small.run(*SMALL, "--jobs", 1)
    assert order(err) == ["02", "04", "03", "01", "09", "10"]


def test_a_run_leaves_all_of_it_in_one_folder_and_one_mlflow_run(small):
    summary, statuses = small.summary(*SMALL)
    assert statuses == dict.fromkeys(["01", "02", "03", "04", "09", "10"], "done")
    assert summary["status"] == "done"
    assert summary["champion"]["name"] == "fraud-detector-simulated"
    (run,) = small.runs
    assert (small.folder / "reports" / "latest").resolve() == run
    names = {f"{stage}.{suffix}" for stage in NOTEBOOKS for suffix in ("html", "ipynb")}
    assert {path.name for path in (run / "notebooks").iterdir()} == names
    assert {path.name for path in run.iterdir()} >= {
        "run.yaml",
        "run.json",
        "metrics.json",
        "models",
        "index.html",
    }

    (parent,) = small.logged("start")
    assert parent["tags"] == {"dataset": "simulated", "source": "simulated"}
    children = {entry["stage"]: entry for entry in small.logged("stage")}
    assert set(children) == set(NOTEBOOKS)
    assert all(
        entry["parent"] == parent["id"] and len(entry["files"]) == 2 for entry in children.values()
    )
    assert [len(children[stage]["models"]) for stage in sorted(children)] == [0, 0, 1, 1, 2, 0]
    assert "threshold" not in children["04_autoencoder"]["models"][0]
    assert small.logged("finish")[0]["status"] == "FINISHED"


def test_a_second_run_does_nothing_and_says_so(done):
    _, said = done.run(*SMALL)
    assert f"Nothing has changed since reports/{done.runs[0].name}." in said
    assert len(done.runs) == 1
    assert {status for status, _ in done.planned(*SMALL).values()} == {"up to date"}


def test_a_moved_project_is_still_up_to_date(done, tmp_path, capsys, monkeypatch):
    moved = Here(done.copy(tmp_path / "moved"), capsys, monkeypatch)
    assert {status for status, _ in moved.planned(*SMALL).values()} == {"up to date"}


def test_what_changed_runs_again_in_a_new_folder(done):
    before = done.result()
    changed = done.planned(*SMALL, "-p", "autoencoder.latent", 16)
    assert changed["04"] == ("to run", "parameter latent: 8 → 16")
    assert changed["09"] == ("waiting", "after 04_autoencoder")
    assert changed["03"][0] == "up to date"

    _, statuses = done.summary(*SMALL, "-p", "autoencoder.latent", 16)
    assert statuses == {"01": "up to date", "02": "up to date", "03": "up to date"} | dict.fromkeys(
        ["04", "09", "10"], "done"
    )
    first, second = done.runs
    assert {path.name for path in (second / "models").iterdir()} == {
        "isolation_forest",
        "autoencoder",
    }
    assert (second / "notebooks" / "03_isolation_forest.html").exists()
    assert done.result() != before
    reused = {
        entry["stage"]: entry["tags"].get("reused_from")
        for entry in done.logged("stage")[len(NOTEBOOKS) :]
    }
    assert reused["03_isolation_forest"] == first.name
    assert reused["04_autoencoder"] is None

    # as the first time: only the export has been overwritten since
    _, statuses = done.summary(*SMALL)
    assert [number for number, status in statuses.items() if status == "done"] == ["10"]
    assert done.result() == before


def test_the_reasons_name_the_notebook_the_lock_the_output_and_the_champion(done):
    notebook = done.folder / "notebooks" / "04_autoencoder.ipynb"
    notebook.write_text(notebook.read_text().replace("import time", "import time  # spent"))
    assert done.planned(*SMALL)["04"] == ("to run", "04_autoencoder.ipynb changed")
    done.put("04_autoencoder", "fits_a_candidate")

    (done.folder / "serve" / "model" / "manifest.json").write_text("{}")
    assert done.planned(*SMALL)["10"] == (
        "to run",
        "serve/model/manifest.json is not as it was written",
    )
    assert done.planned(*SMALL, "--force", "eda")["01"] == ("to run", "forced")

    with contextlib.closing(sqlite3.connect(done.folder / "mlflow.db")) as registry, registry:
        registry.execute("CREATE TABLE experiments (name)")
        registry.execute("CREATE TABLE registered_model_aliases (name, alias, version)")
        registry.execute("CREATE TABLE model_version_tags (name, version, key, value)")
        registry.execute("INSERT INTO experiments VALUES ('fraud-pipeline')")
        registry.execute(
            "INSERT INTO registered_model_aliases VALUES ('fraud-detector-simulated', 'champion', "
            "4)"
        )
    assert done.planned(*SMALL)["09"] == ("to run", "registry, champion: None → 4")


def test_outputs_and_metadata_of_a_notebook_do_not_count(done):
    path = done.folder / "notebooks" / "04_autoencoder.ipynb"
    content = json.loads(path.read_text())
    content["cells"][1] |= {"execution_count": 7, "id": "another", "outputs": []}
    content["metadata"]["language_info"] = {"name": "python"}
    path.write_text(json.dumps(content))
    assert done.planned(*SMALL)["04"][0] == "up to date"


def test_files_that_are_imported_by_way_of_others_count(tmp_path):
    (tmp_path / "lib").mkdir()
    sources = {
        "__init__": "",
        "a": "def f():\n    from lib import b",
        "b": "import lib.c as c, numpy",
        "c": "",
        "d": "",
    }
    for name, source in sources.items():
        (tmp_path / "lib" / f"{name}.py").write_text(source)
    found = [
        path.stem
        for path in imported_files(["from lib.a import f", "%magic is no Python"], tmp_path)
    ]
    assert found == ["__init__", "a", "b", "c"]


def test_programs_that_a_stage_starts_count_as_its_own(tmp_path):
    for name, source in {
        "lib/a.py": "",
        "serve/app.py": "from lib import a",
        "serve/app.html": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    (tmp_path / "notebooks").mkdir()
    for name in ("11_production", "04_autoencoder"):
        shutil.copy(FIXTURES / "sleeps.ipynb", tmp_path / "notebooks" / f"{name}.ipynb")
    stage = Stage("11_production", (), starts=("serve/*.py", "notebooks/0[345]_*.ipynb"))
    job = Job(stage, tmp_path / "notebooks" / "11_production.ipynb", {}, frozenset())
    made = made_from(job, tmp_path, {}, {})
    assert list(made["files"]) == ["lib/a.py", "serve/app.py"]
    assert list(made["notebook"]) == ["11_production.ipynb", "04_autoencoder.ipynb"]


def test_what_is_made_again_alike_does_not_make_others_run(done):
    done.folder.joinpath("notebooks/02_split.ipynb").write_text(
        (done.folder / "notebooks" / "02_split.ipynb")
        .read_text()
        .replace("import json", "import json  # only this")
    )
    _, statuses = done.summary(*SMALL)
    assert [number for number, status in statuses.items() if status == "done"] == ["02"]


def test_a_lost_file_is_put_back_and_a_damaged_one_made_again(done):
    model = done.runs[0] / "models" / "autoencoder" / "model.onnx"
    content = model.read_bytes()
    model.unlink()
    done.run(*SMALL)
    assert model.read_bytes() == content
    model.write_bytes(content[:100])  # cut off in place, and so in all links to it
    assert done.planned(*SMALL)["04"] == (
        "to run",
        "run/models/autoencoder/model.onnx is not as it was written",
    )
    done.run(*SMALL)
    assert (done.runs[1] / "models" / "autoencoder" / "model.onnx").read_bytes() == content


def test_a_failing_notebook_is_archived_and_the_same_command_goes_on(small):
    small.put("09_comparison", "fails_in_its_fifth_cell")
    out, _ = small.run(*SMALL, code=1)
    assert "09_comparison failed: cell 5 failed: ValueError: amount -3.0 is negative" in out
    (run,) = small.runs
    assert (run / "notebooks" / "09_comparison.html").exists()
    assert (run / "models" / "autoencoder" / "model.onnx").exists()
    assert not (run / "metrics.json").exists()
    assert {e["stage"]: e["status"] for e in small.logged("stage")}["09_comparison"] == "FAILED"
    assert small.logged("finish")[0]["status"] == "FAILED"

    small.put("09_comparison", "compares_candidates")
    _, said = small.run(*SMALL)
    assert f"Resuming reports/{run.name}" in said
    assert "[1/2] 09_comparison" in said
    assert small.runs == [run]
    assert len({entry["id"] for entry in small.logged("start")}) == 1


def test_what_does_not_depend_on_a_failure_goes_on(small):
    small.put("03_isolation_forest", "fails_in_its_fifth_cell")
    _, statuses = small.summary(*SMALL, "--jobs", 1, code=1)
    assert statuses == {
        "01": "done",
        "02": "done",
        "03": "failed",
        "04": "done",
        "09": "not run",
        "10": "not run",
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-p", "latnt", "3"], "did you mean 'latent'"),
        (
            ["-p", "eda.seed", "3", "--only", "autoencoder"],
            "not among the chosen ones: 04_autoencoder",
        ),
        (["--only", "autoencder"], "did you mean 'autoencoder'"),
        (["--force", "autoencder"], "did you mean 'autoencoder'"),
        (["--dataset", "simulatd"], "did you mean 'simulated'"),
        (["--dataset", "creditcard"], "--raw FILE"),
        (["--dataset", "simulated", "--raw", "/nowhere.csv"], "/nowhere.csv"),
        (["--raw", "/nowhere.csv"], "/nowhere.csv: there is no such file"),
        (["--only", "comparison", *SMALL[:2]], "needs what 02_split writes"),
        (["--config", "/nowhere.yaml"], "nowhere.yaml cannot be read"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(small, arguments, said):
    _, err = small.run(*arguments, code=2)
    assert said in err
    assert not (small.folder / "reports").exists()


def test_bad_rows_are_refused_before_anything_is_trained(small):
    (small.folder / "data" / "mine.yaml").write_text(
        "name: mine\ntime: t\nlabel: y\nfeatures: [a]\n"
    )
    rows = [f"{t},{t % 7},{int(t % 9 == 0)}" for t in range(2000)]
    rows[700] = "700,many,0"
    (small.folder / "mine.csv").write_text("\n".join(["t,a,y", *rows]))
    _, err = small.run("--dataset", "mine", "--raw", small.folder / "mine.csv", code=2)
    assert "mine.csv" in err
    assert "'many'" in err
    assert not (small.folder / "reports").exists()
    assert not (small.folder / "data" / "mine").exists()


def test_a_dry_run_holds_the_header_against_the_description(small):
    description = small.folder / "data" / "mine.yaml"
    description.write_text("name: mine\ntime: t\nlabel: y\nfeatures: [a, bogus]\n")
    raw = small.folder / "mine.csv"
    raw.write_text("t,a,y\n1,many,0\n")
    mine = ("--dataset", "mine", "--raw", raw, "--dry-run")
    _, err = small.run(*mine, code=2)
    assert "mine.csv" in err
    assert "'bogus' is missing" in err
    description.write_text("name: mine\ntime: t\nlabel: y\nfeatures: [a]\n")
    small.run(*mine)  # rows are checked when it comes to a run
    description.write_text(
        (small.folder / "data" / "simulated.yaml").read_text().replace("V28", "V29")
    )
    _, err = small.run("--dataset", "mine", "--dry-run", code=2)
    assert "'V29' is missing" in err
    assert not (small.folder / "data" / "mine").exists()


def test_rows_are_refused_for_real_data(small):
    (small.folder / "data" / "mine.yaml").write_text(
        "name: mine\ntime: t\nlabel: y\nfeatures: [a]\n"
    )
    (small.folder / "mine.csv").write_text(
        "t,a,y\n" + "\n".join(f"{t},{t % 7},{int(t % 9 == 0)}" for t in range(500))
    )
    mine = ("--dataset", "mine", "--raw", small.folder / "mine.csv")
    _, err = small.run(*mine, "-p", "rows", 300, code=2)
    assert "only simulated transactions come in any number" in err
    summary, _ = small.summary(*mine)
    assert summary["champion"]["name"] == "fraud-detector-mine"
    _, said = small.run("--config", Path(summary["folder"]) / "run.yaml")
    assert "Nothing has changed" in said


def test_nobody_overlooks_that_simulated_transactions_stand_in(small):
    out, err = small.run("-p", "rows", "3000", "--until", "split")
    assert err.startswith("SIMULATED TRANSACTIONS stand in for real ones. There is no raw file")
    assert out.splitlines()[-1].startswith("SIMULATED TRANSACTIONS stand in")


def test_a_run_is_repeated_from_its_file(done):
    (run,) = done.runs
    _, said = done.run("--config", run / "run.yaml")
    assert f"Nothing has changed since reports/{run.name}." in said
    text = (
        (run / "run.yaml")
        .read_text()
        .replace("04_autoencoder.noise: 0.5", "04_autoencoder.noise: 0.25")
    )
    (done.folder / "mine.yaml").write_text(text)
    assert (
        done.planned("--config", done.folder / "mine.yaml")["04"][1]
        == "parameter noise: 0.5 → 0.25"
    )
    again = ("--config", done.folder / "mine.yaml", "-p", "noise", "0.5")
    assert done.planned(*again)["04"][0] == "up to date"


def test_a_sweep_competes_in_one_comparison(done):
    _, statuses = done.summary(*SMALL, "--sweep", "autoencoder.latent", 4, 16)
    assert statuses["03"] == "up to date"
    run = done.runs[-1]
    models = json.loads((run / "metrics.json").read_text())["models"]
    assert set(models) == {"isolation_forest", "autoencoder@latent=4", "autoencoder@latent=16"}
    assert (run / "notebooks" / "04_autoencoder@latent=16.html").exists()
    assert "04_autoencoder.latent:\n  - 4\n  - 16\n" in (run / "run.yaml").read_text()
    _, said = done.run("--config", run / "run.yaml")
    assert "Nothing has changed" in said


def test_a_part_of_a_run_goes_on_with_what_the_newest_one_has(done):
    shutil.rmtree(done.folder / "serve" / "model")
    _, statuses = done.summary("--only", "export")
    assert statuses == dict.fromkeys(["01", "02", "03", "04", "09"], "kept") | {"10": "done"}
    assert (done.folder / "serve" / "model" / "manifest.json").exists()

    summary, statuses = done.summary("--from", "comparison", "-p", "alert_budget", "0.01")
    assert statuses["09"] == "done"
    thresholds = [
        json.loads((Path(folder) / "models" / "autoencoder" / "manifest.json").read_text())[
            "threshold"
        ]
        for folder in (done.runs[0], summary["folder"])
    ]
    # the candidates were put back before they were amended
    assert thresholds[1] == pytest.approx(5 * thresholds[0])


def test_another_budget_fits_nothing_again(done):
    _, statuses = done.summary(*SMALL, "-p", "reviews_per_day", "100")
    assert statuses["09"] == "done"
    assert {statuses[stage] for stage in ("01", "02", "03", "04")} == {"up to date"}
    _, statuses = done.summary("--from", "comparison", "-p", "alert_budget", "0.004")
    assert statuses == dict.fromkeys(["01", "02", "03", "04"], "kept") | {
        "09": "done",
        "10": "done",
    }
    assert "reviews_per_day" not in done.runs[-1].joinpath("run.json").read_text()


def test_what_was_fitted_on_other_data_is_not_kept(done):
    other = ("--dataset", "simulated", "-p", "rows", "4000")
    done.run(*other, "--until", "isolation_forest")
    _, said = done.run("--only", "comparison", code=2)
    assert (
        "09_comparison needs what 04_autoencoder writes, which has not run on this data yet" in said
    )


def test_a_run_until_a_stage_goes_on_in_its_folder(small):
    small.run(*SMALL, "--until", "split")
    _, statuses = small.summary(*SMALL)
    assert statuses["02"] == "up to date"
    assert statuses["10"] == "done"
    assert len(small.runs) == 1


def test_without_mlflow_the_models_are_kept_and_the_exit_code_says_so(small):
    (small.folder / "unreachable").touch()
    out, _ = small.run(*SMALL, code=1)
    assert out.splitlines()[-1].endswith("MLflow at http://nowhere does not answer.")
    assert (small.folder / "serve" / "model" / "model.onnx").exists()
    (small.folder / "unreachable").unlink()
    small.run(*SMALL)
    assert len(small.runs) == 1
    assert {entry["stage"] for entry in small.logged("stage")} == set(NOTEBOOKS)


def test_reports_that_cannot_be_written_are_a_sentence(small):
    (small.folder / "reports").write_text("a file where the folder should be")
    _, err = small.run(*SMALL, code=1)
    assert err.strip().endswith("reports: File exists.") or "Not a directory" in err


def test_a_disk_that_is_full_at_the_end_is_a_sentence(small, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lib.pipeline.state.link", full)
    out, _ = small.run(*SMALL, code=1)
    assert (
        "02_split failed: what it wrote could not be kept: [Errno 28] No space left on device"
        in out
    )


def test_the_stages_and_their_parameters_are_listed(small):
    assert "run/models/autoencoder" in small.run("--list")[0]
    with pytest.raises(SystemExit):
        small.run("--help")
    assert "latent: int = 8" in small.capsys.readouterr().out


def test_without_a_terminal_a_line_tells_now_and_then_how_far_it_is(monkeypatch):
    now, stream = [0.0], io.StringIO()
    monkeypatch.setattr("lib.pipeline.console.time.monotonic", lambda: now[0])
    progress = Progress(1, {"04_autoencoder": 9}, stream)
    running = [SimpleNamespace(name="04_autoencoder", n_done=3, seconds=21.4, place="")]
    for now[0] in (1.0, PULSE_S - 1.0, PULSE_S + 1.0, PULSE_S + 2.0):
        progress.tick(running)
    assert [line[8:] for line in stream.getvalue().splitlines()] == [
        "        … 04_autoencoder 3/9 cells, 21 s"
    ]


def test_a_terminal_shows_a_bar_for_each_notebook_that_is_running(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich's word for a terminal
    stream = io.StringIO()
    mixture = SimpleNamespace(name="05_gaussian_mixture", n_done=2, seconds=3.0, place="")
    autoencoder = SimpleNamespace(name="04_autoencoder", n_done=5, seconds=9.0, place="")
    cells = {"04_autoencoder": 9, "05_gaussian_mixture": 7}
    with Bars(2, cells, stream) as bars:
        bars.tick([autoencoder, mixture])
        stream.truncate(0)
        bars.tick([mixture])
        bars._bars.refresh()
        shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", stream.getvalue())
    assert "2/7" in shown
    assert "04_autoencoder" not in shown


def test_what_is_said_on_a_terminal_stays_as_it_is(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    with Bars(1, {}, stream) as bars:
        bars.say("01_eda: forced [x] " + "long " * 60)
    assert "01_eda: forced [x] " + "long " * 60 + "\n" in stream.getvalue()


def test_the_champion_can_be_rolled_back(done):
    assert "--why" in done.run("--why", "too many alerts", code=2)[1]
    _, said = done.run("--rollback", "--why", "too many alerts")
    assert "fraud-detector-simulated: version 1 is the champion again" in said
    assert done.logged("rollback") == [
        {"what": "rollback", "name": "fraud-detector-simulated", "why": "too many alerts"}
    ]


def test_remarks_and_the_reason_of_no_champion_are_told(tmp_path):
    verdict = {
        "action": "none",
        "promote": None,
        "reasons": ["best of 2", "it does not beat the naive rule amount"],
    }
    metrics = {
        "verdict": verdict,
        "champion": None,
        "remarks": ["The alert budget is below the prevalence."],
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    run = SimpleNamespace(folder=tmp_path, name="run", info={"dataset": "shop"})
    now = Now("2026-01-02T03:04:05+00:00", "fraud-detector", champion=None, bundle=None)
    lines = told(summary(run, [], "done", now=now, remarks=["SIMULATED"]), now).splitlines()
    assert "No champion. It does not beat the naive rule amount alone." in lines
    assert {"The alert budget is below the prevalence.", "SIMULATED"} <= set(lines)
