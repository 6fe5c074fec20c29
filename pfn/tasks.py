"""The tasks of a step: drawn by (seed, step, batch), ahead of time if asked for, and the loss of a network on them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor
from torch.nn import functional as F

from pfn.bar import BarDistribution
from pfn.config import PretrainConfig
from pfn.network import PFN, class_logits
from priors import TaskBatch, TaskShape

# Borders cover standardised targets up to here. Those beyond the outermost border count as if they were there: one that is
# a thousand standard deviations of a nearly constant context away would otherwise outweigh all others of its step.
_FARTHEST = 10.0
_FARTHEST_OF_PRIOR = 300.0           # with scaling "prior", where nothing is nearly constant but tails may be heavy


def step_generator(seed: int, step: int, device: str | torch.device = "cpu", purpose: str = "train") -> torch.Generator:
    """The generator of one step: the same whichever run, resumed or not, gets there."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))


def draw_batches(
    config: PretrainConfig,
    step: int,
    device: torch.device,
    purpose: str = "train",
    numbers: Iterable[int] | None = None,
) -> list[TaskBatch]:
    """The batches of one step, or those of them with these `numbers`.

    Each batch has a generator of its own, so that any process can draw any of them.
    """
    sizes, shapes = config.sizes_at(step), step_generator(config.seed, step, purpose=f"{purpose}-shapes")
    drawn = [sizes.draw(shapes, config.model.n_tokens) for _ in range(config.batches_per_step)]
    return [
        config.prior.sample(
            drawn[number], generator=step_generator(config.seed, step, device, purpose=f"{purpose}-tasks-{number}")
        )
        for number in (range(config.batches_per_step) if numbers is None else numbers)
    ]


def features_for(model: PFN, batch: TaskBatch) -> Tensor:
    """Features (B, R, F) as the network reads them, for tasks of its kind.

    Raises
    ------
    ValueError
        If the prior draws classes and the network regresses, or the reverse.
    """
    classifies = model.config.task == "classification"
    if classifies and batch.n_classes is None:
        raise ValueError("the prior draws real targets but the network classifies; wrap it in as_classification().")
    if not classifies and batch.n_classes is not None:
        raise ValueError("the prior draws classes but the network regresses; use PFNConfig(task='classification').")
    # The network knows no padding: a column that is none is one in which everything is missing.
    return batch.x if batch.feature_mask is None else batch.x.masked_fill(~batch.feature_mask.unsqueeze(1), torch.nan)


def task_loss(model: PFN, batch: TaskBatch, weights: dict[str, Tensor] | None = None) -> Tensor:
    """Mean negative log-likelihood of the query targets, in nats a row; of the standardised target in regression.

    `weights` stands in for the parameters of `model`, for example a bfloat16 copy of them.
    """
    inputs = features_for(model, batch), batch.y[:, : batch.n_context], None, batch.status
    logits = model(*inputs) if weights is None else torch.func.functional_call(model, weights, inputs)
    target = batch.y[:, batch.n_context :]
    if batch.n_classes is not None:
        return F.cross_entropy(class_logits(logits, batch.n_classes).flatten(0, 1), target.flatten())
    scaling = model.scale_of_targets(batch.y[:, : batch.n_context], status=batch.status)
    borders = model.borders.float()
    target = ((target - scaling.mean[:, :, 0]) / scaling.std[:, :, 0]).clamp(borders[0], borders[-1])
    return -BarDistribution(borders).posterior(logits.float()).log_prob(target).mean()


@torch.no_grad()
def fit_to_prior(model: PFN, config: PretrainConfig) -> None:
    """Set what a network takes from the prior at large: with scaling "prior" the moments; in regression the borders.

    With scaling "context" borders are of equal prior mass. In units of the prior, and on the cube, posteriors become much
    narrower than the prior, anywhere in its range, and what the width w of bars costs a posterior of standard deviation s
    is about (w / s)² / 24 nats: bars as dense as the cube root of the prior's density minimise the mean of w². With
    scaling "prior", w is measured on a scale that is logarithmic beyond three standard deviations, or heavy tails would
    take most of the bars.
    """
    if config.model.scaling != "prior" and config.model.task == "classification":
        return
    batches = _typical_tasks(config)
    if config.model.scaling == "prior":
        x = torch.cat([batch.x.flatten() for batch in batches])
        model.feature_scaling.copy_(_moments(x[~x.isnan()]))
        if config.model.task == "regression":
            model.target_scaling.copy_(_moments(torch.cat([batch.y.flatten() for batch in batches])))
    if config.model.task != "regression":
        return
    targets, farthest = [], _FARTHEST_OF_PRIOR if config.model.scaling == "prior" else _FARTHEST
    for batch in batches:
        context = batch.y[:, : batch.n_context]
        scaling = model.scale_of_targets(context)
        z = (batch.y[:, batch.n_context :] - scaling.mean[:, :, 0]) / scaling.std[:, :, 0]
        # Of NaN in a context that has failures: borders come from the tasks without.
        varies = context.std(1, keepdim=True, correction=0) > 0
        targets.append(z[varies & (z.abs() < farthest)])
    borders = BarDistribution.from_samples(torch.cat(targets), config.model.n_outputs).borders
    if config.model.scaling == "prior":
        borders = _expanded(_evened_out(_compressed(borders)))
    model.borders.copy_(_evened_out(borders) if config.model.scaling == "cube" else borders)


