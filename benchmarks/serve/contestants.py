"""Fitted models as files, and the servers that answer for them."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np

from lib import bundle
from lib.bundle.calibration import Calibration, threshold_for_budget
from lib.data import simulation
from lib.data.datasets import ROOT
from lib.detectors import registry

sys.path.append(str(ROOT / "tests"))

from server import free_port

HERE = Path(__file__).resolve().parent
FEATURES = [f"V{i}" for i in range(1, 29)] + ["Amount"]
EXPORTED = "exported"  # the name of a bundle that is given
MODELS = {  # name: detector and what differs from its defaults
    "isolation_forest": ("isolation_forest", {}),
    # as the paper has it
    "isolation_forest_100x256": ("isolation_forest", {"n_trees": 100, "max_samples": 256}),
    "autoencoder": ("autoencoder", {}),
    "gaussian_mixture": ("gaussian_mixture", {}),
    "nearest_neighbours": ("nearest_neighbours", {}),
    "robust_covariance": ("robust_covariance", {}),
    "empirical_tails": ("empirical_tails", {}),
    "gaussian_mixture_8x8": ("gaussian_mixture", {"members": 8, "n_components": 8}),  # eight folds
}


def take(bundle_folder, folder, seed=0):
    """Copy an exported bundle to `folder`/exported/ and its graph to `folder`/exported.onnx -> rows
    to send (1,000, d) float64 with 15 digits, drawn from the ranges of its manifest.
    """
    target = folder / EXPORTED
    shutil.copytree(bundle_folder, target)
    model = bundle.load(target)
    (graph,) = target.glob("model*.onnx")
    shutil.copy(graph, folder / "exported.onnx")
    low, high = model.reference["low"], model.reference["high"]
    sent = np.random.default_rng(seed).uniform(low, high, (1_000, len(low)))
    return _digits(sent)


def fit(folder, models, rows=20_000, seed=0):
    """Fit models on simulated transactions -> rows to send (1,000, 29) float64, with 15 digits
    as the public file.

    Writes `folder`/<model>/ (the bundle), `folder`/<model>.onnx (its graph) and
    `folder`/<model>.joblib (the estimator, for the typical way).
    """
    frame = simulation.simulate(rows=rows, seed=seed)
    X = frame[FEATURES].to_numpy(np.float32)
    weight = np.ones(len(X))
    low, median, high = np.quantile(X, [0.01, 0.5, 0.99], axis=0).astype(float).tolist()
    for name in models:
        kind, changes = MODELS[name]
        detector = registry.make(kind, seed=seed, **changes).fit(
            X, weight=weight, validation=(X[:4_000], weight[:4_000])
        )
        raw = detector.raw_score(X)
        calibration = Calibration.fit(raw, weight)
        threshold = float(
            calibration.apply(np.array([threshold_for_budget(raw, weight, 0.002)]))[0]
        )
        graphs = {"model.onnx": detector.to_onnx()}
        if explain := detector.explain_onnx():
            graphs["explain.onnx"] = explain
        manifest = {
            "model": name,
            "name": "fraud-detector",
            "dataset": {"name": "simulated", "source": "simulated"},
            "features": FEATURES,
            "missing": "refuse",
            "reference": {"low": low, "median": median, "high": high},
            "calibration": calibration.to_dict(),
            "threshold": {
                "anomaly_score": threshold,
                "rule": "alert_budget",
                "alert_budget": 0.002,
            },
            "version": "1",
        }
        bundle.write(folder / name, graphs, manifest)
        (folder / f"{name}.onnx").write_bytes(graphs["model.onnx"])
        joblib.dump(detector, folder / f"{name}.joblib")
    sent = frame[FEATURES].to_numpy(np.float64)[:1_000]
    # simulated ones have 6 digits
    sent[:, :-1] += np.random.default_rng(seed).uniform(-5e-7, 5e-7, sent[:, :-1].shape)
    return _digits(sent)


def _digits(sent):
    """Return float64 numbers with 15 significant digits."""
    return np.array([[float(f"{value:.15g}") for value in row] for row in sent])


class Contestant:
    """A server under measurement.

    Parameters
    ----------
    name, model : str; `model` is '' for constant answers
    command : list of str, {port} filled in
    path : where rows are posted
    body : function from rows (n, d) to a json-able body
    environ : further environment variables, {port} filled in
    """

    def __init__(self, name, model, command, path="/predict", body=None, environ=None):
        self.name, self.model, self.command, self.path = name, model, command, path
        self.body = body or (lambda rows: {"features": rows.tolist()})
        self.environ = environ or {}

    def start(self, folder, rows, timeout_s=180):
        """Start it and wait for its first right answer."""
        self.port = free_port()
        tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # mlflow starts `uvicorn`
        port = str(self.port)
        own = {name: value.replace("{port}", port) for name, value in self.environ.items()}
        environ = {**os.environ, "PATH": tools, "OMP_NUM_THREADS": "1", **own}
        command = [part.replace("{port}", port) for part in self.command]
        self.log = folder / f"{self.name}-{self.model}.log".replace(" ", "-")
        with open(self.log, "w") as out:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environ,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        start = time.perf_counter()
        while time.perf_counter() < start + timeout_s and self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.post(rows[:1]) == 200:
                    return self
            time.sleep(0.2)
        raise RuntimeError(
            f"{self.name} {self.model} did not answer: {self.log.read_text()[-3000:]}"
        )

    def post(self, rows):
        """Status of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(
            "POST", self.path, json.dumps(self.body(rows)), {"Content-Type": "application/json"}
        )
        return connection.getresponse().status

    def stop(self):
        """End it and its children, by the process group that it leads."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def memory_mb(self):
        """Resident memory of the process."""
        return (
            int(
                re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[
                    1
                ]
            )
            / 1024
        )

    def cpu_s(self):
        """CPU seconds that it and its children have used."""
        return sum(_cpu_s(pid) for pid in _family(self.process.pid))


def _family(pid):
    children = [
        int(child)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for child in path.read_text().split()
    ]
    return [pid, *(each for child in children for each in _family(child))]


def _cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def uvicorn(app):
    """The command of an application in apps.py, with uvicorn's access log as it is by default."""
    return [
        sys.executable,
        "-m",
        "uvicorn",
        "--app-dir",
        str(HERE),
        f"apps:{app}",
        "--port",
        "{port}",
    ]


