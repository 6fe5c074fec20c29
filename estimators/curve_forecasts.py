"""Forward passes over learning curves: similar lengths share one, padded such that no curve depends on the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from estimators.curve_distribution import CurveDistribution
from estimators.curve_metric import CurveMetric
from pfn import PFN
from pfn.curves import ObservedCurves

_MULTIPLE = 8               # rows are padded to multiples of this: kernels then treat a curve alike whatever is beside it
_CURVES = 32                # that share a forward pass
_DOUBT = 1e-6               # probability that is left to all bars alike: no network is that sure


def read_in_blocks(
    model: PFN,
    t: Sequence[np.ndarray],     # n arrays, in steps of the network
    g: Sequence[np.ndarray],     # n arrays, normalised values
    horizon: np.ndarray,         # (n,), in steps of the network
    extended: float,
) -> Iterator[tuple[np.ndarray, ObservedCurves]]:
    """Curves as the network reads them, and their numbers, up to 32 at a time."""
    device = model.borders.device
    length = np.array([_padded(len(own)) for own in t])
    for size in np.unique(length):
        alike = np.flatnonzero(length == size)
        for rows in np.split(alike, range(_CURVES, len(alike), _CURVES)):
            steps, values = np.ones((len(rows), size), np.float32), np.zeros((len(rows), size), np.float32)
            seen = np.zeros((len(rows), size), bool)
            for line, number in enumerate(rows):
                n_seen = len(t[number])
                steps[line, :n_seen], values[line, :n_seen], seen[line, :n_seen] = t[number], g[number], True
            last = torch.from_numpy(horizon[rows, None]).float().to(device)
            yield rows, ObservedCurves.read(
                model, torch.from_numpy(steps).to(device), torch.from_numpy(values).to(device),
                torch.from_numpy(seen).to(device), last, torch.full_like(last, extended),
            )


def ask(observed: ObservedCurves, t: np.ndarray, metric: CurveMetric) -> CurveDistribution:
    """What a network that has read n curves says of values at steps t (n, k) of its own."""
    n_steps = t.shape[1]
    padded = np.pad(t, ((0, 0), (0, _padded(n_steps) - n_steps)), constant_values=1.0)
    logits = observed.logits(torch.from_numpy(padded).float().to(observed.horizon.device))[:, :n_steps]
    mass = logits.softmax(-1)
    log_mass = mass.mul_(1 - _DOUBT).add_(_DOUBT / mass.shape[-1]).log_().cpu()
    scale = observed.bar_scale
    location, spread = (part[:, 0].cpu().numpy() for part in (scale.level, scale.spread))
    return CurveDistribution(log_mass, observed.model.borders.double().cpu(), location, spread, metric)


def _padded(n_rows: int) -> int:
    return max(-(-n_rows // _MULTIPLE), 1) * _MULTIPLE
