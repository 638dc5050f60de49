"""Reading a request's body: its type, its size, its time, and how much the server holds at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from serve.errors import Headers, RequestError, overloaded
from serve.settings import Settings

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope

SMALL = 65_536  # bytes that uvicorn hands over at once


class Bodies:
    """Reads bodies within the limits of the settings."""

    def __init__(self, settings: Settings) -> None:
        self.max_bytes = int(settings.max_body_mb * 1e6)
        self.max_buffered = int(settings.max_buffered_mb * 1e6)
        self.timeout_s = settings.body_timeout_s
        self.buffered = 0

    async def read(self, scope: Scope, receive: Receive) -> tuple[bytes, int]:
        """Return the body and the bytes to `release` when it is done with.

        Raises RequestError: 415 type, 413 size, 408 time, 400 cut off, 503 too much held already.
        """
        length = self._check(scope["headers"])
        message = await receive() if length is not None and length < SMALL else None
        if message and message["type"] == "http.request" and not message.get("more_body"):
            return message.get("body", b""), 0
        return await self._collect(receive, message, length)

    def release(self, held: int) -> None:
        """Give back what `read` has reserved."""
        self.buffered -= held

    def _check(self, headers: Headers) -> int | None:
        """Return the Content-Length, None if there is none."""
        kind = encoding = length = None
        for name, value in headers:
            if name == b"content-type":
                kind = value
            elif name == b"content-length":
                if not value.isdigit():
                    raise RequestError(400, "invalid_length", "Content-Length is not a number.")
                length = int(value)
            elif name == b"content-encoding":
                encoding = value
        if kind != b"application/json":
            _check_type(kind)
        if encoding not in (None, b"identity"):
            shown = encoding[:40].decode("latin-1")
            raise RequestError(
                415,
                "wrong_encoding",
                f"Content-Encoding {shown!r} is not understood; send plain JSON.",
            )
        if length is not None and length > self.max_bytes:
            raise self._too_large()
        return length

    async def _collect(
        self, receive: Receive, message: Message | None, length: int | None
    ) -> tuple[bytes, int]:
        """Put a body together that arrives in parts."""
        # nobody knows how long a chunked body is
        reserved = length if length is not None else self.max_bytes
        if self.buffered + reserved > max(self.max_buffered, self.max_bytes):
            raise overloaded("no room for another large body")
        self.buffered += reserved
        try:
            async with asyncio.timeout(self.timeout_s):
                body = await self._join(receive, message)
        except BaseException as error:
            self.buffered -= reserved
            if not isinstance(error, TimeoutError):
                raise
            message = f"The body did not arrive within {self.timeout_s:g} s."
            raise RequestError(
                408, "timeout", message, headers=[(b"connection", b"close")]
            ) from error
        self.buffered += len(body) - reserved
        return body, len(body)

    async def _join(self, receive: Receive, message: Message | None) -> bytes:
        parts, size = [], 0
        while True:
            message = message or await receive()
            if message["type"] == "http.disconnect":
                raise RequestError(
                    400, "incomplete_body", "The connection closed before the body was complete."
                )
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.max_bytes:
                raise self._too_large()
            if not message.get("more_body"):
                return b"".join(parts)
            message = None

    def _too_large(self) -> RequestError:
        return RequestError(
            413,
            "too_large",
            f"The body is larger than {self.max_bytes / 1e6:g} MB; send fewer rows.",
        )


def _check_type(kind: bytes | None) -> None:
    name, _, parameters = (kind or b"").decode("latin-1").lower().partition(";")
    charset = parameters.partition("charset=")[2].strip().strip('"') or "utf-8"
    if name.strip() == "application/json" and charset in ("utf-8", "utf8"):
        return
    shown = repr(kind.decode("latin-1")[:60]) if kind else "missing"
    message = (
        f"Content-Type is {shown}; send JSON with the header 'Content-Type: application/json'."
    )
    raise RequestError(415, "wrong_type", message)
