"""Five classes, five shots: drawings of strokes as in pretraining, and digits that no drawing of the prior was meant for.

Stroke episodes come from `StrokePrior(n_classes=5, image_size=8)` with a seed of their own. Digit episodes take five of the
ten digits of scikit-learn's `load_digits` (8 × 8 pixels, scaled to [0, 1]), five random images of each as shots and five
others as queries. The network has seen no digit, and nothing is fine-tuned. Recipe `strokes`.

`network, 5 orders` averages the logits over five cyclic renamings of the classes, whose names mean nothing. The other
methods read the pixels of the same episodes; the penalty of the logistic regression is scikit-learn's default. Intervals
are bootstraps over episodes, which for digits share 1797 images.

    OMP_NUM_THREADS=1 python benchmarks/few_shot.py --checkpoint strokes.safetensors
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired import circumstances, mean_and_interval, show, use_one_thread, write_json
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from tqdm import tqdm

from pfn import PFN, load_pretrained
from priors import StrokePrior, TaskShape

WAYS, SHOTS, N_QUERIES, SIDE = 5, 5, 25, 8
N_CONTEXT = WAYS * SHOTS
EPISODES_AT_ONCE = 100
NETWORK, ORDERS = "network", "network, 5 orders"


def stroke_episodes(n_episodes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pixels (E, 50, 64) and classes (E, 50); the first 25 are the shots."""
    generator = torch.Generator().manual_seed(seed)
    shape = TaskShape(n_episodes, N_CONTEXT + N_QUERIES, SIDE**2, N_CONTEXT)
    batch = StrokePrior(n_classes=WAYS, image_size=SIDE).sample(shape, generator=generator)
    return batch.x, batch.y


