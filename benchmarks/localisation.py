"""Bias and variance beyond the contexts of pretraining, and what reading only the nearest rows does to them.

The experiment of [1]: P(Y = 1 | x) = ½ + ½ sin(1ᵀx), x ~ N(0, I_5), 100 test points of the same distribution, contexts of
100 … 4000 rows. Replicates are independent contexts, those of a replicate nested. Of R replicates with mean q̄(x) and
unbiased variance s²(x): bias² is the mean over x of (q̄ - p)² - s²/R, variance that of s². Recipe `smooth-classes`, whose
contexts have at most 256 rows.

- `plain` reads the whole context. `local` reads, for each query, its k = ⌈n^(4/9)⌉ nearest rows and nothing else;
  `local, standardised` shows these with mean 0 and standard deviation 1 in every feature, as the network of [1] did itself.
- `plain, as at 256`: our attention sharpens its scores with the logarithm of the context's length; here it keeps those of
  256 rows, so that scores are bounded whatever the length, as the theorem of [1] has it. For longer contexts only.
- All of them average the probabilities of two members, the second of which sees the classes swapped and the features in
  reverse order: otherwise an arbitrary preference of the network would count as bias. (Neither changes the problem.)
- `neighbours`: the share of class 1 among the same k rows: what locality gives without a network.
- Controls: weighted means of the labels with Gaussian weights, of bandwidth 1 (bias constant, variance ∝ 1/n) and n^(-1/9)
  (both ∝ n^(-4/9) once the bandwidth is far below the sine's wavelength, 2.8, which it is not at these n), and, in one
  dimension, of bandwidth ½ n^(-1/5) (both ∝ n^(-4/5)).

Slopes are of log variance and log bias² against log n by least squares; intervals are bootstraps over replicates.
`--estimator R` adds the bundled `PFNClassifier` with one member, reading everything ("full") or, of longer tables, the 500
rows of the query's cell ("local"). It was pretrained on up to 2048 rows.

    OMP_NUM_THREADS=1 python benchmarks/localisation.py --checkpoint smooth-classes.safetensors --cache localisation.npz

References: [1] T. Nagler, "Statistical Foundations of Prior-Data Fitted Networks", ICML 2023, section 6.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired import circumstances, show, use_one_thread, write_json
from torch import Tensor
from tqdm import tqdm

from estimators import PFNClassifier
from pfn import PFN, load_pretrained

D, N_TEST = 5, 100
SIZES = (100, 250, 500, 1000, 2000, 4000)
LONGEST_TRAINED = 256
ESTIMATOR_CONTEXT = 500
PLAIN, LOCAL, STANDARDISED, FROZEN = "plain", "local", "local, standardised", "plain, as at 256"
FIXED, SHRINKING = "window of width 1", "window of width n^(-1/9)"
ONE_DIMENSION = "one dimension, window of width ½ n^(-1/5)"
Method = Callable[[Tensor, Tensor, Tensor], Tensor]                 # x (n, d), y (n,), x_query (m, d); P(Y = 1), (m,)


def truth(x: Tensor) -> Tensor:                                     # (..., d); (...)
    return 0.5 + 0.5 * x.sum(-1).sin()


def queries(n_features: int = D) -> Tensor:
    return torch.randn(N_TEST, n_features, generator=torch.Generator().manual_seed(2**31))


def replicate(number: int, seed: int, n_features: int = D) -> tuple[Tensor, Tensor]:
    """The longest context; shorter ones are its first rows."""
    generator = torch.Generator().manual_seed(1_000_000 * seed + number)
    x = torch.randn(SIZES[-1], n_features, generator=generator)
    return x, (torch.rand(SIZES[-1], generator=generator) < truth(x)).long()


def n_neighbours(n: int) -> int:
    """⌈n^(4 / (d + 4))⌉."""
    return math.ceil(n ** (4 / (D + 4)))


# Methods


def both_members(model: PFN, x: Tensor, y: Tensor, x_query: Tensor) -> Tensor:  # (B, n, d), (B, n), (B, m, d); (B, m)
    """P(Y = 1): mean over the task as it is and with swapped classes and reversed features."""
    rows = torch.cat([x, x_query], 1)
    straight = model(rows, y)[..., :2].softmax(-1)[..., 1]
    swapped = model(rows.flip(2), 1 - y)[..., :2].softmax(-1)[..., 0]
    return (straight + swapped) / 2


def nearest_rows(x: Tensor, x_query: Tensor) -> Tensor:             # (m, k), numbers of rows
    return torch.cdist(x_query, x).topk(n_neighbours(len(x)), largest=False).indices


def plain(model: PFN) -> Method:
    return lambda x, y, x_query: both_members(model, x[None], y[None], x_query[None])[0]


def local(model: PFN, *, is_standardised: bool = False) -> Method:
    """Every query is a task of its own, with its neighbours as context."""
    def predict(x: Tensor, y: Tensor, x_query: Tensor) -> Tensor:
        near = nearest_rows(x, x_query)
        context, query = x[near], x_query.unsqueeze(1)                                               # (m, k, d), (m, 1, d)
        if is_standardised:
            std, mean = torch.std_mean(context, 1, keepdim=True, correction=0)
            context, query = (context - mean) / std, (query - mean) / std
        return both_members(model, context, y[near], query)[:, 0]

    return predict


def neighbours(x: Tensor, y: Tensor, x_query: Tensor) -> Tensor:
    return y[nearest_rows(x, x_query)].float().mean(1)


def window(bandwidth: Callable[[int], float]) -> Method:
    """Weighted mean of the labels; the weights of a row fall with its distance like a Gaussian."""
    def predict(x: Tensor, y: Tensor, x_query: Tensor) -> Tensor:
        weight = (-0.5 * (torch.cdist(x_query, x) / bandwidth(len(x))).square()).softmax(1)
        return weight @ y.float()

    return predict


def frozen(model: PFN) -> PFN:
    """The network whose scores are not sharpened with the context's length: they are those of 256 rows."""
    other = copy.deepcopy(model)
    for name, parameter in other.named_parameters():
        if name.endswith("length_scale"):
            parameter.data.zero_()
    return other


