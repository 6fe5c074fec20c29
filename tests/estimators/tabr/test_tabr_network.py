"""The network computes the published equations, and so do its gradients."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from estimators.tabr_kernels import keep_mask, kept_share
from estimators.tabr_network import Block, PeriodicEmbedding, TabRConfig, TabRNetwork
from estimators.tabr_rows import Rows
from estimators.tabr_training import Plan, log_weights, mixed, train

N, B, M = 30, 7, 5                                                  # candidates, rows, neighbours of each
CONFIG = TabRConfig(n_numeric=3, n_plain=2, n_outputs=3, n_labels=3, width=16, hidden=24, embedding_width=4,
                    dropout=0.0, context_dropout=0.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network_of(config):
    """In float64, with norms that are not the identity."""
    network = TabRNetwork(config, seeded(1)).double()
    for name, parameter in network.named_parameters():
        if "norm" in name:
            with torch.no_grad():
                parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64, generator=seeded(2)))
    return network


def task(config, n=N):
    """Candidates x (n, 5) and labels (n,), rows (B, 5) and numbers (B, M) of their neighbours."""
    x, rows = (torch.randn(size, config.n_numeric + config.n_plain, dtype=torch.float64, generator=seeded(size))
               for size in (n, B))
    label = torch.randint(config.n_labels or 5, (n,), generator=seeded(3))
    return x, label if config.n_labels else label.double() - 2.5, rows, torch.randint(n, (B, M), generator=seeded(4))


def as_rows(x, label, weight=None):
    weight = torch.ones(len(x), dtype=torch.float64) if weight is None else weight
    return Rows(x, label, weight, torch.zeros_like(weight))


def mix(network, x, candidates, index, generator=None):
    """`mixed` for rows that are no candidates themselves."""
    return mixed(network, x, candidates, index, log_weights(candidates, index), generator)


# --- the equations, each written down where the paper has it

def residual(block, x):
    return x + F.linear(F.relu(F.linear(block.norm(x), block.inner.weight, block.inner.bias)),
                        block.outer.weight, block.outer.bias)


def encoded(network, x):
    """E(x) (n, d)."""
    embedding = network.embedding
    if embedding is not None:
        numbers = []
        for j in range(network.config.n_numeric):
            angle = 2 * torch.pi * embedding.frequencies[j] * x[:, j : j + 1]                    # (n, k)
            numbers.append(F.relu(embedding.linear(torch.cat([torch.cos(angle), torch.sin(angle)], dim=1))))
        x = torch.cat([*numbers, x], dim=1)                                                     # beside the numbers
    x = network.input(x)
    for block in network.encoder:
        x = residual(block, x)
    return x


def keyed(network, x):
    """K(E(x)) (n, d)."""
    x = encoded(network, x)
    return network.key(network.key_norm(x) if network.config.n_encoder_blocks else x)


def shares(network, x, candidates, index, weight):
    """Softmax of minus the squared distances (B, m), a candidate of weight w counting like w of them."""
    k, k_i = keyed(network, x).unsqueeze(1), keyed(network, candidates)[index]                   # (B, 1, d), (B, m, d)
    return F.softmax(-(k - k_i).square().sum(-1) + weight[index].log(), dim=1)


def answer(network, x, candidates, label, index, weight, drop=lambda x, place: x):
    """Predictor(E(x) + Σ_i w_i (W_Y(y_i) + T(k - k_i))) (B, n_outputs)."""
    w = drop(shares(network, x, candidates, index, weight), "context")
    k, k_i = keyed(network, x).unsqueeze(1), keyed(network, candidates)[index]
    hidden = drop(F.relu(F.linear(k - k_i, network.correction_inner.weight, network.correction_inner.bias)), "correction")
    value = F.linear(hidden, network.correction_outer.weight)
    if network.config.n_labels:
        value = value + F.embedding(label[index], network.label)
    else:
        value = value + F.linear(label[index].unsqueeze(-1), network.label[:1].T, network.label[1])
    x = encoded(network, x) + (w.unsqueeze(-1) * value).sum(1)
    for block in network.predictor:
        x = residual(block, x)
    return F.linear(F.relu(network.head_norm(x)), network.head.weight, network.head.bias)


def with_gradients(network, output):
    weights = torch.arange(output.numel(), dtype=output.dtype).view_as(output).cos()
    gradients = torch.autograd.grad(output, list(network.parameters()), weights)
    return output.detach(), dict(zip(dict(network.named_parameters()), gradients, strict=True))


VARIANTS = {
    "TabR-S": CONFIG,
    "two classes": replace(CONFIG, n_labels=2, n_outputs=1),
    "regression": replace(CONFIG, n_labels=0, n_outputs=1),
    "embeddings": replace(CONFIG, n_frequencies=6, embedding_width=2),
    "embeddings, regression": replace(CONFIG, n_frequencies=6, embedding_width=2, n_labels=0, n_outputs=1),
    "more inputs than width": replace(CONFIG, n_frequencies=6, embedding_width=8),
    "no numbers to embed": replace(CONFIG, n_numeric=0, n_plain=5, n_frequencies=6),
    "one encoder block": replace(CONFIG, n_encoder_blocks=1),
    "two encoder blocks and embeddings": replace(CONFIG, n_encoder_blocks=2, n_frequencies=6),
    "no predictor block": replace(CONFIG, n_predictor_blocks=0),
    "two predictor blocks": replace(CONFIG, n_predictor_blocks=2),
}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_outputs_and_gradients_are_those_of_the_equations(config, weighted):
    network = network_of(config)
    x, label, rows, index = task(config)
    weight = torch.rand(N, dtype=torch.float64, generator=seeded(5)) + 0.2 if weighted else torch.ones(N).double()
    ours = with_gradients(network, mix(network, rows, as_rows(x, label, weight), index))
    plain = with_gradients(network, answer(network, rows, x, label, index, weight))
    torch.testing.assert_close(ours, plain)
    # What is added to all keys cancels in k - k_i; every other parameter matters.
    idle = {name for name, gradient in plain[1].items() if gradient.abs().max() < 1e-12}
    assert idle == ({"key.bias", "key_norm.bias"} if config.n_encoder_blocks else {"key.bias"})


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_evaluation_gives_the_same_as_training_without_dropout(config):
    network = network_of(config)
    x, label, rows, index = task(config)
    with torch.no_grad():
        output = mix(network, rows, as_rows(x, label), index)
    torch.testing.assert_close(output, mix(network, rows, as_rows(x, label), index, seeded()).detach())


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, n_labels=0, n_outputs=1)], ids=["classes", "regression"])
def test_weights_are_as_good_as_copies(config):
    network, counts = network_of(config), torch.tensor([1, 2, 3, 1, 4])
    x, label, rows, _ = task(config)
    index = torch.arange(5).expand(B, -1)
    copies = torch.arange(5).repeat_interleave(counts).expand(B, -1)
    weighted = mix(network, rows, as_rows(x[:5], label[:5], counts.double()), index)
    torch.testing.assert_close(weighted, mix(network, rows, as_rows(x[:5], label[:5]), copies))
    assert not torch.allclose(weighted, mix(network, rows, as_rows(x[:5], label[:5]), index))


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_places_are_as_far_apart_as_keys(config):
    network, (x, *_) = network_of(config), task(config)
    places, keys = network.places(x), keyed(network, x)
    assert places.shape[1] <= keys.shape[1]
    assert not places.requires_grad
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(keys, keys).detach())


class TestDropout:
    def test_the_same_masks_give_the_equations(self):
        """One neighbour each: then the order in which pairs are drawn is that of the rows."""
        config = replace(CONFIG, dropout=0.4, context_dropout=0.3, n_predictor_blocks=0)
        network, generator = network_of(config), seeded(11)
        x, label, rows, index = task(config)
        index = index[:, :1]
        kept = keep_mask((B, 1), 0.3, generator)
        order = kept.sum(1).sort(descending=True).indices[: int(kept.sum())]
        pairs = torch.zeros(B, 1, config.hidden, dtype=torch.bool)
        pairs[order] = keep_mask((len(order), 1, config.hidden), 0.4, generator)
        masks = {"context": kept / kept_share(0.3), "correction": pairs / kept_share(0.4)}
        expected = answer(network, rows, x, label, index, torch.ones(N).double(), lambda h, place: h * masks[place].double())
        ours = mix(network, rows, as_rows(x, label), index, seeded(11))
        assert 0 < kept.sum() < B
        torch.testing.assert_close(with_gradients(network, ours), with_gradients(network, expected))

    @pytest.mark.parametrize(("dropout", "context_dropout"), [(0.4, 0.0), (0.0, 0.4), (0.4, 0.4)])
    def test_mixtures_are_right_on_average(self, dropout, context_dropout):
        """The head of a linear network sees what was mixed: its mean over masks is the mixture without any."""
        config = replace(CONFIG, dropout=dropout, context_dropout=context_dropout, n_predictor_blocks=0)
        network = network_of(config)
        network.head_norm = torch.nn.Identity()
        with torch.no_grad():
            network.input.bias += 100.0                             # no ReLU of the head cuts anything
        x, label, rows, index = task(config)
        n = 4000
        outputs = mix(network, rows.repeat(n, 1), as_rows(x, label), index.repeat(n, 1), seeded()).detach().view(n, B, 3)
        expected = mix(network, rows, as_rows(x, label), index).detach()
        assert ((outputs.mean(0) - expected).abs() < 5 * outputs.std(0) / n**0.5).all()
        assert (outputs.std(0) > 1e-3).all()

    def test_blocks(self):
        block = Block(8, 12, normalized=True).double()
        for parameter in block.parameters():
            torch.nn.init.uniform_(parameter, -1, 1, generator=seeded())
        x = torch.randn(5, 8, dtype=torch.float64, generator=seeded(1))
        mask = keep_mask((5, 12), 0.5, seeded(2)) / kept_share(0.5)
        expected = x + block.outer(mask * F.relu(block.inner(block.norm(x))))
        torch.testing.assert_close(block(x, 0.5, seeded(2)), expected)


class TestWeights:
    def test_shares_add_up_and_places_without_a_neighbour_have_none(self):
        log_weight = torch.zeros(3, 4).masked_fill(torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]]) > 0, -torch.inf)
        weight = TabRNetwork.weights(torch.rand(3, 4, generator=seeded()), log_weight)
        torch.testing.assert_close(weight.sum(1), torch.tensor([1.0, 1.0, 0.0]))
        assert (weight[1, 1:3] == 0).all()

    @pytest.mark.parametrize("distance", [0.0, 1e4, 1e30])
    def test_only_differences_of_distances_count(self, distance):
        near = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
        weight = TabRNetwork.weights(distance + near, torch.zeros(1, 3).double())
        torch.testing.assert_close(weight.sum(), torch.tensor(1.0).double())
        if distance < 1e5:
            torch.testing.assert_close(weight, F.softmax(-near, 1))

    def test_what_is_left_out_is_beyond_float32(self):
        distance = torch.linspace(0, 60, 96).unsqueeze(0)
        weight, exact = TabRNetwork.weights(distance, torch.zeros(1, 96)), F.softmax(-distance.double(), 1)
        assert (weight == 0).any()
        torch.testing.assert_close(weight.double(), exact, atol=1e-9, rtol=1e-5)

    def test_gradients_stay_finite_without_neighbours(self):
        network = network_of(CONFIG)
        x, label, rows, index = task(CONFIG)
        index[2] = -1
        index[3, 1:] = -1
        output, gradients = with_gradients(network, mix(network, rows, as_rows(x, label), index))
        assert output.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        alone = mix(network, rows[3:4], as_rows(x, label), index[3:4, :1]).detach()
        torch.testing.assert_close(output[3:4], alone)
        other = mix(network, rows, as_rows(x + 1, label.flip(0)), index).detach()
        torch.testing.assert_close(output[2], other[2])             # nobody's features or labels get into it


class TestInitialValues:
    def test_generator_decides_and_the_global_state_stays(self):
        config = replace(CONFIG, n_frequencies=4, n_encoder_blocks=1)
        before = torch.get_rng_state()
        same, also, other = (TabRNetwork(config, seeded(seed)).state_dict() for seed in (0, 0, 1))
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(same[name], also[name]) for name in same)
        assert all(not torch.equal(same[name], other[name]) for name in same if "norm" not in name)

    def test_distributions_are_the_published_ones(self):
        config = replace(CONFIG, width=256, hidden=512, n_frequencies=64, n_numeric=40, frequency_scale=0.3, n_labels=3)
        network = TabRNetwork(config, seeded()).requires_grad_(False)
        for layer in (network.input, network.key, network.correction_outer, network.head):
            assert layer.weight.abs().max() <= layer.in_features**-0.5
            assert layer.weight.std() == pytest.approx((3 * layer.in_features) ** -0.5, rel=0.05)
        assert network.label.abs().max() <= 1.0
        assert network.label.std() == pytest.approx(3**-0.5, rel=0.05)
        assert network.embedding.frequencies.std() == pytest.approx(0.3, rel=0.05)
        assert network.correction_outer.bias is None
        assert (network.head_norm.weight == 1).all()
        slope = TabRNetwork(replace(config, n_labels=0, n_outputs=1), seeded()).label.detach()
        assert slope.shape == (2, 256)
        assert slope.abs().max() <= 2**-0.5
        assert slope.std() == pytest.approx(6**-0.5, rel=0.1)

    def test_defaults_have_the_published_size(self):
        network = TabRNetwork(TabRConfig(n_numeric=8, n_plain=0, n_outputs=1, n_labels=0), seeded())
        d, h = 264, 528
        retrieval = (8 + 1) * d + (d + 1) * d + 2 * d + (d + 1) * h + h * d
        expected = retrieval + (2 * d + (d + 1) * h + (h + 1) * d) + (2 * d + d + 1)
        assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_embedding_of_one_number():
    embedding = PeriodicEmbedding(1, 2, 3)
    with torch.no_grad():
        embedding.frequencies.copy_(torch.tensor([[0.5, 2.0]]))
        embedding.linear.weight.copy_(torch.eye(4)[[0, 1, 3]])
        embedding.linear.bias.zero_()
    angle = 2 * torch.pi * 0.1
    expected = torch.tensor([[0.5 * angle, 2.0 * angle]])
    expected = torch.cat([expected.cos(), expected[:, 1:].sin()], 1).relu()
    torch.testing.assert_close(embedding(torch.tensor([[0.1]])), expected)


def test_only_matrices_decay():
    """Without gradients AdamW still shrinks what decays, by 1 - lr · decay a step."""
    config = replace(CONFIG, n_frequencies=3, n_labels=0, n_outputs=1)
    network = TabRNetwork(config, seeded())
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    x = torch.randn(8, 5, generator=seeded())
    plan = Plan(context_size=3, batch_size=8, learning_rate=1e-3, weight_decay=500.0, max_epochs=1, patience=9,
                freeze_contexts_after=None, stopping="loss")
    rows = Rows(x, torch.zeros(8), torch.ones(8), torch.zeros(8))
    train(network, rows, rows[torch.arange(0)], plan, seeded())
    for name, parameter in network.named_parameters():
        shrunk = name.endswith(".weight") and "norm" not in name
        change = (parameter.detach() - before[name] * (0.5 if shrunk else 1.0)).abs().max()
        assert change <= 1.01e-3, name                              # the length of Adam's first step
