"""Certificates: how far a network's posteriors are from the exact ones, on tasks of a prior of which these are known.

On draws from the prior the mean of ln p(y | exact) - ln q(y | network) is the expected Kullback–Leibler divergence from the
exact posterior predictive to the network's, whatever the network.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from pfn.network import PFN, class_logits
from pfn.studies import FUNCTION_CLASSES
from pfn.tasks import features_for
from priors import BNNPrior, DirichletPrior, GPPrior, Prior, TaskBatch, TaskShape
from priors.linear import ConjugateLinearPrior

if TYPE_CHECKING:
    from pfn.checkpoint import ModelCard

_ROWS_AT_ONCE = 20_000


@dataclass(frozen=True)
class Case:
    """Tasks on which a network is certified.

    Parameters
    ----------
    prior : Prior
        With a method `posterior`, or one of unknown posterior, on which calibration alone can be checked.
    n_features : int
    contexts : tuple of int
        Numbers of context rows.
    share : float
        Of the tasks that are asked for; less where the exact posterior is slow.
    """

    prior: Prior
    n_features: int
    contexts: tuple[int, ...]
    share: float = 1.0


@dataclass(frozen=True)
class Certificate:
    """What was found on the tasks of one case with one number of context rows.

    Densities are in units of the target; in classification they are probabilities.

    Attributes
    ----------
    prior : str
    n_features, n_context, n_tasks : int
    nll : float
        Mean negative log-likelihood of a query target under the network, in nats.
    exact_nll : float or None
        The same under the exact posterior predictive.
    gap, gap_error : float or None
        Their difference, and 1.96 standard errors of it over tasks.
    coverage : dict
        Share of targets inside central intervals of 50, 80 and 95 %; in classification inside the smallest sets of classes
        that hold as much, as randomised as is needed to hold it exactly.
    ks : float
        Kolmogorov–Smirnov distance of the ranks of the targets in their posteriors from uniform.
    """

    prior: str
    n_features: int
    n_context: int
    n_tasks: int
    nll: float
    exact_nll: float | None
    gap: float | None
    gap_error: float | None
    coverage: dict[str, float]
    ks: float

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Certificate:
        """Inverse of `dataclasses.asdict`; fields that this version does not know are dropped."""
        known: dict[str, Any] = {entry.name: values.get(entry.name) for entry in fields(cls)}
        return cls(**known)


def certify(
    model: PFN,
    cases: list[Case],
    *,
    n_tasks: int = 1000,
    n_queries: int = 20,
    seed: int = 0,
    progress: bool = False,
) -> list[Certificate]:
    """Compare a network's posteriors with the exact ones.

    Parameters
    ----------
    model : PFN
    cases : list of Case
        `cases_of(model.card)` are those of a network that was made by one of the recipes.
    n_tasks, n_queries : int
        Tasks for each number of context rows, and queries of each task.
    seed : int
        Of the tasks; those of training have other seeds.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of Certificate
        One for each case and number of context rows.

    Raises
    ------
    ValueError
        If `cases` is empty, or a prior draws classes and the network regresses, or the reverse.

    Examples
    --------
    >>> from pfn import load_pretrained
    >>> from pfn.certificate import Case, certify
    >>> from priors import GPPrior
    >>> found = certify(load_pretrained("gp"), [Case(GPPrior.with_hyperpriors(), 4, (10,))], n_tasks=10)
    >>> found[0].gap < 0.1
    True
    """
    if not cases:
        raise ValueError("cases is empty; pass at least one Case(prior, n_features, contexts).")
    work = [(case, n_context) for case in cases for n_context in case.contexts]
    shown = tqdm(work, disable=not progress, unit="case")
    return [_certificate(model, case, n, max(2, round(case.share * n_tasks)), n_queries, seed) for case, n in shown]


def cases_of(card: ModelCard) -> list[Case]:
    """The cases of the recipe that made a network, found by its configuration and prior; empty if none did."""
    from pfn.recipes import RECIPES

    for name, recipe in RECIPES.items():
        config = recipe()
        if config.model == card.config and repr(config.prior) == card.prior:
            return CASES.get(name, [])
    return []


@torch.no_grad()
def _certificate(model: PFN, case: Case, n_context: int, n_tasks: int, n_queries: int, seed: int) -> Certificate:
    generator = torch.Generator().manual_seed(1_000_003 * seed + n_context)
    at_once = max(1, _ROWS_AT_ONCE // (n_context + n_queries))
    scores, exact = [], []
    for start in range(0, n_tasks, at_once):
        shape = TaskShape(min(at_once, n_tasks - start), n_context + n_queries, case.n_features, n_context)
        batch = case.prior.sample(shape, generator=generator)
        scores.append(_network_scores(model, batch, generator))
        exact.append(exact_log_prob(case.prior, batch, generator))
    log_prob, rank = (torch.cat(values).double() for values in zip(*scores, strict=True))     # (tasks, queries)
    exact_nll = gap = gap_error = None
    known = [values for values in exact if values is not None]
    if known:
        of_task = (torch.cat(known) - log_prob).mean(1)
        exact_nll, gap = -torch.cat(known).mean().item(), of_task.mean().item()
        gap_error = 1.96 * of_task.std().item() / math.sqrt(n_tasks)
    ordered = rank.flatten().sort().values
    uniform = torch.arange(1, len(ordered) + 1, dtype=torch.float64) / len(ordered)
    ks = torch.maximum((uniform - ordered).max(), (ordered - uniform).max() + 1 / len(ordered)).item()
    coverage = {str(level): ((rank - 0.5).abs() <= level / 200).double().mean().item() for level in (50, 80, 95)}
    return Certificate(repr(case.prior), case.n_features, n_context, n_tasks, -log_prob.mean().item(), exact_nll, gap,
                       gap_error, coverage, ks)


def _network_scores(model: PFN, batch: TaskBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Log density of the query targets (B, Q), and their ranks, uniform if the posteriors are right."""
    n, x = batch.n_context, features_for(model, batch)
    y, targets = batch.y[:, :n], batch.y[:, n:]
    if batch.n_classes is None:
        posterior = model.posterior(x[:, :n], y, x[:, n:])
        return posterior.log_prob(targets), posterior.cdf(targets)
    log_prob = class_logits(model(x, y), batch.n_classes).log_softmax(-1)
    probability = log_prob.exp()
    own = probability.gather(-1, targets.unsqueeze(-1))
    more_likely = torch.where(probability > own, probability, 0.0).sum(-1)
    # Probability sets grow from the likeliest class: |rank - ½| of the central intervals is half of what is before y.
    before = more_likely + own.squeeze(-1) * torch.rand(targets.shape, generator=generator)
    side = torch.where(torch.rand(targets.shape, generator=generator) < 0.5, -0.5, 0.5)
    return log_prob.gather(-1, targets.unsqueeze(-1)).squeeze(-1), 0.5 + side * before


