"""One pretraining run on several processes, each with a share of every step's batches.

`torchrun` starts the processes and says to each which one it is; without it there is one process and nothing happens:

    torchrun --nproc-per-node 4 -m pfn pretrain classifier --batches-per-step 8

On several machines, start the same command on each of them; HOST is any one of them, and all of them read the same
checkpoint if a run is resumed. The machines should be alike: equal sums give equal weights only on equal hardware.

    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m pfn pretrain classifier --batches-per-step 16
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """Which process this is, and what it does together with the others.

    Parameters
    ----------
    rank, count : int
        Number of this process, from 0, and of processes.
    device : torch.device
        Of this process.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, n_batches: int) -> range:
        """Numbers of the batches that this process draws and trains on: rank, rank + count, …"""
        if n_batches % self.count:
            raise ValueError(
                f"batches_per_step={n_batches} is no multiple of the {self.count} processes; "
                f"use {n_batches + -n_batches % self.count}, or another --nproc-per-node."
            )
        return range(self.rank, n_batches, self.count)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each float32 tensor by its sum over the processes: one message, the same bits in every process."""
        if self.count > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            _unpack(flat, tensors)

    def copy_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each float32 tensor by that of the first process."""
        if self.count > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.broadcast(flat, src=0)
            _unpack(flat, tensors)

    def agree(self, statement: bool) -> bool:
        """What the first process says of it."""
        answer = torch.tensor([float(statement)], device=self.device)
        self.copy_([answer])
        return bool(answer.item())


def _unpack(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def leads() -> bool:
    """Whether this process is the only one, or the first of those that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def join_processes(device: torch.device) -> Iterator[Processes]:
    """Meet the processes that torchrun started, if it did; part from them at the end.

    The GPU of a process is the one with its number on the machine. A process that fails does not wait for the others:
    torchrun ends them.
    """
    met_before = dist.is_available() and dist.is_initialized()
    if not met_before and int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield Processes(0, 1, device)
        return
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not met_before:
        on_gpu = device.type == "cuda"
        dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    yield Processes(dist.get_rank(), dist.get_world_size(), device)
    if not met_before:
        dist.barrier()
        dist.destroy_process_group()
