"""The figures of how_it_works.md, drawn with the package itself: `python docs/figures.py`; needs matplotlib."""

import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from PIL import Image  # matplotlib needs it

from estimators import PFNRegressor
from pfn import load_pretrained
from priors import GPPrior, LearningCurvePrior, SCMPrior, TaskShape
from priors.gp_reference import sample_hyperparameters

HERE = Path(__file__).resolve().parent
BLUE, ORANGE, GREY = "#3366aa", "#dd7722", "#999999"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tasks() -> Figure:
    """Three draws from each of three priors."""
    figure, axes = plt.subplots(3, 3, figsize=(9, 5.4))
    rows = (
        ("Gaussian process", GPPrior(lengthscale=0.2, noise=0.01), TaskShape(3, 40, 1, 20)),
        ("learning curve", LearningCurvePrior(), TaskShape(3, 60, 1, 20)),
        ("causal graph", SCMPrior(max_classes=3), TaskShape(3, 300, 5, 150)),
    )
    for (title, prior, shape), row in zip(rows, axes, strict=True):
        batch = prior.sample(shape, generator=generator(2))
        for x, y, axis in zip(batch.x, batch.y, row, strict=True):
            if shape.n_features == 1:
                order = slice(0, shape.n_context), slice(shape.n_context, None)
                for part, colour in zip(order, ("black", BLUE), strict=True):
                    axis.plot(x[part, 0], y[part], ".", color=colour, markersize=4)
            else:
                spread = [len(column.unique()) for column in x.T]
                first, second = np.argsort(spread)[-2:]
                axis.scatter(x[:, first], x[:, second], c=y, s=6, cmap="viridis")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(title)
    return figure


def arrow(axis: Axes, start: tuple[float, float], stop: tuple[float, float], colour: str, bend: float = 0.25) -> None:
    style = f"arc3,rad={bend}"
    axis.add_patch(FancyArrowPatch(start, stop, connectionstyle=style, arrowstyle="-|>", mutation_scale=9, color=colour))


def reading() -> Figure:
    """A table as tokens, the two attentions of a layer, and who reads whom."""
    figure, (table, mask) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=[5, 3])
    names, n_context, n_rows = ("x₁", "x₂", "x₃", "y"), 4, 6
    for row in range(n_rows):
        for column, name in enumerate(names):
            is_unknown = name == "y" and row >= n_context
            colour = "white" if is_unknown else ("#cfe0f3" if name != "y" else "#f8ddc4")
            left, bottom = 1.6 * column, -row
            table.add_patch(Rectangle((left, bottom), 1.2, 0.55, facecolor=colour, edgecolor="black", linewidth=0.8))
            table.text(left + 0.6, bottom + 0.27, "?" if is_unknown else name, ha="center", va="center", fontsize=9)
    for column in range(3):                                         # a token of the last row reads those of its row
        arrow(table, (5.4, 0.0 - 5), (1.6 * column + 0.6, 0.0 - 5), BLUE, -0.3)
    for row in range(n_context):                                    # a token of the fifth reads its column in the context
        arrow(table, (-0.05, 0.27 - 4), (-0.05, 0.27 - row), ORANGE, -0.5)
    table.plot([-0.2, 6.2], [-3.22, -3.22], "--", color=GREY, linewidth=1)
    table.text(6.3, -1.2, "context:\ny is known", va="center", fontsize=9)
    table.text(6.3, -4.2, "queries:\ny is asked for", va="center", fontsize=9)
    table.text(2.9, -6.1, "first read the row", color=BLUE, ha="center", va="top", fontsize=9)
    table.text(-1.1, -1.7, "then read\nthe context", color=ORANGE, ha="right", va="center", fontsize=9)
    table.set(xlim=(-3.0, 8.4), ylim=(-6.6, 0.7))
    table.axis("off")
    sees = np.zeros((n_rows, n_rows))
    sees[:, :n_context] = 1
    mask.imshow(sees, cmap="Oranges", vmin=0, vmax=1.6)
    labels = [f"{'context' if row < n_context else 'query'} {row + 1}" for row in range(n_rows)]
    mask.set_xticks(range(n_rows), labels, rotation=60, ha="right", fontsize=8)
    mask.set_yticks(range(n_rows), labels, fontsize=8)
    mask.set_xticks(np.arange(-0.5, n_rows), minor=True)
    mask.set_yticks(np.arange(-0.5, n_rows), minor=True)
    mask.grid(which="minor", color="white", linewidth=2)
    mask.tick_params(which="both", length=0)
    mask.set(xlabel="is read", ylabel="reads", title="attention between rows")
    mask.title.set_fontsize(10)
    return figure


