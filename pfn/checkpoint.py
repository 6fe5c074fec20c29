"""Checkpoints: one safetensors file whose header says what the weights are. Nothing is ever unpickled."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pfn.files import CONTENT_ERRORS, parse_json, replacing
from pfn.network import PFN, PFNConfig

FORMAT = 1
MAX_HEADER_BYTES = 2**25                                            # parsed, a header takes up to thirty times its size
MAX_LAYERS = 10_000                                                 # times loops; a header may ask for any number
_HEADER_KEY = "pfnkit"
_CHECKSUM_KEY = "pfnkit-crc32"


class CheckpointError(ValueError):
    """A file that is no usable checkpoint; the message names the file and the remedy."""


@dataclass(frozen=True)
class Envelope:
    """The sizes on which a checkpoint was validated."""

    max_rows: int
    max_features: int
    max_classes: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not ((isinstance(value, int) and value >= 1) or (name == "max_classes" and value is None)):
                raise ValueError(f"{name}={value!r} is no positive integer.")


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint's header says: architecture, prior, how it was trained, where it was validated, how it scores.

    `scores` holds mean metrics on collections of real datasets by the name of the collection, from `pfn evaluate --record`;
    `certificate` how far posteriors are from exact ones, from `pfn certify --record`.
    """

    config: PFNConfig
    prior: str
    envelope: Envelope
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    certificate: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self), "config": self.config.to_dict()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        values = parse_json(text)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f"its header has format {values.get('format') if isinstance(values, dict) else None!r}")
        return cls(
            config=PFNConfig.from_dict(values["config"]),
            prior=str(values["prior"]),
            envelope=Envelope(**values["envelope"]),
            training=dict(values["training"]),
            scores=dict(values.get("scores", {})),
            certificate=dict(values.get("certificate", {})),
        )


def bundled_weights() -> list[str]:
    """Names that `load_pretrained` accepts without a path."""
    return sorted(entry.name.removesuffix(".safetensors") for entry in files("pfn").joinpath("weights").iterdir()
                  if entry.name.endswith(".safetensors"))


