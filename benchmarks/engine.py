"""What a cluster costs and brings: two workers on this machine against one process, back to back.

`python benchmarks/engine.py` scores 4 million rows by the local path and by two workers over TCP,
in turn, and prints wall time and CPU seconds of all processes. With `--big 100000000` a folder of
links to the same files is thinned and scored, too: is the rate the same, and is memory flat? Wall
times compare only at like load, which is printed; CPU seconds are the steadier figure. With
`--others` Spark and Ray run the same functions of a part, where they are installed.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from server import free_port

from lib.data import simulation, splits
from lib.data.datasets import load_description
from lib.detectors import registry
from lib.production import sandbox, scoring_by_parts
from lib.registry import candidates

ROOT = Path(__file__).resolve().parents[1]
FILE_ROWS = 125_000
WORKERS = 2
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
FOUND = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
SPARK = {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
ENVIRONMENT = os.environ | ONE_THREAD | SPARK | {"PYTHONPATH": FOUND.rstrip(os.pathsep)}
# Dask looks a hundred times a second at what its workers do, for a page that nobody sees here
QUIET = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
MB = 1 << 20


def write_table(folder, n_files):
    """Files of simulated transactions, as float32, times of one file behind the other's."""
    folder.mkdir(parents=True)
    frame = simulation.simulate(FILE_ROWS, seed=0)
    columns = list(frame.columns)
    X = frame.drop(columns=["Time", "Class"]).to_numpy(np.float32)
    for i in range(n_files):
        rng = np.random.default_rng(i)
        values = X + rng.normal(scale=0.01, size=X.shape).astype(np.float32)
        values[:, -1] = np.abs(values[:, -1])  # the amount
        made = dict(zip(frame.drop(columns=["Time", "Class"]).columns, values.T, strict=True))
        made["Time"] = frame["Time"].to_numpy(np.float64) + i * 172_800.0
        made["Class"] = frame["Class"].to_numpy(np.int8)
        pq.write_table(
            pa.table({name: made[name] for name in columns}), folder / f"{i:03d}.parquet"
        )


