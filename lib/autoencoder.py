"""Denoising autoencoders: what a few numbers cannot restore about a transaction is strange about it."""

from contextlib import contextmanager

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from lib.denoiser import Config, train
from lib.detectors.base import Detector
from lib.robust import RobustCovariance
from lib.scaling import Scaler, check_weight, draw, subsample

SCORED_AT_ONCE = 8_192  # rows; bounds the memory of scoring
VALIDATION_ROWS = 8_192  # drawn by weight for the validation loss


class Autoencoder(Detector):
    """An ensemble of denoising autoencoders, scored by the Mahalanobis distance of what they fail to restore.

    Rows get noise, pass a narrow code and are restored (Vincent et al., *Extracting and composing robust features with
    denoising autoencoders*, ICML 2008). The residuals of ordinary rows have a covariance; `raw_score` is the squared
    distance r' S^-1 r of a row's residual r under it, averaged over members: about the number of columns for an
    ordinary row.

    Strange rows are kept from bending the fit without any label: :class:`lib.robust.RobustCovariance` sieves the rows
    before training and trims the residual covariance, and the loss of a row is bounded in influence.

    Parameters
    ----------
    members, hidden, code, noise, epochs, seed : see :class:`lib.denoiser.Config`
    trim : float, share of the weight taken for strange: in the sieve, the residual covariance and the validation loss
    max_rows : int, above which rows are sub-sampled by weight
    device : 'cpu', 'cuda' (mixed precision) or 'auto', for training
    threads : int, compute threads; scores may differ between numbers of threads

    Attributes
    ----------
    history_ : dict of ``train`` and ``validation``, (epochs, members) float64
        Mean loss of each epoch. A member is kept as it was when its validation loss was lowest.
    device_ : str, where it was trained
    """

    def __init__(
        self,
        members=Config.members,
        hidden=Config.hidden,
        code=Config.code,
        noise=Config.noise,
        trim=Config.trim,
        epochs=Config.epochs,
        max_rows=200_000,
        device="cpu",
        seed=Config.seed,
        threads=1,
    ):
        self.members = members
        self.hidden = hidden
        self.code = code
        self.noise = noise
        self.trim = trim
        self.epochs = epochs
        self.max_rows = max_rows
        self.device = device
        self.seed = seed
        self.threads = threads

    def fit(self, X, weight=None, validation=None):
        """See :meth:`Detector.fit`; without `validation`, every tenth row is held out for the validation loss."""
        X = np.asarray(X, dtype=np.float32)
        weight = check_weight(weight, len(X))
        self.device_ = pick_device(self.device)
        known = ("members", "hidden", "code", "noise", "trim", "epochs", "seed")
        self.config_ = Config(**{name: getattr(self, name) for name in known})
        with compute_threads(self.threads):
            self._fit(X, weight, validation)
        self.n_features_in_ = X.shape[1]
        return self

    def _fit(self, X, weight, validation):
        """Scaler, sieve, networks, covariance of their residuals."""
        rng = np.random.default_rng(self.seed)
        self.scaler_ = Scaler().fit(X, weight)
        X, weight = subsample(rng, X, weight, self.max_rows)
        x = self._inputs(X)
        sieve = RobustCovariance(self.trim).fit(x, weight)
        if validation is None:
            held_out = np.arange(len(x)) % 10 == 9
            x_validation, training = x[held_out & sieve.kept_], sieve.kept_ & ~held_out
        else:
            drawn = draw(rng, check_weight(validation[1], len(validation[0])), VALIDATION_ROWS)
            x_validation, training = self._inputs(np.asarray(validation[0])[drawn]), sieve.kept_
        self.network_, self.history_ = train(x[training], weight[training], x_validation, self.config_, self.device_)
        self.residuals_ = [RobustCovariance(self.trim).fit(r, weight, sieve.still_) for r in self._residual(x)]

    def _inputs(self, X):
        """Raw columns (n, d) -> what the networks see and restore, (n, d) float32 in standard units."""
        return self.scaler_.transform(X).astype(np.float32)

    def _residual(self, x):
        """Restored minus given, (m, n, d) float64, for x (n, d) float32."""
        with torch.inference_mode():
            parts = torch.from_numpy(x).split(SCORED_AT_ONCE)
            residual = [self.network_(part.expand(self.members, -1, -1)) - part for part in parts]
        return torch.cat(residual, 1).double().numpy()  # (m, n, d)

    def _raw_score(self, X):
        scores = np.empty(len(X))
        with compute_threads(self.threads):
            for start in range(0, len(X), SCORED_AT_ONCE):
                part = slice(start, start + SCORED_AT_ONCE)
                residual = self._residual(self._inputs(X[part]))
                pairs = zip(self.residuals_, residual, strict=True)
                scores[part] = np.mean([each.squared_distance(r) for each, r in pairs], axis=0)
        return scores

    def graph_score(self, graph):
        """See :meth:`Detector.graph_score`; the mean over members of |W'r|^2, where W W' = S^-1."""
        distances = []
        for residual, precision in self._graph_residuals(graph):
            white = graph.add("MatMul", residual, np.linalg.cholesky(precision))
            distances.append(graph.add("ReduceSumSquare", white, axes=[1], keepdims=0))
        return graph.add("Mean", *distances)

    def graph_contributions(self, graph):
        """See :meth:`Detector.graph_contributions`; r_i (S^-1 r)_i of a column; they add up to `raw_score`."""
        terms = [
            graph.add("Mul", residual, graph.add("MatMul", residual, precision))
            for residual, precision in self._graph_residuals(graph)
        ]
        return graph.add("Mean", *terms)

    def _graph_residuals(self, graph):
        """Add the centred residual [n, d] of each member; returns (its name, S^-1) a member."""
        x = graph.scaled(self.scaler_)
        seen = graph.add("Clip", x, -self.config_.reach, self.config_.reach)
        residuals = []
        for member, covariance in enumerate(self.residuals_):
            h = seen
            for i, layer in enumerate(self.network_.layers):
                h = graph.add("Gemm", h, layer.weight[member].detach().numpy(), layer.bias[member, 0].detach().numpy())
                h = h if i in self.network_.linear else graph.add("Mul", h, graph.add("Sigmoid", h))
            residual = graph.add("Sub", graph.add("Sub", h, x), covariance.mean_)
            residuals.append((residual, covariance.precision_))
        return residuals


def pick_device(device):
    """'cpu', 'cuda' or 'auto' -> 'cpu' or 'cuda'; ValueError if there is no such device here."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in {"cpu", "cuda"}:
        raise ValueError(f"device is {device!r}; choose 'cpu', 'cuda' or 'auto' (cuda where there is one).")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no such GPU here; choose 'cpu' or 'auto'.")
    return device


@contextmanager
def compute_threads(n):
    """Let torch and numpy compute with n threads inside, with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        with threadpool_limits(n, "blas"):
            yield
    finally:
        torch.set_num_threads(before)