def write_archive(path: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, with a checksum, in one step: a reader sees the old file or the whole new one.

    Raises
    ------
    OSError
        If the disk is full or the place is not writable; an old file stands.
    ValueError
        If the metadata are too large for `read_archive`.
    """
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with replacing(path) as made:
        try:
            save_file(plain, made, metadata=metadata | {_CHECKSUM_KEY: _checksum(plain, metadata)})
        except SafetensorError as error:
            raise OSError(f"{os.fspath(path)!r} cannot be written ({error}); what was there before, if anything, stands."
                          ) from error
        size = _header_size(made)
        if size > MAX_HEADER_BYTES:
            raise ValueError(
                f"the labels and settings for {os.fspath(path)!r} take {size:,} bytes, more than the {MAX_HEADER_BYTES:,} "
                "that would be read again; pickle the estimator, or drop columns of long texts."
            )


def read_archive(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is truncated, damaged, a pickle, or no safetensors file.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no file at {str(source)!r}; give the path of a .safetensors file.")
    with open(source, "rb") as file:
        start = file.read(9)
    looks_right = start.endswith(b"{")                              # else lengths of some headers begin like a pickle
    if not looks_right and start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CheckpointError(
            f"{str(source)!r} is a pickle, which pfnkit never opens because it can run code; save it as safetensors, "
            "with pfn.save_checkpoint or an estimator's save."
        )
    if len(start) == 9 and (size := _header_size(source)) > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{str(source)!r} is truncated or no safetensors file (a header of {size:,} bytes, the limit is "
            f"{MAX_HEADER_BYTES:,}); get it again."
        )
    try:
        with safe_open(source, framework="pt") as archive:
            tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
            metadata = dict(archive.metadata() or {})
        checksum = metadata.pop(_CHECKSUM_KEY, None)
        if checksum is None:                                        # files of the first version have a record and no more
            damaged = len(metadata) > 1 and any(key.startswith(_HEADER_KEY) for key in metadata)
        else:
            damaged = checksum != _checksum(tensors, metadata)
    except (SafetensorError, *CONTENT_ERRORS) as error:
        raise CheckpointError(
            f"{str(source)!r} is truncated or no safetensors file ({error!s:.400}); get it again."
        ) from error
    if damaged:
        raise CheckpointError(f"{str(source)!r} is damaged: its checksum is not that of its content; get it again.")
    return {key: value.to(device) for key, value in tensors.items()}, metadata


def _header_size(path: Path) -> int:
    with open(path, "rb") as file:
        return int.from_bytes(file.read(8), "little")


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """CRC-32 of names, types, shapes and values, whatever their order in the file. It finds accidents, not forgeries."""
    value = zlib.crc32(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode("utf-8", "surrogatepass"), value)
        flat = tensor.as_strided((tensor.numel(),), (1,))           # flatten keeps odd strides of single elements
        value = zlib.crc32(flat.view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def write_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor], card: ModelCard) -> None:
    """Write a checkpoint with these tensors, in one step."""
    write_archive(path, tensors, {_HEADER_KEY: card.to_json()})


def read_tensors(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> tuple[dict[str, Tensor], ModelCard]:
    """Tensors and model card of a checkpoint; raises what `read_archive` does, and if pfnkit did not write it."""
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {str(source)!r}; give the path of a .safetensors file or one of the bundled names "
            f"{bundled_weights()}."
        )
    tensors, metadata = read_archive(source, device)
    if _HEADER_KEY not in metadata:
        raise CheckpointError(
            f"{str(source)!r} has no pfnkit record in its header; save the weights with pfn.save_checkpoint."
        )
    try:
        card = ModelCard.from_json(metadata[_HEADER_KEY])
    except CONTENT_ERRORS as error:
        raise CheckpointError(
            f"the header of {str(source)!r} cannot be used ({error!s:.400}); this pfnkit reads format {FORMAT}: "
            "save the file again with this version."
        ) from error
    return tensors, card


def save_checkpoint(model: PFN, path: str | os.PathLike[str], card: ModelCard) -> None:
    """Save the weights of `model` and their card as one safetensors file.

    Parameters
    ----------
    model : PFN
    path : path-like
        Replaced in one step if it exists.
    card : ModelCard
        Its `config` must be the model's.

    Raises
    ------
    ValueError
        If the card describes another architecture.
    """
    if card.config != model.config:
        raise ValueError(f"card.config {card.config} is not the configuration of the model, {model.config}.")
    write_tensors(path, model.state_dict(), card)


def build_model(state: dict[str, Tensor], card: ModelCard, origin: str) -> PFN:
    """A `PFN` of the card's configuration with these weights, in evaluation mode and float32.

    Raises
    ------
    CheckpointError
        As `check_weights` does, and if the configuration asks for more than the file can hold.
    """
    # A header may ask for any size. (The meta device would answer without memory, but importing what it needs takes 1.4 s.)
    held, depth = sum(tensor.numel() for tensor in state.values()), card.config.n_layers * card.config.n_loops
    if depth > MAX_LAYERS:
        raise CheckpointError(f"{origin!r} asks for {depth:,} layers, the limit is {MAX_LAYERS:,}; get it again.")
    if card.config.least_parameters > held:
        raise CheckpointError(
            f"{origin!r} does not fit its own configuration, {card.config!s:.400}: that needs more than "
            f"{card.config.least_parameters} numbers, the file holds {held}; get it again."
        )
    with torch.random.fork_rng(devices=[]):                         # the caller's random numbers are left alone
        model = PFN(card.config)
    check_weights(state, model, origin)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    model.card = card
    return model.eval().requires_grad_(False)


def check_weights(state: dict[str, Tensor], model: PFN, origin: str) -> None:
    """CheckpointError if names, shapes or types do not fit the network, or a weight is not finite."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointError(
            f"{origin!r} does not fit its own configuration: {wrong[0]!r:.80} should have shape {expected.get(wrong[0])}, "
            f"has {found.get(wrong[0])!s:.80} ({len(wrong)} such tensors); the file mixes two models, get it again."
        )
    for name, tensor in state.items():
        if tensor.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            raise CheckpointError(f"{origin!r} holds {name!r:.80} as {tensor.dtype}, weights are float32; get it again.")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{origin!r} holds weights that are not finite; the file is damaged, get it again.")


def checkpoint_path(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of bundled weights of this name, or the path itself; FileNotFoundError for what looks like a name only."""
    text = os.fspath(name_or_path)
    if text in bundled_weights():
        return Path(str(files("pfn").joinpath("weights", f"{text}.safetensors")))
    if os.sep not in text and not text.endswith(".safetensors") and not Path(text).exists():
        raise FileNotFoundError(f"no bundled weights are called {text!r}; there are {bundled_weights()}. "
                                "For a file of your own give its path, ending in .safetensors.")
    return Path(text)


def load_pretrained(name_or_path: str | os.PathLike[str], device: str | torch.device = "cpu") -> PFN:
    """Load a network, from the package itself or from a file. There is no network access.

    Parameters
    ----------
    name_or_path : str or path-like
        A bundled name, such as "classifier", or the path of a checkpoint.
    device : str or torch.device

    Returns
    -------
    PFN
        In evaluation mode, float32, without gradients; `model.card` tells what it is.

    Raises
    ------
    FileNotFoundError
        If it is neither a bundled name nor a file.
    CheckpointError
        If the file is truncated, a pickle, or does not fit its own configuration; a ValueError.

    Examples
    --------
    >>> load_pretrained("classifier").config.task
    'classification'
    """
    path = checkpoint_path(name_or_path)
    tensors, card = read_tensors(path, device)
    weights = {key.removeprefix("ema."): value for key, value in tensors.items() if key.startswith("ema.")} or tensors
    return build_model(weights, card, str(path))
