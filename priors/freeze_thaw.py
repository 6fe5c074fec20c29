"""Learning curves of many configurations whose hyper-parameters decide how they learn: what freeze-thaw methods assume."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from priors.draw import Draw
from priors.task import TaskBatch, TaskShape, check_generator

_REFERENCES = 64                       # further configurations, by which functions of a task are standardised
_WIDTH = 32
_TRAITS = ("start", "gain", "speed", "shape", "power", "exponential", "logarithmic", "sigmoid", "steepness", "decline",
           "onset", "fails", "idle", "noise")


def random_functions(x: Tensor, n_functions: int, draw: Draw) -> Tensor:
    """Smooth random functions (B, n, k) of points x (B, n, p) in the unit cube, standardised over each task's points.

    Networks of two tanh layers; some inputs matter much more than others.
    """
    n_tasks, _, n_inputs = x.shape
    relevance = (1.2 * draw.normal(n_tasks, 1, n_inputs)).exp() * draw.log_uniform(n_tasks, 1, 1, low=0.3, high=3.0)
    inputs = (2 * x - 1) * relevance / math.sqrt(n_inputs)
    hidden = (inputs @ draw.normal(n_tasks, n_inputs, _WIDTH) + draw.normal(n_tasks, 1, _WIDTH)).tanh()
    mixed = 1.5 * hidden @ draw.normal(n_tasks, _WIDTH, _WIDTH) / math.sqrt(_WIDTH)
    hidden = (mixed + 0.5 * draw.normal(n_tasks, 1, _WIDTH)).tanh()
    values = hidden @ draw.normal(n_tasks, _WIDTH, n_functions)
    values = values - values.mean(1, keepdim=True)
    return values / values.std(1, keepdim=True).clamp_min(1e-6)


@dataclass(frozen=True)
class FreezeThawPrior:
    r"""Tasks of freeze-thaw optimisation: configurations λ in the unit cube, and noisy learning curves y(λ, t) near [0, 1].

    A curve starts at y0 and approaches y∞ by a random mixture of a power law, a stretched exponential, a logarithm and a
    sigmoid of time, larger is better. All its traits (levels, speed, shape, when it declines, whether it fails or does not
    learn at all, noise) are functions of λ, as in FT-PFN [1]_: each is Φ of a sum of what all configurations of the task
    share, a random network of λ, and a little of the configuration's own.

    In `sample`, a row is an evaluation: the features are λ and, last, the share t / m of the horizon. The context is a
    history in which configurations are continued in turn, one step after the other; a query is a later step of one of
    them, or of a new one.

    Parameters
    ----------
    n_steps : int
        Horizon m of the tasks of `sample`.

    References
    ----------
    .. [1] H. Rakotoarison et al., "In-Context Freeze-Thaw Bayesian Optimization for Hyperparameter Optimization", ICML 2024.

    Examples
    --------
    >>> import torch
    >>> from priors import TaskShape
    >>> generator = torch.Generator().manual_seed(0)
    >>> FreezeThawPrior().sample(TaskShape(4, 100, 3, 60), generator=generator).x.shape
    torch.Size([4, 100, 3])
    """

    n_steps: int = 20

    def __post_init__(self) -> None:
        if self.n_steps < 2:
            raise ValueError(f"n_steps={self.n_steps} is no horizon; use n_steps >= 2.")

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        if shape.n_features < 2:
            raise ValueError(f"n_features={shape.n_features}: a parameter and the step need n_features >= 2.")
        draw = Draw(check_generator(generator))
        n, m = shape.batch_size, self.n_steps
        n_configs = 2 + shape.n_rows // 5
        configs, curves = self.sample_curves(n, n_configs, shape.n_features - 1, m, generator=generator)
        # Those that are continued more often than others: a skewed choice at each row.
        favour = draw.log_uniform(n, n_configs, low=0.01, high=1.0)
        chosen = torch.multinomial(favour, shape.n_rows, replacement=True, generator=generator)
        visits = torch.nn.functional.one_hot(chosen, n_configs).cumsum(1)                    # (B, R, configs)
        step = visits.gather(2, chosen.unsqueeze(-1)).squeeze(-1)
        reached = visits[:, max(shape.n_context - 1, 0)].gather(1, chosen) * (shape.n_context > 0)
        later = reached + 1 + (draw.uniform(*chosen.shape) * (m - reached)).long()
        step[:, shape.n_context :] = later[:, shape.n_context :]
        step = step.clamp_max(m)
        y = curves.flatten(1).gather(1, chosen * m + step - 1)
        rows = configs.gather(1, chosen.unsqueeze(-1).expand(-1, -1, configs.shape[2]))
        return TaskBatch(torch.cat([rows, (step / m).unsqueeze(-1)], dim=-1), y, shape.n_context)

    def sample_curves(
        self, n_tasks: int, n_configs: int, n_params: int, n_steps: int, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Configurations (n_tasks, n_configs, n_params), and noisy curves (n_tasks, n_configs, n_steps) at t = 1 … m."""
        draw = Draw(check_generator(generator))
        configs = self._configurations(n_tasks, n_configs + _REFERENCES, n_params, draw)
        traits = self._traits(configs, draw)
        configs, traits = configs[:, :n_configs], {name: value[:, :n_configs] for name, value in traits.items()}
        return configs, self._observe(self._means(traits, n_steps, draw), traits, draw)

    @staticmethod
    def _configurations(n_tasks: int, n_configs: int, n_params: int, draw: Draw) -> Tensor:
        """Uniform on the cube; one parameter in six has two to five values only."""
        x = draw.uniform(n_tasks, n_configs, n_params)
        levels = draw.integers(n_tasks, 1, n_params, low=2, high=5)
        stepped = (x * levels).floor().clamp_max(levels - 1) / (levels - 1)
        return torch.where(draw.chance(n_tasks, 1, n_params, p=1 / 6), stepped, x)

    @staticmethod
    def _traits(configs: Tensor, draw: Draw) -> dict[str, Tensor]:
        """Of each configuration, (B, n, 1), uniform on [0, 1] over all tasks, correlated within a task."""
        n_tasks, n_configs, _ = configs.shape
        size = len(_TRAITS)
        shared = draw.uniform(n_tasks, 1, size, low=0.05, high=0.9)
        own = draw.log_uniform(n_tasks, 1, size, low=0.003, high=0.2)
        z = (
            shared.sqrt() * draw.normal(n_tasks, 1, size)
            + ((1 - shared) * (1 - own)).sqrt() * random_functions(configs, size, draw)
            + ((1 - shared) * own).sqrt() * draw.normal(n_tasks, n_configs, size)
        )
        uniform = (0.5 + 0.5 * (z / math.sqrt(2)).erf()).clamp(1e-6, 1 - 1e-6)
        return dict(zip(_TRAITS, uniform.split(1, dim=-1), strict=True))

    @staticmethod
    def _means(traits: dict[str, Tensor], n_steps: int, draw: Draw) -> Tensor:  # (B, n, m)
        n_tasks = len(traits["start"])
        u = torch.arange(1, n_steps + 1, device=draw.device) / n_steps

        def normal(name: str) -> Tensor:
            return math.sqrt(2) * torch.erfinv(2 * traits[name] - 1)

        floor, top = draw.uniform(n_tasks, 2, 1, 1).sort(1).values.unbind(1)
        top = torch.where(draw.chance(n_tasks, 1, 1, p=0.5), 1.0, top)
        same_start = draw.log_uniform(n_tasks, 1, 1, low=0.01, high=1.0)                # most tasks start at chance level
        start = floor + same_start * 0.5 * (top - floor) * (traits["start"] - 0.5)
        reach = traits["gain"] ** draw.log_uniform(n_tasks, 1, 1, low=0.2, high=3.0)
        idle = traits["idle"] < draw.uniform(n_tasks, 1, 1, low=-0.3, high=0.6)
        end = torch.where(idle, start, start + reach * (top - start))
        # A speed that all share in part, in units of the horizon; the four ways to rise, from 0 towards 1.
        time = u * (2.303 * (0.5 + 0.7 * normal("speed"))).exp()
        bend = (0.4 * normal("shape")).exp()
        rising = torch.stack([
            1 - (1 + time) ** -(1.5 * bend),
            -torch.expm1(-(time**bend)),
            1 - 1 / (1 + (1 + 3 * time).log() * bend),
            1 / (1 + (0.7 / time.clamp_min(1e-6)) ** (2.0 + 6.0 * traits["steepness"])),
        ])
        share = torch.stack([(3 * normal(name)).exp() for name in ("power", "exponential", "logarithmic", "sigmoid")])
        f = start + (end - start) * ((share / share.sum(0)) * rising).sum(0)
        declines = traits["decline"] < draw.uniform(n_tasks, 1, 1, low=-0.4, high=0.5)
        onset = 10 ** (-1.5 + 1.5 * traits["onset"])
        slope = draw.log_uniform(n_tasks, 1, 1, low=0.02, high=1.0) * (0.2 + traits["shape"])
        f = torch.where(declines, f - slope * (f - floor * 0.5).clamp_min(0) * (u - onset).clamp_min(0), f)
        fails = traits["fails"] < draw.uniform(n_tasks, 1, 1, low=-0.3, high=0.25)
        depth = draw.uniform(n_tasks, 1, 1)
        return torch.where(fails & (u > onset), start * depth, f)

    @staticmethod
    def _observe(f: Tensor, traits: dict[str, Tensor], draw: Draw) -> Tensor:  # (B, n, m)
        n_tasks, _, n_steps = f.shape
        spread = (1.2 * draw.normal(n_tasks, 1, 1) - 5.0 + 2.0 * (traits["noise"] - 0.5)).exp()
        wander = draw.log_uniform(n_tasks, 1, 1, low=5e-4, high=0.05)
        path = draw.normal(*f.shape).cumsum(-1) * wander / math.sqrt(n_steps)
        moved = (f - f[..., :1]).abs().clamp_max(0.3) / 0.3                             # a run that stands still is calm
        return (f + (0.1 + 0.9 * moved) * (spread * draw.normal(*f.shape) + path)).clamp(-0.05, 1.05)