def exact_log_prob(prior: Prior, batch: TaskBatch, generator: torch.Generator) -> Tensor | None:
    """Log density of the query targets (B, Q) under the exact posterior predictive, float64; None if it is not known.

    Gaussian processes with unknown hyper-parameters go through importance sampling, see `priors.gp_reference`.
    """
    n = batch.n_context
    x, y, queries, targets = batch.x[:, :n], batch.y[:, :n], batch.x[:, n:], batch.y[:, n:]
    if isinstance(prior, GPPrior) and prior.has_hyperpriors:
        from priors.gp_reference import sample_hyperparameters  # SciPy: a third of a second at import

        return torch.stack([
            sample_hyperparameters(prior, x[i], y[i], generator=generator)
            .predict(prior.kernel, x[i], y[i], queries[i]).log_prob(targets[i].double())
            for i in range(len(x))
        ])
    if not hasattr(prior, "posterior"):
        return None
    found = prior.posterior(x, y, queries)
    if isinstance(found, Tensor):                                  # class probabilities
        return found.log().gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    if isinstance(found, tuple):
        mean, variance = found
        return -0.5 * ((targets - mean).square() / variance + variance.log() + math.log(2 * math.pi))
    return cast(Tensor, found.log_prob(targets))


_SHORT, _LONG = (1, 2, 5, 10, 20, 50, 100), (10, 20, 50, 100)
_EXACT_CLASSES = tuple(prior for prior in FUNCTION_CLASSES.values() if hasattr(prior, "posterior"))
_LINEAR = FUNCTION_CLASSES["linear"]

