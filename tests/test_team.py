"""A team's set-up: two projects at once on one MLflow server with PostgreSQL, which is killed in
the middle of a run. The tests are one story, in the order of the file.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bundles
import pytest
import team as parts
from conftest import copy_project
from pipelines import Project
from server import running

from lib import bundle
from lib.errors import TrackingError
from lib.registry import mlflow_store, serving, tracking

pytestmark = [pytest.mark.check, pytest.mark.xdist_group("team")]
NAME = "fraud-detector-simulated"
STAGES = [
    "02_split",
    "03_isolation_forest",
    "05_gaussian_mixture",
    "09_comparison",
    "10_export",
]
FAMILIES = ("isolation_forest", "gaussian_mixture")
QUICK = {
    "rows": 3000,
    "train_on": "genuine",
    "trims": "[]",
    "n_resamples": 20,
    "final_table": "false",
}


def quick(**settings):
    """The command line of a small run."""
    pairs = (QUICK | settings).items()
    return ["--dataset", "simulated", *(part for pair in pairs for part in ("-p", *pair))]


# the same transactions, and so the same validation: whoever is better is so for both
ONE = quick(n_components=2)
TWO = [*quick(n_components=4), "--sweep", "isolation_forest.n_trees", 5, 10]
OTHER_DATA = quick(seed=2, n_components=2)


class Team:
    """Two copies of the project, and what they share."""

    def __init__(self, folder):
        self.database = parts.Database()
        try:
            self.mlflow = parts.MlflowServer(
                parts.install(folder / "environment"), self.database, folder / "mlflow"
            )
            (folder / "mlflow").mkdir()
            self.mlflow.start()
        except BaseException:
            self.stop()
            raise
        self.one, self.two = (self._project(folder / name) for name in ("one", "two"))

    def _project(self, folder):
        project = Project(*copy_project(folder))
        project.environment["MLFLOW_TRACKING_URI"] = self.mlflow.uri
        project.environment["OMP_NUM_THREADS"] = "1"
        for path in (folder / "notebooks").glob("*.ipynb"):
            if path.stem not in STAGES:
                path.unlink()
        return project

    def stop(self):
        """Stop both servers."""
        server = getattr(self, "mlflow", None)
        if server is not None and server.process is not None:
            server.kill()
        self.database.stop()


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    """Two projects on a new MLflow server."""
    found = Team(tmp_path_factory.mktemp("team"))
    yield found
    found.stop()


@pytest.fixture(autouse=True)
def client(team, monkeypatch):
    """MLflow's client on the team's server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.mlflow.uri)
    monkeypatch.delenv(tracking.PARENT, raising=False)
    return lambda: tracking._client()


def at_once(*commands):
    """Run (project, words) at the same time -> [(exit code, what was said)]."""
    started = [project.start(*words) for project, words in commands]
    found = []
    for process in started:
        out, err = process.communicate(timeout=500)
        found.append((process.returncode, out + err))
    return found


def stages_of(client, run):
    """The stages of a run's folder that MLflow has -> {stage: its run}.

    One that was interrupted is there twice; the one that was finished counts.
    """
    connected, experiment = client()
    parent_id = json.loads((run / "run.json").read_text())["mlflow_run"]
    assert connected.get_run(parent_id).info.status == "FINISHED"
    children = connected.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent_id}'")
    assert [c.info.run_name for c in children if c.info.status == "RUNNING"] == []
    notebooks = [c for c in children if c.data.tags["kind"] == "notebook"]
    finished = [c for c in notebooks if c.info.status == "FINISHED"]
    stages = {c.info.run_name: c for c in finished}
    assert len(stages) == len(finished), "a stage was logged twice"
    return stages


def check_logged(client, project):
    """All that a project has fitted is in MLflow, to the byte, and every stage of its runs."""
    import mlflow

    connected, experiment = client()
    graphs = set()
    for run in project.runs:
        stages = stages_of(client, run)
        assert set(stages) == {path.name for path in (run / "stages").iterdir()}
        parent_id = json.loads((run / "run.json").read_text())["mlflow_run"]
        ours = f"tags.`mlflow.parentRunId` = '{parent_id}' AND tags.kind = 'candidate'"
        for child in connected.search_runs([experiment], ours):
            of_run = f"source_run_id = '{child.info.run_id}'"
            for model in connected.search_logged_models([experiment], of_run):
                assert model.status.name == "READY"
                copy = mlflow.artifacts.download_artifacts(f"models:/{model.model_id}")
                graphs.add(Path(copy, "model.onnx").read_bytes())
    fitted = [path for path in project.folder.glob("reports/2*/models/*/model.onnx")]
    fitted = [path for path in fitted if path.parent.name.startswith(FAMILIES)]
    assert fitted
    assert [path for path in fitted if path.read_bytes() not in graphs] == []


def check_registry(client, name=NAME):
    """One champion, and the files of every version are whole -> {alias: version}."""
    connected, _ = client()
    [model] = connected.search_registered_models(f"name = '{name}'")
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    versions = tracking._versions(connected, name)
    assert aliases["champion"] in {v.version for v in versions}
    assert aliases["champion"] != aliases.get("previous")
    lost = {v.version: tracking._present(connected, v).lost for v in versions}
    assert set(lost.values()) == {""}, lost
    assert len({v.bundle_hash for v in versions}) == len(versions), "a model has two versions"
    assert connected.search_registered_models(f"name = '{name}.changing'") == []
    return aliases


