"""The page at /docs: the OpenAPI document as HTML, with requests to try.

It asks no other host for anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serve.model import Served

SIMULATED = (
    "<strong>Simulated transactions.</strong> This model has never seen a real one: its scores say "
    "nothing about real fraud."
)
SOURCES = {"full": "the published file", "custom": "a file of the user's own"}
MISSING = {"refuse": "refused", "median": "filled in (null)"}
HERE = Path(__file__).parent
STYLE, SCRIPT = ((HERE / name).read_text(encoding="utf-8") for name in ("docs.css", "docs.js"))


def _allowed(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# the browser runs and styles with these two texts and no other, and talks to this server alone
POLICY = (
    f"default-src 'none'; script-src {_allowed(SCRIPT)}; style-src {_allowed(STYLE)}; connect-src "
    "'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(document: dict, served: Served | None = None) -> str:
    """Write the OpenAPI document and what is being served as an HTML page."""
    info = document["info"]
    schemas = document.get("components", {}).get("schemas", {})
    operations = [
        _operation(method, path, operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    guarded = "securitySchemes" in document.get("components", {})
    key = (
        '<p><label>API key <input id="key" type="password" autocomplete="off"></label></p>'
        if guarded
        else ""
    )
    return (
        '<!doctype html>\n<html lang="en">\n<meta '
        f'charset="utf-8">\n<title>{escape(info["title"])}</title>\n'
        '<meta name="viewport" content="width=device-width">\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n<h1>{escape(info['title'])}</h1>\n<p>{escape(info['description'])}</p>\n"
        f"{_answering(served)}\n"
        f'<p>The same for programs: <a href="openapi.json">openapi.json</a></p>\n{key}\n'
        + "\n".join(operations)
        + f"\n<script>{SCRIPT}</script>\n</html>\n"
    )


def _answering(served: Served | None) -> str:
    """Who answers: model, version, data set and threshold; simulated data is said out loud."""
    if served is None:
        return '<p class="warning">No model is loaded yet: /health/ready says why.</p>'
    card = served.card()
    dataset = card["dataset"]
    is_simulated = isinstance(dataset, dict) and dataset.get("source") == "simulated"
    facts = {
        "Model": f"{card['name']}, version {card['version']}",
        "Kind": str(card["model"] or "not said").replace("_", " "),
        "Data set": _data_set(dataset),
        "Threshold": _threshold(card["threshold"]),
        "Features": f"{len(card['features'])}, missing values are {MISSING[card['missing']]}",
        "Trained": card["trained_at"] or "not said",
        "Loaded": card["loaded_at"],
        "Bundle hash": card["bundle_hash"],
    }
    rows = "".join(
        f"<tr><td>{name}</td><td>{escape(str(fact))}</td></tr>" for name, fact in facts.items()
    )
    loud = f'<p class="warning">{SIMULATED}</p>' if is_simulated else ""
    return f'{loud}<table class="facts">{rows}</table>'


def _data_set(dataset):
    """Its name and where it is from; a name that says as much stands alone."""
    if not isinstance(dataset, dict):
        return "not said"
    name, source = str(dataset.get("name", "not said")), dataset.get("source")
    return name if source in (None, name) else f"{name} ({SOURCES.get(source, source)})"


def _threshold(threshold):
    """When there is an alert, and how that was decided as far as the manifest says so."""
    alert = f"alert if the anomaly score is at least {threshold['anomaly_score']:.6g}"
    budget = threshold.get("alert_budget")
    if threshold.get("rule") == "alert_budget" and isinstance(budget, float):
        per_day = threshold.get("transactions_per_day")
        a_day = f", {budget * per_day:,.0f} a day" if isinstance(per_day, float) else ""
        share = f"{100 * budget:.3g} % of all transactions"
        return f"{alert}, which about {share} reach{a_day} (alert budget)"
    return f"{alert} (rule {threshold['rule']})" if "rule" in threshold else alert


def _prose(text: str) -> str:
    """Write a description as HTML, names in backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _operation(method, path, operation, schemas):
    """One route: what it does, what it takes, a request to try, what it answers."""
    verb = method.upper()
    key = " (asks for the API key)" if "security" in operation else ""
    parts = [
        f'<h2 id="{escape(operation["operationId"])}"><span class="{method}">{verb}</span> '
        f"{escape(path)}</h2>",
        f"<p>{escape(operation['summary'])}{key}</p>",
    ]
    if description := operation.get("description"):
        parts.append("".join(f"<p>{_prose(part)}</p>" for part in description.split("\n\n")))
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content:
        parts.append(_fields("Body", content["schema"], schemas))
    parts.append(
        _try(verb, path, operation.get("parameters", []), (content or {}).get("examples", {}))
    )
    answers, refusals = [], []
    for status, answer in operation["responses"].items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema")
        if status == "200":
            answers.append(_fields("Answer", schema, schemas) if schema else "")
        else:
            refusals.append(f"<li>{status} {escape(answer['description'])}</li>")
    parts += answers
    if refusals:
        parts.append(f"<details><summary>Refusals</summary><ul>{''.join(refusals)}</ul></details>")
    return f"<section>{''.join(parts)}</section>"


