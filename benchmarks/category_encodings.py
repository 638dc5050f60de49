"""Average precision by how categories become numbers, model by model, printed.

    python benchmarks/category_encodings.py --tables YAML… [--models NAME…] [--seeds 3]
    [--rows 50000] [--fit-rows 20000] [--epochs 10] [--threads 1] [--csv FILE]

Every category of a description is encoded in each way of `ENCODINGS`, with labels also in those of
`OF_LABELS`, and put beside the table's other features. Models are fitted on reference and judged on
validation, at two cuts in time; the last 30 % is never read into a figure. A seed draws simulated
rows, the rows that are fitted, and what a model draws.

The first column is average precision with rarities, as the pipeline has them; the others are the
mean difference from it, over cuts and seeds, ± half of Student's 95 % interval, which tells the
noise of fits and cuts, not how tables differ: for that there is a row a table.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import average_precision_score

from lib.bundle.categories import MISSING
from lib.data import cuts, features, splits
from lib.data.datasets import UNLABELLED, Arrays
from lib.detectors import registry

CUTS = ((0.35, 0.2), (0.5, 0.2))  # reference and the validation after it
N_BATCHES = 10
MODELS = (
    "isolation_forest",
    "gaussian_mixture",
    "robust_covariance",
    "nearest_neighbours",
    "empirical_tails",
    "autoencoder",
    "supervised_trees",
)
AS_IT_IS = "rarity"
ENCODINGS = {  # name of a column -> what stands for a category
    AS_IT_IS: ("rarity",),
    "none": (),
    "order": ("order",),
    "one-hot": ("one_hot",),
    "both": ("rarity", "one_hot"),
}
OF_LABELS = {  # the same, for models that learn from labels
    "rate": ("rate",),
    "rarity, rate": ("rarity", "rate"),
    "seen rate": ("seen_rate",),
    "raw rate": ("raw_rate",),
}
MOST = 12  # values that have a column of their own; the rarer ones share one
LEAST_SHARE = 0.01  # of reference, for such a column
PRIOR_ROWS = 100  # that a rate is shrunk by: so many more rows at the rate of all
FOLDS = 5  # of reference, in time: the rate of a row is that of the others


@dataclass(frozen=True)
class Category:
    """A category's values in reference and validation as codes, 0 for the most frequent value."""

    shares: np.ndarray  # (k + 1,) of reference's weight, descending, then that of unseen values
    reference: np.ndarray  # (n,) int, k for a value that reference lacks
    validation: np.ndarray  # (m,) int


@dataclass(frozen=True)
class Case:
    """A table at a cut: what is fitted, what is judged."""

    table: str
    cut: str
    seed: int
    reference: Arrays
    validation: Arrays
    is_number: np.ndarray  # (d,) bool, the features that are no category
    categories: list[Category]
    fitted: np.ndarray  # rows of reference, ascending

    def columns(self, blocks):
        """Return the features (n, d) of reference and (m, d) of validation, encoded."""
        parts = [(self.reference.X[:, self.is_number], self.validation.X[:, self.is_number])]
        for block in blocks:
            for category in self.categories:
                parts.append(BLOCKS[block](category, self.reference))
        ours, later = zip(*parts, strict=True)
        return np.column_stack(ours), np.column_stack(later)


def rarity(category, reference):
    """Encode as lib.bundle.categories does."""
    return looked_up(-np.log(category.shares), category)


def order(category, reference):
    """Encode as the place in the order of frequency."""
    return looked_up(np.arange(len(category.shares), dtype=float), category)


def one_hot(category, reference):
    """Encode as one column a frequent value, and one for all others if there are any."""
    shares = category.shares[:-1]
    kept = min(np.count_nonzero(shares >= LEAST_SHARE), MOST)
    place = np.minimum(np.arange(len(category.shares)), kept)
    columns = np.eye(kept + 1)[place]
    columns = columns[:, : min(kept + 1, len(shares))]
    if columns.shape[1] == 2:
        columns = columns[:, 1:]  # two values are one flag
    return looked_up(columns, category)


def rate(category, reference):
    """Encode as the shrunk rate of frauds, for reference from the rows of other folds."""
    fold = np.arange(len(reference.y)) * FOLDS // len(reference.y)
    ours = np.empty(len(reference.y))
    for k in range(FOLDS):
        ours[fold == k] = rates(category, reference, fold != k)[category.reference[fold == k]]
    later = rates(category, reference, slice(None))[category.validation]
    return ours, later


def seen_rate(category, reference):
    """Encode as the shrunk rate of frauds, for reference with the row's own label."""
    return looked_up(rates(category, reference, slice(None)), category)


def raw_rate(category, reference):
    """Encode as the rate of frauds as it is, with the row's own label."""
    return looked_up(rates(category, reference, slice(None), prior_rows=0), category)


BLOCKS = {
    "rarity": rarity,
    "order": order,
    "one_hot": one_hot,
    "rate": rate,
    "seen_rate": seen_rate,
    "raw_rate": raw_rate,
}


def looked_up(table, category):
    """Return the rows of a table (k + 1,) or (k + 1, c) that stand for each row's value."""
    return table[category.reference], table[category.validation]


