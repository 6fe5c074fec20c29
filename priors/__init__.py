"""What the network learns from: samplers of synthetic supervised tasks."""

from priors.gp import GPPrior
from priors.labels import as_classification
from priors.mixture import Mixture
from priors.rules import RulePrior
from priors.scm import SCMPrior
from priors.task import Prior, TaskBatch, TaskShape
from priors.transforms import with_categoricals, with_distractors, with_missing, with_warps

__all__ = [
    "GPPrior",
    "Mixture",
    "Prior",
    "RulePrior",
    "SCMPrior",
    "TaskBatch",
    "TaskShape",
    "as_classification",
    "with_categoricals",
    "with_distractors",
    "with_missing",
    "with_warps",
]
