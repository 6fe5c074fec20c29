"""A pretrained network as a BoTorch model, so that BoTorch's acquisition functions run on it; needs the extra `botorch`."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from pfn import PFN, BarDistribution, BarPosterior, load_pretrained
from pfn.network import EncodedContext

try:
    from botorch.acquisition.objective import PosteriorTransform, ScalarizedPosteriorTransform
    from botorch.exceptions.warnings import InputDataWarning
    from botorch.models.model import Model
    from botorch.posteriors import Posterior
    from botorch.sampling.base import MCSampler
    from botorch.sampling.get_sampler import GetSampler
    from botorch.sampling.normal import IIDNormalSampler, SobolQMCNormalSampler
except ImportError as error:
    raise ImportError('estimators.botorch needs BoTorch; install it with: pip install "pfnkit[botorch]"') from error


class PFNPosterior(Posterior):
    """Exact posterior predictive distributions of points and outputs, independent of each other given the data.

    Draws are quantiles of normal base samples' probabilities, hence differentiable, and reproducible for a fixed sampler.

    Parameters
    ----------
    bars : BarPosterior
        With batch shape `(*b, q, m)`: t-batches, points, outputs. `estimators.acquisition` takes it as it is.
    """

    def __init__(self, bars: BarPosterior) -> None:
        self.bars = bars

    @property
    def device(self) -> torch.device:
        return self.bars.log_mass.device

    @property
    def dtype(self) -> torch.dtype:
        return self.bars.log_mass.dtype

    @property
    def batch_shape(self) -> torch.Size:
        return self.base_sample_shape[:-2]

    @property
    def base_sample_shape(self) -> torch.Size:
        return self.bars.batch_shape

    @property
    def batch_range(self) -> tuple[int, int]:
        return 0, -2

    def _extended_shape(self, sample_shape: torch.Size = torch.Size()) -> torch.Size:    # noqa: B008
        return sample_shape + self.base_sample_shape

    @property
    def mean(self) -> Tensor:
        """Expectation, `(*b, q, m)`."""
        return self.bars.mean

    @property
    def variance(self) -> Tensor:
        """Variance, `(*b, q, m)`, noise included."""
        return self.bars.variance

    def quantile(self, value: Tensor) -> Tensor:
        """Quantiles of each marginal, `(*b, q, m)` for a number and `(k, *b, q, m)` for k of them."""
        quantiles = self.bars.quantile(value.reshape(-1)).movedim(-1, 0)
        return quantiles if value.ndim else quantiles.squeeze(0)

    def density(self, value: Tensor) -> Tensor:
        """Density of each marginal, `(*b, q, m)` for a number and `(k, *b, q, m)` for k of them."""
        density = self.bars.unsqueeze().log_prob(value.reshape(-1).to(self.device)).exp().movedim(-1, 0)
        return density if value.ndim else density.squeeze(0)

    def rsample_from_base_samples(self, sample_shape: torch.Size, base_samples: Tensor) -> Tensor:
        """Draws `(*sample_shape, *b, q, m)` from standard normal values of that shape."""
        # In float64: in float32 the probability of 5.5 standard deviations is 1, of which the quantile is infinite.
        q = torch.special.ndtr(base_samples.double()).clamp(1e-16, 1 - 1e-16)
        q = q.reshape(-1, *self.base_sample_shape).movedim(0, -1)
        return self.bars.quantile(q).movedim(-1, 0).reshape(self._extended_shape(sample_shape))

    def rsample(self, sample_shape: torch.Size | None = None) -> Tensor:
        """Draws `(*sample_shape, *b, q, m)`, by torch's global generator as all of BoTorch."""
        sample_shape = torch.Size() if sample_shape is None else sample_shape
        shape = self._extended_shape(sample_shape)
        return self.rsample_from_base_samples(sample_shape, torch.randn(shape, dtype=torch.float64, device=self.device))

    def scaled(self, weights: Tensor, offset: float = 0.0) -> PFNPosterior:
        """The distribution of weights · Y + offset, `(*b, q, 1)`, if only one of the m weights is not 0."""
        used = weights.nonzero().flatten().tolist()
        if len(used) != 1:
            raise NotImplementedError(
                f"weights={weights.tolist()} combine {len(used)} outputs, and a sum of bar distributions is none; use a "
                f"Monte Carlo acquisition function with objective=LinearMCObjective(weights)."
            )
        return PFNPosterior(_outputs(self.bars, used).affine(weights[used].to(self.dtype), offset))


@GetSampler.register(PFNPosterior)
def _sampler(posterior: PFNPosterior, sample_shape: torch.Size, *, seed: int | None = None) -> MCSampler:
    """Sobol points, unless they are needed in more dimensions than there are."""
    n_dimensions = posterior.base_sample_shape[-2:].numel()
    kind = SobolQMCNormalSampler if n_dimensions <= SobolEngine.MAXDIM else IIDNormalSampler
    return kind(sample_shape=sample_shape, seed=seed)


