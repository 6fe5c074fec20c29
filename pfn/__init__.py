"""The network: architecture, bar distribution, pretraining, checkpoints, bundled weights."""

from pfn.bar import BarDistribution, BarPosterior
from pfn.bar_mixture import MixturePosterior, mixture
from pfn.bar_transform import TransformedPosterior
from pfn.certificate import Case, Certificate, cases_of, certify
from pfn.checkpoint import CheckpointError, Envelope, ModelCard, load_pretrained, save_checkpoint
from pfn.network import PFN, PFNConfig
from pfn.sizes import TaskSizes
from pfn.training import PretrainConfig, pretrain
from priors.version import __version__ as __version__

__all__ = [
    "PFN",
    "BarDistribution",
    "BarPosterior",
    "Case",
    "Certificate",
    "CheckpointError",
    "Envelope",
    "MixturePosterior",
    "ModelCard",
    "PFNConfig",
    "PretrainConfig",
    "TaskSizes",
    "TransformedPosterior",
    "cases_of",
    "certify",
    "load_pretrained",
    "mixture",
    "pretrain",
    "save_checkpoint",
]
