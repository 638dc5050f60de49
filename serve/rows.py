"""From the bytes of a request to a matrix, every row checked.

What is wrong is said with row and field.
"""

from __future__ import annotations

import itertools
import json
import re
import struct
import threading
from collections.abc import Container, Iterable
from typing import Any, Literal

import msgspec
import numpy as np

from serve.errors import RequestError

try:
    import simdjson
except ImportError:  # there are no wheels for every Python: decoding takes twice as long then
    simdjson = None  # type: ignore[assignment]

_PATH = re.compile(r"\$\.features\[(\d+)\](?:\[(\d+)\])?")
_KIND = re.compile(r"^Expected `.+?`, got `(.+?)`")
_SAID = {
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "int": "a number",
}


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    features: list[list[float | bool] | dict[str, float | bool]]  # true is 1, as in tables


class _BodyWithNull(msgspec.Struct, forbid_unknown_fields=True):
    features: list[list[float | bool | None] | dict[str, float | bool | None]]


# bytes; msgspec is as fast on shorter bodies, and simdjson keeps much memory after longer
FAST = range(4_000, 132_000)
_local = threading.local()


class Rows:
    """Decodes bodies for one bundle.

    Parameters
    ----------
    features : names, in the order of the columns
    missing : with 'median' the model fills in for null
    max_rows : more rows in one request are refused
    or_raw : whether a body may hold raw transactions instead, which messages then say
    fast : lengths of bodies that simdjson is tried on first; what it does not take as it stands,
        msgspec judges
    """

    def __init__(
        self,
        features: Iterable[str],
        missing: Literal["refuse", "median"],
        max_rows: int,
        fast: Container[int] = FAST,
        *,
        or_raw: bool = False,
    ) -> None:
        self.fast = fast if simdjson else ()
        self.wanted = "'features' or 'transactions'" if or_raw else "'features'"
        self.features, self.missing, self.max_rows = tuple(features), missing, max_rows
        self.max_values = max_rows * len(self.features)
        shape: type[_Body] | type[_BodyWithNull] = _Body if missing == "refuse" else _BodyWithNull
        self._decode = msgspec.json.Decoder(shape).decode

    def decode(self, body: bytes) -> np.ndarray:
        """Decode {"features": [[…], …]} or {"features": [{name: …}, …]} to a matrix (n, d) float32.

        NaN stands for null, 1 and 0 for true and false. RequestError for anything else.
        """
        # only the two quotes of "features": neither names nor text nor the key twice
        plain = body.find(b'"', body.find(b'"', body.find(b'"') + 1) + 1) == -1
        if plain and len(body) in self.fast and (X := self._numbers(body)) is not None:
            return X
        # a body of commas alone would decode to fifteen times its size
        if len(body) > self.max_values and body.count(b",") >= self.max_values:
            message = (
                f"More values than {self.max_rows} rows of {len(self.features)} features have; "
                "send fewer rows."
            )
            raise RequestError(413, "too_many_rows", message)
        try:
            rows = self._decode(body).features
        except msgspec.ValidationError as error:
            raise self._invalid(body, str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise not_json(body, error) from error
        if not rows:
            raise RequestError(
                422,
                "empty",
                "'features' is an empty list; send at least one row.",
                field="features",
            )
        if len(rows) > self.max_rows:
            raise RequestError(
                413,
                "too_many_rows",
                f"{len(rows)} rows in one request; at most {self.max_rows} are taken: send fewer.",
            )
        if not plain:
            rows = self._ordered(body, rows)
        if set(map(len, rows)) != {len(self.features)}:
            raise self._ragged(rows)
        return self._matrix(rows)

    def _matrix(self, rows: list) -> np.ndarray:
        """Return rows of the right length as (n, d) float32; NaN for null."""
        n = len(rows) * len(self.features)
        try:  # twice as fast as numpy's own way from lists
            X = np.frombuffer(
                struct.pack(f"{n}f", *itertools.chain.from_iterable(rows)), np.float32
            )
        except struct.error:  # null, which only numpy takes
            with np.errstate(over="ignore"):
                X = np.array(rows, dtype=np.float32)
        X = X.reshape(len(rows), -1)
        if np.isinf(X).any():
            row, column = np.argwhere(np.isinf(X))[0]
            raise self._out_of_range(int(row), self.features[column])
        return X

    def _numbers(self, body: bytes) -> np.ndarray | None:
        """Return the matrix of a body of nothing but lists of numbers; None for any other."""
        d = len(self.features)
        try:
            if not hasattr(_local, "parser"):
                _local.parser = simdjson.Parser()
            rows = _local.parser.parse(body)["features"]
            widths, values = [len(row) for row in rows], np.frombuffer(rows.as_buffer(of_type="d"))
        except (ValueError, TypeError, LookupError, AttributeError, RuntimeError):
            return None
        n = len(widths)
        # as_buffer flattens whatever is nested: count the brackets, too
        n_brackets = np.count_nonzero(np.frombuffer(body, np.uint8) == ord("["))
        if (
            not 0 < n <= self.max_rows
            or set(widths) != {d}
            or n_brackets != n + 1
            or body[:1] != b"{"
        ):
            return None
        with np.errstate(over="ignore"):
            X = values.astype(np.float32).reshape(n, d)
        return X if np.isfinite(X).all() else None

    def _ordered(self, body, rows):
        """Return rows as lists, values in the order of the columns.

        Names that are unknown, missing or given twice are refused.
        """
        expected = 2 + 2 * sum(len(row) for row in rows if isinstance(row, dict))
        if body.count(b'"') != expected:
            _refuse_repeated_names(body)
        names, ordered = self.features, []
        for i, row in enumerate(rows):
            if isinstance(row, dict):
                if row.keys() != set(names):
                    raise self._names(i, row)
                row = [row[name] for name in names]
            ordered.append(row)
        return ordered

    def _names(self, i, row):
        unknown = [name for name in row if name not in self.features]
        if unknown:
            name = unknown[0][:60]
            message = f"Row {i} has the unknown name {name!r}; GET /model lists the features."
            return RequestError(422, "unknown_feature", message, i, name)
        missing = [name for name in self.features if name not in row]
        rest = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return RequestError(
            422, "missing_feature", f"Row {i} lacks {missing[0]!r}{rest}.", i, missing[0]
        )

    def _ragged(self, rows):
        d = len(self.features)
        i, n = next((i, len(row)) for i, row in enumerate(rows) if len(row) != d)
        return RequestError(422, "wrong_length", f"Row {i} has {n} features, expected {d}.", i)

    def _out_of_range(self, row, field):
        message = f"Row {row}, {field}: the number is beyond ±3.4e38, the range of float32."
        return RequestError(422, "out_of_range", message, row, field)

    def _invalid(self, body, reason):
        """JSON, but not of our shape; `reason` is msgspec's sentence."""
        path, kind = _PATH.search(reason), _KIND.match(reason)
        got = _SAID.get(kind[1], kind[1]) if kind else "something else"
        if path is None:
            field = "features" if "$.features" in reason or "`features`" in reason else None
            if "unknown field" in reason:
                name = reason.partition("`")[2].rpartition("`")[0][:60]
                message = f"The body has the unknown key {name!r}; send only {self.wanted}."
                return RequestError(422, "unknown_key", message, field=name)
            if "missing required" in reason:
                return RequestError(
                    422,
                    "missing_key",
                    f"The body lacks {self.wanted}, the list of rows.",
                    field=field,
                )
            wanted = (
                "'features' must be a list of rows"
                if field
                else f"The body must be an object with {self.wanted}"
            )
            return RequestError(422, "wrong_type", f"{wanted}, not {got}.", field=field)
        row = int(path[1])
        if path[2] is not None:
            column = int(path[2])
            field = self.features[column] if column < len(self.features) else None
        else:
            field = _first_odd_name(body, row) if reason.endswith("[...]`") else None
        where = f"Row {row}" + (f", {field}" if field else "")
        if "out of range" in reason:
            return self._out_of_range(row, field or "a value")
        if got == "null":
            return RequestError(
                422, "missing_value", f"{where}: null; this model needs every value.", row, field
            )
        if path[2] is None and field is None and "[...]" not in reason:
            message = (
                f"Row {row} must be a list of numbers or an object of names and numbers, not {got}."
            )
            return RequestError(422, "wrong_type", message, row)
        return RequestError(
            422, "not_a_number", f"{where}: expected a number, got {got}.", row, field
        )


def not_json(body: bytes, error: Exception) -> RequestError:
    """Return the refusal of a body that cannot be decoded."""
    if not body:
        message = 'The body is empty; send {"features": [[…], …]}.'
    elif b"NaN" in body or b"Infinity" in body:
        message = "The body is not JSON: NaN and Infinity are no JSON numbers."
    elif isinstance(error, UnicodeDecodeError):
        message = "The body is not JSON: it is not valid UTF-8."
    else:
        message = f"The body is not JSON: {str(error).removeprefix('JSON is malformed: ')}."
    return RequestError(400, "invalid_json", message)


def _first_odd_name(body, row):
    """Name of the first value of an object row that is no finite number, if it can be found."""
    try:
        pairs = json.loads(body)["features"][row].items()
    except (ValueError, RecursionError):
        return None
    limit = float(np.finfo(np.float32).max)
    odd = (name for name, x in pairs if not isinstance(x, int | float) or abs(x) > limit)
    return next((name[:60] for name in odd), None)


def _refuse_repeated_names(body):
    """Refuse an object that gives one name twice; a decoder would silently keep the last."""

    json.loads(body, object_pairs_hook=once)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of a JSON decoder's pairs; RequestError if one name is given twice."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen = set()
    for name, _ in pairs:
        if name in seen:
            break
        seen.add(name)
    message = f"The name {name[:60]!r} appears twice in one object."
    raise RequestError(422, "repeated_name", message, field=name[:60])
