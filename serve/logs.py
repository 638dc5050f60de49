"""JSON lines on stdout, one a request and one an event. They never hold a feature's value."""

import asyncio
import io
import logging
import sys
import time

import msgspec

_flushing: asyncio.AbstractEventLoop | None = None  # the loop that will call `flush`
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

    Lines go out together, 50 ms later at most: a system call for each would cost more than
    scoring a row.
    """
    global _flushing
    line = {"time": utc(time.time()), "level": "info", "logger": "serve.request", **data}
    sys.stdout.write(encode(line).decode() + "\n")
    loop = asyncio.get_running_loop()
    if _flushing is not loop:
        _flushing = loop
        loop.call_later(0.05, flush)


def flush() -> None:
    """Write what `log_request` has kept."""
    global _flushing
    _flushing = None
    sys.stdout.flush()


def buffer_stdout() -> None:
    """Let stdout hold lines back until `flush`, in a process whose stdout is the log alone.

    Under PYTHONUNBUFFERED, and on a terminal, it would make a system call of each.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=False, write_through=False)


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
