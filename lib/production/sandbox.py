"""What a simulated production needs for itself: a tracking store, the past with its labels, and
challengers.

Nothing outside the sandbox's folder changes: not the project's aliases, not the exported bundle.
"""

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from lib import bundle
from lib.bundle.calibration import Calibration, threshold_for_budget
from lib.bundle.manifest import read
from lib.data import cuts, splits
from lib.data.datasets import ROOT
from lib.data.splits import MANIFEST
from lib.detectors import baselines
from lib.detectors.isolation_forest import IsolationForest
from lib.errors import DataError
from lib.evaluation import comparison, gate, metrics
from lib.files import write_json
from lib.pipeline import stages
from lib.pipeline.notebook_execution import Execution
from lib.pipeline.parameters import read_parameters
from lib.production import replay
from lib.registry import candidates, challengers, tracking
from lib.registry.fused_candidate import fuse
from lib.registry.mlflow_store import sqlite_uri
from lib.reporting import cards

URI = "MLFLOW_TRACKING_URI"
VALIDATING_FRAUDS = gate.MIN_FRAUDS  # a challenger's validation reaches back until it holds so many
CHALLENGER = "challenger"


@contextmanager
def store(folder):
    """Within the block MLflow's store is the database in `folder`, and no pipeline's run is known.

    A new database gets a name that no other has had: MLflow keeps those that it has opened open,
    and could not write to one of the same name once the folder has been deleted, as a notebook does
    that is run again.
    """
    found = next(Path(folder).glob("mlflow-*.db"), None)
    path = found or Path(folder) / f"mlflow-{uuid.uuid4().hex}.db"
    kept = {name: os.environ.pop(name, None) for name in (URI, tracking.PARENT)}
    os.environ[URI] = sqlite_uri(path)
    try:
        yield
    finally:
        del os.environ[URI]
        os.environ.update({name: value for name, value in kept.items() if value is not None})


def start_bundle(split, bundle_dir, folder, alert_budget=0.002, seed=0):
    """The bundle to begin with: the exported one if it can score this split, else a quick forest ->
    folder.

    Raises DataError if there is no bundle in `bundle_dir`, BundleError if it is damaged.
    """
    found = Path(bundle_dir) / "manifest.json"
    if bundle_dir and not found.is_file():
        raise DataError(
            f"{bundle_dir} holds no bundle; run notebook 07_export first, or leave bundle_dir "
            "empty."
        )
    if bundle_dir:
        manifest, graphs = read(found.parent)
        if manifest["dataset"]["name"] == split.dataset.name and manifest["features"] == list(
            split.dataset.features
        ):
            bundle.write(
                folder, graphs, {key: value for key, value in manifest.items() if key != "version"}
            )
            return folder
    regime = candidates.regimes("both", split)[0]
    fitted = candidates.fit(IsolationForest(seed=seed), split, regime)
    name = candidates.variant("isolation_forest", regime)
    made = candidates.write(folder, name, fitted, split)
    calibrate(made, split.arrays("validation"), alert_budget, "made for this simulation")
    return made


def calibrate(folder, data, alert_budget, name):
    """Give a candidate its calibration and the budget's threshold on these Arrays; no label is
    used.
    """
    raw = bundle.load(folder).raw_score(data.X)
    threshold = threshold_for_budget(raw, data.weight, alert_budget)
    challengers.calibrate(
        folder,
        Calibration.fit(raw, data.weight),
        challengers.Threshold(threshold, "alert_budget", alert_budget),
        name=name,
        card=cards.model,
    )


def deploy(name, folder):
    """Put the registry's champion of `name` where the server looks, as 07_export does ->
    tracking.Champion.
    """
    present = tracking.champion(name)
    manifest, graphs = read(present.folder)
    # the server takes up successors of one registered name only
    manifest = manifest | {"name": name, "version": present.version}
    bundle.write(folder, graphs, manifest, hashed_names=True)
    return present


