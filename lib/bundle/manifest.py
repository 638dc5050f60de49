"""A bundle on disk: what manifest.json must hold, and reading it with every file verified; standard
library only.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from lib.errors import BundleError

SCHEMA_VERSION = 1
MODEL_CARD = "model_card.md"
HISTORY = "history.npz"  # see lib.bundle.recent
FILES = ("model.onnx", "explain.onnx", MODEL_CARD, HISTORY)
FLOAT32_MAX = 3.4028234663852886e38
REFERENCE = {"median", "low", "high"}  # what explanations compare a value with
SHA256 = re.compile("[0-9a-f]{64}")


def check(manifest: Any, where: Path | str) -> None:
    """Check that a manifest has the shape that loading and scoring rely on.

    Parameters
    ----------
    manifest : what was read from JSON, or is about to be written
    where : the bundle's folder, which messages name

    Raises
    ------
    BundleError
        If it has not; the message names the first key that is wrong.
    """
    try:
        _check(manifest)
    except _Wrong as error:
        raise BundleError(f"The manifest in {where} {error}.") from None


class _Wrong(Exception):  # noqa: N818 - the end of a sentence, which `check` turns into an error
    """What is wrong with a manifest, as the end of a sentence about it."""


def _need(condition, what):
    if not condition:
        raise _Wrong(what)


def _check(manifest):
    _need(isinstance(manifest, dict), "is not a JSON object")
    _check_schema(manifest.get("schema_version"))
    features = manifest.get("features")
    _check_features(features)
    _check_files(manifest.get("files"))
    missing = manifest.get("missing", "refuse")
    _need(
        missing in ("refuse", "median"),
        f"has missing {missing!r}, expected 'refuse' or 'median'",
    )
    reference = manifest.get("reference", {})
    _check_reference(reference, len(features))
    threshold = manifest.get("threshold", {})
    _check_threshold(threshold)
    recipe = manifest.get("recipe", {})
    _need(isinstance(recipe, dict), "has a 'recipe' that is not an object")
    version = manifest.get("version", "")
    _need(isinstance(version, str), "has a 'version' that is not a string")


def _check_schema(schema):
    # `type`, since JSON's true is an int to isinstance
    _need(
        type(schema) is int and schema >= 1,
        f"has schema_version {schema!r}, expected {SCHEMA_VERSION}",
    )
    _need(
        schema <= SCHEMA_VERSION,
        f"has schema_version {schema}, newer than {SCHEMA_VERSION}: update this code",
    )


def _check_features(features):
    all_differ = False
    if _is_list(features, str) and features:
        all_differ = len(set(features)) == len(features)
    _need(all_differ, "needs 'features', a list of different names")


def _check_files(files):
    _need(
        isinstance(files, dict) and "model.onnx" in files,
        "lists no model.onnx in 'files'",
    )
    for name, sha256 in files.items():
        # names become paths: only these, so that none leads out of the folder
        _need(
            name in FILES,
            f"lists the file {name!r}; a bundle has only {', '.join(FILES)}",
        )
        _need(
            isinstance(sha256, str) and SHA256.fullmatch(sha256),
            f"has no sha256 of {name}",
        )


def _check_reference(reference, n_features):
    whole = isinstance(reference, dict)
    if whole and reference:  # an empty one is that of a bundle without explanations
        whole = set(reference) >= REFERENCE
    _need(whole, "needs median, low and high in 'reference'")
    for key, values in reference.items():
        good = _is_list(values, (int, float)) and len(values) == n_features
        if good:
            good = all(abs(value) <= FLOAT32_MAX for value in values)
        _need(good, f"needs {n_features} numbers in reference {key!r}")


def _check_threshold(threshold):
    _need(isinstance(threshold, dict), "has a 'threshold' that is not an object")
    score = threshold.get("anomaly_score", 1.0)
    _need(
        type(score) in (int, float) and 0 <= score <= 1,
        f"has the threshold {score!r}, expected 0 to 1",
    )


def _is_list(values, of):
    """Tell whether values is a list of such elements; true and false are not numbers."""
    if not isinstance(values, list):
        return False
    if any(isinstance(value, bool) for value in values):
        return False
    return all(isinstance(value, of) for value in values)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the checked manifest and the very bytes that were verified, by name.

    Raises
    ------
    BundleError
        If a file is missing or its content is not what its sha256 says, or the manifest is not
        valid.
    """
    manifest = _read_manifest(folder)
    check(manifest, folder)
    graphs = {}
    for name, sha256 in manifest["files"].items():
        graphs[name] = _read_verified(folder, name, sha256)
    return manifest, graphs


def _read_manifest(folder):
    path = folder / "manifest.json"
    try:
        content = path.read_bytes()
        return json.loads(content, parse_constant=_refuse_constant)
    except OSError as error:
        raise BundleError(
            f"There is no bundle in {folder}: manifest.json cannot be read."
        ) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON: {error}.") from error


def _read_verified(folder, name, sha256):
    """Return the bytes of a file under its hashed name or, without one, its plain name."""
    path = folder / file_name(name, sha256)
    if not path.exists():
        path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{folder} is not whole: {path.name} cannot be read.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise BundleError(f"{path} was changed: its sha256 is not the manifest's {sha256[:16]}….")
    return content


def _refuse_constant(name):
    # NaN and Infinity, which Python reads and other programs refuse
    raise ValueError(f"{name} is not a JSON number")


def file_name(name: str, sha256: str) -> str:
    """Return the name that changes with the content: model-<sha256[:16]>.onnx."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}-{sha256[:16]}.{suffix}"
