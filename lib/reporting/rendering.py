"""Render a page: a template in the house's style, filled in, written whole."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.files import write_text

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, path: Path, content: Mapping[str, Any]) -> Path:
    """Return the path of a page, written from a template of `templates/`."""
    return write_text(path, filled(template, content))


def filled(template: str, content: Mapping[str, Any]) -> str:
    """Return a page as text, from a template of `templates/`.

    Parameters
    ----------
    content : what the template names; `scripts` are those of `templates/` that the page runs: its
        policy allows no other
    """
    # 60 ms that a run without changes need not spend
    from jinja2 import Environment, FileSystemLoader

    # escaped throughout: names of columns and of data sets may hold anything
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
    )
    environment.filters["breakable"] = breakable
    scripts = [
        (TEMPLATES / name).read_text(encoding="utf-8") for name in content.get("scripts", [])
    ]
    hashes = [_hash(script) for script in scripts]
    page = environment.get_template(template)
    return _unbroken(page.render({**content, "scripts": scripts, "script_hashes": hashes}))


def _unbroken(page: str) -> str:
    """Return a page whose lines do not break between a number and its per cent.

    In text only: attributes, code, and scripts, whose hashes the policy names, stay as they are.
    """
    kept = r"(<(script|style|pre|code)\b.*?</\2>|<[^>]*>)"
    parts = re.compile(rf"{kept}|(?<=\d) %", re.DOTALL)
    return parts.sub(lambda part: part[1] or "\u00a0%", page)


def _hash(script: str) -> str:
    """Return what a content security policy calls an inline script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{b64encode(digest).decode()}"


def breakable(text: str) -> str:
    """Return `text` as HTML that may break behind commas and underscores.

    Not behind that of a notebook's number.
    """
    from markupsafe import Markup, escape

    broken = re.sub(r"(?<=[,_])(?<!\d_)(?=\w)", "<wbr>", escape(text))
    return Markup(broken)
