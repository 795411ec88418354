"""Where things lie: in a folder of this machine, or under a prefix of an object store.

A :class:`Place` is a file or a folder, joined by ``/`` like a path, and plain data: it travels to other processes.
Hardly anything else in tileloom asks which kind it is. An object store is reached with the endpoint and the
credentials of the environment, or those that the cloud gives its machines; an address holds neither.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Literal, Self, TypeVar
from uuid import uuid4

import obstore
from obstore.store import AzureStore, GCSStore, S3Store
from zarr.storage import ObjectStore, StorePath

from .errors import InputError, StoreError
from .patience import impatient, patiently
from .zarr_stores import FolderStore, PatientStore

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig
    from obstore.store import ObjectStore as Client

T = TypeVar("T")

_STORES: dict[str, Callable[..., Client]] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
_AT_ONCE = 32
_CLIENTS = 128
_PIECE = 2**22
_TIMEOUT = timedelta(seconds=60)


@dataclass(frozen=True)
class Stored:
    """A file below a place: its name from there, its bytes, and what differs wherever its content does."""

    name: str
    size: int
    content: Callable[[], Iterator[bytes]]


class Place(ABC):
    """A file or a folder, wherever it is stored; it need not exist."""

    @abstractmethod
    def __truediv__(self, name: str) -> Self:
        """The place of that name inside this one."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of the address."""

    @property
    @abstractmethod
    def parents(self) -> tuple[Self, ...]:
        """The places that this one lies in, nearest first."""

    @abstractmethod
    def absolute(self) -> Self:
        """The same place, wherever the process works."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is a file or a folder."""

    @abstractmethod
    def is_file(self) -> bool:
        """Whether there is a file."""

    @abstractmethod
    def is_folder(self) -> bool:
        """Whether there is a folder; in an object store, whether anything lies inside."""

    @abstractmethod
    def children(self) -> list[Self]:
        """What lies right inside, by name; nothing where there is no folder."""

    @abstractmethod
    def folders(self) -> list[Self]:
        """The folders right inside, by name."""

    @abstractmethod
    def files(self) -> Iterator[Stored]:
        """Every file below, in a fixed order."""

    @abstractmethod
    def read(self) -> bytes:
        """The bytes of a file; FileNotFoundError where there is none."""

    @abstractmethod
    def write(self, data: bytes, *, exclusive: bool = False) -> None:
        """Write a small file whole or not at all; ``exclusive`` raises FileExistsError where one stands already."""

    @abstractmethod
    def remove(self) -> None:
        """Let nothing be here, neither a file nor anything inside."""

    @abstractmethod
    def remove_if_empty(self) -> None:
        """Let no folder be here that has nothing inside."""

    @abstractmethod
    def sweep(self) -> int:
        """Remove what killed writers left half-written; returns how many files."""

    @abstractmethod
    def room(self) -> tuple[Self, int] | None:
        """The folder that would be written into and its free bytes; None where there is no limit.

        Refuses a place that cannot be written.
        """

    @abstractmethod
    def reach(self) -> None:
        """Refuse a place whose store cannot be reached or used, without waiting for it."""

    @abstractmethod
    def temporary_file(self) -> IO[bytes]:
        """A file for what need not be kept, with room for much."""

    @abstractmethod
    def zarr(self) -> StorePath:
        """This place as zarr knows it."""

    def contents(self, suffix: str) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of every file right inside whose name ends so, by name."""
        return ((found.name, found.read()) for found in self.children() if found.name.endswith(suffix))


Located = str | os.PathLike[str] | Place
"""Whatever says where something lies."""


def place(address: Located) -> Place:
    """The place of a path, or of a URL of an object store such as ``s3://bucket/prefix``."""
    if isinstance(address, Place):
        return address
    text = os.fspath(address)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Folder(Path(text))
    if scheme not in _STORES:
        known = ", ".join(f"{known}://" for known in _STORES)
        # What follows may hold a login or a signature.
        raise InputError(f"{scheme}://...: there are no stores of this kind; name a path, or a bucket by {known}")
    bucket, *keys = rest.rstrip("/").split("/")
    if {"", ".", ".."} & {bucket, *keys} or "@" in bucket or "?" in rest:
        # Neither a login nor a signature is repeated.
        raise InputError(f"{scheme}://{bucket.rpartition('@')[2]}: must be {scheme}://BUCKET/PREFIX and nothing else")
    return Prefix(f"{scheme}://{bucket}", "/".join(keys))


