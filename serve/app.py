"""The prediction API: POST /predict for the exported bundle, and what running it needs.

`uvicorn serve.app:app --port 8000` serves with one worker; `python -m serve` takes host, port and
workers from the environment (see serve/settings.py).
"""

import asyncio
import contextlib
import gc
import inspect
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qsl

import msgspec
import numpy as np
from fastapi import FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from lib.bundle.raw import Transaction
from serve import docs, logs, schemas, telemetry, transactions
from serve.batches import Batches
from serve.body import Bodies
from serve.edge import Edge
from serve.errors import RequestError, internal, overloaded, respond
from serve.model import Model, Served
from serve.settings import SPARE_FOLDER, Settings, SettingsError, unknown
from serve.transactions import STARTS, Histories

log = logging.getLogger("serve")

TEXT = "text/plain; version=0.0.4; charset=utf-8"
SWITCHES = {"explain": False, "remember": True}  # what may stand behind ?, and without it
PLAIN = {b"": SWITCHES}  # queries that need no parsing
encode = msgspec.json.Encoder().encode


class RawRoute(APIRoute):
    """A documented route whose endpoint speaks ASGI.

    No Request, Response or validation of answers comes in between.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer POST; leave the rest (405) to FastAPI."""
        if scope["method"] == "POST":
            await self.endpoint(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


class Predictor:
    """Score one transaction or up to 10,000: `features`, each as a list in order or as an object
    with names, of which nothing is kept.

    A wrong request gets a sentence that names the row and the feature.
    """

    def __init__(self, settings: Settings, model: Model) -> None:
        self.settings, self.model = settings, model
        self.bodies = Bodies(settings)
        self.pool = ThreadPoolExecutor(settings.pool_threads, thread_name_prefix="large")
        self.batches = Batches()
        self.histories = Histories(settings.history)
        self.n_large = 0

    # without types: FastAPI would describe Receive and Send as part of a request, and fails at it
    async def __call__(self, scope, receive, send):
        """Answer one request or raise RequestError.

        A small one is scored with others of its moment, a large one on a thread.
        """
        served = scope["served"]  # the one that the header of the answer names
        if served is None:
            raise self.model.not_ready()
        query = scope["query_string"]
        asked = PLAIN.get(query) or switches(query)
        body, held = await self.bodies.read(scope, receive)
        try:
            answer, scores, n_alerts = await self._predict(served, body, asked)
        finally:
            self.bodies.release(held)
        telemetry.observe_scores(scores, n_alerts)
        data = scope["fraud"]
        data["rows"], data["alerts"] = len(scores), n_alerts
        await respond(send, 200, answer)

    async def _predict(self, served, body, asked):
        """Return the answer to a body, its scores (n,) and how many of them are alerts."""
        explain = asked["explain"]
        is_large = len(body) > self.settings.inline_kb * 1000
        transactions = None
        if STARTS.match(body):
            transactions = await self._transactions(served, body, is_large)
            X = await self.histories.features(served, transactions, asked["remember"])
        elif is_large:
            return await self._on_pool(
                lambda: self._answer(served, served.rows.decode(body), explain)
            )
        else:
            X = served.rows.decode(body)
        # an explanation by replacement scores each row once for each feature
        if len(X) * (X.shape[1] if explain else 1) > self.settings.inline_rows:
            return await self._on_pool(lambda: self._answer(served, X, explain, transactions))
        if explain:
            # first all that has arrived is counted, and health answered
            await asyncio.sleep(0)
            return self._answer(served, X, explain, transactions)
        predictions, scores, seconds = await self.batches.score(served.bundle, X)
        return _encode(predictions, scores, served, seconds), scores, int(predictions.sum())

    async def _transactions(self, served, body, is_large):
        """Return the raw transactions of a body."""
        max_rows = self.settings.max_rows
        if is_large:
            return await self._on_pool(lambda: transactions.decode(body, served, max_rows))
        return transactions.decode(body, served, max_rows)

    def _answer(self, served, X, explain, raw=None):
        if explain and len(X) > self.settings.max_explained_rows:
            limit = self.settings.max_explained_rows
            message = f"{len(X)} rows to explain; at most {limit} are explained at once."
            raise RequestError(413, "too_many_rows", message)
        start = time.perf_counter()
        predictions, scores = served.bundle.predict(X)
        more = {"explanations": _explained(served, X, raw)} if explain else {}
        answer = _encode(predictions, scores, served, time.perf_counter() - start, more)
        return answer, scores, int(predictions.sum())

    async def _on_pool(self, work):
        if self.n_large >= self.settings.max_large:
            raise overloaded(f"{self.n_large} large requests in work")
        self.n_large += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, work)
        finally:
            self.n_large -= 1


