"""What the API says of itself: the shapes of its answers, and an OpenAPI document.

The document fits the served bundle.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from lib.bundle.raw import LAST_S, RawTable
from serve.model import Served
from serve.settings import Settings


class OfCategory(BaseModel):
    """A category behind a feature, in the words of the table."""

    column: str
    value: str | None = Field(description="null if it was missing")
    share_of_reference: float = Field(description="0 if reference has no such value")


class Reason(BaseModel):
    """One feature that contributes to a row's score."""

    feature: str
    value: float | None = Field(
        description="as the model takes it, rounded to float32; null if it was missing"
    )
    direction: Literal["high", "low", "missing", "within"] = Field(
        description="where the value lies: above or below the usual range, missing, or within the "
        "range, which is said only where no value of the row is unusual by itself: it is their "
        "combination"
    )
    genuine_range: list[float] = Field(
        description="the usual range: 1 % and 99 % quantiles of the reference",
        min_length=2,
        max_length=2,
    )
    share: float = Field(
        description="of all that features add to the row's score, the part of this one: 0 to 1",
        ge=0,
        le=1,
    )
    category: OfCategory | None = Field(
        default=None, description="only for raw transactions, and features of a category"
    )


class Prediction(BaseModel):
    """Answers in the order of the rows sent."""

    predictions: list[Literal[0, 1]] = Field(description="1 = anomaly: anomaly score >= threshold")
    anomaly_scores: list[float] = Field(
        description="0 to 1, higher = more anomalous; 0.999: one validation transaction in a "
        "thousand scores as high"
    )
    model_version: str = Field(
        description="the registry's version; 'baked-in' if the bundle has none"
    )
    inference_time_ms: float = Field(
        description="the model's own time, from checked rows to scores, of all requests scored "
        "together"
    )
    explanations: list[list[Reason]] | None = Field(
        default=None,
        description="only with ?explain=true: for each row at most three unusual values, the one "
        "that adds most to the score first; where none is unusual, the three features that add "
        "most",
    )


class Labelled(BaseModel):
    """What became of late labels."""

    labelled: int = Field(description="labels that have been set")
    unknown: list[str] = Field(description="ids of transactions that are not remembered")


class ErrorDetail(BaseModel):
    """What is wrong and where."""

    code: str
    message: str
    row: int | None = Field(description="position of the row at fault, from 0")
    field: str | None = Field(description="feature or parameter at fault")


class Error(BaseModel):
    """Every answer that is not 2xx."""

    error: ErrorDetail


class Alive(BaseModel):
    """The process answers."""

    status: Literal["live"]


class Ready(BaseModel):
    """A verified bundle answers; `refused` says why a successor, if any, was not taken up.

    `history` says why raw transactions cannot be looked up, if so; rows of features go on.
    """

    status: Literal["ready"]
    model_version: str
    bundle_hash: str
    refused: str | None
    history: str | None


class Reloaded(BaseModel):
    """What answers after a reload."""

    reloaded: bool
    model_version: str
    bundle_hash: str


class Card(BaseModel):
    """The served model: where it comes from and how good it was on validation."""

    name: str
    version: str
    model: str | None
    dataset: dict
    features: list[str]
    amount: str | None
    missing: Literal["refuse", "median"]
    threshold: dict
    metrics: dict
    fit: dict
    bundle_hash: str
    files: dict[str, str]
    trained_at: str | None
    exported_at: str | None
    provenance: dict
    loaded_at: str


MEANING = {
    400: "Not JSON",
    401: "No or wrong API key",
    408: "The body did not arrive in time",
    409: "The new bundle was refused; the old one goes on",
    413: "Too many rows or bytes",
    415: "Not sent as application/json",
    422: "A row or a parameter is wrong; the message says which",
    503: "Not ready or overloaded; try again",
}


def errors(*statuses: int) -> dict[int | str, dict]:
    """Return the `responses` of a route that may refuse."""
    return {status: {"model": Error, "description": MEANING[status]} for status in statuses}


BEYOND = 3.4028235677973366e38  # the smallest number that float32 rounds to infinity
EXPLAIN = {
    "name": "explain",
    "in": "query",
    "required": False,
    "schema": {"type": "boolean", "default": False},
    "description": "add the reasons of each row's score: unusual values, and what each adds to it",
}


REMEMBER = {
    "name": "remember",
    "in": "query",
    "required": False,
    "schema": {"type": "boolean", "default": True},
    "description": "keep raw transactions, so that later ones look back at them",
}
RAW = (
    "Instead of `features` it takes `transactions` with raw columns, which are remembered for "
    "those to come unless `remember` is false."
)
LABEL_EXAMPLES = {
    "fraud": {
        "summary": "a fraud that has become known",
        "value": {"labels": [{"transaction": "try-1", "fraud": 1}]},
    }
}
MODEL = {
    "schema": {"type": "string"},
    "description": "who answers: <registered name>/<version>, each percent-encoded as in a URL",
}


