"""Around every request: admission, API key, request id, security headers, metrics, one log line.

No stack trace gets out.
"""

from __future__ import annotations

import hmac
import itertools
import logging
import os
import re
import time
from typing import TYPE_CHECKING

from serve import docs, logs, telemetry
from serve.errors import Headers, RequestError, internal, overloaded, respond

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from serve.model import Model
    from serve.settings import Settings

log = logging.getLogger("serve.request")

OPEN = ("/health/", "/docs", "/openapi.json")  # paths that never ask for the key; nor does /
ROUTES = (
    "/",
    "/predict",
    "/labels",
    "/model",
    "/metrics",
    "/health/live",
    "/health/ready",
    "/admin/reload",
    "/docs",
    "/openapi.json",
)
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]
PAGE_HEADERS = [
    *HEADERS[:2],
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", docs.POLICY.encode()),
]
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Edge:
    """The outermost ASGI application.

    Handlers leave `rows`, `alerts` … for the log in scope["fraud"].

    Parameters
    ----------
    api : the FastAPI application
    settings : limits, API key and log level
    model : holds the bundle that the header X-Model names
    predict : what `api` answers POST /predict with. It is called straight from here: the way
        through FastAPI's layers takes as long as decoding and scoring a row.
    """

    def __init__(self, api: ASGIApp, settings: Settings, model: Model, predict: ASGIApp) -> None:
        self.api, self.model, self.predict = api, model, predict
        self.key = settings.api_key.encode()
        self.max_in_flight = settings.max_in_flight
        self.n_in_flight = 0
        self.log_all, self.log_health = (
            settings.log_level in ("debug", "info"),
            settings.log_level == "debug",
        )
        self.worker, self.ids = os.urandom(4).hex(), itertools.count(1)
        self.children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.api(scope, receive, send)
            return
        start = time.perf_counter()
        path, status = scope["path"], 0
        health = path.startswith("/health/")
        request_id, keys = self._read(scope["headers"])
        data = scope["fraud"] = {
            "request_id": request_id.decode(),
            "method": scope["method"],
            "path": path[:200],
        }
        more = self._headers(scope, request_id)

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        counted = False
        try:
            if self.key and path != "/" and not path.startswith(OPEN):
                self._check(keys)
            if not health:
                self._admit()
                counted = True
            await self._answer(scope, receive, send_on)
        except RequestError as refused:
            data["code"] = refused.code
            await respond(send_on, refused.status, refused.body(), refused.headers)
        except Exception:
            data["code"] = "internal"
            log.exception("request failed", extra={"data": {"request_id": data["request_id"]}})
            if not status:
                await respond(send_on, 500, internal().body())
        finally:
            if counted:
                self.n_in_flight -= 1
            self._account(path, status or 499, time.perf_counter() - start, data)

    def _headers(self, scope: Scope, request_id: bytes) -> list[tuple[bytes, bytes]]:
        """Return the headers that every answer has; the model's on what /predict answers."""
        path = scope["path"]
        more = [*(PAGE_HEADERS if path == "/docs" else HEADERS), (b"x-request-id", request_id)]
        if path == "/predict":
            # looked up once: the header names the model that the predictor asks
            served = scope["served"] = self.model.served
            if served is not None:
                more.append(served.header)
        return more

    def _admit(self) -> None:
        """Count one more request in flight, or refuse it."""
        if self.n_in_flight >= self.max_in_flight:
            raise overloaded(f"{self.max_in_flight} requests in flight")
        self.n_in_flight += 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST" and scope["path"] == "/predict":
            await self.predict(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        else:
            await self.api(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer HEAD as GET without its body; FastAPI knows no HEAD of its own."""

        async def send_head(message: Message) -> None:
            is_body = message["type"] == "http.response.body"
            await send({**message, "body": b""} if is_body else message)

        # a copy: the HTTP server looks at its own scope to see that no body follows
        await self.api({**scope, "method": "GET"}, receive, send_head)

    def _account(self, path: str, status: int, seconds: float, data: dict) -> None:
        route = path if path in ROUTES else "other"
        children = self.children.get((route, status))
        if children is None:
            children = (
                telemetry.requests.labels(route, str(status)),
                telemetry.latency.labels(route),
            )
            self.children[route, status] = children
        children[0].inc()
        children[1].observe(seconds)
        if self.log_health or (self.log_all and not path.startswith("/health/")):
            data["status"], data["milliseconds"] = status, round(seconds * 1e3, 3)
            logs.log_request(data)

    def _read(self, headers: Headers) -> tuple[bytes, list[bytes]]:
        """Return the request id (the client's own if harmless) and the keys that it offers."""
        request_id, keys = None, []
        for name, value in headers:
            if name == b"x-request-id" and _ID.fullmatch(value):
                request_id = value
            elif name == b"x-api-key":
                keys.append(value)
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                keys.append(value[7:].strip())
        return request_id or f"{self.worker}-{next(self.ids):x}".encode(), keys

    def _check(self, keys: list[bytes]) -> None:
        # no `any` over a generator: every offered key is compared, each in constant time
        if True in [hmac.compare_digest(key, self.key) for key in keys]:
            return
        message = "Send the API key in the header X-API-Key."
        raise RequestError(401, "unauthorized", message, headers=[(b"www-authenticate", b"Bearer")])
