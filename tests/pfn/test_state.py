import json
from dataclasses import replace

import pytest
import torch
from test_training import CONFIG, TINY, Slope, Threshold, assert_same_weights, run

from pfn import ModelCard, TaskSizes, load_pretrained, save_checkpoint
from pfn.checkpoint import read_tensors, write_tensors
from pfn.cli import main
from pfn.recipes import RECIPES
from pfn.state import RunState

CPU = torch.device("cpu")
SHORT = replace(CONFIG, n_steps=6, decay_steps=2)
LATE = TaskSizes(rows=(24, 40), features=(2, 8), cells=256, n_shapes=6, row_step=4, max_cells=400)
REGRESSION = replace(SHORT, prior=Slope(), model=replace(TINY, task="regression", n_outputs=20))


@pytest.fixture
def source(tmp_path):
    """A classifier."""
    path, model = tmp_path / "source.safetensors", RunState.fresh(replace(SHORT, seed=7), CPU)
    save_checkpoint(model.model, path, model.card(SHORT, None))
    return path


def test_another_networks_layers_initialise_this_one(source):
    given = load_pretrained(source).state_dict()
    own = RunState.fresh(replace(REGRESSION, start_from=source), CPU).model.state_dict()
    fresh = RunState.fresh(REGRESSION, CPU).model.state_dict()
    layers = [name for name in own if name.startswith(("blocks.", "cells."))]
    assert layers
    assert all(torch.equal(own[name], given[name]) for name in layers)
    for name in ("decoder.2.weight", "decoder.2.bias", "embed_target.weight", "borders"):
        assert torch.equal(own[name], fresh[name]), name
        assert name not in given or own[name].shape != given[name].shape


def test_the_average_starts_from_the_other_network_too(source):
    state = RunState.fresh(replace(REGRESSION, start_from=source), CPU)
    assert all(torch.equal(state.average[name], value) for name, value in state.model.state_dict().items())
    assert all(parameter.requires_grad for parameter in state.model.parameters())


@pytest.mark.parametrize("change", [{"embed_dim": 24}, {"hidden_dim": 48}, {"n_heads": 4}])
def test_layers_that_do_not_fit_are_an_error(source, change):
    """Also if some of their tensors, such as norms or one number per head, have the same shape by chance."""
    with pytest.raises(ValueError, match=r"start_from='.*source.safetensors': its layers, .* do not fit"):
        RunState.fresh(replace(REGRESSION, start_from=source, model=replace(REGRESSION.model, **change)), CPU)


def test_a_deeper_network_takes_the_layers_that_there_are(source):
    deeper = replace(SHORT, start_from=source, model=replace(TINY, n_layers=3))
    own, given = RunState.fresh(deeper, CPU).model.state_dict(), load_pretrained(source).state_dict()
    assert all(torch.equal(own[name], value) for name, value in given.items())


def test_nothing_to_start_from():
    with pytest.raises(FileNotFoundError, match="no bundled weights are called 'clasifier'"):
        run(replace(SHORT, start_from="clasifier"))


def test_the_card_says_from_where_a_run_started(source):
    assert run(replace(REGRESSION, start_from=source)).card.training["start_from"] == str(source)
    assert run(REGRESSION).card.training["start_from"] is None


def test_a_run_that_is_resumed_starts_from_nothing_else(source, tmp_path):
    """The source may be gone by then."""
    config, out = replace(REGRESSION, start_from=source), tmp_path / "run.safetensors"
    whole = run(config)
    run(config, out=out, time_limit=0.0)
    source.unlink()
    assert_same_weights(run(config, resume=out), whole)


def test_command_of_a_recipe_that_starts_from_another(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "tiny", lambda: replace(REGRESSION, start_from=str(source)))
    out = tmp_path / "run.safetensors"
    assert main(["pretrain", "tiny", "--out", str(out), "--device", "cpu", "--time-limit", "0"]) == 0
    assert main(["pretrain", "tiny", "--out", str(out), "--resume", str(out), "--device", "cpu"]) == 0
    assert "step 6 of 6" in capsys.readouterr().out
    assert load_pretrained(out).card.training["start_from"] == str(source)


def test_envelope_grows_when_the_late_sizes_are_reached(tmp_path):
    trunk, config = tmp_path / "trunk.safetensors", replace(SHORT, late_sizes=LATE)
    run(replace(config, n_steps=4, decay_steps=0), out=trunk)
    card = load_pretrained(trunk).card
    assert (card.envelope.max_rows, card.envelope.max_features) == (24, 3)
    assert card.training["late_sizes"]["rows"] == [24, 40]
    card = run(config, resume=trunk).card
    assert (card.envelope.max_rows, card.envelope.max_features) == (40, 8)
    assert card.training["earlier"] == []


def test_late_sizes_change_the_decay_only(tmp_path):
    """The trunk is that of a run without them, and so is the validation."""
    trunk, late = tmp_path / "trunk.safetensors", replace(SHORT, late_sizes=LATE)
    run(replace(SHORT, n_steps=4, decay_steps=0), out=trunk)
    whole = run(late)
    again = run(late, resume=trunk)
    assert_same_weights(again, whole)
    assert again.card.training["earlier"] == []
    assert again.card.training["tasks"] == whole.card.training["tasks"] != run(SHORT).card.training["tasks"]


def test_other_late_sizes_after_the_first_are_an_earlier_stage(tmp_path):
    out = tmp_path / "run.safetensors"
    run(replace(SHORT, late_sizes=LATE), out=out)
    longer = replace(SHORT, n_steps=8)
    assert run(replace(longer, late_sizes=LATE), resume=out).card.training["earlier"] == []
    (stage,) = run(longer, resume=out).card.training["earlier"]
    assert stage["late_sizes"]["rows"] == [24, 40]


def test_records_that_lack_newer_fields_are_no_earlier_stage(tmp_path):
    """As checkpoints of the first version, which knew neither `late_sizes` nor `max_cells` nor `start_from`."""
    out = tmp_path / "run.safetensors"
    run(replace(SHORT, n_steps=4, decay_steps=0), out=out)
    tensors, card = read_tensors(out)
    values = json.loads(card.to_json())
    del values["training"]["late_sizes"], values["training"]["start_from"], values["training"]["sizes"]["max_cells"]
    write_tensors(out, tensors, ModelCard.from_json(json.dumps(values)))
    model = run(SHORT, resume=out)
    assert model.card.training["earlier"] == []
    assert model.card.training["late_sizes"] is None
    assert_same_weights(model, run(SHORT))
    assert len(run(replace(SHORT, sizes=replace(SHORT.sizes, max_cells=300)), resume=out).card.training["earlier"]) == 1


def test_shipped_weights_of_the_first_version_start_a_new_run(tmp_path):
    model = run(SHORT)
    card = replace(model.card, training={"step": 6, "tasks": 10, "seconds": 1.0})
    save_checkpoint(model, tmp_path / "shipped.safetensors", card)
    again = run(replace(SHORT, prior=Threshold()), resume=tmp_path / "shipped.safetensors")
    assert again.card.training["step"] == 6
    assert len(again.card.training["earlier"]) == 1
