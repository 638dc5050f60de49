"""What can be set from outside: environment variables named FRAUD_ and the field in capitals."""

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

PREFIX = "FRAUD_"
LEVELS = ("debug", "info", "warning", "error")


class SettingsError(ValueError):
    """A variable is misspelt or has an impossible value; the message is a sentence."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The server's settings; `python -m serve --help` prints them."""

    bundle: Annotated[Path, "folder of the exported bundle"] = Path(__file__).parent / "model"
    api_key: Annotated[str, "if set, asked for in X-API-Key or Authorization: Bearer; /health and /docs stay open"] = ""
    host: Annotated[str, "address to listen on; python -m serve only"] = "127.0.0.1"
    port: Annotated[int, "port to listen on; python -m serve only", (0, 65535)] = 8000
    workers: Annotated[int, "processes; python -m serve only", (1, 256)] = 1
    threads: Annotated[int, "onnxruntime threads of one request", (1, 256)] = 1
    pool_threads: Annotated[int, "threads a worker scores large requests on", (1, 64)] = 2
    inline_rows: Annotated[int, "rows above which a request is scored on such a thread", (0, 10000)] = 256
    inline_kb: Annotated[int, "KB of body above which it is decoded there as well", (0, 10000)] = 128
    max_rows: Annotated[int, "rows of one request; more is 413", (1, 1000000)] = 10000
    max_body_mb: Annotated[float, "MB of one body; more is 413", (0.001, 1000)] = 10.0
    max_explained_rows: Annotated[int, "rows of one request with ?explain=true; more is 413", (1, 1000000)] = 1000
    max_in_flight: Annotated[int, "requests a worker has begun; beyond it 503 and Retry-After", (1, 100000)] = 128
    max_large: Annotated[int, "large requests among them; beyond it 503 and Retry-After", (1, 10000)] = 16
    max_buffered_mb: Annotated[float, "MB of bodies a worker holds; beyond it 503 and Retry-After", (0.001, 10000)] = (
        32.0
    )
    body_timeout_s: Annotated[float, "seconds for a body to arrive; then 408", (0.01, 3600)] = 30.0
    drain_s: Annotated[int, "seconds SIGTERM waits for what is in flight; python -m serve only", (0, 3600)] = 30
    poll_s: Annotated[float, "seconds between looks at the bundle's manifest.json", (0.01, 3600)] = 1.0
    cors_origins: Annotated[str, "origins that browsers may call from, comma-separated; none by default"] = ""
    log_level: Annotated[str, f"one of {', '.join(LEVELS)}; health checks are logged at debug"] = "info"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the FRAUD_ variables; SettingsError names the first that is unknown or impossible."""
        fields = {PREFIX + field.name.upper(): field for field in dataclasses.fields(cls)}
        values = {}
        for variable in sorted(name for name in environ if name.startswith(PREFIX)):
            if variable not in fields:
                near = difflib.get_close_matches(variable, fields, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(fields)}."
                raise SettingsError(f"There is no setting {variable}{hint}")
            values[fields[variable].name] = _read(variable, fields[variable], environ[variable])
        return cls(**values)

    @classmethod
    def describe(cls) -> str:
        """A line for each variable: name, default, meaning."""
        lines = []
        for field in dataclasses.fields(cls):
            default = "serve/model" if field.name == "bundle" else field.default
            shown = "" if default == "" else f" (default {default})"
            lines.append(f"  {PREFIX + field.name.upper():25} {field.type.__metadata__[0]}{shown}")
        return "\n".join(lines)


def _read(variable, field, text):
    """The text of a variable as the field's type, within its bounds."""
    text = text.strip()
    if field.name == "log_level" and text not in LEVELS:
        raise SettingsError(f"{variable} is {text!r}; choose one of {', '.join(LEVELS)}.")
    if field.name == "bundle" and not text:
        raise SettingsError(f"{variable} is empty; give the folder of an exported bundle.")
    try:
        value = field.type.__origin__(text)
    except ValueError as error:
        raise SettingsError(f"{variable} is {text!r}; a number is needed.") from error
    for low, high in field.type.__metadata__[1:]:
        if not low <= value <= high:
            raise SettingsError(f"{variable} is {text}; it must be within {low} and {high}.")
    return value
