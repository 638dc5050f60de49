"""Run a deployed model under a policy: one stream of batches, a real server, a real registry."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import bundle, progress
from lib.bundle.calibration import threshold_for_budget
from lib.bundle.manifest import read
from lib.bundle.raw import RawTable
from lib.errors import DataError, unknown
from lib.evaluation import intervals, metrics
from lib.production import challenger, drift, drift_categories, monitoring, replay, sandbox
from lib.production.challenger import Challenger
from lib.production.history import History, Periods
from lib.registry import export, refit, tracking
from lib.reporting import cards
from lib.reporting.names import plain, what_drifted

POLICIES = {
    "frozen": "nothing changes",
    "refit": "begins with a refit on reference and validation; then nothing changes",
    "threshold": "after each batch the threshold is re-set to the budget on recent scores",
    "retrain_every": "as threshold, and a new fit every few batches",
    "retrain_on_drift": "as threshold, and a new fit when features or scores have drifted",
}
N_NAMED = 8  # features that an event names; more end in …


@dataclass(frozen=True)
class Options:
    """What all policies of a simulation share.

    Parameters
    ----------
    alert_budget : share of transactions that people can review
    every : batches between the fits of `retrain_every`
    recent : batches whose scores a threshold is re-set on
    window : weight that a fit is made on, as a multiple of reference's
    metric : of challenger and champion at the gate
    rows_per_request, connections, speed : see `replay.Traffic`
    block_s : length of the blocks that intervals are resampled in (s); 0: chosen for validation
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

    @property
    def traffic(self) -> replay.Traffic:
        """How requests are sent."""
        return replay.Traffic(self.rows_per_request, self.connections, self.speed)

    def figures(self, block_s: float) -> metrics.Options:
        """Return how figures are computed, with blocks of a length that has been chosen (s)."""
        return metrics.Options(
            budgets=(),
            headline_budget=self.alert_budget,
            block_s=block_s,
            n_resamples=self.n_resamples,
            seed=self.seed,
        )


def chosen(names: str) -> list[str]:
    """Return the policies of `frozen,threshold`, or of `all`.

    Raises DataError for a name that is none.
    """
    if names == "all":
        return list(POLICIES)
    found = []
    for entry in names.split(","):
        name = entry.strip()
        if not name:
            continue
        if name not in POLICIES:
            raise DataError(unknown("policy", name, POLICIES))
        found.append(name)
    return found


