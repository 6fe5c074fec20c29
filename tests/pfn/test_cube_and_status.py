"""Networks for functions on the unit cube, with context rows that failed or are bounds."""

import json
from dataclasses import replace

import pytest
import torch

from pfn import PFN, Envelope, ModelCard, PFNConfig, PretrainConfig, TaskSizes, load_pretrained, pretrain, save_checkpoint
from pfn.state import RunState
from pfn.tasks import draw_batches, task_loss
from priors import OptimizationPrior, Status, TaskBatch, TaskShape, as_classification

SIZE = {"embed_dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "n_thinking_rows": 2}
CUBE = PFNConfig(task="regression", n_outputs=64, row_features=4, scaling="cube", normal_base=True, target_status=True,
                 **SIZE)
SIZES = TaskSizes(rows=(16, 32), features=(1, 4), cells=256, context_share=(0.3, 0.8), row_step=8)
FAILED, AT_LEAST, AT_MOST = (int(status) for status in (Status.FAILED, Status.AT_LEAST, Status.AT_MOST))


def make(config=CUBE, seed=0):
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        model = PFN(config).eval()
        torch.nn.init.normal_(model.normal.weight, std=0.1)
    return model


@pytest.fixture
def task(generator):
    """Points of two tasks, the first 12 rows of which are context; their targets; a status of each."""
    x = torch.rand(2, 20, 3, generator=generator)
    y = torch.randn(2, 12, generator=generator)
    status = torch.zeros(2, 12, dtype=torch.long)
    status[:, 3], status[0, 5], status[1, 6] = FAILED, AT_LEAST, AT_MOST
    return x, y, status


def gap(one, other):
    """Largest difference in each row (B, Q)."""
    return (one - other).abs().amax(-1)


def test_units_of_the_target_do_not_matter(task):
    x, y, status = task
    for given in (None, status):
        before = make()(x, y, status=given)
        for other in (1e3 * y - 7.0, 1e-4 * y + 0.01):
            torch.testing.assert_close(make()(x, other, status=given), before, atol=1e-3, rtol=0)


def test_posterior_is_in_units_of_y(task):
    x, y, status = task
    one, other = (make().posterior(x[:, :12], values, x[:, 12:], status) for values in (y, 10.0 + 3.0 * y))
    torch.testing.assert_close(other.mean, 10.0 + 3.0 * one.mean, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(other.variance, 9.0 * one.variance, atol=1e-3, rtol=1e-3)


def test_features_are_read_as_they_are(task):
    """Not in units of the context: other points in the cube are other points, for context and queries."""
    x, y, _ = task
    model, half = make(), 0.5 * x + 0.25
    assert (gap(model(half, y), model(x, y)) > 1e-3).all()
    one, other = (model.encode_context(points[:, :12], y).scaling for points in (x, half))
    for name, expected in (("mean", 0.5), ("std", 12**-0.5)):
        assert torch.equal(getattr(one, name), getattr(other, name))
        torch.testing.assert_close(getattr(one, name), torch.full((2, 1, 3), expected))


@pytest.mark.parametrize("n_features", [1, 3, 4])
def test_a_row_shows_values_and_squares_of_a_size_that_does_not_depend_on_their_number(n_features):
    """By hand; over the cube each channel has mean 0, and the sum of squares is that of all four features."""
    model, x = make(), torch.rand(1, 20_000, n_features, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0] = torch.nan
    seen = {}
    model.cells.embed.register_forward_pre_hook(lambda _, inputs: seen.update(channels=inputs[0]))
    model.cells(x, model.encode_context(x[:, :2], torch.zeros(1, 2)).scaling)
    values, missing, squares = seen["channels"][0].split(4, dim=1)
    z = 12**0.5 * (x[0] - 0.5)
    scale = (4 / n_features) ** 0.5
    torch.testing.assert_close(values[1:, :n_features], scale * z[1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(squares[1:, :n_features], scale * (z[1:].square() - 1), atol=1e-5, rtol=1e-5)
    assert values[0, 0] == squares[0, 0] == 0
    assert missing[0, 0] == 1
    assert (missing[1:, :n_features] == 0).all()
    assert (missing[:, n_features:] == 1).all()
    assert (values[:, n_features:] == 0).all()
    assert (squares[:, n_features:] == 0).all()
    assert values.square().sum(1).mean() == pytest.approx(4.0, rel=0.05)


def test_row_tokens_of_other_networks_have_no_squares():
    assert make(replace(CUBE, scaling="prior")).cells.embed.in_features == 8
    assert make().cells.embed.in_features == 12


def test_all_values_is_what_no_status_means(task):
    x, y, _ = task
    model = make()
    assert torch.equal(model(x, y, status=torch.zeros_like(y, dtype=torch.long)), model(x, y))


def test_the_value_of_a_failed_row_does_not_matter(task):
    x, y, status = task
    model = make()
    before = model(x, y.masked_fill(status == FAILED, torch.nan), status=status)
    assert before.isfinite().all()
    for value in (0.0, 1e9, -torch.inf):
        other = y.masked_fill(status == FAILED, value)
        assert torch.equal(model(x, other, status=status), before)
        assert torch.equal(model.scale_of_targets(other, status=status).std,
                           model.scale_of_targets(other[:, [0, 1, 2, *range(4, 12)]]).std)
        posteriors = [model.posterior(x[:, :12], values, x[:, 12:], status)
                      for values in (other, y.masked_fill(status == FAILED, torch.nan))]
        assert torch.equal(posteriors[0].mean, posteriors[1].mean)


def test_a_target_that_is_nan_has_failed(task):
    x, y, status = task
    model, y = make(), y.masked_fill(status == FAILED, torch.nan)
    only_failures = torch.where(status == FAILED, FAILED, 0)
    assert torch.equal(model(x, y), model(x, y, status=only_failures))
    assert torch.equal(model(x, y, status=torch.full_like(status, AT_LEAST)),
                       model(x, y, status=status.new_full((), AT_LEAST).expand(2, 12).masked_fill(y.isnan(), FAILED)))


@pytest.mark.parametrize("changed", [FAILED, AT_LEAST, AT_MOST])
def test_every_status_says_something_of_its_own(task, changed):
    x, y, _ = task
    model, status = make(), torch.zeros(2, 12, dtype=torch.long)
    before = model(x, y, status=status)
    status[:, 4] = changed
    after = model(x, y, status=status)
    assert (gap(after, before) > 1e-4).all()
    moved = x.clone()                                               # where it is said matters too
    moved[:, 4] = 1 - moved[:, 4]
    assert (gap(model(moved, y, status=status), after) > 1e-4).all()


def test_bounds_count_in_the_scale_of_targets_and_failures_do_not(task):
    _, y, status = task
    scaling = make().scale_of_targets(y, status=status)
    kept = torch.stack([row[one != FAILED] for row, one in zip(y, status, strict=True)])
    torch.testing.assert_close(scaling.mean[:, 0, 0], kept.mean(1))
    torch.testing.assert_close(scaling.std[:, 0, 0], kept.std(1, correction=0))


def test_a_context_of_failures_alone_has_an_answer(task):
    x, _, _ = task
    y = torch.full((2, 12), torch.nan)
    assert make()(x, y, status=torch.full((2, 12), FAILED)).isfinite().all()
    posterior = make().posterior(x[:, :12], y, x[:, 12:])
    assert posterior.mean.isfinite().all()


def test_invariances_hold(task, generator):
    x, y, status = task
    model = make()
    logits = model(x, y, status=status)
    order = torch.randperm(12, generator=generator)
    shuffled = torch.cat([x[:, order], x[:, 12:]], dim=1)
    torch.testing.assert_close(model(shuffled, y[:, order], status=status[:, order]), logits, atol=1e-4, rtol=0)
    alone = model(torch.cat([x[:, :12], x[:, 15:16]], dim=1), y, status=status)
    torch.testing.assert_close(alone[:, 0], logits[:, 3], atol=1e-4, rtol=0)


def test_forward_is_encoding_and_decoding(task):
    x, y, status = task
    model = make()
    context = model.encode_context(x[:, :12], y, status=status)
    assert torch.equal(model.decode(context, x[:, 12:]), model(x, y, status=status))
    # More targets and statuses than the context has rows are cut alike.
    more = model(x, torch.cat([y, y], dim=1), 12, torch.cat([status, status], dim=1))
    assert torch.equal(more, model(x, y, status=status))


def test_rows_of_weight_zero_do_not_exist_whatever_their_status(task):
    x, y, status = task
    model, weight = make(), (status == 0).float()
    with_them = model.decode(model.encode_context(x[:, :12], y, weight, status), x[:, 12:])
    without = [model(torch.cat([x[i : i + 1, :12][:, keep], x[i : i + 1, 12:]], dim=1), y[i : i + 1, keep])
               for i, keep in enumerate(status == 0)]
    torch.testing.assert_close(with_them, torch.cat(without), atol=1e-4, rtol=0)


def test_gradients_reach_queries_and_are_finite_beside_failures(task):
    x, y, status = task
    model, query = make(), x[:, 12:].clone().requires_grad_()
    y = y.masked_fill(status == FAILED, torch.nan).requires_grad_()
    model.posterior(x[:, :12], y, query, status).mean.sum().backward()
    assert query.grad.isfinite().all()
    assert (query.grad.abs().sum(2) > 0).all()
    assert y.grad.isfinite().all()
    assert (y.grad[status == 0] != 0).all()
    assert (y.grad[status == FAILED] == 0).all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_inputs_come_back_unmodified(task):
    copies = [part.clone() for part in task]
    x, y, status = task
    make().posterior(x[:, :12], y, x[:, 12:], status)
    assert all(torch.equal(part, copy) for part, copy in zip(task, copies, strict=True))


def test_a_network_of_values_refuses_a_status(task):
    x, y, status = task
    model = make(replace(CUBE, target_status=False))
    with pytest.raises(ValueError, match=r"knows values only.*status=None.*PFNConfig\(.*target_status=True\)"):
        model(x, y, status=status)
    classifier = PFN(PFNConfig(n_outputs=3, row_features=4, **SIZE))
    with pytest.raises(ValueError, match="knows values only"):
        classifier(x, torch.zeros(2, 12, dtype=torch.long), status=status)
    batch = OptimizationPrior(failures=1.0).sample(TaskShape(2, 20, 3, 12), generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="knows values only"):
        task_loss(model, batch)
    values = OptimizationPrior(failures=0.0, bounds=0.0)
    batch = values.sample(TaskShape(2, 20, 3, 12), generator=torch.Generator().manual_seed(0))
    assert task_loss(model, batch).isfinite()


@pytest.mark.parametrize("shape", [(12,), (1, 12), (2, 1), (2, 11)])
def test_a_status_of_another_shape_is_refused(task, shape):
    x, y, _ = task
    with pytest.raises(ValueError, match=rf"shape of y, \(2, 12\); got \({shape[0]}"):
        make().encode_context(x[:, :12], y, status=torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaling": "cubes"}, "scaling='cubes' is unknown; use 'context', 'prior' or 'cube'"),
        ({"row_features": 0}, "scaling='cube' is for row tokens; set row_features"),
        ({"task": "classification", "normal_base": False}, "target_status=True is for task='regression'; use False"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CUBE, **changes)


def test_wider_tables_are_refused():
    with pytest.raises(ValueError, match=r"5 features.*row_features=4"):
        make()(torch.rand(1, 6, 5), torch.zeros(1, 5))


def test_what_is_saved_comes_back(task, tmp_path):
    x, y, status = task
    model, file = make(), tmp_path / "cube.safetensors"
    save_checkpoint(model, file, ModelCard(CUBE, "a prior", Envelope(100, 4)))
    again = load_pretrained(file)
    assert again.config == CUBE
    assert again.config.scaling == "cube"
    assert again.config.target_status
    assert torch.equal(again(x, y, status=status), model(x, y, status=status).detach())


def test_configurations_survive_json_and_older_ones_are_read():
    assert PFNConfig.from_dict(json.loads(json.dumps(CUBE.to_dict()))) == CUBE
    plain = PFNConfig(task="regression", row_features=4, scaling="prior", **SIZE)
    older = plain.to_dict()
    del older["target_status"]
    assert PFNConfig.from_dict(older) == plain
    assert "embed_status.weight" not in PFN(plain).state_dict()


def test_classes_on_the_cube(generator):
    """Nothing is taken from the prior; features are read as they are."""
    config = PFNConfig(n_outputs=3, row_features=4, scaling="cube", **SIZE)
    prior = as_classification(OptimizationPrior(failures=0.0, bounds=0.0))
    state = RunState.fresh(PretrainConfig(prior, config, SIZES), torch.device("cpu"))
    batch = prior.sample(TaskShape(3, 30, 2, 20), generator=generator)
    batch = replace(batch, y=batch.y.clamp_max(2), n_classes=batch.n_classes.clamp_max(3))
    assert task_loss(state.model, batch).isfinite()


TRAINING = PretrainConfig(OptimizationPrior(failures=0.5, bounds=0.5), CUBE, SIZES, n_steps=6, decay_steps=2, warmup_steps=1,
                          batches_per_step=1)


def loss_on_new_tasks(model):
    config = replace(TRAINING, batches_per_step=16)
    with torch.no_grad():
        losses = [task_loss(model, batch) for batch in draw_batches(config, 0, torch.device("cpu"), "test")]
    return torch.stack(losses).mean().item()


def test_it_learns_from_tasks_with_failures_and_bounds():
    config = replace(TRAINING, n_steps=40, decay_steps=15, warmup_steps=5, learning_rate=4e-3, ema_decay=0.9)
    before = loss_on_new_tasks(RunState.fresh(config, torch.device("cpu")).model)
    model = pretrain(config, validate_every=10**6, progress=False)
    assert loss_on_new_tasks(model) < before - 0.15                  # from 2.07 to 1.8
    assert model.borders.abs().max() <= 10
    assert model.embed_status.weight.isfinite().all()


def test_stopped_and_resumed_is_the_same_as_uninterrupted(tmp_path):
    whole, trunk = pretrain(TRAINING, progress=False), tmp_path / "run.safetensors"
    pretrain(TRAINING, out=trunk, time_limit=0, progress=False)
    assert load_pretrained(trunk).card.training["step"] < 6
    resumed = pretrain(TRAINING, resume=trunk, out=trunk, progress=False)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_targets_beyond_the_borders_count_as_if_they_were_there(generator):
    model, x = make(), torch.rand(1, 12, 2, generator=generator)
    y = torch.randn(1, 12, generator=generator)
    y[0, :10] = (y[0, :10] - y[0, :10].mean()) / y[0, :10].std(correction=0)
    losses = []
    for far in (1e6, model.borders[-1].item(), 1.0):
        y[0, 10:] = far
        losses.append(task_loss(model, TaskBatch(x, y.clone(), 10)).item())
    assert losses[0] == pytest.approx(losses[1])
    assert losses[1] > losses[2]