def _try(verb, path, parameters, examples):
    """A form that sends the request from the page, with an example to start from."""
    switches = "".join(
        f'<label><input type="checkbox" name="{escape(each["name"])}"'
        f"{' checked' if each['schema']['default'] else ''}> {escape(each['name'])}: "
        f"{escape(each['description'])}</label> "
        for each in parameters
    )
    choices = "".join(
        '<button type="button" class="example" '
        f'value="{escape(json.dumps(each["value"]))}">{escape(each["summary"])}'
        "</button> "
        for each in examples.values()
    )
    first = json.dumps(next(iter(examples.values()))["value"]) if examples else ""
    body = (
        f'<textarea rows="5" spellcheck="false" aria-label="body">{escape(first)}</textarea>'
        if examples
        else ""
    )
    origins = "".join(
        f"<li>{escape(each['summary'])}. {escape(each['description'])}</li>"
        for each in examples.values()
        if "description" in each
    )
    chosen = f"<p>Example: {choices}</p><ul>{origins}</ul>" if examples else ""
    return (
        f'<form data-method="{verb}" data-path="{escape(path)}">{chosen}{body}'
        f'<p>{switches}<button>Send</button></p><pre class="sent" hidden></pre><pre '
        'class="answer" hidden></pre></form>'
    )


def _fields(title, schema, schemas):
    """A table of an object's fields."""
    schema = _resolved(schema, schemas)
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(kind(field, schemas))}"
        f"{'' if name in schema.get('required', []) else ', optional'}</td>"
        f"<td>{_prose(field.get('description', ''))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<details><summary>{title}</summary><table>{rows}</table></details>"


def kind(schema: dict, schemas: dict) -> str:
    """Say a schema in words: 'list of numbers', '0 or 1', 'text or null'."""
    schema = _resolved(schema, schemas)
    if "anyOf" in schema:
        return " or ".join(kind(each, schemas) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        many, fewest = schema.get("maxItems"), schema.get("minItems")
        count = (
            f"of {many} " if many and many == fewest else f"of up to {many:,} " if many else "of "
        )
        return f"list {count}({kind(schema['items'], schemas)})"
    if schema.get("type") == "object" and schema.get("properties"):
        names = list(schema["properties"])
        return "object with " + ", ".join(
            names if len(names) <= 6 else [*names[:2], "…", names[-1]]
        )
    types = schema.get("type", "anything")
    words = {
        "string": "text",
        "number": "number",
        "integer": "whole number",
        "boolean": "true or false",
    }
    return " or ".join(
        words.get(each, each) for each in ([types] if isinstance(types, str) else types)
    )


def _resolved(schema, schemas):
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
