"""Know, at every instant of a simulated production, which labels have arrived."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.bundle.raw import RawTable
from lib.data import cuts, raw_rows
from lib.data.datasets import UNLABELLED
from lib.data.splits import MANIFEST, Split
from lib.evaluation import gate
from lib.files import write_json
from lib.production import replay

VALIDATING_FRAUDS = gate.MIN_FRAUDS  # a challenger's validation reaches back until it holds so many
ROUNDING = 1e-9  # relative error that the sum of many weights may carry


class Periods(NamedTuple):
    """What a model is fitted on and what it is validated on, as slices of a history."""

    reference: slice
    validation: slice


class History:
    """All transactions of a split in time order, and which labels are known when.

    Parameters
    ----------
    split : lib.data.splits.Split
    label_delay_s : s until a label is known; negative: what features that count frauds take it to
        be, the mean duration of a batch where there are none

    Attributes
    ----------
    frame, data : the transactions (n rows), as DataFrame and as Arrays
    slices : {period: slice} of them, batches included
    n_past : transactions before the first batch
    batch_weight : mean weight of a batch
    clock : whether times tell the hour of the day; numbers of rows do not
    """

    def __init__(self, split: Split, label_delay_s: float = -1.0) -> None:
        self.split = split
        frames = []
        self.slices: dict[str, slice] = {}
        # batches follow each other in time, so that a period is a slice
        n = 0
        for name in ("reference", "validation", *split.batches):
            frame = split.frame(name)
            frames.append(frame)
            start = n
            n += len(frame)
            self.slices[name] = slice(start, n)
        self.frame = pd.concat(frames, ignore_index=True)
        self.data = split.dataset.arrays(self.frame)
        self.n_past = self.slices["validation"].stop
        self.cumulated = np.cumsum(self.data.weight)
        stream_weight = self.data.weight[self.n_past :].sum()
        self.batch_weight = stream_weight / len(split.batches)
        self.clock = split.dataset.time is not None
        self.label_delay_s = label_delay_s
        recipe = split.dataset.recipe
        if label_delay_s < 0 and recipe is not None and recipe.knows_labels:
            self.label_delay_s = recipe.label_delay_s
        elif label_delay_s < 0:
            start_s = self.data.time_s[self.n_past]
            end_s = self.data.time_s[-1]
            span_s = end_s - start_s
            self.label_delay_s = span_s / len(split.batches)

    def n_known(self, now_s: float) -> int:
        """Return how many transactions, from the first on, have their label at an instant (s)."""
        labelled_to_s = now_s - self.label_delay_s
        n = np.searchsorted(self.data.time_s, labelled_to_s, side="right")
        # the stream begins with a past that has been labelled
        return max(self.n_past, int(n))

    def as_sent(self, part: slice, raw: RawTable, labelled_to: int) -> replay.RawTransactions:
        """Return raw transactions of the stream, and the labels that arrive meanwhile.

        Parameters
        ----------
        part : a batch's
        labelled_to : the first transaction whose label has not been sent
        """
        now_s = self.data.time_s[part]
        arrived = np.searchsorted(self.data.time_s, now_s - self.label_delay_s, side="right")
        n_known = np.maximum(arrived, labelled_to) - labelled_to
        late = slice(labelled_to, labelled_to + int(n_known[-1]))
        y = self.data.y[late]
        is_labelled = y != UNLABELLED
        ids = self.frame[raw.id].iloc[late][is_labelled]
        labels = [
            {raw.id: identity, raw.label: raw.said(fraud)}
            for identity, fraud in zip(ids, y[is_labelled].tolist(), strict=True)
        ]
        n_labelled = np.append(0, np.cumsum(is_labelled))
        return replay.RawTransactions(
            raw_rows.as_json(self.split.dataset, self.frame.iloc[part], raw),
            labels,
            positions=np.flatnonzero(is_labelled) + labelled_to - part.start,
            n_known=n_labelled[n_known],
        )

    def back(self, stop: int, weight: float) -> int:
        """Return the start of the stretch before `stop` that holds this much weight, a number.

        See `data` for the weights of the transactions that add up to it.
        """
        at_stop = self.cumulated[stop - 1]
        before = at_stop - weight * (1 + ROUNDING)
        start = np.searchsorted(self.cumulated, before, side="right")
        return int(start)

    def window(self, n_known: int, share: float = 1.0) -> Periods:
        """Return what could be fitted on and validated with now.

        Parameters
        ----------
        n_known : transactions, from the first on, whose labels are known
        share : weight to fit on, as a multiple of reference's

        Returns
        -------
        Periods : validation is the last batch's worth of what is labelled, or more until it holds
            enough frauds; reference lies right before it
        """
        start = self.back(n_known, self.batch_weight)
        is_fraud = self.data.y[:n_known] == 1
        frauds = np.flatnonzero(is_fraud)
        if frauds.size:
            first_needed = int(frauds[-VALIDATING_FRAUDS:][0])
            # the other half is there to fit on
            first_needed = max(first_needed, n_known // 2)
            start = min(start, first_needed)
        end_of_reference = self.slices["reference"].stop - 1
        weight = share * self.cumulated[end_of_reference]
        return Periods(
            reference=slice(self.back(start, weight), start),
            validation=slice(start, n_known),
        )

    def can_fit(self, part: slice, train_on: str) -> bool:
        """Return whether a slice holds what a regime fits on.

        For 'genuine' that is a transaction that is known to be genuine.
        """
        if train_on == "all":
            return True
        is_genuine = self.data.y[part] == 0
        return bool(is_genuine.any())

    def write(self, folder: Path, periods: Periods) -> Path:
        """Write periods as a split that a model can be fitted to; return its folder."""
        folder.mkdir(parents=True)
        summaries = {}
        for name, part in periods._asdict().items():
            frame = self.frame.iloc[part]
            replay.write(frame, folder / f"{name}.parquet")
            summaries[name] = cuts.summary(self.split.dataset, frame)
        manifest = self.split.manifest | {"periods": summaries, "remarks": []}
        write_json(folder / MANIFEST, manifest)
        return folder