class Labeller:
    """Take labels that arrive late, for transactions that are remembered.

    From then on the features that count frauds know them, once the delay of the recipe is over.
    `unknown` lists ids that are not remembered (any more).
    """

    def __init__(self, settings: Settings, model: Model, histories: Histories) -> None:
        self.settings, self.model, self.histories = settings, model, histories
        self.bodies = Bodies(settings)

    async def __call__(self, scope, receive, send):
        """Answer one request or raise RequestError."""
        served = self.model.require()
        body, held = await self.bodies.read(scope, receive)
        try:
            labels = transactions.decode_labels(body, served, self.settings.max_rows)
            unknown = await self.histories.label(served, labels)
        finally:
            self.bodies.release(held)
        answer = {"labelled": len(labels) - len(unknown), "unknown": unknown}
        await respond(send, 200, encode(answer), [served.header])


def _encode(
    predictions: np.ndarray,
    scores: np.ndarray,
    served: Served,
    seconds: float,
    more: dict | None = None,
) -> bytes:
    """Return the answer's JSON."""
    answer = {
        "predictions": predictions.tolist(),
        "anomaly_scores": scores.tolist(),
        "model_version": served.version,
        "inference_time_ms": round(seconds * 1e3, 4),
    }
    return encode(answer | more if more else answer)


def _explained(served: Served, X: np.ndarray, raw: Sequence[Transaction] | None) -> list:
    """Return the explanations of rows; categories in the user's words where these are known."""
    explained = served.bundle.explain(X)
    if raw is not None:
        for transaction, entries in zip(raw, explained, strict=True):
            for entry in entries:
                category = served.raw.category(entry["feature"], transaction)
                if category is not None:
                    entry["category"] = category
    return explained


def switches(query: bytes) -> dict[str, bool]:
    """Return the values of ?explain= and ?remember=; RequestError for anything else."""
    found = dict(SWITCHES)
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in SWITCHES:
            raise RequestError(
                422,
                "unknown_parameter",
                f"There is no parameter {name[:60]!r}; only 'explain' and 'remember'.",
                field=name[:60],
            )
        if value.lower() not in ("true", "1", "false", "0"):
            raise RequestError(
                422, "wrong_type", f"The parameter {name!r} must be true or false.", field=name
            )
        found[name] = value.lower() in ("true", "1")
    return found


def create_api(
    settings: Settings, model: Model, predictor: Predictor, remarks: Iterable[tuple[int, str]] = ()
) -> FastAPI:
    """Build the routes and their documentation.

    `remarks`, (logging level, sentence), are logged at start.
    """
    app = FastAPI(
        title="Fraud detector",
        version="1.1.0",
        description="Scores card transactions: the higher the anomaly score, the rarer such a "
        "transaction is.",
        lifespan=_lifespan(settings, model, predictor, remarks),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
        exception_handlers={HTTPException: _http_error, RequestError: _refused, Exception: _failed},
    )
    app.state.model = model
    _add_documentation(app, settings, model)
    app.router.add_api_route(
        "/predict",
        predictor,
        methods=["POST"],
        name="predict",
        summary="Score transactions",
        description=inspect.getdoc(Predictor),
        response_model=schemas.Prediction,
        responses=schemas.errors(400, 401, 408, 413, 415, 422, 503),
        route_class_override=RawRoute,
    )
    app.router.add_api_route(
        "/labels",
        Labeller(settings, model, predictor.histories),
        methods=["POST"],
        name="labels",
        summary="Bring late labels",
        description=inspect.getdoc(Labeller),
        response_model=schemas.Labelled,
        responses=schemas.errors(400, 401, 408, 413, 415, 422, 503),
        route_class_override=RawRoute,
    )
    _add_health(app, model, predictor.histories)
    _add_operations(app, model)
    if settings.api_key:
        _add_reload(app, model)
    return app


def _lifespan(
    settings: Settings, model: Model, predictor: Predictor, remarks: Iterable[tuple[int, str]]
) -> Lifespan[FastAPI]:
    """What happens between start and end: the bundle is loaded, then watched."""

    @contextlib.asynccontextmanager
    async def lifespan(app):
        logs.configure(settings.log_level)
        for level, sentence in remarks:
            log.log(level, sentence)
        await model.recover()
        await model.refresh()
        loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, model.wake)
        gc.collect()
        gc.freeze()  # what start-up has made need not be looked through again while requests wait
        # histories in the background: rows of features need not wait for them
        at_once = [model.watch(), predictor.histories.prepare(model.served)]
        tasks = [asyncio.create_task(work) for work in at_once]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        predictor.pool.shutdown()
        predictor.histories.close()
        logs.flush()

    return lifespan


