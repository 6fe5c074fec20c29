"""Pretraining: draw tasks from a prior, teach a network to predict their query rows. One loop for every prior."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from pfn.checkpoint import build_model, write_tensors
from pfn.config import PretrainConfig
from pfn.log import RunLog, StepRecord
from pfn.network import PFN
from pfn.parallel import Processes, join_processes
from pfn.state import RunState
from pfn.tasks import TaskStream, draw_batches, task_loss
from priors import TaskBatch

_MAX_SKIPPED_IN_A_ROW = 50


def _train_step(config: PretrainConfig, state: RunState, stream: TaskStream, processes: Processes) -> StepRecord:
    """One update from the batches of all processes."""
    begun = time.perf_counter()
    batches = stream.take(state.step)
    losses = torch.stack([_accumulate_gradients(config, state.model, batch) for batch in batches])
    totals = torch.stack([losses.sum(), losses.new_tensor(float(sum(len(batch) for batch in batches)))])
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    processes.sum_([*gradients, totals])
    loss, n_tasks = totals.tolist()
    norm = state.update(config, loss, int(n_tasks))
    return StepRecord(loss, norm, int(n_tasks), time.perf_counter() - begun)


def _accumulate_gradients(config: PretrainConfig, model: PFN, batch: TaskBatch) -> Tensor:
    """Add this batch's part of the step's gradients; return its part of the step's loss."""
    # Low-precision copies of float32 weights; gradients flow back through the cast.
    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    copies: dict[str, Tensor] = {name: p.to(dtype) for name, p in model.named_parameters()}
    loss = task_loss(model, batch, copies) / config.batches_per_step
    loss.backward()
    return loss.detach()


@torch.no_grad()
def validation_loss(
    config: PretrainConfig,
    average: dict[str, Tensor],
    model: PFN,
    n_steps: int = 6,
    processes: Processes | None = None,
) -> float:
    """Loss of the averaged weights on tasks that training never draws; the same tasks at every call."""
    device = next(iter(average.values())).device
    processes = Processes(0, 1, device) if processes is None else processes
    fixed = replace(config, seed=0, late_sizes=None)
    total = torch.zeros((), dtype=torch.float32, device=device)
    for step in range(n_steps):
        for batch in draw_batches(fixed, step, device, "validation", processes.share(config.batches_per_step)):
            total += task_loss(model, batch, average)
    processes.sum_([total])
    return total.item() / (n_steps * config.batches_per_step)


