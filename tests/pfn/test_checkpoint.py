import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import pfn
from pfn import PFN, CheckpointError, Envelope, ModelCard, PFNConfig, load_pretrained, save_checkpoint
from pfn.checkpoint import build_model, bundled_weights, checkpoint_path

CONFIG = PFNConfig(n_outputs=3, embed_dim=16, n_layers=1, n_heads=2, hidden_dim=32)
CARD = ModelCard(CONFIG, "a prior", Envelope(100, 5, 3), {"steps": 7})


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "model.safetensors"
    save_checkpoint(PFN(CONFIG), file, CARD)
    return file


def test_what_is_saved_comes_back(tmp_path):
    model, file = PFN(CONFIG).eval(), tmp_path / "model.safetensors"
    save_checkpoint(model, file, CARD)
    again = load_pretrained(file)
    x, y = torch.randn(1, 9, 4), torch.randint(3, (1, 5))
    torch.testing.assert_close(again(x, y), model(x, y).detach(), atol=1e-6, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
    assert again.card == CARD
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nothing.safetensors.*bundled names \['bayesopt'"):
        load_pretrained(tmp_path / "nothing.safetensors")


def test_unknown_name():
    with pytest.raises(FileNotFoundError, match=r"no bundled weights are called 'clasifier'; there are \['bayesopt'"):
        load_pretrained("clasifier")


@pytest.mark.parametrize("keep", [0, 5, 100, 1000, -1])
def test_truncated_file(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match=r"model.safetensors' is truncated or no safetensors file"):
        load_pretrained(path)


class Bomb:
    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path(PLACE).touch()",))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_is_refused_and_never_run(tmp_path, how):
    file = tmp_path / "model.safetensors"
    if how == "torch":
        torch.save({"weights": Bomb()}, file)
    else:
        file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"model.safetensors' is a pickle, which pfnkit never opens"):
        load_pretrained(file)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_safetensors_file_of_somebody_else(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other.safetensors' has no pfnkit record in its header"):
        load_pretrained(tmp_path / "other.safetensors")


def with_header(path, **changes):
    header = json.loads(CARD.to_json()) | changes
    save_file(load_file(path), path, metadata={"pfnkit": json.dumps(header)})


@pytest.mark.parametrize(
    "changes", [{"format": 99}, {"config": {"n_wings": 2}}, {"envelope": {}}, {"config": {"n_layers": -1}}]
)
def test_a_header_that_cannot_be_used(path, changes):
    with_header(path, **changes)
    with pytest.raises(CheckpointError, match=r"the header of .*model.safetensors' cannot be used"):
        load_pretrained(path)


@pytest.mark.parametrize("change", [{"embed_dim": 32}, {"n_layers": 2}, {"n_outputs": 4}])
def test_weights_of_another_configuration(path, change):
    with_header(path, config=CONFIG.to_dict() | change)
    message = r"model.safetensors' does not fit its own configuration(: .* should have|, .* numbers)"
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(path)


def test_weights_that_are_not_finite(path):
    tensors = load_file(path)
    tensors["unknown_target"][0] = torch.nan
    save_file(tensors, path, metadata={"pfnkit": CARD.to_json()})
    with pytest.raises(CheckpointError, match="not finite"):
        load_pretrained(path)


def test_a_failed_write_leaves_the_old_file_and_no_litter(path, monkeypatch):
    before = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(PFN(CONFIG), path, CARD)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_card_must_describe_the_model(path):
    with pytest.raises(ValueError, match="is not the configuration of the model"):
        save_checkpoint(PFN(PFNConfig(embed_dim=32, n_heads=2)), path, CARD)


def test_bundled_weights_are_small_and_documented():
    assert bundled_weights() == ["bayesopt", "classifier", "freeze-thaw", "gp", "learning-curve", "regressor"]
    cards = {name: load_pretrained(name).card for name in bundled_weights()}
    assert cards["classifier"].envelope.max_classes == cards["classifier"].config.n_outputs == 10
    assert cards["regressor"].config.n_outputs >= 500
    priors = {"gp": "GPPrior", "bayesopt": "OptimizationPrior", "learning-curve": "LearningCurvePrior",
              "freeze-thaw": "FreezeThawPrior"}
    for name, card in cards.items():
        assert card.training["tasks"] > 100_000
        assert priors.get(name, "SCMPrior") in card.prior
    assert cards["gp"].certificate["found"]
    sizes = [file.stat().st_size for file in Path(pfn.__file__).parent.joinpath("weights").iterdir()]
    assert checkpoint_path("gp").stat().st_size <= 2 * 2**20
    assert checkpoint_path("bayesopt").stat().st_size <= 8 * 2**20
    assert checkpoint_path("learning-curve").stat().st_size <= 4 * 2**20
    assert max(sizes) <= 12 * 2**20
    assert sum(sizes) <= 38 * 2**20


def test_a_header_that_asks_for_a_huge_network_is_refused_before_any_memory_is_taken():
    model = load_pretrained("classifier")
    huge = replace(model.card, config=replace(model.config, embed_dim=3 * 2**20, hidden_dim=2**20))
    with pytest.raises(CheckpointError, match="does not fit its own configuration"):
        build_model(model.state_dict(), huge, "huge")