def estimator(context: str) -> Method:
    def predict(x: Tensor, y: Tensor, x_query: Tensor) -> Tensor:
        longest = SIZES[-1] if context == "full" else ESTIMATOR_CONTEXT
        model = PFNClassifier(1, temperature=1.0, context=context, max_context=longest, random_state=0)
        return torch.from_numpy(model.fit(x.numpy(), y.numpy()).predict_proba(x_query.numpy())[:, 1])

    return predict


def network_methods(model: PFN) -> dict[str, Method]:
    return {PLAIN: plain(model), FROZEN: plain(frozen(model)), LOCAL: local(model),
            STANDARDISED: local(model, is_standardised=True)}


CONTROLS: dict[str, Method] = {
    "neighbours": neighbours, FIXED: window(lambda n: 1.0), SHRINKING: window(lambda n: n ** (-1 / (4 + D))),
    ONE_DIMENSION: window(lambda n: 0.5 * n**-0.2),
}


# Predictions, kept by method, context size and replicate


class Predictions:
    """(replicates, test points) by "method/n", in a file if there is a path; what is there is not computed again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.arrays: dict[str, np.ndarray] = {}
        if path is not None and path.exists():
            with np.load(path) as file:
                self.arrays = dict(file)

    def fill(self, name: str, method: Method, n_replicates: int, seed: int, sizes: tuple[int, ...]) -> None:
        n_features = 1 if name == ONE_DIMENSION else D
        x_query = queries(n_features)
        for n in sizes:
            key = f"{name}/{n}"
            known = self.arrays.get(key, np.zeros((0, N_TEST), np.float32))
            new = []
            for number in tqdm(range(len(known), n_replicates), desc=key, disable=None):
                x, y = replicate(number, seed, n_features)
                new.append(method(x[:n], y[:n], x_query).float().numpy())
                if len(new) % 25 == 0 or number == n_replicates - 1:
                    self.arrays[key] = np.concatenate([known, np.stack(new)])
                    self.write()

    def write(self) -> None:
        if self.path is not None:
            partial = self.path.with_suffix(".partial.npz")
            np.savez(partial, **self.arrays)
            partial.replace(self.path)


def bias_and_variance(q: np.ndarray, p: np.ndarray) -> tuple[float, float]:
    """Means over the test points; q (replicates, points), p (points,)."""
    variance = q.var(0, ddof=1)
    return float(np.mean((q.mean(0) - p) ** 2 - variance / len(q))), float(variance.mean())


def slope(n: list[int], values: np.ndarray) -> float:
    """Of log values against log n; NaN if an estimate of bias² is not positive."""
    if min(values) <= 0:
        return math.nan
    return float(np.polyfit(np.log(n), np.log(values), 1)[0])


def summary(q: dict[int, np.ndarray], p: np.ndarray, n_resamples: int = 300) -> dict[str, Any]:
    """By context size: bias², variance and intervals; slopes over all sizes, and over those beyond pretraining."""
    rng = np.random.default_rng(0)
    sizes = list(q)
    beyond = [j for j, n in enumerate(sizes) if n > LONGEST_TRAINED]
    draws = [np.array([bias_and_variance(q[n], p) for n in sizes])]                                      # first the estimate
    for _ in range(n_resamples):
        chosen = rng.integers(len(q[sizes[0]]), size=len(q[sizes[0]]))                                   # the same for all n
        draws.append(np.array([bias_and_variance(q[n][chosen], p) for n in sizes]))
    values = np.stack(draws)                                                                             # (1 + R, sizes, 2)
    # A resample repeats replicates, which adds about variance / R to its bias²: take that off.
    values[1:, :, 0] -= values[0, :, 1] / len(q[sizes[0]])
    statistics = {
        "slope of variance": [slope(sizes, v[:, 1]) for v in values],
        "slope of bias², n > 256": [slope([sizes[j] for j in beyond], v[beyond, 0]) for v in values],
        "slope of variance, n > 256": [slope([sizes[j] for j in beyond], v[beyond, 1]) for v in values],
        "bias² at the largest n / at the least beyond 256": [v[beyond[-1], 0] / v[beyond[0], 0] for v in values],
    }
    rows = {str(n): {"bias²": _interval(values[:, j, 0]), "variance": _interval(values[:, j, 1])}
            for j, n in enumerate(sizes)}
    return {"replicates": len(q[sizes[0]]), "rows": rows} | {name: _interval(v) for name, v in statistics.items()}


def _interval(values: np.ndarray | list[float]) -> list[float]:
    """The first value, and the 95 % interval of the others."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975]) if np.isfinite(values[1:]).any() else (math.nan, math.nan)
    return [float(f"{v:.5g}") for v in (values[0], low, high)]


