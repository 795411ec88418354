"""How long to bear with a store that is away, refuses or is full: one policy for disks and object stores.

What may pass by itself is tried again, at growing intervals; what waiting cannot mend is told at once. The
clients of object stores have back-offs of their own, which are switched off: here they would multiply.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from obstore import exceptions as refusals

from .errors import StoreAway, StoreError

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds from the first failure of a read or write to the end of the run."""

_FIRST, _MOST = 0.1, 5.0
_PASSING = frozenset(
    {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ENFILE, errno.EMFILE, errno.ETIMEDOUT}
    | {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.EPIPE}
    | {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH}
)
# Timeout, too early, throttled: of the answers that blame the request, those that ask for another.
_PASSING_STATUS = frozenset({408, 409, 425, 429})
# obstore tells nearly everything with one class, and the cause only in words.
_STATUS = re.compile(r"status code: ((\d{3})(?: [A-Za-z ]+)?)")
_KINDS = {"kind: Connect": "no connection", "kind: Timeout": "no answer in time"}
_LASTING = (
    refusals.AlreadyExistsError,
    refusals.PermissionDeniedError,
    refusals.UnauthenticatedError,
    refusals.PreconditionError,
    refusals.InvalidPathError,
    refusals.NotSupportedError,
    refusals.UnknownConfigurationKeyError,
)
_patience: ContextVar[float | None] = ContextVar("patience", default=None)
_log = logging.getLogger("tileloom.store")


@contextmanager
def impatient() -> Iterator[None]:
    """Within the block a store has one try, in this thread: for what is asked before anything was begun."""
    token = _patience.set(0.0)
    try:
        yield
    finally:
        _patience.reset(token)


def patiently(call: Callable[[], T], *where: str) -> T:
    """What a call to a store comes to; ``where`` are the parts of the address that it is about."""
    tries: _Tries | None = None
    while True:
        try:
            return call()
        except Exception as error:
            tries = tries or _Tries("/".join(where))
            time.sleep(tries.pause(error))


async def patiently_async(call: Callable[[], Awaitable[T]], *where: str) -> T:
    """The same for a call that is awaited."""
    tries: _Tries | None = None
    while True:
        try:
            return await call()
        except Exception as error:
            tries = tries or _Tries("/".join(where))
            await asyncio.sleep(tries.pause(error))


class _Tries:
    """The tries of one call, from its first failure on."""

    def __init__(self, where: str) -> None:
        patience = _patience.get()
        self._where = where
        self._patience = PATIENCE if patience is None else patience
        self._end = time.monotonic() + self._patience
        self._pause = _FIRST
        self._said = False

    def pause(self, error: Exception) -> float:
        """Seconds until the next try; raises where there is to be none.

        What is raised does not lead back to the client's error: its text holds the whole request.
        """
        if not _passes(error):
            raise _told(error, self._where) from None
        left = self._end - time.monotonic()
        if left <= 0:
            waited = f", and was for {self._patience:.0f} s" if self._patience else ""
            raise StoreAway(f"{self._where} cannot be read or written ({_reason(error)}{waited})") from None
        if not self._said and self._pause > 1:
            self._said = True
            _log.warning("waiting for %s (%s)", self._where, _reason(error))
        pause, self._pause = min(self._pause, left), min(2 * self._pause, _MOST)
        return pause


def _passes(error: Exception) -> bool:
    """Whether an error may be gone at the next try."""
    if isinstance(error, StoreError):
        return False
    if isinstance(error, OSError):
        return error.errno in _PASSING
    if isinstance(error, _LASTING):
        return False
    if isinstance(error, refusals.BaseError):
        status = _STATUS.search(str(error))
        return status is None or int(status[2]) >= 500 or int(status[2]) in _PASSING_STATUS
    return False


def _told(error: Exception, where: str) -> Exception:
    """A lasting error as the rest of the program knows it: as what a disk would have raised, or a StoreError."""
    if isinstance(error, refusals.AlreadyExistsError):
        return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), where)
    if isinstance(error, FileNotFoundError) and error.errno is None:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where)
    if isinstance(error, refusals.BaseError):
        return StoreError(f"{where} cannot be read or written ({_reason(error)})")
    return error


def _reason(error: Exception) -> str:
    """The telling part of an error. The clients' own texts are pages, with addresses that may hold signatures."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    text = str(error)
    status, message = _STATUS.search(text), re.search(r"<Message>([^<]{1,160})</Message>", text)
    if status:
        return f"{status[1]}: {message[1].rstrip('.')}" if message else status[1]
    told = (words for kind, words in _KINDS.items() if kind in text)
    first = text.partition("\n")[0].rpartition(" - ")[2]
    return next(told, re.sub(r"\S*://\S*", "its address", first)[:160])
