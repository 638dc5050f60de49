"""The exported model, ONNX graphs beside a manifest: written whole, verified, loaded and scored.

Notebooks and server score through this file and nothing else, so that their scores are the same. It
needs numpy, onnxruntime and the standard library; a bundle holds no pickle and nothing that could
run code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lib.bundle.calibration import Calibration
from lib.bundle.manifest import FLOAT32_MAX, HISTORY, SCHEMA_VERSION, check, file_name, read
from lib.bundle.reasons import Reason, reasons
from lib.errors import BundleError
from lib.files import write_bytes

# bounds the memory of one run; in longer ones onnxruntime's forests lose their pace
CHUNK_ROWS = 512
# what this file writes into a bundle's folder, under plain names or with a part of the hash
OWN_FILE = re.compile(r"(explain|history|model(_card)?)(-\w{16})?\.(onnx|md|npz)")
# of the manifest; they say where a bundle comes from, not what it is
OUTSIDE_HASH = ("version", "provenance")
Graph = Callable[[NDArray], NDArray]  # (n, d) float32 -> what an output of the graph holds


def write(
    folder: Path | str,
    graphs: Mapping[str, bytes],
    manifest: Mapping[str, Any],
    hashed_names: bool = False,
) -> None:
    """Write graphs and manifest into `folder`.

    A reader sees the old bundle or the new one, never a mixture.

    Parameters
    ----------
    folder : made if absent.
    graphs : ``{"model.onnx": bytes}``, optionally ``"explain.onnx"``, the text of
        ``"model_card.md"``, and ``"history.npz"`` (`lib.bundle.recent`).
    manifest : json-able; ``schema_version`` and ``files`` (sha256 of each of them) are set here.
    hashed_names : name files ``model-<sha256[:16]>.onnx``, which makes replacing a bundle that is
        being served safe.

    Raises
    ------
    BundleError
        If the manifest is not valid; nothing has been written then.
    """
    folder = Path(folder)
    files = {}
    for name, graph in graphs.items():
        digest = hashlib.sha256(graph)
        files[name] = digest.hexdigest()
    manifest = {
        **manifest,
        "schema_version": SCHEMA_VERSION,
        "files": files,
    }
    check(manifest, folder)
    text = _as_json(manifest, folder)
    names = {name: name for name in graphs}
    if hashed_names:
        names = {name: file_name(name, files[name]) for name in graphs}
    new = set(names.values())
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in graphs.items():
        write_bytes(folder / names[name], graph)
    write_bytes(folder / "manifest.json", text.encode())
    # last: until now somebody may have been reading the old bundle
    for old in folder.glob("*.*"):
        is_ours = OWN_FILE.fullmatch(old.name)
        if is_ours and old.name not in new:
            old.unlink(missing_ok=True)


def _as_json(manifest: Mapping[str, Any], folder: Path) -> str:
    try:
        return json.dumps(manifest, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        reason = f"The manifest for {folder} cannot be written as JSON: {error}."
        raise BundleError(reason) from error


def verify(folder: Path | str) -> dict[str, Any]:
    """Return the manifest, every file compared with its sha256; BundleError says what is wrong."""
    manifest, _ = read(Path(folder))
    return manifest


def load(
    folder: Path | str,
    threads: int = 1,
    features: Sequence[str] | None = None,
) -> Bundle:
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
    if features is not None:
        _check_features(manifest["features"], list(features), folder)
    return Bundle(manifest, graphs, threads=threads, where=str(folder))


def _check_features(theirs: list[str], ours: list[str], folder: Path) -> None:
    if theirs == ours:
        return
    new = [feature for feature in ours if feature not in theirs]
    gone = [feature for feature in theirs if feature not in ours]
    odd = new + gone
    why = "has another order"
    if odd:
        shown = ", ".join(odd[:5])
        why = f"differs in {shown}"
    n, expected = len(theirs), len(ours)
    raise BundleError(f"The feature list of {folder} {why}: it has {n}, expected {expected}.")


def bundle_hash(
    source: Path | str | Mapping[str, Any],
    model: bytes | None = None,
) -> str:
    """Return the sha256 over model.onnx and the canonical manifest without `OUTSIDE_HASH`.

    The history's file is left out as well: it is what has happened, not what the model is.

    `source` is a bundle's folder, or a written manifest with `model`, the bytes of its model.onnx.
    """
    if isinstance(source, Mapping):
        manifest = source
        content = model
    else:
        manifest, graphs = read(Path(source))
        content = graphs["model.onnx"]
    stable = dict(manifest)
    for key in OUTSIDE_HASH:
        stable.pop(key, None)
    stable["files"] = {name: sha for name, sha in stable["files"].items() if name != HISTORY}
    text = json.dumps(
        stable,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    canonical = text.encode("utf-8", "surrogatepass")
    return hashlib.sha256(content + canonical).hexdigest()


class Bundle:
    """A verified model, ready to score. `load` makes it.

    Attributes
    ----------
    manifest : dict
    features : tuple of str, in the order of the columns of X
    threshold : float or None; alert if and only if anomaly_score >= threshold
    version : str or None, the registry's version
    hash : str, see `bundle_hash`
    history : bytes or None, the transactions that it brings along, see `lib.bundle.recent`
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        graphs: Mapping[str, bytes],
        threads: int = 1,
        where: str = "the bundle",
    ) -> None:
        self.manifest = manifest
        self.where = where
        self.features = tuple(manifest["features"])
        self.threshold = manifest.get("threshold", {}).get("anomaly_score")
        self.version = manifest.get("version")
        model = graphs["model.onnx"]
        self.history = graphs.get(HISTORY)
        self.hash = bundle_hash(manifest, model)
        self.reference = {}
        for key, values in manifest.get("reference", {}).items():
            self.reference[key] = np.asarray(values, np.float32)
        self.calibration = _calibration(manifest, where)
        self._run = _open(model, "raw_score", threads, where)
        self._explain = None
        explain = graphs.get("explain.onnx")
        if explain is not None:
            self._explain = _open(explain, "contributions", threads, where)
        self._try()

    def raw_score(self, X: NDArray) -> NDArray:
        """Return the raw scores (n,) float64 of rows (n, d) float32, higher = more anomalous.

        NaN stands for a missing value. A row so far away that float32 overflows inside the graph
        gets the largest float32 score.
        """
        X = np.ascontiguousarray(X, dtype=np.float32)
        d = len(self.features)
        if X.ndim != 2 or X.shape[1] != d:
            raise ValueError(f"X has shape {X.shape}, expected (n, {d}).")
        if len(X) <= CHUNK_ROWS:
            raw = self._run(X)
        else:
            chunks = []
            for start in range(0, len(X), CHUNK_ROWS):
                rows = X[start : start + CHUNK_ROWS]
                chunks.append(self._run(rows))
            raw = np.concatenate(chunks)
        return _finite(raw.astype(np.float64))

    def anomaly_score(
        self,
        X: NDArray | None = None,
        *,
        raw: NDArray | None = None,
    ) -> NDArray:
        """Return the calibrated scores (n,) float64 in [0, 1] of rows X, or of raw scores.

        Higher = more anomalous.
        """
        if self.calibration is None:
            raise BundleError(f"{self.where} has no calibration yet; 09_comparison adds it.")
        if raw is None:
            raw = self.raw_score(X)
        return self.calibration.apply(raw)

    def predict(self, X: NDArray) -> tuple[NDArray, NDArray]:
        """Return predictions, (n,) int8 with 1 = anomaly, and anomaly scores, (n,) float64."""
        if self.threshold is None:
            raise BundleError(f"{self.where} has no threshold yet; 09_comparison adds it.")
        scores = self.anomaly_score(X)
        is_alert = scores >= self.threshold
        return is_alert.astype(np.int8), scores

    def contributions(self, X: NDArray) -> NDArray:
        """Return what each value adds to its row's raw score: (n, d) float64.

        The model's own terms where the bundle has explain.onnx; otherwise raw_score(x) minus the
        raw score of x with the feature replaced by its reference median.
        """
        X = np.ascontiguousarray(X, dtype=np.float32)
        if self._explain is not None:
            terms = self._explain(X)
            return _finite(terms.astype(np.float64))
        if not self.reference:
            raise BundleError(f"{self.where} has no reference medians, so it cannot explain.")
        n, d = X.shape
        feature = np.arange(d)
        replaced = np.repeat(X[None], d, axis=0)  # copy j has the median in column j
        median = self.reference["median"]
        replaced[feature, :, feature] = median[:, None]
        rows = replaced.reshape(d * n, d)
        without = self.raw_score(rows).reshape(d, n)
        whole = self.raw_score(X)
        return whole[:, None] - without.T

    def reasons(self, X: NDArray, top: int = 3) -> list[list[Reason]]:
        """Return for each row of X (n, d) why its score is high; see `lib.bundle.reasons`."""
        if not self.reference:
            raise BundleError(f"{self.where} has no reference medians, so it cannot explain.")
        X = np.ascontiguousarray(X, dtype=np.float32)
        return reasons(X, self.contributions(X), self.reference, top)

    def explain(
        self,
        X: NDArray,
        top: int = 3,
    ) -> list[list[dict[str, Any]]]:
        """Return the `reasons` of each row of X (n, d) as JSON has them.

        Each is ``{"feature", "value", "direction", "genuine_range", "share"}``; genuine_range is
        [low, high], and direction says where the value lies: 'high' or 'low' outside that range,
        'missing', or 'within' where no value of the row is unusual by itself.
        """
        explained = []
        for row, found in zip(X, self.reasons(X, top), strict=True):
            explained.append([self._entry(reason, row[reason.column]) for reason in found])
        return explained

    def _entry(self, reason: Reason, value: np.float32) -> dict[str, Any]:
        j = reason.column
        low, high = self.reference["low"][j], self.reference["high"][j]
        return {
            "feature": self.features[j],
            "value": None if np.isnan(value) else _shortest(np.float32(value)),
            "direction": reason.direction,
            "genuine_range": [_shortest(low), _shortest(high)],
            "share": round(reason.share, 4),
        }

    def _try(self) -> None:
        """Score one row: a graph of another width or output fails here and not on a request."""
        d = len(self.features)
        nothing = np.zeros(d, np.float32)
        row = self.reference.get("median", nothing)[None]
        shapes = [(1,), (1, d)]
        anomaly = np.zeros(1)
        try:
            scored = self.raw_score(row)
            found = [scored.shape, (1, d)]
            if self._explain is not None:
                found[1] = self._explain(row).shape
            if self.calibration is not None:
                anomaly = self.calibration.apply(scored)
        except Exception as error:  # onnxruntime raises a dozen types of its own
            reason = f"{self.where} does not score one row: {_first_line(error)}"
            raise BundleError(reason) from error
        is_score = 0 <= anomaly[0] <= 1
        if found != shapes or not is_score:
            raise BundleError(
                f"{self.where} scores one row with shapes {found} and score {anomaly}."
            )


