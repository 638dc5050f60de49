"""The server under full load for a while, with valid and broken requests mixed and bundles replaced
in between.

`python benchmarks/serve/soak.py --minutes 10` exits with 1 on a 500, a dropped request, an answer
that fits no request or memory that grows.
"""

import argparse
import collections
import http.client
import json
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import bundles
from server import MODULE, running

BROKEN = [  # body, status
    (b'{"features": [[1, 2]]}', 422),
    (b'{"features": []}', 422),
    (b'{"features": [[NaN]]}', 400),
    (b'{"features": [[1e999]]}', 422),
    (b'{"features": [{"V1": 1, "V1": 2}]}', 422),
    (b'{"features": [["x"]], "y": 1}', 422),
    (b"[" * 50_000, 422),
    (b'{"features": [{"V\xff": 1}]}', 400),
    (b"", 400),
    (b'{"features": [[' + b"0," * 400_000 + b"0]]}", 413),
    (b" " * 10_000_001, 413),
]


def call(port, ended, seed, counts):
    """Send one request after the other on a kept-alive connection; `counts` gets what came back, by
    status.
    """
    from server import Server

    server = Server.__new__(Server)
    server.port = port
    chance = random.Random(seed)
    X = bundles.rows(3_000, seed=seed).tolist()
    names = bundles.FEATURES
    seen, wrong = collections.Counter(), []
    connection = server.connect()
    while not ended.is_set():
        kind, n = chance.random(), chance.choice([1, 1, 1, 1, 1, 1, 10, 10, 100, 100, 1_000, 3_000])
        path, wanted = "/predict", 200
        if kind < 0.3:
            body, wanted = chance.choice(BROKEN)
        elif kind < 0.4:
            n = min(n, 100)
            body = {"features": [dict(zip(names, row, strict=True)) for row in X[:n]]}
        elif kind < 0.45:
            n, path = min(n, 100), "/predict?explain=true"
            body = {"features": X[:n]}
        else:
            body = {"features": X[:n]}
        try:
            status, answer, _ = server.call("POST", path, body, connection)
        except (OSError, http.client.HTTPException) as error:
            wrong.append(f"dropped: {error!r}")
            connection.close()  # the next request opens it again
            time.sleep(0.1)
            continue
        seen[status] += 1
        fits = status == wanted and (wanted != 200 or len(answer["anomaly_scores"]) == n)
        overloaded = status == 503 and answer["error"]["code"] == "overloaded"
        if not fits and not overloaded:
            wrong.append(f"{status} instead of {wanted}: {json.dumps(answer)[:200]}")
    counts.put((seen, wrong[:5], len(wrong)))


def replace(folder, turn):
    """Every second time another bundle, now and then a broken one."""
    if turn % 5 == 4:
        (folder / "manifest.json").write_text("{")
        return "broken"
    bundles.write(
        folder,
        ("autoencoder", "forest", "mixture")[turn % 3],
        seed=turn,
        hashed_names=True,
        version=str(turn),
    )
    return "new"


def main():
    """Run and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--reload-s", type=float, default=5)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = bundles.write(Path(name) / "bundle", hashed_names=True, version="0")
        with running(folder, Path(name) / "log", MODULE, poll_s=0.5) as server:
            ended, counts = spawn.Event(), spawn.Queue()
            clients = [
                spawn.Process(target=call, args=(server.port, ended, seed, counts))
                for seed in range(options.clients)
            ]
            for client in clients:
                client.start()
            start, memory, replaced = time.perf_counter(), [], collections.Counter()
            for turn in range(1, 10**9):
                if time.perf_counter() > start + 60 * options.minutes:
                    break
                time.sleep(options.reload_s)
                replaced[replace(folder, turn)] += 1
                if server.process.poll() is not None:
                    print(
                        f"the server ended with {server.process.returncode}:",
                        server.log.read_text()[-3000:],
                    )
                    break
                memory.append(server.memory_mb())
            ended.set()
            results = [counts.get(timeout=60) for _ in clients]
            for client in clients:
                client.join()
            log = server.lines()
    seen = sum((each[0] for each in results), collections.Counter())
    wrong = [sentence for each in results for sentence in each[1]]
    n_loaded = sum(line["message"] == "bundle loaded" for line in log if "message" in line)
    third = max(len(memory) // 3, 1)
    early, late = np.median(memory[third : 2 * third] or memory), np.median(memory[-third:])
    print(
        f"{sum(seen.values()):,} requests in {options.minutes:g} min: {dict(sorted(seen.items()))}"
    )
    print(
        f"bundles written {dict(replaced)}, taken up {n_loaded}; wrong or dropped "
        f"{sum(each[2] for each in results)}",
        *wrong,
    )
    print(
        f"memory MB: first {memory[0]:.0f}, middle third {early:.0f}, last third {late:.0f}, "
        f"highest {max(memory):.0f}"
    )
    good = not wrong and not any(status == 500 for status in seen) and late < early * 1.1 + 5
    print("ok" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
