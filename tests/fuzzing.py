"""Broken input by the thousand: what may come back is an answer or a refusal, and a slow judge
knows which.

Used in short by the tests, at length by benchmarks/fuzz.py.
"""

import hashlib
import json
import shutil

import bundles
import numpy as np
from hypothesis import strategies as st

from lib import bundle
from lib.errors import BundleError
from serve.errors import RequestError
from serve.rows import Rows

NAMES = ("V1", "V2", "Amount")
MAX_ROWS = 8
DECODERS = [
    Rows(NAMES, missing, MAX_ROWS, fast)
    for missing in ("refuse", "median")
    for fast in ((), range(10**6))
]
TOKENS = (
    b"NaN -Infinity 1e999 -1e999 1e39 3.5e38 1e-999 -0 00 01 1. .5 +1 0x1 1_0 "
    b"9999999999999999999999 true null"
    b' [] {} [[ ]] , : " \' \\ \\u0041 \\ud800 \xff \xc3\x28 \xef\xbb\xbf \x00 \t {"V1":1} '
    b'{"V1":1,"V1":2} "features" '
).split(b" ")

number = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.integers(), st.floats(width=32)
)
scalar = st.one_of(number, st.booleans(), st.none(), st.text(max_size=5))
row = st.one_of(
    st.lists(number, min_size=3, max_size=3),
    st.lists(scalar, max_size=4),
    st.fixed_dictionaries(dict.fromkeys(NAMES, number)),
    st.dictionaries(st.sampled_from([*NAMES, "V3", ""]), scalar, max_size=4),
)
anything = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner)
)
body_value = st.one_of(
    st.fixed_dictionaries(
        {"features": st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), max_size=9)}
    ),
    st.fixed_dictionaries({"features": st.lists(row, max_size=4)}),
    st.dictionaries(st.sampled_from(["features", "Features", "x"]), anything, max_size=2),
    anything,
)


@st.composite
def bodies(draw):
    """Bytes of a body: JSON of about the right shape, then perhaps damaged in a few places."""
    body = json.dumps(draw(body_value), ensure_ascii=draw(st.booleans())).encode(
        "utf-8", "surrogatepass"
    )
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        cut = draw(st.integers(0, 3))
        body = body[:at] + draw(st.sampled_from([b"", *TOKENS])) + body[at + cut :]
    return body


def judge(body, missing):
    """The matrix that the body means, by the standard library; None if it is wrong."""
    sent = rows_of(body)
    if sent is None:
        return None
    matrix = []
    for each in sent:
        row = numbers_of(each, missing)
        if row is None:
            return None
        matrix.append(row)
    return np.array(matrix) if 0 < len(matrix) <= MAX_ROWS else None


def rows_of(body):
    """The list that stands under `features`; None if the body is anything else."""

    def once(pairs):
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name twice")
        return dict(pairs)

    def no_constant(name):
        raise ValueError(name)

    try:
        value = json.loads(body.decode(), object_pairs_hook=once, parse_constant=no_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or set(value) != {"features"}:
        return None
    return value["features"] if isinstance(value["features"], list) else None


def numbers_of(each, missing):
    """One transaction as float32; None if it is wrong."""
    if isinstance(each, dict):
        each = [each[name] for name in NAMES] if set(each) == set(NAMES) else []
    if not isinstance(each, list) or len(each) != len(NAMES):
        return None
    if missing == "median":
        each = [np.nan if x is None else x for x in each]
    if not all(type(x) in (int, float, bool) for x in each):
        return None
    try:
        with np.errstate(over="ignore"):
            row = np.array([float(x) for x in each]).astype(np.float32)
    except OverflowError:
        return None
    return None if np.isinf(row).any() else row


def check_body(body):
    """AssertionError unless both decoders agree with the judge, and what they refuse is refused in
    our shape.
    """
    for rows in DECODERS:
        expected, X, refusal = judge(body, rows.missing), None, None
        try:
            X = rows.decode(body)
        except RequestError as error:
            refusal = error
        if refusal:
            assert refusal.status in (400, 413, 422), refusal.status
            assert set(json.loads(refusal.body())["error"]) == {"code", "message", "row", "field"}
            assert expected is None, f"{body!r} was refused: {refusal.message}"
        else:
            assert expected is not None, f"{body!r} was taken"
            assert X.dtype == np.float32
            np.testing.assert_array_equal(X, expected)


@st.composite
def damages(draw):
    """A function that damages a bundle's folder: a value of the manifest, or bytes of a file."""
    if draw(st.booleans()):
        path, value = draw(st.integers(0, 10**6)), draw(st.one_of(anything, st.just("drop")))
        return lambda folder: _replace(folder, path, value)
    name = draw(st.sampled_from(["manifest.json", "model.onnx", "explain.onnx"]))
    at, cut = draw(st.floats(0, 1)), draw(st.integers(0, 200))
    bytes_, honest = draw(st.binary(max_size=20)), draw(st.booleans())
    return lambda folder: _splice(folder, name, at, cut, bytes_, honest)


def _replace(folder, number, value):
    """Replace the `number`-th value (modulo their count) anywhere in the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    places = []

    def walk(node):
        for key in (
            node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        ):
            places.append((node, key))
            walk(node[key])

    walk(manifest)
    node, key = places[number % len(places)]
    if value == "drop":
        del node[key]
    else:
        node[key] = value
    (folder / "manifest.json").write_bytes(json.dumps(manifest).encode("utf-8", "surrogatepass"))


def _splice(folder, name, at, cut, content, honest):
    """Replace bytes of a file; `honest` writes the new hash into the manifest, as an attacker
    could.
    """
    before = (folder / name).read_bytes()
    position = int(at * len(before))
    after = before[:position] + content + before[position + cut :]
    (folder / name).write_bytes(after)
    if honest and name != "manifest.json":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = hashlib.sha256(after).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))


def check_bundle(whole, folder, damage):
    """AssertionError unless a damaged copy of the bundle `whole` is refused with BundleError, or
    still scores.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    damage(folder)
    try:
        loaded = bundle.load(folder)
    except BundleError:
        return
    X = bundles.rows(3, len(loaded.features))
    assert np.isfinite(loaded.raw_score(X)).all()
    if loaded.threshold is not None and loaded.calibration is not None:
        scores = loaded.predict(X)[1]
        assert ((scores >= 0) & (scores <= 1)).all()
    if loaded.reference:
        assert len(loaded.explain(X)) == 3
