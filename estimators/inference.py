"""Forward passes of a network for NumPy tables: device, precision, and blocks of queries that keep rows independent."""

from __future__ import annotations

import numpy as np
import torch

from pfn import PFN
from pfn.cpu import prefers_bfloat16

# Queries go through the network in blocks of this many rows, the last one padded: every row sees the same kernels in
# the same shapes, so its result does not depend, to the last bit, on which or how many rows are predicted with it.
QUERY_BLOCK = 128


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is unknown to torch; use 'auto', 'cpu' or 'cuda'.") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}, but torch finds no CUDA device; use 'auto' or 'cpu'.")
    return resolved


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 on a CPU that gains from it, else float32."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cpu" and prefers_bfloat16() else torch.float32
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision={precision!r} is unknown; use 'auto', 'float32' or 'bfloat16'.")
    return torch.float32 if precision == "float32" else torch.bfloat16


@torch.inference_mode()
def query_logits(
    model: PFN,
    x_context: np.ndarray,   # (n, f) float32, NaN = missing
    y_context: np.ndarray,   # (n,), class slots or targets
    x_query: np.ndarray,     # (m, f)
) -> np.ndarray:             # (m, n_outputs) float64
    """Logits of every query row given the context."""
    device = next(model.parameters()).device
    context = model.encode_context(
        torch.as_tensor(x_context, device=device).unsqueeze(0), torch.as_tensor(y_context, device=device).unsqueeze(0)
    )
    blocks = []
    for start in range(0, len(x_query), QUERY_BLOCK):
        block = x_query[start : start + QUERY_BLOCK]
        padded = np.zeros((QUERY_BLOCK, x_query.shape[1]), dtype=np.float32)
        padded[: len(block)] = block
        logits = model.decode(context, torch.as_tensor(padded, device=device).unsqueeze(0))
        blocks.append(logits[0, : len(block)].double().cpu().numpy())
    return np.concatenate(blocks)
