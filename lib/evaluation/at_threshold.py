"""What alerts were worth at the threshold in use: precision, recall and money, with intervals.

Everything adds up over chunks of a table, of which nothing but sums of blocks of time is kept. An
interval is the wider of two: resampled blocks of time, within which transactions depend on each
other, and the exact binomial one, which knows that none of ten may still be one in four.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.data.datasets import UNLABELLED, Arrays
from lib.evaluation import intervals
from lib.evaluation.figures import Figure

# sums of a block: the columns of an array
FRAUD, CAUGHT, ALERTED, MONEY, MONEY_CAUGHT, WEIGHT = range(6)
SHARES = {
    "precision": (CAUGHT, ALERTED),
    "recall": (CAUGHT, FRAUD),
    "amount_recall": (MONEY_CAUGHT, MONEY),
}
MAX_BLOCKS = 500  # that are resampled; more are joined with their neighbours
N_RESAMPLES = 300
# of labelled rows are alerts: reviewers looked at nothing else, and nobody knows what was missed
ALERTS_ONLY = 0.5


@dataclass(frozen=True)
class Worth:
    """What is known of the alerts of labelled transactions.

    Parameters
    ----------
    n_labelled, n_frauds, n_alerts : rows with a label, frauds and alerts among them
    precision, recall, amount_recall : figures {"value", "low", "high"}, of weight
    money, money_caught : weighted amounts of frauds, and of those that were alerts
    """

    n_labelled: int
    n_frauds: int
    n_alerts: int
    precision: Figure
    recall: Figure
    amount_recall: Figure
    money: float
    money_caught: float

    def to_dict(self) -> dict:
        """Return what json.dumps takes."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class Tally:
    """Adds up what labels say of alerts.

    Parameters
    ----------
    block_s : seconds within which transactions depend on each other
    """

    def __init__(self, block_s: float = intervals.BLOCK_S) -> None:
        self.block_s = block_s
        self.n_labelled = self.n_frauds = self.n_alerts = 0
        self._squares = {"precision": 0.0, "recall": 0.0}  # of weights behind the shares
        self._numbers: list[np.ndarray] = []
        self._sums: list[np.ndarray] = []

    def add(self, data: Arrays, alert: np.ndarray) -> None:
        """Look at some rows and their alerts (n,), 0 or 1; those without a label do not count."""
        is_known = (data.y != UNLABELLED) & (data.weight > 0)
        if not is_known.any():
            return
        known, alert = data.take(is_known), alert[is_known] == 1
        fraud = known.y == 1
        self.n_labelled += len(fraud)
        self.n_frauds += int(fraud.sum())
        self.n_alerts += int(alert.sum())
        self._squares["precision"] += float((known.weight[alert] ** 2).sum())
        self._squares["recall"] += float((known.weight[fraud] ** 2).sum())
        money = np.zeros(len(fraud))
        if known.amount is not None:
            # a negative amount, a refund, is no loss
            money = np.maximum(known.amount, 0.0)
        shares = (fraud, fraud & alert, alert, fraud * money, (fraud & alert) * money, 1.0)
        number, place = np.unique(np.floor(known.time_s / self.block_s), return_inverse=True)
        sums = [np.bincount(place, known.weight * share) for share in shares]
        self._numbers.append(number)
        self._sums.append(np.column_stack(sums))

    def worth(self, seed: int = 0) -> Worth | None:
        """Return what is known; None where no row has a label.

        seed : of the resamples
        """
        if not self._sums:
            return None
        blocks = self._blocks()
        total = blocks.sum(axis=0)
        draws = self._draws(blocks, seed)
        figures = {}
        for name, (part, whole) in SHARES.items():
            figures[name] = self._figure(name, total, draws, part, whole)
        if self.n_alerts > ALERTS_ONLY * self.n_labelled:
            figures |= {name: intervals.figure(np.nan) for name in ("recall", "amount_recall")}
        return Worth(
            n_labelled=self.n_labelled,
            n_frauds=self.n_frauds,
            n_alerts=self.n_alerts,
            money=float(total[MONEY]),
            money_caught=float(total[MONEY_CAUGHT]),
            **figures,
        )

    def _blocks(self) -> np.ndarray:
        """Return the sums of each block (k, 6), at most `MAX_BLOCKS` of them, in time order."""
        numbers = np.concatenate(self._numbers)
        _, place = np.unique(numbers, return_inverse=True)
        n_blocks = int(place.max()) + 1
        joined = place // -(-n_blocks // MAX_BLOCKS)
        blocks = np.zeros((int(joined.max()) + 1, 6))
        np.add.at(blocks, joined, np.concatenate(self._sums))
        return blocks

    def _draws(self, blocks: np.ndarray, seed: int) -> np.ndarray | None:
        """Return sums (r, 6) of resamples of blocks; None where there are too few."""
        if len(blocks) < intervals.MIN_BLOCKS or self.n_frauds < intervals.MIN_FRAUDS:
            return None
        parts = []
        for _, times in intervals.resamples(len(blocks), N_RESAMPLES, N_RESAMPLES, seed):
            parts.append(times.T @ blocks)
        return np.concatenate(parts)

    def _figure(
        self, name: str, total: np.ndarray, draws: np.ndarray | None, part: int, whole: int
    ) -> Figure:
        """Return a share with the wider of its two intervals."""
        if not total[whole] > 0:
            return intervals.figure(np.nan)
        value = float(total[part] / total[whole])
        resampled = intervals.figure(value)
        if draws is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                resampled = intervals.figure(value, draws[:, part] / draws[:, whole])
        if name not in self._squares:
            return intervals.honest(resampled)
        n_effective = float(total[whole] ** 2 / self._squares[name])
        return intervals.honest(resampled, intervals.clopper_pearson(value, n_effective))
