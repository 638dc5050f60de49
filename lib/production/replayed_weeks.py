"""The weekly verdict on a replayed stream, and the alerts of its last batch.

What a scoring command would have said of each batch, at once and when its labels were known.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.bundle import Bundle
from lib.bundle.reasons import of_range
from lib.data import cuts
from lib.data.datasets import UNLABELLED, Arrays
from lib.engine import top
from lib.engine.samples import Sample
from lib.engine.scored import Scored
from lib.files import write_json
from lib.production import drift
from lib.production.alerts import explained
from lib.production.deployment import Deployment
from lib.production.scoring_by_parts import SAMPLE_ROWS
from lib.production.week import Promise, Week
from lib.reporting import alerts
from lib.reporting.names import label

N_ALERTS = 200  # of the last batch, that are explained


class ReplayedWeeks:
    """Judges the batches of a deployment.

    Parameters
    ----------
    deployment : that has run
    model : the bundle that it began with, whose promise is held against the batches
    """

    def __init__(self, deployment: Deployment, model: Bundle) -> None:
        self.deployment = deployment
        self.model = model
        history = deployment.history
        validation = history.data.take(history.slices["validation"])
        self.promise = Promise.of_validation(model, validation)
        known = history.data.take(slice(0, history.n_past))
        self.window = drift.Reference.of_model(
            model, known, self.promise.block_s, clock=history.clock
        )
        self.batches = list(history.split.batches)

    def report(self, batches: Sequence[str], labelled: bool = True) -> dict[str, Any]:
        """Return the verdict on some batches together, see `Week.report`.

        Parameters
        ----------
        labelled : whether their labels are known
        """
        week = Week(self.promise)
        for batch in batches:
            data, log = self._seen(batch)
            if not labelled:
                data = data._replace(y=np.full_like(data.y, UNLABELLED))
            # a row that was refused has no score, and is no alert
            score = log["anomaly_score"].fillna(0.0).to_numpy()
            week.add(data, score, log["alert"].to_numpy())
        return week.report(self.drift(batches).to_dict(), self.window.score)

    def drift(self, batches: Sequence[str]) -> drift.Verdict:
        """Return how all rows of some batches together have drifted, as if they were one table."""
        sample = Sample(SAMPLE_ROWS)
        for batch in batches:
            data, log = self._seen(batch)
            sample.add(data, log["anomaly_score"].to_numpy())
        rows, score = sample.rows()
        return self.window.check(np.column_stack([rows.X, score]), rows.weight, rows.time_s)

    def _seen(self, batch: str) -> tuple[Arrays, pd.DataFrame]:
        history = self.deployment.history
        return history.data.take(history.slices[batch]), self.deployment.stream.log(batch)

    def table(self) -> pd.DataFrame:
        """Return a row a batch: the verdict at once, the one with labels, and its first reason."""
        rows = []
        for batch in self.batches:
            at_once = self.report([batch], labelled=False)["verdict"]
            later = self.report([batch])["verdict"]
            rows.append(
                {
                    "batch": batch,
                    "at once": at_once["word"],
                    "once labels are known": later["word"],
                    "why": later["reasons"][0],
                }
            )
        return pd.DataFrame(rows).set_index("batch")

    def write_alerts(self, folder: Path) -> alerts.Batch:
        """Write the alerts of the last batch, `alerts.html` and its records; return them."""
        batch = self.batches[-1]
        history = self.deployment.history
        dataset = history.split.dataset
        rows = history.slices[batch]
        data, log = self._seen(batch)
        score = log["anomaly_score"].fillna(0.0).to_numpy()
        found = top.of_rows(
            dataset,
            history.frame.iloc[rows],
            data.X,
            rows.start - history.n_past,
            Scored(score, score, log["alert"].to_numpy()),
            N_ALERTS,
        )
        kind = history.split.manifest["time"]
        report = self.report([batch])
        shown = alerts.Batch(
            title=f"Alerts of {batch.replace('_', ' ')}",
            facts={
                "transactions": f"{len(log):,}",
                "from": cuts.instant(float(data.time_s[0]), kind),
                "to": cuts.instant(float(data.time_s[-1]), kind),
                "alerts": f"{found.n:,}",
                "model": label(self.model.manifest["model"]),
            },
            n=found.n,
            usual=of_range(self.model.manifest),
            alerts=explained(dataset, self.model, found),
            amount=dataset.amount or "",
        )
        links = {"The run": "../index.html"}
        alerts.write(folder / "alerts.html", shown, verdict=report["verdict"], links=links)
        write_json(folder / alerts.OF_RUN, shown.to_dict())
        return shown
