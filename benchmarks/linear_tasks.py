"""How near is the regressor to exact Bayesian linear regression? A probe of what its prior and its training left out.

Tasks y = x·w + ε with independent normal columns, w ~ N(0, I/d) and known noise. The exact posterior knows all that, the
network knows nothing but the rows; its gap in nats is therefore not only its own fault, but its growth with d is. The
distance is the root mean square difference of the two predictive means, in units of the function's standard deviation.

    python benchmarks/linear_tasks.py                               # prints the table; computes the bundled one if missing
    python benchmarks/linear_tasks.py --checkpoint old.safetensors --label "before"
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from paired import circumstances, write_json
from tqdm import tqdm

from pfn import PFN, load_pretrained
from priors import LinearPrior, TaskShape

FEATURES, ROWS, NOISE = (2, 5, 10, 20), (50, 200, 500), (0.1, 0.5)
N_TASKS, N_QUERIES, AT_ONCE, SEED = 32, 64, 4, 0


@torch.no_grad()
def probe(network: PFN, n_features: int, n_rows: int, noise: float) -> dict[str, float]:
    """Gap in nats and distance of the means, over the same tasks for every network."""
    prior = LinearPrior(weight_variance=1.0 / n_features, bias_variance=0.0, noise=noise**2)
    generator = torch.Generator().manual_seed(SEED)
    tasks = prior.sample(TaskShape(N_TASKS, n_rows + N_QUERIES, n_features, n_rows), generator=generator)
    gaps, squares = [], []
    for start in range(0, N_TASKS, AT_ONCE):
        x, y = tasks.x[start : start + AT_ONCE], tasks.y[start : start + AT_ONCE]
        mean, variance = prior.posterior(x[:, :n_rows], y[:, :n_rows], x[:, n_rows:])
        found = network.posterior(x[:, :n_rows], y[:, :n_rows], x[:, n_rows:])
        exact = torch.distributions.Normal(mean, variance.sqrt()).log_prob(y[:, n_rows:].double())
        gaps.append((exact - found.log_prob(y[:, n_rows:])).flatten())
        squares.append((found.mean - mean).square().flatten())
    return {"gap": round(torch.cat(gaps).mean().item(), 4), "distance": round(torch.cat(squares).mean().sqrt().item(), 4)}


def table(results: dict[str, Any]) -> str:
    """One line for each network, number of features and noise; gap and distance by context rows."""
    heads = [f"{what}, {rows} rows" for what in ("gap", "distance") for rows in ROWS]
    lines = [f"| network | d | noise | {' | '.join(heads)} |", "|---" * (3 + len(heads)) + "|"]
    for noise in NOISE:
        for n_features in FEATURES:
            for label, found in results["networks"].items():
                cases = [found[f"{n_features}/{rows}/{noise}"] for rows in ROWS]
                cells = [f"{case[what]:.3f}" for what in ("gap", "distance") for case in cases]
                lines.append(f"| {label} | {n_features} | {noise} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="regressor")
    parser.add_argument("--label", default="bundled")
    parser.add_argument("--redo", action="store_true", help="compute this label again")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "linear-tasks.json")
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out.exists() else circumstances(SEED) | {"networks": {}}
    if args.redo or args.label not in results["networks"]:
        torch.set_num_threads(1)
        network = load_pretrained(args.checkpoint)
        cases = [(d, rows, noise) for d in FEATURES for rows in ROWS for noise in NOISE]
        found = {f"{d}/{rows}/{noise}": probe(network, d, rows, noise) for d, rows, noise in tqdm(cases, disable=None)}
        results = circumstances(SEED) | {"networks": results["networks"] | {args.label: found}}
        write_json(args.out, results)
    print(table(results))


if __name__ == "__main__":
    main()
