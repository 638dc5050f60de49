"""Several detectors as one: the mean of how strange a row is to each; and finished detectors to build on."""

from functools import reduce
from pathlib import Path

import numpy as np

from lib import candidates
from lib.bundle import Bundle
from lib.calibration import Calibration
from lib.detectors.base import Detector
from lib.detectors.registry import make
from lib.manifest import read
from lib.scaling import check_weight

FUSED = ("autoencoder", "gaussian_mixture")  # the two that find most on the rolling cuts


class Exported(Detector):
    """A candidate of a run, read back from its graph: fitted once, used by whatever builds on it.

    Parameters
    ----------
    folder : of the candidate; BundleError if it is not whole
    threads : int
    """

    def __init__(self, folder, threads=1):
        self.folder = folder
        self.threads = threads
        self.manifest_, self.graphs_ = read(Path(folder))
        self.bundle_ = Bundle(self.manifest_, self.graphs_, threads, str(folder))
        self.n_features_in_ = len(self.bundle_.features)

    def _raw_score(self, X):
        return self.bundle_.raw_score(X)

    def graph_score(self, graph):
        """See :meth:`lib.detectors.base.Detector.graph_score`."""
        return graph.include(self.graphs_["model.onnx"])

    def graph_contributions(self, graph):
        """See :meth:`lib.detectors.base.Detector.graph_contributions`."""
        explain = self.graphs_.get("explain.onnx")
        return None if explain is None else graph.include(explain)


class Fusion(Detector):
    """The mean strangeness of a row to several detectors.

    Strangeness is -log of the share of transactions that score as high (:meth:`lib.calibration.Calibration`), so that
    detectors with scores of any scale speak alike: 7 is one in a thousand. No label is used.

    Parameters
    ----------
    of : dict of str to dict, names in :data:`lib.detectors.registry.DETECTORS` and what differs from their defaults;
        None: those of FUSED
    seed, threads : int

    Attributes
    ----------
    members_ : list of fitted detectors
    calibrations_ : list of Calibration, one a member
    """

    def __init__(self, of=None, seed=0, threads=1):
        self.of = of
        self.seed = seed
        self.threads = threads

    def fit(self, X, weight=None, validation=None, fitted=None):
        """See :meth:`lib.detectors.base.Detector.fit`; calibrates on `validation`, without one on X.

        `fitted` are the detectors, fitted before, in the order of `of`.
        """
        X = np.asarray(X, dtype=np.float32)
        weight = check_weight(weight, len(X))
        of = {name: {} for name in FUSED} if self.of is None else self.of
        self.members_ = fitted or [
            make(name, seed=self.seed, threads=self.threads, **params).fit(X, weight, validation)
            for name, params in of.items()
        ]
        rows, share = validation or (X, weight)
        self.calibrations_ = [Calibration.fit(each.raw_score(rows), share) for each in self.members_]
        self.n_features_in_ = X.shape[1]
        return self

    def _raw_score(self, X):
        pairs = zip(self.members_, self.calibrations_, strict=True)
        return np.mean([calibration.strangeness(each.raw_score(X)) for each, calibration in pairs], axis=0)

    def graph_score(self, graph):
        """See :meth:`lib.detectors.base.Detector.graph_score`; the graphs of all members side by side."""
        total = reduce(lambda a, b: graph.add("Add", a, b), self._graph_surprise(graph))
        return graph.single(graph.add("Div", total, graph.constant(len(self.members_), np.float64)))

    def graph_contributions(self, graph):
        """See :meth:`lib.detectors.base.Detector.graph_contributions`.

        Those of each member, scaled so that their sizes add up to the row's strangeness to it; then the mean.
        """
        found = [each.graph_contributions(graph) for each in self.members_]
        if None in found:
            return None
        terms = []
        for contributions, strange in zip(found, self._graph_surprise(graph), strict=True):
            size = graph.add("ReduceSum", graph.add("Abs", contributions), graph.constant([1], np.int64), keepdims=1)
            share = graph.add("Div", contributions, graph.add("Max", size, 1e-30))
            column = graph.add("Reshape", graph.single(strange), graph.constant([-1, 1], np.int64))
            terms.append(graph.add("Mul", share, column))
        return graph.add("Mean", *terms)

    def _graph_surprise(self, graph):
        pairs = zip(self.members_, self.calibrations_, strict=True)
        return [graph.surprise(each.graph_score(graph), calibration) for each, calibration in pairs]


def fuse(run_dir, split, folders, threads=1):
    """Write the fusion of a run's candidates for each regime in which all of FUSED are there -> {name: folder}."""
    made = {}
    for regime in candidates.REGIMES["both"]:
        names = [candidates.variant(model, regime) for model in FUSED]
        if not set(names) <= set(folders):
            continue
        fitted = [Exported(folders[name], threads) for name in names]
        of = {model: each.manifest_["fit"]["parameters"] for model, each in zip(FUSED, fitted, strict=True)}
        detector = make("fusion", of=of, seed=fitted[0].manifest_["fit"]["seed"], threads=threads)
        detector, training, seconds = candidates.fit(detector, split, regime, fitted=fitted)
        name = candidates.variant("fusion", regime)
        made[name] = candidates.write(run_dir, name, detector, split, training, regime, seconds)
    return made
