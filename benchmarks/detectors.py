"""Time, size and detection of every detector, printed.

    python benchmarks/detectors.py [--raw creditcard.csv] [--rows 284807] [--seeds 1] [--models
    NAME…] [--threads 2]
    python benchmarks/detectors.py --tables YAML… [--untouched] [--threads 2]

With ``--raw``, average precision on rolling cuts of time inside the first 70 % of the weight, both
regimes, beside trees with labels; the last 30 % is never read into a figure. With or without it:
fit time, peak memory, scoring time and size on simulated rows, half of which are fitted.

With ``--tables``, and nothing else then: average precision of the candidates that need no label, of
their champion and of what anybody has at hand, on the split 50/20/30 of each description. Champion
and best baseline are chosen on validation; only ``--untouched`` reads the last 30 %. ECOD takes
part where PyOD is installed.
"""

import argparse
import os
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors

from lib import bundle
from lib.bundle.bundle import CHUNK_ROWS
from lib.data import simulation, splits
from lib.data.datasets import load_description
from lib.detectors import baselines, registry
from lib.detectors.sampling import draw, weighted_quantile
from lib.evaluation import comparison, costs, gate, metrics
from lib.registry import candidates, challengers

try:
    from pyod.models.ecod import ECOD
except ImportError:
    ECOD = None

# reference and the validation after it, per cent of the weight
CUTS = ((25, 15), (35, 20), (50, 20))
LIMITS = {
    "fit_s": 120,
    "cpu_s": np.inf,
    "peak_mb": 2_048,
    "row_ms": 0.2,
    "100_rows_ms": np.inf,
    "100k_s": 5,
    "size_mb": 5,
}
FOREST_MB = 15  # trees are larger
METRIC = "average_precision"
NEIGHBOUR = 5  # the distance to this one is the score of the plain nearest neighbours
NEIGHBOUR_ROWS = 20_000


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw", help="the card data, with or without a weight column")
    parser.add_argument(
        "--rows", type=int, default=284_807, help="simulated rows; 0 leaves the timings out"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="*", default=sorted(registry.DETECTORS))
    parser.add_argument("--tables", nargs="*", default=[], help="descriptions, names or YAML files")
    parser.add_argument("--untouched", action="store_true", help="read the last 30 %% as well")
    options = parser.parse_args()
    if options.tables:
        tables(options)
        return
    if options.raw:
        detection(pd.read_csv(options.raw), options)
    if options.rows:
        timings(simulation.simulate(rows=options.rows, seed=0), options)


def arrays(frame):
    dataset = load_description("creditcard")
    frame = frame.sort_values(dataset.time, kind="stable")
    return dataset.arrays(frame if "weight" in frame else frame.assign(weight=1.0))


def detection(frame, options):
    """Average precision by cut, regime and seed."""
    data = arrays(frame)
    share = np.cumsum(data.weight) / data.weight.sum()
    print(f"average precision, {len(data.y):,} rows, {int(data.y.sum())} frauds")
    for reference, validation in CUTS:
        end_s = data.time_s[np.searchsorted(share, reference / 100)]  # one instant is never parted
        fitted = data.take(data.time_s < end_s)
        judged = data.take((data.time_s >= end_s) & (share <= (reference + validation) / 100))
        for name in options.models:
            labelled = name in registry.SUPERVISED
            for train_on in ("labels",) if labelled else ("genuine", "all"):
                rows = fitted if train_on != "genuine" else fitted.take(fitted.y == 0)
                found = []
                for seed in range(1 if name == "supervised_trees" else options.seeds):
                    settings = registry.settings(name, train_on)
                    detector = registry.make(name, **settings, seed=seed, threads=options.threads)
                    detector.fit(rows.X, rows.y if labelled else None, weight=rows.weight)
                    score = detector.raw_score(judged.X)
                    found.append(
                        average_precision_score(judged.y, score, sample_weight=judged.weight)
                    )
                each = " ".join(f"{value:.3f}" for value in found)
                print(
                    f"{reference}/{validation} {name:20} {train_on:8} {np.mean(found):.3f}   "
                    f"({each})",
                    flush=True,
                )


