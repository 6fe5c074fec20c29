"""Networks that several tests of the optimiser share."""

import pytest
import torch

from pfn import PFN, PFNConfig, load_pretrained


@pytest.fixture(scope="session")
def model():
    """A network that guesses."""
    config = PFNConfig(task="regression", n_outputs=64, row_features=18, scaling="cube", normal_base=True,
                       target_status=True, embed_dim=16, n_heads=2, n_layers=2, hidden_dim=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PFN(config).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def trained():
    return load_pretrained("bayesopt")
