"""Random shapes and seeds through every prior of the catalogue; `check_prior` looks closer, at a few shapes."""

import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from priors import TaskShape
from priors.catalogue import PRIORS
from priors.task import Status

FEATURES = {"learning-curve": (1, 1), "learning-curve-extended": (1, 1), "freeze-thaw": (2, 11), "strokes": (784, 784)}


@st.composite
def shapes(draw, name):
    least = 5 if name == "strokes" else 1                           # an image of each class
    n_rows = draw(st.integers(least + 1, 40) | st.integers(least + 1, least + 2))
    features = draw(st.integers(*FEATURES.get(name, (1, 20))))
    return TaskShape(draw(st.integers(1, 5)), n_rows, features, draw(st.integers(least, n_rows - 1)))


@pytest.mark.parametrize("name", PRIORS)
@examples(8)
@given(data=st.data())
def test_every_batch_is_what_was_asked_for(name, data):
    shape, seed = data.draw(shapes(name)), data.draw(st.integers(0, 2**63 - 1))
    prior, state = PRIORS[name].make(), torch.random.get_rng_state()
    batch, again = (prior.sample(shape, generator=torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert batch.x.shape == (shape.batch_size, shape.n_rows, shape.n_features)
    assert batch.y.shape == (shape.batch_size, shape.n_rows)
    assert (batch.x.dtype, batch.n_context) == (torch.float32, shape.n_context)
    assert not batch.x.isinf().any()
    assert torch.equal(batch.x.nan_to_num(), again.x.nan_to_num())
    assert torch.equal(batch.x.isnan(), again.x.isnan())
    assert torch.equal(batch.y.nan_to_num(), again.y.nan_to_num())
    failed = torch.zeros_like(batch.y, dtype=torch.bool)
    if batch.status is not None:
        failed[:, : shape.n_context] = batch.status == Status.FAILED
    assert torch.equal(batch.y.isnan(), failed)
    assert not batch.y.isinf().any()
    if batch.n_classes is not None:
        assert batch.y.dtype == torch.int64
        for labels, n_classes in zip(batch.y, batch.n_classes.tolist(), strict=True):
            assert set(labels.tolist()) <= set(range(n_classes))
            assert set(labels.tolist()) == set(labels[: shape.n_context].tolist())           # each class is in the context


@examples(25)
@given(sizes=st.tuples(*[st.integers(-3, 5) | st.sampled_from([True, 2.0, "3", None])] * 4))
def test_a_shape_is_valid_or_an_error_names_the_size(sizes):
    batch_size, n_rows, n_features, n_context = sizes
    whole = [isinstance(size, int) and not isinstance(size, bool) for size in sizes]
    if all(whole) and min(batch_size, n_rows, n_features) > 0 and 0 <= n_context < n_rows:
        assert TaskShape(*sizes).n_context == n_context
    else:
        with pytest.raises((ValueError, TypeError), match=r"batch_size|n_rows|n_features|n_context"):
            TaskShape(*sizes)


@pytest.mark.parametrize("name", sorted(FEATURES))
@examples(8)
@given(data=st.data())
def test_priors_of_some_shapes_refuse_the_others(name, data):
    low, high = FEATURES[name]
    other = data.draw(st.integers(1, low - 1) if low > 1 else st.integers(high + 1, 30))
    with pytest.raises(ValueError, match=f"n_features|features|{other}"):
        PRIORS[name].make().sample(TaskShape(2, 12, other, 4), generator=torch.Generator().manual_seed(0))
