"""Learning curves as tasks of a network: what it is shown of steps, values and the prior, and what it says of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pfn.cpu import prefers_bfloat16
from pfn.network import PFN, EncodedContext
from priors import LearningCurvePrior, TaskBatch, TaskShape
from priors.draw import Draw
from priors.task import check_generator

MAX_STEPS = 200              # horizons of training; real steps are mapped into 1 … MAX_STEPS
N_CURVE_FEATURES = 12
_WHOLE = 2.0 * math.pi


@dataclass(frozen=True)
class CurveScale:
    """Level and spread (B, 1) of what has been observed of each curve; the network reads and predicts (y - level) / spread.

    The level is a mean that forgets: a value at a quarter of the last step weighs e^-3. To the spread, one more value
    counts, whose deviation 0.2 / √n shrinks with the number n of values: a single value or a constant curve does not make
    it 0, and a long flat curve is read as finely as its noise needs.
    """

    level: Tensor
    spread: Tensor

    PRIOR_LEVEL = 0.5
    PRIOR_SPREAD = 0.2
    FORGETTING = 4.0

    @classmethod
    def of(cls, t: Tensor, y: Tensor, seen: Tensor) -> CurveScale:
        """From steps t, values y and a mask of what counts, all (B, C); where nothing does, from the prior."""
        weight = seen.to(y.dtype)
        last = torch.where(seen, t, 0.0).amax(1, keepdim=True).clamp_min(1e-6)
        recent = weight * (cls.FORGETTING * (t / last - 1.0)).clamp_max(0.0).exp()
        y = torch.where(seen, y, 0.0)
        total, count = recent.sum(1, keepdim=True), weight.sum(1, keepdim=True)
        level = torch.where(count > 0, (recent * y).sum(1, keepdim=True) / total.clamp_min(1e-6), cls.PRIOR_LEVEL)
        squares = (weight * (y - level).square()).sum(1, keepdim=True)
        return cls(level, ((squares + cls.PRIOR_SPREAD**2 / count.clamp_min(1.0)) / (count + 1.0)).sqrt())

    def apply(self, y: Tensor) -> Tensor:
        return (y - self.level) / self.spread


def curve_features(t: Tensor, horizon: Tensor, scale: CurveScale, extended: Tensor, seen: Tensor) -> Tensor:
    """What the network is shown of rows, (B, R, 12): the step in several forms, then what is the same in all of a curve.

    Parameters
    ----------
    t : Tensor of shape (B, R)
        Steps, 1 … 200, not necessarily integers.
    horizon : Tensor of shape (B, 1)
        The last step that matters.
    scale : CurveScale
        Of the curve's context.
    extended : Tensor of shape (B, 1)
        Which prior to assume: 0 the released one, 1 the extended one, ½ either.
    seen : Tensor of shape (B, 1), bool
        Whether anything of the curve has been observed.
    """
    share, log_step = t / horizon, t.log() / math.log(MAX_STEPS)
    waves = [0.5 + 0.5 * (_WHOLE * k * u).cos() for u in (share, log_step) for k in (0.5, 1.0, 2.0)]
    same = [
        horizon.log() / math.log(MAX_STEPS),
        torch.where(seen, scale.level, math.nan),
        torch.where(seen, 0.2 * (scale.spread / CurveScale.PRIOR_SPREAD).log() + 1.0, math.nan),
        extended,
    ]
    return torch.stack([share, log_step, *waves, *(value.expand_as(t) for value in same)], dim=-1)


@dataclass(frozen=True)
class CurveTasks:
    """Curves cut off somewhere: the context is what has been observed, the queries are mostly later steps.

    Half of the curves come from `released`, half from `extended`. In two thirds of the tasks a feature says from which, so
    that one network knows the posterior of either prior and that of their mixture. Half of the horizons are 100, the
    others 10 … 200, log-uniform. One context in four has gaps, at random or by a stride. Of the contexts of one row, half
    are empty: a row that says nothing.

    Parameters
    ----------
    released, extended : LearningCurvePrior
    """

    released: LearningCurvePrior = field(default_factory=LearningCurvePrior)
    extended: LearningCurvePrior = field(default_factory=LearningCurvePrior.extended)

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        if shape.n_features != N_CURVE_FEATURES or not 0 < shape.n_context < MAX_STEPS:
            raise ValueError(
                f"{shape} is no shape of curve tasks: use n_features={N_CURVE_FEATURES} and 1 <= n_context < {MAX_STEPS}."
            )
        draw = Draw(check_generator(generator))
        rest, parts = shape.batch_size, []
        for number in range(4, 0, -1):                                       # each quarter has a horizon of its own
            size = rest // number
            rest -= size
            if size:
                parts.append(self._quarter(number % 2, size, shape.n_rows, shape.n_context, draw))
        return TaskBatch(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]), shape.n_context)

    def _quarter(self, extended: int, n: int, n_rows: int, n_context: int, draw: Draw) -> tuple[Tensor, Tensor]:
        luck = draw.on_cpu()
        fewest = max(10, n_context + 1)
        usual = bool(luck.chance(1, p=0.5)) and fewest <= 100
        horizon = 100 if usual else int(luck.log_integers(1, low=fewest, high=MAX_STEPS))
        shape = TaskShape(n, horizon, 1, n_context)
        curves = (self.extended if extended else self.released).sample(shape, generator=draw.generator).y
        device = curves.device
        last = n_context if bool(luck.chance(1, p=0.75)) else int(luck.integers(1, low=n_context, high=horizon - 1))
        steps = torch.arange(1, horizon + 1, device=device)
        if bool(luck.chance(1, p=0.5)):                                      # a stride, or steps at random
            context = torch.linspace(last / n_context, last, n_context, device=device).round().long().expand(n, -1)
        else:
            order = torch.where(steps <= last, draw.uniform(n, horizon), 2.0).argsort(1)
            context = order[:, :n_context].sort(1).values + 1
        wanted = torch.where(steps <= last, 0.2, 1.0).repeat(n, 1).scatter(1, context - 1, 0.0)
        query = torch.multinomial(wanted, n_rows - n_context, replacement=True, generator=draw.generator) + 1
        told = float(extended) if bool(luck.chance(1, p=2 / 3)) else 0.5
        return self._encoded(curves, context, query, float(horizon), told, draw)

    def _encoded(
        self, curves: Tensor, context: Tensor, query: Tensor, horizon: float, extended: float, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        n, n_context = context.shape
        t = torch.cat([context, query], dim=1)
        y = curves.gather(1, t - 1)
        seen = torch.ones(n, n_context, dtype=torch.bool, device=y.device)
        if n_context == 1:
            seen = draw.chance(n, 1, p=0.5)
        scale = CurveScale.of(context.float(), y[:, :n_context], seen)
        some = seen.any(1, keepdim=True)
        full = curves.new_full((n, 1), horizon)
        x = curve_features(t.float(), full, scale, torch.full_like(full, extended), some)
        # A row that says nothing: no step, and the prior's level for a value.
        silent = torch.zeros_like(t, dtype=torch.bool)
        silent[:, :n_context] = ~seen
        x[..., :8] = x[..., :8].masked_fill(silent.unsqueeze(-1), math.nan)
        return x, scale.apply(y).masked_fill(silent, 0.0)


@dataclass(frozen=True)
class ObservedCurves:
    """B curves as a network has read them, to be asked about any steps.

    On CPUs that gain from it, matrix products are taken in bfloat16, while the features and the sums of the layers stay in
    float32. This and a network all in bfloat16 take half the time of float32; this costs 0.002 nats a value at most, that
    0.01 to 0.02 (AMD EPYC, torch 2.13: 500 curves of each prior, 10 to 80 of 100 steps seen).

    Parameters
    ----------
    model : PFN
        Trained on `CurveTasks`.
    context : EncodedContext
    scale : CurveScale
        (B, 1) each, as the next two.
    horizon, extended : Tensor
        As in `curve_features`.
    some : Tensor of shape (B, 1), bool
        Whether anything of the curve has been observed.
    """

    model: PFN
    context: EncodedContext
    scale: CurveScale
    horizon: Tensor
    extended: Tensor
    some: Tensor

    @classmethod
    @torch.no_grad()
    def read(
        cls, model: PFN, t: Tensor, y: Tensor, seen: Tensor, horizon: Tensor, extended: Tensor
    ) -> ObservedCurves:
        """From steps t in 1 … 200, values y and a mask of what counts, all (B, C), C >= 1; horizon and extended (B, 1)."""
        t, y = torch.where(seen, t, 1.0), torch.where(seen, y, 0.0)
        scale, some = CurveScale.of(t, y, seen), seen.any(1, keepdim=True)
        x = curve_features(t, horizon, scale, extended, some)
        # A curve of which nothing is known has one row, which says so, as in training.
        first = torch.arange(t.shape[1], device=t.device) == 0
        x[..., :8] = x[..., :8].masked_fill((first & ~some).unsqueeze(-1), math.nan)
        weight = (seen | (first & ~some)).to(t.dtype)
        with _products(t.device):
            context = model.encode_context(x, torch.where(seen, scale.apply(y), 0.0), weight)
        return cls(model, context, scale, horizon, extended, some)

    @torch.no_grad()
    def logits(self, t: Tensor) -> Tensor:
        """Unnormalised log masses (B, Q, n_bars) of the values at steps t (B, Q), in float32."""
        with _products(t.device):
            x = curve_features(t, self.horizon, self.scale, self.extended, self.some)
            return self.model.decode(self.context, x).float()

    @property
    def bar_scale(self) -> CurveScale:
        """By which values of y become positions among the network's borders, in float64."""
        mean, std = self.model.target_scaling.double()
        spread = self.scale.spread.double()
        return CurveScale(self.scale.level.double() + mean * spread, std * spread)


def _products(device: torch.device) -> torch.autocast:
    """In which precision matrices are multiplied on this device."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cpu" and prefers_bfloat16())
