"""Fitted estimators on disk: small pickles, and safetensors files that are read without running code."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import fields, is_dataclass
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from estimators.context import Table
from estimators.ensemble import Part, View
from estimators.indicators import Points
from estimators.kernel_ridge import KernelRidge
from estimators.table import TableEncoder
from estimators.tabr_rows import Rows
from estimators.tabr_table import TabRTable
from pfn import PFN
from pfn.checkpoint import CheckpointError, ModelCard, build_model, bundled_weights, read_archive, write_archive
from pfn.files import CONTENT_ERRORS, parse_json

_HEADER_KEY = "pfnkit-estimator"
_FORMAT = 4
_MAX_LABEL_BYTES = 2**28
_DATA: dict[str, Any] = {one.__name__: one for one in (Table, View, Part, Rows, KernelRidge, Points)}
_ENCODERS: dict[str, Any] = {"TableEncoder": TableEncoder, "TabRTable": TabRTable}


class Saved(BaseEstimator):
    """Adds `save` and `load` to an estimator whose state is numbers, text, arrays, and the classes named here."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to one safetensors file; an interrupted write leaves the old file.

        The file holds the training table as the network reads it (so it is as confidential as the table), and the weights
        unless they are bundled with the package. A `random_state` that is no integer is stored as None, which changes
        nothing about the predictions.

        Parameters
        ----------
        path : str or path-like
            By convention with the ending .safetensors.
        """
        check_is_fitted(self)
        tensors: dict[str, Tensor] = {}
        header = {"format": _FORMAT, "estimator": _pack(self, tensors)}
        write_archive(path, tensors, {_HEADER_KEY: json.dumps(header)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an estimator that `save` wrote; nothing in the file is run.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        CheckpointError
            If it is no such file, damaged, of a newer version, or holds an estimator of another class.
        """
        tensors, metadata = read_archive(path)
        if _HEADER_KEY not in metadata:
            raise CheckpointError(f"{os.fspath(path)!r} holds no estimator; save one with {cls.__name__}.save.")
        try:
            header = parse_json(metadata[_HEADER_KEY])
            if header["format"] != _FORMAT:
                raise ValueError(f"it has format {header['format']!r:.80}, this version reads {_FORMAT}; save it again")
            kind = header["estimator"]["class"]
            if kind != cls.__name__:
                raise ValueError(f"it holds a {kind:.80}; load it with {kind:.80}.load")
            return _unpack(header["estimator"], tensors, cls)
        except CONTENT_ERRORS as error:
            raise CheckpointError(f"{os.fspath(path)!r} cannot be used ({error!r:.500}); save it again.") from error


