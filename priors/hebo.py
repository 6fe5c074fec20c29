"""Functions worth optimising: Gaussian processes with the hyper-priors of HEBO, with hints and with constraints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from priors.distributions import Gamma, LogNormal, Parameter, check_parameter, draw_parameter
from priors.draw import Draw, standardise
from priors.gp import Hyperparameters, check_kernel, draw_gp
from priors.task import TaskBatch, TaskShape, check_generator

# Second numbers of the Gamma distributions are read as rates.
_LENGTHSCALE = Gamma(1.21065, 1.52122)
_OUTPUTSCALE = Gamma(0.84523, 0.39936)
_NOISE = LogNormal(-4.63, 0.5)
_MAX_SECTIONS = 5


def kumaraswamy(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Distribution function 1 - (1 - x^a)^b of [0, 1] onto itself; a = b = 1 is the identity."""
    return 1 - (1 - x.clamp(0, 1) ** a) ** b


@dataclass(frozen=True)
class HEBOPrior:
    """Zero-mean Gaussian processes on U[0, 1]^d; every feature has its lengthscale, or no influence at all.

    Parameters
    ----------
    lengthscale, outputscale, noise : float or Distribution
        As in `GPPrior`, a lengthscale for each feature. Noise is a variance and part of every target.
    unused_probability : float
        Probability that a feature does not matter; at least one always does.
    warp_std : float
        Functions see 1 - (1 - x^a)^b with ln a, ln b ~ N(0, warp_std²) for each feature; 0 means no warp, [1] tried 0.75.
    kernel : {"matern32", "matern52", "rbf"}
        [1] has Matérn-3/2.
    grows_with_dimension : bool
        Whether lengthscales are multiplied by √d, so that functions of many features are as smooth along the diagonal of
        the cube as those of one [2].

    References
    ----------
    .. [1] S. Müller et al., "PFNs4BO: In-Context Learning for Bayesian Optimization", ICML 2023, the HEBO+ prior.
    .. [2] C. Hvarfner et al., "Vanilla Bayesian Optimization Performs Great in High Dimensions", ICML 2024.

    Examples
    --------
    >>> from priors import HEBOPrior, TaskShape
    >>> tasks = HEBOPrior().sample(TaskShape(2, 20, 3, 10), generator=torch.Generator().manual_seed(0))
    >>> tasks.y.shape
    torch.Size([2, 20])
    """

    lengthscale: Parameter = _LENGTHSCALE
    outputscale: Parameter = _OUTPUTSCALE
    noise: Parameter = _NOISE
    unused_probability: float = 0.3
    warp_std: float = 0.0
    kernel: str = "matern32"
    grows_with_dimension: bool = False

    def __post_init__(self) -> None:
        for name in ("lengthscale", "outputscale", "noise"):
            check_parameter(name, getattr(self, name))
        check_kernel(self.kernel)
        if not 0 <= self.unused_probability < 1:
            raise ValueError(f"unused_probability={self.unused_probability!r} is no probability below 1; try 0.3.")
        if not self.warp_std >= 0:
            raise ValueError(f"warp_std={self.warp_std!r} is negative; use 0 for no warp, or 0.75.")

    def draw_hyperparameters(self, batch_size: int, n_features: int, draw: Draw) -> Hyperparameters:
        """One set for each task; the lengthscale of an unused feature is infinite."""
        lengthscale = draw_parameter(self.lengthscale, batch_size, n_features, draw=draw)
        if self.grows_with_dimension:
            lengthscale = lengthscale * n_features**0.5
        return Hyperparameters(
            lengthscale=lengthscale.masked_fill(~self._draw_used(batch_size, n_features, draw), torch.inf),
            outputscale=draw_parameter(self.outputscale, batch_size, draw=draw),
            noise=draw_parameter(self.noise, batch_size, draw=draw),
            mean=torch.zeros(batch_size, device=draw.device),
        )

    def _draw_used(self, batch_size: int, n_features: int, draw: Draw) -> Tensor:  # (B, F), bool
        u = draw.uniform(batch_size, n_features)
        return (u >= self.unused_probability) | (u == u.amax(1, keepdim=True))

    def _draw_warped(self, x: Tensor, draw: Draw) -> Tensor:
        if self.warp_std == 0:
            return x
        a, b = (self.warp_std * draw.normal(2, x.shape[0], 1, x.shape[2])).exp()
        return kumaraswamy(x, a, b)

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        x = draw.uniform(shape.batch_size, shape.n_rows, shape.n_features)
        return TaskBatch(x=x, y=self.values(x, draw), n_context=shape.n_context)

    def values(self, x: Tensor, draw: Draw) -> Tensor:  # (B, R, F); (B, R)
        """Noisy values at given points of the cube, of a function a task."""
        hyper = self.draw_hyperparameters(x.shape[0], x.shape[2], draw)
        return draw_gp(self._draw_warped(x, draw), self.kernel, hyper, draw)

    def sample_with_hints(self, shape: TaskShape, *, generator: torch.Generator) -> tuple[TaskBatch, Tensor]:
        """Tasks, and what a user believes about where each task's largest target lies.

        Returns
        -------
        batch : TaskBatch
        hints : Tensor of shape (B, F, 3)
            For each feature (p, low, high): the best row has its value in [low, high] with probability p, and is no
            likelier there than elsewhere otherwise. The interval is one of k equal sections of [0, 1], k ~ U{1 … 5},
            p ~ U(0, 1). The best row is taken over context and queries.

        References
        ----------
        .. [1] S. Müller et al., "PFNs4BO", ICML 2023, section on user priors.
        """
        batch = self.sample(shape, generator=generator)
        draw = Draw(generator)
        size = (shape.batch_size, shape.n_features)
        best = batch.y.argmax(1)
        x_best = batch.x.gather(1, best.view(-1, 1, 1).expand(-1, 1, shape.n_features)).squeeze(1)    # (B, F)
        confidence = draw.uniform(*size)
        n_sections = draw.integers(*size, low=1, high=_MAX_SECTIONS)
        right = draw.chance(*size, p=confidence)
        point = torch.where(right, x_best, draw.uniform(*size))
        section = (point * n_sections).long().clamp_max(n_sections - 1)
        return batch, torch.stack([confidence, section / n_sections, (section + 1) / n_sections], dim=-1)


