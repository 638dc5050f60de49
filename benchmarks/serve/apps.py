"""What the server is measured against: a bare ASGI application, FastAPI with a constant answer, the
typical way.
"""

import os

from fastapi import FastAPI
from pydantic import BaseModel

ANSWER = {
    "predictions": [0],
    "anomaly_scores": [0.5],
    "model_version": "1",
    "inference_time_ms": 0.1,
}
CONSTANT = b'{"predictions":[0],"anomaly_scores":[0.5],"model_version":"1","inference_time_ms":0.1}'
# FastAPI's own telemetry, off for all alike
QUIET = {"tracing": False, "metrics": False, "logs": False}


class Body(BaseModel):
    features: list[list[float]]


async def bare(scope, receive, send):
    """No framework, no decoding, a constant answer: what uvicorn alone allows."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        continue
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(CONSTANT))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": CONSTANT})


constant = FastAPI(telemetry=QUIET)


@constant.post("/predict")
async def constant_predict(body: Body):
    return ANSWER


def typical():
    """A fitted estimator behind a `def` handler with pydantic's models, as most tutorials have
    it.
    """
    import joblib
    import numpy as np

    detector = joblib.load(os.environ["BENCHMARK_ESTIMATOR"])
    threshold = detector.raw_score(np.zeros((1, detector.n_features_in_), np.float32))[0]
    app = FastAPI(telemetry=QUIET)

    @app.post("/predict")
    def predict(body: Body):
        scores = detector.raw_score(np.asarray(body.features, dtype=np.float32))
        return {
            "predictions": (scores > threshold).astype(int).tolist(),
            "anomaly_scores": scores.tolist(),
        }

    return app