@dataclass(frozen=True)
class Folder(Place):
    """A path of this machine."""

    path: Path

    def __truediv__(self, name: str) -> Self:
        return type(self)(self.path / name)

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @property
    def parents(self) -> tuple[Self, ...]:
        """The folders that this one lies in, nearest first."""
        return tuple(type(self)(path) for path in self.path.parents)

    def absolute(self) -> Self:
        """The same path from the root on, without steps back."""
        return type(self)(Path(os.path.abspath(self.path)))

    def exists(self) -> bool:
        """Whether there is a file or a folder."""
        return self.path.exists()

    def is_file(self) -> bool:
        """Whether there is a file."""
        return self.path.is_file()

    def is_folder(self) -> bool:
        """Whether there is a folder."""
        return self.path.is_dir()

    def children(self) -> list[Self]:
        """What lies right inside, by name; nothing where there is no folder."""
        try:
            return [self / name for name in sorted(os.listdir(self.path))]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def folders(self) -> list[Self]:
        """The folders right inside, by name."""
        return [found for found in self.children() if found.is_folder()]

    def files(self) -> Iterator[Stored]:
        """Every file below: those right inside first, then folder by folder."""
        for parent, folders, files in os.walk(self.path):
            folders.sort()
            for path in (os.path.join(parent, name) for name in sorted(files)):
                yield Stored(os.path.relpath(path, self.path), os.path.getsize(path), partial(_pieces, path))

    def read(self) -> bytes:
        """The bytes of a file; FileNotFoundError where there is none."""
        return patiently(self.path.read_bytes, str(self))

    def write(self, data: bytes, *, exclusive: bool = False) -> None:
        """Write a small file whole or not at all; ``exclusive`` raises FileExistsError where one stands already."""
        try:
            patiently(partial(self._write, data, exclusive=exclusive), str(self))
        except OSError as error:
            # A file where a folder should be says "exists" too.
            taken = exclusive and isinstance(error, FileExistsError) and self.path.exists()
            if taken and self.path.read_bytes() == data:
                # A disk far away may do what is asked and yet tell of a failure: the next try finds its own file.
                return
            if taken or isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot write {self}: {error.strerror or error}") from error

    def _write(self, data: bytes, *, exclusive: bool) -> None:
        unfinished = self.path.with_name(f"{self.path.name}.{uuid4().hex}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(data)
            if exclusive:
                os.link(unfinished, self.path)
            else:
                unfinished.replace(self.path)
        finally:
            with suppress(OSError):
                unfinished.unlink()

    def remove(self) -> None:
        """Let nothing be here, neither a file nor anything inside."""
        try:
            patiently(self._remove, str(self))
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot remove {self}: {error.strerror or error}") from error

    def _remove(self) -> None:
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def remove_if_empty(self) -> None:
        """Let no folder be here that has nothing inside."""
        with suppress(OSError):
            self.path.rmdir()

    def sweep(self) -> int:
        """Remove what killed writers left half-written; returns how many files."""
        leftovers = list(self.path.rglob("*.partial"))
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    def room(self) -> tuple[Self, int] | None:
        """The nearest folder that exists and its free bytes."""
        existing = next(folder for folder in (self, *self.parents) if folder.exists())
        if not existing.is_folder() or not os.access(existing, os.W_OK):
            raise InputError(f"{self} cannot be written: {existing} is no folder that this user may write to")
        return existing, shutil.disk_usage(existing).free

    def reach(self) -> None:
        """A disk is there, or each path tells."""

    def temporary_file(self) -> IO[bytes]:
        """A file on the same disk, which may be larger than the system's for temporary files."""
        self.path.mkdir(parents=True, exist_ok=True)
        return TemporaryFile(dir=self.path)

    def zarr(self) -> StorePath:
        """This folder as zarr knows it."""
        return StorePath(PatientStore(FolderStore(self.path), str(self)))


@dataclass(frozen=True)
class Prefix(Place):
    """A key of an object store, and all keys below it; ``root`` is the bucket, such as ``s3://bucket``."""

    root: str
    key: str

    def __truediv__(self, name: str) -> Self:
        return type(self)(self.root, str(PurePosixPath(self.key, name)))

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def parents(self) -> tuple[Self, ...]:
        """The prefixes that this one lies in, nearest first, and the bucket."""
        above = [str(path) for path in PurePosixPath(self.key).parents]
        return tuple(type(self)(self.root, "" if key == "." else key) for key in above)

    def absolute(self) -> Self:
        """The same: an address has no other form."""
        return self

    def exists(self) -> bool:
        """Whether there is an object, or anything below."""
        return self.is_folder() or self.is_file()

    def is_file(self) -> bool:
        """Whether there is an object."""
        try:
            return bool(self.key and self._ask(lambda store: obstore.head(store, self.key)))
        except FileNotFoundError:
            return False

    def is_folder(self) -> bool:
        """Whether anything lies inside."""
        return self._ask(lambda store: any(obstore.list(store, self.key or None)))

    def children(self) -> list[Self]:
        """What lies right inside, by name."""
        folders, objects = self._inside()
        return [type(self)(self.root, key) for key in sorted({*folders, *objects})]

    def folders(self) -> list[Self]:
        """The prefixes right inside, by name."""
        return [type(self)(self.root, key) for key in sorted(self._inside()[0])]

    def _inside(self) -> tuple[list[str], list[str]]:
        """Keys of the prefixes and of the objects right inside."""
        found = self._ask(lambda store: obstore.list_with_delimiter(store, self.key or None))
        return [key.rstrip("/") for key in found["common_prefixes"]], [one["path"] for one in found["objects"]]

    def files(self) -> Iterator[Stored]:
        """Every object below by its key. The store's own tag stands for its content, which need not be read."""
        found = self._ask(lambda store: obstore.list(store, self.key or None).collect())
        for one in sorted(found, key=lambda one: one["path"]):
            name = str(PurePosixPath(one["path"]).relative_to(self.key))
            yield Stored(name, one["size"], partial(_tag, str(one["e_tag"])))

    def read(self) -> bytes:
        """The bytes of an object; FileNotFoundError where there is none."""
        return self._ask(lambda store: bytes(obstore.get(store, self.key).bytes()))

    def write(self, data: bytes, *, exclusive: bool = False) -> None:
        """Write an object; ``exclusive`` raises FileExistsError where one stands already."""
        mode: Literal["create", "overwrite"] = "create" if exclusive else "overwrite"
        try:
            self._ask(lambda store: obstore.put(store, self.key, data, mode=mode))
        except FileExistsError:
            # The store may have taken an earlier try whose answer was lost.
            if not exclusive or self.read() != data:
                raise
        except FileNotFoundError as error:
            raise StoreError(f"cannot write {self}: there is no bucket {self.root}") from error

    def remove(self) -> None:
        """Let nothing be here, neither an object nor anything below."""
        self._ask(self._remove)

    def _remove(self, store: Client) -> None:
        for found in obstore.list(store, self.key or None):
            obstore.delete(store, [one["path"] for one in found])
        if self.key:
            with suppress(FileNotFoundError):
                obstore.delete(store, self.key)

    def remove_if_empty(self) -> None:
        """A prefix without objects is not there."""

    def sweep(self) -> int:
        """An object is whole or absent."""
        return 0

    def room(self) -> tuple[Self, int] | None:
        """There is no limit that could be asked for."""
        return None

    def reach(self) -> None:
        """Refuse a bucket that does not answer, does not exist or may not be listed."""
        try:
            with impatient():
                self.is_folder()
        except StoreError as error:
            raise InputError(
                f"{error}: check the address, and endpoint, region and credentials in the environment"
            ) from error

    def temporary_file(self) -> IO[bytes]:
        """A file of the system's own."""
        return TemporaryFile()

    def zarr(self) -> StorePath:
        """This prefix as zarr knows it."""
        return StorePath(PatientStore(ObjectStore(_client(self.root, self.key)), str(self)))

    def contents(self, suffix: str) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of every object right inside whose name ends so, by name; read several at once."""
        waiting = iter([found for found in self.children() if found.name.endswith(suffix)])
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while some := list(islice(waiting, _AT_ONCE)):
                yield from zip((found.name for found in some), pool.map(type(self).read, some), strict=True)

    def _ask(self, call: Callable[[Client], T]) -> T:
        return patiently(lambda: call(_client(self.root)), str(self))


@lru_cache(_CLIENTS)
def _client(root: str, prefix: str = "") -> Client:
    """The client of a bucket, or of a prefix in it: zarr makes groups of all that a store has above an array.

    An endpoint of plain HTTP is the choice of whoever named it.
    """
    scheme, _, bucket = root.partition("://")
    options: ClientConfig = {"allow_http": True, "timeout": _TIMEOUT}
    once: RetryConfig = {"max_retries": 0, "retry_timeout": _TIMEOUT}
    return _STORES[scheme](bucket, prefix=prefix or None, client_options=options, retry_config=once)


def _pieces(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _tag(tag: str) -> Iterator[bytes]:
    yield tag.encode()
