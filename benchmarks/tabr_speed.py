"""Seconds of a training epoch of TabR: ours, and plain code that encodes all candidates with gradients in each step.

Both have the same layers, batches, dropout and optimiser; their outputs without dropout are compared first. The table is
random normal, the target a smooth function of it. The plain code is what the published equations say line by line, with
torch's own functions: all candidate keys with gradients, their distances to the batch, the 96 nearest without the row
itself, T(k - k_i) of every pair.

    python benchmarks/tabr_speed.py                              # n = 13,000, d = 8, batches of 256, two threads
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from estimators.tabr_network import TabRConfig, TabRNetwork
from estimators.tabr_rows import Rows
from estimators.tabr_training import Plan, log_weights, mixed, train


def plain_output(network: TabRNetwork, x: Tensor, y: Tensor, batch: Tensor, context_size: int, dropout: float) -> Tensor:
    """Outputs for rows `batch`, (B, 1), as one would write the equations down; dropout as a share, 0 for none."""
    config = network.config
    represented = network.input(network._embedded(x))
    key = network.key(represented)
    query = key[batch]
    with torch.no_grad():
        distance = torch.cdist(query, key)
        distance[torch.arange(len(batch)), batch] = torch.inf
        index = distance.topk(context_size, largest=False).indices
    difference = query.unsqueeze(1) - key[index]
    weight = F.dropout(torch.softmax(-difference.square().sum(-1), -1), dropout and config.context_dropout)
    labels = y[index].unsqueeze(-1) * network.label[0] + network.label[1]
    hidden = F.dropout(torch.relu(network.correction_inner(difference)), dropout)
    value = labels + network.correction_outer(hidden)
    mixture = represented[batch] + (weight.unsqueeze(1) @ value).squeeze(1)
    for block in network.predictor:
        assert isinstance(block.norm, nn.LayerNorm)
        hidden = F.dropout(torch.relu(block.inner(block.norm(mixture))), dropout)
        mixture = mixture + block.outer(hidden)
    return network.head(torch.relu(network.head_norm(mixture)))


def plain_epoch(network: TabRNetwork, x: Tensor, y: Tensor, batch_size: int, context_size: int, steps: int) -> float:
    """Seconds per epoch, from some steps of it."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-4)
    batches = torch.randperm(len(x)).split(batch_size)
    start = time.perf_counter()
    for batch in batches[:steps]:
        output = plain_output(network, x, y, batch, context_size, network.config.dropout)
        loss = (output.squeeze(1) - y[batch]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - start) / min(steps, len(batches)) * len(batches)


def our_epochs(network: TabRNetwork, rows: Rows, batch_size: int, context_size: int) -> list[float]:
    """Seconds of two epochs that search and of two with frozen contexts; 64 rows serve as validation."""
    plan = Plan(context_size, batch_size, 3e-4, 1e-6, 4, 4, 2, "loss")
    some = torch.arange(64)
    history = train(network, rows, rows[some], plan, torch.Generator().manual_seed(0))
    return [b - a for a, b in zip([0.0, *history.seconds], history.seconds, strict=False)]


def measure(
    n_rows: int, n_features: int, batch_size: int, n_frequencies: int, repeats: int, steps: int
) -> dict[str, object]:
    """Both, in turns."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n_rows, n_features, generator=generator)
    y = torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2]
    rows = Rows(x, y, torch.ones(n_rows), torch.arange(n_rows))
    config = TabRConfig(n_features, 0, 1, 0, n_frequencies=n_frequencies, frequency_scale=0.1)
    make = lambda: TabRNetwork(config, torch.Generator().manual_seed(1))                # noqa: E731
    network, batch = make(), torch.arange(200)
    with torch.no_grad():
        plain = plain_output(network, x, y, batch, 96, 0.0)
        distance = torch.cdist(network.keys(x[batch]), network.keys(x)).double()
        distance[batch, batch] = torch.inf
        index = distance.topk(96, largest=False).indices
        ours = mixed(network, x[batch], rows, index, log_weights(rows, index))
    found: dict[str, list[float]] = {"plain": [], "searching": [], "frozen": []}
    for _ in range(repeats):
        seconds = our_epochs(make(), rows, batch_size, 96)
        found["searching"].append(min(seconds[:2]))
        found["frozen"].append(min(seconds[2:]))
        found["plain"].append(plain_epoch(make(), x, y, batch_size, 96, steps))
    best = {name: min(seconds) for name, seconds in found.items()}
    return {
        "rows": n_rows, "features": n_features, "batch_size": batch_size, "n_frequencies": n_frequencies,
        "seconds": {name: [round(s, 2) for s in seconds] for name, seconds in found.items()},
        "times_faster_searching": round(best["plain"] / best["searching"], 2),
        "times_faster_frozen": round(best["plain"] / best["frozen"], 2),
        "largest_difference_of_outputs": float((plain - ours).abs().max()),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=13_000)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="of the plain implementation, scaled to an epoch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "tabr-speed.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = [measure(args.rows, args.features, args.batch_size, n, args.repeats, args.steps) for n in (0, 16)]
    where = f"{datetime.date.today()} on {os.cpu_count()} cores, {platform.machine()}, {args.threads} threads"
    Path(args.out).write_text(json.dumps({"computed": where, "results": results}, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
