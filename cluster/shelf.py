"""What a worker holds of blocks: in memory as far as there is room for it, the rest in files of its own machine."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from tempfile import gettempdir, mkdtemp
from typing import Any
from weakref import finalize

from ..tiling.errors import TileloomError
from ..tiling.process import ended, this_process

_FOLDER, _OWNER = "tileloom-blocks-", "owner"


class Shelf:
    """Things by their keys, at most ``room`` bytes of them in memory; those put there first go to files first."""

    def __init__(self, room: int) -> None:
        """Nothing yet; a folder for files is made when it is first needed, and goes with the shelf."""
        self._room = room
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._filed: dict[Hashable, Path] = {}
        self._bytes = 0
        self._files = 0
        self._folder: Path | None = None
        self._tidy: Callable[[], object] = lambda: None

    def __contains__(self, key: Hashable) -> bool:
        """Whether there is something under a key."""
        return key in self._held or key in self._filed

    def put(self, key: Hashable, thing: Any, size: int) -> None:  # noqa: ANN401  whatever is put there
        """Keep a thing of so many bytes."""
        self.drop(key)
        self._held[key] = thing, size
        self._bytes += size
        while self._bytes > self._room and self._held:
            old, (filed, freed) = self._held.popitem(last=False)
            self._bytes -= freed
            self._filed[old] = self._file(filed)

    def get(self, key: Hashable) -> Any:  # noqa: ANN401  whatever was put there
        """What there is under a key, which stays there."""
        held = self._held.get(key)
        return held[0] if held else pickle.loads(self._filed[key].read_bytes())

    def take(self, key: Hashable) -> Any:  # noqa: ANN401  whatever was put there
        """What there is under a key, which then is free."""
        thing = self.get(key)
        self.drop(key)
        return thing

    def drop(self, key: Hashable) -> None:
        """Let go of what there is under a key, if anything is."""
        if held := self._held.pop(key, None):
            self._bytes -= held[1]
        elif filed := self._filed.pop(key, None):
            filed.unlink()
            if not self._filed:
                # Whoever is killed in the end leaves nothing.
                self._tidy()
                self._folder = None

    def _file(self, thing: Any) -> Path:  # noqa: ANN401  whatever was put there
        try:
            if self._folder is None:
                self._folder = _new_folder()
                self._tidy = finalize(self, rmtree, self._folder, ignore_errors=True)
            self._files += 1
            path = self._folder / str(self._files)
            path.write_bytes(pickle.dumps(thing, protocol=pickle.HIGHEST_PROTOCOL))
        except OSError as error:
            raise TileloomError(
                f"blocks cannot be put into files below {gettempdir()} ({error.strerror or error}): raise "
                "lockstep.memory, or set TMPDIR to a folder with room"
            ) from error
        return path


def _new_folder() -> Path:
    """A folder that says whose it is; those of processes that were killed are removed."""
    folder = Path(mkdtemp(prefix=_FOLDER))
    for owner in folder.parent.glob(f"{_FOLDER}*/{_OWNER}"):
        # Another process may remove it at the same time, or be about to write it.
        with suppress(OSError, ValueError):
            if ended(json.loads(owner.read_text())):
                rmtree(owner.parent)
    (folder / _OWNER).write_text(json.dumps(this_process()))
    return folder