def _typical_tasks(config: PretrainConfig) -> list[TaskBatch]:
    """Tasks of a middling size, with 256 query targets for each bar."""
    low, high = config.sizes.features
    shape = TaskShape(256, 128, round(math.sqrt(low * high)), 64)
    n_batches = math.ceil(config.model.n_outputs / 64) if config.model.task == "regression" else 4
    return [config.prior.sample(shape, generator=step_generator(config.seed, number, purpose="borders"))
            for number in range(n_batches)]


def _moments(values: Tensor) -> Tensor:
    return torch.stack([values.double().mean(), values.double().std()])


def _evened_out(borders: Tensor) -> Tensor:
    """Borders as dense as the cube root of the density of which `borders` (n_bars + 1,) mark equal masses."""
    widths = borders.double().diff()
    position = torch.nn.functional.pad((widths ** (2 / 3)).cumsum(0), (1, 0))
    wanted = torch.linspace(0.0, 1.0, len(borders), dtype=torch.float64, device=borders.device) * position[-1]
    bar = torch.searchsorted(position, wanted, right=True).clamp(1, len(widths)) - 1
    share = (wanted - position[bar]) / (position[bar + 1] - position[bar])
    return (borders[bar] + share * widths[bar]).float()


def _compressed(z: Tensor) -> Tensor:
    """Itself up to 3, logarithmic beyond."""
    return z.sign() * (z.abs().clamp_max(3.0) + torch.log1p((z.abs() - 3.0).clamp_min(0.0)))


def _expanded(v: Tensor) -> Tensor:
    """Inverse of `_compressed`."""
    return v.sign() * (v.abs().clamp_max(3.0) + torch.expm1((v.abs() - 3.0).clamp_min(0.0)))


class TaskStream:
    """Batches of successive steps; with `ahead`, a thread draws the next step's while the current one trains.

    On a GPU the thread queues its work on a stream of its own. What is drawn is the same either way.

    Parameters
    ----------
    draw : callable
        From the number of a step to its batches.
    n_steps : int
        The first step that is not drawn.
    device : torch.device
        Where `draw` makes them.
    ahead : bool

    Notes
    -----
    An exception of the thread is raised by the `take` that asks for its step. The thread ends with the `with` block,
    after at most one more draw.
    """

    def __init__(self, draw: Callable[[int], list[TaskBatch]], n_steps: int, device: torch.device, *, ahead: bool) -> None:
        self._draw, self._n_steps, self._device = draw, n_steps, device
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pfn-tasks") if ahead else None
        self._stream = torch.cuda.Stream(device) if ahead and device.type == "cuda" else None
        self._next: tuple[int, Future[list[TaskBatch]]] | None = None

    def __enter__(self) -> TaskStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, step: int) -> list[TaskBatch]:
        """Batches of `step`; starts to draw those of the step after it."""
        if self._pool is None:
            return self._draw(step)
        number, pending = self._next if self._next is not None else (step, self._submit(self._pool, step))
        assert number == step, "steps are taken in order"
        batches = pending.result()
        if self._stream is not None:
            _hand_over(batches, self._stream, torch.cuda.current_stream(self._device))
        self._next = (step + 1, self._submit(self._pool, step + 1)) if step + 1 < self._n_steps else None
        return batches

    def _submit(self, pool: ThreadPoolExecutor, step: int) -> Future[list[TaskBatch]]:
        if self._stream is None:
            return pool.submit(self._draw, step)
        # The prior may keep tensors on the device that were made on the training stream.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return pool.submit(self._draw_on_stream, step)

    def _draw_on_stream(self, step: int) -> list[TaskBatch]:
        with torch.cuda.stream(self._stream):
            return self._draw(step)


def _hand_over(batches: list[TaskBatch], source: torch.cuda.Stream, target: torch.cuda.Stream) -> None:
    """Let `target` use what `source` made: it waits, and the memory is not reused before it has finished."""
    target.wait_stream(source)
    for batch in batches:
        for value in vars(batch).values():
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(target)
