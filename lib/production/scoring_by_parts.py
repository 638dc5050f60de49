"""Score a table of any size, part by part, on processes of this machine or on a cluster.

Scores are written as Parquet files beside each other, with the columns, the scores and the drift
report of one process. What is finished has its name at once, and `_SUCCESS` comes last: a run that
was interrupted is gone on with by the same command.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.bundle.bundle import Bundle
from lib.bundle.manifest import read as read_bundle
from lib.data import checks
from lib.data.datasets import Arrays, Dataset
from lib.engine import executors, parts, samples, scored, storage, top
from lib.engine.meter import Meter
from lib.engine.samples import Drawn
from lib.engine.score_histogram import Histogram
from lib.engine.scored import Found, Job, Task
from lib.engine.top import Top
from lib.errors import BundleError, DataError
from lib.evaluation import intervals
from lib.evaluation.metrics import Options
from lib.production import alerts, drift, scored_weeks
from lib.reporting.alerts import page

SAMPLE_ROWS = 100_000  # that the drift report looks at, drawn evenly from all
N_ALERTS = 1_000  # that are explained
SCORES = "scores"  # the folder of the parts
SUCCESS = "_SUCCESS"
WINDOW = ("reference", "validation")  # what drift is held against: all that was known by then
MODEL = "_model.zip"
FIGURES = {  # in the command's last lines
    "average_precision": "average precision",
    "recall_at_budget": "recall at the alert budget",
    "precision_at_budget": "precision at the alert budget",
    "amount_recall_at_budget": "share of the frauds' money at the alert budget",
}


@dataclass(frozen=True)
class Run:
    """What is scored, by what, and where to.

    Parameters
    ----------
    address : a Parquet file or a folder of them, a path or s3:// and the like
    bundle : folder of the exported model
    out : gets `scores/part-….parquet`, `scores/_SUCCESS` and `drift.json`
    labelled : whether labels are read, for figures
    seed : of the sample that drift is looked for in
    n_alerts : alerts that are explained, those with the highest scores
    part_rows : of a part, about
    """

    dataset: Dataset
    address: str
    bundle: Path
    out: str
    labelled: bool = False
    seed: int = 0
    n_alerts: int = N_ALERTS
    part_rows: int = parts.PART_ROWS

    @property
    def scores(self) -> str:
        """The folder of the parts."""
        return storage.join(self.out, SCORES)


def score(
    run: Run,
    pool: Executor,
    window: Arrays | None = None,
    block_s: float = intervals.BLOCK_S,
) -> dict[str, Any]:
    """Write an anomaly score and an alert for every row of a table.

    Parameters
    ----------
    pool : see `lib.engine.executors.opened`
    window : Arrays to compare with; None: no drift is looked for
    block_s : see `drift_report`

    Returns
    -------
    dict
        The report, also kept as `drift.json`: that of one process, the number of `parts`, and
        `figures` as pairs of bounds where labels are read.

    Raises
    ------
    DataError
        For a row that the description does not allow and a table that cannot be scored in parts;
        there is no `_SUCCESS` then.
    """
    start = time.perf_counter()
    _refuse(run)
    manifest, graphs = read_bundle(run.bundle)
    model = Bundle(manifest, graphs, where=str(run.bundle))
    if model.threshold is None or model.calibration is None:
        raise BundleError(f"{run.bundle} has no threshold yet; 09_comparison adds it.")
    table = parts.of_table(run.address, run.part_rows)
    job = Job(
        dataset=run.dataset.to_dict(),
        out=run.scores,
        model=storage.join(run.scores, MODEL),
        model_hash=model.hash,
        labelled=run.labelled,
        seed=run.seed,
        limit=samples.limit(SAMPLE_ROWS, table.rows),
        n_alerts=run.n_alerts,
    )
    with storage.explained(run.out):
        _begin(job, scored.packed_model(manifest, graphs[scored.MODEL]))
    found = _gathered(pool, job, table)
    report = _report(run, model, found)
    if window is not None:
        sample = found.sample()
        report["drift"] = drift_report(
            run.dataset, model, window, sample.data, sample.score, block_s
        )
    report["seconds"] = time.perf_counter() - start
    with storage.explained(run.out):
        _write_alerts(run, model, found.top, report)
        _commit(run, table, report)
    return report


def _write_alerts(run: Run, model: Bundle, found: Top, report: dict[str, Any]) -> None:
    """Write the alerts with the highest scores of all parts, as a table and as a page."""
    explained = alerts.explained(run.dataset, model, found)
    file = Path(storage.shown(run.address))
    batch = scored_weeks.batch(run.dataset, model, file, report, explained)
    for name, text in (
        ("alerts.csv", alerts.as_csv(run.dataset, explained)),
        ("alerts.html", page(batch)),
    ):
        storage.write(storage.join(run.out, name), text.encode())


def _refuse(run: Run) -> None:
    """Raise DataError for what cannot be scored part by part."""
    recipe = run.dataset.recipe
    if recipe is not None and recipe.histories:
        raise DataError(
            f"{run.dataset.name}: feature {recipe.histories[0].name!r} looks back at earlier rows, "
            "which may lie in another part; a table with histories is scored without --engine"
        )
    if run.labelled and run.dataset.label is None:
        raise DataError(f"{run.dataset.name}: --labels needs a `label` in the description")
    if storage.is_within(run.scores, run.address):
        raise DataError(
            f"{storage.shown(run.out)}: lies in the folder that is scored; name another --out"
        )


def _begin(job: Job, model: bytes) -> None:
    """Make the folder one that is not finished, and put the model there for the workers."""
    storage.delete(storage.join(job.out, SUCCESS))
    storage.write(job.model, model)


class _Gathered:
    """What was found in all parts; memory does not grow with their number.

    Histograms are added up in the table's order, whatever the order in which parts end, so that the
    last bits of sums are the same.
    """

    def __init__(self) -> None:
        self.n = 0
        self.n_earlier = 0  # parts that an earlier run had scored
        self.weights: dict[int, tuple[float, float]] = {}  # part -> weight, weight of alerts
        self.drawn: dict[int, Drawn] = {}
        self.histogram = Histogram.empty()
        self.time_is: dict[bool, str] = {}
        self._tops: list[Top] = []
        self._waiting: dict[int, Histogram] = {}
        self._next = 0

    def add(self, part: Found) -> None:
        """Take a part in."""
        self.n += part.n
        self.n_earlier += part.seconds == 0
        self.weights[part.number] = (part.weight, part.alerts)
        self.drawn[part.number] = part.drawn
        self.time_is.setdefault(part.time_is_number, part.where)
        self._tops = [top.join([*self._tops, part.top])]
        self._waiting[part.number] = part.histogram
        while self._next in self._waiting:
            self.histogram += self._waiting.pop(self._next)
            self._next += 1

    @property
    def top(self) -> Top:
        """The alerts with the highest scores."""
        return self._tops[0]

    def sample(self) -> Drawn:
        """Return the sample for the drift report."""
        in_order = [self.drawn[number] for number in sorted(self.drawn)]
        return samples.smallest(in_order, SAMPLE_ROWS)


def _gathered(pool: Executor, job: Job, table: parts.Table) -> _Gathered:
    """Have all parts scored."""
    dataset = Dataset.from_dict(job.dataset)
    meter = Meter("scored", len(table.parts), table.rows)
    found = _Gathered()
    tasks = (Task(job, part) for part in table.parts)
    try:
        for part in executors.completed(pool, scored.score_part, tasks):
            found.add(part)
            checks.refuse_two_times(dataset, found.time_is)
            meter.add(part.n, is_new=part.seconds > 0)
    finally:
        meter.close()
    return found


def _report(run: Run, model: Bundle, found: _Gathered) -> dict[str, Any]:
    """Return what is known of all parts together."""
    weight = math.fsum(weight for weight, _ in found.weights.values())
    alerts = math.fsum(alerts for _, alerts in found.weights.values())
    report: dict[str, Any] = {
        "n": found.n,
        "weight": weight,
        "alert_rate": alerts / weight,
        "model": model.manifest["model"],
        "drift": None,
        "version": model.version,
        "n_alerts": found.top.n,
        "parts": len(found.weights),
        "parts_of_an_earlier_run": found.n_earlier,
    }
    if run.labelled:
        report |= _figures(run.dataset, model, found.histogram)
    return report


def _figures(dataset: Dataset, model: Bundle, histogram: Histogram) -> dict[str, Any]:
    """Return what is known of labelled rows: their masses, and figures as pairs of bounds."""
    ranking = histogram.ranking()
    # the model's threshold was set for a budget, which need not be the one of the description
    budget = model.manifest.get("threshold", {}).get("alert_budget") or dataset.alert_budget
    budgets = Options(dataset.alert_budgets, budget).suffixes()
    figures = {name: pair.to_dict() for name, pair in ranking.figures(budgets).items()}
    if dataset.amount is None:
        figures = {name: pair for name, pair in figures.items() if "amount" not in name}
    labelled = {
        "weight": float(ranking.genuine.sum() + ranking.fraud.sum()),
        "n_frauds": int(ranking.n_frauds.sum()),
        "fraud_weight": float(ranking.fraud.sum()),
        "money_at_stake": float(ranking.money.sum()),
        "alert_budget": budget,
    }
    return {"labelled": labelled, "figures": figures}


def drift_report(
    dataset: Dataset,
    model: Bundle,
    window: Arrays,
    data: Arrays,
    score: Any,
    block_s: float = intervals.BLOCK_S,
) -> dict[str, Any]:
    """Return the verdict on a sample with scores (n,), as JSON has it; `window` names the window.

    Parameters
    ----------
    window, data : Arrays of reference and validation, and of the sample
    block_s : length of the blocks of time, as for validation
    """
    known = drift.Reference.of_model(model, window, block_s, clock=dataset.time is not None)
    known.compare(data.X, data.weight, data.time_s, score)
    named = {
        "periods": list(WINDOW),
        "n": len(window.X),
        "start_s": float(window.time_s.min()),
        "end_s": float(window.time_s.max()),
    }
    return known.verdict.to_dict() | {"window": named}


def _commit(run: Run, table: parts.Table, report: dict[str, Any]) -> None:
    """Delete what is not of this run, write the report and, last, `_SUCCESS`."""
    ours = {part.name for part in table.parts}
    for file in storage.files(run.scores):
        if file.name not in ours and _is_ours(file.name):
            storage.delete(file.address)
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    storage.write(storage.join(run.out, "drift.json"), text.encode())
    done = {"parts": sorted(ours), "rows": table.rows}
    storage.write(storage.join(run.scores, SUCCESS), json.dumps(done).encode())


def _is_ours(name: str) -> bool:
    """Return whether a file of the scores' folder is of such a run, finished or not."""
    is_part = name.startswith("part-") and name.endswith(".parquet")
    return is_part or name == MODEL or name.startswith(storage.PARTIAL)


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield what the command says of parts and figures."""
    if "parts" not in report:
        return
    earlier = report["parts_of_an_earlier_run"]
    said = f"{report['parts']:,} parts"
    if earlier:
        said += f", of which an earlier run had scored {earlier:,}"
    yield f"{said}; {report['n'] / report['seconds']:,.0f} rows a second"
    figures = report.get("figures", {})
    for name, text in FIGURES.items():
        pair = figures.get(name)
        if pair is not None and pair["low"] is not None:
            yield f"{text}: {pair['low']:.4f} to {pair['high']:.4f}"