def _add_documentation(app, settings, model):
    """The OpenAPI document, its page at /docs, and / that leads there."""
    documents = {}

    def written():
        """The document and its page, once for each bundle."""
        served = model.served
        # the hash leaves out version and provenance, which the page shows
        key = served and (*served.labels, served.loaded_at)
        if key not in documents:
            documents.clear()
            document = schemas.document(app, served, settings)
            documents[key] = document, docs.page(document, served)
        return documents[key]

    app.openapi = lambda: written()[0]

    @app.get("/", include_in_schema=False)
    async def root():
        # relative: a proxy may show the server below a path of its own
        return Response(status_code=307, headers={"location": "./docs"})

    @app.get("/docs", include_in_schema=False)
    async def page():
        return Response(written()[1], media_type="text/html")


def _add_health(app: FastAPI, model: Model, histories: Histories) -> None:
    @app.get("/health/live", summary="Does the process answer?", response_model=schemas.Alive)
    async def live():
        return _json({"status": "live"})

    @app.get(
        "/health/ready",
        summary="Is a verified bundle loaded?",
        response_model=schemas.Ready,
        responses=schemas.errors(503),
    )
    async def ready():
        served = model.require()
        answer = {
            "status": "ready",
            "model_version": served.version,
            "bundle_hash": served.bundle.hash,
        }
        down = histories.reason or None
        return _json({**answer, "refused": model.reason or None, "history": down}, served)


def _add_operations(app: FastAPI, model: Model) -> None:
    """The model's card and the metrics."""

    @app.get(
        "/model",
        summary="What answers?",
        response_model=schemas.Card,
        responses=schemas.errors(401, 503),
    )
    async def card():
        served = model.require()
        return _json(served.card(), served)

    @app.get(
        "/metrics",
        summary="Metrics for Prometheus, all workers",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **schemas.errors(401)},
    )
    async def metrics():
        return Response(telemetry.render(), media_type=TEXT)


def _add_reload(app: FastAPI, model: Model) -> None:
    @app.post(
        "/admin/reload",
        summary="Look at the bundle's folder now",
        response_model=schemas.Reloaded,
        responses=schemas.errors(401, 409),
    )
    async def reload():
        changed = await model.refresh(force=True)
        if model.reason:
            raise RequestError(409, "bundle_refused", model.reason)
        served = model.require()
        answer = {"model_version": served.version, "bundle_hash": served.bundle.hash}
        return _json({"reloaded": changed, **answer}, served)


def create_app(
    settings: Settings, remarks: Iterable[tuple[int, str]] = (), spare: Path | None = None
) -> ASGIApp:
    """Build the application; the bundle is opened, and `remarks` are logged, when it starts.

    `spare` is a folder where several workers keep a copy of the bundle, see serve/spare.py.
    """
    model = Model(settings, spare)
    predictor = Predictor(settings, model)
    app: ASGIApp = Edge(create_api(settings, model, predictor, remarks), settings, model, predictor)
    if settings.cors_origins:
        origins = [origin.strip() for origin in settings.cors_origins.split(",")]
        headers = ["Content-Type", "X-API-Key", "Authorization", "X-Request-ID"]
        app = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_headers=headers,
            allow_methods=["GET", "POST"],
            expose_headers=["X-Model", "X-Request-ID", "Retry-After"],
        )
    return app


def _json(content: dict, served: Served | None = None) -> Response:
    """Make a JSON answer, with X-Model where a model is what it is about."""
    answer = Response(encode(content), media_type="application/json")
    if served is not None:
        answer.raw_headers.append(served.header)
    return answer


def _http_error(request, error):
    """Answer 404 and 405 in our shape."""
    if error.status_code == 405:
        refused = RequestError(
            405, "method_not_allowed", f"{request.method} is not possible here; see /docs."
        )
    elif error.status_code == 404:
        refused = RequestError(404, "not_found", "There is nothing at this address; see /docs.")
    else:
        refused = RequestError(error.status_code, "refused", str(error.detail))
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"
    return _refused(request, refused, headers)


def _refused(request, error, headers=None):
    request.scope["fraud"]["code"] = error.code
    headers = {name.decode(): value.decode() for name, value in error.headers} | dict(headers or {})
    return Response(error.body(), error.status, headers, media_type="application/json")


def _failed(request, error):
    return _refused(request, internal())


try:
    shared = os.environ.get(SPARE_FOLDER)
    app = create_app(
        Settings.from_environment(os.environ),
        unknown(os.environ).values(),
        Path(shared) if shared else None,
    )
except SettingsError as error:
    print(f"serve: {error}", file=sys.stderr)
    raise SystemExit(2) from error
