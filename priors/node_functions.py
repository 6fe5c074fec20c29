"""Random functions from a node's parents to the node: what the edges of a causal graph do.

Tensors are (J, W, R): J functions at once, W coordinates, R rows, so that a coordinate's rows lie next to each other.
Every function is written for many tasks at once; scalars that shape it come from `Correlated`, so functions of one task
resemble each other more than those of two tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from priors.draw import Draw, standardise

_HIDDEN = 32
_TREES, _TREE_DEPTH = 32, 6
_CENTRES = 64
_FREQUENCIES = 96
_CLUSTERS = 24


@dataclass
class Correlated:
    """Hyper-parameters of which each task prefers its own range.

    Per task and name a location m ~ U(0, 1) and a concentration s ~ LogU(0.1, 10⁴) are drawn; the value of the name in
    one use of that task is Beta(s·m, s·(1 - m)), mapped to the range asked for. Large s: all of a task's values agree;
    small s: they scatter. A name is drawn for all uses at once, when it is first asked for.

    References
    ----------
    .. [1] J. Qu et al., "TabICLv2", 2026, appendix on the prior.
    """

    task: Tensor              # (U,) task of each use
    n_tasks: int
    draw: Draw
    _known: dict[str, Tensor] = field(default_factory=dict)

    def unit(self, name: str, use: Tensor) -> Tensor:
        """Values in [0, 1], one for each of the uses numbered `use`."""
        if name not in self._known:
            location = self.draw.uniform(self.n_tasks)[self.task]
            concentration = self.draw.log_uniform(self.n_tasks, low=0.1, high=1e4)[self.task]
            tiny = 1e-6
            value = self.draw.beta(concentration * location + tiny, concentration * (1.0 - location) + tiny)
            self._known[name] = value.clamp(0.0, 1.0)
        return self._known[name][use]

    def linear(self, name: str, use: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * self.unit(name, use)

    def log(self, name: str, use: Tensor, low: float, high: float) -> Tensor:
        return low * (high / low) ** self.unit(name, use)

    def log_integer(self, name: str, use: Tensor, low: int, high: int) -> Tensor:
        return self.log(name, use, low, high + 1).floor().clamp(low, high).long()


@dataclass(frozen=True)
class Jobs:
    """Which functions to evaluate: their inputs and the scalars that shape them."""

    h: Tensor                 # (J, W, R), standardised coordinates
    use: Tensor               # (J,) numbers by which `scalars` knows them
    activation: Tensor        # (J,) index into ACTIVATIONS, on the CPU
    n_outputs: int
    scalars: Correlated

    @property
    def draw(self) -> Draw:
        return self.scalars.draw

    @property
    def size(self) -> tuple[int, int, int]:
        return self.h.shape[0], self.h.shape[1], self.h.shape[2]


# Functions of a pre-activation of unit scale. Steps and indicators make nodes that trees explain well, smooth ones those
# that linear models and kernels do. Monotone functions come more often: a chain of the others is soon as hard to learn as
# noise, and real tables are easier than that (benchmarks/learnability.py).
ACTIVATIONS: tuple[tuple[float, Callable[[Tensor], Tensor]], ...] = (
    (3.0, lambda z: z),
    (3.0, torch.tanh),
    (2.0, torch.relu),
    (2.0, lambda z: torch.nn.functional.leaky_relu(z, 0.2)),
    (0.7, torch.abs),
    (0.7, torch.square),
    (0.7, torch.sin),
    (0.2, lambda z: torch.sin(3.0 * z)),
    (0.7, lambda z: torch.exp(-z.square())),
    (1.5, lambda z: torch.exp(z.clamp(max=3.0))),
    (0.5, lambda z: z.abs().sqrt()),
    (1.5, lambda z: z.abs().log1p() * z.sign()),
    (1.5, torch.nn.functional.softplus),
    (2.0, lambda z: z.clamp(-1.0, 1.0)),
    (1.0, torch.sign),
    (0.5, lambda z: (z.abs() <= 1.0).float()),
    (1.5, lambda z: torch.round(1.5 * z)),
    (0.5, torch.nn.functional.elu),
    (0.5, torch.nn.functional.silu),
    (0.4, lambda z: z.clamp(0.0, 2.0)),
    (0.3, lambda z: z.clamp(-4.0, 4.0) ** 3),
    (0.2, lambda z: z - torch.floor(z)),
    (0.3, lambda z: 1.0 / (z.abs() + 0.1)),
    (0.5, lambda z: (z > 0).float()),
)
ACTIVATION_WEIGHTS = tuple(weight for weight, _ in ACTIVATIONS)


def activate(z: Tensor, which: Tensor) -> Tensor:
    """Apply to z[j] the activation `which[j]`; `which` is on the CPU, so that only those in use are computed."""
    out = torch.empty_like(z)
    for index in which.unique().tolist():
        chosen = (which == index).nonzero().squeeze(1).to(z.device)
        out[chosen] = ACTIVATIONS[index][1](z[chosen])
    return out


def row_standardise(z: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the rows, the last axis."""
    return standardise(z, dim=-1)


