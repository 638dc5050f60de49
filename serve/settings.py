"""What can be set from outside: environment variables named FRAUD_ and the field in capitals."""

import dataclasses
import difflib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

PREFIX = "FRAUD_"
STORES = ("redis", "rediss", "valkey", "valkeys", "unix")  # how their URLs begin
LEVELS = ("debug", "info", "warning", "error")
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SPARE_FOLDER = "SERVE_SPARE_FOLDER"  # set for workers by their parent: serve/spare.py

SHOWN = {"bundle": "serve/model", "history": "serve/histories"}  # defaults, as --help has them

# Kubernetes tells every pod about every Service of its namespace, so that a Service named
# fraud-detector looks like settings of ours: FRAUD_DETECTOR_PORT_8000_TCP_ADDR=10.0.0.1.
_LINK_URL = re.compile(r"(tcp|udp|sctp)://\S+", re.I)
_PORT = r"PORT_\d+_(TCP|UDP|SCTP)"
_ADDRESS = r"[0-9a-f.:]*[.:][0-9a-f.:]*"
_LINKS = [  # how the names end, and what the values look like
    (re.compile(rf"FRAUD(_\w+)?_{ending}"), re.compile(value, re.I))
    for ending, value in (
        ("SERVICE_HOST", _ADDRESS),
        (r"SERVICE_PORT(_\w+)?", r"\d+"),
        ("PORT", _LINK_URL.pattern),
        (_PORT, _LINK_URL.pattern),
        (f"{_PORT}_PROTO", "tcp|udp|sctp"),
        (f"{_PORT}_PORT", r"\d+"),
        (f"{_PORT}_ADDR", _ADDRESS),
    )
]


