"""Few-shot classification of drawings: a class is one to three strokes, an image a jittered pen drawing of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from priors.draw import Draw
from priors.task import TaskBatch, TaskShape, check_generator

_SIDE = 28  # the frame in which strokes are defined, in pixels
_MAX_STROKES = 3
_BLUR_STD = 0.2
_CHUNK = 2**17  # pixels rendered at a time: 512 KiB a tensor, which stays in the cache


@dataclass(frozen=True)
class StrokePrior:
    r"""Images of strokes: few shots of each class as context, other images of the same classes as queries.

    A class has 1 – 3 strokes: straight lines of 5 – 20 pixels from a point in 2 … 25 squared, in a direction for which
    they end inside the frame. An image of it jitters both ends of every stroke by up to 2 pixels a coordinate, shifts
    all of them by up to 4, and draws them with a pen of width 1 – 4 and ink 200 – 254 of 255. Edges are anti-aliased
    and the image blurred by 0.2 pixels.

    Features are the pixels, row by row, float32 in [0, 1] with 0 the paper. The context holds each class
    ⌊n_context / n_classes⌋ times or once more, in random order; queries have random classes.

    Parameters
    ----------
    n_classes : int
        Classes in a task; at least as many context rows are needed.
    image_size : int
        Pixels on a side; tasks have `image_size²` features. Smaller images show the same frame at a lower resolution.

    References
    ----------
    .. [1] S. Müller et al., "Transformers Can Do Bayesian Inference", ICLR 2022, section on few-shot learning; its
       episodes have five classes with five shots each and one query.

    Examples
    --------
    >>> import torch
    >>> from priors import StrokePrior, TaskShape
    >>> tasks = StrokePrior().sample(TaskShape(2, 26, 784, 25), generator=torch.Generator().manual_seed(0))
    >>> tasks.x.shape, tasks.n_classes
    (torch.Size([2, 26, 784]), tensor([5, 5]))
    """

    n_classes: int = 5
    image_size: int = _SIDE

    def __post_init__(self) -> None:
        if self.n_classes < 2:
            raise ValueError(f"n_classes={self.n_classes} leaves nothing to tell apart; use n_classes >= 2.")
        if self.image_size < 2:
            raise ValueError(f"image_size={self.image_size} shows no stroke; use image_size >= 2.")

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        if shape.n_features != self.image_size**2:
            raise ValueError(
                f"n_features={shape.n_features}, but images of image_size={self.image_size} have "
                f"{self.image_size**2} pixels; use n_features={self.image_size**2}."
            )
        if shape.n_context < self.n_classes:
            raise ValueError(
                f"n_context={shape.n_context} has no room for one image of each of n_classes={self.n_classes}; "
                f"use n_context >= {self.n_classes}."
            )
        batch, rows = shape.batch_size, shape.n_rows
        ends = draw_strokes(batch * self.n_classes, draw).view(batch, self.n_classes, _MAX_STROKES, 4)
        n_strokes = draw.integers(batch, self.n_classes, low=1, high=_MAX_STROKES)
        label = self._labels(shape, draw)

        ends = ends.gather(1, label.view(batch, rows, 1, 1).expand(-1, -1, *ends.shape[2:]))          # (B, R, S, 4)
        ends = ends + draw.uniform(*ends.shape, low=-2, high=2)
        ends = ends + draw.uniform(batch, rows, 1, 2, low=-4, high=4).repeat(1, 1, 1, 2)
        drawn = torch.arange(_MAX_STROKES, device=draw.device) < n_strokes.gather(1, label).unsqueeze(-1)
        width = draw.integers(batch * rows, low=1, high=4)
        ink = draw.integers(batch * rows, low=200, high=254) / 255
        image = render(ends.flatten(0, 1), drawn.flatten(0, 1), width, self.image_size).mul_(ink.view(-1, 1, 1))
        return TaskBatch(
            x=image.view(batch, rows, -1),
            y=label,
            n_context=shape.n_context,
            n_classes=torch.full((batch,), self.n_classes, device=draw.device),
        )

    def _labels(self, shape: TaskShape, draw: Draw) -> Tensor:  # (B, R), int64
        """Even shots in the context; which classes have one more where they do not divide evenly is random."""
        batch, n_context = shape.batch_size, shape.n_context
        name = draw.permutation(batch, self.n_classes)
        context = name.gather(1, draw.permutation(batch, n_context) % self.n_classes)
        queries = draw.integers(batch, shape.n_rows - n_context, low=0, high=self.n_classes - 1)
        return torch.cat([context, queries], dim=1)


def draw_strokes(n: int, draw: Draw, n_starts: int = 8) -> Tensor:
    """Ends x1, y1, x2, y2 of `n` sets of strokes, shape (n, 3, 4), in pixels; all lie inside the frame.

    The definition redraws the direction until the stroke ends inside, and start and length too after every third
    failure. Here `n_starts` times three attempts are drawn at once and the first good one is taken.
    """
    size = (n, _MAX_STROKES, n_starts)
    length = draw.uniform(*size, 1, low=5, high=20)
    start = draw.uniform(*size, 1, 2, low=2, high=25)
    angle = draw.uniform(*size, 3, high=2 * torch.pi)
    end = start + length.unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], dim=-1)           # (n, S, A, 3, 2)
    inside = ((end >= 0) & (end <= _SIDE - 1)).all(-1).flatten(2)                                  # (n, S, 3 A)
    first = inside.float().argmax(2)                                                               # 0 if there is none
    ends = torch.cat([start.expand_as(end), end], dim=-1).flatten(2, 3)
    chosen = ends.gather(2, first.view(n, -1, 1, 1).expand(-1, -1, 1, 4)).squeeze(2)
    return chosen.clamp(0, _SIDE - 1)                                                              # one in 10^6 has none


def render(
    ends: Tensor,        # (N, S, 4), x1, y1, x2, y2 in pixels of the frame
    drawn: Tensor,       # (N, S), bool: which strokes there are
    width: Tensor,       # (N,), pixels of the frame
    image_size: int = _SIDE,
) -> Tensor:             # (N, image_size, image_size), ink in [0, 1]
    """Draw strokes with round ends; a pixel's ink falls from 1 to 0 over one pixel's distance across the edge."""
    n = max(1, _CHUNK // image_size**2)
    chunks = zip(ends.split(n), drawn.split(n), width.split(n), strict=True)
    return torch.cat([_render(*chunk, image_size) for chunk in chunks])


def _render(ends: Tensor, drawn: Tensor, width: Tensor, image_size: int) -> Tensor:
    pixel = _SIDE / image_size                                                                     # side, in the frame's
    centre = (torch.arange(image_size, device=ends.device) + 0.5) * pixel - 0.5
    reach = (width / 2).view(-1, 1, 1)
    coverage = torch.zeros(len(ends), image_size, image_size, device=ends.device)
    for stroke in range(ends.shape[1]):
        x1, y1, x2, y2 = ends[:, stroke, :, None, None].unbind(1)                                  # (N, 1, 1) each
        dx, dy = x2 - x1, y2 - y1
        x, y = centre - x1, centre.unsqueeze(1) - y1                                               # (N, 1, P), (N, P, 1)
        squared_length = (dx.square() + dy.square()).clamp_min(1e-6)
        # In place from here: fresh memory costs more than this arithmetic.
        along = (x * (dx / squared_length) + y * (dy / squared_length)).clamp_(0, 1)               # nearest point's share
        distance = (along * -dx).add_(x).hypot_(along.mul_(-dy).add_(y))
        inked = distance.neg_().add_(reach).div_(pixel).add_(0.5).clamp_(0, 1)
        torch.maximum(coverage, inked.mul_(drawn[:, stroke, None, None]), out=coverage)
    return _blur(coverage)


def _blur(image: Tensor) -> Tensor:
    """Convolve rows and columns with the three-tap kernel of variance 0.2²; beyond the frame is paper."""
    side = _BLUR_STD**2 / 2
    ones = torch.ones(image.shape[-1], device=image.device)
    kernel = (1 - 2 * side) * ones.diag() + side * (ones[1:].diag(1) + ones[1:].diag(-1))
    return kernel @ image @ kernel