def rates(category, reference, rows, prior_rows=PRIOR_ROWS):
    """Return the rate of frauds (k + 1,) of each value among some rows of reference."""
    weight = np.where(reference.y == UNLABELLED, 0.0, reference.weight)[rows]
    is_fraud = (reference.y == 1)[rows]
    codes, n = category.reference[rows], len(category.shares)
    known = np.bincount(codes, weight, minlength=n)
    frauds = np.bincount(codes, weight * is_fraud, minlength=n)
    overall = frauds.sum() / known.sum()
    empty = known + prior_rows == 0
    shrunk = (frauds + prior_rows * overall) / np.where(empty, 1, known + prior_rows)
    return np.where(empty, overall, shrunk)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", required=True, help="descriptions, names or YAML")
    parser.add_argument("--models", nargs="*", default=MODELS, choices=MODELS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=50_000, help="of a simulated table")
    parser.add_argument("--fit-rows", type=int, default=20_000, help="drawn from reference")
    parser.add_argument("--epochs", type=int, default=10, help="of the autoencoder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", help="file for the figure of every fit, lines are added to it")
    options = parser.parse_args()
    found = cases(options)
    print(f"{len(found)} cases; one-hot: {MOST} values of {LEAST_SHARE:.0%} or more each")
    for name in options.models:
        labelled = name in registry.SUPERVISED
        for regime in ("labels",) if labelled else ("genuine", "all"):
            started = time.perf_counter()
            figures = judged(name, regime, found, options)
            if options.csv:
                figures.assign(model=name, regime=regime).to_csv(options.csv, mode="a")
            print(f"\n{name}, {regime}, {time.perf_counter() - started:.0f} s")
            print(summary(figures).to_string(), flush=True)


def cases(options):
    """Return all cases; a simulated table has rows of its own for each seed."""
    found = []
    for description in options.tables:
        read = None
        for seed in range(options.seeds):
            table = splits.find(description, rows=options.rows, seed=seed)
            if read is None or table.path is None:
                read = features.derive(table.dataset, table.read(), options.threads)
            for shares in CUTS:
                found.append(case(table.dataset, read, shares, seed, options))
    return found


def case(dataset, frame, shares, seed, options):
    """Return the case of a derived frame at a cut."""
    parts = cuts.cut(dataset, frame, *shares, N_BATCHES)
    reference, validation = frame.iloc[parts["reference"]], frame.iloc[parts["validation"]]
    encoders = features.encoders(dataset, reference)
    categories = []
    for name, encoder in encoders.items():
        values = list(encoder["shares"])  # descending
        column = dataset.text_of[name]
        categories.append(
            Category(
                np.array([*encoder["shares"].values(), encoder["unseen"]]),
                coded(reference[column], values),
                coded(validation[column], values),
            )
        )
    ours, later = (
        dataset.arrays(features.encode(dataset, part, encoders)) for part in (reference, validation)
    )
    n = len(ours.y)
    drawn = np.random.default_rng(seed).permutation(n)[: options.fit_rows]
    return Case(
        dataset.name,
        f"{shares[0]:.0%}",
        seed,
        ours,
        later,
        np.array([feature not in encoders for feature in dataset.features]),
        categories,
        np.sort(drawn),
    )


def coded(column, values):
    """Return the place (n,) of each cell among k values, k where it is none of them."""
    place = {value: i for i, value in enumerate(values)}
    text = column.map(str, na_action="ignore").fillna(MISSING)
    return text.map(place).fillna(len(values)).to_numpy(np.int64)


def judged(name, regime, found, options):
    """Return average precision: a row a case, a column an encoding."""
    encodings = ENCODINGS | (OF_LABELS if regime == "labels" else {})
    rows = {}
    for each in found:
        key = each.table, each.cut, each.seed
        rows[key] = {
            encoding: precision(name, regime, each, blocks, options)
            for encoding, blocks in encodings.items()
        }
    figures = pd.DataFrame.from_dict(rows, orient="index")
    figures.index = pd.MultiIndex.from_tuples(figures.index, names=["table", "cut", "seed"])
    return figures


def precision(name, regime, case, blocks, options):
    """Return the average precision of a model on validation."""
    X, later = case.columns(blocks)
    rows = case.reference._replace(X=X.astype(np.float32)).take(case.fitted)
    rows = rows.take(rows.y != UNLABELLED) if regime == "labels" else rows.training(regime)
    settings = registry.settings(name, regime)
    if name == "autoencoder":
        settings = settings | {"epochs": options.epochs}
    detector = registry.make(name, seed=case.seed, threads=options.threads, **settings)
    detector.fit(rows.X, rows.y if regime == "labels" else None, weight=rows.weight)
    validation = case.validation
    known = validation.y != UNLABELLED
    score = detector.raw_score(later[known].astype(np.float32))
    return average_precision_score(
        validation.y[known], score, sample_weight=validation.weight[known]
    )


def summary(figures):
    """Return a row a table, and their mean, in which every table counts the same."""
    change = figures.drop(columns=AS_IT_IS).sub(figures[AS_IT_IS], axis=0)
    mean = change.groupby("table", sort=False).mean()
    error = change.groupby("table", sort=False).sem()
    n = change.groupby("table", sort=False).size()
    reach = error.mul(stats.t.ppf(0.975, n - 1), axis=0)
    texts = mean.map("{:+.3f}".format) + reach.map(" ±{:.3f}".format)
    level = figures.groupby("table", sort=False)[AS_IT_IS].mean()
    texts.insert(0, AS_IT_IS, level.map("{:.3f}".format))
    texts.loc["mean of tables"] = [f"{level.mean():.3f}", *mean.mean().map("{:+.3f}".format)]
    return texts


if __name__ == "__main__":
    main()
