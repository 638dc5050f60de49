"""Histories: how fast a table's are computed, and how fast a server looks one up.

`python benchmarks/history.py` needs wrk, a package of most systems. Made-up transactions:

- offline: twelve windows of cards and merchants over a table, at a quarter, a half and all of its
  rows, each in a process of its own.
- online: one transaction with ten windows against a history of a million, over HTTP, on one worker
  with SQLite: latency on one connection, requests a second on 16, memory before and after.
- beside it, asked in turn, Feast's own server with its SQLite online store: it returns ten values
  for the same card and merchant that were computed and materialised before; it derives nothing,
  remembers nothing and scores nothing. It has an environment of its own, made by pip at the first
  run.
"""

import argparse
import contextlib
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from online import Prepared, shop  # noqa: E402
from server import MODULE, free_port, running  # noqa: E402

from lib.bundle.recent import Recent  # noqa: E402
from lib.data import datasets, features  # noqa: E402
from serve.history import open_store  # noqa: E402

DAY_S = 86_400
SPAN_S = 180 * DAY_S
ROWS_A_CARD, ROWS_A_MERCHANT = 350, 175
LENGTHS = ("1d", "7d", "30d")
OF_CARD = [{"count": "card", "within": length} for length in LENGTHS]
OF_CARD += [{"mean": "eur", "of": "card", "within": length} for length in LENGTHS]
DELAYED = {"delay": "7d"}
OF_MERCHANT = [{"count": "merchant", "within": length} | DELAYED for length in LENGTHS]
OF_MERCHANT += [{"fraud_rate": "merchant", "within": length} | DELAYED for length in LENGTHS]
TWELVE = [*OF_CARD, *OF_MERCHANT]
TEN = [*OF_CARD, OF_MERCHANT[0], OF_MERCHANT[2], OF_MERCHANT[3], OF_MERCHANT[5]]
N_BODIES = 20_000  # different requests that are sent in turn


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser("python benchmarks/history.py", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_750_000, help="of the table, offline")
    parser.add_argument("--history", type=int, default=1_000_000, help="transactions, online")
    parser.add_argument("--seconds", type=float, default=5, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument(
        "--feast", default="auto", help="python of an environment; no: leave it out"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--only-offline", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def transactions(n, seed=0, start_s=0.0, span_s=SPAN_S, first=0, n_people=None):
    """n transactions in time order, as a checked frame has them."""
    rng = np.random.default_rng(seed)
    n_people = n_people or n
    cards = rng.integers(0, max(n_people // ROWS_A_CARD, 1), n)
    merchants = rng.integers(0, max(n_people // ROWS_A_MERCHANT, 1), n)
    frame = {
        "nr": [f"T{i}" for i in range(first, first + n)],
        "t": start_s + np.sort(rng.integers(0, span_s, n)).astype(float),
        "card": [f"C{i}" for i in cards],
        "merchant": [f"M{i}" for i in merchants],
        "eur": np.round(rng.lognormal(3, 1, n), 2),
        "fraud": (rng.random(n) < 0.01).astype(float),
    }
    return pd.DataFrame(frame)


def offline(n):
    """Compute twelve windows of n rows here; seconds and peak memory of the process."""
    dataset = shop(TWELVE)
    frame = datasets.prepare(dataset, transactions(n), "memory")
    start, cpu = time.perf_counter(), time.process_time()
    derived = features.derive(dataset, frame)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert derived.shape == (n, len(frame.columns) + len(TWELVE))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": n, "seconds": seconds, "cpu_s": cpu, "peak_mb": peak_mb}


def offline_apart(n):
    """`offline` in a process of its own."""
    command = [sys.executable, __file__, "--only-offline", str(n)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def as_recent(frame, raw):
    """What a store loads of a frame."""
    return Recent(
        frame["nr"].tolist(),
        np.rint(frame["t"] * 1e6).astype(np.int64).to_numpy(),
        frame["fraud"].to_numpy(),
        {column: frame[column].to_numpy() for column in raw.numbers},
        {column: frame[column].tolist() for column in raw.texts},
    )


def wrk(port, path, bodies, options, folder):
    """Send bodies in turn -> requests a second, p50 and p99 in ms.

    RuntimeError unless all answers are 2xx.
    """
    seconds, connections = options
    (folder / "bodies.txt").write_text("\n".join(bodies))
    script = folder / "post.lua"
    script.write_text(
        f'local bodies = {{}}; for line in io.lines("{folder}/bodies.txt") do '
        "bodies[#bodies + 1] = line end\n"
        "local i = 0\n"
        'local headers = {["Content-Type"] = "application/json"}\n'
        "request = function() i = i % #bodies + 1; "
        f'return wrk.format("POST", "{path}", headers, bodies[i]) end\n'
    )
    url = f"http://127.0.0.1:{port}"
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--latency",
        "-s",
        str(script),
        url,
    ]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    times = {
        share: float(found[1]) * unit[found[2]]
        for share in (50, 99)
        if (found := re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", said))
    }
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])
    return {"requests_per_s": rate, "p50_ms": times[50], "p99_ms": times[99]}


@contextlib.contextmanager
def ours(known, later, folder):
    """Our server with a history -> its port, the path, bodies, and how to ask for its memory."""
    prepared = Prepared(shop(TEN), known.iloc[:2_000].assign(lat=0.0))
    bundle = prepared.write(folder / "bundle", 0)
    store = open_store(str(folder / "histories"), "shop")
    store.prepare(prepared.raw)
    start = time.perf_counter()
    store.load(as_recent(known, prepared.raw), "benchmark")
    store.close()
    print(f"{len(known):,} transactions loaded in {time.perf_counter() - start:.1f} s")
    rows = later.drop(columns="fraud").to_dict("records")
    bodies = [json.dumps({"transactions": [row]}) for row in rows]
    settings = {"history": folder / "histories", "log_level": "warning"}
    with running(bundle, folder / "log", MODULE, **settings) as server:
        yield server.port, "/predict", bodies, server.memory_mb


FEATURES = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource
from feast.types import Float64
from feast.value_type import ValueType

for name, n in (("card", 6), ("merchant", 4)):
    entity = Entity(name=name, join_keys=[name], value_type=ValueType.STRING)
    source = FileSource(name=f"of_{name}", path=f"{name}.parquet", timestamp_field="at")
    view = FeatureView(
        name=f"{name}_histories", entities=[entity], ttl=timedelta(days=36500), source=source,
        schema=[Field(name=f"{name}_{i}", dtype=Float64) for i in range(n)],
    )
    globals()[f"{name}_entity"], globals()[f"{name}_view"] = entity, view
"""
CONFIG = """
project: histories
registry: registry.db
provider: local
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
"""


def feast_python(given):
    """The Python of an environment with Feast, made if it is not there."""
    if given != "auto":
        return Path(given)
    folder = ROOT / ".pipeline" / "feast"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print("Making an environment for Feast, once")
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "feast"], check=True)
        (folder / "ready").touch()
    return python


@contextlib.contextmanager
def feast(python, known, later, folder):
    """Feast's server -> its port, the path and bodies that ask for ten values each."""
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(CONFIG)
    (folder / "definitions.py").write_text(FEATURES)
    rng = np.random.default_rng(0)
    for name, n in (("card", 6), ("merchant", 4)):
        entities = sorted({*known[name], *later[name]})
        frame = pd.DataFrame(rng.random((len(entities), n))).add_prefix(f"{name}_")
        frame = frame.assign(at=pd.Timestamp("2024-01-01", tz="UTC"))
        frame.insert(0, name, entities)
        frame.to_parquet(folder / f"{name}.parquet")
    command = [str(Path(python).parent / "feast"), "--chdir", str(folder)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*command, "apply"], check=True, **quiet)
    end = "2024-01-02T00:00:00"
    subprocess.run([*command, "materialize", "2023-12-31T00:00:00", end], check=True, **quiet)
    names = [f"card_histories:card_{i}" for i in range(6)]
    names += [f"merchant_histories:merchant_{i}" for i in range(4)]
    bodies = [
        json.dumps({"features": names, "entities": {"card": [card], "merchant": [merchant]}})
        for card, merchant in zip(later["card"], later["merchant"], strict=True)
    ]
    port = free_port()
    serve = [*command, "serve", "--port", str(port), "--workers", "1", "--no-access-log"]
    process = subprocess.Popen(serve, **quiet)
    try:
        _wait(port, bodies[0])
        yield port, "/get-online-features", bodies
    finally:
        process.terminate()
        process.wait()


def _wait(port, body):
    """Wait until Feast answers with ten values."""
    url = f"http://127.0.0.1:{port}/get-online-features"
    headers = {"Content-Type": "application/json"}
    for _ in range(600):
        request = urllib.request.Request(url, body.encode(), headers)
        with contextlib.suppress(OSError), urllib.request.urlopen(request) as answer:
            values = json.load(answer)["results"]
            assert all(each["values"][0] is not None for each in values), values
            return
        time.sleep(0.1)
    raise RuntimeError("Feast's server does not answer")


def online(given, figures):
    """Measure both servers in turn."""
    n = given.history
    known = transactions(n, span_s=37 * DAY_S)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        count = N_BODIES * (2 * given.rounds + 1)
        later = transactions(count, 1, 37 * DAY_S, DAY_S, first=n, n_people=n)
        port, path, bodies, memory_mb = stack.enter_context(ours(known, later, folder))
        contestants = {"this project": (port, path, bodies)}
        if given.feast != "no":
            python = feast_python(given.feast)
            served = stack.enter_context(feast(python, known, later, folder / "feast"))
            contestants["Feast, SQLite"] = served
        found = {name: {"one": [], "many": []} for name in contestants}
        before_mb = memory_mb()
        for i in range(given.rounds):
            for key, connections in (("one", 1), ("many", given.connections)):
                place = (2 * i + (key == "many")) * N_BODIES
                for name, (port, path, bodies) in contestants.items():
                    part = bodies[place : place + N_BODIES]
                    options = given.seconds, connections
                    found[name][key].append(wrk(port, path, part, options, folder))
        figures["memory_mb"] = {"before": before_mb, "after": memory_mb()}
    for name, of in found.items():
        one, many = of["one"], of["many"]
        figures[name] = {
            "p50_ms": statistics.median(each["p50_ms"] for each in one),
            "p99_ms": statistics.median(each["p99_ms"] for each in one),
            "requests_per_s": statistics.median(each["requests_per_s"] for each in many),
            "p50_ms_of_many": statistics.median(each["p50_ms"] for each in many),
        }
        print(
            f"{name}: one connection p50 {figures[name]['p50_ms']:.2f} ms, p99 "
            f"{figures[name]['p99_ms']:.2f} ms; {given.connections} connections "
            f"{figures[name]['requests_per_s']:,.0f} requests/s"
        )
    memory = figures["memory_mb"]
    print(f"memory of our worker: {memory['before']:.0f} MB, then {memory['after']:.0f} MB")


def main():
    """Measure and print."""
    given = arguments()
    if given.only_offline:
        print(json.dumps(offline(given.only_offline)))
        return
    figures = {"offline": []}
    for share in (4, 2, 1):
        found = offline_apart(given.rows // share)
        figures["offline"].append(found)
        print(
            f"{found['rows']:,} rows x {len(TWELVE)} windows: {found['seconds']:.1f} s "
            f"({found['cpu_s']:.1f} s of CPU), peak {found['peak_mb']:,.0f} MB"
        )
    online(given, figures)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
