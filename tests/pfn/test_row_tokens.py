"""Networks with one token a row, in the units of their prior, with a normal base, and with tied layers."""

from dataclasses import replace

import pytest
import torch

from pfn import PFN, BarDistribution, PFNConfig, PretrainConfig, TaskSizes, pretrain
from pfn.state import RunState
from pfn.tasks import task_loss
from priors import GPPrior, LinearPrior, TaskShape

SIZE = {"embed_dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "n_thinking_rows": 2}
ROWS = PFNConfig(task="regression", n_outputs=64, row_features=4, scaling="prior", normal_base=True, **SIZE)
SIZES = TaskSizes(rows=(16, 32), features=(1, 4), cells=256, context_share=(0.03, 0.8), log_share=True)


def make(config=ROWS, seed=0):
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        model = PFN(config).eval()
        if model.normal is not None:
            torch.nn.init.normal_(model.normal.weight, std=0.1)
    return model


def task(generator, features=4, n_context=12):
    x = torch.rand(2, 20, features, generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.1] = torch.nan
    return x, torch.randn(2, n_context, generator=generator)


def test_invariances_hold(generator):
    model, (x, y) = make(), task(generator)
    logits = model(x, y)
    order = torch.randperm(12, generator=generator)
    shuffled = torch.cat([x[:, order], x[:, 12:]], dim=1)
    torch.testing.assert_close(model(shuffled, y[:, order]), logits, atol=1e-4, rtol=0)
    alone = model(torch.cat([x[:, :12], x[:, 15:16]], dim=1), y)
    torch.testing.assert_close(alone[:, 0], logits[:, 3], atol=1e-4, rtol=0)


def test_every_feature_counts_and_missing_is_not_average(generator):
    model, (x, y) = make(), task(generator)
    x = x.nan_to_num(0.5)
    before = model(x, y)
    for feature in range(4):
        for value in (0.9, torch.nan):
            changed = x.clone()
            changed[:, 12:, feature] = value
            assert ((model(changed, y) - before).abs().amax(-1) > 1e-6).all()


def test_narrower_tables_are_those_whose_last_features_are_missing(generator):
    model, (x, y) = make(), task(generator, features=2)
    wide = torch.nn.functional.pad(x, (0, 2), value=torch.nan)
    torch.testing.assert_close(model(x, y), model(wide, y), atol=0, rtol=0)


def test_wider_tables_are_refused(generator):
    x, y = task(generator, features=5)
    with pytest.raises(ValueError, match=r"5 features.*row_features=4"):
        make()(x, y)


@pytest.mark.parametrize(("scaling", "matter"), [("context", False), ("prior", True)])
def test_units_matter_only_in_units_of_the_prior(generator, scaling, matter):
    model, (x, y) = make(replace(ROWS, scaling=scaling)), task(generator)
    before = model(x, y)
    for other in (model(3.0 * x + 1.0, y), model(x, 5.0 * y - 2.0)):
        assert bool(((other - before).abs().amax(-1) > 1e-2).all()) == matter


def test_posterior_is_in_units_of_y(generator):
    x, y = task(generator)
    model = make()
    model.target_scaling.copy_(torch.tensor([100.0, 4.0]))
    posterior = model.posterior(x[:, :12], 100.0 + 4.0 * y, x[:, 12:])
    standardised = BarDistribution(model.borders).posterior(model(x, 100.0 + 4.0 * y))
    torch.testing.assert_close(posterior.mean, 100.0 + 4.0 * standardised.mean)
    at = torch.full((2, 8), 101.0)
    torch.testing.assert_close(posterior.log_prob(at), standardised.log_prob((at - 100.0) / 4.0) - torch.tensor(4.0).log())


def test_posterior_of_a_network_that_scales_by_the_context(generator):
    """The same task in other units has the same posterior in those units."""
    x, y = task(generator)
    model = make(replace(ROWS, scaling="context"))
    one = model.posterior(x[:, :12], y, x[:, 12:])
    other = model.posterior(x[:, :12], 10.0 - 3.0 * y, x[:, 12:])
    same_sign = model.posterior(x[:, :12], 10.0 + 3.0 * y, x[:, 12:])
    torch.testing.assert_close(same_sign.mean, 10.0 + 3.0 * one.mean, atol=1e-3, rtol=1e-4)
    assert other.mean.shape == one.mean.shape == (2, 8)


def test_posterior_of_a_classifier_is_refused(generator):
    x, _ = task(generator)
    model = make(PFNConfig(n_outputs=3, row_features=4, **SIZE))
    with pytest.raises(ValueError, match="softmax"):
        model.posterior(x[:, :12], torch.zeros(2, 12, dtype=torch.long), x[:, 12:])


def test_before_training_the_normal_base_is_the_prior():
    """With corrections of 0 the bars are those of N(0, 1), the standardised prior."""
    model = make(replace(ROWS, n_outputs=400))
    torch.nn.init.zeros_(model.normal.weight)
    torch.nn.init.zeros_(model.decoder[2].weight)
    torch.nn.init.zeros_(model.decoder[2].bias)
    posterior = BarDistribution(model.borders).posterior(model(torch.rand(1, 9, 2), torch.zeros(1, 8)))
    assert posterior.mean.item() == pytest.approx(0.0, abs=1e-3)
    assert posterior.variance.item() == pytest.approx(1.0, abs=5e-3)


def test_loops_tie_the_layers(generator):
    x, y = task(generator)
    once, thrice = make(replace(ROWS, n_layers=1)), make(replace(ROWS, n_layers=1, n_loops=3))
    assert once.n_parameters == thrice.n_parameters < make(replace(ROWS, n_layers=3)).n_parameters
    thrice.load_state_dict(once.state_dict())
    context = thrice.encode_context(x[:, :12], y)
    assert len(context.memories) == 3
    assert (thrice(x, y) - once(x, y)).abs().max() > 1e-3
    # By hand: the layer again, after the table was added once more.
    block, cells = thrice.blocks[0], thrice._tokens(x[:, :12], context.scaling, _embedded(thrice, y))
    cells = table = torch.cat([thrice.thinking_rows.expand(2, 1, -1, -1), cells], dim=2)
    queries = table_of_queries = thrice._tokens(x[:, 12:], context.scaling, thrice.unknown_target.expand(2, 8, -1))
    for loop in range(3):
        if loop:
            cells, queries = cells + table, queries + table_of_queries
        cells, memory = block.context_memory(cells)
        queries, cells = block(queries, memory), block.read(cells, memory)
    torch.testing.assert_close(thrice.represent(context, x[:, 12:]), thrice.decoder_norm(queries[:, 0]))


def _embedded(model, y):
    scaling = model.scale_of_targets(y)
    return model.embed_target(scaling.apply(y.unsqueeze(-1)))


def test_cells_can_loop_too(generator):
    x, y = task(generator)
    model = make(PFNConfig(task="regression", n_outputs=8, n_loops=2, **SIZE))
    assert len(model.encode_context(x[:, :12], y).memories) == 4
    assert model(x, y).isfinite().all()


def test_moments_and_borders_come_from_the_prior():
    prior = LinearPrior(weight_variance=1e-8, bias_variance=25.0, noise=1.0)                        # y ~ N(0, 26)
    state = RunState.fresh(PretrainConfig(prior, ROWS, SIZES), torch.device("cpu"))
    mean, std = state.model.target_scaling.tolist()
    assert mean == pytest.approx(0.0, abs=0.4)
    assert std == pytest.approx(26**0.5, rel=0.05)
    assert state.model.feature_scaling.tolist() == pytest.approx([0.0, 1.0], abs=0.02)
    borders = state.model.borders
    # Bars as dense as the cube root of N(0, 1), which is proportional to N(0, 3).
    expected = 3**0.5 * torch.special.ndtri(torch.linspace(0, 1, 65)[20:45])
    torch.testing.assert_close(borders[20:45], expected.float(), atol=0.15, rtol=0)


def test_short_contexts_are_as_frequent_as_long_ones():
    sizes = TaskSizes(rows=(100, 100), features=(1, 1), context_share=(0.01, 0.81), log_share=True, row_step=1)
    counts = torch.tensor([sizes.shape(number, ROWS.n_tokens).n_context for number in range(96)])
    assert counts.min() <= 2
    assert counts.max() >= 64
    assert (counts <= 9).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_pretraining_and_resuming(tmp_path):
    config = PretrainConfig(GPPrior(), ROWS, SIZES, n_steps=6, decay_steps=2, warmup_steps=1)
    whole = pretrain(config, progress=False)
    pretrain(replace(config, n_steps=6), out=tmp_path / "run.safetensors", time_limit=0, progress=False)
    resumed = pretrain(config, resume=tmp_path / "run.safetensors", progress=False)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert whole.posterior(torch.rand(1, 5, 2), torch.zeros(1, 5), torch.rand(1, 3, 2)).mean.shape == (1, 3)


def test_it_learns_what_a_lengthscale_means():
    """A hundred steps: nearer to the exact posterior on two close points than the prior is."""
    config = PretrainConfig(GPPrior(), replace(ROWS, n_outputs=256, row_features=1),
                            TaskSizes(rows=(24, 32), features=(1, 1), cells=1024, row_step=8), n_steps=120, decay_steps=40,
                            warmup_steps=10, learning_rate=4e-3, batches_per_step=1)
    model = pretrain(config, progress=False)
    batch = GPPrior().sample(TaskShape(64, 30, 1, 20), generator=torch.Generator().manual_seed(99))
    assert task_loss(model, batch).item() < 0.2                       # 1.42 without any learning


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaling": "rows"}, "scaling='rows' is unknown"),
        ({"n_loops": 0}, "n_loops=0 is not a positive"),
        ({"row_features": -1}, "row_features=-1 is no count"),
        ({"cell_ranks": True, "row_features": 3}, "cell_ranks=True needs cells"),
        ({"normal_base": True, "task": "classification"}, "normal_base=True is for task='regression'"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        PFNConfig(**changes)