def tables(options):
    """Average precision of candidates and baselines: rows are tables, one print a regime."""
    if ECOD is None:
        print("ECOD is left out: `pip install pyod` adds it.")
    print("Chosen on validation: * the champion, + the best baseline. Intervals are 95 %.")
    found = {}
    for description in options.tables:
        with tempfile.TemporaryDirectory() as folder:
            split = cut(description, Path(folder) / "split")
            for regime in candidates.regimes("both", split):
                started = time.perf_counter()
                for period, figures in contest(split, regime, Path(folder), options).items():
                    found.setdefault((regime, period), {})[split.dataset.name] = figures
                seconds = time.perf_counter() - started
                print(f"{split.dataset.name}, train_on {regime}: {seconds:.0f} s", flush=True)
    for (regime, period), rows in found.items():
        print(f"\naverage precision on {period}, train_on {regime}")
        # two words above each other are narrower
        table = pd.DataFrame.from_dict(rows, orient="index").fillna("")
        table.columns = pd.MultiIndex.from_tuples(table.columns)
        print(table.to_string(sparsify=False), flush=True)


def cut(description, folder):
    """Return the split 50/20/30 of a table, written to a folder."""
    table = splits.find(description, rows=0)
    frame = table.read()
    return splits.make(
        table.dataset, frame, folder, source="custom", raw_sha256=table.source_id, seed=table.seed
    )


def contest(split, regime, run_dir, options):
    """Return a row of figures for each period: {"validation": {column: text}, …}."""
    validation = split.arrays("validation")
    reference = split.arrays("reference")
    folders = fit_candidates(split, regime, run_dir, options)
    scorers = {name: bundle.load(folder).raw_score for name, folder in folders.items()}
    plain = fit_baselines(reference.training(regime), options.threads)
    scores = {name: scorer(validation.X) for name, scorer in (scorers | plain).items()}
    naive = baselines.naive_scores(validation, reference)
    asked = metrics.Options(split.dataset.alert_budgets, split.budget().share)
    compared = metrics.compare(validation, scores | naive, asked)
    champion = choose(folders, naive, compared, split)
    figures = compared.metrics
    best = max(plain, key=lambda name: figures[name][METRIC]["value"] or 0)
    rows = {"validation": row(compared, scores, champion, best)}
    if options.untouched:
        untouched = split.arrays("untouched")
        judged = {champion: scorers[champion]} | plain
        later = {name: scorer(untouched.X) for name, scorer in judged.items()}
        asked = replace(asked, block_s=compared.basis.block_s)
        rows["untouched"] = row(metrics.compare(untouched, later, asked), scores, champion, best)
    return rows


def fit_candidates(split, regime, run_dir, options):
    """Fit those that need no label, as their notebooks do; return {name of the model: folder}."""
    folders = {}
    asked = [model for model in challengers.MODELS if model in options.models]
    changes = [(model, {}) for model in asked]
    for model in asked:
        if change := registry.alternative(model, regime):
            changes.append((model, change))
    for model, change in changes:
        settings = registry.settings(model, regime) | change
        detector = registry.make(model, threads=options.threads, **settings)
        fitted = candidates.fit(detector, split, regime)
        name = candidates.variant(model, regime, **change)
        folders[name if change else model] = candidates.write(run_dir, name, fitted, split)
    return folders


def choose(folders, naive, compared, split):
    """Return the champion as the pipeline chooses it: the best, or one nearly as good and cheap."""
    validation = split.arrays("validation")
    ours = {name: compared.metrics[name] for name in [*folders, *naive]}
    verdict = comparison.judge(
        folders,
        replace(compared, metrics=ours),
        validation,
        costs=costs.measure(folders, validation.X),
        terms=gate.Terms(METRIC, alert_budget=split.budget().share),
    )
    return verdict.chosen


def row(compared, names, champion, best):
    """Return the figures of the models named, and how far the champion is above a baseline.

    A model that was not scored has an empty cell.
    """
    marks = {champion: " *", best: " +"}
    columns = {}
    for name in names:
        first, _, second = name.partition("_")
        columns[first, second] = ""
        if name in compared.metrics:
            value = compared.metrics[name][METRIC]["value"]
            columns[first, second] = text(value) + marks.get(name, "  ")
    lead = compared.difference(champion, best, METRIC)
    ends = f"[{text(lead['low'], '+')}, {text(lead['high'], '+')}]"
    columns["champion", "- baseline"] = f"{text(lead['value'], '+')} {ends}"
    return columns


def text(value, sign=""):
    return "?" if value is None else f"{value:{sign}.3f}"


def fit_baselines(rows, threads):
    """Return {name: function (X) -> score} of what needs no more than a few lines."""
    to_units = plain_units(rows.X, rows.weight)
    Z = to_units(rows.X)
    fits = {
        "sklearn_forest": plain_forest,
        "pyod_ecod": plain_ecod,
        "plain_neighbours": plain_neighbours,
        "plain_gaussian": plain_gaussian,
    }
    if ECOD is None:
        del fits["pyod_ecod"]
    scorers = {name: fit(Z, rows.weight, threads) for name, fit in fits.items()}
    return {name: lambda X, score=score: score(to_units(X)) for name, score in scorers.items()}


