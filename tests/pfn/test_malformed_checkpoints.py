"""Checkpoints that are damaged or made to harm: a ValueError that names the file, no code run, little memory taken."""

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from dataclasses import replace
from functools import partial

import malformed
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from test_training import CONFIG as RUN
from test_training import run

from pfn import PFN, CheckpointError, Envelope, ModelCard, PFNConfig, load_pretrained, save_checkpoint
from pfn.checkpoint import MAX_HEADER_BYTES, read_archive, read_tensors, write_archive
from pfn.state import RunState

CONFIG = PFNConfig(n_outputs=3, embed_dim=16, n_layers=1, n_heads=2, hidden_dim=32)
CARD = ModelCard(CONFIG, "a prior", Envelope(100, 5, 3), {"step": 7})


brief, refused = malformed.brief, partial(malformed.refused, kind=CheckpointError)


@pytest.fixture(autouse=True)
def _little_memory():
    with malformed.little_memory():
        yield


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "model.safetensors"
    save_checkpoint(PFN(CONFIG), file, CARD)
    return file


def raw(header, data=b"", length=None):
    """A safetensors file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def parts(path):
    """Header and data of a safetensors file."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def rewrite(path, card_text, tensors=None):
    """The file with this text for its card, without a checksum, as nobody who forges a file would get it wrong."""
    path.write_bytes(save(load_file(path) if tensors is None else tensors, {"pfnkit": card_text}))


def with_card(path, **changes):
    rewrite(path, json.dumps(json.loads(CARD.to_json()) | changes))


# Accidents


@pytest.mark.parametrize("where", ["length", "header", "weights"])
def test_every_flipped_bit_is_noticed(path, where):
    content, rng = path.read_bytes(), np.random.default_rng(0)
    end = 8 + int.from_bytes(content[:8], "little")
    low, high = {"length": (0, 8), "header": (8, end), "weights": (end, len(content))}[where]
    bits = [*range(64)] if where == "length" else rng.integers(8 * low, 8 * high, 200).tolist()
    if where == "header":                                           # also those of the checksum's name
        bits += range(8 * content.index(b"pfnkit-crc32"), 8 * content.index(b"pfnkit-crc32") + 96)
    for bit in bits:
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        refused(load_pretrained, path)


def test_flipped_bits_in_files_of_the_first_version_which_have_no_checksum(path):
    rewrite(path, CARD.to_json())
    content, rng = path.read_bytes(), np.random.default_rng(1)
    n_loaded = 0
    for bit in rng.integers(0, 8 * 3000, 300):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        try:
            load_pretrained(path)(torch.zeros(1, 4, 2), torch.zeros(1, 3, dtype=torch.int64))
            n_loaded += 1
        except CheckpointError as error:
            assert path.name in str(error)                          # noqa: PT017
    assert n_loaded < 60


def test_truncation_anywhere_and_bytes_behind(path):
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    for keep in (*range(17), 100, end - 1, end, end + 1, end + 1001, len(content) - 1):
        path.write_bytes(content[:keep])
        refused(load_pretrained, path, "truncated or no safetensors file")
    path.write_bytes(content + b"\0")
    refused(load_pretrained, path, "truncated or no safetensors file")


def test_weights_of_one_file_and_header_of_another(path, tmp_path):
    other = tmp_path / "other.safetensors"
    save_checkpoint(PFN(CONFIG), other, CARD)
    end = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    path.write_bytes(path.read_bytes()[:end] + other.read_bytes()[end:])
    refused(load_pretrained, path, "is damaged: its checksum is not that of its content")