def exported_version(project):
    model, damage = serving.exported(project.folder / "serve" / "model")
    assert damage == ""
    return model.version


def test_two_projects_at_once_have_one_champion_and_lose_nothing(team, client):
    commands = [(team.one, ONE), (team.two, TWO)]
    for code, said in at_once(*commands):
        assert code == 0 or "the same command compares them again" in said, said
    for _ in range(3):
        ended = at_once(*commands)
        assert [code for code, _ in ended] == [0, 0], ended
        if all("Nothing has changed" in said for _, said in ended):
            break
    else:
        pytest.fail(f"the two projects do not come to rest: {ended}")
    connected, _ = client()
    names = [experiment.name for experiment in connected.search_experiments()]
    assert names.count(mlflow_store.EXPERIMENT) == 1
    champion = check_registry(client)["champion"]
    for project in (team.one, team.two):
        assert exported_version(project) == champion
        check_logged(client, project)


def candidates_of_a_crowd(folder, n):
    return [bundles.write(folder / str(seed), seed=seed, version=None) for seed in range(n)]


def test_of_many_that_were_compared_with_the_same_champion_one_is_registered(
    team, client, tmp_path
):
    def attempt(folder):
        try:
            return tracking.register(folder, "crowd", instead_of=None)
        except TrackingError as error:
            return str(error)

    with ThreadPoolExecutor(6) as pool:
        ended = list(pool.map(attempt, candidates_of_a_crowd(tmp_path, 6)))
    assert ended.count("1") == 1, ended
    reason = "compared with no champion, and version 1 is the champion"
    assert [said for said in ended if said != "1" and reason not in said] == []
    assert check_registry(client, "crowd") == {"champion": "1"}


def test_of_many_that_are_registered_by_hand_each_is_champion_after_the_other(
    team, client, tmp_path
):
    with ThreadPoolExecutor(6) as pool:
        folders = candidates_of_a_crowd(tmp_path, 6)
        versions = list(pool.map(lambda folder: tracking.register(folder, "queue"), folders))
    assert sorted(versions) == list("123456")
    # versions are made and crowned in one turn: so their numbers are the order
    assert check_registry(client, "queue") == {"champion": "6", "previous": "5"}


def test_a_server_takes_up_what_any_of_them_decides(team, client, tmp_path):
    before = check_registry(client)["champion"]
    with running(team.one.folder / "serve" / "model", tmp_path / "log") as server:

        def served(version):
            deadline = time.monotonic() + 20
            while True:
                status, _, headers = server.call("GET", "/health/ready")
                if (status, headers.get("x-model")) == (200, f"{NAME}/{version}"):
                    return True
                assert time.monotonic() < deadline, (status, dict(headers))
                time.sleep(0.1)

        assert served(before)
        present = tracking.champion(NAME)
        [other, *_] = [
            path.parent
            for path in sorted(team.two.runs[-1].glob("models/*/manifest.json"))
            if bundle.bundle_hash(path.parent) != bundle.bundle_hash(present.folder)
        ]
        by_hand = tracking.register(other, NAME, ["a colleague's word"])
        assert by_hand != before
        team.one.command("--only", "10_export")
        assert served(by_hand)
        team.two.command("--rollback", "--why", "too many alerts")
        assert check_registry(client) == {"champion": before, "previous": by_hand}
        team.one.command("--only", "10_export")
        assert served(before)
    # its page names the reason in every project, not only where it was rolled back
    now = serving.now(NAME, team.one.folder / "serve" / "model")
    assert now.withdrawn == {by_hand: "too many alerts"}
    for project, words in ((team.one, ONE), (team.two, TWO)):
        project.command(*words)
    assert check_registry(client)["champion"] == before, "a withdrawn model came back"


def test_two_rollbacks_at_once_are_one_after_the_other(team, client):
    before = check_registry(client)
    words = ["--rollback", "--dataset", "simulated"]
    ended = at_once((team.one, words), (team.two, words))
    assert [code for code, _ in ended] == [0, 0], ended
    assert check_registry(client) == before
    assert list(tracking.withdrawn_versions(NAME)) == [before["previous"]]


def test_a_server_that_is_killed_in_the_middle_of_a_run_loses_no_model(team, client):
    n_before = len(team.one.runs)
    process = team.one.start(*OTHER_DATA)
    while len(team.one.runs) == n_before or not list(team.one.runs[-1].glob("models/*/model.onnx")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    team.mlflow.kill()
    killed = time.monotonic()
    out, err = process.communicate(timeout=400)
    assert process.returncode == 1, out + err
    assert time.monotonic() - killed < 180, "it asked a dead server for minutes"
    assert "MLflow at http://127.0.0.1" in out
    assert "Traceback" not in out + err
    run = team.one.runs[-1]
    models = {
        path: path.read_bytes()
        for path in run.glob("models/*/model.onnx")
        if path.parent.name in FAMILIES
    }
    assert len(models) == len(FAMILIES)
    assert "does not answer" in team.one.command("--rollback", "--dataset", "simulated", code=2)

    team.mlflow.start()
    process = team.one.start(*OTHER_DATA, "--json")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    statuses = {stage["stage"]: stage["status"] for stage in json.loads(out)["stages"]}
    assert [name for name, status in statuses.items() if status == "done"] == STAGES[-2:]
    assert team.one.runs[-1] == run
    assert {path: path.read_bytes() for path in models} == models
    check_logged(client, team.one)
    assert exported_version(team.one) == check_registry(client)["champion"]
