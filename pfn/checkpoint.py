"""Checkpoints: one safetensors file whose header says what the weights are. Nothing is ever unpickled."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pfn.network import PFN, PFNConfig

FORMAT = 1
_HEADER_KEY = "pfnkit"


class CheckpointError(ValueError):
    """A file that is no usable checkpoint; the message names the file and the remedy."""


@dataclass(frozen=True)
class Envelope:
    """The sizes on which a checkpoint was validated."""

    max_rows: int
    max_features: int
    max_classes: int | None = None


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
        values = json.loads(text)
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
    """Write a safetensors file beside `path`, then rename: a reader sees the old file or the whole new one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    try:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, name, metadata=metadata)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_archive(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is truncated, a pickle, or no safetensors file.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no file at {str(source)!r}; give the path of a .safetensors file.")
    with open(source, "rb") as file:
        start = file.read(2)
    if start in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CheckpointError(
            f"{str(source)!r} is a pickle, which pfnkit never opens because it can run code; save it as safetensors, "
            "with pfn.save_checkpoint or an estimator's save."
        )
    try:
        with safe_open(source, framework="pt", device=str(device)) as archive:
            return {key: archive.get_tensor(key) for key in archive.keys()}, archive.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{str(source)!r} is truncated or no safetensors file ({error}); get it again."
        ) from error


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
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the header of {str(source)!r} cannot be used ({error}); this pfnkit reads format {FORMAT}: "
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
        If names or shapes do not fit the configuration, or a weight is not finite.
    """
    # A header may ask for any size. (The meta device would answer without memory, but importing what it needs takes 1.4 s.)
    held = sum(tensor.numel() for tensor in state.values())
    if card.config.least_parameters > held:
        raise CheckpointError(
            f"{origin!r} does not fit its own configuration, {card.config}: that needs more than "
            f"{card.config.least_parameters} numbers, the file holds {held}; get it again."
        )
    with torch.random.fork_rng(devices=[]):                         # the caller's random numbers are left alone
        model = PFN(card.config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointError(
            f"{origin!r} does not fit its own configuration: {wrong[0]!r} should have shape {expected.get(wrong[0])}, "
            f"has {found.get(wrong[0])} ({len(wrong)} such tensors); the file mixes two models, get it again."
        )
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise CheckpointError(f"{origin!r} holds weights that are not finite; the file is damaged, get it again.")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    model.card = card
    return model.eval().requires_grad_(False)


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
