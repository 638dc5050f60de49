"""An engine as it is deployed: a scheduler and workers of their own, tables in an object store."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import uuid

import pandas as pd
import psutil
import pytest
import yaml
from by_parts import (
    CREDENTIALS,
    Cluster,
    N,
    at_part,
    description,
    executions,
    logged,
    run_of,
    scores_in,
)
from conftest import ROOT
from pyarrow import fs
from server import free_port

from lib import bundle
from lib.engine import executors, scored, storage
from lib.errors import DataError
from lib.production import scoring, scoring_by_parts, thin

pytest_plugins = ["by_parts"]
pytestmark = [pytest.mark.check, pytest.mark.xdist_group("engine")]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A function that gives the address of a name in an empty bucket of a store on this machine.

    The store is moto's, in an environment of its own that uv makes: it needs other versions of
    packages than ours.
    """
    port = free_port()
    command = ["tool", "run", "--from", "moto[server]", "moto_server", "-H", "127.0.0.1"]
    log = tmp_path_factory.mktemp("store") / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "uv", *command, "-p", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    for _ in range(600):
        if answers(port):
            break
        assert server.poll() is None, log.read_text()
        time.sleep(0.2)
    name = f"b{uuid.uuid4().hex[:12]}"
    query = f"?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    before = {key: os.environ.get(key) for key in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    filesystem, _ = fs.FileSystem.from_uri(f"s3://{name}/x{query}&allow_bucket_creation=true")
    filesystem.create_dir(name)
    yield lambda inside: f"s3://{name}/{inside}{query}"
    for process in psutil.Process(server.pid).children(recursive=True):
        process.terminate()
    server.terminate()
    server.wait(30)
    for key, value in before.items():
        if value is None:
            del os.environ[key]
        else:
            os.environ[key] = value


def answers(port):
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_tables_and_scores_in_an_object_store(dataset, table, served, cluster, bucket, tmp_path):
    for file in table.rglob("*.parquet"):
        name = file.relative_to(table).as_posix()
        storage.write(bucket(f"history/{name}"), file.read_bytes())
    scoring.score_table(dataset, table, bundle.load(served), tmp_path)
    expected = pd.read_parquet(tmp_path / "scores.parquet")
    run = run_of(dataset, bucket("history"), served, bucket("scored"))
    with executors.opened(cluster.address) as pool:
        scoring_by_parts.score(run, pool)
        again = scoring_by_parts.score(run, pool)
    assert again["parts_of_an_earlier_run"] == again["parts"]
    written = [file for file in storage.files(bucket("scored/scores")) if file.name != "_SUCCESS"]
    assert len(written) == again["parts"]
    tables = []
    for file in written:
        with storage.parquet(file.address) as opened:
            tables.append(opened.read().to_pandas())
    found = pd.concat(tables, ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)

    here = thin.Run(dataset, str(table), str(tmp_path / "thin.parquet"), rows=900, part_rows=700)
    there = thin.Run(dataset, bucket("history"), bucket("thin.parquet"), rows=900, bundle=served)
    thin.thin(here, executors.Inline())
    with executors.opened(cluster.address) as pool:
        record = thin.thin(there, pool)
    assert storage.exists(bucket("thin.thin.json"))
    assert record["of"] == N
    assert "endpoint" not in record["source"]


def test_a_scheduler_that_is_lost(dataset, table, served, tmp_path, tmp_path_factory, monkeypatch):
    """The run ends with a sentence, and the same command goes on with what is finished."""
    own = Cluster(tmp_path_factory.mktemp("lost"))
    at_part(4, own.processes[0].kill, monkeypatch)
    monkeypatch.setattr(scored, "score_part", logged(str(tmp_path / "log")))
    run = run_of(dataset, table, served, tmp_path / "out", part_rows=100)
    with (
        pytest.raises(DataError, match="scheduler is gone"),
        executors.opened(own.address) as pool,
    ):
        scoring_by_parts.score(run, pool)
    own.close()
    monkeypatch.undo()
    report = scoring_by_parts.score(run, executors.Inline())
    assert report["parts_of_an_earlier_run"] >= 4
    assert len(scores_in(tmp_path / "out")) == N


