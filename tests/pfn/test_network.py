from dataclasses import replace

import pytest
import torch

from pfn import PFN, PFNConfig
from pfn.attention import Attention, attend
from pfn.encoder import Scaling
from pfn.network import EncodedContext, class_logits

SMALL = PFNConfig(n_outputs=4, embed_dim=16, n_layers=2, n_heads=2, hidden_dim=32, n_thinking_rows=3, dense_features=6)


def make(config=SMALL, seed=0):
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        return PFN(config).eval()


def task(generator, batch=2, rows=24, features=5, n_context=15, n_classes=4):
    x = torch.randn(batch, rows, features, generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.1] = torch.nan
    return x, torch.randint(n_classes, (batch, n_context), generator=generator)


def test_order_of_context_rows_does_not_matter(generator):
    model, (x, y) = make(), task(generator)
    order = torch.randperm(15, generator=generator)
    shuffled = torch.cat([x[:, order], x[:, 15:]], dim=1)
    torch.testing.assert_close(model(shuffled, y[:, order]), model(x, y), atol=1e-5, rtol=0)


def test_query_rows_do_not_see_each_other(generator):
    model, (x, y) = make(), task(generator)
    together = model(x, y)
    for row in range(9):
        alone = model(torch.cat([x[:, :15], x[:, 15 + row : 16 + row]], dim=1), y)
        torch.testing.assert_close(alone[:, 0], together[:, row], atol=1e-5, rtol=0)


def test_tasks_of_a_batch_do_not_see_each_other(generator):
    model, (x, y) = make(), task(generator)
    torch.testing.assert_close(model(x[1:], y[1:]), model(x, y)[1:], atol=1e-5, rtol=0)


def test_query_targets_are_not_read(generator):
    model, (x, y) = make(), task(generator)
    longer = torch.cat([y, torch.full((2, 9), 3)], dim=1)
    torch.testing.assert_close(model(x, longer, 15), model(x, y), atol=0, rtol=0)


def test_units_of_a_feature_do_not_matter(generator):
    model, (x, y) = make(), task(generator)
    factor, offset = torch.tensor([1e-3, 1.0, 50.0, 1e4, 0.2]), torch.tensor([0.0, 5.0, -3.0, 1e3, 1.0])
    torch.testing.assert_close(model(x * factor + offset, y), model(x, y), atol=2e-3, rtol=0)


def test_encoded_context_answers_any_number_of_queries(generator):
    model, (x, y) = make(), task(generator)
    context = model.encode_context(x[:, :15], y)
    parts = torch.cat([model.decode(context, x[:, 15:18]), model.decode(context, x[:, 18:])], dim=1)
    torch.testing.assert_close(parts, model(x, y), atol=1e-5, rtol=0)


@pytest.mark.parametrize("features", [1, 2, 3, 6, 7, 8, 13])
def test_every_feature_counts(generator, features):
    """Narrow and wide tables, even and odd: changing any one query feature changes the logits."""
    model, (x, y) = make(), task(generator, features=features)
    x = x.nan_to_num(0.3)
    before = model(x, y)
    for feature in range(features):
        changed = x.clone()
        changed[:, 15:, feature] += 1.0
        assert ((model(changed, y) - before).abs().amax(-1) > 1e-6).all()


def test_missing_is_not_the_same_as_average(generator):
    model, (x, y) = make(), task(generator)
    x = x.nan_to_num(0.0)
    missing = x.clone()
    x[:, 15:, 0] = x[:, :15, 0].mean(1, keepdim=True)
    missing[:, 15:, 0] = torch.nan
    assert ((model(x, y) - model(missing, y)).abs().amax(-1) > 1e-6).all()


def test_columns_of_nothing_but_gaps_or_constants_give_finite_logits(generator):
    model, (x, y) = make(), task(generator)
    x[:, :, 0], x[:, :15, 1], x[:, :, 2], x[0, 20, 3] = torch.nan, torch.nan, 7.0, 1e30
    assert model(x, y).isfinite().all()


@pytest.mark.parametrize("n_context", [0, 24])
def test_context_and_queries_must_not_be_empty(generator, n_context):
    model, (x, _) = make(), task(generator)
    with pytest.raises(ValueError, match=f"n_context={n_context} must leave at least one context and one query row of 24"):
        model(x, torch.zeros(2, 24, dtype=torch.long), n_context)


def test_joined_contexts_answer_as_they_do_alone(generator):
    model = make(replace(SMALL, cell_ranks=True))
    x, y = task(generator)
    contexts = [model.encode_context(x[i : i + 1, :15], y[i : i + 1, :15]) for i in range(2)]
    together = model.decode(EncodedContext.joined(contexts), x[:, 15:])
    alone = torch.cat([model.decode(context, x[i : i + 1, 15:]) for i, context in enumerate(contexts)])
    torch.testing.assert_close(together, alone)