class History:
    """All transactions of a split in time order, and which labels are known when.

    label_delay_s : s until a label is known; negative: the mean duration of a batch
    """

    def __init__(self, split, label_delay_s=-1.0):
        self.split = split
        parts = {name: split.frame(name) for name in ("reference", "validation", *split.batches)}
        ends = np.cumsum([len(part) for part in parts.values()]).tolist()
        self.slices = dict(zip(parts, map(slice, [0, *ends], ends), strict=False))
        self.frame = pd.concat(parts.values(), ignore_index=True)
        self.data = split.dataset.arrays(self.frame)
        self.n_past = self.slices["validation"].stop
        self.cumulated = np.cumsum(self.data.weight)
        span_s = self.data.time_s[-1] - self.data.time_s[self.n_past]
        self.label_delay_s = span_s / len(split.batches) if label_delay_s < 0 else label_delay_s
        self.clock = split.dataset.time is not None  # numbers of rows tell no hour of the day
        self.batch_weight = self.data.weight[self.n_past :].sum() / len(split.batches)

    def n_known(self, now_s):
        """Number of transactions, from the first on, whose labels are known at an instant of the
        stream.
        """
        known = np.searchsorted(self.data.time_s, now_s - self.label_delay_s, side="right")
        return max(self.n_past, int(known))

    def back(self, stop, weight):
        """Return the start of the stretch before `stop` that holds this much weight, a number.

        See `cumulated`.
        """
        return int(
            np.searchsorted(
                self.cumulated, self.cumulated[stop - 1] - weight * (1 + 1e-9), side="right"
            )
        )

    def window(self, n_known, share=1.0):
        """What to fit on, `share` of reference's weight, and the labelled batch behind it that
        validates -> slices.
        """
        frauds = np.flatnonzero(self.data.y[:n_known] == 1)[-VALIDATING_FRAUDS:]
        start = self.back(n_known, self.batch_weight)
        if frauds.size:
            # the other half is there to fit on
            start = min(start, max(int(frauds[0]), n_known // 2))
        weight = share * self.cumulated[self.slices["reference"].stop - 1]
        return slice(self.back(start, weight), start), slice(start, n_known)

    def can_fit(self, part, train_on):
        """Whether a slice holds what a regime fits on: for 'genuine', transactions that are known
        to be genuine.
        """
        return train_on == "all" or bool((self.data.y[part] == 0).any())

    def write(self, folder, parts):
        """Write {period: slice} as a split for the model notebooks -> folder."""
        folder.mkdir(parents=True)
        manifest = self.split.manifest | {"periods": {}, "remarks": []}
        for name, part in parts.items():
            replay.write(self.frame.iloc[part], folder / f"{name}.parquet")
            manifest["periods"][name] = cuts.summary(self.split.dataset, self.frame.iloc[part])
        write_json(folder / MANIFEST, manifest)
        return folder


@dataclass
class Challenger:
    """A model that was fitted on later transactions and has not been promoted."""

    folder: Path
    fitted_on: slice
    validated_on: slice
    fit_s: float
    shadow: dict = field(default_factory=dict)


def retrain(champion, history, parts, folder, seed=0, threads=1):
    """Execute the champion's own notebook (of a fusion: its members'), with its parameters, later
    -> Challenger.

    champion : the manifest of the model that is live; parts : slices to fit and to validate on
    Raises DataError where there is no such notebook or it fails.
    """
    family, fit = champion["model"].partition("@")[0], champion["fit"]
    split_dir = history.write(
        folder / "split", dict(zip(("reference", "validation"), parts, strict=True))
    )
    given = {
        "split_dir": str(split_dir),
        "run_dir": str(folder),
        "train_on": fit["train_on"],
        "track": False,
    }
    # no study of contamination: nobody reads it here
    given |= {"seed": seed, "threads": threads, "trims": []}
    members = fit["parameters"]["of"] if family == "fusion" else {family: fit["parameters"]}
    start = time.perf_counter()
    # the event loop of a notebook, where this is one, is this thread's
    with ThreadPoolExecutor(len(members)) as pool:
        list(pool.map(lambda model: _fit(model, members[model] | given, folder, threads), members))
    if family == "fusion":
        later = splits.open_split(split_dir)
        fuse(folder, later, challengers.ensure(folder, later, make=False), threads)
    made = folder / "models" / candidates.variant(family, fit["train_on"])
    return Challenger(made, *parts, time.perf_counter() - start)


def _fit(model, parameters, folder, threads):
    """Execute a model's notebook, which writes its candidate into `folder`."""
    stage = next((s for s in stages.present(ROOT) if s.short == model), None)
    if stage is None:
        raise DataError(
            f"{model} has no notebook to retrain it with; choose the policies frozen and threshold"
        )
    notebook = stages.notebook(ROOT, stage)
    accepted = read_parameters(notebook)
    parameters = {
        name: value for name, value in parameters.items() if name in accepted and value is not None
    }
    outcome = Execution(
        notebook, folder / stage.name, parameters, ROOT, dict(os.environ), threads
    ).run()
    if outcome.message:
        raise DataError(f"{stage.name}, executed once more to retrain {model}: {outcome.message}")


def shadow(challenger, asked, log):
    """Let the challenger score what the champion has just answered -> dict, also kept as its
    `shadow`.

    asked : (X, weight) as the server got them; log : the champion's
    `rank_correlation` of the scores (Spearman); `alert_rate`; `alert_overlap`, weight of the
    transactions that both alert over that of those that either does.
    """
    X, weight = asked
    alert, score = bundle.load(challenger.folder).predict(X)
    ours, theirs = alert == 1, log["alert"].to_numpy() == 1
    known = log["anomaly_score"].notna().to_numpy()
    either = weight[ours | theirs].sum()
    theirs_score = log["anomaly_score"].to_numpy()[known]
    varied = known.any() and np.ptp(score[known]) > 0 and np.ptp(theirs_score) > 0
    challenger.shadow = {
        "rank_correlation": float(spearmanr(score[known], theirs_score)[0]) if varied else None,
        "alert_rate": float(weight[ours].sum() / weight.sum()),
        "alert_overlap": float(weight[ours & theirs].sum() / either) if either else None,
        "alert": ours,
    }
    return challenger.shadow


def judge(challenger, present, history, n_known, metric, **options):
    """The comparison's gate, on the labelled transactions that neither model was fitted on ->
    gate.Verdict.
    """
    held = slice(challenger.fitted_on.stop, n_known)
    data, features = history.data.take(held), history.split.dataset.features
    naive = baselines.naive_scores(data, history.data.take(challenger.fitted_on), options["seed"])
    scores = naive | {
        CHALLENGER: bundle.load(challenger.folder, features=features).raw_score(data.X)
    }
    scores |= comparison.score_champion(present, data.X, features)
    compared = metrics.compare(data, scores, metrics.Options(budgets=(), **options))
    terms = gate.Terms(metric=metric, alert_budget=options["headline_budget"])
    return comparison.judge(
        {CHALLENGER: challenger.folder}, compared, data, present=present, terms=terms
    )


def drill(history, start, folder, batch, alert_budget=0.002, seconds=4.0):
    """Three reloads and a SIGKILL of the server while a batch is being sent -> dict.

    The registry promotes a second version (the same model, its threshold re-set), rolls back, and
    rolls forth again; each time the server takes up what the registry says. `replay.count` of the
    log is in the result, with `versions`, in the order in which they answered, and `n_wrong`, lines
    whose score is not that of the version they name.
    """
    name, live, data = (
        "sandbox-drill",
        Path(folder) / "live",
        history.data.take(history.slices[batch]),
    )
    manifest, graphs = read(Path(start))
    folders = [Path(folder) / "first", Path(folder) / "second"]
    for path in folders:
        bundle.write(path, graphs, manifest | {"name": name})
    calibrate(folders[1], data, alert_budget, name)
    tracking.register(folders[0], name, ["the drill's first"])
    deploy(name, live)
    tracking.register(folders[1], name, ["the drill's second"])

    def take_up():
        deploy(name, live)
        server.reload()

    def roll_back():
        tracking.rollback(name)
        take_up()

    def power_cut():
        server.kill()
        server.launch()

    n = len(data.X)
    acts = {n // 8: take_up, 3 * n // 8: roll_back, 5 * n // 8: roll_back, 6 * n // 8: power_cut}
    with replay.Server(live, Path(folder) / "server.log") as server:
        log = replay.replay(
            server,
            data.X,
            time_s=np.linspace(0, seconds, n),
            speed=1.0,
            rows_per_request=20,
            at=acts,
        )
    expected = {
        str(i): bundle.load(path).anomaly_score(data.X) for i, path in enumerate(folders, 1)
    }
    version = log["model_version"]
    wrong = [
        expected[v][i] != score
        for i, (v, score) in enumerate(zip(version, log["anomaly_score"], strict=True))
    ]
    told = {
        "n_wrong": int(sum(wrong)),
        "n_reloads": 3,
        "n_kills": 1,
        "versions": list(version[version != version.shift()]),
    }
    return replay.count(log, n) | told