@pytest.mark.parametrize("low", [0x0280, 0x0380, 0x0480, 0x0580, 0x4B50 + 0x10000])
def test_lengths_that_begin_like_a_pickle_or_an_archive(tmp_path, low):
    """The first two bytes of a header of 1152 bytes are those of a pickle; so were files of one in some thousand."""
    file = tmp_path / "model.safetensors"
    write_archive(file, {"a": torch.zeros(1)}, {"note": ""})
    length = int.from_bytes(file.read_bytes()[:8], "little")
    write_archive(file, {"a": torch.zeros(1)}, {"note": " " * (low - length)})
    assert file.read_bytes()[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
    assert read_archive(file)[0]["a"].tolist() == [0.0]


# Sizes


@pytest.mark.parametrize("length", [0, 1, 200 * 2**20, MAX_HEADER_BYTES + 8, 2**60, 2**64 - 1])
def test_lengths_of_headers_that_are_too_long(path, length):
    header, data = parts(path)
    path.write_bytes(raw(header, data, length))
    refused(load_pretrained, path, "truncated or no safetensors file")


def test_a_header_that_is_as_long_as_it_says(tmp_path):
    file = tmp_path / "model.safetensors"
    with open(file, "wb") as out:
        out.write(raw(b"{", length=200 * 2**20))
        out.truncate(201 * 2**20)
    refused(load_pretrained, file, "header of 209,715,200 bytes, the limit is")


def test_a_header_that_could_not_be_read_again_is_not_written(tmp_path):
    write_archive(tmp_path / "a", {"x": torch.zeros(1)}, {"note": "old"})
    with pytest.raises(ValueError, match=r"'.*a' take 33,5.* bytes, more than the 33,554,432 that would be read again"):
        write_archive(tmp_path / "a", {"x": torch.zeros(1)}, {"note": "x" * MAX_HEADER_BYTES})
    assert read_archive(tmp_path / "a")[1] == {"note": "old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("dtype", ["F32", "U8"])
def test_tensors_larger_than_the_file(tmp_path, dtype):
    file = tmp_path / "model.safetensors"
    entry = {"dtype": dtype, "shape": [2**40], "data_offsets": [0, 2**40 * (4 if dtype == "F32" else 1)]}
    file.write_bytes(raw({"__metadata__": {"pfnkit": CARD.to_json()}, "a": entry}, b"\0" * 64))
    refused(load_pretrained, file, "truncated or no safetensors file")


@pytest.mark.parametrize("shape", [[2**63, 2], [2**32, 2**32], [-1], [1.5], ["1"], 3, None, [1] * 100_000])
def test_shapes_that_are_none(tmp_path, shape):
    file = tmp_path / "model.safetensors"
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}
    file.write_bytes(raw({"__metadata__": {"pfnkit": CARD.to_json()}, "a": entry}, b"\0" * 4))
    refused(load_pretrained, file)


@pytest.mark.parametrize("offsets", [[4, 0], [0, 8], [-4, 0], [2, 6], [0], None])
def test_offsets_that_are_none(tmp_path, offsets):
    file = tmp_path / "model.safetensors"
    entry = {"dtype": "F32", "shape": [1], "data_offsets": offsets}
    file.write_bytes(raw({"__metadata__": {"pfnkit": CARD.to_json()}, "a": entry}, b"\0" * 4))
    refused(load_pretrained, file, "truncated or no safetensors file")


def test_tensors_that_share_their_bytes(tmp_path):
    file = tmp_path / "model.safetensors"
    entry = {"dtype": "F32", "shape": [1024], "data_offsets": [0, 4096]}
    file.write_bytes(raw({f"a{number}": entry for number in range(1000)}, b"\0" * 4096))
    refused(load_pretrained, file, "truncated or no safetensors file")


HUGE = [{name: value} for name in ("embed_dim", "n_layers", "hidden_dim", "n_outputs", "n_thinking_rows", "row_features",
                                   "n_loops", "n_heads") for value in (2**22, 10**9, 10**100, 10**4000)]


@pytest.mark.parametrize("change", [*HUGE, {"feature_shifts": list(range(10**6))}, {"feature_shifts": [0, 1, 10**4000]},
                                    {"n_layers": 5000, "embed_dim": 1, "hidden_dim": 1, "n_heads": 1, "n_loops": 3},
                                    {"residual_decay": 10**4000}], ids=brief)
def test_configurations_that_would_fill_the_memory(path, change):
    with_card(path, config=CONFIG.to_dict() | change)
    refused(load_pretrained, path, r"does not fit its own|asks for .* layers|cannot be used")


@pytest.mark.parametrize("text", [
    "[" * 10**6, '{"a":' * 10**6, '{"format": 1, "training": ' + "[" * 10**5 + "]" * 10**5 + "}",
], ids=["lists", "objects", "balanced"])
def test_deeply_nested_headers(path, text):
    rewrite(path, text)
    refused(load_pretrained, path, "header .* cannot be used")
    path.write_bytes(raw(text.encode()))
    refused(load_pretrained, path, "truncated or no safetensors file")


def test_a_wide_header_takes_no_more_than_thirty_times_its_size(path):
    """6 MB, which may take 190 MB."""
    rewrite(path, "[" + "[]," * 2**21 + "[]]")
    refused(load_pretrained, path, "its header has format None")


# Content


@pytest.mark.parametrize(
    "changes",
    [{"config": value} for value in ([], "abc", 5, None, {}, {"n_layers": 1.5}, {"n_layers": "1"}, {"n_layers": None},
                                     {"task": ["classification"]}, {"task": {}}, {"feature_shifts": 5},
                                     {"feature_shifts": "01"}, {"feature_shifts": [0, 1, [2]]},
                                     {"feature_shifts": [0, 1, 1.5]}, {"residual_decay": "0.9"},
                                     {"residual_decay": float("nan")}, {"cell_ranks": "no"}, {"normal_base": 1},
                                     {"__class__": "os"})]
    + [{"envelope": value} for value in (
        [], 5, None, {"max_rows": -1, "max_features": 5}, {"max_rows": "9", "max_features": 5},
        {"max_rows": 9, "max_features": 1e9}, {"max_rows": 9, "max_features": 5, "more": 1})]
    + [{"training": value} for value in (5, "abc", [1], None)] + [{"scores": 5}, {"certificate": [1]}, {"format": "1"}],
    ids=brief,
)
def test_headers_of_wrong_types(path, changes):
    if isinstance(changes.get("config"), dict) and changes["config"]:
        changes = {"config": CONFIG.to_dict() | changes["config"]}
    with_card(path, **changes)
    refused(load_pretrained, path, r"the header of .* cannot be used|does not fit")


def test_a_name_that_occurs_twice(path):
    rewrite(path, CARD.to_json().replace('"n_layers": 1,', '"n_layers": 1, "n_layers": 2,'))
    refused(load_pretrained, path, r"header .* cannot be used \(it has 'n_layers' twice\)")


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn])
def test_weights_of_another_kind(path, dtype):
    tensors = load_file(path)
    rewrite(path, CARD.to_json(), tensors | {"unknown_target": torch.zeros(16).to(dtype)})
    refused(load_pretrained, path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_in_another_precision_are_read_as_float32(path, dtype):
    rewrite(path, CARD.to_json(), {name: tensor.to(dtype) for name, tensor in load_file(path).items()})
    assert {parameter.dtype for parameter in load_pretrained(path).parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "", "a\0b", "a" * 10**5, "__class__", "ema.x",
                                  "é\ud800"], ids=brief)
