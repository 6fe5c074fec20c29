"""Learning curves: random sums of parametric families, with the events and the noise that real training runs show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from priors.curve_events import NOISE, SHAPES, autocorrelated, steps_of, wandering
from priors.curve_families import FAMILIES, RELEASED
from priors.draw import Draw
from priors.task import TaskBatch, TaskShape, check_generator


@dataclass(frozen=True)
class LearningCurvePrior:
    r"""Noisy learning curves y_t = f(t) + σ ε_t, larger is better, f within [0, 1] at the steps t = 1 … m.

    f = Σ_k w_k f_k with w_k ~ U(0, 1), not normalised, and f_k from the families with random parameters. Curves that
    leave [0, 1] somewhere or do not end above their start are drawn anew. ln σ ~ N(-4, 1); y may leave [0, 1]. With
    the defaults this is the prior of LC-PFN [1]_ as its authors released it. `extended` knows more of what happens
    in training.

    In `sample`, a task is a curve, a row a step: `n_rows` is the horizon m, the one feature is t.

    Parameters
    ----------
    families : tuple of str
        Names from `priors.curve_families.FAMILIES`.
    n_combined : int
        Families in one curve, drawn at random where `families` has more.
    shapes : mapping from str to float
        Probability, per curve, of each event: "slow_start", "learning_rate_drops", "double_descent", "divergence",
        "overfitting", "decline", "small_gain". They change f after the rejection, so that f may end below its start. It
        stays in [0, 1].
    noise : mapping from str to float
        Probability, per curve, of each departure from constant independent noise: "decaying" (σ_t = σ t^-ρ,
        ρ ~ U(0, 1)), "binomial" (σ_t = 2 σ √(f (1 - f))), "autocorrelated" (AR(1), φ ~ U(0, 0.9)), "wandering" (a
        Brownian path is added), "spikes" (one step in fifty falls to a random share of f), "rounded" (clipped to [0, 1]
        and rounded to a multiple of 1/K, K = 10 … 10 000: an accuracy on K examples).
    log_noise : (float, float)
        Mean and standard deviation of ln σ.

    References
    ----------
    .. [1] S. Adriaensen et al., "Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks",
       NeurIPS 2023.
    .. [2] T. Domhan et al., "Speeding up Automatic Hyperparameter Optimization of Deep Neural Networks by
       Extrapolation of Learning Curves", IJCAI 2015.

    Examples
    --------
    >>> import torch
    >>> from priors import LearningCurvePrior, TaskShape
    >>> generator = torch.Generator().manual_seed(0)
    >>> LearningCurvePrior().sample(TaskShape(8, 100, 1, 20), generator=generator).y.shape
    torch.Size([8, 100])
    """

    families: tuple[str, ...] = RELEASED
    n_combined: int = 3
    shapes: Mapping[str, float] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)
    log_noise: tuple[float, float] = (-4.0, 1.0)

    def __post_init__(self) -> None:
        if not self.families or isinstance(self.families, str):
            raise ValueError(f"families={self.families!r}: pass a tuple of names, for example {RELEASED!r}.")
        if len(set(self.families)) < len(self.families):
            raise ValueError(f"families={self.families!r} names a family twice; name each once.")
        if len(self.log_noise) != 2 or not self.log_noise[1] >= 0:
            raise ValueError(f"log_noise={self.log_noise!r}: pass the mean and the standard deviation, >= 0, of ln σ.")
        if self.n_combined < 1:
            raise ValueError(f"n_combined={self.n_combined} leaves curves empty; use n_combined >= 1.")
        for argument, known in (("families", tuple(FAMILIES)), ("shapes", tuple(SHAPES)), ("noise", NOISE)):
            unknown = [name for name in getattr(self, argument) if name not in known]
            if unknown:
                raise ValueError(f"{argument} has {unknown[0]!r}; choose from {', '.join(known)}.")
        for argument in ("shapes", "noise"):
            for name, probability in getattr(self, argument).items():
                if not 0 <= probability <= 1:
                    raise ValueError(f"{argument}[{name!r}]={probability!r} is no probability; use a number in [0, 1].")

    @classmethod
    def extended(cls, probability: float = 0.1) -> LearningCurvePrior:
        """All families, three in a curve, and every shape and kind of noise with this probability."""
        return cls(
            families=tuple(FAMILIES),
            shapes=dict.fromkeys(SHAPES, probability),
            noise=dict.fromkeys(NOISE, probability),
        )

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        if shape.n_features != 1:
            raise ValueError(f"n_features={shape.n_features}, but a curve has one feature, its step; use n_features=1.")
        f, std = self.sample_curves(shape.batch_size, shape.n_rows, generator=generator)
        y = self._observe(f, std, Draw(generator))
        x = steps_of(y).view(1, -1, 1).repeat(shape.batch_size, 1, 1)
        return TaskBatch(x=x, y=y, n_context=shape.n_context)

    def sample_curves(self, n_curves: int, n_steps: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Curves without noise, and the noise's standard deviation: what exact posteriors are computed from.

        Returns
        -------
        f, std : Tensors of shape (n_curves, n_steps), float32
            `sample` adds noise to these, for the same seed. `std` is that of y_t before spikes and rounding; a view of
            one column if it is the same at all steps.

        Raises
        ------
        ValueError
            If `n_steps` is below 2.
        RuntimeError
            If fewer than one curve in ten thousand is acceptable.
        """
        if n_steps < 2:
            raise ValueError(f"n_steps={n_steps} (n_rows of the task) leaves no room to rise; use at least 2 steps.")
        draw = Draw(check_generator(generator))
        f = self._accepted(n_curves, n_steps, draw)
        for name, change in SHAPES.items():
            if self.shapes.get(name, 0.0) > 0:
                active = draw.chance(n_curves, 1, p=self.shapes[name])
                f = torch.where(active, change(f, draw), f).clamp(0, 1)                  # rounding may leave [0, 1]
        mean, spread = self.log_noise
        std = (mean + spread * draw.normal(n_curves, 1)).exp().expand(n_curves, n_steps)
        if self.noise.get("decaying", 0.0) > 0:
            rho = draw.uniform(n_curves, 1) * draw.chance(n_curves, 1, p=self.noise["decaying"])
            std = std * steps_of(f) ** -rho
        if self.noise.get("binomial", 0.0) > 0:
            active = draw.chance(n_curves, 1, p=self.noise["binomial"])
            std = torch.where(active, 2 * std * (f * (1 - f)).sqrt(), std)
        return f, std

    def _observe(self, f: Tensor, std: Tensor, draw: Draw) -> Tensor:  # (n, m)
        n, m = f.shape
        noise = draw.normal(n, m)
        if self.noise.get("autocorrelated", 0.0) > 0:
            phi = draw.uniform(n, 1, high=0.9) * draw.chance(n, 1, p=self.noise["autocorrelated"])
            noise = autocorrelated(noise, phi)
        y = f + std * noise
        if self.noise.get("wandering", 0.0) > 0:
            y = y + wandering(n, m, draw) * draw.chance(n, 1, p=self.noise["wandering"])
        if self.noise.get("spikes", 0.0) > 0:
            spike = draw.chance(n, m, p=0.02) & draw.chance(n, 1, p=self.noise["spikes"])
            y = torch.where(spike, f * draw.uniform(n, m), y)
        if self.noise.get("rounded", 0.0) > 0:
            active = draw.chance(n, 1, p=self.noise["rounded"])
            examples = draw.log_integers(n, 1, low=10, high=10_000)
            y = torch.where(active, (y.clamp(0, 1) * examples).round() / examples, y)
        return y

    def _candidates(self, n: int, t: Tensor, draw: Draw) -> Tensor:  # (n, m)
        names = self.families
        weight = draw.uniform(n, len(names))
        if len(names) > self.n_combined:
            used = draw.permutation(n, len(names)) < self.n_combined
        else:
            used = torch.ones_like(weight, dtype=torch.bool)
        f = torch.zeros(n, len(t), device=t.device)
        for k, name in enumerate(names):
            # All families for all curves: 0 · ∞ is NaN, so what is not used is masked.
            term = weight[:, k : k + 1] * FAMILIES[name].sample(n, t, draw)
            f = f + torch.where(used[:, k : k + 1], term, 0.0)
        return f

    def _accepted(self, n_curves: int, n_steps: int, draw: Draw) -> Tensor:  # (n_curves, n_steps)
        """Rejection in rounds of many candidates; usually one round, and one synchronisation a round."""
        t = torch.arange(1, n_steps + 1, dtype=torch.float32, device=draw.device)
        accepted = torch.empty(n_curves, n_steps, device=draw.device)
        most = min(8 * n_curves + 64, max(64, 2**22 // n_steps))                         # bounds the memory
        n_accepted = n_drawn = 0
        while n_accepted < n_curves:
            rate = (n_accepted + 1) / (n_drawn + 5)                                      # 0.2 to begin with
            missing = n_curves - n_accepted
            n = min(most, math.ceil((missing + 3 * missing**0.5 + 3) / rate))            # enough in 99.7 % of rounds
            f = self._candidates(n, t, draw)
            # A comparison with NaN is false.
            fine = ((f >= 0) & (f <= 1)).all(1) & (f[:, -1] > f[:, 0])
            f = f[fine][:missing]
            accepted[n_accepted : n_accepted + len(f)] = f
            n_accepted += len(f)
            n_drawn += n
            if n_drawn > 10_000 * (n_accepted + 10):
                raise RuntimeError(
                    f"only {n_accepted} of {n_drawn} curves of {self.families} stay in [0, 1] and rise within "
                    f"{n_steps} steps; use other families."
                )
        return accepted
