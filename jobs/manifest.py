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
from fnmatch import fnmatch
from glob import escape, glob
from hashlib import blake2b
from itertools import count
from os import path
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from ..tiling.blank_source import is_blank
from ..tiling.errors import InputError

COLUMNS = ("id", "input", "mask", "labels", "instances", "reference", "task", "noise", "priority")
FILES = ("input", "mask", "labels", "instances", "reference")
# An id names a folder on any system, and a key in any object store.
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ +=@-]{0,199}")
_IMAGES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".zarr")
_PATTERN = re.compile(r"[*?[]")
# Of any size they would not fit the numbers that are kept of every row.
_MOST = 10**9


@dataclass(frozen=True)
class Row:
    """One image of an archive; ``where`` is its place in the manifest, for whoever has to mend it."""

    id: str
    input: str
    where: str
    mask: str | None = None
    labels: str | None = None
    instances: str | None = None
    reference: str | None = None
    task: str | None = None
    noise: float | None = None
    priority: int = 0

    def digest(self) -> bytes:
        """A digest of all that decides the image's result."""
        told = [self.id, self.input, self.mask, self.task, self.noise]
        # Archives without labels are known as they were before there were any.
        told += [file for file in (self.labels, self.instances) if file is not None]
        return blake2b(json.dumps(told).encode(), digest_size=8).digest()


class _Rows(Protocol):
    """Rows as they are stored, by the number of the byte or the image where they begin."""

    def lists(self, file: str) -> bool:
        """Whether a file would be among the images if it were there."""
        ...

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
        seen: dict[int, int] = {}
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
        if not starts:
            raise InputError(f"{name} names no image: add a row for each, or a pattern that some file matches")
        self._starts = np.array(starts, np.int64)
        self._priorities = np.array(priorities, np.int64)
        self._keys = np.fromiter(seen, np.uint64, len(seen))
        self._sorted = np.argsort(self._keys)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._starts)

    def __getitem__(self, number: int) -> Row:
        """A row, read anew; refuses one that is another by now."""
        try:
            row = self._row(number, self._rows.at(int(self._starts[number])))
        except (_Unreadable, InputError):
            row = None
        if row is None or _key(row.id) != self._keys[number]:
            raise InputError(
                f"{self.name} was changed while it was in use, at row {number + 1}: run the same command again"
            )
        return row

    def lists(self, file: str) -> bool:
        """Whether a file would be among the images if it were there."""
        return self._rows.lists(file)

    def number(self, image: str) -> int | None:
        """The number of the row with this id."""
        key = np.uint64(_key(image))
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
        if unknown := [name for name in told if name not in COLUMNS]:
            raise InputError(
                f"{where}: {unknown[0]!r} is no column of a manifest; the columns are {', '.join(COLUMNS)}"
            )
        for name in ("id", "task", *FILES):
            if not isinstance(told.get(name, ""), str):
                raise InputError(f"{where}: {name} must be a text, not {told[name]!r}")
        if "input" not in told:
            raise InputError(f"{where}: input is missing: give the path of an image")
        for name in FILES:
            if name in told and "://" not in told[name] and not is_blank(told[name]):
                told[name] = path.normpath(path.join(self._base, path.expanduser(told[name])))
        told.setdefault("id", stem(told["input"]))
        if not _ID.fullmatch(told["id"]) or told["id"].endswith((" ", ".")):
            raise InputError(
                f"{where}: the id {told['id']!r} cannot name a folder: "
                "give it one of at most 200 letters from a to z, digits, spaces and . _ + = @ - within"
            )
        for name, kind in (("noise", float), ("priority", int)):
            if name in told:
                told[name] = _number(told[name], kind, f"{where}: {name}")
        if abs(told.get("priority", 0)) > _MOST:
            raise InputError(f"{where}: priority must be from {-_MOST} to {_MOST}, not {told['priority']}")
        return Row(where=where, **told)


def stem(file: str) -> str:
    """The name of an image without its folder and its ending."""
    return path.splitext(path.basename(file.rstrip("/")))[0]


def _key(image: str) -> int:
    return int.from_bytes(blake2b(image.encode(), digest_size=8).digest())