def test_names_of_tensors_are_names_only(path, name):
    tensors = load_file(path)
    header, data = parts(path)
    header[name] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
    before = sorted(path.parent.iterdir())
    header["__metadata__"] = {"pfnkit": CARD.to_json()}
    path.write_bytes(raw(header, data + b"\0" * 4))
    refused(load_pretrained, path)
    assert sorted(path.parent.iterdir()) == before
    del tensors["unknown_target"]
    rewrite(path, CARD.to_json(), tensors)
    refused(load_pretrained, path, r"'unknown_target' should have shape \(16,\), has None")


@pytest.mark.parametrize("value", [torch.zeros(1, 16), torch.zeros(()), torch.zeros(16, 0), torch.full((16,), torch.nan)])
def test_weights_of_wrong_shape_or_without_value(path, value):
    rewrite(path, CARD.to_json(), load_file(path) | {"unknown_target": value})
    refused(load_pretrained, path)


# Other files


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("kind", ["pickle 0", "pickle 2", "pickle 5", "torch", "old torch", "zip", "tar", "gzip", "python"])
def test_files_of_other_kinds_are_refused_and_nothing_runs(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    file, buffer = tmp_path / "model.safetensors", io.BytesIO()
    if kind.startswith("pickle"):
        buffer.write(pickle.dumps(Bomb(), protocol=int(kind[-1])))
    elif kind.endswith("torch"):
        torch.save({"weights": Bomb()}, buffer, _use_new_zipfile_serialization=kind == "torch")
    elif kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("../../escaped", "x")
    elif kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("../escaped"))
    elif kind == "gzip":
        buffer.write(gzip.compress(b"\0" * 10**6))
    else:
        buffer.write(b"import os; os.mkdir('exploded')")
    file.write_bytes(buffer.getvalue())
    refused(load_pretrained, file, "is a pickle|truncated or no safetensors file")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "/", "", ".", "a\0b", "classifier\0", "/dev/zero",
                                  "CLASSIFIER", "../weights/classifier", "https://a.example/b.safetensors"])
