"""One run an output: who holds it, and when somebody else may take it over.

On a disk the system itself keeps the lock and lets go of it when the process ends. An object store keeps none, so
there the holder writes an object again and again. Whoever comes second watches it: a holder that has missed its
beats is taken over. Like the ledger's segments these objects are numbered and only created where their number is
free, so that of two that take over one holder only one does. A holder that was only paused still beats its old
object, which counts for nothing; what stops it is the ledger, see :func:`.ledger.fence`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

from .errors import LedgerTaken, StoreError
from .patience import impatient
from .place import Folder, Place
from .process import ended, this_process

HEARTBEAT = 5.0
"""Seconds between two signs of life."""

MISSED = 3
"""So many beats a holder must have missed before it is taken over."""

_PREFIX = "lock-"
_log = logging.getLogger("tileloom.store")
# Other processes that this one has taken over.
_gone: list[dict[str, Any]] = []


@contextmanager
def hold(folder: Place, *, of: str) -> Iterator[bool]:
    """Hold a folder, the messages' name for which is ``of``, for one run.

    Gives whether it was taken over from a run that did not end by itself.
    """
    with _locked(folder.path, of) if isinstance(folder, Folder) else _beating(folder, of) as taken_over:
        yield taken_over


def _refusal(of: str) -> LedgerTaken:
    return LedgerTaken(f"another run is working on {of}: wait for it (`tileloom status {of}`) or stop it first")


@contextmanager
def _locked(folder: Path, of: str) -> Iterator[bool]:
    path = folder / "lock"
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Appending leaves an old lock file as it is.
            handle = path.open("a")
        except OSError as error:
            raise StoreError(f"{of} cannot be written: {error.strerror or error}") from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _refusal(of) from None
            # A refused run may have removed the folder between opening and locking.
            if not path.exists() or not os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                continue
            yield False
            return


@contextmanager
def _beating(folder: Place, of: str) -> Iterator[bool]:
    holder = this_process() | {"run": uuid4().hex}
    mine, taken_over = _claim(folder, holder, of)
    over = threading.Event()
    beats = threading.Thread(target=_beat, args=(mine, holder, over), name=f"lock of {of}", daemon=True)
    beats.start()
    try:
        yield taken_over
    finally:
        over.set()
        beats.join(HEARTBEAT)
        # A lock that cannot be removed now is one whose holder is gone.
        with impatient(), suppress(StoreError):
            mine.remove()


def _claim(folder: Place, holder: dict[str, Any], of: str) -> tuple[Place, bool]:
    """Become the holder: the lock, and whether there was one whose holder did not let go of it."""
    while True:
        held = [found for found in folder.children() if found.name.startswith(_PREFIX)]
        if held:
            _wait_for_its_end(held[-1], of)
        number = int(held[-1].name.removeprefix(_PREFIX)) + 1 if held else 0
        mine = folder / f"{_PREFIX}{number:08d}"
        try:
            mine.write(_record(holder, 0), exclusive=True)
        except FileExistsError:
            continue
        for lock in held:
            lock.remove()
        return mine, bool(held)


def _wait_for_its_end(lock: Place, of: str) -> None:
    """Return once the holder of a lock is known to be gone; refuse as soon as it is seen to be alive."""
    with suppress(FileNotFoundError):
        seen = lock.read()
        holder = {key: json.loads(seen)[key] for key in this_process()}
        # A process may hold many outputs: it is watched once.
        if holder in _gone or ended(holder):
            return
        _log.warning("another run holds %s: watching for a sign of life", of)
        for _ in range(MISSED):
            time.sleep(HEARTBEAT)
            if lock.read() != seen:
                raise _refusal(of)
        if holder != this_process():
            _gone.append(holder)


def _beat(lock: Place, holder: dict[str, Any], over: threading.Event) -> None:
    for beat in count(1):
        if over.wait(HEARTBEAT):
            return
        # A store that is away is the run's own concern, at its next commit.
        with impatient(), suppress(StoreError):
            lock.write(_record(holder, beat))


def _record(holder: dict[str, Any], beat: int) -> bytes:
    return json.dumps({**holder, "beat": beat}).encode()