def random_weights(jobs: Jobs, name: str, n: int) -> Tensor:  # (J, n)
    """Positive weights of mean square 1 that fall off like a power, in random order: few coordinates may dominate."""
    n_jobs = len(jobs.h)
    power = jobs.scalars.log(f"{name} power", jobs.use, 0.03, 4.0).unsqueeze(1)
    spread = jobs.scalars.log(f"{name} spread", jobs.use, 1e-3, 2.0).unsqueeze(1)
    rank = jobs.draw.permutation(n_jobs, n) + 1.0
    weights = rank ** -power * torch.exp(spread * jobs.draw.normal(n_jobs, n))
    return weights / weights.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)


def random_matrix(jobs: Jobs, name: str, n_out: int, n_in: int) -> Tensor:  # (J, n_out, n_in)
    """Gaussian, its input columns weighted unevenly, rows of unit length."""
    matrix = jobs.draw.normal(len(jobs.h), n_out, n_in) * random_weights(jobs, name, n_in).unsqueeze(1)
    return matrix / matrix.norm(dim=2, keepdim=True).clamp_min(1e-12)


def linear(jobs: Jobs) -> Tensor:
    return random_matrix(jobs, "linear", jobs.n_outputs, jobs.h.shape[1]) @ jobs.h


def perceptron(jobs: Jobs) -> Tensor:
    """One to three layers of up to 32 units; the activation's gain and shift are drawn for each layer and unit."""
    scalars, draw, (n_jobs, _, _) = jobs.scalars, jobs.draw, jobs.size
    width = scalars.log_integer("width", jobs.use, 2, _HIDDEN)
    n_layers = scalars.log_integer("layers", jobs.use, 1, 3)
    unused = (torch.arange(_HIDDEN, device=draw.device) >= width.unsqueeze(1)).unsqueeze(2)
    h = jobs.h
    for layer in range(int(n_layers.max())):
        z = row_standardise(random_matrix(jobs, "weights", _HIDDEN, h.shape[1]) @ h)
        gain = scalars.log("gain", jobs.use, 0.3, 4.0).view(-1, 1, 1)
        shift = draw.normal(n_jobs, _HIDDEN, 1) * scalars.unit("shift", jobs.use).view(-1, 1, 1)
        z = activate(gain * (z + shift), jobs.activation).masked_fill(unused, 0.0)
        h = z if layer == 0 else torch.where((layer < n_layers).view(-1, 1, 1), z, h)
    return random_matrix(jobs, "readout", jobs.n_outputs, _HIDDEN) @ h


def trees(jobs: Jobs) -> Tensor:
    """Sum of 1 – 32 oblivious trees of depth 1 – 6 with N(0, 1) leaves.

    An oblivious tree asks the same question at all nodes of a level, "is coordinate c above its value in row r?", so a
    leaf is the number written by its answers.
    """
    draw, (n_jobs, _, rows) = jobs.draw, jobs.size
    n_trees = jobs.scalars.log_integer("trees", jobs.use, 1, _TREES)
    depth = jobs.scalars.log_integer("depth", jobs.use, 1, _TREE_DEPTH).unsqueeze(1)
    most, deepest = int(n_trees.max()), int(depth.max())
    depth = (depth + draw.integers(n_jobs, most, low=-1, high=1)).clamp(1, deepest)
    coordinate = draw.integers(n_jobs, most * deepest, low=0, high=jobs.h.shape[1] - 1)
    row = draw.integers(n_jobs, most * deepest, low=0, high=rows - 1)
    job = torch.arange(n_jobs, device=draw.device).unsqueeze(1)
    threshold = jobs.h[job, coordinate, row].view(n_jobs, most, deepest)
    threshold = threshold.masked_fill(torch.arange(deepest, device=draw.device) >= depth.unsqueeze(2), torch.inf)
    coordinate = coordinate.view(n_jobs, most, deepest)
    leaf = torch.zeros(n_jobs, most, rows, dtype=torch.int32, device=draw.device)
    for level in range(deepest):
        values = jobs.h[job, coordinate[:, :, level]]                                           # (J, T, R)
        leaf.add_(values > threshold[:, :, level : level + 1], alpha=2**level)
    tree = torch.arange(n_jobs * most, device=draw.device).view(n_jobs, most, 1)
    table = draw.normal(n_jobs, most, 2**deepest, jobs.n_outputs)
    table = table * (torch.arange(most, device=draw.device) < n_trees.unsqueeze(1)).view(n_jobs, most, 1, 1)
    index = (leaf + tree.int() * 2**deepest).transpose(1, 2).reshape(n_jobs * rows, most)
    total = torch.nn.functional.embedding_bag(index, table.view(-1, jobs.n_outputs), mode="sum")
    return total.view(n_jobs, rows, jobs.n_outputs).transpose(1, 2)