@torch.no_grad()
def exact() -> Figure:
    """The bundled `gp` beside the exact posterior, along a line through the unit square."""
    prior, model, levels = GPPrior.with_hyperpriors(), load_pretrained("gp"), torch.tensor([0.025, 0.5, 0.975])
    line = torch.linspace(0, 1, 120)
    queries = torch.stack([line, torch.full_like(line, 0.5)], 1)
    draws = generator(3)
    batch = prior.sample(TaskShape(1, 31, 2, 30), generator=draws)
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.9), sharey=True)
    for axis, n in zip(axes, (8, 30), strict=True):
        x, y = batch.x[0, :n], batch.y[0, :n]
        low, middle, high = model.posterior(x[None], y[None], queries[None]).quantile(levels)[0].T
        axis.fill_between(line, low, high, alpha=0.3, color=BLUE, linewidth=0, label="network, 95 %")
        axis.plot(line, middle, color=BLUE, label="network, median")
        found = sample_hyperparameters(prior, x, y, generator=draws).predict(prior.kernel, x, y, queries)
        values = torch.linspace(float(low.min()) - 3, float(high.max()) + 3, 600).double()
        cdf = torch.stack([
            found.log_weight.exp() @ torch.special.ndtr((v - found.component_mean) / found.component_variance.sqrt())
            for v in values
        ])                                                          # (values, queries)
        for level in levels:
            quantile = values[(cdf < level).sum(0).clamp(max=len(values) - 1)]
            axis.plot(line, quantile, "k--", linewidth=0.9, label="exact" if level == 0.5 else None)
        axis.set(title=f"{n} context rows", xlabel="x₁, at x₂ = ½")
    axes[0].set_ylabel("y")
    axes[0].legend(fontsize=8)
    return figure


def bars() -> Figure:
    """Two branches: the density of the bundled regressor at two places."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(200, 1))
    y = np.where(rng.random(200) < 0.5, x[:, 0], -x[:, 0]) + 0.05 * rng.normal(size=200)
    figure, (data, density) = plt.subplots(1, 2, figsize=(9, 2.9))
    data.plot(x[:, 0], y, "k.", markersize=3)
    posterior = PFNRegressor(n_estimators=1, random_state=0).fit(x, y).predict_distribution([[0.1], [0.8]])
    values = np.linspace(-1.3, 1.3, 800)
    for at, row, colour in zip((0.1, 0.8), np.exp(posterior.log_prob(np.tile(values, (2, 1)))), (ORANGE, BLUE), strict=True):
        data.axvline(at, color=colour)
        density.fill_between(values, row, step="mid", alpha=0.4, color=colour, label=f"x = {at}")
    data.set(xlabel="x", ylabel="y", title="table", xticks=(-1, 0, 1))
    density.set(xlabel="y", ylabel="density", title="posterior predictive: bars")
    density.legend(fontsize=8)
    return figure


def localisation() -> Figure:
    """Bias and variance beyond the rows of pretraining, from benchmarks/results."""
    methods = json.loads((HERE.parent / "benchmarks" / "results" / "localisation.json").read_text())["methods"]
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.9), sharex=True)
    for name, label, colour in (("plain", "whole context", ORANGE), ("local", "nearest rows", BLUE)):
        rows = methods[name]["rows"]
        n = [int(size) for size in rows]
        for axis, quantity in zip(axes, ("bias²", "variance"), strict=True):
            axis.semilogx(n, [rows[size][quantity][0] for size in rows], "o-", color=colour, markersize=4, label=label)
    for axis, quantity in zip(axes, ("bias²", "variance"), strict=True):
        axis.axvline(256, color=GREY, linestyle=":", linewidth=1)
        axis.set(xlabel="context rows", title=quantity, ylim=(0, None))
        axis.set_xticks(n, n)
        axis.minorticks_off()
    axes[0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)
    (HERE / "figures").mkdir(exist_ok=True)
    total = 0
    for draw in (tasks, reading, exact, bars, localisation):
        figure = draw()
        figure.tight_layout()
        picture = io.BytesIO()
        figure.savefig(picture, dpi=100, bbox_inches="tight")
        target = HERE / "figures" / f"{draw.__name__}.png"
        palette = Image.open(picture).convert("RGB").quantize(48, dither=Image.Dither.NONE)
        palette.save(target, optimize=True)                         # plots do not suffer from a palette
        total += target.stat().st_size
        print(f"{target.relative_to(HERE.parent)}: {target.stat().st_size / 1e3:.0f} kB")
    print(f"{total / 1e3:.0f} kB in all")
