"""Tiles in the middle of their schedules, as files of the generation that they belong to: ``ROOT/paused/TILE-HASH``.

A file holds a line of JSON, and then what :meth:`~tileloom.tiling.work.TileWork.pack` made of the state. It is
named by its own hash, so that a late writer can only write what stands there already.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from .ledger import Entry, Status
from .place import Located, Place, place

_FOLDER = "paused"
_DIGEST = 16


@dataclass(frozen=True, slots=True)
class Paused:
    """A tile on its way: digest of its inputs, the numeric class it is computed in, its network calls, its state."""

    inputs: str
    numeric_class: Mapping[str, str]
    calls: int
    packed: bytes


def save_paused(root: Located, tile: int, paused: Paused) -> str:
    """Save a tile in the middle of its schedule; returns the hash of the file."""
    told = {"inputs": paused.inputs, "class": dict(paused.numeric_class), "calls": paused.calls}
    content = json.dumps(told, sort_keys=True).encode() + b"\n" + paused.packed
    saved = _hash(content)
    _file(root, tile, saved).write(content)
    return saved


def load_paused(root: Located, tile: int, saved: str) -> Paused | None:
    """What was saved of a tile under this hash; None where it is not there any more, or damaged."""
    try:
        content = _file(root, tile, saved).read()
    except FileNotFoundError:
        return None
    if _hash(content) != saved:
        return None
    line, _, packed = content.partition(b"\n")
    told = json.loads(line)
    return Paused(told["inputs"], told["class"], told["calls"], packed)


def drop_paused(root: Located, tile: int, saved: str) -> None:
    """Remove what was saved of a tile."""
    _file(root, tile, saved).remove()


def sweep_paused(root: Located) -> None:
    """Remove all that was saved, now that every tile is done: a worker that died may have left what nobody knows of."""
    (place(root) / _FOLDER).remove()


def paused_tiles(entries: Iterable[Entry]) -> dict[int, str]:
    """The hash of what is saved of each tile that is paused, by the lines of a ledger."""
    found: dict[int, str] = {}
    for entry in entries:
        if entry.status is Status.PAUSED:
            found[entry.tile] = entry.output
        else:
            found.pop(entry.tile, None)
    return found


def _file(root: Located, tile: int, saved: str) -> Place:
    return place(root) / _FOLDER / f"{tile}-{saved}"


def _hash(content: bytes) -> str:
    return blake2b(content, digest_size=_DIGEST).hexdigest()
