"""What a recipe is worth: average precision on validation with less and more of it.

`python benchmarks/recipes.py payments shop.yaml … [--seeds 3]` cuts each table 50/20/30 and fits,
on reference, the detectors that need no label (in both regimes) and trees with labels to

- raw: the columns that are numbers,
- + row: categories, parts of the time and distances, which a row tells by itself,
- + histories: all of the description.

The best detector is the one with the highest average precision on validation at that stage and
seed; another seed simulates another table, or seeds the fits on a real one. Intervals are those of
the first seed, 95 % over blocks of time; untouched is not read.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from lib import bundle
from lib.data import labels_seen, splits
from lib.data.datasets import Dataset
from lib.detectors import registry
from lib.detectors.supervised_trees import SupervisedTrees
from lib.evaluation import metrics
from lib.registry import candidates, challengers

STAGES = ("raw", "+ row", "+ histories")
METRIC = "average_precision"
WORDS = {"best without labels in the fit": False, "trees with labels": True}


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser("python benchmarks/recipes.py", description=__doc__)
    parser.add_argument("tables", nargs="+", help="descriptions, names or YAML files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=0, help="of simulated tables")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="*", default=list(challengers.MODELS))
    return parser.parse_args()


def reduced(dataset, stage):
    """The description with the features of a stage, and of those before it."""
    if stage == STAGES[-1]:
        return dataset
    plain = dataset.to_dict()
    recipe = dataset.recipe
    kept = {feature.name for feature in recipe.derived} if stage == "+ row" else set()
    kept -= {feature.name for feature in recipe.histories}
    features = [*dataset.plain_features]
    written = dict(zip(dataset.features, plain["features"], strict=True))
    for feature in recipe.derived:
        is_arithmetic = hasattr(feature, "left")
        needs = {feature.left, feature.right} if is_arithmetic else set()
        if feature.name in kept and needs <= {*dataset.plain_features, *kept}:
            features.append(written[feature.name])
    if stage == "raw":
        # coordinates are numbers as they stand
        features += [column for column in recipe.coordinates if column not in features]
    plain["features"] = features
    return Dataset.from_dict(plain, folder=dataset.folder)


def detectors(names, seed, threads):
    """(name, regime, detector) of what needs no label, then the trees."""
    for name in names:
        for regime in candidates.REGIMES["both"]:
            settings = registry.settings(name, regime)
            yield name, regime, registry.make(name, seed=seed, threads=threads, **settings)
    yield "supervised_trees", "labels", SupervisedTrees(seed=seed, threads=threads)


def figures(split, options, seed, folder):
    """{(name, regime): (value, low, high)} on validation."""
    found = {}
    validation = split.arrays("validation")
    scores = {}
    for name, regime, detector in detectors(options.models, seed, options.threads):
        supervised = regime == "labels"
        fitted = candidates.fit(
            detector, split, "genuine" if supervised else regime, supervised=supervised
        )
        made = candidates.write(folder, f"{name}-{regime}", fitted, split)
        scores[f"{name} {regime}"] = bundle.load(made).raw_score(validation.X)
    asked = metrics.Options(split.dataset.alert_budgets, split.budget().share)
    compared = metrics.compare(validation, scores, asked)
    for key, of_model in compared.metrics.items():
        name, regime = key.split(" ")
        value = of_model[METRIC]
        found[name, regime] = value["value"], value["low"], value["high"]
    return found


def split_of(table, dataset, frame, folder):
    """The split 50/20/30 of a frame with the features of a stage."""
    kept = frame[
        [column for column in frame.columns if column in {*dataset.columns, dataset.time_column}]
    ]
    kept.attrs = dict(frame.attrs)
    return splits.make(
        dataset, kept, folder, source="custom", raw_sha256=table.source_id, seed=table.seed
    )


def best(found, labels):
    """The best (name, regime) with or without labels in the fit."""
    asked = {key: value for key, value in found.items() if (key[1] == "labels") == labels}
    return max(asked, key=lambda key: asked[key][0])


def contest(name, options):
    """Rows of the table: one a stage."""
    found = {stage: [] for stage in STAGES}
    for seed in range(options.seeds):
        table = splits.find(name, rows=options.rows, seed=seed)
        frame = table.read()
        for stage in STAGES:
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as place:
                dataset = reduced(table.dataset, stage)
                split = split_of(table, dataset, frame, Path(place) / "split")
                found[stage].append(figures(split, options, seed, Path(place)))
            seconds = time.perf_counter() - started
            n = len(dataset.features)
            print(
                f"{table.dataset.name}, seed {seed}, {stage}: {n} features, {seconds:.0f} s",
                flush=True,
            )
    rows = {}
    for stage, of_seeds in found.items():
        row = {}
        for words, labels in (
            ("best without labels in the fit", False),
            ("trees with labels", True),
        ):
            chosen = [best(each, labels) for each in of_seeds]
            values = [each[key][0] for each, key in zip(of_seeds, chosen, strict=True)]
            _, low, high = of_seeds[0][chosen[0]]
            seeds = " ".join(f"{value:.3f}" for value in values)
            row[words] = f"{np.mean(values):.3f} ({seeds}; [{low:.3f}, {high:.3f}])"
            if not labels:
                row["which"] = ", ".join(dict.fromkeys(" ".join(key) for key in chosen))
        rows[stage] = row
    said = labels_seen.in_features(table.dataset.recipe)
    print(f"\n{table.dataset.name}: labels that histories know: {said or 'none'}")
    print(pd.DataFrame.from_dict(rows, orient="index").to_string(), flush=True)


def main():
    """Measure and print."""
    options = arguments()
    for name in options.tables:
        contest(name, options)


if __name__ == "__main__":
    main()
