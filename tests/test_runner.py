"""One notebook at a time: fixture notebooks, each named after what it does."""

import json
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from conftest import ROOT

from lib.runner import Execution

FIXTURES = ROOT / "tests" / "fixtures"


@pytest.fixture
def execute(tmp_path):
    """Function (fixture's name, parameters, …) -> (outcome, archive), watching as the pipeline does."""

    def function(name, parameters=None, archive="notebooks/stage", **options):
        notebook, environment = FIXTURES / f"{name}.ipynb", dict(os.environ)
        execution = Execution(notebook, tmp_path / archive, parameters or {}, tmp_path, environment, **options)
        over = threading.Event()

        def watch():
            while not over.wait(0.1):
                execution.watch()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            return execution.run(), tmp_path / archive
        finally:
            over.set()
            thread.join()

    return function


def test_a_notebook_is_archived_with_its_code_folded(execute, tmp_path):
    outcome, archive = execute("draws_figures", {"run_dir": str(tmp_path), "seed": 7})
    assert outcome.message == ""
    assert outcome.peak_mb > 20
    assert (tmp_path / "figures" / "01_eda-hours.png").read_bytes() == b"PNG\x07"
    assert sorted(path.name for path in archive.parent.iterdir()) == ["stage.html", "stage.ipynb"]
    html = archive.with_suffix(".html").read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", html)
    assert html.count("<summary>code</summary>") == outcome.n_cells == 4  # three and the parameters given
    assert "<details open" not in html


def test_a_kernel_gets_root_threads_and_no_mlflow_run(execute, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "of somebody else")
    monkeypatch.setenv("CALLER", "kept")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    outcome, _ = execute("prints_its_surroundings", {"run_dir": str(tmp_path), "track": False}, threads=3)
    found = json.loads((tmp_path / "surroundings.json").read_text())
    assert outcome.message == ""
    assert found == {
        "OMP_NUM_THREADS": "3",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}/elsewhere",
        "MLFLOW_RUN_ID": None,
        "CALLER": "kept",
        "cwd": str(tmp_path),
        "seed": 0,
        "track": False,
    }


def test_a_failing_cell_is_named_and_archived(execute):
    outcome, archive = execute("fails_in_its_fifth_cell", {"seed": 1})
    assert outcome.message == "cell 5 (`amount = -3.0`) failed: ValueError: amount -3.0 is negative"
    cells = json.loads(archive.with_suffix(".ipynb").read_text())["cells"]
    assert any(output.get("ename") == "ValueError" for cell in cells for output in cell.get("outputs", ()))
    assert "never" not in str([cell.get("outputs") for cell in cells])
    assert "amount -3.0 is negative" in archive.with_suffix(".html").read_text()


def test_errors_of_our_own_are_shown_and_counted(execute, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    outcome, archive = execute("refuses_its_data", {"run_dir": str(tmp_path), "track": False})
    assert outcome.message.endswith("failed: DataError: mine.csv, row 3: amount is -1")
    html = archive.with_suffix(".html").read_text()
    assert "DataError: mine.csv, row 3: amount is -1" in html
    assert "Traceback" not in html


def test_a_dead_kernel_is_named_and_archived(execute):
    outcome, archive = execute("kills_its_kernel")
    assert re.fullmatch(r"the kernel died in cell 4 \(`os\.kill.*`\), at \d+ MB", outcome.message), outcome.message
    assert archive.with_suffix(".ipynb").exists()
    assert [p for p in psutil.Process().children(recursive=True) if "ipykernel" in " ".join(p.cmdline())] == []


def test_a_notebook_that_takes_too_long_is_stopped(execute):
    start = time.monotonic()
    outcome, archive = execute("sleeps", timeout=4.0)
    assert re.match(r"stopped after 4 s \(--timeout\) in cell 4 \(`time.sleep\(600\)`\)", outcome.message), (
        outcome.message
    )
    assert time.monotonic() - start < 30
    assert archive.with_suffix(".html").exists()


def test_an_archive_that_cannot_be_written_is_a_sentence(execute, tmp_path):
    (tmp_path / "notebooks").write_text("a file where the folder should be")
    outcome, _ = execute("draws_figures", {"run_dir": str(tmp_path)})
    assert outcome.message.startswith("stage could not be executed and archived: ")


def test_a_full_disk_is_a_sentence(execute, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lib.runner.archive", full)
    outcome, _ = execute("draws_figures")
    assert "No space left on device" in outcome.message


def test_many_at_once_do_not_get_in_each_others_way(execute, tmp_path):
    def one(seed):
        folder = tmp_path / str(seed)
        folder.mkdir()
        outcome, _ = execute("draws_figures", {"run_dir": str(folder), "seed": seed}, archive=f"{seed}/stage")
        return outcome.message, (folder / "figures" / "01_eda-hours.png").read_bytes()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, range(6))) == [("", b"PNG" + bytes([seed])) for seed in range(6)]