CASES: dict[str, list[Case]] = {
    "classifier": [Case(DirichletPrior(), 3, _LONG), Case(BNNPrior.big(), 8, (100,))],
    "regressor": [Case(GPPrior(noise=0.01), 1, _LONG), Case(GPPrior(noise=0.01), 5, _LONG),
                  Case(ConjugateLinearPrior(), 5, _LONG)],
    "gp": [Case(GPPrior.with_hyperpriors(), d, (10, 30), share=0.05) for d in (1, 2, 3, 4)],
    "gp-1d": [Case(GPPrior(), 1, _SHORT)],
    "gp-5d": [Case(GPPrior(), 5, _SHORT)],
    "bnn": [Case(BNNPrior.big(), 8, (20, 50, 100, 200))],
    "functions": [Case(prior, 5, (1, 2, 5, 10, 20, 50)) for prior in _EXACT_CLASSES],
    "layers": [Case(prior, 3, (1, 2, 6, 20, 50)) for prior in (_LINEAR, GPPrior(noise=0.01))],
    "loops": [Case(prior, 3, (1, 2, 6, 20, 50)) for prior in (_LINEAR, GPPrior(noise=0.01))],
}


def record(certificates: list[Certificate], **how: Any) -> dict[str, Any]:
    """Plain values for the header of a checkpoint, with five digits; `how` says how to find them again."""
    def plain(value: Any) -> Any:
        return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else (
            round(value, 5) if isinstance(value, float) else value)

    return how | {"found": [plain(asdict(one)) for one in certificates]}


def differences(found: list[Certificate], recorded: dict[str, Any], tolerance: float = 2e-3) -> list[str]:
    """What a rerun does not reproduce, a line each; the same tasks on another machine differ by rounding only."""
    def key(one: Certificate) -> tuple[Any, ...]:
        return one.prior, one.n_features, one.n_context, one.n_tasks

    old = {key(one): one for one in map(Certificate.from_dict, recorded["found"])}
    lines = []
    for one in found:
        before = old.get(key(one))
        where = f"{one.prior}, {one.n_features} features, {one.n_context} context rows"
        if before is None:
            lines.append(f"{where}: nothing is recorded for {one.n_tasks} tasks")
        elif not abs(one.nll - before.nll) <= tolerance:
            lines.append(f"{where}: negative log-likelihood {one.nll:.4f}, recorded {before.nll:.4f}")
    return lines


def table(certificates: list[Certificate]) -> str:
    """Certificates for people, a line each under the name of their prior."""
    lines, last = [], ""
    for one in certificates:
        title = f"{one.prior}, {one.n_features} feature{'s' if one.n_features > 1 else ''}"
        if title != last:
            lines += [title, f"{'context':>9}{'tasks':>7}{'NLL':>9}{'exact':>9}{'gap':>16}"
                             f"{'in 50 %':>9}{'in 80 %':>9}{'in 95 %':>9}{'KS':>7}"]
            last = title
        exact, gap = "", ""
        if one.exact_nll is not None:
            exact, gap = f"{one.exact_nll:.3f}", f"{one.gap:.4f} ± {one.gap_error:.4f}"
        inside = "".join(f"{one.coverage[level]:>9.3f}" for level in ("50", "80", "95"))
        lines.append(f"{one.n_context:>9}{one.n_tasks:>7}{one.nll:>9.3f}{exact:>9}{gap:>16}{inside}{one.ks:>7.3f}")
    return "\n".join(lines)


