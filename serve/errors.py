"""Refusals: what a client is told when it gets no answer, in one JSON shape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from starlette.types import Send

Headers = Iterable[tuple[bytes, bytes]]


class RequestError(Exception):
    """A request that gets {"error": {"code", "message", "row", "field"}} instead of an answer.

    Parameters
    ----------
    status : HTTP status, 4xx or 503
    code : short and stable, for programs
    message : a sentence for people: what is wrong and what to do
    row : position of the row at fault, from 0
    field : name of the feature or parameter at fault
    headers : further headers of the answer
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        row: int | None = None,
        field: str | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.row, self.field = (
            status,
            code,
            message,
            row,
            field,
        )
        self.headers = list(headers)

    def body(self) -> bytes:
        """Return the answer's JSON."""
        error = {"code": self.code, "message": self.message, "row": self.row, "field": self.field}
        return msgspec.json.encode({"error": error})


def overloaded(what: str) -> RequestError:
    """Return a 503 with Retry-After: the client should come back, there is no queue to wait in."""
    message = f"The server has {what}; try again in a second."
    return RequestError(503, "overloaded", message, headers=[(b"retry-after", b"1")])


def internal() -> RequestError:
    """Return a 500: our fault, told without a stack trace."""
    return RequestError(
        500, "internal", "The server failed; its log has the reason under this request's id."
    )


async def respond(send: Send, status: int, body: bytes, headers: Headers = ()) -> None:
    """Send a whole JSON answer."""
    head = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