def discretise(jobs: Jobs) -> Tensor:
    """The row's nearest of 2 – 64 centres decides: a random value for each centre, or a linear function of it."""
    draw, (n_jobs, width, _) = jobs.draw, jobs.size
    n_centres = jobs.scalars.log_integer("centres", jobs.use, 2, _CENTRES)
    code, centres = nearest_centre(jobs, n_centres, int(n_centres.max()))
    by_value = draw.normal(n_jobs, jobs.n_outputs, centres.shape[2])
    by_place = random_matrix(jobs, "discrete", jobs.n_outputs, width) @ centres
    table = torch.where(draw.chance(n_jobs, 1, 1, p=0.5), by_value, by_place)                   # (J, O, K)
    return table.gather(2, code.unsqueeze(1).expand(-1, jobs.n_outputs, -1))


def nearest_centre(jobs: Jobs, n_centres: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Index (J, R) of the nearest of `n_centres` random rows in unevenly weighted coordinates; and the centres (J, W, K)."""
    draw, (n_jobs, width, rows) = jobs.draw, jobs.size
    weighted = jobs.h * random_weights(jobs, "metric", width).unsqueeze(2)
    place = draw.integers(n_jobs, 1, most, low=0, high=rows - 1)
    centres = weighted.gather(2, place.expand(-1, width, -1))
    distance = squared_distance(weighted, centres)
    unused = torch.arange(most, device=draw.device) >= n_centres.unsqueeze(1)
    return distance.masked_fill(unused.unsqueeze(1), torch.inf).argmin(2), centres


def squared_distance(h: Tensor, centres: Tensor) -> Tensor:  # (J, W, R), (J, W, K) -> (J, R, K)
    cross = h.transpose(1, 2) @ centres
    return h.square().sum(1).unsqueeze(2) - 2.0 * cross + centres.square().sum(1).unsqueeze(1)


def gaussian_process(jobs: Jobs) -> Tensor:
    """Random Fourier features with heavy-tailed frequencies: draws of a Gaussian process, from smooth to rough.

    Radii have the distribution function 1 - (1 + r)^(1 - a) with a ∈ [2, 20].
    """
    draw, (n_jobs, width, _) = jobs.draw, jobs.size
    tail = jobs.scalars.log("tail", jobs.use, 2.0, 20.0).view(-1, 1, 1)
    scale = jobs.scalars.log("frequency", jobs.use, 0.5, 10.0).view(-1, 1, 1)
    radius = draw.uniform(n_jobs, _FREQUENCIES, 1).clamp_min(1e-3) ** (1.0 / (1.0 - tail)) - 1.0
    direction = random_matrix(jobs, "direction", _FREQUENCIES, width)
    phase = draw.uniform(n_jobs, _FREQUENCIES, 1, high=2.0 * torch.pi)
    waves = torch.cos(scale * radius * (direction @ jobs.h) + phase)
    return draw.normal(n_jobs, jobs.n_outputs, _FREQUENCIES) @ waves


def quadratic(jobs: Jobs) -> Tensor:
    """Random quadratic forms of a few directions."""
    directions = random_matrix(jobs, "quadratic", 6, jobs.h.shape[1]) @ jobs.h
    ones = torch.ones_like(directions[:, :1])
    z = torch.cat([directions, ones], dim=1)                                                    # (J, 7, R)
    pairs = (z.unsqueeze(1) * z.unsqueeze(2)).flatten(1, 2)                                     # (J, 49, R)
    return jobs.draw.normal(len(z), jobs.n_outputs, pairs.shape[1]) @ pairs


def product(jobs: Jobs) -> Tensor:
    """Product of a linear function and an activated one."""
    first = row_standardise(random_matrix(jobs, "first", jobs.n_outputs, jobs.h.shape[1]) @ jobs.h)
    second = row_standardise(random_matrix(jobs, "second", jobs.n_outputs, jobs.h.shape[1]) @ jobs.h)
    shift = jobs.scalars.linear("offset", jobs.use, 0.0, 2.0).view(-1, 1, 1)
    return (first + shift) * activate(second, jobs.activation)


def soft_clusters(jobs: Jobs) -> Tensor:
    """Soft assignment to 2 – 24 centres, each with a value of its own."""
    draw, (n_jobs, width, _) = jobs.draw, jobs.size
    n_centres = jobs.scalars.log_integer("clusters", jobs.use, 2, _CLUSTERS)
    sharpness = jobs.scalars.log("sharpness", jobs.use, 0.2, 20.0).view(-1, 1, 1)
    _, centres = nearest_centre(jobs, n_centres, _CLUSTERS)
    distance = squared_distance(jobs.h, centres) / width**0.5
    unused = torch.arange(_CLUSTERS, device=draw.device) >= n_centres.unsqueeze(1)
    share = torch.softmax((-sharpness * distance).masked_fill(unused.unsqueeze(1), -torch.inf), dim=2)
    return draw.normal(n_jobs, jobs.n_outputs, _CLUSTERS) @ share.transpose(1, 2)


FUNCTIONS: tuple[tuple[float, Callable[[Jobs], Tensor]], ...] = (
    (2.0, linear),
    (3.0, perceptron),
    (2.0, trees),
    (0.8, discretise),
    (1.5, gaussian_process),
    (0.6, quadratic),
    (0.4, product),
    (0.7, soft_clusters),
)
FUNCTION_WEIGHTS = tuple(weight for weight, _ in FUNCTIONS)