def digit_episodes(n_episodes: int, seed: int) -> tuple[Tensor, Tensor]:
    """As `stroke_episodes`; queries are five of each class."""
    rng = np.random.default_rng(seed)
    images, digit = load_digits(return_X_y=True)
    images_of = [np.flatnonzero(digit == d) for d in range(10)]
    rows, label = [], np.tile(np.arange(WAYS), SHOTS + N_QUERIES // WAYS)
    for _ in range(n_episodes):
        digits = rng.permutation(10)[:WAYS]
        chosen = np.stack([rng.permutation(images_of[d])[: SHOTS + N_QUERIES // WAYS] for d in digits])  # (ways, 10)
        rows.append(chosen.T.ravel())
    x = torch.from_numpy(images[np.stack(rows)] / 16).float()
    return x, torch.from_numpy(label).expand(n_episodes, -1)


def network_logits(model: PFN, x: Tensor, y: Tensor, shift: int = 0) -> Tensor:
    """Logits (E, queries, ways), in which class c is shown to the network as c + shift."""
    logits = [
        model(pixels, (label[:, :N_CONTEXT] + shift) % WAYS)[..., :WAYS]
        for pixels, label in zip(x.split(EPISODES_AT_ONCE), y.split(EPISODES_AT_ONCE), strict=True)
    ]
    return torch.cat(logits).roll(-shift, -1)


def nearest_image(x: Tensor, y: Tensor) -> Tensor:
    """Class of the nearest shot, (E, queries)."""
    return y[:, :N_CONTEXT].gather(1, torch.cdist(x[:, N_CONTEXT:], x[:, :N_CONTEXT]).argmin(2))


def nearest_mean(x: Tensor, y: Tensor) -> Tensor:
    """Class with the nearest mean of its shots."""
    member = torch.nn.functional.one_hot(y[:, :N_CONTEXT], WAYS).float() / SHOTS                         # (E, 25, ways)
    return torch.cdist(x[:, N_CONTEXT:], member.mT @ x[:, :N_CONTEXT]).argmin(2)


def logistic(x: Tensor, y: Tensor) -> Tensor:
    found = []
    for pixels, label in tqdm(list(zip(x.numpy(), y.numpy(), strict=True)), desc="logistic regression", disable=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                         # convergence
            found.append(LogisticRegression().fit(pixels[:N_CONTEXT], label[:N_CONTEXT]).predict(pixels[N_CONTEXT:]))
    return torch.from_numpy(np.stack(found))


BASELINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "1 nearest neighbour": nearest_image, "nearest class mean": nearest_mean, "logistic regression": logistic,
}


def evaluate(model: PFN, x: Tensor, y: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Accuracy of every method, with its interval, and the network's predictions."""
    query = y[:, N_CONTEXT:]
    each = [network_logits(model, x, y, shift) for shift in range(WAYS)]
    predicted = {NETWORK: each[0].argmax(2), ORDERS: torch.stack(each).mean(0).argmax(2)}
    predicted |= {name: predict(x, y) for name, predict in BASELINES.items()}
    right = {name: (labels == query).double().mean(1).numpy() for name, labels in predicted.items()}
    nll = -each[0].log_softmax(2).gather(2, query.unsqueeze(2)).mean().item()
    found = {
        "episodes": len(x),
        "accuracy": {name: mean_and_interval(values) for name, values in right.items()},
        "gain_of_network": {name: mean_and_interval(right[NETWORK] - right[name]) for name in BASELINES},
        "nll_of_network": round(nll, 4),
        "confidence_of_network": round(each[0].softmax(2).amax(2).mean().item(), 4),
    }
    return found, predicted[NETWORK]


def tables(sets: dict[str, Any]) -> str:
    counts = {name: found["episodes"] for name, found in sets.items()}
    lines = [f"Accuracy, {WAYS} classes of {SHOTS} shots, {N_QUERIES} queries", "",
             f"| | {' | '.join(f'{name}, {count} episodes' for name, count in counts.items())} |",
             "|---" * (len(sets) + 1) + "|"]
    for method in (NETWORK, ORDERS, *BASELINES):
        lines.append(f"| {method} | {' | '.join(show(found['accuracy'][method]) for found in sets.values())} |")
    for name, found in sets.items():
        lines += ["", f"{name}: NLL of the network {found['nll_of_network']:.3f} nats (chance 1.609), mean confidence "
                  f"{found['confidence_of_network']:.3f}"]
    return "\n".join(lines)


def verdict(sets: dict[str, Any]) -> str:
    """Against the best of the other methods: better if the whole interval of the paired gain is above 0."""
    lines = []
    for name, found in sets.items():
        best = max(BASELINES, key=lambda method: found["accuracy"][method][0])
        gain = found["gain_of_network"][best]
        word = "better than" if gain[1] > 0 else "worse than" if gain[2] < 0 else "not told apart from"
        lines.append(f"{name}: the network is {word} the best baseline, {best}, by {show(gain)}")
    return "\n".join(lines)


def draw(episodes: dict[str, tuple[Tensor, Tensor, Tensor]], path: Path) -> None:
    """One episode of each: two shots of every class, below them a query of it with the class that the network says."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, (WAYS + 1) * len(episodes) - 1, figsize=(8, 3))
    for axis in axes.flat:
        axis.axis("off")
    for block, (name, (x, y, predicted)) in enumerate(episodes.items()):
        for c in range(WAYS):
            shots, queries = (y[:N_CONTEXT] == c).nonzero().flatten(), (y[N_CONTEXT:] == c).nonzero().flatten()
            column = axes[:, block * (WAYS + 1) + c]
            images = [x[shots[0]], x[shots[1]]] + ([x[N_CONTEXT + queries[0]]] if len(queries) else [])
            for axis, image in zip(column, images, strict=False):
                axis.imshow(image.view(SIDE, SIDE).numpy(), cmap="gray_r", vmin=0, vmax=1)
            column[0].set_title(f"{name}\nclass {c}" if c == WAYS // 2 else f"\n{c}", fontsize=7)
            if len(queries):
                says = int(predicted[queries[0]])
                column[2].set_title(f"“{says}”", fontsize=7, color="k" if says == c else "r", pad=2)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--strokes", type=int, default=2000, help="episodes of strokes")
    parser.add_argument("--digits", type=int, default=1000, help="episodes of digits")
    parser.add_argument("--seed", type=int, default=9_004)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "few_shot.json")
    args = parser.parse_args()
    use_one_thread()
    model = load_pretrained(args.checkpoint)
    episodes = {"strokes": stroke_episodes(args.strokes, args.seed), "digits": digit_episodes(args.digits, args.seed)}
    sets, shown = {}, {}
    with torch.inference_mode():
        for name, (x, y) in episodes.items():
            sets[name], predicted = evaluate(model, x, y)
            shown[name] = x[0], y[0], predicted[0]
    about = {"checkpoint": Path(args.checkpoint).name, "ways": WAYS, "shots": SHOTS, "queries": N_QUERIES}
    write_json(args.out, circumstances(args.seed, "scikit-learn") | about | {"sets": sets})
    draw(shown, args.out.with_suffix(".png"))
    print(tables(sets), verdict(sets), sep="\n\n")


if __name__ == "__main__":
    main()
