"""How fast replay and scoring are, and how well drift and new frauds are noticed; numbers for the
README.

`python benchmarks/production.py [replay] [scoring] [scorecard] [policies]`; all of them by default,
ten minutes. The bundle that is replayed and scored is an autoencoder of one member, fitted on
20,000 simulated transactions.
"""

import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from lib import bundle
from lib.bundle.calibration import threshold_for_budget
from lib.data import simulation, splits
from lib.data.datasets import load_description, prepare
from lib.detectors import registry
from lib.evaluation import metrics
from lib.production import drift, monitoring, replay, sandbox, scoring
from lib.production.history import History
from lib.production.week import Promise
from lib.registry import candidates

N_SEEDS, N_REPLAYED, N_SCORED, N_PART = 20, 85_000, 5_000_000, 250_000


def fitted(folder):
    """A single autoencoder as a calibrated bundle -> folder."""
    split = splits.open_split(splits.ensure())
    fitted = candidates.fit(registry.make("autoencoder", members=1, epochs=5), split)
    made = candidates.write(folder, "autoencoder", fitted, split)
    sandbox.calibrate(made, split.arrays("validation"), 0.002, "benchmark")
    return made


def replaying(folder):
    """85,000 transactions in requests of 100; then the same with three reloads and a SIGKILL."""
    dataset = load_description("simulated")
    X = dataset.arrays(prepare(dataset, simulation.simulate(N_REPLAYED), "simulated")).X
    made = fitted(folder)

    with replay.Server(made, folder / "server.log") as server:

        def power_cut():
            server.kill()
            server.launch()

        acts = dict.fromkeys((20_000, 35_000, 50_000), server.reload) | {65_000: power_cut}
        for what, at in (("undisturbed", None), ("3 reloads and a kill -9", acts)):
            log = replay.replay(server, X, at=at)
            p50, p99 = log["latency_ms"].quantile([0.5, 0.99])
            print(
                f"replay, {what}: {log.attrs['seconds']:.1f} s, p50 {p50:.1f} ms, p99 {p99:.1f} ms"
            )
            print("  ", replay.count(log, len(X)))
    right = (log["anomaly_score"] == bundle.load(made).anomaly_score(X)).all()
    print(f"every score is the bundle's own: {right}")


def scoring_rows(folder):
    """Five million transactions from a Parquet folder."""
    made, table = fitted(folder), folder / "table"
    table.mkdir()
    frame = simulation.simulate(N_PART, seed=5).drop(columns="Class")
    for i in range(N_SCORED // N_PART):
        frame.to_parquet(table / f"{i:02d}.parquet", index=False)
    model, split = bundle.load(made), splits.open_split(splits.ensure())
    start, cpu = time.perf_counter(), time.process_time()
    promise = Promise.of_validation(model, split.arrays("validation"))
    known = scoring.Known(split.arrays("reference", "validation"), promise)
    dataset = load_description("simulated")
    report = scoring.score_table(dataset, table, model, folder / "scores", known).report
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"scoring: {report['n']:,} rows in {seconds:.1f} s, {report['n'] / seconds:,.0f} rows/s")
    print(f"   {cpu:.1f} s of processor time; peak {peak_mb:,.0f} MB, torch and all else imported")


def scorecard(_):
    """Twenty streams with the known drifts and twenty without, as a deployed model's monitoring
    sees them.
    """
    dataset = load_description("simulated")
    for drifting in (True, False):
        cards = []
        for seed in range(N_SEEDS):
            frame = simulation.simulate(dataset.simulation["rows"], seed, drift=drifting)
            cards.append(
                card(dataset, dataset.arrays(prepare(dataset, frame, "simulated")), drifting)
            )
        alarms = [c["n_false"] for c in cards]
        n_replays = sum(a > 0 for a in alarms)
        n_false = sum(card["n_false_frauds"] for card in cards)
        print(
            f"drift {drifting}: false alarms {sum(alarms)}, in {n_replays} of {N_SEEDS} replays; "
            f"looks at frauds without cause {n_false}"
        )
        found = pd.DataFrame([d for c in cards for d in c["noticed"]])
        for (what, features), delays in (
            found.groupby(["what", "features"])["delay"] if len(found) else ()
        ):
            counts = delays.value_counts(dropna=False).sort_index()
            late = {"never" if np.isnan(k) else int(k): n for k, n in counts.items()}
            print(f"   {what} {features}: batches late {late}")