def test_names_that_are_tricks(name):
    with pytest.raises((FileNotFoundError, CheckpointError), match=r"no bundled weights|no checkpoint|safetensors"):
        load_pretrained(name)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_pretrained(tmp_path / "pipe.safetensors")


# Resuming


SHORT = replace(RUN, n_steps=4, decay_steps=0)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    path = tmp_path_factory.mktemp("trunk") / "run.safetensors"
    run(replace(SHORT, n_steps=2), out=path)
    return read_tensors(path)


@pytest.mark.parametrize(
    "change",
    [{"optimizer.1.0.step": torch.zeros(3)}, {"optimizer.1.0.exp_avg": torch.zeros(3)}, {"optimizer.1.0.exp_avg": None},
     {"optimizer.7.0.step": torch.zeros(())}, {"optimizer.0.999.momentum_buffer": torch.zeros(3)},
     {"optimizer.x": torch.zeros(1)}, {"optimizer.0.-1.momentum_buffer": torch.zeros(3)},
     {"optimizer.1.0.lr": torch.zeros(())},
     {"optimizer.1.0.step": torch.tensor(torch.nan)}, {"optimizer.1.0.step": torch.tensor(3)},
     {"ema.unknown_target": torch.zeros(3)}, {"ema.unknown_target": None}, {"model.unknown_target": None},
     {"ema.unknown_target": torch.full((16,), torch.inf)}, {"model.more": torch.zeros(1)}], ids=brief)
def test_runs_are_not_continued_from_tensors_that_do_not_fit(trunk, tmp_path, change):
    tensors, card = trunk
    changed = {name: value for name, value in (tensors | change).items() if value is not None}
    write_archive(tmp_path / "run.safetensors", changed, {"pfnkit": card.to_json()})
    refused(lambda path: RunState.resume(SHORT, path, CPU), tmp_path / "run.safetensors")


@pytest.mark.parametrize("change", [{"step": -1}, {"step": "x"}, {"step": None}, {"skipped": float("inf")}, {"tasks": [1]},
                                    {"earlier": 5}, {"sizes": 5}, {"seconds": {}}, {"n_steps": "x", "late_sizes": {}}],
                         ids=brief)
def test_runs_are_not_continued_from_records_that_make_no_sense(trunk, tmp_path, change):
    tensors, card = trunk
    text = replace(card, training=card.training | change).to_json()
    write_archive(tmp_path / "run.safetensors", tensors, {"pfnkit": text})
    refused(lambda path: RunState.resume(SHORT, path, CPU), tmp_path / "run.safetensors", "cannot be continued")
