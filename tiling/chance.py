"""Chance that belongs to an address: numbers drawn from a seed, a purpose and whole numbers, and from nothing else.

What is drawn at one address never depends on what was drawn before, so a run that goes on where it was stopped, or
one that looks at a part alone, draws the same.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_GOLDEN, _FIRST, _SECOND = (np.uint64(word) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def key(seed: int, name: str) -> Words:
    """What all the random numbers for one purpose begin from."""
    digest = blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    # An array, since numpy warns of scalars that wrap around.
    return np.array([int.from_bytes(digest)], np.uint64)


def words(start: Words, *index: NDArray[Any]) -> Words:
    """A random word for every index of whole numbers; indices broadcast."""
    for part in index:
        start = mixed(start ^ (part.astype(np.uint64) * _GOLDEN))
    return start


def unit(random: Words, draw: int = 0) -> NDArray[np.float32]:
    """Numbers from 0 up to 1, one a word; another draw gives independent ones."""
    drawn = mixed(random + np.array([draw], np.uint64) * _SECOND)
    return (drawn >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def mixed(word: Words) -> Words:
    """SplitMix64's output function (Steele, Lea and Flood, 2014)."""
    word = word + _GOLDEN
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))