def document(app: FastAPI, served: Served | None, settings: Settings) -> dict:
    """Write the OpenAPI document, with rows that the served bundle takes as examples."""
    paths = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    features = served.bundle.features if served else ("V1", "V2", "Amount")
    # true and false are 1 and 0
    kinds = ["number", "boolean"]
    if served and served.rows.missing == "median":
        kinds.append("null")
    number = {"type": kinds, "exclusiveMinimum": -BEYOND, "exclusiveMaximum": BEYOND}
    d = len(features)
    listed = {"type": "array", "items": number, "minItems": d, "maxItems": d}
    named = {
        "type": "object",
        "properties": dict.fromkeys(features, number),
        "required": list(features),
        "additionalProperties": False,
    }
    rows = {
        "type": "array",
        "items": {"anyOf": [listed, named]},
        "minItems": 1,
        "maxItems": settings.max_rows,
    }
    rows["description"] = f"rows; as lists in the order {', '.join(features)}"
    predict = paths["paths"]["/predict"]["post"]
    examples = _examples(served, features)
    predict["parameters"] = [EXPLAIN]
    body: dict[str, Any] = {
        "type": "object",
        "properties": {"features": rows},
        "required": ["features"],
        "additionalProperties": False,
    }
    raw = served.raw if served else None
    if raw is not None:
        body["properties"]["transactions"] = _transactions(raw, settings.max_rows)
        del body["required"]
        body["anyOf"] = [{"required": ["features"]}, {"required": ["transactions"]}]
        body["maxProperties"] = 1
        predict["parameters"] = [EXPLAIN, REMEMBER]
        predict["description"] = f"{predict['description']}\n\n{RAW}"
        medians = dict(zip(features, served.bundle.reference.get("median", ()), strict=False))
        row = raw.example(medians, datetime.now(UTC))
        examples["raw"] = {"summary": "a raw transaction", "value": {"transactions": [row]}}
    _describe(predict, body, examples)
    answered = ["/predict", "/model", "/health/ready"]
    if raw is not None and raw.has_histories:
        answered.append("/labels")
        labels = paths["paths"]["/labels"]["post"]
        labels["parameters"] = []
        _describe(labels, _labels(settings.max_rows), LABEL_EXAMPLES)
    else:
        del paths["paths"]["/labels"]
    for path in answered:
        for operation in paths["paths"][path].values():
            operation["responses"]["200"]["headers"] = {"X-Model": MODEL}
    if settings.api_key:
        schemes = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
        paths.setdefault("components", {})["securitySchemes"] = schemes
        for path, operations in paths["paths"].items():
            if not path.startswith("/health/"):
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
    return paths


def _describe(operation: dict, body: dict, examples: dict) -> None:
    """Say what the body of a request is."""
    content = {"schema": body, "examples": examples}
    operation["requestBody"] = {"required": True, "content": {"application/json": content}}


def _transactions(raw: RawTable, max_rows: int) -> dict:
    """Return the schema of raw transactions: what each column may hold."""
    number: dict[str, Any] = {"type": ["number", "boolean"]}
    if raw.missing == "median":
        number["type"].append("null")
    else:
        number |= {"exclusiveMinimum": -BEYOND, "exclusiveMaximum": BEYOND}
    columns: dict[str, dict] = dict.fromkeys(raw.numbers, number)
    if raw.amount is not None and not raw.allows_negative_amount:
        columns[raw.amount] = {**number, "minimum": 0}
    for column in raw.texts:
        columns[column] = {"type": ["string", "integer", "null"]}
    for column in raw.time:
        columns[column] = {"type": "number", "minimum": -LAST_S, "maximum": LAST_S}
        if raw.has_dates:
            columns[column] = {"type": "string"}
    if raw.has_dates and len(raw.time) == 1 and raw.time_format is None:
        columns[raw.time[0]]["format"] = "date-time"
    required = list(raw.columns)
    if raw.id is not None:
        columns[raw.id] = {"type": ["string", "integer"], "minLength": 1}
        required = [raw.id, *required]
    item = {"type": "object", "properties": columns, "required": required}
    return {
        "type": "array",
        "items": item,
        "minItems": 1,
        "maxItems": max_rows,
        "description": "raw transactions, columns of the table by name; others are left out",
    }


def _labels(max_rows: int) -> dict:
    """Return the schema of late labels."""
    item = {
        "type": "object",
        "properties": {
            "transaction": {"type": ["string", "integer"], "minLength": 1, "description": "its id"},
            "fraud": {
                "enum": [1, 0, True, False, None],
                "description": "1 = fraud, 0 = genuine, null = not known; or the table's own words",
            },
        },
        "required": ["transaction", "fraud"],
        "additionalProperties": False,
    }
    listed = {"type": "array", "items": item, "minItems": 1, "maxItems": max_rows}
    return {
        "type": "object",
        "properties": {"labels": {**listed, "description": "late labels of transactions"}},
        "required": ["labels"],
        "additionalProperties": False,
    }


def _examples(served: Served | None, features: Sequence[str]) -> dict[str, dict]:
    """Return requests to try: a normal transaction, an anomalous one, and the first with names."""
    if served is None:
        row = [0.0] * len(features)
        made = {"list": ("a row (there is no model yet)", "zeros", row)}
    else:
        made = {
            key: (f"{kind}: {example.verdict}", example.origin, example.values)
            for key, kind, example in (
                ("list", "a normal transaction", served.normal),
                ("anomalous", "an anomalous transaction", served.anomalous),
            )
        }
    found = {
        key: {
            "summary": summary,
            "description": f"Made up: {origin}.",
            "value": {"features": [row]},
        }
        for key, (summary, origin, row) in made.items()
    }
    named = dict(zip(features, made["list"][2], strict=True))
    value = {"features": [named]}
    found["names"] = {"summary": "the first one, with names", "value": value}
    return found
