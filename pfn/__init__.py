"""The network: architecture, bar distribution, pretraining, checkpoints, bundled weights."""

from pfn.bar import BarDistribution
from pfn.checkpoint import CheckpointError, Envelope, ModelCard, load_pretrained, save_checkpoint
from pfn.network import PFN, PFNConfig
from pfn.sizes import TaskSizes
from pfn.training import PretrainConfig, pretrain

__all__ = [
    "PFN",
    "BarDistribution",
    "CheckpointError",
    "Envelope",
    "ModelCard",
    "PFNConfig",
    "PretrainConfig",
    "TaskSizes",
    "load_pretrained",
    "pretrain",
    "save_checkpoint",
]
