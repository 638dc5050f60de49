"""JSON lines on stdout, one a request and one an event. They never hold a feature's value."""

import asyncio
import logging
import sys
import time

import msgspec

_waiting: list[bytes] = []  # request lines that `flush` will write
_second = [0, ""]  # the second that was formatted last
encode = msgspec.json.Encoder().encode


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message and the record's `data`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        entry = {
            "time": utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if data := getattr(record, "data", None):
            entry |= data
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return encode(entry).decode()


def utc(seconds: float) -> str:
    """Format seconds since the epoch as 2026-01-02T03:04:05.678Z."""
    whole = int(seconds)
    if whole != _second[0]:
        _second[:] = whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{_second[1]}.{int(seconds % 1 * 1000):03d}Z"


def log_request(data: dict) -> None:
    """Write a request's line past the logging module, which takes as long as a whole request.

    Lines go out together, 50 ms later at most: a system call for each, which is what stdout makes
    of them under PYTHONUNBUFFERED, would cost more than scoring a row.
    """
    line = {"time": utc(time.time()), "level": "info", "logger": "serve.request", **data}
    if not _waiting:
        asyncio.get_running_loop().call_later(0.05, flush)
    _waiting.append(encode(line))


def flush() -> None:
    """Write what `log_request` has kept."""
    if _waiting:
        _waiting.append(b"")  # the last line ends, too
        text = b"\n".join(_waiting).decode()
        _waiting.clear()
        sys.stdout.write(text)
        sys.stdout.flush()


def configure(level: str) -> None:
    """Send our log and uvicorn's to stdout as JSON lines.

    Our line of a request replaces uvicorn's access log.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"
