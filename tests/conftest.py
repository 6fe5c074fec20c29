"""Fixtures shared by all tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _two_threads():
    """As many threads as the machine that CI runs on, whatever ran before."""
    torch.set_num_threads(2)


@pytest.fixture()
def generator():
    return torch.Generator().manual_seed(0)