class PFNModel(Model):
    """A regression network given data, as a BoTorch model: nothing is fitted, the data are its context.

    Gradients with respect to the points run through the frozen network, so `optimize_acqf` works. The data are read once,
    and in their own precision.

    Parameters
    ----------
    train_X : Tensor of shape `(*batch_shape, n, d)`
        In [0, 1]; see `botorch.utils.transforms.normalize`.
    train_Y : Tensor of shape `(*batch_shape, n, m)`
        Raw outcomes, each of the m outputs a task of its own. They may be in any units, unless the network is trained on
        fixed ones (``config.scaling == "prior"``, such as "gp": mean 0 and variance 1).
    network : str, path or PFN
        A name or file for `load_pretrained`, or a regression network, which is copied.

    Notes
    -----
    The q points of a t-batch are independent given the data: the network predicts marginals. With q = 1 nothing is lost.
    With q > 1, or X_pending, acquisition functions do not know that two points close to each other say the same, and may
    well propose one point twice. For a batch, choose points one after the other and condition on an outcome for each, its
    posterior mean or draws of it (`fantasize`), before the next. The noisy acquisition functions likewise draw the
    outcomes at the observed points independently.

    Predictions are of what the network was trained to predict, observations in the bundled ones: `observation_noise` makes
    no difference. The analytic acquisition functions of BoTorch see the posterior's mean and variance as a normal
    distribution's; exact ones are in `estimators.acquisition` and take ``model.posterior(X).bars``.

    References
    ----------
    .. [1] M. Balandat et al., "BoTorch: A Framework for Efficient Monte-Carlo Bayesian Optimization", NeurIPS 2020.
    .. [2] S. Müller et al., "PFNs4BO: In-Context Learning for Bayesian Optimization", ICML 2023.

    Examples
    --------
    >>> X = torch.linspace(0, 1, 9, dtype=torch.float64).unsqueeze(-1)
    >>> model = PFNModel(X, (X - 0.3).square(), network="gp")
    >>> model.posterior(torch.rand(5, 1, 1)).mean.shape  # five t-batches of one point, one output
    torch.Size([5, 1, 1])
    """

    train_X: Tensor
    train_Y: Tensor

    def __init__(self, train_X: Tensor, train_Y: Tensor, network: str | os.PathLike[str] | PFN = "bayesopt") -> None:
        super().__init__()
        if train_X.ndim < 2 or train_X.shape[:-1] != train_Y.shape[:-1]:
            raise ValueError(
                f"train_X has shape {tuple(train_X.shape)} and train_Y {tuple(train_Y.shape)}; expected (*batch, n, d) and "
                f"(*batch, n, m)."
            )
        if not bool(train_X.isfinite().all() & train_Y.isfinite().all()):
            raise ValueError("train_X and train_Y must be finite; leave failed evaluations out.")
        if bool(((train_X < -1e-6) | (train_X > 1 + 1e-6)).any()):
            warnings.warn(
                f"train_X reaches from {train_X.min().item():g} to {train_X.max().item():g}, the network expects 0 to 1; "
                "see botorch.utils.transforms.normalize.", InputDataWarning, stacklevel=2,
            )
        self.register_buffer("train_X", train_X)
        self.register_buffer("train_Y", train_Y)
        self.network = _frozen(network, train_X)
        self._context: EncodedContext | None = None

    @property
    def num_outputs(self) -> int:
        return self.train_Y.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        return self.train_X.shape[:-2]

    def posterior(
        self,
        X: Tensor,                                                 # (*b, q, d)
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> PFNPosterior:
        """Posterior predictive of q points and the outputs, with t-batches broadcast(b, batch_shape)."""
        if isinstance(observation_noise, Tensor):
            raise NotImplementedError("observation_noise is a tensor, but the network's noise is learnt; pass a bool.")
        batch = torch.broadcast_shapes(X.shape[:-2], self.batch_shape)
        own = batch[len(batch) - len(self.batch_shape) :]
        model = self if own == self.batch_shape else self._expanded(own)
        posterior = PFNPosterior(model._bars(X.expand(*batch, -1, -1)))
        if output_indices is not None:
            posterior = PFNPosterior(_outputs(posterior.bars, output_indices))
        if posterior_transform is None:
            return posterior
        if isinstance(posterior_transform, ScalarizedPosteriorTransform):
            return posterior.scaled(posterior_transform.weights, posterior_transform.offset)
        return posterior_transform(posterior)

    def condition_on_observations(self, X: Tensor, Y: Tensor, **kwargs: Any) -> PFNModel:
        """The model of the old data and the new X `(*b, n', d)` and Y `(*b', n', m)`; batch shapes broadcast."""
        batch = torch.broadcast_shapes(self.batch_shape, X.shape[:-2], Y.shape[:-2])
        old = self._expanded(batch)
        return PFNModel(
            torch.cat([old.train_X, X.to(old.train_X).expand(*batch, -1, -1)], dim=-2),
            torch.cat([old.train_Y, Y.to(old.train_Y).expand(*batch, -1, -1)], dim=-2),
            self.network,
        )

    def fantasize(self, X: Tensor, sampler: MCSampler, **kwargs: Any) -> PFNModel:
        """Models of the data and an outcome of X `(*b, n', d)` drawn from the posterior, with batch `(*n_samples, *b)`."""
        return self.condition_on_observations(X, sampler(self.posterior(X)))

    def subset_output(self, idcs: list[int]) -> PFNModel:
        """The model of these outputs alone."""
        return PFNModel(self.train_X, self.train_Y[..., idcs], self.network)

    def _expanded(self, batch: torch.Size) -> PFNModel:
        return PFNModel(self.train_X.expand(*batch, -1, -1), self.train_Y.expand(*batch, -1, -1), self.network)

    def _bars(self, X: Tensor) -> BarPosterior:                    # X (*e, *batch_shape, q, d)
        """All points that share a context are queries of one task; B contexts and m outputs make the network's batch."""
        (q, d), m, n_batch = X.shape[-2:], self.num_outputs, self.batch_shape.numel()
        tasks = X.reshape(-1, n_batch, q, d).transpose(0, 1)                             # (B, E, q, d)
        n_extra = tasks.shape[1]
        tasks = tasks.reshape(n_batch, 1, n_extra * q, d).expand(-1, m, -1, -1).flatten(0, 1)
        location, scale = self._units()                                                  # (*batch_shape, 1, m)
        x, y = self._tasks(location, scale)
        if self._context is None:
            self._context = self.network.encode_context(x, y)
        logits = self.network.decode(self._context, tasks.to(x))                         # (B·m, E·q, n_bars)
        logits = logits.view(n_batch, m, n_extra, q, -1).permute(2, 0, 3, 1, 4).reshape(*X.shape[:-1], m, -1)
        standardised = BarDistribution(self.network.borders.to(X.dtype)).posterior(logits.to(X.dtype))
        inner = self.network.scale_of_targets(y)                                         # of rounded, standardised targets
        for std, mean in ((inner.std, inner.mean), (scale, location)):
            standardised = standardised.affine(
                std.to(X.dtype).reshape(*self.batch_shape, 1, m), mean.to(X.dtype).reshape(*self.batch_shape, 1, m)
            )
        return standardised

    def _units(self) -> tuple[Tensor, Tensor]:
        """Location and scale of every output in the precision of the data, 0 and 1 for a network that knows its units."""
        location, scale = torch.zeros_like(self.train_Y[..., :1, :]), torch.ones_like(self.train_Y[..., :1, :])
        if self.network.config.scaling != "prior":
            location = self.train_Y.mean(-2, keepdim=True)
            std = self.train_Y.std(-2, correction=0, keepdim=True)
            scale = torch.where(std > 1e-12 * location.abs(), std, 1.0)
        return location, scale

    def _tasks(self, location: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts x (B·m, n, d) and standardised y (B·m, n) in the network's precision."""
        n, d = self.train_X.shape[-2:]
        x = self.train_X.unsqueeze(-3).expand(*self.batch_shape, self.num_outputs, n, d).reshape(-1, n, d)
        y = ((self.train_Y - location) / scale).transpose(-1, -2).reshape(-1, n)
        dtype = self.network.borders.dtype
        return x.to(dtype), y.to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PFNModel:
        self._context = None                                       # it would stay behind on the old device
        return super()._apply(fn, recurse)


def _outputs(bars: BarPosterior, indices: list[int]) -> BarPosterior:
    """Some of the m outputs of bars (*b, q, m)."""
    borders = bars.borders if bars.borders.ndim == 1 else bars.borders[..., indices, :]
    return BarPosterior(borders, bars.log_mass[..., indices, :])


def _frozen(network: str | os.PathLike[str] | PFN, like: Tensor) -> PFN:
    """A regression network for data `like`, without gradients; one that the caller has is not changed.

    It takes the precision of the data, float64 by the custom of BoTorch: the line searches of `optimize_acqf` fail where
    rounding makes the acquisition function rough.
    """
    model = network if isinstance(network, PFN) else load_pretrained(network, like.device)
    if model.config.task != "regression":
        raise ValueError("the network classifies; a BoTorch model needs one for regression.")
    if model.card is not None and like.shape[-1] > model.card.envelope.max_features:
        raise ValueError(
            f"train_X has {like.shape[-1]} features, but the network was validated up to {model.card.envelope.max_features}."
        )
    is_ready = (model.borders.device, model.borders.dtype) == (like.device, like.dtype) and not model.training
    if not is_ready or any(parameter.requires_grad for parameter in model.parameters()):
        model = copy.deepcopy(model).to(like.device, like.dtype).eval().requires_grad_(False)
    return model
