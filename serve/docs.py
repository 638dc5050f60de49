"""The page at /docs: the OpenAPI document as HTML that asks no other host for anything, with requests to try."""

import hashlib
import json
from base64 import b64encode
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
STYLE, SCRIPT = ((HERE / name).read_text(encoding="utf-8") for name in ("docs.css", "docs.js"))


def _allowed(text):
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# the browser runs and styles with these two texts and no other, and talks to this server alone
POLICY = (
    f"default-src 'none'; script-src {_allowed(SCRIPT)}; style-src {_allowed(STYLE)}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(document):
    """The OpenAPI document as a page, text."""
    info = document["info"]
    schemas = document.get("components", {}).get("schemas", {})
    operations = [
        _operation(method, path, operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    guarded = "securitySchemes" in document.get("components", {})
    key = '<p><label>API key <input id="key" type="password" autocomplete="off"></label></p>' if guarded else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(info["title"])}</title>\n'
        '<meta name="viewport" content="width=device-width">\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n<h1>{escape(info['title'])}</h1>\n<p>{escape(info['description'])}</p>\n"
        f'<p>The same for programs: <a href="openapi.json">openapi.json</a></p>\n{key}\n'
        + "\n".join(operations)
        + f"\n<script>{SCRIPT}</script>\n</html>\n"
    )


def _operation(method, path, operation, schemas):
    """One route: what it does, what it takes, a request to try, what it answers."""
    verb = method.upper()
    parts = [
        f'<h2 id="{escape(operation["operationId"])}"><span class="{method}">{verb}</span> {escape(path)}</h2>',
        f"<p>{escape(operation['summary'])}{' (asks for the API key)' if 'security' in operation else ''}</p>",
    ]
    if description := operation.get("description"):
        parts.append("".join(f"<p>{escape(part)}</p>" for part in description.split("\n\n")))
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content:
        parts.append(_fields("Body", content["schema"], schemas))
    parts.append(_try(verb, path, operation.get("parameters", []), (content or {}).get("examples", {})))
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
        f'<label><input type="checkbox" name="{escape(each["name"])}"> {escape(each["name"])}: '
        f"{escape(each['description'])}</label> "
        for each in parameters
    )
    choices = "".join(
        f'<button type="button" class="example" value="{escape(json.dumps(each["value"]))}">{escape(each["summary"])}'
        "</button> "
        for each in examples.values()
    )
    first = json.dumps(next(iter(examples.values()))["value"]) if examples else ""
    body = f'<textarea rows="5" spellcheck="false" aria-label="body">{escape(first)}</textarea>' if examples else ""
    chosen = f"<p>Example: {choices}</p>" if examples else ""
    return (
        f'<form data-method="{verb}" data-path="{escape(path)}">{chosen}{body}'
        f'<p>{switches}<button>Send</button></p><pre class="sent" hidden></pre><pre class="answer" hidden></pre></form>'
    )


def _fields(title, schema, schemas):
    """A table of an object's fields."""
    schema = _resolved(schema, schemas)
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(kind(field, schemas))}"
        f"{'' if name in schema.get('required', []) else ', optional'}</td>"
        f"<td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<details><summary>{title}</summary><table>{rows}</table></details>"


def kind(schema, schemas):
    """A schema in words: 'list of numbers', '0 or 1', 'text or null'."""
    schema = _resolved(schema, schemas)
    if "anyOf" in schema:
        return " or ".join(kind(each, schemas) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        many, fewest = schema.get("maxItems"), schema.get("minItems")
        count = f"of {many} " if many and many == fewest else f"of up to {many:,} " if many else "of "
        return f"list {count}({kind(schema['items'], schemas)})"
    if schema.get("type") == "object" and schema.get("properties"):
        names = list(schema["properties"])
        return "object with " + ", ".join(names if len(names) <= 6 else [*names[:2], "…", names[-1]])
    types = schema.get("type", "anything")
    words = {"string": "text", "number": "number", "integer": "whole number", "boolean": "true or false"}
    return " or ".join(words.get(each, each) for each in ([types] if isinstance(types, str) else types))


def _resolved(schema, schemas):
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