def plain_units(X, weight):
    """Return the function X -> Z: medians where a value is missing, then standard units."""
    median = np.zeros(X.shape[1])
    for j, x in enumerate(X.T):
        known = np.isfinite(x)
        if known.any():
            median[j] = weighted_quantile(x[known], weight[known], 0.5)
    filled = np.where(np.isfinite(X), X, median)
    mean = np.average(filled, axis=0, weights=weight)
    variance = np.average((filled - mean) ** 2, axis=0, weights=weight)
    sd = np.sqrt(np.where(variance > 0, variance, 1))
    return lambda new: (np.where(np.isfinite(new), new, median) - mean) / sd


def plain_forest(Z, weight, threads):
    forest = IsolationForest(n_estimators=300, n_jobs=threads, random_state=0)
    forest.fit(Z, sample_weight=weight)
    return lambda new: -forest.score_samples(new)


def plain_ecod(Z, weight, threads):
    """Return ECOD, which takes no weights: it sees rows drawn by them.

    It ranks new rows among themselves and the fitted ones: a row's score depends on its batch.
    """
    drawn = draw(np.random.default_rng(0), weight, len(Z))
    return ECOD().fit(Z[drawn]).decision_function


def plain_neighbours(Z, weight, threads):
    n = min(NEIGHBOUR_ROWS, len(Z))
    drawn = draw(np.random.default_rng(0), weight, n)
    index = NearestNeighbors(n_neighbors=NEIGHBOUR, n_jobs=threads).fit(Z[drawn])
    return lambda new: index.kneighbors(new)[0][:, -1]


def plain_gaussian(Z, weight, threads):
    """Return the squared distance of Mahalanobis from the mean of all rows, which is 0."""
    covariance = (Z * weight[:, None]).T @ Z / weight.sum()
    precision = np.linalg.pinv(covariance, hermitian=True)
    return lambda new: np.sum((new @ precision) * new, axis=1)


def timings(frame, options):
    """Seconds, megabytes and milliseconds on simulated rows; each model in a process of its own."""
    data = arrays(frame)
    half = data.take(np.arange(len(data.y) // 2))
    print(
        f"\nfitted on {len(half.y):,} simulated rows of {half.X.shape[1]} features, "
        f"{options.threads} threads"
    )
    print(f"{'model':20} " + " ".join(f"{column:>11}" for column in LIMITS))
    limits = " ".join(
        f"{limit:11g}" if np.isfinite(limit) else 11 * " " for limit in LIMITS.values()
    )
    print(f"{'at most':20} {limits}    (forests {FOREST_MB} MB; ! = above)")
    for name in options.models:
        child = os.fork()  # peak memory of this model alone
        if child == 0:
            timing(name, half, data, options)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(f"{name:20} ended with status {status}")


def timing(name, half, data, options):
    started, cpu_started = time.perf_counter(), time.process_time()
    detector = registry.make(name, threads=options.threads)
    if name in registry.SUPERVISED:
        detector.fit(half.X, half.y, weight=half.weight)
    else:
        genuine = half.take(half.y == 0)
        detector.fit(genuine.X, weight=genuine.weight)
    fit_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    graph = detector.to_onnx()
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, session_options)
    many = np.resize(data.X, (100_000, data.X.shape[1]))
    row, hundred, all_rows = (
        median_s(session, many[:n], repeats)
        for n, repeats in ((1, 2_000), (100, 200), (100_000, 2))
    )
    size_mb = (len(graph) + len(detector.explain_onnx() or b"")) / 1e6
    figures = (fit_s, cpu_s, peak_mb, row * 1e3, hundred * 1e3, all_rows, size_mb)
    limits = LIMITS | ({"size_mb": FOREST_MB} if name == "isolation_forest" else {})
    marked = (
        f"{figure:10.3f}{'!' if figure > limit else ' '}"
        for figure, limit in zip(figures, limits.values(), strict=True)
    )
    print(f"{name:20} " + " ".join(marked), flush=True)


def median_s(session, X, repeats):
    """Median seconds of scoring X, in pieces as lib.bundle does."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for start in range(0, len(X), CHUNK_ROWS):
            session.run(None, {"features": X[start : start + CHUNK_ROWS]})
        seconds.append(time.perf_counter() - started)
    return np.median(seconds[1:])


if __name__ == "__main__":
    main()