def card(dataset, data, drifting):
    """The scorecard of one stream, looked at without scores; labels one batch late."""
    edges = np.linspace(0.7, 1.0, 11) * len(data.X)
    rows = [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    past = data.take(slice(0, rows[0].start))
    known = drift.Monitor(past.X, past.weight, past.time_s, dataset.features)
    frauds, steps, verdict = monitoring.Frauds(dataset.features, past), [], None
    for part in rows:
        batch, labelled = data.take(part), data.take(slice(rows[0].start, part.start))
        verdict = known.check(batch.X, batch.weight, batch.time_s, verdict)
        steps.append({"drifted": verdict.flagged, "fraud_drifted": frauds.look(labelled)})
    steps[-1]["fraud_drifted_after"] = frauds.look(data.take(slice(rows[0].start, None)))
    drifts = simulation.DRIFTS if drifting else ()
    begins = min((d.first_batch for d in drifts if d.what == "fraud"), default=np.inf)
    n_false = sum(bool(step["fraud_drifted"]) for i, step in enumerate(steps, 1) if i < begins)
    return monitoring.scorecard(steps, drifts) | {"n_false_frauds": n_false}


def policies(folder):
    """Frozen, threshold and retrain_every on larger streams: the same rules without server,
    registry and gate.
    """
    dataset = load_description("simulated")
    for seed in range(4):
        frame = prepare(dataset, simulation.simulate(150_000, seed), "simulated")
        split = splits.make(
            dataset, frame, folder / str(seed), source="simulated", raw_sha256="", seed=seed
        )
        history, worth = History(split), {}
        first = mixture(history, history.slices["reference"], history.slices["validation"])
        for policy in ("frozen", "threshold", "retrain_every"):
            worth[policy] = monitoring.totals(
                steps_of(policy, history, first, batches=split.batches)
            )
        said = [
            f"{p} {t['money_caught_in_time']:,.0f} ({t['n_alerts']:,.0f} alerts)"
            for p, t in worth.items()
        ]
        print(
            f"seed {seed}: money caught in time, of {worth['frozen']['money']:,.0f}: "
            f"{', '.join(said)}"
        )


def mixture(history, fit, validation):
    """Raw scores of all transactions by a mixture fitted on one window, and where that window
    ends.
    """
    training, later = history.data.take(fit).training("genuine"), history.data.take(validation)
    detector = registry.make("gaussian_mixture", members=2, seed=0)
    detector.fit(training.X, weight=training.weight, validation=(later.X, later.weight))
    return detector.raw_score(history.data.X), fit.stop


def steps_of(  # noqa: PLR0913 - a study's options
    policy, history, first, *, batches, budget=0.002, every=3, recent=3
):
    """What labels say of each batch under a policy."""
    data, steps, challenger = history.data, [], None
    (score, fitted_to), past = first, history.slices["validation"]
    threshold = threshold_for_budget(score[past], data.weight[past], budget)
    for i, batch in enumerate(batches, 1):
        rows = history.slices[batch]
        log = pd.DataFrame(
            {"anomaly_score": score[rows], "alert": (score[rows] >= threshold).astype(int)}
        )
        options = metrics.Options(budgets=(), headline_budget=budget, n_resamples=0)
        told = monitoring.realise(log, data.take(rows), options)
        steps.append({"realised": told, "n_alerts": float(log["alert"].sum())})
        if challenger:
            (score, fitted_to), challenger = challenger, None
        if policy == "retrain_every" and i % every == 0 and i + 2 <= len(batches):
            challenger = mixture(
                history, *history.window(history.n_known(data.time_s[rows.stop - 1]))
            )
        if policy != "frozen":
            seen = slice(
                max(history.back(rows.stop, recent * history.batch_weight), fitted_to), rows.stop
            )
            threshold = threshold_for_budget(score[seen], data.weight[seen], budget)
    return steps


PARTS = {"replay": replaying, "scoring": scoring_rows, "scorecard": scorecard, "policies": policies}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as temporary:
            PARTS[part](Path(temporary))
