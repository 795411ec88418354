"""Calls in processes of their own, whose peak of memory is theirs alone."""

from __future__ import annotations

import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

T = TypeVar("T")


def alone(call: Callable[..., T], *given: object) -> T:
    """What ``call(folder, *given)`` comes to in a new process, with a folder that is gone afterwards.

    A child's peak begins at its parent's size, so this process had better be small.
    """
    with TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(call, Path(folder), *given).result()


def peak() -> int:
    """The most resident bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
