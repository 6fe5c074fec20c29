"""Pictures of the tasks of a prior: curves, scatter plots or images, whichever suits the batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from priors.learnable import learnability
from priors.task import Prior, TaskBatch, TaskShape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 28                                                          # images have 28 × 28 pixels, one feature each
_CANDIDATES = 8                                                     # columns among which the plotted pair is sought


def plot_gallery(
    prior: Prior,
    shape: TaskShape | None = None,
    *,
    generator: torch.Generator,
    title: str | None = None,
) -> Figure:
    """Plot one panel for each task of a batch; context rows dark, query rows light.

    With one feature a panel shows the target over it; with more the two most informative columns, coloured by target;
    with 784 features context rows as images, each class a column of them.

    Parameters
    ----------
    prior : Prior
    shape : TaskShape, optional
        Twelve tasks of 100 rows and 2 features by default.
    generator : torch.Generator
    title : str, optional
        By default the prior's own description, shortened.

    Returns
    -------
    matplotlib.figure.Figure
        Save it with `.savefig("tasks.png")`; notebooks show it.

    Raises
    ------
    ImportError
        If matplotlib is missing: `pip install pfnkit[plot]`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib; install it with: pip install pfnkit[plot]") from error
    shape = TaskShape(12, 100, 2, 50) if shape is None else shape
    batch = _on_cpu(prior.sample(shape, generator=generator))
    n_columns = min(4, len(batch))
    n_rows = -(-len(batch) // n_columns)
    figure = Figure(figsize=(2.6 * n_columns, 2.3 * n_rows + 0.4), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for panel in panels:
        panel.tick_params(labelsize=6)
        panel.set_visible(False)
    draw = _draw_images if shape.n_features == _SIDE**2 else _draw_curve if shape.n_features == 1 else _draw_scatter
    for number, panel in zip(range(len(batch)), panels, strict=False):
        panel.set_visible(True)
        draw(panel, batch.select(torch.tensor([number])))
    figure.suptitle(_shortened(repr(prior)) if title is None else title, fontsize=9)
    return figure


def _on_cpu(batch: TaskBatch) -> TaskBatch:
    n_classes = None if batch.n_classes is None else batch.n_classes.cpu()
    return TaskBatch(batch.x.cpu(), batch.y.cpu(), batch.n_context, n_classes)


def _draw_curve(panel: Any, task: TaskBatch) -> None:
    x, y, n_context = task.x[0, :, 0].numpy(), task.y[0].numpy(), task.n_context
    if task.n_classes is None:
        order = x.argsort()
        panel.plot(x[order], y[order], color="0.75", linewidth=0.8, zorder=1)
    else:
        panel.set_yticks(range(int(task.n_classes)))
    for rows, color, size in ((slice(n_context, None), "tab:orange", 4), (slice(n_context), "black", 6)):
        panel.scatter(x[rows], y[rows], s=size, color=color, zorder=2)


def _draw_scatter(panel: Any, task: TaskBatch) -> None:
    first, second = informative_pair(task)
    x, y, n_context = _spread(task.x[0][:, [first, second]]).numpy(), task.y[0].numpy(), task.n_context
    colours = {"cmap": "viridis"} if task.n_classes is None else {"cmap": "tab10", "vmin": 0, "vmax": 9}
    for rows, size, alpha in ((slice(n_context, None), 8, 0.45), (slice(n_context), 14, 1.0)):
        panel.scatter(x[rows, 0], x[rows, 1], c=y[rows], s=size, alpha=alpha, linewidths=0, **colours)
    panel.set_xlabel(f"feature {first}", fontsize=6)
    panel.set_ylabel(f"feature {second}", fontsize=6)


def _spread(x: Tensor) -> Tensor:
    """Shift every value by up to 2.5 % of its column's range, so that equal ones do not hide each other."""
    row = torch.arange(1, len(x) + 1).unsqueeze(1)
    shift = (row * torch.tensor([0.7549, 0.5698])) % 1.0 - 0.5                            # evenly spread over the square
    known = x.nan_to_num(0.0)
    return x + 0.05 * shift * (known.amax(0) - known.amin(0))


def _draw_images(panel: Any, task: TaskBatch, per_class: int = 4, most_classes: int = 6) -> None:
    x, y = task.x[0].nan_to_num(0.0), task.y[0]
    groups = [x[y == label] for label in range(int(task.n_classes))] if task.n_classes is not None else x.split(per_class)
    sheet = torch.zeros(per_class, min(len(groups), most_classes), _SIDE, _SIDE)
    for column, images in enumerate(groups[:most_classes]):
        shown = images[:per_class]
        sheet[: len(shown), column] = shown.view(-1, _SIDE, _SIDE)
    panel.imshow(sheet.permute(0, 2, 1, 3).reshape(per_class * _SIDE, -1).numpy(), cmap="gray_r")
    panel.set_xticks([])
    panel.set_yticks([])


def informative_pair(task: TaskBatch) -> tuple[int, int]:
    """The two columns from which the target is learned best, of the eight that say most on their own.

    Parameters
    ----------
    task : TaskBatch
        A batch of one task with at least two columns.
    """
    single = _scores(task, [(column,) for column in range(task.x.shape[2])])
    candidates = single.argsort(descending=True, stable=True)[:_CANDIDATES].tolist()
    pairs = list(combinations(sorted(candidates), 2))
    first, second = pairs[int(_scores(task, pairs).argmax())]
    return first, second


def _scores(task: TaskBatch, choices: Sequence[tuple[int, ...]]) -> Tensor:  # (len(choices),)
    """Learnability of the target from these columns alone; all choices have the same length."""
    n_classes = None if task.n_classes is None else task.n_classes.expand(len(choices))
    x = torch.cat([task.x[:, :, list(columns)] for columns in choices])
    return learnability(TaskBatch(x, task.y.expand(len(choices), -1), task.n_context, n_classes))


def _shortened(text: str, length: int = 110) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