def _calibration(manifest: Mapping[str, Any], where: str) -> Calibration | None:
    stored = manifest.get("calibration")
    if not stored:
        return None
    try:
        return Calibration.from_dict(stored)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"The calibration in {where} is not valid: {error!r}.") from error


def _open(
    graph: bytes,
    output: str,
    threads: int,
    where: str,
) -> Graph:
    """Return the function that computes a graph's `output`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # the exception says what is wrong, and only once
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            graph,
            options,
            providers=["CPUExecutionProvider"],
        )
        inputs = [(node.name, node.type) for node in session.get_inputs()]
        outputs = [node.name for node in session.get_outputs()]
    except Exception as error:  # onnxruntime raises a dozen types of its own
        reason = _first_line(error)
        raise BundleError(f"A graph of {where} cannot be opened: {reason}") from error
    takes_features = inputs == [("features", "tensor(float)")]
    if not takes_features or output not in outputs:
        raise BundleError(
            f"A graph of {where} has inputs {inputs} and outputs {outputs}, expected "
            f"one float input 'features' and an output '{output}'."
        )
    names = [output]

    def run(X: NDArray) -> NDArray:
        (values,) = session.run(names, {"features": X})
        return values

    return run


def _finite(values: NDArray) -> NDArray:
    if np.isfinite(values).all():
        return values
    return np.nan_to_num(values, nan=FLOAT32_MAX, posinf=FLOAT32_MAX, neginf=-FLOAT32_MAX)


def _shortest(value: np.float32) -> float:
    return float(str(value))  # 149.62, where float(value) is 149.6199951171875


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    first, *_ = text.splitlines()
    return first[:300]