class Deployment:
    """One policy from the first batch to the last; `run` does it all.

    Parameters
    ----------
    policy : one of POLICIES
    history : lib.production.history.History
    start : folder of the bundle that is served at first
    folder : the policy's own; its parent holds the sandbox's store
    options : Options

    Attributes
    ----------
    steps : list of dict, a batch each: what was seen at once, and `realised`, what labels told
        later
    drifts : {batch: DataFrame}, see `monitoring.look`
    events : list of {"batch", "what"}, in order
    shadows : list of dict, see `challenger.shadow`, with `batch`
    """

    def __init__(
        self,
        policy: str,
        history: History,
        start: Path,
        folder: Path,
        options: Options,
    ) -> None:
        self.policy = policy
        self.history = history
        self.options = options
        self.folder = Path(folder)
        self.live = self.folder / "live"
        self.name = f"sandbox-{policy}"
        self.features = history.split.dataset.features
        self.stream = monitoring.Stream(self.folder, self.features)
        self.steps: list[dict[str, Any]] = []
        self.drifts: dict[str, pd.DataFrame] = {}
        self.events: list[dict[str, str]] = []
        self.shadows: list[dict[str, Any]] = []
        self.challenger: Challenger | None = None
        self.first_drift: slice | None = None
        self.block_s = options.block_s
        if not self.block_s:
            validation = history.data.take(history.slices["validation"])
            self.block_s = intervals.block_length(validation.time_s)

        fitted_on = history.slices["reference"]
        if policy == "refit":
            start = self._refitted(Path(start))
            fitted_on = slice(0, history.n_past)
        manifest, graphs = read(Path(start))
        self.brought = export.recent_transactions(history.split, manifest)
        self.labelled_to = history.n_past  # transactions, from the first on, whose label was sent
        exported = self.folder / "start"
        bundle.write(exported, graphs, manifest | {"name": self.name})
        first = Challenger(exported, fitted_on, history.slices["validation"], fit_s=0.0)
        self._promote(first, ["exported"])

    def _refitted(self, start: Path) -> Path:
        """Return the folder of the first bundle's refit; DataError where there is none."""
        why_not = refit.obstacle(read(start)[0])
        if why_not:
            raise DataError(f"{why_not} Leave the policy refit out.")
        return refit.refit(
            start, self.history.split, self.folder, card=cards.model, threads=self.options.threads
        )

    def run(self) -> Deployment:
        """Replay all batches; return self."""
        log = self.folder / "server.log"
        with replay.Server(self.live, log, threads=self.options.threads) as self.server:
            for i, batch in enumerate(progress.steps(self.history.split.batches, "batch")):
                self._serve(batch)
                self._watch(batch)
                # a challenger has been in shadow for the whole batch
                if self.challenger:
                    self._decide(batch)
                if self.policy not in ("frozen", "refit"):
                    self._set_threshold(batch)
                if not self.challenger and self._is_due(i):
                    self._retrain(batch)
        self._labels_arrive()
        return self

    def _say(self, batch: str, what: str) -> None:
        self.events.append({"batch": batch, "what": what})

    def _serve(self, batch: str) -> None:
        """Send the batch; keep the log and what was asked, and look at both."""
        rows = self.history.slices[batch]
        data = self.history.data.take(rows)
        sent: replay.Rows = data.X
        if self.brought:
            raw = RawTable(self.bundle.manifest)
            sent = self.history.as_sent(rows, raw, self.labelled_to)
        log = replay.replay(
            self.server,
            sent,
            time_s=data.time_s,
            first=rows.start - self.history.n_past,
            traffic=self.options.traffic,
        )
        ids = None
        names = list(self.history.split.dataset.kept)
        if names:
            ids = self.history.frame[names].iloc[rows]
        self.stream.keep(batch, log, data, ids)
        step, self.drifts[batch] = monitoring.look(
            self.stream, batch, self.reference, self.options.alert_budget
        )
        step["seconds"] = log.attrs["seconds"]
        if isinstance(sent, replay.RawTransactions):
            n_labels = log.attrs["n_labels"]
            if n_labels:
                self.labelled_to = rows.start + int(sent.positions[n_labels - 1]) + 1
            step["n_unlike_table"] = _n_unlike(log, self.bundle.anomaly_score(data.X))
        step["estimated_recall"] = self.estimator.recall(log, data.weight)
        step["fit_s"] = 0.0
        step["promoted"] = False
        self.steps.append(step)

    def _watch(self, batch: str) -> None:
        """Say what has drifted, and what the labels that have arrived by now tell of frauds."""
        step = self.steps[-1]
        found = what_drifted(step)
        if step["score_drifted"]:
            found.append("the score")
        if found:
            self.first_drift = self.first_drift or self.history.slices[batch]
            names = ", ".join(found[:N_NAMED])
            more = " …" if len(found) > N_NAMED else ""
            self._say(batch, f"drift: {names}{more}")
        n_known = self.history.n_known(step["end_s"])
        known = self.history.data.take(slice(self.history.n_past, n_known))
        step["fraud_drifted"] = self.frauds.look(known)
        if step["fraud_drifted"]:
            names = ", ".join(step["fraud_drifted"][:N_NAMED])
            self._say(batch, f"late labels: recent frauds are unlike those before in {names}")

    def _promote(self, model: Challenger, reasons: list[str]) -> None:
        """Make a candidate the champion: of the registry, of the server's folder, of monitoring."""
        tracking.register(model.folder, self.name, reasons)
        self.present = sandbox.deploy(self.name, self.live, self.brought)
        self.bundle = bundle.load(self.live, self.options.threads, self.features)
        self.fitted_on = model.fitted_on
        self.challenger = None
        self.first_drift = None

        made_from = slice(model.fitted_on.start, model.validated_on.stop)
        data = self.history.data.take(made_from)
        score = self.bundle.anomaly_score(data.X)
        watching = drift.MonitorOptions(
            block_s=self.block_s,
            clock=self.history.clock,
            categories=drift_categories.of_split(self.history.split),
        )
        self.reference = drift.Reference(self.features, data, score, watching)
        # on transactions that it was fitted on, the model's scores would be too good
        unfitted = slice(model.validated_on.start - made_from.start, None)
        self.estimator = monitoring.Estimator(
            score[unfitted], data.y[unfitted], data.weight[unfitted]
        )
        past = self.history.data.take(slice(0, model.validated_on.stop))
        # in proportion to the blocks: within both, transactions depend on each other
        blocks = self.block_s / intervals.BLOCK_S
        apart_s = blocks * monitoring.APART_S
        self.frauds = monitoring.Frauds(self.features, past, apart_s=apart_s)

    def _set_threshold(self, batch: str) -> None:
        """Alert the budget's share of the recent transactions that the model was not fitted on."""
        stop = self.history.slices[batch].stop
        weight = self.options.recent * self.history.batch_weight
        start = self.history.back(stop, weight)
        start = max(start, self.fitted_on.stop)
        recent = self.history.data.take(slice(start, stop))
        score = self.bundle.anomaly_score(recent.X)
        threshold = threshold_for_budget(score, recent.weight, self.options.alert_budget)
        manifest, graphs = read(self.live)
        manifest["threshold"] = {
            # where nobody is to be alerted it is the float above 1, which no manifest may hold
            "anomaly_score": min(threshold, 1.0),
            "rule": "alert_budget",
            "alert_budget": self.options.alert_budget,
        }
        manifest["version"] = f"{self.present.version}-{batch}"
        bundle.write(self.live, graphs, manifest, hashed_names=True)
        self.server.reload()

    def _periods(self) -> Periods:
        """Return what could be fitted and validated on now, by the labels that are known."""
        now_s = self.steps[-1]["end_s"]
        n_known = self.history.n_known(now_s)
        return self.history.window(n_known, self.options.window)

    def _is_due(self, i: int) -> bool:
        """Return whether to fit after batch i, the first of which is 0."""
        # a batch in shadow, another to be live in: what comes too late for both is not fitted
        if i + 3 > len(self.history.split.batches):
            return False
        reference = self._periods().reference
        train_on = self.bundle.manifest["fit"]["train_on"]
        if not self.history.can_fit(reference, train_on):
            return False
        if self.policy == "retrain_on_drift":
            # a fit is worth while once it sees the batch that has drifted
            if self.first_drift is None:
                return False
            return reference.stop >= self.first_drift.stop
        if self.policy == "retrain_every":
            return (i + 1) % self.options.every == 0
        return False

    def _retrain(self, batch: str) -> None:
        self.challenger = challenger.retrain(
            self.bundle.manifest,
            self.history,
            self._periods(),
            self.folder / f"retrained-{batch}",
            self.options.seed,
            self.options.threads,
        )
        self._calibrate(batch)
        self.steps[-1]["fit_s"] = self.challenger.fit_s
        fitted_on = self.challenger.fitted_on
        n = fitted_on.stop - fitted_on.start
        self._say(batch, f"fitted on {n:,} later transactions; in shadow from now on")

    def _calibrate(self, batch: str) -> None:
        """Calibrate the challenger on all that came after its fit, this batch included."""
        start = self.challenger.fitted_on.stop
        stop = self.history.slices[batch].stop
        later = self.history.data.take(slice(start, stop))
        sandbox.calibrate(
            self.challenger.folder,
            later,
            self.options.alert_budget,
            self.name,
        )

    def _decide(self, batch: str) -> None:
        """Judge the challenger after a batch in shadow, with the labels that have arrived."""
        candidate = self.challenger
        X, weight = self.stream.asked(batch)
        seen = challenger.shadow(candidate, X, weight, self.stream.log(batch))
        self.shadows.append({"batch": batch} | seen)
        alike = seen["rank_correlation"]
        ranks = "the same score for all" if alike is None else f"rank correlation {alike:.3f}"
        overlap = seen["alert_overlap"] or 0
        self._say(batch, f"shadow: {ranks}, alert overlap {overlap:.0%}")
        self._calibrate(batch)
        verdict = challenger.judge(
            candidate,
            self.present,
            self.history,
            self.history.n_known(self.steps[-1]["end_s"]),
            self.options.metric,
            options=self.options.figures(self.block_s),
        )
        self.challenger = None
        self.first_drift = None
        is_better = verdict.action == "promote"
        if is_better:
            self._promote(candidate, verdict.reasons)
            self.server.reload()
        self.steps[-1]["promoted"] = is_better
        self._say(batch, f"{verdict.action}: {plain(verdict.reasons[-1])}")

    def _labels_arrive(self) -> None:
        """Note in each step what labels say of it, and when that was known."""
        last = self.steps[-1]
        stream = slice(self.history.n_past, None)
        labelled = self.history.data.take(stream)
        last["fraud_drifted_after"] = self.frauds.look(labelled)
        if last["fraud_drifted_after"] and not last["fraud_drifted"]:
            names = ", ".join(last["fraud_drifted_after"][:N_NAMED])
            self._say(last["batch"], f"last labels: recent frauds are unlike others in {names}")
        for step in self.steps:
            rows = self.history.slices[step["batch"]]
            data = self.history.data.take(rows)
            step["realised"] = monitoring.realise(
                self.stream.log(step["batch"]), data, self.options.figures(self.block_s)
            )
            step["labels_known_after"] = self._known_after(rows.stop)
            for seen in self.shadows:
                if seen["batch"] != step["batch"]:
                    continue
                alert = seen.pop("alert")
                fraud = np.where(data.y == 1, data.weight, 0.0)
                seen["n_caught"] = float(fraud @ alert)
                seen["n_caught_by_champion"] = step["realised"]["n_caught"]

    def _known_after(self, n: int) -> str | None:
        """Return the batch at whose end the first n labels were known; None: after the stream."""
        for step in self.steps:
            n_known = self.history.n_known(step["end_s"])
            if n_known >= n:
                return step["batch"]
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return what json.dumps takes: policy, options, steps, events, shadows, totals."""
        totals = monitoring.totals(self.steps)
        totals["fit_s"] = sum(step["fit_s"] for step in self.steps)
        return {
            "policy": self.policy,
            "options": asdict(self.options) | {"block_s": self.block_s},
            "clock": self.history.clock,
            "dates": self.history.split.manifest["time"] == "datetime",
            "label_delay_s": self.history.label_delay_s,
            "steps": self.steps,
            "events": self.events,
            "shadows": self.shadows,
            "totals": totals,
        }

    def drift(self) -> pd.DataFrame:
        """Return all drift tables, one below the other, with `batch` and `name` in front."""
        return pd.concat(self.drifts, names=["batch", "name"]).reset_index()


def _n_unlike(log: pd.DataFrame, expected: np.ndarray) -> int:
    """Count the answers that are not the scores (n,) of the features that the table has."""
    # scores of float32 graphs depend in their last digits on how many rows are scored at once
    is_alike = np.isclose(log["anomaly_score"], expected, rtol=1e-5, atol=1e-7)
    return int(np.count_nonzero(~is_alike))
