"""Saved estimators and optimisers that are damaged or made to harm: a ValueError, no code run, little memory taken."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from malformed import brief, little_memory, refused
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from safetensors.torch import load_file, safe_open, save

from estimators import BayesianOptimizer, FreezeThawOptimizer, LearningCurveExtrapolator, PFNClassifier, PFNRegressor
from pfn import PFN, CheckpointError, Envelope, ModelCard, PFNConfig
from pfn.files import MAX_JSON_BYTES

KEY = "pfnkit-estimator"
SPACE = {"x": FloatDistribution(0, 1), "n": IntDistribution(1, 9), "kind": CategoricalDistribution(["a", "b", "c"])}


@pytest.fixture(autouse=True)
def _little_memory():
    with little_memory():
        yield


@pytest.fixture(scope="module")
def network():
    config = PFNConfig(task="regression", n_outputs=16, embed_dim=16, n_heads=2, n_layers=1, hidden_dim=32)
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        model = PFN(config).eval().requires_grad_(False)
    model.card = ModelCard(config, "a prior", Envelope(100, 5))
    return model


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    path, X = tmp_path_factory.mktemp("saved") / "clf", np.random.default_rng(0).normal(size=(20, 3))
    PFNClassifier(n_estimators=1, temperature=1.0).fit(X, np.where(X[:, 0] > 0, "yes", "no")).save(path)
    return path


@pytest.fixture(scope="module")
def regressor(tmp_path_factory, network):
    """With a network of its own."""
    path, X = tmp_path_factory.mktemp("saved") / "reg", np.random.default_rng(0).normal(size=(20, 3))
    PFNRegressor(n_estimators=1, model=network).fit(X, X[:, 0]).save(path)
    return path


@pytest.fixture
def optimizer(tmp_path):
    made, path = BayesianOptimizer(SPACE, n_constraints=1, random_state=0), tmp_path / "study.json"
    for number, params in enumerate(made.ask(3)):
        made.tell(params, float(number), [0.0])
    made.ask(2)
    made.save(path)
    return path


@pytest.fixture
def freeze_thaw(tmp_path):
    made, path = FreezeThawOptimizer(SPACE, horizon=9, random_state=0), tmp_path / "study.json"
    for run in made.ask(2):
        made.tell(run.number, run.step, 0.5)
    made.save(path)
    return path


def header_of(path):
    with safe_open(path, framework="pt") as archive:
        return json.loads(archive.metadata()[KEY])


def forge(source, target, header, tensors=None):
    """The file with another header, without a checksum: nobody who forges a file would get it wrong."""
    text = header if isinstance(header, str) else json.dumps(header)
    target.write_bytes(save(load_file(source) if tensors is None else tensors, {KEY: text}))


def first(value, kind):
    """The first object of this kind in a header."""
    if isinstance(value, dict):
        if value.get("kind") == kind:
            return value
        value = list(value.values())
    return next((found for one in value if (found := first(one, kind))), None) if isinstance(value, list) else None


# Estimators


def test_every_flipped_bit_is_noticed(classifier, tmp_path):
    content, rng = classifier.read_bytes(), np.random.default_rng(0)
    key = content.index(b"pfnkit-crc32")
    for bit in (*rng.integers(0, 8 * len(content), 300), *range(8 * key, 8 * key + 96)):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        (tmp_path / "clf").write_bytes(broken)
        refused(PFNClassifier.load, tmp_path / "clf")


def test_truncation_anywhere(classifier, tmp_path):
    content = classifier.read_bytes()
    for keep in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "clf").write_bytes(content[:keep])
        refused(PFNClassifier.load, tmp_path / "clf", "truncated")


@pytest.mark.parametrize("text", [
    "", "null", "5", "[]", "{}", "[" * 10**6, '{"format": 4, "estimator": ' + "[" * 900 + "]" * 900 + "}",
    '{"format": 4, "format": 4}', '{"format": 4, "estimator": 5}', '{"format": 1e999}',
    '{"format": 4, "estimator": {"class": "PFNClassifier"}}',
    '{"format": 4, "estimator": {"class": "PFNClassifier", "kind": "estimator", "fields": []}}',
    '{"format": 4, "estimator": {"class": "PFNClassifier", "kind": "Table", "fields": {}}}',
    '{"format": 4, "estimator": {"class": ["PFNClassifier"]}}'], ids=brief)
def test_headers_that_are_no_record(classifier, tmp_path, text):
    forge(classifier, tmp_path / "clf", text)
    refused(PFNClassifier.load, tmp_path / "clf", r"cannot be used")


KINDS = [{"kind": "os.system", "name": "true"}, {"kind": "PFNClassifier"}, {"kind": ["list"], "items": []}, {"kind": None},
         {"kind": "list", "items": 5}, {"kind": "dict", "items": [[{"kind": "list", "items": []}, 1]]},
         {"kind": "dict", "items": [[1]]}, {"kind": "tensor", "name": "../../etc/passwd"}, {"kind": "array", "name": ["a"]},
         {"kind": "array", "name": "array.999"}, {"kind": "labels", "dtype": "str", "values": 5},
         {"kind": "labels", "dtype": "str", "values": [1, 2]}, {"kind": "Table", "fields": {"y": 1}},
         {"kind": "View", "fields": {"__class__": 1}}, {"kind": "TableEncoder", "fields": []},
         {"kind": "network", "name": "model.0", "card": "{}"}, {"kind": "network", "name": 5, "card": "{}"}]


@pytest.mark.parametrize("value", KINDS, ids=brief)
def test_values_that_are_none(classifier, tmp_path, value):
    header = header_of(classifier)
    header["estimator"]["fields"]["classes_"] = value
    forge(classifier, tmp_path / "clf", header)
    refused(PFNClassifier.load, tmp_path / "clf", r"cannot be used")


def test_labels_that_would_all_get_the_room_of_the_longest(classifier, tmp_path):
    """A header of 200 kB that asks for 40 GB."""
    header = header_of(classifier)
    header["estimator"]["fields"]["classes_"] = {"kind": "labels", "dtype": "str", "values": ["x" * 10**5, *[""] * 10**5]}
    forge(classifier, tmp_path / "clf", header)
    refused(PFNClassifier.load, tmp_path / "clf", r"labels of 40,000,400,000 bytes, the limit is")


@pytest.mark.parametrize("change", [{"embed_dim": 10**9}, {"n_layers": 10**9}, {"n_loops": 10**9}, {"n_outputs": 2**22},
                                    {"feature_shifts": [0, 1, *range(10**5)]}], ids=brief)
def test_networks_that_would_fill_the_memory(regressor, tmp_path, change):
    header = header_of(regressor)
    network = first(header, "network")
    card = json.loads(network["card"])
    card["config"] |= change
    network["card"] = json.dumps(card)
    forge(regressor, tmp_path / "reg", header)
    refused(PFNRegressor.load, tmp_path / "reg", r"cannot be used")


def test_a_network_can_be_used_once(regressor, tmp_path):
    """Else a small file could ask for any number of them."""
    header = header_of(regressor)
    network = first(header, "network")
    header["estimator"]["fields"]["more_"] = {"kind": "list", "items": [network] * 1000}
    forge(regressor, tmp_path / "reg", header)
    refused(PFNRegressor.load, tmp_path / "reg", r"cannot be used .*does not fit its own configuration")


@pytest.mark.parametrize("value", [torch.zeros(3), torch.zeros(16, dtype=torch.int64), torch.full((16,), torch.nan), None],
                         ids=brief)
def test_networks_with_wrong_weights(regressor, tmp_path, value):
    tensors = load_file(regressor)
    (name,) = [name for name in tensors if name.endswith("unknown_target")]
    del tensors[name]
    if value is not None:
        tensors[name] = value
    forge(regressor, tmp_path / "reg", header_of(regressor), tensors)
    refused(PFNRegressor.load, tmp_path / "reg", r"cannot be used")


@pytest.mark.parametrize("model", ["/etc/passwd", "../../etc/passwd", "clasifier", "", "//host/a.safetensors", 5, None])
def test_a_file_cannot_make_other_files_be_read(classifier, tmp_path, model):
    header = header_of(classifier)
    header["estimator"]["fields"]["model"] = model
    forge(classifier, tmp_path / "clf", header)
    refused(PFNClassifier.load, tmp_path / "clf", r"cannot be used .*model=.* is not in the file")


def test_learning_curves_likewise(tmp_path):
    made = LearningCurveExtrapolator().fit([1, 2, 3], [0.1, 0.2, 0.3])
    made.save(tmp_path / "a")
    header = header_of(tmp_path / "a")
    header["estimator"]["fields"]["model"] = str(tmp_path / "other.safetensors")
    forge(tmp_path / "a", tmp_path / "b", header)
    refused(LearningCurveExtrapolator.load, tmp_path / "b", r"is not in the file")


# Optimisers

BOTH = pytest.mark.parametrize(("name", "kind"), [("optimizer", BayesianOptimizer), ("freeze_thaw", FreezeThawOptimizer)])


@BOTH
def test_flipped_bits_of_optimisers_load_or_are_refused(name, kind, request):
    path = request.getfixturevalue(name)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    outcomes = set()
    for bit in rng.integers(0, 8 * len(content), 200):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        try:
            kind.load(path)
            outcomes.add("loaded")
        except ValueError as error:
            assert path.name in str(error)                          # noqa: PT017
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


@BOTH
@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"5", b"{}", b"\xff\xfe", b"[" * 10**6, b'{"format": 1}', b"NaN",
                                     b'{"format": 1, "format": 1}', b"PK\x03\x04", pickle.dumps({"format": 1})], ids=brief)
def test_files_that_are_no_optimiser(name, kind, content, tmp_path):
    (tmp_path / "study.json").write_bytes(content)
    refused(kind.load, tmp_path / "study.json", "was not written by this version's save")


@BOTH
def test_files_that_are_too_large_or_no_files(name, kind, tmp_path):
    with open(tmp_path / "study.json", "wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    refused(kind.load, tmp_path / "study.json", "67,108,865 bytes, the limit is")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "nothing", tmp_path / "pipe", tmp_path):
        with pytest.raises(FileNotFoundError, match="no file at"):
            kind.load(path)


BAD = [None, 5, -1, 1.5, "x", [], {}, [[]], [{}], 10**30, float("inf"), float("nan"), True]


@BOTH
@pytest.mark.parametrize("value", BAD, ids=brief)
def test_entries_of_wrong_types_load_or_are_refused(name, kind, value, request):
    """Never another exception, and what loads can be saved again."""
    path = request.getfixturevalue(name)
    state = json.loads(path.read_text())
    n_refused = 0
    for holder, key in places(state):
        kept, holder[key] = holder[key], value
        path.write_text(json.dumps(state))
        holder[key] = kept
        try:
            kind.load(path).save(path)
        except ValueError as error:
            assert path.name in str(error)                          # noqa: PT017
            n_refused += 1
    assert n_refused >= 5


def places(value, depth=0):
    """Every entry of nested objects and lists, the first of each list."""
    entries = list(value.items()) if isinstance(value, dict) else list(enumerate(value))[:1]
    for key, one in entries:
        yield value, key
        if isinstance(one, (dict, list)) and depth < 4:
            yield from places(one, depth + 1)


@pytest.mark.parametrize("change", [{"n_initial": 10**12}, {"n_asked": 10**12}, {"n_asked": -1}, {"seed": -1},
                                    {"seed": 10**30}, {"n_constraints": 10**9}], ids=brief)
def test_numbers_that_would_fill_the_memory_later(optimizer, change):
    state = json.loads(optimizer.read_text()) | {"trials": []}
    optimizer.write_text(json.dumps(state | change))
    refused(BayesianOptimizer.load, optimizer, r"was not written by this version's save .* is not between 0 and")


def test_settings_that_would_fill_the_memory_later(optimizer, tmp_path):
    state = json.loads(optimizer.read_text())
    state["settings"]["n_candidates"] = 10**12
    optimizer.write_text(json.dumps(state))
    refused(BayesianOptimizer.load, optimizer, r"n_candidates=1000000000000 is not between 0 and 1,000,000")


@pytest.mark.parametrize("text", [
    '{"name": "os.system", "attributes": {}}', '{"name": "FloatDistribution", "attributes": {"low": 0}}', "5", "[" * 10**5,
    '{"name": "IntDistribution", "attributes": {"low": 0, "high": 1, "step": 0, "log": false}}',
    '{"name": "FloatDistribution", "attributes": {"low": 0, "high": 1e308, "step": 1e-300, "log": false}}',
    '{"name": "FloatDistribution", "attributes": {"low": NaN, "high": 1, "step": null, "log": false}}',
    '{"name": "CategoricalDistribution", "attributes": {"choices": []}}'], ids=brief)
def test_distributions_that_are_none(optimizer, text):
    state = json.loads(optimizer.read_text())
    state["space"]["x"] = text
    optimizer.write_text(json.dumps(state))
    refused(BayesianOptimizer.load, optimizer, "was not written by this version's save")


def test_a_study_that_could_not_be_read_again_is_not_written(optimizer, monkeypatch):
    made, before = BayesianOptimizer.load(optimizer), optimizer.read_bytes()
    monkeypatch.setattr("pfn.files.MAX_JSON_BYTES", 1000)
    with pytest.raises(ValueError, match=r"study.json' would have .* bytes, the limit is 1,000"):
        made.save(optimizer)
    assert optimizer.read_bytes() == before


def test_errors_of_estimators_are_those_of_checkpoints(classifier, tmp_path):
    forge(classifier, tmp_path / "clf", "5")
    with pytest.raises(CheckpointError, match="clf' cannot be used"):
        PFNClassifier.load(tmp_path / "clf")
