"""The exported model: ONNX graphs beside a manifest.json; written atomically, verified by hash,
then loaded and scored.

Notebooks and server score through this file and nothing else, so that their scores are the same. It
needs numpy, onnxruntime and the standard library; a bundle holds no pickle and nothing that could
run code.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from lib.bundle.calibration import Calibration
from lib.bundle.manifest import FLOAT32_MAX, SCHEMA_VERSION, check, file_name, read
from lib.errors import BundleError
from lib.files import write_bytes

# bounds the memory of one run; in longer ones onnxruntime's forests lose their pace
CHUNK_ROWS = 512


def write(
    folder: Path | str,
    graphs: Mapping[str, bytes],
    manifest: Mapping[str, Any],
    hashed_names: bool = False,
) -> None:
    """Write graphs and manifest into `folder`, so that a reader sees the old bundle or the new one,
    never a mixture.

    Parameters
    ----------
    folder : made if absent.
    graphs : ``{"model.onnx": bytes}``, optionally ``"explain.onnx"`` and the text of
        ``"model_card.md"``.
    manifest : json-able; ``schema_version`` and ``files`` (sha256 of each of them) are set here.
    hashed_names : name files ``model-<sha256[:16]>.onnx``, which makes replacing a bundle that is
        being served safe.

    Raises
    ------
    BundleError
        If the manifest is not valid; nothing has been written then.
    """
    folder = Path(folder)
    files = {name: hashlib.sha256(graph).hexdigest() for name, graph in graphs.items()}
    manifest = {**manifest, "schema_version": SCHEMA_VERSION, "files": files}
    check(manifest, folder)
    try:
        text = json.dumps(manifest, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"The manifest for {folder} cannot be written as JSON: {error}."
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    names = {name: file_name(name, files[name]) if hashed_names else name for name in graphs}
    for name, graph in graphs.items():
        write_bytes(folder / names[name], graph)
    write_bytes(folder / "manifest.json", text.encode())
    for old in folder.glob("*.*"):
        if old.name not in names.values() and re.fullmatch(
            r"(explain|model(_card)?)(-\w{16})?\.(onnx|md)", old.name
        ):
            old.unlink(missing_ok=True)


def verify(folder: Path | str) -> dict[str, Any]:
    """Read the manifest and compare every file with its sha256; BundleError names what is wrong."""
    return read(Path(folder))[0]


def load(folder: Path | str, threads: int = 1, features: Sequence[str] | None = None) -> "Bundle":
    """Verify a bundle, then open it.

    Parameters
    ----------
    threads : compute threads of one call; scores are reproducible for a fixed number.
    features : the names that the caller will send, in order; a bundle with others is refused.

    Raises
    ------
    BundleError
        For a missing file, a changed byte, a newer schema, other features, or a graph that does not
        score.
    """
    folder = Path(folder)
    manifest, graphs = read(folder)
    if features is not None and list(features) != manifest["features"]:
        theirs, ours = manifest["features"], list(features)
        odd = [f for f in ours if f not in theirs] + [f for f in theirs if f not in ours]
        why = f"differs in {', '.join(odd[:5])}" if odd else "has another order"
        raise BundleError(
            f"The feature list of {folder} {why}: it has {len(theirs)}, expected {len(ours)}."
        )
    return Bundle(manifest, graphs, threads=threads, where=str(folder))


def bundle_hash(source: Path | str | Mapping[str, Any], model: bytes | None = None) -> str:
    """sha256 over model.onnx and the canonical manifest without `version` and `provenance`.

    `source` is a bundle's folder, or a written manifest with `model`, the bytes of its model.onnx.
    """
    if isinstance(source, Mapping):
        manifest, content = source, model
    else:
        manifest, graphs = read(Path(source))
        content = graphs["model.onnx"]
    stable = {key: value for key, value in manifest.items() if key not in ("version", "provenance")}
    text = json.dumps(
        stable, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(content + text.encode("utf-8", "surrogatepass")).hexdigest()


class Bundle:
    """A verified model, ready to score. `load` makes it.

    Attributes
    ----------
    manifest : dict
    features : tuple of str, in the order of the columns of X
    threshold : float or None; alert if and only if anomaly_score >= threshold
    version : str or None, the registry's version
    hash : str, see `bundle_hash`
    """

    def __init__(
        self, manifest: dict, graphs: dict[str, bytes], threads: int = 1, where: str = "the bundle"
    ):
        self.manifest = manifest
        self.where = where
        self.features = tuple(manifest["features"])
        self.threshold = manifest.get("threshold", {}).get("anomaly_score")
        self.version = manifest.get("version")
        self.hash = bundle_hash(manifest, graphs["model.onnx"])
        self.reference = {
            k: np.asarray(v, np.float32) for k, v in manifest.get("reference", {}).items()
        }
        try:
            stored = manifest.get("calibration")
            self.calibration = Calibration.from_dict(stored) if stored else None
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"The calibration in {where} is not valid: {error!r}.") from error
        self._run = _open(graphs["model.onnx"], "raw_score", threads, where)
        self._explain = None
        if "explain.onnx" in graphs:
            self._explain = _open(graphs["explain.onnx"], "contributions", threads, where)
        self._try()

    def raw_score(self, X: np.ndarray) -> np.ndarray:
        """Score rows; (n, d) float32, NaN where a value is missing -> (n,) float64, higher = more
        anomalous.

        A row so far away that float32 overflows inside the graph gets the largest float32 score.
        """
        X = np.ascontiguousarray(X, dtype=np.float32)
        if X.ndim != 2 or X.shape[1] != len(self.features):
            raise ValueError(f"X has shape {X.shape}, expected (n, {len(self.features)}).")
        if len(X) <= CHUNK_ROWS:
            raw = self._run(X)
        else:
            raw = np.concatenate(
                [self._run(X[i : i + CHUNK_ROWS]) for i in range(0, len(X), CHUNK_ROWS)]
            )
        return _finite(raw.astype(np.float64))

    def anomaly_score(
        self, X: np.ndarray | None = None, *, raw: np.ndarray | None = None
    ) -> np.ndarray:
        """Calibrated score of rows X, or of raw scores: (n,) float64 in [0, 1], higher = more
        anomalous.
        """
        if self.calibration is None:
            raise BundleError(f"{self.where} has no calibration yet; 06_comparison adds it.")
        return self.calibration.apply(self.raw_score(X) if raw is None else raw)

    def predict(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions, (n,) int8 with 1 = anomaly, and anomaly scores, (n,) float64."""
        if self.threshold is None:
            raise BundleError(f"{self.where} has no threshold yet; 06_comparison adds it.")
        scores = self.anomaly_score(X)
        return (scores >= self.threshold).astype(np.int8), scores

    def contributions(self, X: np.ndarray) -> np.ndarray:
        """What each value adds to its row's raw score; (n, d) float64, higher = more anomalous.

        The model's own terms where the bundle has explain.onnx; otherwise raw_score(x) minus the
        raw score of x with the feature replaced by its reference median.
        """
        X = np.ascontiguousarray(X, dtype=np.float32)
        if self._explain is not None:
            return _finite(self._explain(X).astype(np.float64))
        if not self.reference:
            raise BundleError(f"{self.where} has no reference medians, so it cannot explain.")
        n, d = X.shape
        replaced = np.repeat(X[None], d, axis=0)
        replaced[np.arange(d), :, np.arange(d)] = self.reference["median"][:, None]
        return (
            self.raw_score(X)[:, None] - self.raw_score(replaced.reshape(d * n, d)).reshape(d, n).T
        )

    def explain(self, X: np.ndarray, top: int = 3) -> list[list[dict[str, Any]]]:
        """Return for each row of X (n, d) the `top` features that contribute most, largest first.

        Each is ``{"feature", "value", "direction", "genuine_range"}``: direction says whether the
        value lies above ('high') or below ('low') the reference median, or is 'missing';
        genuine_range is [low, high].
        """
        if not self.reference:
            raise BundleError(f"{self.where} has no reference medians, so it cannot explain.")
        X = np.ascontiguousarray(X, dtype=np.float32)
        order = np.argsort(-self.contributions(X), axis=1, kind="stable")[:, :top]
        return [
            [self._entry(j, row[j]) for j in chosen] for row, chosen in zip(X, order, strict=True)
        ]

    def _entry(self, j: int, value: np.float32) -> dict[str, Any]:
        missing = bool(np.isnan(value))
        direction = (
            "missing" if missing else "high" if value >= self.reference["median"][j] else "low"
        )
        low_high = [_shortest(self.reference[key][j]) for key in ("low", "high")]
        value = None if missing else _shortest(value)
        return {
            "feature": self.features[j],
            "value": value,
            "direction": direction,
            "genuine_range": low_high,
        }

    def _try(self) -> None:
        """Score one row, so that a graph of another width or output fails here and not on a
        request.
        """
        row = self.reference.get("median", np.zeros(len(self.features), np.float32))[None]
        try:
            scored = self.raw_score(row)
            shapes = [
                scored.shape,
                self._explain(row).shape if self._explain else (1, len(self.features)),
            ]
            anomaly = self.calibration.apply(scored) if self.calibration else np.zeros(1)
        except Exception as error:  # onnxruntime raises a dozen types of its own
            raise BundleError(
                f"{self.where} does not score one row: {_first_line(error)}"
            ) from error
        if shapes != [(1,), (1, len(self.features))] or not (0 <= anomaly[0] <= 1):
            raise BundleError(
                f"{self.where} scores one row with shapes {shapes} and score {anomaly}."
            )


def _open(graph: bytes, output: str, threads: int, where: str):
    """Return a function (n, d) float32 -> the graph's `output`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # the exception says what is wrong, and only once
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        inputs = [(i.name, i.type) for i in session.get_inputs()]
        outputs = [o.name for o in session.get_outputs()]
    except Exception as error:  # onnxruntime raises a dozen types of its own
        raise BundleError(f"A graph of {where} cannot be opened: {_first_line(error)}") from error
    if inputs != [("features", "tensor(float)")] or output not in outputs:
        raise BundleError(
            f"A graph of {where} has inputs {inputs} and outputs {outputs}, expected "
            f"one float input 'features' and an output '{output}'."
        )
    names = [output]
    return lambda X: session.run(names, {"features": X})[0]


def _finite(values: np.ndarray) -> np.ndarray:
    return (
        values
        if np.isfinite(values).all()
        else np.nan_to_num(values, nan=FLOAT32_MAX, posinf=FLOAT32_MAX, neginf=-FLOAT32_MAX)
    )


def _shortest(value: np.float32) -> float:
    return float(str(value))  # 149.62, where float(value) is 149.6199951171875


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