def tables(found: dict[str, Any]) -> str:
    lines = []
    for quantity in ("bias²", "variance"):
        heads = " | ".join(f"n = {n}" for n in SIZES)
        lines += ["", f"{quantity} × 1000", "", f"| | {heads} |", "|---" * (len(SIZES) + 1) + "|"]
        for name, row in found.items():
            cells = [f"{1000 * row['rows'][str(n)][quantity][0]:.2f}" if str(n) in row["rows"] else "" for n in SIZES]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    names = [key for key in next(iter(found.values())) if key not in ("rows", "replicates")]
    lines += ["", f"| | replicates | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for name, row in found.items():
        lines.append(f"| {name} | {row['replicates']} | {' | '.join(show(row[key], 2) for key in names)} |")
    return "\n".join(lines[1:])


def verdict(found: dict[str, Any]) -> str:
    """The three claims of [1], for the network."""
    ratio = "bias² at the largest n / at the least beyond 256"
    s = found[PLAIN]["slope of variance"]
    lines = [f"variance of {PLAIN} ∝ n^{show(s, 2)}, target -1 ± 0.1: {'met' if abs(s[0] + 1) <= 0.1 else 'missed'}"]
    for name in (PLAIN, FROZEN):
        left = found[name][ratio]
        lines.append(f"bias² of {name} from n = 500 to 4000: × {show(left, 2)}: "
                     f"{'levels off' if left[0] >= 0.8 else 'still falls'} (levelling off means ≥ 0.8)")
    for name in (LOCAL, STANDARDISED):
        left, at_last = found[name][ratio], [found[key]["rows"][str(SIZES[-1])]["bias²"][0] for key in (name, PLAIN)]
        speed = "faster than" if left[2] < found[PLAIN][ratio][1] else "not clearly faster than"
        lines.append(f"bias² of {name} from n = 500 to 4000: × {show(left, 2)}: "
                     f"{'keeps falling' if left[2] < 0.9 else 'does not fall'} (below 0.9), {speed} {PLAIN}; "
                     f"at {SIZES[-1]} it is {at_last[0] / at_last[1]:.2f} × that of {PLAIN}")
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), sharex=True)
    for axis, quantity in zip(axes, ("bias²", "variance"), strict=True):
        for color, (name, row) in enumerate((k, v) for k, v in found.items() if k != ONE_DIMENSION):
            is_network = name in (PLAIN, LOCAL, STANDARDISED, FROZEN)
            values = {int(n): cell[quantity] for n, cell in row["rows"].items()}
            axis.plot(list(values), [v[0] for v in values.values()], "o-" if is_network else "--", ms=3,
                      lw=1.8 if is_network else 1, color=f"C{color}", label=name)
            axis.fill_between(list(values), [v[1] for v in values.values()], [v[2] for v in values.values()], alpha=0.15,
                              color=f"C{color}", lw=0)
        axis.axvline(LONGEST_TRAINED, color="0.8", zorder=0)
        axis.set(title=quantity, xlabel="context rows", xscale="log", yscale="log")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def evaluate(model: PFN | None, args: argparse.Namespace, predictions: Predictions) -> dict[str, Any]:
    methods = {} if model is None else network_methods(model)
    found: dict[str, Any] = {}
    for name, method in (methods | CONTROLS).items():
        sizes = tuple(n for n in SIZES if name != FROZEN or n > LONGEST_TRAINED)
        found[name] = run(predictions, name, method, args.replicates, args.seed, sizes)
    if args.estimator:
        for context in ("full", "local"):
            sizes = tuple(n for n in SIZES if n <= args.estimator_rows)
            found[f"PFNClassifier, {context}"] = run(
                predictions, f"PFNClassifier, {context}", estimator(context), args.estimator, args.seed, sizes)
    return found


