"""Denoising autoencoders: a transaction that they reconstruct badly is anomalous."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from lib.detectors.base import Detector, Rows, check_rows
from lib.detectors.denoising_network import Config, train
from lib.detectors.onnx_graph import Graph
from lib.detectors.robust_covariance import RobustCovariance
from lib.detectors.sampling import check_weight, draw, subsample
from lib.detectors.scaling import Scaler
from lib.detectors.trimming import trimmed

SCORED_AT_ONCE = 8_192  # rows; bounds the memory of scoring
VALIDATION_ROWS = 8_192  # drawn by weight for the validation loss
HELD_OUT = 10  # without validation rows, every tenth of the fitted ones takes their place


class Autoencoder(Detector):
    """An ensemble of denoising autoencoders, scored by the distance of their residuals.

    Rows get noise, pass a bottleneck and are reconstructed (Vincent et al., *Extracting and
    composing robust features with denoising autoencoders*, ICML 2008). The residuals of ordinary
    rows have a covariance S; `raw_score` is the squared Mahalanobis distance r' S^-1 r of a row's
    residual r, averaged over members: about the number of columns for an ordinary row.

    Anomalous rows are kept from bending the fit without any label: a robust fit of
    :class:`lib.detectors.robust_covariance.RobustCovariance` trims the rows before training and the
    residual covariance after it, and the loss of a row is bounded in influence.

    Parameters
    ----------
    members, hidden, code, noise, epochs, seed
        See :class:`lib.detectors.denoising_network.Config`.
    trim : float in [0, 0.5)
        Share of the weight left out of the training rows, of the residual covariance and of the
        validation loss.
    max_rows : int
        Above it, rows are sub-sampled by weight.
    device : {"cpu", "cuda", "auto"}
        For training; 'cuda' trains in mixed precision, 'auto' is cuda where there is one.
    threads : int
        Compute threads; scores may differ between numbers of threads.

    Attributes
    ----------
    history_ : dict of ndarray of shape (epochs, members), float64
        Mean loss of each epoch, ``train`` and ``validation``. A member is kept as it was when its
        validation loss was lowest.
    device_ : str
        Where it was trained.
    network_ : lib.detectors.denoising_network.Network
    residuals_ : list of RobustCovariance
        Of the residuals, one for each member.
    """

    def __init__(  # noqa: PLR0913 - one argument for each hyper-parameter, as scikit-learn asks
        self,
        members: int = Config.members,
        hidden: tuple = Config.hidden,
        code: int | None = Config.code,
        noise: float = Config.noise,
        trim: float = Config.trim,
        epochs: int = Config.epochs,
        max_rows: int = 200_000,
        device: str = "cpu",
        seed: int = Config.seed,
        threads: int = 1,
    ) -> None:
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

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        weight: ArrayLike | None = None,
        validation: Rows | None = None,
    ) -> Self:
        """Fit as :meth:`lib.detectors.base.Detector.fit` says.

        Without `validation`, every tenth row is held out for the validation loss.

        Raises
        ------
        ValueError
            If `device` is unknown or not there, or `trim` is not in [0, 0.5).
        """
        X = check_rows(X)
        weight = check_weight(weight, len(X))
        self.device_ = pick_device(self.device)
        self.config_ = Config(
            members=self.members,
            hidden=self.hidden,
            code=self.code,
            noise=self.noise,
            trim=self.trim,
            epochs=self.epochs,
            seed=self.seed,
        )
        with compute_threads(self.threads):
            self._fit(X, weight, validation)
        self.n_features_in_ = X.shape[1]
        return self

    def _fit(self, X, weight, validation):
        """Fit scaler, trimming step, networks and the covariance of their residuals."""
        rng = np.random.default_rng(self.seed)
        X, weight = subsample(rng, X, weight, self.max_rows)
        X, weight = trimmed(X, weight, seed=self.seed, threads=self.threads)
        self.scaler_ = Scaler().fit(X, weight=weight)
        x = self._inputs(X)
        robust = RobustCovariance(self.trim).fit(x, weight)
        training = robust.kept_
        if validation is None:
            held_out = np.arange(len(x)) % HELD_OUT == HELD_OUT - 1
            x_validation = x[held_out & training]
            training = training & ~held_out
        else:
            x_validation = self._validation_inputs(rng, validation)
        self.network_, self.history_ = train(
            x[training],
            weight[training],
            x_validation,
            self.config_,
            self.device_,
        )
        # Which columns hardly vary is a fact about the rows; their residuals would hide it.
        self.residuals_ = [
            RobustCovariance(self.trim).fit(residual, weight, robust.still_)
            for residual in self._residual(x)
        ]

    def _validation_inputs(self, rng, validation):
        """Draw the rows of the validation loss by weight, as the networks see them."""
        X, weight = validation
        X = np.asarray(X)
        weight = check_weight(weight, len(X))
        drawn = draw(rng, weight, VALIDATION_ROWS)
        return self._inputs(X[drawn])

    def _inputs(self, X):
        """Return raw columns (n, d) as the networks see them, (n, d) float32 in standard units."""
        return self.scaler_.transform(X).astype(np.float32)

    def _residual(self, x):
        """Return reconstructed minus given, (m, n, d) float64, for x (n, d) float32."""
        residuals = []
        with torch.inference_mode():
            for part in torch.from_numpy(x).split(SCORED_AT_ONCE):
                given = part.expand(self.members, -1, -1)
                residuals.append(self.network_(given) - part)
        return torch.cat(residuals, 1).double().numpy()

    def _raw_score(self, X):
        scores = np.empty(len(X))
        with compute_threads(self.threads):
            for start in range(0, len(X), SCORED_AT_ONCE):
                part = slice(start, start + SCORED_AT_ONCE)
                distances = self._distances(X[part])
                scores[part] = distances.mean(axis=0)
        return scores

    def _distances(self, X):
        """Return the squared distance (m, n) of each row's residual to each member."""
        residuals = self._residual(self._inputs(X))
        pairs = zip(self.residuals_, residuals, strict=True)
        return np.stack([covariance.squared_distance(r) for covariance, r in pairs])

    def graph_score(self, graph: Graph) -> str:
        """Add the mean over members of |W'r|^2, where W W' = S^-1."""
        distances = []
        for residual, precision in self._graph_residuals(graph):
            root = np.linalg.cholesky(precision)
            white = graph.add("MatMul", residual, root)
            distance = graph.add("ReduceSumSquare", white, axes=[1], keepdims=0)
            distances.append(distance)
        return graph.add("Mean", *distances)

    def graph_contributions(self, graph: Graph) -> str:
        """Add r_i (S^-1 r)_i of each column i; they add up to `raw_score`."""
        terms = []
        for residual, precision in self._graph_residuals(graph):
            weighted = graph.add("MatMul", residual, precision)
            terms.append(graph.add("Mul", residual, weighted))
        return graph.add("Mean", *terms)

    def _graph_residuals(self, graph):
        """Add the centred residual [n, d] of each member; return (its name, S^-1) of each."""
        x = graph.scaled(self.scaler_)
        reach = self.config_.reach
        seen = graph.add("Clip", x, -reach, reach)
        residuals = []
        for member, covariance in enumerate(self.residuals_):
            reconstructed = self._graph_network(graph, seen, member)
            residual = graph.add("Sub", reconstructed, x)
            centred = graph.add("Sub", residual, covariance.mean_)
            residuals.append((centred, covariance.precision_))
        return residuals

    def _graph_network(self, graph, seen, member):
        """Add the layers of one member; return the name of its reconstruction [n, d]."""
        h = seen
        for i, layer in enumerate(self.network_.layers):
            weight = layer.weight[member].detach().numpy()
            bias = layer.bias[member, 0].detach().numpy()
            h = graph.add("Gemm", h, weight, bias)
            if i not in self.network_.linear:
                gate = graph.add("Sigmoid", h)
                h = graph.add("Mul", h, gate)  # SiLU, which ONNX has no operator for
        return h


def pick_device(device: str) -> str:
    """Return 'cpu' or 'cuda' for 'cpu', 'cuda' or 'auto'.

    Raises
    ------
    ValueError
        If it is another word, or 'cuda' and torch finds no GPU.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in {"cpu", "cuda"}:
        raise ValueError(
            f"device is {device!r}; choose 'cpu', 'cuda' or 'auto' (cuda where there is one)."
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is 'cuda', but torch finds no such GPU here; choose 'cpu' or 'auto'."
        )
    return device


@contextmanager
def compute_threads(n: int) -> Iterator[None]:
    """Let torch and numpy compute with n threads inside, with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        with threadpool_limits(n, "blas"):
            yield
    finally:
        torch.set_num_threads(before)