@dataclass(frozen=True)
class ConstrainedTasks:
    """Objectives with constraints on the same points; B tasks, R rows, F features, M constraints at most."""

    x: Tensor               # (B, R, F), float32
    objective: Tensor       # (B, R), float32
    constraints: Tensor     # (B, R, M), float32, satisfied at <= 0; -1 beyond the task's number of constraints
    n_constraints: Tensor   # (B,), int64

    @property
    def feasible(self) -> Tensor:   # (B, R), bool
        return (self.constraints <= 0).all(-1)


@dataclass(frozen=True)
class ConstrainedHEBOPrior:
    """An objective and 1 … `max_constraints` constraints that may depend on each other.

    Of m ~ U{1 … max_constraints} constraints each is, with the probabilities below: a linear, bilinear or ball-shaped
    function of the features, known without noise; a draw from `base` of its own; or else, like the objective, a random
    combination of q ~ U{1 … m + 1} draws from `base`, plus noise. The share of rows that satisfy all of them is
    exp U(ln `min_feasible`, ln `max_feasible`), rounded up or down to whole rows at random.

    Parameters
    ----------
    base : HEBOPrior
        Also gives the noise of every output.
    max_constraints : int
    independent_probability, geometric_probability : float
        Of a constraint of its own, and of a linear, bilinear or ball-shaped one.
    min_feasible, max_feasible : float

    Notes
    -----
    Our own design: no published prior draws constraints that are correlated with the objective.
    """

    base: HEBOPrior = HEBOPrior()
    max_constraints: int = 8
    independent_probability: float = 0.3
    geometric_probability: float = 0.3
    min_feasible: float = 1e-3
    max_feasible: float = 0.9

    def __post_init__(self) -> None:
        if self.max_constraints < 1:
            raise ValueError(f"max_constraints={self.max_constraints!r} leaves no constraint; use max_constraints >= 1.")
        for name in ("independent_probability", "geometric_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r} is no probability; use a number in [0, 1].")
        if self.independent_probability + self.geometric_probability > 1:
            raise ValueError(
                f"independent_probability={self.independent_probability!r} and geometric_probability="
                f"{self.geometric_probability!r} add up to more than 1; lower one of them."
            )
        if not 0 < self.min_feasible < self.max_feasible <= 1:
            raise ValueError(
                f"min_feasible={self.min_feasible!r} and max_feasible={self.max_feasible!r} must satisfy "
                "0 < min_feasible < max_feasible <= 1."
            )

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        """One output of each task, the objective or a constraint, all equally likely."""
        tasks = self.sample_joint(shape, generator=generator)
        outputs = torch.cat([tasks.objective.unsqueeze(2), tasks.constraints], dim=2)                     # (B, R, 1 + M)
        which = (Draw(generator).uniform(shape.batch_size) * (tasks.n_constraints + 1)).long()
        which = torch.minimum(which, tasks.n_constraints)
        y = outputs.gather(2, which.view(-1, 1, 1).expand(-1, shape.n_rows, 1)).squeeze(2)
        return TaskBatch(x=tasks.x, y=y, n_context=shape.n_context)

    def sample_joint(self, shape: TaskShape, *, generator: torch.Generator) -> ConstrainedTasks:
        """Objective and constraints together."""
        draw = Draw(check_generator(generator))
        batch, rows, most = shape.batch_size, shape.n_rows, self.max_constraints
        x = draw.uniform(batch, rows, shape.n_features)
        n_constraints = draw.integers(batch, low=1, high=most)
        present = torch.arange(most, device=draw.device) < n_constraints.unsqueeze(1)                     # (B, M)
        kind = draw.uniform(batch, most)
        geometric = kind < self.geometric_probability
        alone = ~geometric & (kind < self.geometric_probability + self.independent_probability)

        # All functions of all tasks in one list: those to be combined, then those that stand alone.
        n_shared = 1 + (draw.uniform(batch) * (n_constraints + 1)).long().clamp_max(n_constraints)
        shared = torch.arange(most + 1, device=draw.device) < n_shared.unsqueeze(1)                       # (B, M + 1)
        needed = torch.cat([shared, alone & present], dim=1)
        functions = x.new_zeros(batch, 2 * most + 1, rows)
        functions[needed] = self._draw_noiseless(x[needed.nonzero()[:, 0]], draw)
        weights = draw.normal(batch, most + 1, most + 1) * shared.unsqueeze(1)
        weights = weights / weights.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-12)
        mixed = weights @ functions[:, : most + 1]                                                        # (B, M + 1, R)

        g = torch.where(alone.unsqueeze(2), functions[:, most + 1 :], mixed[:, 1:])
        outputs = torch.cat([mixed[:, :1], g], dim=1)
        noise = draw_parameter(self.base.noise, batch, most + 1, 1, draw=draw).sqrt()
        outputs = outputs + noise * draw.normal(*outputs.shape)
        g = torch.where(geometric.unsqueeze(2), self._draw_geometric(x, draw), outputs[:, 1:])
        g = self._shift(g, present, draw).masked_fill(~present.unsqueeze(2), -1.0)
        return ConstrainedTasks(x, outputs[:, 0], g.transpose(1, 2).contiguous(), n_constraints)

    def _draw_noiseless(self, x: Tensor, draw: Draw) -> Tensor:  # (N, R, F); (N, R)
        hyper = self.base.draw_hyperparameters(x.shape[0], x.shape[2], draw)
        hyper = hyper._replace(noise=torch.zeros_like(hyper.noise))
        return draw_gp(self.base._draw_warped(x, draw), self.base.kernel, hyper, draw)

    def _draw_geometric(self, x: Tensor, draw: Draw) -> Tensor:  # (B, M, R), mean 0 and standard deviation 1 over rows
        """Half-space w·x, bilinear (u·z)(v·z) + w·x/3 with z centred, or the inside of a ball, on the used features."""
        batch, _, n_features = x.shape
        most = self.max_constraints
        used = self.base._draw_used(batch * most, n_features, draw).view(batch, most, n_features)
        u, v, w = (draw.normal(3, batch, most, n_features) * used).unbind(0)
        z = (x - 0.5).mT                                                                                  # (B, F, R)
        centre = draw.uniform(batch, most, n_features) - 0.5
        ball = (used.float() @ z.square()) - 2 * (used * centre) @ z
        linear = w @ z
        bilinear = (u @ z) * (v @ z) + linear / 3
        kind = draw.integers(batch, most, 1, low=0, high=2)
        return standardise(torch.where(kind == 0, linear, torch.where(kind == 1, bilinear, ball)), dim=2)

    def _shift(self, g: Tensor, present: Tensor, draw: Draw) -> Tensor:
        """Subtract a threshold from each constraint so that the wanted number of rows satisfies all of them.

        At level π, constraint i admits the rows whose rank is at most π^(w_i); w_i ~ Exp(1) says how tight it is next to
        the others. A row therefore satisfies all of them from level max_i rank_i^(1/w_i) on, and the k-th smallest of
        these levels admits k rows.
        """
        batch, most, rows = g.shape
        tightness = draw.exponential(batch, most, 1).clamp_min(1e-3)
        ordered, order = g.sort(dim=2)
        rank = order.argsort(2) + 1
        level = torch.log(rank / (rows + 1)) / tightness                                                  # log π; (B, M, R)
        level = level.masked_fill(~present.unsqueeze(2), -torch.inf)
        share = draw.log_uniform(batch, low=self.min_feasible, high=self.max_feasible)
        n_feasible = (share * rows + draw.uniform(batch)).long().clamp_max(rows)
        joint = torch.cat([level.amax(1), g.new_full((batch, 1), torch.inf)], dim=1).sort(1).values       # (B, R + 1)
        first_out = joint.gather(1, n_feasible.unsqueeze(1)).unsqueeze(1)
        admitted = (level < first_out).sum(2, keepdim=True)                                               # (B, M, 1)
        gap = g.std(2, keepdim=True, correction=0).clamp_min(1e-3)
        edges = torch.cat([ordered[:, :, :1] - gap, ordered, ordered[:, :, -1:] + gap], dim=2)
        low, high = edges.gather(2, admitted), edges.gather(2, admitted + 1)
        # Somewhere between the last row admitted and the next, but not at the next.
        return g - (low + 0.9 * draw.uniform(batch, most, 1) * (high - low))