def run(
    predictions: Predictions, name: str, method: Method, n_replicates: int, seed: int, sizes: tuple[int, ...]
) -> dict[str, Any]:
    predictions.fill(name, method, n_replicates, seed, sizes)
    p = truth(queries(1 if name == ONE_DIMENSION else D)).double().numpy()
    q = {n: predictions.arrays[f"{name}/{n}"][:n_replicates].astype(np.float64) for n in sizes}
    return summary(q, p)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="without it, the controls alone")
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--estimator", type=int, default=0, metavar="R", help="replicates for the bundled PFNClassifier")
    parser.add_argument("--estimator-rows", type=int, default=4000, help="its longest context")
    parser.add_argument("--seed", type=int, default=9_003)
    parser.add_argument("--cache", type=Path, help="file of predictions, read and extended; one a checkpoint and seed")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "localisation.json")
    args = parser.parse_args()
    use_one_thread()
    model = None if args.checkpoint is None else load_pretrained(args.checkpoint)
    with torch.inference_mode():
        found = evaluate(model, args, Predictions(args.cache))
    print(tables(found))
    if model is not None:
        print("", verdict(found), sep="\n")
        about = {"checkpoint": Path(args.checkpoint).name, "test_points": N_TEST, "members": 2}
        write_json(args.out, circumstances(args.seed, "scikit-learn") | about | {"methods": found})
        draw(found, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
