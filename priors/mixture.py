"""A prior that draws each task from one of several priors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from priors.draw import Draw
from priors.task import Prior, TaskBatch, TaskShape, check_generator, join


class Mixture:
    """Draw every task from one of `components`, chosen with the given weights.

    Parameters
    ----------
    components : sequence of (weight, prior)
        Weights are positive and are normalised. All priors classify, or all regress.

    Examples
    --------
    >>> import torch
    >>> from priors import Mixture, RulePrior, SCMPrior, TaskShape
    >>> prior = Mixture([(0.9, SCMPrior(max_classes=10)), (0.1, RulePrior())])
    >>> tasks = prior.sample(TaskShape(4, 64, 5, 32), generator=torch.Generator().manual_seed(0))
    >>> tasks.x.shape
    torch.Size([4, 64, 5])
    """

    def __init__(self, components: Sequence[tuple[float, Prior]]) -> None:
        if not components:
            raise ValueError("components is empty; pass at least one (weight, prior) pair.")
        for position, (weight, prior) in enumerate(components):
            if not weight > 0:
                raise ValueError(f"the weight at position {position} is {weight!r}; use a positive weight.")
            if not hasattr(prior, "sample"):
                raise TypeError(f"component {position} is {prior!r}, which has no sample(shape, *, generator) method.")
        self.components = tuple((float(weight), prior) for weight, prior in components)

    def __repr__(self) -> str:
        return f"Mixture([{', '.join(f'({weight:g}, {prior!r})' for weight, prior in self.components)}])"

    def sample(self, shape: TaskShape, *, generator: torch.Generator) -> TaskBatch:
        draw = Draw(check_generator(generator))
        which = draw.choice(shape.batch_size, weights=[weight for weight, _ in self.components])
        # One synchronisation a batch: the sizes of the parts must be known to shape their tensors.
        counts = torch.bincount(which, minlength=len(self.components)).tolist()
        parts = [
            prior.sample(TaskShape(count, shape.n_rows, shape.n_features, shape.n_context), generator=generator)
            for count, (_, prior) in zip(counts, self.components, strict=True)
            if count
        ]
        if len({part.n_classes is None for part in parts}) == 2:
            raise ValueError(f"{self!r} mixes classification with regression; wrap the latter in as_classification().")
        order = which.argsort(stable=True).argsort()                    # back to the order in which they were drawn
        return join(parts).select(order)
