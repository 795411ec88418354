"""The images of an archive: a CSV file, a file of JSON lines, a folder or a pattern such as scans/*.tif.

A manifest may have more rows than memory should hold, so what stays of a row is where it begins; it is read again when
its turn comes.
"""

from __future__ import annotations

import csv
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from glob import glob
from hashlib import blake2b
from itertools import count
from os import path
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from ..tiling.errors import InputError

COLUMNS = ("id", "input", "mask", "reference", "task", "noise", "priority")
_FILES = ("input", "mask", "reference")
# An id names a folder on any system, and a key in any object store.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ +=@-]{0,199}")
_IMAGES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".zarr")
_PATTERN = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Row:
    """One image of an archive; ``where`` is its place in the manifest, for whoever has to mend it."""

    id: str
    input: str
    where: str
    mask: str | None = None
    reference: str | None = None
    task: str | None = None
    noise: float | None = None
    priority: int = 0

    def digest(self) -> bytes:
        """A digest of all that decides the image's result."""
        told = [self.id, self.input, self.mask, self.task, self.noise]
        return blake2b(json.dumps(told).encode(), digest_size=8).digest()


class _Rows(Protocol):
    """Rows as they are stored, by the number of the byte or the image where they begin."""

    def all(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """(start, columns) of every row; whoever asks may read single rows in between."""
        ...

    def at(self, start: int) -> Mapping[str, Any]:
        """The columns of the row that begins there."""
        ...


class Manifest:
    """The rows of an archive: checked once, then read one at a time."""

    def __init__(self, name: str) -> None:
        """Read all rows once; refuse a wrong one, and an id that comes twice."""
        self.name = name
        self._base = path.dirname(path.abspath(name))
        self._rows = _rows_of(name)
        starts: list[int] = []
        priorities: list[int] = []
        keys: list[bytes] = []
        seen: dict[bytes, int] = {}
        for number, (start, columns) in enumerate(self._counted()):
            row = self._row(number, columns)
            key = _key(row.id)
            if key in seen:
                raise InputError(
                    f"{row.where}: row {seen[key] + 1} has the id {row.id} already: give each image one of its own"
                )
            seen[key] = number
            starts.append(start)
            priorities.append(row.priority)
            keys.append(key)
        if not starts:
            raise InputError(f"{name} names no image: add a row for each, or a pattern that some file matches")
        self._starts = np.array(starts, np.int64)
        self._priorities = np.array(priorities, np.int64)
        self._keys = np.frombuffer(b"".join(keys), ">u8")
        self._sorted = np.argsort(self._keys)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._starts)

    def __getitem__(self, number: int) -> Row:
        """A row, read anew."""
        return self._row(number, self._rows.at(int(self._starts[number])))

    def number(self, image: str) -> int | None:
        """The number of the row with this id."""
        key = np.frombuffer(_key(image), ">u8")[0]
        at = int(np.searchsorted(self._keys, key, sorter=self._sorted))
        found = at < len(self) and self._keys[self._sorted[at]] == key
        return int(self._sorted[at]) if found else None

    def order(self) -> NDArray[np.int64]:
        """The numbers of all rows, those of high priority first, else as they stand."""
        return np.argsort(-self._priorities, kind="stable")

    @property
    def prefers(self) -> bool:
        """Whether some images go before others."""
        return bool(np.ptp(self._priorities))

    def priority(self, number: int) -> int:
        """The priority of a row."""
        return int(self._priorities[number])

    def _counted(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        rows = self._rows.all()
        for number in count(1):
            try:
                row = next(rows, None)
            except _Unreadable as error:
                raise InputError(f"{self.name}, row {number}: {error}") from None
            if row is None:
                return
            yield row

    def _row(self, number: int, columns: Mapping[str, Any]) -> Row:
        """A row, its paths absolute."""
        where = f"{self.name}, row {number + 1}"
        told = {name: value for name, value in columns.items() if value not in (None, "")}
        if unknown := [str(name) for name in told if name not in COLUMNS]:
            raise InputError(f"{where}: {unknown[0]} is no column of a manifest; the columns are {', '.join(COLUMNS)}")
        for name in ("id", "task", *_FILES):
            if not isinstance(told.get(name, ""), str):
                raise InputError(f"{where}: {name} must be a text, not {told[name]!r}")
        if "input" not in told:
            raise InputError(f"{where}: input is missing: give the path of an image")
        for name in _FILES:
            if name in told and "://" not in told[name]:
                told[name] = path.normpath(path.join(self._base, path.expanduser(told[name])))
        told.setdefault("id", stem(told["input"]))
        if not _ID.fullmatch(told["id"]) or told["id"].endswith((" ", ".")):
            raise InputError(
                f"{where}: the id {told['id']!r} cannot name a folder: use letters, digits and . _ + = @ - within"
            )
        for name, kind in (("noise", float), ("priority", int)):
            if name in told:
                told[name] = _number(told[name], kind, f"{where}: {name}")
        return Row(where=where, **told)


def stem(file: str) -> str:
    """The name of an image without its folder and its ending."""
    name = file.rstrip("/").rsplit("/", 1)[-1]
    return name[: -len(ending)] if (ending := Path(name).suffix) and name != ending else name


def _key(image: str) -> bytes:
    return blake2b(image.encode(), digest_size=8).digest()


def _number(value: object, kind: Callable[[Any], Any], named: str) -> Any:  # noqa: ANN401  an int or a float
    meant = "a whole number" if kind is int else "a number"
    try:
        # A number of JSON is what it is, and one of a text what the text says.
        return kind(str(value))
    except ValueError:
        raise InputError(f"{named} must be {meant}, not {value!r}") from None


def _rows_of(name: str) -> _Rows:
    if _PATTERN.search(name):
        return _Files(sorted(glob(name, recursive=True)))
    if path.isdir(name):
        found = sorted(path.join(name, file) for file in _listed(name))
        return _Files([file for file in found if file.lower().endswith(_IMAGES)])
    ending = path.splitext(name)[1].lower()
    kinds: dict[str, type[_Csv | _JsonLines]] = {".csv": _Csv, ".jsonl": _JsonLines, ".ndjson": _JsonLines}
    kind = kinds.get(ending)
    if kind is None:
        raise InputError(f"{name} is no manifest: give a .csv or .jsonl file, a folder, or a pattern such as *.tif")
    try:
        return kind(name)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from None
    except _Unreadable as error:
        raise InputError(f"{name}: {error}") from None


def _listed(folder: str) -> list[str]:
    return [file.name for file in Path(folder).iterdir() if not file.name.startswith(".")]


class _Unreadable(Exception):
    """What is wrong with a row."""


class _Files:
    """Images named by a folder or a pattern alone."""

    def __init__(self, files: list[str]) -> None:
        self._files = files

    def all(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        return ((start, self.at(start)) for start in range(len(self._files)))

    def at(self, start: int) -> Mapping[str, Any]:
        return {"input": path.abspath(self._files[start])}


class _TextFile(ABC):
    """A text file whose rows are found again by the byte where they begin."""

    def __init__(self, name: str) -> None:
        self.name = name
        # Open as long as the rows are, so that a manifest which is replaced meanwhile stays what it was.
        self.file: BinaryIO = Path(name).open("rb")  # noqa: SIM115
        finalize(self, self.file.close)
        self.first = 0

    def lines(self, start: int) -> Iterator[str]:
        """Lines from a byte on; the file's own position is behind the last one that was taken."""
        self.file.seek(start)
        while line := self.file.readline():
            try:
                yield line.decode("utf-8-sig" if self.file.tell() == len(line) else "utf-8")
            except UnicodeDecodeError:
                raise _Unreadable("it is no text: write the manifest in UTF-8") from None

    def all(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        start, lines = self.first, self.lines(self.first)
        while (columns := self.row(lines)) is not None:
            after = self.file.tell()
            if columns:
                yield start, columns
                self.file.seek(after)
            start = after

    def at(self, start: int) -> Mapping[str, Any]:
        return self.row(self.lines(start)) or {}

    @abstractmethod
    def row(self, lines: Iterator[str]) -> Mapping[str, Any] | None:
        """The next row; nothing of an empty line, None at the end."""


class _Csv(_TextFile):
    """Rows of a CSV file, the first line of which names the columns."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._columns = [column.strip() for column in next(csv.reader(self.lines(0)), [])]
        self.first = self.file.tell()
        if "input" not in self._columns:
            raise InputError(f"{name}: its first line names no column input: the columns are {', '.join(COLUMNS)}")

    def row(self, lines: Iterator[str]) -> Mapping[str, Any] | None:
        try:
            fields = next(csv.reader(lines, strict=True), None)
        except csv.Error as error:
            raise _Unreadable(str(error)) from None
        if not fields:
            return fields if fields is None else {}
        if len(fields) != len(self._columns):
            raise _Unreadable(f"it has {len(fields)} values for {len(self._columns)} columns")
        return dict(zip(self._columns, (field.strip() for field in fields), strict=True))


class _JsonLines(_TextFile):
    """Rows of a file with one JSON object a line."""

    def row(self, lines: Iterator[str]) -> Mapping[str, Any] | None:
        line = next(lines, None)
        if line is None or not line.strip():
            return line if line is None else {}
        try:
            columns = json.loads(line)
        except ValueError:
            columns = None
        if not isinstance(columns, dict):
            raise _Unreadable('it is no JSON object, such as {"input": "scene.tif"}')
        return columns
