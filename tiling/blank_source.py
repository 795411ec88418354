"""An image of which nothing is known but its size: it takes no memory, and no file is read."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .box import Box
from .errors import InputError

_NAME = re.compile(r"blank:([1-9]\d{0,7})x([1-9]\d{0,7})")
_CHUNK = 256


def is_blank(uri: object) -> bool:
    """Whether an address names no file but a blank image."""
    return isinstance(uri, str) and uri.startswith("blank:")


class BlankSource:
    """A :class:`~tileloom.tiling.source.Source` of zeros, by its name ``blank:WIDTHxHEIGHT``.

    Its one band stands for any number of them.
    """

    def __init__(self, uri: str) -> None:
        """Read the size off the name."""
        found = _NAME.fullmatch(uri)
        if found is None:
            raise InputError(f"{uri}: write a blank image as blank:WIDTHxHEIGHT, in pixels, such as blank:1024x512")
        self.uri = uri
        self.bands = 1
        self.width, self.height = int(found[1]), int(found[2])
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.nodata: float | None = None
        self.metadata: dict[str, Any] = {}
        self.chunk = _CHUNK, _CHUNK

    def read(self, box: Box) -> NDArray[Any]:
        """Zeros; nobody takes them for something known."""
        return np.broadcast_to(np.zeros((), self.dtype), (self.bands, *box.shape))

    def digest(self) -> str:
        """Hexadecimal digest of the name, which is all there is."""
        return blake2b(self.uri.encode(), digest_size=16).hexdigest()
