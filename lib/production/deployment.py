"""What to do with a deployed model as batches go by: policies on one stream, each with real server
and registry.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from lib import bundle, progress
from lib.bundle.calibration import threshold_for_budget
from lib.bundle.manifest import read
from lib.errors import DataError, unknown
from lib.evaluation import intervals
from lib.production import drift, monitoring, replay, sandbox
from lib.registry import tracking

POLICIES = {
    "frozen": "nothing changes",
    "threshold": "after each batch the threshold is re-set to the budget on recent scores",
    "retrain_every": "as threshold, and a new fit every few batches",
    "retrain_on_drift": "as threshold, and a new fit when features or scores have drifted",
}


@dataclass(frozen=True)
class Options:
    """What all policies of a simulation share.

    every : batches between the fits of `retrain_every`; window : weight that they are made on, in
        reference's
    recent : batches whose scores a threshold is re-set on
    block_s : length of the blocks that intervals are resampled in (s); 0: chosen for validation
    speed : multiple of real time; 0: as fast as it goes
    """

    alert_budget: float = 0.002
    every: int = 3
    recent: int = 3
    window: float = 1.0
    metric: str = "average_precision"
    rows_per_request: int = 100
    connections: int = 4
    speed: float = 0.0
    block_s: float = 0.0
    n_resamples: int = 200
    seed: int = 0
    threads: int = 1


def chosen(names):
    """`frozen,threshold` or `all` -> list of policies; DataError for a name that is none."""
    names = (
        list(POLICIES)
        if names == "all"
        else [name.strip() for name in names.split(",") if name.strip()]
    )
    for name in names:
        if name not in POLICIES:
            raise DataError(unknown("policy", name, POLICIES))
    return names


class Deployment:
    """One policy from the first batch to the last; `run` does it all.

    Parameters
    ----------
    history : sandbox.History
    start : folder of the bundle that is served at first
    folder : the policy's own; its parent holds the sandbox's store

    Attributes
    ----------
    steps : list of dict, a batch each: what was seen at once, and `realised`, what labels told
        later
    drifts : {batch: DataFrame}, see `monitor.look`
    events : list of {"batch", "what"}, in order
    """

    def __init__(self, policy, history, start, folder, options):
        self.policy, self.history, self.options, self.folder = (
            policy,
            history,
            options,
            Path(folder),
        )
        self.features, self.name, self.live = (
            history.split.dataset.features,
            f"sandbox-{policy}",
            self.folder / "live",
        )
        self.stream = monitoring.Stream(self.folder, self.features)
        self.steps, self.drifts, self.events, self.shadows = [], {}, [], []
        self.challenger, self.first_drift = None, None
        validation = history.data.take(history.slices["validation"])
        self.block_s = options.block_s or intervals.block_length(validation.time_s)
        manifest, graphs = read(Path(start))
        bundle.write(self.folder / "start", graphs, manifest | {"name": self.name})
        fitted_on, validated_on = history.slices["reference"], history.slices["validation"]
        self._promote(
            sandbox.Challenger(self.folder / "start", fitted_on, validated_on, 0.0), ["exported"]
        )

    def run(self):
        """Replay all batches -> self."""
        with replay.Server(
            self.live, self.folder / "server.log", threads=self.options.threads
        ) as self.server:
            for i, batch in enumerate(progress.steps(self.history.split.batches, "batch")):
                self._serve(batch)
                if self.challenger:
                    self._decide(batch)
                if self.policy != "frozen":
                    self._set_threshold(batch)
                if not self.challenger and self._due(i):
                    self._retrain(batch)
        self._labels_arrive()
        return self

    def _say(self, batch, what):
        self.events.append({"batch": batch, "what": what})

    def _serve(self, batch):
        """Send the batch, look at what came back."""
        options, rows = self.options, self.history.slices[batch]
        data, dataset = self.history.data.take(rows), self.history.split.dataset
        log = replay.replay(
            self.server,
            data.X,
            time_s=data.time_s,
            first=rows.start - self.history.n_past,
            speed=options.speed,
            rows_per_request=options.rows_per_request,
            connections=options.connections,
        )
        self.stream.keep(
            batch,
            log,
            data,
            self.history.frame[list(dataset.ids)].iloc[rows] if dataset.ids else None,
        )
        step, self.drifts[batch] = monitoring.look(
            self.stream, batch, self.reference, options.alert_budget
        )
        step |= {
            "seconds": log.attrs["seconds"],
            "estimated_recall": self.estimator.recall(log, data.weight),
        }
        self.steps.append(step | {"fit_s": 0.0, "promoted": False})
        found = [*step["drifted"], *(["the score"] if step["score_drifted"] else [])]
        if found:
            self.first_drift = self.first_drift or rows
            self._say(batch, f"drift: {', '.join(found[:8])}{' …' if len(found) > 8 else ''}")
        known = slice(self.history.n_past, self.history.n_known(step["end_s"]))
        self.steps[-1]["fraud_drifted"] = new = self.frauds.look(self.history.data.take(known))
        if new:
            self._say(
                batch, f"late labels: recent frauds are unlike those before in {', '.join(new[:8])}"
            )

    def _promote(self, model, reasons):
        """Make a candidate the champion: of the registry, of the server's folder, and of what is
        watched.
        """
        tracking.register(model.folder, self.name, reasons)
        self.present, past = sandbox.deploy(self.name, self.live), slice(0, model.validated_on.stop)
        self.bundle = bundle.load(self.live, self.options.threads, self.features)
        self.fitted_on, self.challenger, self.first_drift = model.fitted_on, None, None
        known = slice(model.fitted_on.start, model.validated_on.stop)
        data, unfitted = (
            self.history.data.take(known),
            slice(model.validated_on.start - known.start, None),
        )
        score = self.bundle.anomaly_score(data.X)
        options = {"block_s": self.block_s, "clock": self.history.clock}
        self.reference = drift.Reference(self.features, data, score, **options)
        self.estimator = monitoring.Estimator(
            score[unfitted], data.y[unfitted], data.weight[unfitted]
        )
        apart_s = self.block_s / intervals.BLOCK_S * monitoring.APART_S
        self.frauds = monitoring.Frauds(
            self.features, self.history.data.take(past), apart_s=apart_s
        )

    def _set_threshold(self, batch):
        """Alert the budget's share of the recent transactions, but none that the model was fitted
        on.
        """
        history, stop = self.history, self.history.slices[batch].stop
        start = history.back(stop, self.options.recent * history.batch_weight)
        recent = history.data.take(slice(max(start, self.fitted_on.stop), stop))
        score = self.bundle.anomaly_score(recent.X)
        threshold = min(threshold_for_budget(score, recent.weight, self.options.alert_budget), 1.0)
        manifest, graphs = read(self.live)
        manifest["threshold"] = {
            "anomaly_score": threshold,
            "rule": "alert_budget",
            "alert_budget": self.options.alert_budget,
        }
        manifest["version"] = f"{self.present.version}-{batch}"
        bundle.write(self.live, graphs, manifest, hashed_names=True)
        self.server.reload()

    def _parts(self):
        """What could be fitted and validated on now, by the labels that are known."""
        return self.history.window(
            self.history.n_known(self.steps[-1]["end_s"]), self.options.window
        )

    def _due(self, i):
        """Whether to fit after batch i. What could not be live before the stream ends is not
        fitted.
        """
        if i + 3 > len(self.history.split.batches):
            return False
        if not self.history.can_fit(self._parts()[0], self.bundle.manifest["fit"]["train_on"]):
            return False
        if self.policy == "retrain_on_drift":
            return self.first_drift is not None and self._parts()[0].stop >= self.first_drift.stop
        return self.policy == "retrain_every" and (i + 1) % self.options.every == 0

    def _retrain(self, batch):
        history, options, folder = self.history, self.options, self.folder / f"retrained-{batch}"
        manifest = self.bundle.manifest
        self.challenger = sandbox.retrain(
            manifest, history, self._parts(), folder, options.seed, options.threads
        )
        self._calibrate(batch)
        self.steps[-1]["fit_s"] = self.challenger.fit_s
        fitted_on = self.challenger.fitted_on
        self._say(
            batch,
            f"fitted on {fitted_on.stop - fitted_on.start:,} later transactions; in shadow from "
            "now on",
        )

    def _calibrate(self, batch):
        """Scores and threshold of the challenger, on all that came after its fit."""
        later = self.history.data.take(
            slice(self.challenger.fitted_on.stop, self.history.slices[batch].stop)
        )
        sandbox.calibrate(self.challenger.folder, later, self.options.alert_budget, self.name)

    def _decide(self, batch):
        """After a batch in shadow: the gate, with the labels that have arrived by now."""
        challenger, options = self.challenger, self.options
        seen = sandbox.shadow(challenger, self.stream.asked(batch), self.stream.log(batch))
        self.shadows.append({"batch": batch} | seen)
        alike = seen["rank_correlation"]
        ranks = "the same score for all" if alike is None else f"rank correlation {alike:.3f}"
        self._say(batch, f"shadow: {ranks}, alert overlap {seen['alert_overlap'] or 0:.0%}")
        self._calibrate(batch)
        n_known = self.history.n_known(self.steps[-1]["end_s"])
        more = {
            "headline_budget": options.alert_budget,
            "block_s": self.block_s,
            "seed": options.seed,
        }
        verdict = sandbox.judge(
            challenger,
            self.present,
            self.history,
            n_known,
            options.metric,
            n_resamples=options.n_resamples,
            **more,
        )
        self.challenger = self.first_drift = None
        if verdict.action == "promote":
            self._promote(challenger, verdict.reasons)
            self.server.reload()
        self.steps[-1]["promoted"] = verdict.action == "promote"
        self._say(batch, f"{verdict.action}: {verdict.reasons[-1]}")

    def _labels_arrive(self):
        """What each batch was worth, and at the end of which batch that was known (None: after the
        stream).
        """
        new = self.frauds.look(self.history.data.take(slice(self.history.n_past, None)))
        self.steps[-1]["fraud_drifted_after"] = new
        if new and not self.steps[-1]["fraud_drifted"]:
            self._say(
                self.steps[-1]["batch"],
                f"last labels: recent frauds are unlike others in {', '.join(new[:8])}",
            )
        options = {"alert_budget": self.options.alert_budget, "block_s": self.block_s}
        options |= {"n_resamples": self.options.n_resamples, "seed": self.options.seed}
        for step in self.steps:
            rows = self.history.slices[step["batch"]]
            data, log = self.history.data.take(rows), self.stream.log(step["batch"])
            step["realised"] = monitoring.realise(log, data, **options)
            known = (
                s["batch"] for s in self.steps if self.history.n_known(s["end_s"]) >= rows.stop
            )
            step["labels_known_after"] = next(known, None)
            for seen in self.shadows:
                if seen["batch"] == step["batch"]:
                    fraud = data.weight * (data.y == 1)
                    alert = seen.pop("alert")
                    seen |= {
                        "n_caught": float(fraud @ alert),
                        "n_caught_by_champion": step["realised"]["n_caught"],
                    }

    def to_dict(self):
        """JSON-able: policy, options, steps, events, shadows, totals."""
        totals = monitoring.totals(self.steps) | {
            "fit_s": sum(step["fit_s"] for step in self.steps)
        }
        return {
            "policy": self.policy,
            "options": asdict(self.options) | {"block_s": self.block_s},
            "clock": self.history.clock,
            "label_delay_s": self.history.label_delay_s,
            "steps": self.steps,
            "events": self.events,
            "shadows": self.shadows,
            "totals": totals,
        }

    def drift(self):
        """All drift tables, one below the other -> DataFrame with the columns `batch` and `name` in
        front.
        """
        return pd.concat(self.drifts, names=["batch", "name"]).reset_index()
