"""Fixtures shared by all tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Tensors in tests are tiny: a second thread only waits, and on a busy machine it waits long."""
    torch.set_num_threads(1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
