"""Checkpoints of a training: each whole or absent, whatever kills whoever writes it.

::

    OUTPUT/checkpoints/00001000/weights.safetensors      the networks
                                mean.safetensors         the running mean of their weights
                                optimizer.safetensors    what AdamW remembers
                                memory.safetensors       what a contest remembers beside
                                state.json               the step, and the bytes of the others; written last

A checkpoint without its last file is none. The one before is kept, in case a disk damages the newest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from safetensors.torch import load, save

from ...tiling.errors import StoreError
from ...tiling.place import Place
from ...tiling.store import write_json
from .learner import Tensors

STATE = "state.json"
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was committed; ``facts`` is what was told along with it."""

    step: int
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensors]


@dataclass(frozen=True)
class Checkpoints:
    """All checkpoints of one training."""

    folder: Place

    def commit(self, step: int, tensors: Mapping[str, Tensors], facts: Mapping[str, Any]) -> Place:
        """Write a checkpoint, then drop those before the last one; returns where it is."""
        where = self.folder / f"{step:08d}"
        digests = {}
        for name, parts in tensors.items():
            data = save({key: tensor.contiguous() for key, tensor in parts.items()})
            (where / f"{name}.safetensors").write(data)
            digests[name] = _digest(data)
        write_json(where / STATE, {"step": step, "files": digests, "facts": facts})
        for old in [place for place in self.folder.children() if place.name < where.name][: -(_KEPT - 1)]:
            old.remove()
        return where

    def newest(self) -> Checkpoint | None:
        """The newest that is whole; None where training has not come so far."""
        begun = False
        for place in reversed(self.folder.children()):
            found = _read(place)
            if found:
                return found
            begun = begun or (place / STATE).is_file()
        if begun:
            raise StoreError(f"all checkpoints in {self.folder} are damaged: remove them to begin anew")
        return None


def _read(where: Place) -> Checkpoint | None:
    """A checkpoint; None where it is not whole."""
    try:
        state = json.loads((where / STATE).read())
        data = {name: (where / f"{name}.safetensors").read() for name in state["files"]}
    except (FileNotFoundError, ValueError):
        return None
    if any(_digest(data[name]) != digest for name, digest in state["files"].items()):
        return None
    return Checkpoint(state["step"], state["facts"], {name: load(part) for name, part in data.items()})


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
