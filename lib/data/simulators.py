"""Find the simulator that a description asks for, by `simulation: {of: …}`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import pandas as pd

from lib.data import payment_frauds, payment_world, payments, simulation
from lib.files import sha256

if TYPE_CHECKING:
    from lib.data.datasets import Dataset


@dataclass(frozen=True)
class Simulator:
    """A way of making transactions.

    Attributes
    ----------
    columns : tuple of str
        Of the table that it makes.
    simulate : callable
        Returns that table: ``simulate(rows, seed, drift=drift)``.
    drifts : tuple of Drift
        Known changes in the untouched period.
    modules : tuple of modules
        What the transactions depend on.
    """

    columns: tuple[str, ...]
    simulate: Callable[..., pd.DataFrame]
    drifts: tuple[simulation.Drift, ...]
    modules: tuple[ModuleType, ...]

    @property
    def code(self) -> str:
        """What identifies its code: another simulator makes other transactions."""
        hashes = [sha256(module.__file__) for module in self.modules]
        if len(hashes) == 1:
            return hashes[0]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()


CARD_DATA = Simulator(
    columns=simulation.COLUMNS,
    simulate=simulation.simulate,
    drifts=simulation.DRIFTS,
    modules=(simulation,),
)
PAYMENTS = Simulator(
    columns=payments.COLUMNS,
    simulate=payments.simulate,
    drifts=payments.DRIFTS,
    modules=(payments, payment_world, payment_frauds, simulation),
)
SIMULATORS = {"card data": CARD_DATA, "payments": PAYMENTS}


def of(dataset: Dataset) -> Simulator:
    """Return the simulator of a simulated table; card data where its description does not say."""
    asked = dataset.simulation or {}
    return SIMULATORS[asked.get("of", "card data")]
