"""One notebook at a time: fixture notebooks, each named after what it does."""

import json
import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from conftest import ROOT

from lib.pipeline.notebook_execution import NotebookExecution, archive

FIXTURES = ROOT / "tests" / "fixtures"


@pytest.fixture
def execute(tmp_path):
    """Function (fixture's name, parameters, …) -> (outcome, archive), watching as the pipeline
    does.
    """

    def function(name, parameters=None, archive="notebooks/stage", **options):
        notebook, environment = FIXTURES / f"{name}.ipynb", dict(os.environ)
        execution = NotebookExecution(
            notebook, tmp_path / archive, parameters or {}, tmp_path, environment, **options
        )
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
    # three and the parameters given
    assert html.count("<summary>code</summary>") == outcome.n_cells == 4
    assert "<details open" not in html


def test_a_kernel_gets_root_threads_and_no_mlflow_run(execute, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "of somebody else")
    monkeypatch.setenv("CALLER", "kept")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    outcome, _ = execute(
        "prints_its_surroundings", {"run_dir": str(tmp_path), "track": False}, threads=3
    )
    found = json.loads((tmp_path / "surroundings.json").read_text())
    assert outcome.message == ""
    assert found == {
        "executable": sys.executable,
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
    assert any(
        output.get("ename") == "ValueError" for cell in cells for output in cell.get("outputs", ())
    )
    assert "never" not in str([cell.get("outputs") for cell in cells])
    assert "amount -3.0 is negative" in archive.with_suffix(".html").read_text()


def test_errors_of_our_own_are_shown_and_counted(execute, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    outcome, archive = execute("refuses_its_data", {"run_dir": str(tmp_path), "track": False})
    assert outcome.message.endswith("failed: DataError: mine.csv, row 3: amount is -1")
    html = archive.with_suffix(".html").read_text()
    assert "DataError: mine.csv, row 3: amount is -1" in html
    assert "Traceback" not in html


LAUNCHERS = {  # what stands in for ipykernel_launcher: the kernel's own first lines
    "dies_at_once": "raise SystemExit(3)",
    "never_answers": "import time\ntime.sleep(600)",
    "never_answers_nor_ends": (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(600)"
    ),
}


def kernels():
    """Processes that this one has started as kernels, and that have not ended."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "ipykernel_launcher" in " ".join(child.cmdline())]


@pytest.mark.parametrize("what", LAUNCHERS)
def test_a_kernel_that_does_not_start_is_a_sentence_and_leaves_nothing(
    execute, tmp_path, monkeypatch, what
):
    monkeypatch.setattr("lib.pipeline.notebook_execution.START_TIMEOUT_S", 2)
    (tmp_path / "ipykernel_launcher.py").write_text(LAUNCHERS[what])
    start = time.monotonic()
    outcome, archive = execute("draws_figures")
    assert time.monotonic() - start < 30
    assert re.match(
        "its kernel could not be started: Kernel (died|didn't respond)", outcome.message
    ), outcome.message
    assert kernels() == []
    assert archive.with_suffix(".ipynb").exists()


def test_a_kernel_that_does_not_answer_can_be_stopped(execute, tmp_path):
    (tmp_path / "ipykernel_launcher.py").write_text(LAUNCHERS["never_answers"])
    outcome, _ = execute("draws_figures", timeout_s=2.0)
    assert outcome.message.startswith("stopped after 2 s (--timeout)")
    assert kernels() == []


def test_another_python_on_jupyters_path_is_not_started(execute, tmp_path, monkeypatch):
    folder = tmp_path / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    foreign = {
        "argv": ["/bin/false", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    }
    (folder / "kernel.json").write_text(json.dumps(foreign))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    outcome, _ = execute("prints_its_surroundings", {"run_dir": str(tmp_path), "track": False})
    assert outcome.message == ""
    found = json.loads((tmp_path / "surroundings.json").read_text())
    assert found["executable"] == sys.executable


@pytest.mark.parametrize("variable", ["TMPDIR", "XDG_RUNTIME_DIR"])
def test_sockets_lie_in_a_short_folder_however_long_the_temporary_one_is(
    execute, tmp_path, monkeypatch, variable
):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv(variable, str(long))
    monkeypatch.setattr("tempfile.tempdir", None)  # what it remembers of the environment
    outcome, _ = execute("draws_figures", {"run_dir": str(tmp_path)})
    assert outcome.message == ""
    assert list(long.glob("k-*")) == []


def test_without_a_folder_for_sockets_the_sentence_says_what_to_name(
    execute, tmp_path, monkeypatch
):
    long, missing = tmp_path / ("x" * 90), tmp_path / "missing"
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("lib.pipeline.kernels.FOLDERS", (str(missing),))
    outcome, _ = execute("draws_figures", {"run_dir": str(tmp_path)})
    assert outcome.message.startswith("its kernel could not be started: none of these folders")
    assert f"{missing} (No such file or directory)" in outcome.message
    assert "TMPDIR" in outcome.message
    assert list(long.iterdir()) == []


def test_a_dead_kernel_is_named_and_archived(execute):
    outcome, archive = execute("kills_its_kernel")
    assert re.fullmatch(
        r"the kernel died in cell 4 \(`os\.kill.*`\), at \d+ MB", outcome.message
    ), outcome.message
    assert archive.with_suffix(".ipynb").exists()
    assert kernels() == []


def test_a_notebook_that_takes_too_long_is_stopped(execute):
    start = time.monotonic()
    outcome, archive = execute("sleeps", timeout_s=4.0)
    assert re.match(
        r"stopped after 4 s \(--timeout\) in cell 4 \(`time.sleep\(600\)`\)", outcome.message
    ), outcome.message
    assert time.monotonic() - start < 30
    assert archive.with_suffix(".html").exists()


def test_an_archive_that_cannot_be_written_is_a_sentence(execute, tmp_path):
    (tmp_path / "notebooks").write_text("a file where the folder should be")
    outcome, _ = execute("draws_figures", {"run_dir": str(tmp_path)})
    assert outcome.message.startswith("stage could not be executed and archived: ")


def test_a_full_disk_is_a_sentence(execute, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lib.pipeline.notebook_execution.archive", full)
    outcome, _ = execute("draws_figures")
    assert "No space left on device" in outcome.message


def test_many_at_once_do_not_get_in_each_others_way(execute, tmp_path):
    def one(seed):
        folder = tmp_path / str(seed)
        folder.mkdir()
        outcome, _ = execute(
            "draws_figures", {"run_dir": str(folder), "seed": seed}, archive=f"{seed}/stage"
        )
        return outcome.message, (folder / "figures" / "01_eda-hours.png").read_bytes()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, range(6))) == [("", b"PNG" + bytes([seed])) for seed in range(6)]


def test_a_notebooks_page_has_contents_and_leads_to_its_neighbours(tmp_path):
    cells = [
        {"cell_type": "markdown", "id": f"cell-{i}", "metadata": {}, "source": source}
        for i, source in enumerate(("# All of it", "## First part", "## `code` & more"))
    ]
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
    partial = tmp_path / "partial.ipynb"
    partial.write_text(json.dumps(notebook))
    archive(partial, tmp_path / "09_b", ("08_a", ""))
    text = (tmp_path / "09_b.html").read_text()
    assert re.search(r'<a href="08_a.html" rel="prev">', text)
    assert 'rel="next"' not in text
    contents = re.search(r'aria-label="Contents"[^>]*>(.*?)</nav>', text, re.DOTALL)[1]
    links = re.findall(r'<a href="#([^"]+)">(.*?)</a>', contents)
    assert [words for _, words in links] == ["First part", "code &amp; more"]
    assert all(f'id="{anchor}"' in text for anchor, _ in links)
