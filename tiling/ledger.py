"""The ledger: what is finished, in numbered segments that only one driver can write.

A segment is created whole and only if its number is free. A driver that finds its next number taken
has been superseded and stops, so no two can ever commit to one output.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any
from uuid import uuid4

from .errors import CorruptChunk, LedgerTaken
from .place import Located, Place, place

_SUFFIX, _RUN = ".json", "run"


class Status(StrEnum):
    """How a tile ended, or that it was saved on its way."""

    DONE = "done"
    DEGRADED = "degraded"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Entry:
    """One tile's line: its status, the digest of its inputs, the hash of its output, and why it was given up.

    Of a tile that is paused, ``output`` is the hash of what is saved of it.
    """

    tile: int
    status: Status
    inputs: str = ""
    output: str = ""
    reason: str = ""


class Journal:
    """Numbered segments, each created whole and only if its number is free."""

    def __init__(self, folder: Located) -> None:
        """Open the journal; nothing can be added before its segments have been read."""
        self.folder = place(folder)
        self._next: int | None = None
        # Two runs can do the same work with the same outcome: their segments must differ all the same.
        self._run = uuid4().hex[:16]

    @property
    def begun(self) -> bool:
        """Whether there is any segment, as far as is known here."""
        return bool(self._next)

    def segments(self, *, only_whole: bool = False) -> Iterator[dict[str, Any]]:
        """Every segment, in order; a damaged one is left out or raises :class:`CorruptChunk`."""
        after = 0
        for name, data in self.folder.contents(_SUFFIX):
            try:
                yield from _read(self.folder / name, data)
            except CorruptChunk:
                if not only_whole:
                    raise
            after = _number(name) + 1
        self._next = after

    def append(self, segment: dict[str, Any]) -> None:
        """Add a segment; raises :class:`LedgerTaken` where somebody else did since."""
        if self._next is None:
            raise ValueError(f"{self.folder} is added to before it was read")
        try:
            _segment(self.folder, self._next).write(_sealed(segment | {_RUN: self._run}), exclusive=True)
        except FileExistsError as error:
            raise LedgerTaken(f"another run took over {self.folder.parents[0]}; this one stops") from error
        self._next += 1


class Ledger:
    """The committed facts of one generation of a job; tiles stay on disk and are streamed, save the degraded ones."""

    def __init__(self, folder: Located) -> None:
        """Open the ledger and read all but its tiles."""
        self._journal = Journal(folder)
        self.facts: dict[str, Any] = {}
        self.shards: set[tuple[int, int, int]] = set()
        self.degraded: dict[int, Entry] = {}
        for segment in self._journal.segments():
            self._apply(segment)

    @property
    def begun(self) -> bool:
        """Whether there is any segment."""
        return self._journal.begun

    def entries(self) -> Iterator[Entry]:
        """Every committed tile, in order of commitment; a later line replaces an earlier one."""
        if self.begun:
            for segment in Journal(self._journal.folder).segments():
                yield from _entries(segment)

    def commit(
        self,
        entries: Iterable[Entry] = (),
        *,
        shards: Iterable[tuple[int, int, int]] = (),
        facts: dict[str, Any] | None = None,
    ) -> None:
        """Record a group of completions, all or none of them."""
        segment: dict[str, Any] = {
            "tiles": [[e.tile, e.status, e.inputs, e.output, e.reason] for e in entries],
            "shards": [list(shard) for shard in shards],
            "facts": facts or {},
        }
        self._journal.append(segment)
        self._apply(segment)

    def _apply(self, segment: dict[str, Any]) -> None:
        self.shards.update((level, row, col) for level, row, col in segment["shards"])
        self.facts.update(segment["facts"])
        for entry in _entries(segment):
            self.degraded.pop(entry.tile, None)
            if entry.status is Status.DEGRADED:
                self.degraded[entry.tile] = entry


def fence(folder: Located) -> None:
    """Take the next number of a journal, so that a run that was taken over stops at its next segment."""
    journal = place(folder)
    numbers = [_number(found.name) for found in journal.children() if found.name.endswith(_SUFFIX)]
    number = max(numbers, default=-1) + 1
    while True:
        try:
            _segment(journal, number).write(_sealed({_RUN: uuid4().hex[:16]}), exclusive=True)
        except FileExistsError:
            number += 1
        else:
            return


def salvage(folder: Located) -> Iterator[Entry]:
    """The tiles of every segment that is whole: what a redo may build on where others are damaged."""
    for segment in Journal(folder).segments(only_whole=True):
        yield from _entries(segment)


def _segment(folder: Place, number: int) -> Place:
    return folder / f"{number:08d}{_SUFFIX}"


def _number(name: str) -> int:
    return int(name.removesuffix(_SUFFIX))


def _sealed(segment: dict[str, Any]) -> bytes:
    """A line of JSON, and a line with its digest: a flipped bit could turn one tile's number into another's."""
    line = json.dumps(segment, separators=(",", ":")).encode()
    return line + b"\n" + _seal(line)


def _seal(line: bytes) -> bytes:
    return blake2b(line, digest_size=8).hexdigest().encode()


def _read(path: Place, data: bytes) -> Iterator[dict[str, Any]]:
    """The segment of a file, without the mark of its run; a fence holds nothing else, and is none."""
    line, _, seal = data.partition(b"\n")
    if seal != _seal(line):
        raise CorruptChunk(f"ledger segment {path} is damaged")
    segment: dict[str, Any] = json.loads(line)
    segment.pop(_RUN, None)
    if segment:
        yield segment


def _entries(segment: dict[str, Any]) -> Iterator[Entry]:
    for tile, status, inputs, output, reason in segment["tiles"]:
        yield Entry(tile, Status(status), inputs, output, reason)
