"""Density of ordinary transactions: several small mixtures of heavy-tailed components, averaged in the log."""

import numpy as np
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from lib import progress
from lib.detectors.base import Detector
from lib.detectors.isolation_forest import IsolationForest
from lib.mixture_fit import Mixture, fit_mixture, held_out_density, spacing
from lib.scaling import Scaler, check_weight, weighted_quantile

NO_WEIGHT = -1e9  # log weight of a component that only fills a member up to the common number
SIEVE_TREES = 100
NUMBERS = (1, 2, 4, 8, 16)  # of components to choose from
MAX_CHOOSING = 20_000  # rows that the choice looks at: half to fit, half to judge, then the other way round


class GaussianMixtureEnsemble(Detector):
    """Negative log density under mixtures with full covariances, averaged over members.

    Each member sees its own sub-sample and starting points. Components are multivariate Student t (Peel and McLachlan,
    *Robust mixture modelling using the t distribution*, 2000), Gaussian for ``tail=inf``: with Gaussian ones, the
    rarest genuine transactions decide where components go and a single fit is a lottery. Before the fit, an isolation
    forest drops the strangest `trim` of the weight, so that frauds left in the fit get no component of their own; in
    the fit, components smaller than `min_share` are dropped, and the variance of a column is kept above `floor` and
    above what rounding to the column's own spacing leaves (a binary column has no density).

    Scores do not depend on `threads`.

    Parameters
    ----------
    members : int
    n_components : int, at the start of each fit; 0: the one of NUMBERS with the highest density of held-out rows
    tail : float, degrees of freedom of the components; inf is Gaussian
    trim : float, share of the weight dropped as strange before the fit; no label is used
    min_share : float, share of the weight below which a component is no population
    floor : float, added to every variance, in squared standard units
    max_rows : int, rows a member sees at most; otherwise it sees half
    seed, threads : int

    Attributes
    ----------
    mixtures_ : list of :class:`lib.mixture_fit.Mixture`, in the units of ``scaler_``
    n_components_ : int, the number used
    held_out_ : dict of int to float, mean log density of held-out rows by number; empty where the number was given
    """

    def __init__(
        self,
        members=6,
        n_components=0,
        tail=8.0,
        trim=0.02,
        min_share=0.01,
        floor=1e-3,
        max_rows=20_000,
        seed=0,
        threads=1,
    ):
        self.members = members
        self.n_components = n_components
        self.tail = tail
        self.trim = trim
        self.min_share = min_share
        self.floor = floor
        self.max_rows = max_rows
        self.seed = seed
        self.threads = threads

    def fit(self, X, weight=None, validation=None):
        """See :meth:`Detector.fit`; `validation` is not used."""
        X = np.asarray(X, dtype=np.float32)
        weight = check_weight(weight, len(X))
        rng = np.random.default_rng(self.seed)
        pool = min(len(X), self.members * self.max_rows)
        if pool < len(X):
            kept = np.sort(rng.choice(len(X), pool, replace=False))
            X, weight = X[kept], weight[kept]
        ordinary = self._sieve(X, weight)
        X, weight = X[ordinary], weight[ordinary]
        self.scaler_ = Scaler().fit(X, weight)
        z = self.scaler_.transform(X)  # (n, d)
        least = self.floor + spacing(z, weight) ** 2 / 12  # variance of rounding: Sheppard 1898
        n = min(self.max_rows, max(len(z) // 2, min(len(z), 2_000)))
        seeds = rng.integers(2**63, size=self.members)
        with threadpool_limits(1):  # sums in one order, whatever `threads`
            self._choose(z, weight, least, rng)
            fits = Parallel(self.threads, prefer="threads", return_as="generator")(
                delayed(self._member)(z, weight, least, n, seed) for seed in seeds
            )
            self.mixtures_ = list(progress.steps(fits, "member", self.members))
        self.n_features_in_ = X.shape[1]
        return self

    def _sieve(self, X, weight):
        """Positions of the rows that an isolation forest finds ordinary."""
        if not 0 <= self.trim < 0.5:
            raise ValueError(f"trim is {self.trim:g}; the share left out before the fit lies in [0, 0.5)")
        if not self.trim:
            return np.arange(len(X))
        forest = IsolationForest(n_trees=SIEVE_TREES, max_samples=256, seed=self.seed, threads=self.threads)
        strange = forest.fit(X, weight).raw_score(X)
        return np.flatnonzero(strange <= weighted_quantile(strange, weight, 1 - self.trim))

    def _choose(self, z, weight, least, rng):
        """Set `n_components_`, from the density of held-out rows unless it is given; no label decides."""
        self.held_out_ = {}
        if not self.n_components:
            rows = rng.choice(len(z), min(len(z), MAX_CHOOSING), replace=False)
            self.held_out_ = held_out_density(
                z[rows], weight[rows], NUMBERS, least, self.tail, self.min_share, rng, self.threads
            )
        self.n_components_ = self.n_components or max(self.held_out_, key=self.held_out_.get)

    def _member(self, z, weight, least, n, seed):
        rng = np.random.default_rng(seed)
        rows = rng.choice(len(z), n, replace=False)
        return fit_mixture(z[rows], weight[rows], self.n_components_, least, self.tail, self.min_share, rng)

    def member_raw_scores(self, X):
        """Return (members, n) float64: -log density of each member; :meth:`raw_score` is their mean."""
        z = self.scaler_.transform(X)
        with threadpool_limits(1):
            return (
                np.array(Parallel(self.threads, prefer="threads")(delayed(m.log_density)(z) for m in self.mixtures_))
                * -1.0
            )

    def _raw_score(self, X):
        return self.member_raw_scores(X).mean(axis=0)

    def _stacked(self):
        """All components of all members, each member filled up to the same number: one Mixture of M K components."""
        k = max(len(m.log_weight) for m in self.mixtures_)
        d = self.n_features_in_
        parts = []
        for m in self.mixtures_:
            fill = k - len(m.log_weight)
            parts.append(
                (
                    np.append(m.log_weight, np.full(fill, NO_WEIGHT)),
                    np.concatenate([m.mean, np.zeros((fill, d))]),
                    np.concatenate([m.root, np.broadcast_to(np.eye(d), (fill, d, d))]),
                )
            )
        log_weight, mean, root = (np.concatenate(each) for each in zip(*parts, strict=True))
        return Mixture(log_weight, mean, root, self.tail), k

    def _log_terms(self, graph, distance, stack):
        """log(weight density) of each component, float32 [n, M K], from squared distances [n, M K]."""
        if np.isinf(self.tail):
            return graph.add("Add", graph.add("Mul", distance, -0.5), stack.log_constant())
        log = graph.add("Log", graph.add("Add", graph.add("Mul", distance, 1 / self.tail), 1.0))
        power = -(self.tail + self.n_features_in_) / 2
        return graph.add("Add", graph.add("Mul", log, power), stack.log_constant())

    def _distances(self, graph, stack):
        """Whitened residuals [n, M K, d] and their squared lengths [n, M K]."""
        z = graph.scaled(self.scaler_)
        d, count = self.n_features_in_, len(stack.mean)
        roots = stack.root.transpose(1, 0, 2).reshape(d, count * d)
        centres = np.einsum("kd,kde->ke", stack.mean, stack.root).ravel()
        flat = graph.add("Gemm", z, roots, -centres)
        residual = graph.add("Reshape", flat, graph.constant([-1, count, d], np.int64))
        return residual, graph.add("ReduceSumSquare", residual, axes=[2], keepdims=0)

    def graph_score(self, graph):
        """See :meth:`Detector.graph_score`."""
        stack, k = self._stacked()
        _, distance = self._distances(graph, stack)
        terms = self._log_terms(graph, distance, stack)
        grouped = graph.add("Reshape", terms, graph.constant([-1, self.members, k], np.int64))
        log_density = graph.add("ReduceLogSumExp", grouped, axes=[2], keepdims=0)  # (n, members)
        return graph.add("Neg", graph.add("ReduceMean", log_density, axes=[1], keepdims=0))

    def graph_contributions(self, graph):
        """See :meth:`Detector.graph_contributions`.

        A contribution is how much the raw score would fall, to first order in the shares of the components, if this
        column had the value that the others predict: with precision L and residual r of a component, its squared
        distance then falls by (L r)_j^2 / L_jj. Never negative; they need not add up to the raw score.
        """
        stack, k = self._stacked()
        residual, distance = self._distances(graph, stack)  # (n, MK, d), (n, MK)
        grouped = graph.add(
            "Reshape", self._log_terms(graph, distance, stack), graph.constant([-1, self.members, k], np.int64)
        )
        share = graph.add("Softmax", grouped, axis=2)  # responsibilities within each member
        share = graph.add("Reshape", share, graph.constant([-1, len(stack.mean), 1], np.int64))
        scale = np.sqrt(np.einsum("kde,kde->kd", stack.root, stack.root))  # sqrt(L_jj)
        back = stack.root.transpose(0, 2, 1) / scale[:, None, :]  # (MK, d, d)
        by_component = graph.add("Transpose", residual, perm=[1, 0, 2])
        shift = graph.add("Transpose", graph.add("MatMul", by_component, back), perm=[1, 0, 2])
        fall = graph.add("Mul", shift, shift)
        if np.isinf(self.tail):
            saved = graph.add("Mul", fall, 0.5)
        else:
            whole = graph.add("Reshape", distance, graph.constant([-1, len(stack.mean), 1], np.int64))
            left = graph.add("Max", graph.add("Sub", whole, fall), 0.0)
            now, then = (graph.add("Log", graph.add("Add", each, self.tail)) for each in (whole, left))
            saved = graph.add("Mul", graph.add("Sub", now, then), (self.tail + self.n_features_in_) / 2)
        total = graph.add("ReduceSum", graph.add("Mul", share, saved), graph.constant([1], np.int64), keepdims=0)
        return graph.add("Mul", total, 1 / self.members)