def ours(folder, model):
    """The server of this project with everything switched on, as the README starts it."""
    environ = {
        "FRAUD_BUNDLE": str(folder / model),
        "FRAUD_API_KEY": "",
        "FRAUD_HOST": "127.0.0.1",
        "FRAUD_PORT": "{port}",
    }
    return Contestant("this project", model, [sys.executable, "-m", "serve"], environ=environ)


def mlflow_serve(folder, model):
    """`mlflow models serve` for the same graph."""
    import mlflow
    import onnx

    target = folder / f"mlflow-{model}"
    if not target.exists():
        mlflow.onnx.save_model(onnx.load(folder / f"{model}.onnx"), target, pip_requirements=[])
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        str(target),
        "--env-manager",
        "local",
    ]
    return Contestant(
        "mlflow models serve",
        model,
        [*command, "--port", "{port}"],
        "/invocations",
        lambda rows: {"inputs": rows.tolist()},
    )


def mlserver(folder, model, python):
    """MLServer for the same graph; `python` is that of an environment with mlserver and
    onnxruntime.
    """
    target = folder / f"mlserver-{model}"
    target.mkdir(exist_ok=True)
    settings = {"name": "fraud", "implementation": "mlserver_onnx.OnnxModel"}
    settings["parameters"] = {"uri": str(folder / f"{model}.onnx"), "version": "1"}
    (target / "model-settings.json").write_text(json.dumps(settings))
    code = (
        "import json,sys; json.dump({'http_port': int(sys.argv[1]), 'grpc_port': int(sys.argv[1]) "
        "+ 10_000,"
        " 'metrics_port': int(sys.argv[1]) + 5_000, 'parallel_workers': 0, 'debug': False}, "
        "open('settings.json', 'w'))"
    )
    mlserver = Path(python).parent / "mlserver"
    script = f'cd {target} && {python} -c "{code}" {{port}} && exec {mlserver} start .'

    def body(rows):
        data = rows.astype(np.float32).ravel().tolist()
        tensor = {"name": "features", "shape": list(rows.shape), "datatype": "FP32", "data": data}
        return {"inputs": [tensor]}

    environ = {"PYTHONPATH": str(HERE)}
    return Contestant(
        "MLServer", model, ["bash", "-c", script], "/v2/models/fraud/infer", body, environ
    )


def everyone(folder, models, mlserver_python=None):
    """All contestants; the reference first."""
    found = [
        Contestant("FastAPI, constant answer", "", uvicorn("constant")),
        Contestant("bare ASGI", "", uvicorn("bare")),
    ]
    for model in models:
        found.append(ours(folder, model))
    for model in ("isolation_forest", "autoencoder"):
        if model in models:
            environ = {
                "BENCHMARK_ESTIMATOR": str(folder / f"{model}.joblib"),
                "PYTHONPATH": str(ROOT),
            }
            typical = [*uvicorn("typical"), "--factory"]
            found.append(Contestant("estimator in def", model, typical, environ=environ))
    for model in models:
        found.append(mlflow_serve(folder, model))
        if mlserver_python:
            found.append(mlserver(folder, model, mlserver_python))
    return found