def test_regression_sees_the_standardised_target_only(generator):
    model = make(PFNConfig(task="regression", n_outputs=8, embed_dim=16, n_layers=2, n_heads=2, hidden_dim=32))
    x, _ = task(generator)
    y = torch.randn(2, 15, generator=generator)
    torch.testing.assert_close(model(x, 100.0 * y - 7.0), model(x, y), atol=1e-3, rtol=0)


def test_scaling_ignores_gaps_and_handles_constants():
    x = torch.tensor([[[1.0, 5.0], [3.0, 5.0], [torch.nan, 5.0]]])
    scaling = Scaling.of(x)
    torch.testing.assert_close(scaling.mean, torch.tensor([[[2.0, 5.0]]]))
    torch.testing.assert_close(scaling.std, torch.tensor([[[1.0, 1.0]]]))
    assert scaling.apply(torch.tensor([[[1e9, 5.0]]])).tolist() == [[[10.0, 0.0]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 2, 7, 5, 8), (2, 2, 40, 50, 16)])
def test_attention_is_the_softmax_average(generator, dtype, shape):
    batch, heads, rows, keys, width = shape
    q, k, v = (torch.randn(batch, heads, n, width, generator=generator).to(dtype) for n in (rows, keys, keys))
    scores = torch.einsum("bhrd,bhcd->bhrc", q.double(), k.double()) / width**0.5
    expected = torch.einsum("bhrc,bhcd->bhrd", scores.softmax(-1), v.double())
    torch.testing.assert_close(attend(q, k, v).double(), expected, atol=2e-2 if dtype == torch.bfloat16 else 1e-5, rtol=0)


@pytest.mark.parametrize("scores", [1, 12, 60, 10**6])
def test_attention_in_pieces_is_the_same(generator, monkeypatch, scores):
    """A row, a few rows, a sequence at a time, and all at once; 10 scores a row, 70 a sequence."""
    q, k, v = (torch.randn(3, 2, n, 8, generator=generator).requires_grad_() for n in (7, 5, 5))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    wanted = torch.autograd.grad(expected.square().sum(), (q, k, v))
    monkeypatch.setattr("pfn.attention._PIECE", scores)
    found = attend(q, k, v)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), (q, k, v)), wanted)


def test_length_scale_sharpens_attention_beyond_its_reference(generator):
    """With s > 0 the weights of 1024 keys are more uneven than with s = 0; at 256 keys nothing changes."""
    attention = Attention(16, 2, scales_with_length=True)
    x, keys = torch.randn(1, 3, 16, generator=generator), torch.randn(1, 1024, 16, generator=generator)
    before, before_256 = attention(x, attention.memory(keys)), attention(x, attention.memory(keys[:, :256]))
    torch.nn.init.constant_(attention.length_scale, 0.5)
    torch.testing.assert_close(attention(x, attention.memory(keys[:, :256])), before_256)
    assert (attention(x, attention.memory(keys)) - before).abs().max() > 1e-4


def test_slots_beyond_the_number_of_classes_are_impossible():
    logits = class_logits(torch.zeros(2, 3, 4), torch.tensor([2, 4]))
    assert logits.softmax(-1)[0].tolist() == [[0.5, 0.5, 0.0, 0.0]] * 3
    assert logits.softmax(-1)[1].tolist() == [[0.25] * 4] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "ranking"}, r"task='ranking' is unknown"),
        ({"embed_dim": 10, "n_heads": 3}, r"embed_dim=10 is no multiple of n_heads=3"),
        ({"n_layers": 0}, r"n_layers=0 is not a positive integer"),
        ({"n_outputs": 1}, r"n_outputs=1 leaves nothing to predict"),
        ({"feature_shifts": (0, 3)}, r"feature_shifts=\(0, 3\) must contain 0 and 1"),
    ],
)
def test_impossible_configurations_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        PFNConfig(**arguments)


def test_configuration_survives_plain_values():
    assert PFNConfig.from_dict(SMALL.to_dict()) == SMALL
    with pytest.raises(ValueError, match=r"unknown PFNConfig fields \['n_wings'\]"):
        PFNConfig.from_dict({"n_wings": 2})


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_lower_bound_on_parameters_is_close(task):
    config = PFNConfig(task=task, cell_ranks=True)
    assert 0.97 * PFN(config).n_parameters < config.least_parameters < PFN(config).n_parameters
