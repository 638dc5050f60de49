"""Open MLflow's own pages on the project's store: `python -m lib.registry.mlflow_pages`.

It imports no MLflow: the server is another program, which takes this one's place.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from urllib.parse import quote

from lib.data.datasets import ROOT
from lib.errors import Refused, TrackingError
from lib.registry import compared, mlflow_store

HOST = "127.0.0.1"
QUIET = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # it would start workers that nothing here needs
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore",  # of what its own packages deprecate
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print where the candidates are compared, then serve MLflow's pages until Ctrl+C."""
    parser = argparse.ArgumentParser(prog="make mlflow", description=main.__doc__)
    parser.add_argument("--port", type=int, default=5000)
    asked, others = parser.parse_known_args(arguments)
    # what is shown is the project's own store; a team's server has its pages already
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        mlflow_store.relocate()
        check_port(asked.port)
        links = addresses(asked.port)
    except (Refused, TrackingError) as error:
        print(error, file=sys.stderr)
        return 1
    for what, address in links.items():
        print(f"{what}: {address}", flush=True)
    store = mlflow_store.sqlite_uri(ROOT / "mlflow.db")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store]
    command += ["--workers", "1", "--host", HOST, "--port", str(asked.port), *others]
    os.execve(sys.executable, command, os.environ | QUIET)


def check_port(port: int) -> None:
    """Refuse a port that is none, or that another program listens on."""
    if not 1 <= port <= 65_535:
        raise Refused(f"PORT={port} is not a port: choose a number from 1 to 65535.")
    with socket.socket() as probe:
        # a port that was given up a moment ago is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Refused(
                f"Port {port} cannot be listened on ({error.strerror}): end the program that uses "
                "it, or choose another one, such as make mlflow PORT=5001"
            ) from error


def addresses(port: int) -> dict[str, str]:
    """Return what MLflow's pages have to show, and where: {in words: address}.

    Raises
    ------
    TrackingError
        Nothing has been logged to the project's store yet.
    """
    experiment_id = mlflow_store.experiment_id()
    if experiment_id is None:
        raise TrackingError(
            "Nothing has been logged to mlflow.db yet: make pipeline logs a run and its candidates."
        )
    links = {
        "The candidates of the last run, compared": compared.link(port, experiment_id),
        "The same as charts": compared.link(port, experiment_id, charts=True),
    }
    for champion in mlflow_store.champions():
        # the name may hold any character
        links[f"The versions of {champion.name}"] = (
            f"http://localhost:{port}/#/models/{quote(champion.name, safe='')}"
            "?workflowType=machine_learning"
        )
    return links


if __name__ == "__main__":
    sys.exit(main())
