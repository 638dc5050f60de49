"""The networks of the autoencoder ensemble and their training.

Members are trained side by side: every array has a leading axis m, one entry per member.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lib import progress
from lib.detectors.sampling import draw


@dataclass(frozen=True)
class Config:
    """All that the networks and their training depend on, beside the rows."""

    members: int = 3  # networks that differ in their start, batches and noise
    hidden: tuple = (64, 32)  # widths of the encoder; the decoder mirrors them
    code: int | None = None  # width of the bottleneck; None: half of the columns, at least 2
    noise: float = 0.6  # standard deviation of the input noise, in standard units
    reach: float = 5.0  # inputs are clipped beyond so many standard units; the targets are not
    trim: float = 0.005  # share of the validation rows, of highest loss, that its mean leaves out
    epochs: int = 30  # at most
    patience: int = 6  # epochs without a lower validation loss of any member before the end
    epoch_rows: int = 32_768  # rows drawn an epoch, by weight; fewer if there are fewer
    batch_rows: int = 512
    learning_rate: float = 4e-3  # highest of the one-cycle schedule
    seed: int = 0


class Layer(nn.Module):
    """One affine map per member."""

    def __init__(
        self,
        members: int,
        n_in: int,
        n_out: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        # Uniform with variance 1 / n_in, so that a layer keeps the scale of its inputs
        # (LeCun et al., Efficient BackProp, 1998).
        bound = math.sqrt(3 / n_in)
        uniform = torch.rand(members, n_in, n_out, generator=generator)
        self.weight = nn.Parameter(bound * (2 * uniform - 1))
        self.bias = nn.Parameter(torch.zeros(members, 1, n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (m, n, n_in) to (m, n, n_out)."""
        return torch.baddbmm(self.bias, x, self.weight)


