"""The networks of the autoencoder ensemble and their training.

Members are trained side by side: every array has a leading axis m, one entry a member.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lib import progress
from lib.scaling import draw


@dataclass(frozen=True)
class Config:
    """All that the networks and their training depend on, beside the rows."""

    members: int = 3  # networks that differ in their start, batches and noise
    hidden: tuple = (64, 32)  # widths of the encoder; the decoder mirrors them
    code: int | None = None  # width of the bottleneck; None: half of the columns, at least 2
    noise: float = 0.6  # standard deviation of the input noise, in standard units
    reach: float = 5.0  # inputs are clipped beyond so many standard units; the targets are not
    trim: float = 0.02  # share of the validation rows, those of highest loss, that its loss leaves out
    epochs: int = 30  # at most
    patience: int = 6  # epochs without a lower validation loss of any member before training ends
    epoch_rows: int = 32_768  # rows drawn an epoch, by weight; an epoch of fewer rows draws as many as there are
    batch_rows: int = 512
    learning_rate: float = 4e-3  # highest of the one-cycle schedule
    seed: int = 0


class Layer(nn.Module):
    """One affine map a member."""

    def __init__(self, members, n_in, n_out, generator):
        super().__init__()
        bound = math.sqrt(3 / n_in)  # variance 1 / n_in
        self.weight = nn.Parameter(bound * (2 * torch.rand(members, n_in, n_out, generator=generator) - 1))
        self.bias = nn.Parameter(torch.zeros(members, 1, n_out))

    def forward(self, x):
        return torch.baddbmm(self.bias, x, self.weight)  # (m, n, n_in) -> (m, n, n_out)


class Network(nn.Module):
    """Encoder and decoder, mirror images; the code between them is narrow and linear."""

    def __init__(self, config, d, generator):
        super().__init__()
        code = config.code or max(2, d // 2)
        sizes = [d, *config.hidden, code, *reversed(config.hidden), d]
        self.layers = nn.ModuleList(Layer(config.members, *pair, generator) for pair in pairwise(sizes))
        self.linear = {len(config.hidden), len(sizes) - 2}  # the layers without an activation: code and output
        self.reach = config.reach

    def forward(self, x):
        h = x.clamp(-self.reach, self.reach)  # (m, n, d): cannot follow, and so restore, an extreme
        for i, layer in enumerate(self.layers):
            h = layer(h) if i in self.linear else functional.silu(layer(h))  # (m, n, hidden), (m, n, code) ...
        return h  # (m, n, d)


def row_loss(restored, x):
    """Loss (m, n) of rows (m, n, d): log(1 + mean squared error), so that a strange row pulls little."""
    return torch.log1p((restored - x).square().mean(-1))


def train(x, weight, x_validation, config, device="cpu"):
    """Fit all members to rows x (n, d) float32, drawn by weight (n,); no label anywhere.

    Returns
    -------
    network : Network, on the CPU, each member as it was when its validation loss was lowest
    history : dict, ``train`` and ``validation`` (epochs, members) float64
    """
    device, m, rng = torch.device(device), config.members, np.random.default_rng(config.seed)
    generator = torch.Generator(device).manual_seed(config.seed)
    network = Network(config, x.shape[1], torch.Generator().manual_seed(config.seed)).to(device)
    x, held_out = torch.from_numpy(x).to(device), torch.from_numpy(x_validation).to(device).expand(m, -1, -1)
    noise = config.noise * torch.randn(held_out.shape, generator=generator, device=device)  # (m, n_validation, d)
    n_steps = max(1, min(config.epoch_rows, len(x)) // config.batch_rows)  # an epoch
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=n_steps * config.epochs)
    best, waited = Best(network, m), 0
    history = {"train": [], "validation": []}
    for _ in progress.steps(range(config.epochs), "epoch"):
        drawn = [rng.permutation(draw(rng, weight, n_steps * config.batch_rows)) for _ in range(m)]
        losses = torch.zeros(m, device=device)
        for rows in torch.from_numpy(np.stack(drawn)).to(device).view(m, n_steps, -1).unbind(1):  # (m, batch)
            clean = x[rows]  # (m, batch, d)
            noisy = clean + config.noise * torch.randn(clean.shape, generator=generator, device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                restored = network(noisy)
            loss = row_loss(restored.float(), clean).mean(1)  # (m,)
            optimiser.zero_grad()
            loss.sum().backward()  # members share nothing, so each follows its own loss
            optimiser.step()
            schedule.step()
            losses += loss.detach() / n_steps
        with torch.inference_mode():
            validation_loss = trimmed_mean(row_loss(network(held_out + noise), held_out), config.trim)  # (m,)
        waited = 0 if best.keep(network, validation_loss) else waited + 1
        history["train"].append(losses.tolist())
        history["validation"].append(validation_loss.tolist())
        if waited == config.patience:
            break
    return best.restore(network).cpu(), {name: np.array(each) for name, each in history.items()}


class Best:
    """The parameters of each member at its lowest validation loss so far."""

    def __init__(self, network, members):
        self.lowest = torch.full((members,), torch.inf)
        self.parameters = {name: each.detach().clone() for name, each in network.named_parameters()}

    def keep(self, network, loss):
        """Take over the members whose loss (m,) is lower than ever; returns whether there is one."""
        better = loss.cpu() < self.lowest
        self.lowest[better] = loss.cpu()[better]
        for name, each in network.named_parameters():
            self.parameters[name][better] = each.detach()[better]
        return bool(better.any())

    def restore(self, network):
        """Return the network with those parameters."""
        network.load_state_dict(self.parameters)
        return network


def trimmed_mean(losses, trim):
    """Mean (m,) over the rows of losses (m, n) without the highest share `trim`."""
    kept = math.ceil((1 - trim) * losses.shape[1])
    return losses.sort(1).values[:, :kept].mean(1)
