import subprocess
import sys

import bundles
import fuzzing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server import running

QUICK = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@settings(max_examples=150, **QUICK)
@given(fuzzing.bodies())
def test_a_body_is_decoded_or_refused_as_the_judge_says(body):
    fuzzing.check_body(body)


@settings(max_examples=50, **QUICK)
@given(st.binary(max_size=40))
def test_bytes_without_sense_are_refused(body):
    fuzzing.check_body(body)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return bundles.write(
        tmp_path_factory.mktemp("whole"), "autoencoder", features=["V1", "V2", "Amount"]
    )


@settings(max_examples=50, **QUICK)
@given(fuzzing.damages())
def test_a_damaged_bundle_is_refused_or_scores(whole, tmp_path_factory, damage):
    fuzzing.check_bundle(whole, whole.with_name("damaged"), damage)


def test_the_api_keeps_what_its_document_says(whole, tmp_path):
    with running(whole, tmp_path / "log", max_rows=50, max_explained_rows=50) as server:
        url = f"http://127.0.0.1:{server.port}/openapi.json"
        command = [
            sys.executable,
            "-c",
            "from schemathesis.cli import schemathesis; schemathesis()",
            "run",
            url,
        ]
        options = [
            "--checks",
            "all",
            "--max-examples",
            "5",
            "--seed",
            "0",
            "--no-color",
            "--phases",
            "examples,coverage",
        ]
        done = subprocess.run(
            [*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert [line for line in server.lines() if line.get("status") == 500] == []
    assert done.returncode == 0, done.stdout[-3000:]