def test_a_machine_that_is_lost(dataset, table, served, tmp_path, tmp_path_factory, monkeypatch):
    own = Cluster(tmp_path_factory.mktemp("machine"))
    log = tmp_path / "log"
    killed = []

    def kill():
        worker = psutil.Process(executions(log)[0][1])
        nanny = next(p for p in worker.parents() if "worker" in p.cmdline())
        for process in (nanny, worker):
            process.send_signal(signal.SIGKILL)
            killed.append(process.pid)

    at_part(6, kill, monkeypatch)
    monkeypatch.setattr(scored, "score_part", logged(str(log)))
    run = run_of(dataset, table, served, tmp_path / "out", part_rows=100)
    start = time.monotonic()
    with executors.opened(own.address) as pool:
        report = scoring_by_parts.score(run, pool)
    assert len(killed) == 2
    assert time.monotonic() - start < 60
    assert len(scores_in(tmp_path / "out")) == N
    numbers = [number for number, _ in executions(log)]
    assert set(numbers) == set(range(report["parts"]))
    assert len(numbers) <= report["parts"] + 2
    own.close()


def certificates(folder):
    """An authority, and a certificate that it has signed, under the names of docs/scale.md."""
    for name, key in (("ca", "ca-key"), ("cert", "key")):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-subj", f"/CN={name}", "-keyout", f"{key}.pem", "-out", f"{name}.pem"]
        if name == "cert":
            command += ["-CA", "ca.pem", "-CAkey", "ca-key.pem"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


def recipe():
    """What docs/scale.md says on TLS -> (the variables that its shell exports, the words after
    `dask` of the command that it starts with them).
    """
    scale = (ROOT / "docs" / "scale.md").read_text()
    (block,) = re.findall(r"^### TLS$.*?^```sh$\n(.*?)^```$", scale, re.M | re.S)
    exports, _, command = block.rpartition(".venv/bin/dask ")
    shell = ["bash", "-euc", f"{exports}\nenv -0"]
    bare = {"PATH": os.environ["PATH"]}
    said = subprocess.run(shell, env=bare, capture_output=True, text=True, check=True).stdout
    exported = dict(line.split("=", 1) for line in said.split("\0") if line.startswith("DASK_"))
    return exported, shlex.split(command, comments=True)


def test_over_tls_as_documented_only_who_has_a_certificate_is_answered(table, tmp_path):
    settings, words = recipe()
    assert words[0] == "scheduler"
    certificates(tmp_path)
    own = Cluster(tmp_path, "tls", settings, words[1:])
    described = tmp_path / "cards.yaml"
    described.write_text(yaml.safe_dump(description().to_dict()))
    command = [sys.executable, "-m", "lib.production.thin", str(table), "--dataset", described]
    command += ["--rows", "900", "--out", tmp_path / "thin.parquet", "--engine", own.address]
    bare = os.environ | {"PYTHONPATH": str(ROOT)}

    def thinned(environment):
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    refused = thinned(bare)
    assert refused.returncode == 2, refused.stderr
    assert "needs a certificate" in refused.stderr
    assert not (tmp_path / "thin.parquet").exists()
    done = thinned(bare | settings)
    own.close()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "thin.parquet").is_file()


def test_a_hundred_million_rows_take_no_more_memory_than_four(tmp_path):
    """Of links to the same files: thinned and scored by the benchmark, which has nothing to say of
    speed here.
    """
    command = ["benchmarks/engine.py", "--folder", str(tmp_path / "tables"), "--repeat", "1"]
    done = subprocess.run(
        [sys.executable, *command, "--big", "100000000", "--score-big"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if " rows/s {" in line]
    found = [json.loads(line[line.index("{") :]) for line in lines]
    assert all(each["ok"] for each in found), done.stdout[-3000:]
    (_, scored_few, thinned_few, thinned_many, scored_many) = found
    totals = [
        int(total.replace(",", ""))
        for line in thinned_many["said"]
        if "genuine" in line
        for total in re.findall(r"of ([\d,]+)", line)
    ]
    assert sum(totals) == 100_000_000
    assert any(line.startswith("100,000,000 transactions") for line in scored_many["said"])
    [pair] = [line for line in scored_many["said"] if line.startswith("average precision")]
    low, high = map(float, re.findall(r"\d\.\d+", pair))
    assert high - low < 5e-4
    assert scored_many["worker_peaks_mb"][0] < 600
    for few, many in ((scored_few, scored_many), (thinned_few, thinned_many)):
        assert many["driver_peak_mb"] < few["driver_peak_mb"] + 100