def _number(value: object, kind: Callable[[Any], Any], named: str) -> Any:  # noqa: ANN401  an int or a float
    meant = "a whole number" if kind is int else "a number"
    try:
        # A number of JSON is what it is, and one of a text what the text says.
        return kind(str(value))
    except ValueError:
        raise InputError(f"{named} must be {meant}, not {value!r}") from None


def _rows_of(name: str) -> _Rows:
    if "://" in name:
        raise InputError(f"{name}: a manifest is read from a disk: copy it here, its images may stay where they are")
    if _PATTERN.search(name) and not path.exists(name):
        pattern = path.abspath(name)
        return _Files(sorted(glob(name, recursive=True)), pattern, pattern.replace("**/", ""))
    ending = path.splitext(name)[1].lower()
    kinds: dict[str, type[_Csv | _JsonLines]] = {".csv": _Csv, ".jsonl": _JsonLines, ".ndjson": _JsonLines}
    try:
        if path.isdir(name):
            found = [file for file in Path(name).iterdir() if file.suffix.lower() in _IMAGES and file.name[0] != "."]
            return _Files(sorted(map(str, found)), *(f"{escape(path.abspath(name))}/*{ending}" for ending in _IMAGES))
        if ending in kinds:
            return kinds[ending](name)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from None
    except _Unreadable as error:
        raise InputError(f"{name}, its first line: {error}") from None
    raise InputError(f"{name} is no manifest: give a .csv or .jsonl file, a folder, or a pattern such as *.tif")


class _Unreadable(Exception):
    """What is wrong with a row."""


class _Files:
    """Images named by a folder or a pattern alone."""

    def __init__(self, files: list[str], *patterns: str) -> None:
        self._files, self._patterns = files, patterns

    def lists(self, file: str) -> bool:
        return any(
            fnmatch(file, pattern) and ("**" in pattern or file.count("/") == pattern.count("/"))
            for pattern in self._patterns
        )

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

    def lists(self, file: str) -> bool:
        return False

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
            yield start, columns
            self.file.seek(after)
            start = after

    def at(self, start: int) -> Mapping[str, Any]:
        return self.row(self.lines(start)) or {}

    @abstractmethod
    def row(self, lines: Iterator[str]) -> Mapping[str, Any] | None:
        """The next row, empty lines left out; None at the end."""


class _Csv(_TextFile):
    """Rows of a CSV file, the first line of which names the columns."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._columns = [column.strip() for column in self._fields(self.lines(0)) or ()]
        self.first = self.file.tell()
        if "input" not in self._columns:
            raise _Unreadable(f"it names no column input; the columns, with commas between, are {', '.join(COLUMNS)}")
        for column in COLUMNS:
            if self._columns.count(column) > 1:
                raise _Unreadable(f"it names the column {column} twice: drop one of them")

    def row(self, lines: Iterator[str]) -> Mapping[str, Any] | None:
        fields = self._fields(lines)
        if fields is None:
            return None
        if len(fields) != len(self._columns):
            raise _Unreadable(f"it has {len(fields)} values for {len(self._columns)} columns")
        return dict(zip(self._columns, (field.strip() for field in fields), strict=True))

    @staticmethod
    def _fields(lines: Iterator[str]) -> list[str] | None:
        try:
            return next(filter(None, csv.reader(lines, strict=True)), None)
        except csv.Error as error:
            raise _Unreadable(f"it is no line of a CSV file: {error}") from None


class _JsonLines(_TextFile):
    """Rows of a file with one JSON object a line."""

    def row(self, lines: Iterator[str]) -> Mapping[str, Any] | None:
        line = next(filter(str.strip, lines), None)
        if line is None:
            return None
        try:
            columns = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            columns = None
        if not isinstance(columns, dict):
            raise _Unreadable('it is no JSON object, such as {"input": "scene.tif"}')
        return columns


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; JSON alone would keep the last of two equal keys."""
    columns = dict(pairs)
    if len(columns) < len(pairs):
        raise _Unreadable("it gives a column twice: drop one of them")
    return columns
