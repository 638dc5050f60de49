"""The untouched period of a whole table, replayed as raw transactions: online as offline."""

import itertools
import shutil

import numpy as np
import online
import pytest
from online import agree
from server import running

from lib import bundle
from lib.bundle import recent
from lib.bundle.manifest import HISTORY, read
from lib.bundle.raw import RawTable
from lib.data import raw_rows, splits
from lib.data.features import instants
from lib.detectors.isolation_forest import IsolationForest
from lib.production.sandbox import calibrate
from lib.registry import candidates, export
from serve.history import open_store

DELAY = 7 * 86_400 * 1_000_000  # of labels in data/payments.yaml, in microseconds
ROWS_PER_REQUEST = 50


class Table:
    """A split with histories, a bundle fitted to it, and its untouched period as it is sent.

    Attributes
    ----------
    rows : raw transactions; X : their features by the table, (n, d) float64
    t : instants of rows and of labels' transactions, in microseconds
    """

    def __init__(self, folder, dataset, rows):
        self.split = split = splits.open_split(splits.ensure(dataset, rows=rows))
        fitted = candidates.fit(IsolationForest(n_trees=50), split, "all")
        made = candidates.write(folder, "isolation_forest", fitted, split)
        calibrate(made, split.arrays("validation"), 0.005, "fraud-detector-table")
        manifest, files = read(made)
        files |= export.recent_transactions(split, manifest)
        assert HISTORY in files
        self.folder = folder / "served"
        bundle.write(self.folder, files, manifest | {"version": "1"}, hashed_names=True)
        self.raw = RawTable(manifest)
        frame = split.frame("untouched")
        self.rows = raw_rows.as_json(split.dataset, frame, self.raw)
        self.t = instants(split.dataset, frame[split.dataset.time_column])
        self.y = frame[split.dataset.label].to_numpy()
        self.X = frame[list(split.dataset.features)].to_numpy(np.float64)

    def requests(self):
        """Bodies in order, (path, body); a label comes when its delay is over, not before."""
        n_labels = 0
        for start in range(0, len(self.rows), ROWS_PER_REQUEST):
            part = slice(start, start + ROWS_PER_REQUEST)
            known = np.searchsorted(self.t, self.t[part][-1] - DELAY, "right")
            labels = [
                {"transaction": self.rows[i][self.raw.id], "fraud": int(self.y[i])}
                for i in range(n_labels, known)
            ]
            n_labels = known
            if labels:
                yield "/labels", {"labels": labels}
            yield "/predict", {"transactions": self.rows[part]}


def send(server, requests):
    """Scores of all requests, one after the other on one connection."""
    connection = server.connect()
    scores = []
    for path, body in requests:
        status, answer, _ = server.call("POST", path, body, connection)
        assert status == 200, answer
        scores += answer.get("anomaly_scores", [])
        assert answer.get("unknown", []) == []
    connection.close()
    return scores


def replay(table, address, log, workers=1, restarts=0):
    """The scores of the whole period, the server being started again now and then."""
    settings = {"history": address, "workers": workers, "log_level": "warning"}
    requests = list(table.requests())
    parts = np.array_split(np.arange(len(requests)), restarts + 1)
    scores = []
    for part in parts:
        with running(table.folder, log, **settings) as server:
            scores += send(server, [requests[i] for i in part])
            if restarts:
                # sent once more: it is remembered already
                with_transactions = requests[part[-1]]
                send(server, [with_transactions])
    return np.array(scores)


def derived(table, address):
    """Features (n, d) of the whole period, request by request, from a store of their own."""
    raw = table.raw
    store = open_store(str(address), "features")
    store.prepare(raw)
    store.load(recent.of_bundle(table.folder), "bundle")
    found = []
    for path, body in table.requests():
        if path == "/labels":
            assert (
                store.label({each["transaction"]: each["fraud"] for each in body["labels"]}) == []
            )
            continue
        transactions = [raw.read(row) for row in body["transactions"]]
        store.remember(transactions)
        asked = [raw.lookups(each) for each in transactions]
        answers = iter(store.past(list(itertools.chain.from_iterable(asked))))
        pasts = [{lookup.entity: next(answers) for lookup in lookups} for lookups in asked]
        found.append(raw.matrix(transactions, pasts))
        store.prune(raw, 2 * ROWS_PER_REQUEST)
    store.close()
    return np.concatenate(found)


def check(table, address, log, **options):
    """Every score over HTTP, then every feature."""
    scores = replay(table, address, log, **options)
    model = bundle.load(table.folder)
    expected = [
        model.anomaly_score(table.X[i : i + ROWS_PER_REQUEST].astype(np.float32))
        for i in range(0, len(table.X), ROWS_PER_REQUEST)
    ]
    np.testing.assert_allclose(scores, np.concatenate(expected), rtol=1e-6)
    agree(derived(table, address), table.X)


def test_a_period_online_is_what_it_is_offline(tmp_path):
    table = Table(tmp_path, "payments", 4_000)
    check(table, tmp_path / "histories", tmp_path / "log", workers=2, restarts=1)


@pytest.fixture(scope="module")
def payments(tmp_path_factory):
    return Table(tmp_path_factory.mktemp("payments"), "payments", 100_000)


@pytest.mark.check
@pytest.mark.parametrize(("workers", "restarts"), [(1, 0), (2, 1)])
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_whole_table_online_is_what_it_is_offline(payments, tmp_path, kind, workers, restarts):
    if kind == "sqlite":
        address = tmp_path / "histories"
    else:
        assert shutil.which("redis-server"), "redis-server is not installed"
        server = online.Redis(tmp_path)
        address = server.url
    try:
        check(payments, address, tmp_path / "log", workers=workers, restarts=restarts)
    finally:
        if kind == "redis":
            server.stop()
