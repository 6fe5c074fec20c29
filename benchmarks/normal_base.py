"""What a normal base does for narrow posteriors: the same small network with and without it, for as many steps.

Both learn the Gaussian process of recipe `gp-1d` (noise 1e-4: posteriors a hundredth of the prior wide) from the same tasks;
gaps are those to the exact posterior, in nats (`pfn.certify`). The beginning of training only.

    OMP_NUM_THREADS=1 python benchmarks/normal_base.py
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from paired import circumstances, clock, use_one_thread, write_json

from pfn import Case, PFNConfig, certify, pretrain
from pfn.recipes import RECIPES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "normal_base.json")
    args = parser.parse_args()
    use_one_thread()
    recipe = RECIPES["gp-1d"]()
    found = {}
    for name, has_base in (("with", True), ("without", False)):
        model: PFNConfig = replace(recipe.model, normal_base=has_base, embed_dim=64, hidden_dim=128, n_layers=4)
        config = replace(recipe, model=model, n_steps=args.steps, decay_steps=args.steps // 2, warmup_steps=20,
                         sizes=replace(recipe.sizes, cells=2048), ema_decay=0.97, seed=args.seed)
        begun = clock()
        network = pretrain(config, progress=None)
        seconds = clock() - begun
        certificates = certify(network, [Case(recipe.prior, 1, (5, 20, 100))], n_tasks=200, seed=args.seed)
        found[name] = {"seconds": round(seconds, 1), "gap": {str(one.n_context): round(one.gap, 4) for one in certificates}}
        print(f"{name} a normal base: {seconds:.0f} s, gap in nats by context rows {found[name]['gap']}", flush=True)
    write_json(args.out, circumstances(args.seed) | {"steps": args.steps, "networks": found})


if __name__ == "__main__":
    main()
