"""Tables in several files for tests of engines, their workers, and what happens to them.

A plugin: test modules name it in `pytest_plugins`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import bundles
import dask
import pandas as pd
import psutil
import pytest
from distributed import Client

from lib.data import simulation
from lib.data.datasets import Dataset, load_description
from lib.engine import meter
from lib.production.scoring_by_parts import Run

N = 6_000
STARTS_S = 120  # within which schedulers and workers have to answer
ALONE = ["--host", "127.0.0.1", "--no-dashboard"]
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


def description() -> Dataset:
    """Card data with an identifier."""
    described = load_description("creditcard").to_dict() | {"raw": {}, "ids": ["nr"]}
    return Dataset.from_dict(described)


def write_table(folder):
    """Files of different lengths and row groups, times in no order; return the folder."""
    frame = simulation.simulate(N, seed=0)
    frame["nr"] = [f"T{i}" for i in range(N)]
    frame = frame.sample(frac=1, random_state=0).reset_index(drop=True)
    (folder / "inner").mkdir()
    (folder / "_notes").mkdir()
    (folder / "_notes" / "x.parquet").write_bytes(b"of another program")
    for name, start, stop, rows in (
        ("a.parquet", 0, 2_000, 301),
        ("b.parquet", 2_000, 2_001, 10),
        ("inner/c.parquet", 2_001, N, 997),
    ):
        frame[start:stop].to_parquet(folder / name, row_group_size=rows)
    return folder


def run_of(dataset, table, served, out, **options):
    """Small parts, so that there are several."""
    return Run(dataset, str(table), served, str(out), **({"part_rows": 700} | options))


def scores_in(folder):
    """All scores of a finished run, after a look whether every position is there once."""
    assert (folder / "scores" / "_SUCCESS").is_file()
    found = pd.read_parquet(folder / "scores").sort_values("position", ignore_index=True)
    assert found["position"].tolist() == list(range(len(found)))
    return found


def logged(log, pause_s=0.05):
    """A function of a part that notes each time that it runs. It travels as code, being local."""

    def score_and_note(task):
        import os
        import time

        from lib.engine import scored

        time.sleep(pause_s)
        with open(log, "a") as file:
            file.write(f"{task.part.number} {os.getpid()}\n")
        return scored.score_part(task)

    return score_and_note


def executions(log):
    """[number of the part, process] of each time that `logged` ran."""
    return [tuple(map(int, line.split())) for line in log.read_text().splitlines()]


def at_part(n, act, monkeypatch):
    """Do something in the driver when the n-th part is done."""
    add = meter.Meter.add

    def counted(self, *args, **options):
        add(self, *args, **options)
        if self.done == n:
            act()

    monkeypatch.setattr(meter.Meter, "add", counted)


class Cluster:
    """A scheduler and two workers, each with its nanny, in a folder without `lib`.

    The scheduler chooses its port and writes its address into a file. A port that is chosen before
    may be another's by the time that the scheduler listens.

    Parameters
    ----------
    protocol : str
        Of the addresses.
    settings : dict of str to str
        Variables that make it speak `protocol`; files that they name are in the folder.
    scheduler : list of str
        Words after `dask`, where it is another than on 127.0.0.1 alone.
    """

    def __init__(self, folder, protocol="tcp", settings=None, scheduler=ALONE):
        self.folder = folder
        self.processes = []
        self.environment = os.environ | CREDENTIALS | (settings or {})
        self.environment.pop("PYTHONPATH", None)
        try:
            self._run("scheduler", *scheduler, "--port", "0", "--scheduler-file", "address.json")
            self.address = f"{protocol}://127.0.0.1:{self._port()}"
            for _ in range(2):
                self._run(
                    *("worker", self.address, "--nthreads", "1", *ALONE),
                    *("--local-directory", str(folder)),
                )
            self._wait()
        except BaseException as error:
            self._dump()
            self.close()
            error.add_note(self._logs())
            raise

    def _run(self, *words):
        # faulthandler writes where every thread stands when the process is aborted
        command = [sys.executable, "-X", "faulthandler", "-m", "dask", *words]
        with (self.folder / f"{len(self.processes)}.log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.processes.append(process)

    def _port(self):
        """The scheduler's port, as soon as it listens."""
        file = self.folder / "address.json"
        end = time.monotonic() + STARTS_S
        while True:
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # not yet, or half
                return json.loads(file.read_text())["address"].rpartition(":")[2]
            assert self.processes[0].poll() is None, "the scheduler has ended"
            assert time.monotonic() < end, "the scheduler does not listen"
            time.sleep(0.05)

    def _wait(self):
        settings = dask.config.collect_env(self.environment)
        with (
            contextlib.chdir(self.folder),
            dask.config.set(dask.config.merge(dask.config.config, settings)),
            Client(self.address, timeout=STARTS_S, set_as_default=False) as client,
        ):
            client.wait_for_workers(2, timeout=STARTS_S)

    def _dump(self):
        for process in self.processes:
            process.send_signal(signal.SIGABRT)
        for process in self.processes:
            process.wait(30)

    def _logs(self):
        return "\n".join(file.read_text() for file in sorted(self.folder.glob("*.log")))

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
                process.wait(30)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """One for all tests that leave it as it was; they are in the group `engine`."""
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def dataset():
    """Card data with an identifier."""
    return description()


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """Several files of it."""
    return write_table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="session")
def served(tmp_path_factory, dataset):
    """A model that scores it."""
    return bundles.write(tmp_path_factory.mktemp("model"), "mixture", features=dataset.features)