def link_table(folder, source, rows):
    """A folder of hard links to the same files, until it has so many rows."""
    folder.mkdir()
    files = sorted(source.glob("*.parquet"))
    for i in range(rows // FILE_ROWS):
        os.link(files[i % len(files)], folder / f"{i:05d}.parquet")


def write_bundle(folder):
    """A Gaussian mixture fitted on simulated transactions -> its calibrated bundle."""
    split = splits.open_split(splits.ensure())
    fitted = candidates.fit(registry.make("gaussian_mixture"), split)
    made = candidates.write(folder, "gaussian_mixture", fitted, split)
    sandbox.calibrate(made, split.arrays("validation"), 0.002, "benchmark")
    return made


class Cluster:
    """A scheduler and two workers, started by hand as on two machines."""

    def __init__(self, folder):
        self.port = free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.folder = folder

    def __enter__(self):
        dask = [sys.executable, "-m", "dask"]
        plain = ["--no-dashboard"]
        self.processes = [
            self._start(
                [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(self.port), *plain]
            ),
            self._start(
                [*dask, "worker", self.address, "--nworkers", str(WORKERS), "--nthreads", "1"]
                + ["--memory-limit", "2GiB", "--local-directory", str(self.folder), *plain]
            ),
        ]
        from distributed import Client

        with Client(self.address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(WORKERS, timeout=60)
        return self

    def _start(self, command):
        return psutil.Popen(
            command, env=ENVIRONMENT | QUIET, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def all(self):
        """Scheduler, nannies and workers."""
        return [p for top in self.processes for p in (top, *top.children(recursive=True))]

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            process.wait(20)


def cpu_s(processes):
    """CPU seconds of processes that live on, (n,)."""
    return np.array([sum(process.cpu_times()[:2]) for process in processes])


def peaks_mb(processes):
    """The largest memory that each has had so far (MB), the largest first."""
    found = []
    for process in processes:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        peak = next((line for line in lines if line.startswith("VmHWM")), "VmHWM: 0")
        found.append(int(peak.split()[1]) / 1024)
    return sorted(found, reverse=True)


def measured(command, cluster=None):
    """Run a command -> its wall time, CPU seconds with the cluster's, peak memory, load before."""
    others = cluster.all() if cluster else []
    before = cpu_s(others)
    load = os.getloadavg()[0]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(1800, process.kill)
    timer.start()
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    timer.cancel()
    wall = time.perf_counter() - start
    spent = cpu_s(others) - before
    own = usage.ru_utime + usage.ru_stime
    return {
        "ok": status == 0,
        "wall_s": round(wall, 1),
        "cpu_s": round(own + spent.sum(), 1),
        "driver_cpu_s": round(own, 1),
        "cluster_cpu_s": np.sort(spent).round(1).tolist()[::-1],
        "driver_peak_mb": round(usage.ru_maxrss / 1024),
        "worker_peaks_mb": [round(peak) for peak in peaks_mb(others)[:2]],
        "load": round(load, 1),
        "said": said.strip().splitlines(),
    }


def scoring(table, bundle, out, engine=""):
    """The arguments of a scoring command."""
    shutil.rmtree(out, ignore_errors=True)
    command = ["lib.production.scoring", str(table), "--bundle", str(bundle), "--out", str(out)]
    command += ["--dataset", "creditcard"]
    return command + (["--engine", engine, "--labels"] if engine else [])


def thinning(table, out, engine, *more):
    """The arguments of a thinning command."""
    command = ["lib.production.thin", str(table), "--dataset", "creditcard", "--out", str(out)]
    return [*command, "--engine", engine, *more]


class ByThreads(ThreadPoolExecutor):
    """Runs what is submitted elsewhere, by a blocking function that a thread waits for."""

    def __init__(self, call):
        super().__init__(2 * WORKERS)
        self.call = call

    def submit(self, function, /, *task):
        return super().submit(self.call, function, task)


@contextmanager
def spark_standalone():
    """Start a master and a worker of Spark's own cluster -> the master's address."""
    from pyspark.find_spark_home import _find_spark_home

    start = Path(_find_spark_home()) / "bin" / "spark-class"
    of = "org.apache.spark.deploy"
    port = free_port()
    address = f"spark://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory() as work:
        master = [f"{of}.master.Master", "--host", "127.0.0.1", "--port", str(port)]
        worker = [f"{of}.worker.Worker", address, "--cores", str(WORKERS), "--memory", "2g"]
        worker += ["--work-dir", work]
        processes = []
        for command in (master, worker):
            command = [start, *command, "--webui-port", "0"]
            processes.append(subprocess.Popen(command, env=ENVIRONMENT, **quiet))
        try:
            yield address
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait(20)


@contextmanager
def on_spark():
    """An executor of Spark standalone: a job of one task for each part."""
    from pyspark.sql import SparkSession

    with spark_standalone() as address:
        session = (
            SparkSession.builder.master(address)
            .config("spark.ui.enabled", "false")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.executor.memory", "1g")
            .getOrCreate()
        )
        context = session.sparkContext
        context.parallelize(range(WORKERS), WORKERS).map(imported).collect()

        def call(function, task):
            return context.parallelize([task], 1).map(lambda task: function(*task)).first()

        with ByThreads(call) as pool:
            yield pool
        session.stop()


@contextmanager
def on_ray():
    """An executor of Ray: a task for each part."""
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    run = ray.remote(lambda function, task: function(*task))
    ray.get([run.remote(imported, (i,)) for i in range(WORKERS)])
    with ByThreads(lambda function, task: ray.get(run.remote(function, task))) as pool:
        yield pool
    ray.shutdown()


OTHERS = {"pyspark": on_spark, "ray": on_ray}  # package -> executor


def imported(number):
    """Import what a part needs, as workers that live long have done."""
    from lib.engine import scored  # noqa: F401 - to be there is enough

    return number


class CpuWatch:
    """CPU seconds of this process and all below it, looked at often: some end before others."""

    def __enter__(self):
        self.before = self._seen()
        self.latest = dict(self.before)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self):
        while not self.ended.wait(0.2):
            self.latest |= self._seen()

    @staticmethod
    def _seen():
        own = psutil.Process()
        found = {}
        for process in (own, *own.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                found[process] = sum(process.cpu_times()[:2])
        return found

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        self.latest |= self._seen()
        self.cpu_s = sum(self.latest.values()) - sum(self.before.values())


def score_on(package, table, bundle, out):
    """Score a table on another engine; print what it took once the engine was there."""
    with OTHERS[package]() as pool, CpuWatch() as watch:
        start = time.perf_counter()
        run = scoring_by_parts.Run(
            load_description("creditcard"), str(table), Path(bundle), str(out), labelled=True
        )
        report = scoring_by_parts.score(run, pool)
        wall = time.perf_counter() - start
    found = {"n": report["n"], "wall_s": round(wall, 1), "cpu_s": round(watch.cpu_s, 1)}
    print(json.dumps(found))


def others(table, bundle, folder):
    """Run Spark and Ray, each in a process of its own, where they are installed."""
    for package in OTHERS:
        if importlib.util.find_spec(package) is None:
            print(
                f"{package} is not installed and left out: uv pip install --target FOLDER "
                f"{package}, with FOLDER on PYTHONPATH; Spark needs Java, too"
            )
            continue
        out = folder / f"scored-{package}"
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, __file__, "--on", package, str(table), str(bundle), str(out)]
        load = os.getloadavg()[0]
        done = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        lines = done.stdout.strip().splitlines()
        if done.returncode:
            print(f"{package}: failed")
            continue
        found = json.loads(lines[-1]) | {"load": round(load, 1)}
        show(f"{package}, once it has started:", found["n"], found)


def show(what, rows, found):
    """Print one measurement."""
    print(what, f"{rows / found['wall_s']:,.0f} rows/s", json.dumps(found), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="is kept, with table and bundle (default: temporary)"
    )
    parser.add_argument("--repeat", type=int, default=2, help="local path and cluster in turn")
    parser.add_argument("--big", type=int, default=0, help="rows of the large table")
    parser.add_argument("--score-big", action="store_true", help="score it, too: many minutes")
    parser.add_argument("--others", action="store_true", help="Spark and Ray, too")
    parser.add_argument(
        "--rows", type=int, default=4_000_000, help="of the table, a multiple of 125,000"
    )
    parser.add_argument("--on", nargs=4, help=argparse.SUPPRESS)  # one engine in a process
    options = parser.parse_args()
    if options.on:
        score_on(*options.on)
        return
    folder = options.folder or Path(tempfile.mkdtemp())
    table, bundle = folder / "table", folder / "models" / "gaussian_mixture"
    if not table.is_dir():
        write_table(table, options.rows // FILE_ROWS)
    if not bundle.is_dir():
        write_bundle(folder)
    rows = pq.ParquetDataset(table).read(columns=["Class"]).num_rows
    with Cluster(folder / "workers") as cluster:
        # workers live long: what they import once is no part of a run
        measured(scoring(table / "000.parquet", bundle, folder / "first", cluster.address), cluster)
        for _ in range(options.repeat):
            local = measured(scoring(table, bundle, folder / "local"))
            show("local path:", rows, local)
            found = measured(scoring(table, bundle, folder / "scored", cluster.address), cluster)
            show("two workers:", rows, found)
            print(
                f"  wall {local['wall_s'] / found['wall_s']:.2f} times as fast, "
                f"CPU {found['cpu_s'] / local['cpu_s']:.2f} times as much"
            )
        show(
            "thin:",
            rows,
            measured(thinning(table, folder / "thin.parquet", cluster.address), cluster),
        )
        if options.big:
            big = folder / f"big-{options.big}"
            if not big.is_dir():
                link_table(big, table, options.big)
            out = folder / "big.parquet"
            show("thin:", options.big, measured(thinning(big, out, cluster.address), cluster))
            if options.score_big:
                command = scoring(big, bundle, folder / "scored-big", cluster.address)
                show("two workers:", options.big, measured(command, cluster))
    if options.others:
        others(table, bundle, folder)
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
