"""What the network learns from: samplers of synthetic supervised tasks."""

from priors.additive import with_additive_target
from priors.bnn import BNNPrior
from priors.curves import LearningCurvePrior
from priors.custom import FunctionPrior
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
from priors.hebo import ConstrainedHEBOPrior, ConstrainedTasks, HEBOPrior
from priors.labels import as_classification
from priors.learnable import learnability, with_learnable
from priors.linear import ConjugateLinearPrior, DirichletPrior, LinearPrior
from priors.mixture import Mixture
from priors.optimization import OptimizationPrior
from priors.rules import RulePrior
from priors.scm import SCMPrior
from priors.signomial import SignomialPrior
from priors.smooth import with_smooth_target, with_softmax_classes
from priors.strokes import StrokePrior
from priors.task import Prior, Status, TaskBatch, TaskShape
from priors.transforms import (
    with_categoricals,
    with_distractors,
    with_missing,
    with_normal_scores,
    with_target_noise,
    with_warps,
)
from priors.version import __version__ as __version__

__all__ = [
    "BNNPrior",
    "CollinearPrior",
    "ConjugateLinearPrior",
    "ConstrainedHEBOPrior",
    "ConstrainedTasks",
    "DecisionTreePrior",
    "DirichletPrior",
    "FactorPrior",
    "FreezeThawPrior",
    "FunctionPrior",
    "GPPrior",
    "HEBOPrior",
    "LearningCurvePrior",
    "LinearClassificationPrior",
    "LinearPrior",
    "Mixture",
    "MixtureOfRegressionsPrior",
    "OptimizationPrior",
    "Prior",
    "QuadraticPrior",
    "RulePrior",
    "SCMPrior",
    "SignomialPrior",
    "SparseLinearPrior",
    "Status",
    "StrokePrior",
    "TaskBatch",
    "TaskShape",
    "TwoLayerNetPrior",
    "as_classification",
    "learnability",
    "with_additive_target",
    "with_categoricals",
    "with_distractors",
    "with_learnable",
    "with_missing",
    "with_normal_scores",
    "with_smooth_target",
    "with_softmax_classes",
    "with_target_noise",
    "with_warps",
]