class SettingsError(ValueError):
    """A variable has an impossible value; the message is a sentence."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The server's settings; `python -m serve --help` prints them."""

    bundle: Annotated[Path, "folder of the exported bundle"] = Path(__file__).parent / "model"
    history: Annotated[
        str,
        "where transactions are remembered for histories: a folder or file (SQLite), or redis://…",
    ] = str(Path(__file__).parent / "histories")
    api_key: Annotated[
        str, "if set, asked for in X-API-Key or Authorization: Bearer; /health and /docs stay open"
    ] = ""
    host: Annotated[str, "address to listen on, :: for IPv4 and IPv6; python -m serve only"] = (
        "127.0.0.1"
    )
    port: Annotated[int, "port to listen on; python -m serve only", (0, 65535)] = 8000
    workers: Annotated[int, "processes; python -m serve only", (1, 256)] = 1
    threads: Annotated[int, "onnxruntime threads of one request", (1, 256)] = 1
    pool_threads: Annotated[int, "threads a worker scores large requests on", (1, 64)] = 2
    inline_rows: Annotated[
        int, "rows above which a request is scored on such a thread", (0, 10000)
    ] = 256
    inline_kb: Annotated[int, "KB of body above which it is decoded there as well", (0, 10000)] = (
        128
    )
    max_rows: Annotated[int, "rows of one request; more is 413", (1, 1000000)] = 10000
    max_body_mb: Annotated[float, "MB of one body; more is 413", (0.001, 1000)] = 10.0
    max_explained_rows: Annotated[
        int, "rows of one request with ?explain=true; more is 413", (1, 1000000)
    ] = 1000
    max_in_flight: Annotated[
        int, "requests a worker has begun; beyond it 503 and Retry-After", (1, 100000)
    ] = 128
    max_large: Annotated[
        int, "large requests among them; beyond it 503 and Retry-After", (1, 10000)
    ] = 16
    max_buffered_mb: Annotated[
        float, "MB of bodies a worker holds; beyond it 503 and Retry-After", (0.001, 10000)
    ] = 32.0
    body_timeout_s: Annotated[float, "seconds for a body to arrive; then 408", (0.01, 3600)] = 30.0
    keep_alive_s: Annotated[
        int,
        "seconds an idle connection stays open, longer than the proxy in front keeps it; python "
        "-m serve only",
        (1, 86400),
    ] = 75
    drain_s: Annotated[
        int, "seconds SIGTERM waits for what is in flight; python -m serve only", (0, 3600)
    ] = 30
    poll_s: Annotated[
        float, "seconds between looks at the bundle's manifest.json", (0.01, 3600)
    ] = 1.0
    cors_origins: Annotated[
        str, "origins that browsers may call from, comma-separated; none by default"
    ] = ""
    log_level: Annotated[str, f"one of {', '.join(LEVELS)}; health checks are logged at debug"] = (
        "info"
    )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the FRAUD_ variables; SettingsError names the first with an impossible value."""
        fields = _fields()
        given = sorted(fields.keys() & environ.keys())
        return cls(
            **{fields[name].name: _read(name, fields[name], environ[name]) for name in given}
        )

    @classmethod
    def describe(cls) -> str:
        """Return a line for each variable: name, default, meaning."""
        lines = []
        for field in dataclasses.fields(cls):
            default = SHOWN.get(field.name, field.default)
            meaning = field.type.__metadata__[0]  # type: ignore[union-attr]
            shown = "" if default == "" else f" (default {default})"
            lines.append(f"  {PREFIX + field.name.upper():25} {meaning}{shown}")
        return "\n".join(lines)


def unknown(environ: Mapping[str, str]) -> dict[str, tuple[int, str]]:
    """Find FRAUD_ variables that are not settings: for each name a logging level and a sentence.

    Whoever starts the server may not be able to take a variable away, so that none of them stops
    it. Values are not repeated: a misspelt API key must not get into the log.
    """
    fields, found = _fields(), {}
    for name in sorted(name for name in environ if name.startswith(PREFIX)):
        if name in fields:
            continue
        if _is_service_link(name, environ[name].strip()):
            found[name] = logging.DEBUG, f"{name} describes a Kubernetes Service; it is ignored."
        else:
            (nearest,) = difflib.get_close_matches(name, fields, 1, cutoff=0)
            sentence = f"{name} is not a setting and is ignored; did you mean {nearest}?"
            found[name] = logging.WARNING, sentence
    return found


def make_metrics_folder(environ: Mapping[str, str]) -> None:
    """Make the folder that workers share their metrics in, if one is named and it is missing.

    Raises
    ------
    SettingsError
        If it cannot be made or written to: prometheus_client would fail with a traceback.
    """
    name = environ.get(METRICS_FOLDER, "").strip()
    if not name:
        return
    folder = Path(name)
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another worker may have been faster
    except OSError as error:
        reason = error.strerror or error
        raise SettingsError(
            f"{METRICS_FOLDER} is {name!r}, and no file can be written there: {reason}. "
            "Name a folder that this user may write to, or leave the variable out."
        ) from error


def _fields():
    return {PREFIX + field.name.upper(): field for field in dataclasses.fields(Settings)}


def _is_service_link(name, value):
    """Whether name and value are those that Kubernetes sets for a Service."""
    return any(names.fullmatch(name) and values.fullmatch(value) for names, values in _LINKS)


def _read(variable, field, text):
    """The text of a variable as the field's type, within its bounds."""
    text = text.strip()
    if field.name == "log_level" and text not in LEVELS:
        raise SettingsError(f"{variable} is {text!r}; choose one of {', '.join(LEVELS)}.")
    if field.name == "bundle" and not text:
        raise SettingsError(f"{variable} is empty; give the folder of an exported bundle.")
    if field.name == "history":
        return _history(variable, text)
    if field.name == "host":
        return _host(variable, text)
    if field.type.__origin__ is int and _LINK_URL.fullmatch(text):
        service = variable.removesuffix("_PORT").lower().replace("_", "-")
        raise SettingsError(
            f"{variable} is {text!r}, which Kubernetes sets for a Service named '{service}'; set "
            f"{variable} to a number in the pod's own environment, rename the Service, or set "
            "enableServiceLinks: false for the pod."
        )
    try:
        value = field.type.__origin__(text)
    except ValueError as error:
        raise SettingsError(f"{variable} is {text!r}; a number is needed.") from error
    for low, high in field.type.__metadata__[1:]:
        if not low <= value <= high:
            raise SettingsError(f"{variable} is {text}; it must be within {low} and {high}.")
    return value


def _history(variable, text):
    """A folder, a file, or a URL of a store that there is."""
    scheme, _, rest = text.partition("://")
    if not text or (rest and scheme not in STORES):
        raise SettingsError(
            f"{variable} is {scheme!r}; give a folder or a file for SQLite, or a URL that begins "
            "with redis:// or rediss://."
        )
    return text


def _host(variable, text):
    """An address or a name; [::1] as in a URL is taken as ::1."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not host:
        # an empty one would mean every address of the machine, which must be said
        raise SettingsError(f"{variable} is empty; give an address, such as 127.0.0.1 or 0.0.0.0.")
    return host