def pretrain(
    config: PretrainConfig,
    *,
    device: str | torch.device = "cpu",
    time_limit: float | None = None,
    resume: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    log_every: int = 20,
    validate_every: int = 500,
    progress: bool | None = None,
    prefetch: bool | None = None,
    tensorboard: str | os.PathLike[str] | None = None,
) -> PFN:
    """Pretrain a network on a prior.

    Processes that `torchrun` has started share the work: each draws and trains on its part of the `batches_per_step`
    batches of a step, the gradients are summed, and the weights are those of one process up to rounding. The first
    process writes the files.

    Parameters
    ----------
    config : PretrainConfig
        Decides the result: a run that is interrupted and resumed ends with the same weights, bit for bit on CPU.
    device : str or torch.device
        Where tasks are drawn and the network is trained; with several processes, "cuda" is a GPU for each.
    time_limit : float, optional
        Minutes after which the run stops, with a checkpoint; resume it to go on.
    resume : path-like, optional
        Checkpoint to continue from, with any number of processes. From weights without optimiser state, as they are
        shipped, a new run starts at step 0, with its warm-up: give it another seed, or it sees the same tasks again.
    out : path-like, optional
        Checkpoint to write, together with a log of the same name ending in `.jsonl`.
    checkpoint_every : float
        Seconds between checkpoints.
    log_every, validate_every : int
        Steps between log lines, and between validations.
    progress : bool, optional
        Show a progress bar; None shows it on a terminal.
    prefetch : bool, optional
        Draw the next step's tasks in a thread while the current step trains; the weights are the same. None does so on a
        GPU; on a CPU it pays if more cores are idle than `torch.get_num_threads()`.
    tensorboard : path-like, optional
        Directory for TensorBoard, an extra: `pip install pfnkit[tensorboard]`.

    Returns
    -------
    PFN
        The averaged weights, ready for `save_checkpoint` or an estimator's `model` parameter.

    Raises
    ------
    CheckpointError
        If `resume` is no checkpoint, or one of another architecture.
    ImportError
        If `tensorboard` is given and not installed.
    RuntimeError
        If 50 steps in a row were not finite.

    Notes
    -----
    The network is not compiled: on a CPU, torch.compile takes longer over each of the `n_shapes` shapes than a run saves
    by it.

    Examples
    --------
    >>> from pfn import PFNConfig, TaskSizes
    >>> from priors import GPPrior
    >>> small = PFNConfig(task="regression", n_outputs=32, embed_dim=16, n_heads=2, n_layers=2, hidden_dim=32)
    >>> sizes = TaskSizes(rows=(16, 32), features=(1, 2), cells=256)
    >>> model = pretrain(PretrainConfig(GPPrior(), small, sizes, n_steps=3, decay_steps=0), progress=False)
    >>> model.card.training["step"]
    3
    """
    for name, value in (("log_every", log_every), ("validate_every", validate_every)):
        if value < 1:
            raise ValueError(f"{name}={value} is not positive; use {name} >= 1.")
    if time_limit is not None and not time_limit >= 0:
        raise ValueError(f"time_limit={time_limit} is negative; give it in minutes, or None for no limit.")
    with join_processes(torch.device(device)) as processes:
        device, numbers = processes.device, processes.share(config.batches_per_step)
        state = RunState.fresh(config, device) if resume is None else RunState.resume(config, resume, device)
        processes.copy_([*state.model.state_dict().values(), *state.average.values()])
        begun, earlier = time.monotonic(), state.seconds
        last_saved, validation, skipped_in_a_row = begun, None, 0
        path = Path(out) if out is not None and processes.leads else None
        log = RunLog(None if path is None else path.with_suffix(".jsonl"), tensorboard if processes.leads else None,
                     state.step if resume is not None else 0)
        stream = TaskStream(lambda step: draw_batches(config, step, device, numbers=numbers), config.n_steps, device,
                            ahead=device.type == "cuda" if prefetch is None else prefetch)
        bar = tqdm(total=config.n_steps, initial=state.step, unit="step", smoothing=0.02,
                   disable=not processes.leads or (None if progress is None else not progress))
        with closing(log), stream, bar:
            while state.step < config.n_steps:
                skipped_before = state.skipped
                log.add(_train_step(config, state, stream, processes))
                bar.update()
                skipped_in_a_row = skipped_in_a_row + 1 if state.skipped > skipped_before else 0
                if skipped_in_a_row == _MAX_SKIPPED_IN_A_ROW:
                    raise RuntimeError(
                        f"{_MAX_SKIPPED_IN_A_ROW} steps in a row had a loss or gradient that is not finite (step "
                        f"{state.step}); lower learning_rate={config.learning_rate:g} or check the prior."
                    )
                out_of_time = time_limit is not None and processes.agree(time.monotonic() - begun > 60.0 * time_limit)
                finished = state.step == config.n_steps or out_of_time
                to_validate = state.step % validate_every == 0
                if to_validate or finished:
                    validation = validation_loss(config, state.average, state.model, processes=processes)
                state.seconds = earlier + time.monotonic() - begun
                if to_validate or finished or state.step % log_every == 0:
                    line = log.write(state, validation if to_validate else None)
                    bar.set_postfix(loss=f"{line['loss']:.4f}", validation=validation)
                if path is not None and (finished or time.monotonic() - last_saved > checkpoint_every):
                    write_tensors(path, state.tensors(), state.card(config, validation))
                    last_saved = time.monotonic()
                if out_of_time:
                    break
    return build_model(dict(state.average), state.card(config, validation), "pretrain")
