"""Tasks computed by random neural networks: Bayesian neural networks, with the hyper-parameters of three papers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from priors.distributions import Gamma, Parameter, ScaledBeta, Uniform, UniformInteger, check_parameter, draw_parameter
from priors.draw import Draw, standardise
from priors.hebo import kumaraswamy
from priors.labels import finish_labels
from priors.task import TaskBatch, TaskShape, check_generator, in_chunks

_ACTIVATIONS = {"identity": lambda h: h, "tanh": torch.tanh, "relu": torch.relu}
_TARGETS = ("value", "median", "softmax")
_MAX_LEVELS = 200

# Of the tabular networks of [1].
_WIDTH = ScaledBeta(2.0, 4.0, 2, 150)
_WEIGHT_STD = Gamma(3.6188, 1 / 0.06774)
_NOISE_STD = Gamma(1.8663, 1 / 0.05275)


@dataclass(frozen=True)
class BNNPrior:
    """Targets are the output of a multilayer perceptron with independent Gaussian weights and biases.

    h_1 = W_1 x + b_1 + ε_1, h_l = W_l φ(h_(l-1)) + b_l + ε_l, and the output likewise from the last hidden layer. Every
    task has its own network and its own hyper-parameters; those given as a distribution are drawn once a task.

    Parameters
    ----------
    n_hidden_layers, width : int or Distribution
        Hidden layers, at least one, and the units of each.
    weight_std : float or Distribution
        Of all weights and biases; not divided by the square root of the width.
    activation : {"tanh", "relu", "identity"}
    sparsity : float
        Share of the weights between hidden layers that is 0; the others are divided by √(1 - sparsity).
    noise_std, output_noise_std : float or Distribution
        Of ε, in hidden layers and at the output.
    is_noise_per_unit : bool
        Whether each hidden and output unit has a standard deviation of its own, `|N(0, noise_std²)|`.
    target : {"value", "median", "softmax"}
        The output as it is; whether it exceeds the task's median; or one of `n_classes` classes, drawn with
        probabilities softmax(outputs).
    n_classes : int
        For "softmax".
    warp_stds : (float, float) or None
        Then x ~ U[0, 1]^d, and the network sees x warped by 1 - (1 - x^a)^b with ln a, ln b normal with these standard
        deviations, centred, scaled to unit variance and divided by √d. None: x ~ N(0, I), seen as it is.
    has_levels : bool
        Whether some columns are shown as ordinal or nominal codes only, after the target was computed.

    References
    ----------
    .. [1] S. Müller et al., "Transformers Can Do Bayesian Inference", ICLR 2022: `small`, `big`, `tabular`.
    .. [2] S. Müller et al., "PFNs4BO", ICML 2023: `bo`.

    Examples
    --------
    >>> from priors import BNNPrior, TaskShape
    >>> tasks = BNNPrior.tabular().sample(TaskShape(4, 32, 6, 16), generator=torch.Generator().manual_seed(0))
    >>> tasks.n_classes
    tensor([2, 2, 2, 2])
    """

    n_hidden_layers: Parameter = 2
    width: Parameter = _WIDTH
    weight_std: Parameter = _WEIGHT_STD
    activation: str = "tanh"
    sparsity: float = 0.0
    noise_std: Parameter = _NOISE_STD
    output_noise_std: Parameter = _NOISE_STD
    is_noise_per_unit: bool = True
    target: str = "value"
    n_classes: int = 2
    warp_stds: tuple[float, float] | None = None
    has_levels: bool = False

    def __post_init__(self) -> None:
        for name in ("n_hidden_layers", "width", "weight_std"):
            check_parameter(name, getattr(self, name))
        for name in ("noise_std", "output_noise_std"):
            check_parameter(name, getattr(self, name), zero=True)
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r} is unknown; use one of {', '.join(map(repr, _ACTIVATIONS))}.")
        if self.target not in _TARGETS:
            raise ValueError(f"target={self.target!r} is unknown; use one of {', '.join(map(repr, _TARGETS))}.")
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity={self.sparsity!r} is no share below 1; use 0 for dense weights.")
        if self.n_classes < 2:
            raise ValueError(f"n_classes={self.n_classes!r} allows a single class; use n_classes >= 2.")

    @classmethod
    def small(cls, activation: str = "tanh", width: int = 5) -> BNNPrior:
        """The small network of [1], two classes; meant for 3 features. "identity" is what its code computes."""
        return cls(1, width, 1.0, activation, noise_std=0.0, output_noise_std=0.0, target="softmax")

    @classmethod
    def big(cls, activation: str = "tanh") -> BNNPrior:
        """The big network of [1]: as `small`, with 64 hidden units; meant for 8 features."""
        return cls.small(activation, width=64)

    @classmethod
    def tabular(cls, activation: str = "tanh") -> BNNPrior:
        """Balanced two-class tables as [1] used them for real data, with ordinal and nominal columns."""
        # Differs from [1]: rows stay in random order instead of alternating between classes, and all features are real
        # ones, as their number is the shape's.
        return cls(activation=activation, target="median", has_levels=True)

    @classmethod
    def bo(cls) -> BNNPrior:
        """Deep narrow regression networks on the unit cube, the BNN prior of [2]."""
        return cls(
            n_hidden_layers=UniformInteger(8, 15),
            width=UniformInteger(36, 150),
            weight_std=Uniform(0.0890, 0.1929),
            sparsity=0.145,
            noise_std=Uniform(3.1e-4, 1.38e-3),
            output_noise_std=Uniform(3.6e-4, 1.34e-3),
            is_noise_per_unit=False,
            warp_stds=(0.976, 0.800),
        )

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        on_cpu = check_generator(generator).device.type == "cpu"
        # On a CPU: the layers of a few tasks fit its cache, and fewer tasks are padded to fewer units.
        return in_chunks(self._sample_together, shape, generator, rows_at_once=2**11 if on_cpu else 2**18)

    def _sample_together(self, shape: TaskShape, generator: torch.Generator) -> TaskBatch:
        draw = Draw(generator)
        x, seen = self._draw_inputs(shape, draw)
        output = self._draw_outputs(seen, self.n_classes if self.target == "softmax" else 1, draw)       # (B, R, O)
        if self.has_levels:
            x = _draw_levels(x, draw)
        if self.target == "value":
            return TaskBatch(x=x, y=output.squeeze(2), n_context=shape.n_context)
        if self.target == "median":
            label = (output.squeeze(2) > output.squeeze(2).median(1, keepdim=True).values).long()
        else:                                                       # the largest of logit + Gumbel noise
            label = (output - draw.exponential(*output.shape).clamp_min(1e-30).log()).argmax(2)
        return finish_labels(x, label, shape.n_context, draw)

    def _draw_inputs(self, shape: TaskShape, draw: Draw) -> tuple[Tensor, Tensor]:
        """Features (B, R, F) and what the network sees of them."""
        size = (shape.batch_size, shape.n_rows, shape.n_features)
        if self.warp_stds is None:
            x = draw.normal(*size)
            return x, x
        x = draw.uniform(*size)
        return x, self._draw_warped(x, draw)

    def _draw_warped(self, x: Tensor, draw: Draw) -> Tensor:  # (B, R, F) twice
        assert self.warp_stds is not None
        a, b = ((std * draw.normal(len(x), 1, x.shape[2])).exp() for std in self.warp_stds)
        return (kumaraswamy(x, a, b) - 0.5) * (12 / x.shape[2]) ** 0.5

    def values(self, x: Tensor, draw: Draw) -> Tensor:  # (B, R, F); (B, R)
        """Noisy values at given points of the unit cube, of a network a task, for those that warp it, as `bo` does."""
        if self.warp_stds is None or self.target != "value":
            raise ValueError("values() is for real targets on the unit cube; use BNNPrior.bo().")
        at_once = max(1, (2**11 if x.device.type == "cpu" else 2**18) // x.shape[1])
        return torch.cat([self._draw_outputs(self._draw_warped(part, draw), 1, draw) for part in x.split(at_once)])[..., 0]

    def _draw_outputs(self, x: Tensor, n_outputs: int, draw: Draw) -> Tensor:  # (B, R, F); (B, R, O)
        """All networks at once: widths are padded to the largest, and shallow networks skip the later layers."""
        batch = x.shape[0]
        n_layers, width = (
            draw_parameter(value, batch, 1, 1, draw=draw).long().clamp_min(1) for value in (self.n_hidden_layers, self.width)
        )
        std = draw_parameter(self.weight_std, batch, 1, 1, draw=draw)
        noise_std = draw_parameter(self.noise_std, batch, 1, 1, draw=draw)
        output_noise_std = draw_parameter(self.output_noise_std, batch, 1, 1, draw=draw)
        activation = _ACTIVATIONS[self.activation]
        deepest, widest = int(n_layers.max()), int(width.max())
        alive = torch.arange(widest, device=x.device) < width                                            # (B, 1, W)

        def affine(h: Tensor, n_units: int, noise: Tensor, sparsity: float = 0.0) -> Tensor:
            w = draw.normal(batch, h.shape[2], n_units)
            if sparsity:
                w = w * draw.chance(*w.shape, p=1 - sparsity) / (1 - sparsity) ** 0.5
            if self.is_noise_per_unit:
                noise = noise * draw.normal(batch, 1, n_units).abs()
            h = std * (h @ w + draw.normal(batch, 1, n_units))
            return h + noise * draw.normal(*h.shape)

        h = affine(x, widest, noise_std) * alive
        for layer in range(1, deepest):
            h = torch.where(layer < n_layers, affine(activation(h), widest, noise_std, self.sparsity) * alive, h)
        return affine(activation(h), n_outputs, output_noise_std)


def _draw_levels(x: Tensor, draw: Draw) -> Tensor:  # (B, R, F) twice
    """Replace random columns by codes: the number of thresholds, from U(-0.5, 0.5) on the z-scored column, below a value.

    The share of coded columns is Beta(0.5, 0.8). Half of them are ordinal, with 1 … 200 thresholds; the others are nominal,
    with 1 … 10 thresholds and permuted codes. Mostly the number is small, from Beta(0.1, 2). A column in which a single
    code occurs stays as it is.
    """
    batch, _, n_features = x.shape
    n_coded = ScaledBeta(0.5, 0.8, 0, n_features).sample(batch, 1, draw=draw)
    is_coded = draw.permutation(batch, n_features) < n_coded
    is_nominal = draw.chance(batch, n_features, p=0.5)
    nominal = ScaledBeta(0.1, 2.0, 1, 10).sample(batch, n_features, draw=draw)
    ordinal = ScaledBeta(0.1, 2.0, 1, _MAX_LEVELS).sample(batch, n_features, draw=draw)
    n_thresholds = torch.where(is_nominal, nominal, ordinal).long().unsqueeze(2)                         # (B, F, 1)
    thresholds = draw.uniform(batch, n_features, _MAX_LEVELS, low=-0.5, high=0.5)
    unused = torch.arange(_MAX_LEVELS, device=x.device) >= n_thresholds
    thresholds = thresholds.masked_fill(unused, torch.inf).sort(2).values
    code = torch.searchsorted(thresholds, standardise(x).mT.contiguous()).mT                             # (B, R, F)
    # 127 has no factor in common with 2 … 11, the possible numbers of codes, so this permutes them.
    permuted = (127 * code + 1) % (n_thresholds.mT + 1)
    code = torch.where(is_nominal.unsqueeze(1), permuted, code)
    varies = (code != code[:, :1]).any(1)
    return torch.where((is_coded & varies).unsqueeze(1), code.float(), x)
