"""Zarr's stores as tileloom uses them: patient with what may pass, and never making a folder by looking into it."""

from __future__ import annotations

from functools import partial
from typing import Self

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.common import AccessModeLiteral
from zarr.storage import LocalStore, WrapperStore

from .patience import patiently_async


class FolderStore(LocalStore):
    """A folder, made by the first write and not by opening it."""

    async def _open(self, *, mode: AccessModeLiteral | None = None) -> None:
        await Store._open(self)


class PatientStore(WrapperStore[Store]):
    """A store whose reads and writes are tried again as :mod:`.patience` says; ``address`` is its name in messages."""

    def __init__(self, store: Store, address: str) -> None:
        """Keep the store."""
        super().__init__(store)
        self.address = address

    def __str__(self) -> str:
        return self.address

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self.address)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of a key, or some of them; None where there is none."""
        return await patiently_async(partial(self._store.get, key, prototype, byte_range), self.address, key)

    async def exists(self, key: str) -> bool:
        """Whether there is such a key."""
        return await patiently_async(partial(self._store.exists, key), self.address, key)

    async def getsize(self, key: str) -> int:
        """Bytes under a key; FileNotFoundError where there is none."""
        return await patiently_async(partial(self._store.getsize, key), self.address, key)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key whole or not at all."""
        await patiently_async(partial(self._store.set, key, value), self.address, key)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a key unless it is there."""
        await patiently_async(partial(self._store.set_if_not_exists, key, value), self.address, key)

    async def delete(self, key: str) -> None:
        """Let there be no such key."""
        await patiently_async(partial(self._store.delete, key), self.address, key)

    async def delete_dir(self, prefix: str) -> None:
        """Let there be no key below a prefix."""
        await patiently_async(partial(self._store.delete_dir, prefix), self.address, prefix)