class Network(nn.Module):
    """Encoder and decoder, mirror images of each other, with a linear bottleneck between them."""

    def __init__(self, config: Config, d: int, generator: torch.Generator) -> None:
        super().__init__()
        code = config.code or max(2, d // 2)
        encoder = config.hidden
        decoder = reversed(encoder)
        sizes = [d, *encoder, code, *decoder, d]
        layers = [Layer(config.members, *pair, generator) for pair in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)
        # the layers without an activation: code and output take any sign and size
        self.linear = {len(encoder), len(layers) - 1}
        self.reach = config.reach

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct rows (m, n, d)."""
        # Clipped inputs cannot follow an extreme, so its reconstruction error stays large.
        h = x.clamp(-self.reach, self.reach)  # (m, n, d)
        for i, layer in enumerate(self.layers):
            h = layer(h)  # (m, n, hidden), then (m, n, code), …
            if i not in self.linear:
                h = functional.silu(h)
        return h  # (m, n, d)


def row_loss(reconstructed: Tensor, x: Tensor) -> Tensor:
    """Return the loss (m, n) of rows (m, n, d): log(1 + mean squared error).

    The logarithm bounds the pull of an anomalous row on the fit.
    """
    error = reconstructed - x
    mean_square = error.square().mean(-1)
    return torch.log1p(mean_square)


def trimmed_mean(losses: Tensor, trim: float) -> Tensor:
    """Return the mean (m,) over the rows of losses (m, n) without the highest share `trim`."""
    n = losses.shape[1]
    kept = math.ceil((1 - trim) * n)
    ascending = losses.sort(1).values
    return ascending[:, :kept].mean(1)


def train(
    x: NDArray,
    weight: NDArray,
    x_validation: NDArray,
    config: Config,
    device: str = "cpu",
) -> tuple[Network, dict[str, NDArray]]:
    """Fit all members to rows; no label is used.

    Parameters
    ----------
    x : ndarray of shape (n, d), float32, in standard units
    weight : ndarray of shape (n,)
        Rows are drawn in proportion to it.
    x_validation : ndarray of shape (n_validation, d), float32
    config : Config
    device : {"cpu", "cuda"}

    Returns
    -------
    network : Network
        On the CPU, each member as it was when its validation loss was lowest.
    history : dict of ndarray of shape (epochs, members), float64
        The mean loss of each epoch, ``train`` and ``validation``.
    """
    device = torch.device(device)
    m = config.members
    rng = np.random.default_rng(config.seed)
    noise = Noise(config, device)
    start = torch.Generator().manual_seed(config.seed)  # on the CPU: the same on every device
    network = Network(config, x.shape[1], start).to(device)
    x = torch.from_numpy(x).to(device)  # (n, d)
    held_out = torch.from_numpy(x_validation).to(device).expand(m, -1, -1)  # (m, n_validation, d)
    # the same noise in every epoch: validation losses differ by the network alone
    noisy_held_out = noise.add(held_out)

    n_steps = max(1, min(config.epoch_rows, len(x)) // config.batch_rows)  # in an epoch
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        config.learning_rate,
        total_steps=n_steps * config.epochs,
    )
    best = Best(network, m)
    waited = 0
    history: dict[str, list] = {"train": [], "validation": []}
    for _ in progress.steps(range(config.epochs), "epoch"):
        mean_loss = torch.zeros(m, device=device)
        batches = draw_batches(rng, weight, n_steps, config)  # (m, n_steps, batch)
        for rows in batches.to(device).unbind(1):  # (m, batch)
            clean = x[rows]  # (m, batch, d)
            noisy = noise.add(clean)
            # bfloat16 is faster on a GPU; losses and parameters stay float32
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                reconstructed = network(noisy)
            loss = row_loss(reconstructed.float(), clean).mean(1)  # (m,)
            optimiser.zero_grad()
            loss.sum().backward()  # members share nothing, so each follows its own loss
            optimiser.step()
            schedule.step()
            mean_loss += loss.detach() / n_steps
        with torch.inference_mode():
            losses = row_loss(network(noisy_held_out), held_out)  # (m, n_validation)
        validation_loss = trimmed_mean(losses, config.trim)  # (m,)
        history["train"].append(mean_loss.tolist())
        history["validation"].append(validation_loss.tolist())
        improved = best.keep(network, validation_loss)
        waited = 0 if improved else waited + 1
        if waited == config.patience:
            break
    network = best.put_into(network).cpu()
    return network, {part: np.array(losses) for part, losses in history.items()}


def draw_batches(
    rng: np.random.Generator,
    weight: NDArray,
    n_steps: int,
    config: Config,
) -> Tensor:
    """Draw the rows of one epoch by weight, positions (m, n_steps, batch), for each member anew."""
    n = n_steps * config.batch_rows
    # drawn rows come in ascending order, which is the order of time: batches must not be
    drawn = [rng.permutation(draw(rng, weight, n)) for _ in range(config.members)]
    positions = torch.from_numpy(np.stack(drawn))
    return positions.view(config.members, n_steps, -1)


class Noise:
    """Gaussian noise on the inputs, reproducible for a seed and a device."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.scale = config.noise
        self.device = device
        self.generator = torch.Generator(device).manual_seed(config.seed)

    def add(self, x: Tensor) -> Tensor:
        """Return x with fresh noise on every value."""
        noise = torch.randn(x.shape, generator=self.generator, device=self.device)
        return x + self.scale * noise


class Best:
    """The parameters of each member at its lowest validation loss so far."""

    def __init__(self, network: Network, members: int) -> None:
        self.lowest = torch.full((members,), torch.inf)
        self.parameters = {name: each.detach().clone() for name, each in network.named_parameters()}

    def keep(self, network: Network, loss: Tensor) -> bool:
        """Take over the members whose loss (m,) is lower than ever; tell whether there is one."""
        loss = loss.cpu()
        better = loss < self.lowest
        self.lowest[better] = loss[better]
        for name, each in network.named_parameters():
            self.parameters[name][better] = each.detach()[better]
        return bool(better.any())

    def put_into(self, network: Network) -> Network:
        """Return the network with those parameters."""
        network.load_state_dict(self.parameters)
        return network
