"""Muon for the matrices inside the layers, AdamW for everything else, one learning-rate schedule for both."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def make_optimizers(model: nn.Module, learning_rate: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Muon on 2-D weights of `model.blocks`, AdamW on embeddings, norms, biases and the decoder.

    Muon's update is scaled to the root mean square of AdamW's ("match_rms_adamw"), so one learning rate serves both.

    References
    ----------
    .. [1] J. Liu et al., "Muon is Scalable for LLM Training", 2025.
    """
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def learning_rate_factor(step: int, *, n_steps: int, warmup_steps: int, decay_steps: int) -> float:
    """Warm-up, stable, decay: linear from 0 to 1, constant, then 1 - √progress down to 0 at `n_steps`.

    The constant part is a trunk: a later run may prolong it by raising `n_steps`.

    References
    ----------
    .. [1] A. Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", NeurIPS 2024.
    """
    warm = min(1.0, (step + 1) / max(warmup_steps, 1))
    progress = (step - (n_steps - decay_steps)) / max(decay_steps, 1)
    return warm * (1.0 - math.sqrt(min(max(progress, 0.0), 1.0)))


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """State of the optimisers as named tensors, for a checkpoint."""
    tensors = {}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer.{number}.{index}.{key}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def load_optimizer_tensors(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; ValueError for names that these optimisers do not have, or shapes that do not fit."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    names = [{"momentum_buffer"}, {"step", "exp_avg", "exp_avg_sq"}]
    shapes = [[p.shape for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
    for name, tensor in tensors.items():
        try:
            number, index, key = name.removeprefix("optimizer.").split(".")
            expected = torch.Size() if key == "step" else shapes[int(number)][int(index)]
            fits = key in names[int(number)] and tensor.shape == expected and min(int(number), int(index)) >= 0
        except (ValueError, IndexError):
            fits = False
        if not (fits and tensor.is_floating_point() and tensor.isfinite().all()):
            raise ValueError(f"{name!r} of shape {tuple(tensor.shape)} is no state of these optimisers")
        states[int(number)].setdefault(int(index), {})[key] = tensor.float()
    for optimizer, state, keys in zip(optimizers, states, names, strict=True):
        if any(set(one) != keys for one in state.values()):
            raise ValueError(f"some state of {type(optimizer).__name__} is missing")
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
