"""Any outlier detector of scikit-learn or PyOD, or a network, as one of ours."""

import pydoc
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike
from sklearn.base import clone

from lib.detectors import wrapped_graphs
from lib.detectors.base import Detector, Rows, check_rows
from lib.detectors.onnx_graph import FEATURES, Graph
from lib.detectors.sampling import check_weight
from lib.detectors.scaling import Scaler

# parameters under which the two libraries know what we call seed and threads
SEED, THREADS = "random_state", "n_jobs"
PREFIX = "estimator__"  # of the estimator's own parameters beside ours, as scikit-learn writes them
OBJECT = "<"  # what stands for an object in a description begins with it
PLAIN = bool | int | float | str | None


class Wrapped(Detector):
    """An estimator of another library behind this project's contract.

    The estimator is cloned and fitted to rows drawn by weight, each at most once: few of the other
    libraries' detectors take weights, and what many of them keep, and compare every transaction
    with, are all fitted rows. Scores point upwards whatever the library: scikit-learn's are turned
    round, PyOD's are not.

    Parameters
    ----------
    estimator : object
        A detector of scikit-learn that has `score_samples`, one of PyOD, or one whose `network_`
        is a `torch.nn.Module` from features [n, d] to scores [n], higher = more anomalous. See
        :mod:`lib.detectors.wrapped_graphs` for those that have an ONNX graph.
    scaled : bool
        Whether it gets features in standard units, see :class:`lib.detectors.scaling.Scaler`;
        otherwise as they are. Missing values are the median in either case.
    max_rows : int
        Rows that it is fitted to, at most.
    seed, threads : int
        Handed on as `random_state` and `n_jobs` where the estimator has such parameters.

    Attributes
    ----------
    scaler_ : Scaler
    estimator_ : object
        The fitted clone.
    """

    def __init__(
        self,
        estimator: Any,
        scaled: bool = True,
        max_rows: int = 5_000,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        self.estimator = estimator
        self.scaled = scaled
        self.max_rows = max_rows
        self.seed = seed
        self.threads = threads

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        weight: ArrayLike | None = None,
        validation: Rows | None = None,
    ) -> Self:
        """Fit as :meth:`lib.detectors.base.Detector.fit` says; `validation` is not used.

        Raises
        ------
        ValueError
            For an estimator that has no graph: the message says which have one. It is raised
            before anything is fitted. Or if it gives a fitted row a score that is not finite.
        """
        X = check_rows(X)
        weight = check_weight(weight, len(X))
        wrapped_graphs.check(self.estimator)
        self.scaler_ = Scaler().fit(X, weight=weight)
        self.n_features_in_ = X.shape[1]
        rng = np.random.default_rng(self.seed)
        inputs = self._inputs(X[_drawn(rng, weight, self.max_rows)])
        estimator = clone(self.estimator)
        own = estimator.get_params(deep=False)
        given = {SEED: self.seed, THREADS: self.threads}
        # what the user has chosen stays: only what is left open is filled in
        estimator.set_params(
            **{key: value for key, value in given.items() if key in own and own[key] is None}
        )
        self.estimator_ = estimator.fit(inputs)
        if not np.isfinite(wrapped_graphs.score(self.estimator_, inputs)).all():
            raise ValueError(
                f"{wrapped_graphs.name(self.estimator)} gives some of the rows that it was fitted "
                "to a score that is not a finite number: choose other parameters."
            )
        return self

    def _inputs(self, X):
        """Return what the estimator gets for X (n, d) float32, float64 (n, d).

        The graph's own nodes compute it: a tree or a histogram that sees another last digit than
        the graph gives another score.
        """
        graph = Graph(X.shape[1])
        model = graph.finish(self._graph_inputs(graph), "contributions")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options)
        return session.run(None, {FEATURES: X})[0].astype(np.float64)

    def _graph_inputs(self, graph):
        if self.scaled:
            return graph.scaled(self.scaler_)
        return graph.imputed(self.scaler_.median_)

    def _raw_score(self, X):
        if not len(X):
            return np.empty(0)
        return wrapped_graphs.score(self.estimator_, self._inputs(X))

    def graph_score(self, graph: Graph) -> str:
        """Add scaling and what the estimator computes, as :mod:`lib.detectors.wrapped_graphs`."""
        inputs = self._graph_inputs(graph)
        return wrapped_graphs.add_score(graph, self.estimator_, inputs)

    def described(self) -> dict[str, Any]:
        """Return the parameters as plain data: the estimator by name, its own as `estimator__…`.

        :func:`from_description` makes the same detector of it.
        """
        own = self.estimator.get_params(deep=False)
        return {
            "estimator": wrapped_graphs.name(self.estimator),
            "scaled": self.scaled,
            "max_rows": self.max_rows,
            **{f"{PREFIX}{key}": _plain(value) for key, value in own.items()},
        }


def from_description(parameters: Mapping[str, Any], seed: int = 0, threads: int = 1) -> Wrapped:
    """Make an unfitted detector of what :meth:`Wrapped.described` returned.

    Raises
    ------
    ValueError
        If the estimator is not one of scikit-learn or PyOD, is not installed, or if a parameter of
        it is an object that a description cannot hold.
    """
    text = str(parameters.get("estimator"))
    # the text may come from a file: no other name is imported
    known = text.startswith(wrapped_graphs.LIBRARIES)
    kind = pydoc.locate(text) if known else None
    if not isinstance(kind, type):
        raise ValueError(f"{text} is not an estimator of scikit-learn or PyOD that is installed.")
    own = {}
    for key, value in parameters.items():
        if isinstance(value, str) and value.startswith(OBJECT):
            raise ValueError(f"{text} was made with an object as its {key}, which only code can.")
        if key.startswith(PREFIX):
            own[key.removeprefix(PREFIX)] = value
    ours = {key: parameters[key] for key in ("scaled", "max_rows")}
    return Wrapped(kind(**own), **ours, seed=seed, threads=threads)


def _plain(value):
    """Return a parameter as JSON holds it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, PLAIN) else f"{OBJECT}{type(value).__name__}>"


def _drawn(rng, weight, n):
    """Return positions of at most n rows, each once, the likelier the more a row weighs."""
    counted = np.flatnonzero(weight)
    if len(counted) <= n:
        return counted
    # Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006
    keys = rng.standard_exponential(len(counted)) / weight[counted]
    return np.sort(counted[np.argsort(keys, kind="stable")[:n]])