class Persistence(Saved):
    """Saves an estimator around a PFN, and pickles it without bundled weights."""

    model_: PFN

    def _source(self) -> Any:
        """What the network is made from: a name, a path or a network."""
        raise NotImplementedError

    def _original(self) -> PFN:
        """The network of `_source`, in float32."""
        raise NotImplementedError

    def _set_network(self, network: PFN) -> None:
        """Set `model_` to it, on the device and in the precision asked for."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in super().__getstate__().items() if name != "_contexts"}
        if "model_" in state:
            source = self._source()
            from_file = isinstance(source, (str, os.PathLike)) and source not in bundled_weights()
            # Others come back from the installed package, or from the network that was passed in.
            state["model_"] = copy.deepcopy(self.model_).cpu() if from_file else None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "model_" in state:
            self._set_network(self.model_ if isinstance(self.model_, PFN) else self._original())


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; arrays and networks go to `tensors`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return _pack(np.asarray(value), tensors)
    if isinstance(value, (Tensor, np.ndarray)) and not (isinstance(value, np.ndarray) and value.dtype.kind in "OUS"):
        name = f"array.{len(tensors)}"
        tensors[name] = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        return {"kind": "tensor" if isinstance(value, Tensor) else "array", "name": name}
    if isinstance(value, np.ndarray):
        return {"kind": "labels", "dtype": "str" if value.dtype.kind == "U" else "object",
                "values": [_pack(one, tensors) for one in value.tolist()]}
    if isinstance(value, (list, tuple)):
        return {"kind": "list" if isinstance(value, list) else "tuple", "items": [_pack(one, tensors) for one in value]}
    if isinstance(value, dict):
        return {"kind": "dict", "items": [[_pack(key, tensors), _pack(one, tensors)] for key, one in value.items()]}
    if isinstance(value, PFN):
        if value.card is None:
            raise ValueError("the network has no model card; use networks that pretrain or load_pretrained returned.")
        name = f"model.{len(tensors)}"
        tensors |= {f"{name}.{key}": one for key, one in value.state_dict().items()}
        return {"kind": "network", "name": name, "card": value.card.to_json()}
    if isinstance(value, (torch.device, os.PathLike)):
        return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    if isinstance(value, np.random.RandomState):
        return None
    if type(value).__name__ in _DATA | _ENCODERS:
        names = [f.name for f in fields(value)] if is_dataclass(value) else list(vars(value))
        return {"kind": type(value).__name__, "fields": {name: _pack(getattr(value, name), tensors) for name in names}}
    if isinstance(value, Saved):
        state: Any = value.__getstate__()
        entries = {name: _pack(one, tensors) for name, one in state.items()}
        return {"kind": "estimator", "class": type(value).__name__, "fields": entries}
    raise TypeError(f"cannot save {value!r} of type {type(value).__name__}; use pickle, or labels that are text or numbers.")


def _unpack(value: Any, tensors: dict[str, Tensor], cls: type[Saved]) -> Any:
    """Inverse of `_pack`; makes nothing but the classes named here, and estimators of class `cls`."""
    if not isinstance(value, dict):
        return value
    kind = value["kind"]
    if kind == "tensor":
        return tensors[value["name"]]
    if kind == "array":
        array = tensors[value["name"]].numpy()
        return array if array.ndim else array[()]
    if kind == "labels":
        items = [_unpack(one, tensors, cls) for one in value["values"]]
        if value["dtype"] == "str":
            size = 4 * len(items) * max(map(len, items), default=0)  # all get the room of the longest
            if size > _MAX_LABEL_BYTES:
                raise ValueError(f"labels of {size:,} bytes, the limit is {_MAX_LABEL_BYTES:,}")
            return np.array(items, dtype=str)
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return array
    if kind in ("list", "tuple"):
        made = [_unpack(one, tensors, cls) for one in value["items"]]
        return made if kind == "list" else tuple(made)
    if kind == "dict":
        return {_unpack(key, tensors, cls): _unpack(one, tensors, cls) for key, one in value["items"]}
    if kind == "network":
        return _unpack_network(value, tensors)
    entries = {name: _unpack(one, tensors, cls) for name, one in value["fields"].items()}
    if kind == "estimator":
        if "model_" in entries and entries["model_"] is None and not _is_at_hand(entries):
            raise ValueError(f"model={entries.get('model')!r:.80}, which is not in the file; known are {bundled_weights()}")
        estimator = cls.__new__(cls)
        estimator.__setstate__(entries)
        return estimator
    if kind in _ENCODERS:
        encoder = _ENCODERS[kind]()
        vars(encoder).update(entries)
        return encoder
    return _DATA[kind](**entries)


def _is_at_hand(entries: dict[str, Any]) -> bool:
    """Whether the network is in the file or in the package: a file that is loaded must not name others to be read."""
    source = entries.get("_tuned", entries.get("model"))
    return isinstance(source, PFN) or (isinstance(source, str) and source in bundled_weights())


def _unpack_network(value: dict[str, Any], tensors: dict[str, Tensor]) -> PFN:
    prefix = value["name"] + "."
    # Taken out: however often a header asks for a network, the file's size bounds the memory.
    state = {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
    return build_model(state, ModelCard.from_json(value["card"]), "the network in it")
