"""An image inside a larger one, of which the rest is unknown.

::

    +-----------------+
    |  margin         |
    |    +-------+    |
    |    | given |    |
    |    +-------+    |
    +-----------------+
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .box import Box
from .source import Source


class Framed:
    """A :class:`~tileloom.tiling.source.Source` that is another one in its ``given`` box, and 0 around it.

    Where nothing is given, there may be any number of ``bands``.
    """

    def __init__(self, inner: Source, given: Box, *, bands: int, height: int, width: int) -> None:
        """Put ``inner`` into a grid of ``height`` x ``width``."""
        self._inner, self._given = inner, given
        self.uri, self.dtype, self.nodata = inner.uri, inner.dtype, inner.nodata
        self.metadata, self.chunk = inner.metadata, inner.chunk
        self.bands, self.height, self.width = bands, height, width

    def read(self, box: Box) -> NDArray[Any]:
        """The pixels of ``box`` as (band, row, column)."""
        inside = box.intersect(self._given)
        if inside == box and not box.empty:
            return self._inner.read(box.shift(-self._given.top, -self._given.left))
        pixels = np.zeros((self.bands, *box.shape), self.dtype)
        if not inside.empty:
            pixels[:, *inside.within(box)] = self._inner.read(inside.shift(-self._given.top, -self._given.left))
        return pixels

    def digest(self) -> str:
        """Hexadecimal digest of the stored bytes of what is given."""
        return self._inner.digest()
