"""Every prior by name, with a shape that suits it: what the command line samples and the notebook shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from priors.bnn import BNNPrior
from priors.curves import LearningCurvePrior
from priors.factors import CollinearPrior, FactorPrior
from priors.freeze_thaw import FreezeThawPrior
from priors.functions import (
    DecisionTreePrior,
    LinearClassificationPrior,
    MixtureOfRegressionsPrior,
    QuadraticPrior,
    SparseLinearPrior,
    TwoLayerNetPrior,
)
from priors.gp import GPPrior
from priors.hebo import ConstrainedHEBOPrior, HEBOPrior
from priors.labels import as_classification
from priors.linear import ConjugateLinearPrior, DirichletPrior, LinearPrior
from priors.optimization import OptimizationPrior
from priors.rules import RulePrior
from priors.scm import SCMPrior
from priors.signomial import SignomialPrior
from priors.strokes import StrokePrior
from priors.task import Prior, TaskShape


@dataclass(frozen=True)
class Entry:
    """A prior and the shape of the tasks that show it best."""

    make: Callable[[], Prior]
    rows: int = 100
    features: int = 2
    context: int = 50

    def shape(self, tasks: int, rows: int | None = None, features: int | None = None) -> TaskShape:
        """A batch of so many tasks; half of the rows are context, or the entry's own share of them."""
        n_rows = self.rows if rows is None else rows
        n_features = self.features if features is None else features
        return TaskShape(tasks, n_rows, n_features, max(1, n_rows * self.context // self.rows))


PRIORS: dict[str, Entry] = {
    "bnn": Entry(BNNPrior),
    "bnn-bo": Entry(BNNPrior.bo),
    "bnn-tabular": Entry(BNNPrior.tabular, rows=300, features=4, context=200),
    "constrained-hebo": Entry(ConstrainedHEBOPrior, features=1, rows=60, context=20),
    "collinear": Entry(CollinearPrior, features=10, rows=200, context=100),
    "decision-tree": Entry(DecisionTreePrior, rows=300, context=200),
    "dirichlet": Entry(DirichletPrior),
    "factors": Entry(FactorPrior, features=5, rows=200, context=100),
    "freeze-thaw": Entry(FreezeThawPrior, features=2, rows=100, context=60),
    "gp": Entry(GPPrior, features=1, rows=60, context=20),
    "gp-classes": Entry(lambda: as_classification(GPPrior(lengthscale=0.3)), rows=300, context=200),
    "gp-hyperpriors": Entry(GPPrior.with_hyperpriors, features=1, rows=60, context=20),
    "hebo": Entry(HEBOPrior, features=1, rows=60, context=20),
    "learning-curve": Entry(LearningCurvePrior, features=1, rows=60, context=20),
    "learning-curve-extended": Entry(LearningCurvePrior.extended, features=1, rows=60, context=20),
    "linear": Entry(LinearPrior),
    "linear-classes": Entry(LinearClassificationPrior),
    "linear-conjugate": Entry(ConjugateLinearPrior),
    "mixture-of-regressions": Entry(MixtureOfRegressionsPrior, features=1),
    "optimization": Entry(OptimizationPrior, features=1, rows=60, context=20),
    "quadratic": Entry(QuadraticPrior),
    "rules": Entry(RulePrior, features=4, rows=300, context=200),
    "scm": Entry(SCMPrior, features=5, rows=200, context=100),
    "scm-classes": Entry(lambda: SCMPrior(max_classes=10), features=5, rows=300, context=200),
    "scm-layered": Entry(lambda: SCMPrior(style="layered"), features=5, rows=200, context=100),
    "signomial": Entry(SignomialPrior, features=1, rows=60, context=20),
    "sparse-linear": Entry(SparseLinearPrior, features=8),
    "strokes": Entry(StrokePrior, features=784, rows=30, context=20),
    "two-layer-net": Entry(TwoLayerNetPrior),
}
