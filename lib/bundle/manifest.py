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
FILES = ("model.onnx", "explain.onnx", MODEL_CARD)
FLOAT32_MAX = 3.4028234663852886e38


def check(manifest: Any, where: Path | str) -> None:
    """Raise BundleError unless the manifest has the shape that loading and scoring rely on."""

    def need(condition: object, what: str) -> None:
        if not condition:
            raise BundleError(f"The manifest in {where} {what}.")

    need(isinstance(manifest, dict), "is not a JSON object")
    schema = manifest.get("schema_version")
    need(
        type(schema) is int and schema >= 1,
        f"has schema_version {schema!r}, expected {SCHEMA_VERSION}",
    )
    need(
        schema <= SCHEMA_VERSION,
        f"has schema_version {schema}, newer than {SCHEMA_VERSION}: update this code",
    )
    features, files = manifest.get("features"), manifest.get("files")
    need(
        _is_list(features, str) and features and len(set(features)) == len(features),
        "needs 'features', a list of different names",
    )
    need(isinstance(files, dict) and "model.onnx" in files, "lists no model.onnx in 'files'")
    for name, sha256 in files.items():
        need(name in FILES, f"lists the file {name!r}; a bundle has only {', '.join(FILES)}")
        need(
            isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256),
            f"has no sha256 of {name}",
        )
    missing = manifest.get("missing", "refuse")
    need(missing in ("refuse", "median"), f"has missing {missing!r}, expected 'refuse' or 'median'")
    reference = manifest.get("reference", {})
    whole = isinstance(reference, dict) and (
        not reference or set(reference) >= {"median", "low", "high"}
    )
    need(whole, "needs median, low and high in 'reference'")
    for key, values in reference.items():
        good = _is_list(values, (int, float)) and len(values) == len(features)
        need(
            good and all(abs(v) <= FLOAT32_MAX for v in values),
            f"needs {len(features)} numbers in reference {key!r}",
        )
    threshold = manifest.get("threshold", {})
    need(isinstance(threshold, dict), "has a 'threshold' that is not an object")
    score = threshold.get("anomaly_score", 1.0)
    need(
        type(score) in (int, float) and 0 <= score <= 1,
        f"has the threshold {score!r}, expected 0 to 1",
    )
    need(isinstance(manifest.get("version", ""), str), "has a 'version' that is not a string")


def _is_list(values: Any, of: type | tuple[type, ...]) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, of) and not isinstance(v, bool) for v in values
    )


def read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the checked manifest and the very bytes that were verified."""
    try:
        manifest = json.loads(
            (folder / "manifest.json").read_bytes(), parse_constant=_refuse_constant
        )
    except OSError as error:
        raise BundleError(
            f"There is no bundle in {folder}: manifest.json cannot be read."
        ) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder / 'manifest.json'} is not JSON: {error}.") from error
    check(manifest, folder)
    graphs = {}
    for name, sha256 in manifest["files"].items():
        path = folder / file_name(name, sha256)
        path = path if path.exists() else folder / name
        try:
            graphs[name] = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{folder} is not whole: {path.name} cannot be read.") from error
        if hashlib.sha256(graphs[name]).hexdigest() != sha256:
            raise BundleError(
                f"{path} was changed: its sha256 is not the manifest's {sha256[:16]}…."
            )
    return manifest, graphs


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def file_name(name: str, sha256: str) -> str:
    """The name that changes with the content: model-<sha256[:16]>.onnx."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}-{sha256[:16]}.{suffix}"
