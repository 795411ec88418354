"""Forward passes side by side, each on one thread: a tile's bits depend on how many threads compute it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")


class Lanes:
    """So many threads, of which each computes alone."""

    def __init__(self, count: int) -> None:
        """Begin them when they are first needed."""
        # OpenMP keeps the number of threads for each calling thread, so every lane sets its own.
        self._pool = ThreadPoolExecutor(count, "lane", initializer=torch.set_num_threads, initargs=(1,))

    def once(self, call: Callable[[], Made]) -> Made:
        """What a call makes in one of them."""
        return self._pool.submit(call).result()

    def each(self, call: Callable[[Given], Made], given: Iterable[Given]) -> list[Made]:
        """What a call makes of each, side by side."""
        return list(self._pool.map(call, given))
