"""PNG and JPEG as images: they have no windows, so they are decoded whole."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from .box import Box
from .cache import ChunkCache
from .decoding import check_decoded, opening
from .errors import InputError
from .windowed import Header, WindowedSource, file_digest

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"

_PNG_BANDS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_ICC_MARKER = b"ICC_PROFILE\0"
_START_OF_SCAN, _APP2 = 0xDA, 0xE2
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class _Picture:
    """What the header of a picture says."""

    bands: int
    height: int
    width: int
    dtype: np.dtype[Any]
    icc: bytes


class PictureSource(WindowedSource):
    """A PNG or JPEG file; its one unit is the whole picture."""

    def __init__(
        self, header: Header, *, decoder: Callable[[bytes], NDArray[Any]], cache: ChunkCache | None = None
    ) -> None:
        """Keep the header; the file is read when the first window is."""
        super().__init__(header, cache=cache)
        self._decoder = decoder

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(open_picture, self.uri), ()

    def decode(self, box: Box) -> NDArray[Any]:
        """Decode the picture."""
        with open(self.uri, "rb") as file:
            pixels = self._decoder(file.read())
        pixels = pixels.reshape(self.height, self.width, self.bands)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(self.dtype, copy=False)

    def digest(self) -> str:
        """Hexadecimal blake2b over the whole file."""
        return file_digest(self.uri)


def open_picture(uri: str, *, cache: ChunkCache | None = None) -> PictureSource:
    """Open a PNG or JPEG file by its first bytes."""
    with opening(uri, "PNG or JPEG"), open(uri, "rb") as file:
        png = file.read(len(PNG_SIGNATURE)) == PNG_SIGNATURE
        picture = _png_header(file) if png else _jpeg_header(uri, file)
    size = picture.bands * picture.height * picture.width * picture.dtype.itemsize
    check_decoded(uri, "picture", size)
    chunk = (picture.height, picture.width)
    metadata = {"icc_profile": base64.b64encode(picture.icc).decode()} if picture.icc else {}
    header = Header(uri, picture.bands, *chunk, picture.dtype, chunk, metadata=metadata)
    return PictureSource(header, decoder=imagecodecs.png_decode if png else _decode_jpeg, cache=cache)


def _png_header(file: BinaryIO) -> _Picture:
    """Read the chunks before the pixels; a palette decodes to RGB, a transparency chunk to one more band."""
    icc, transparent, kind = b"", 0, b""
    height = width = depth = colour = 0
    while kind != b"IDAT":
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IDAT":
            break
        body = file.read(length + 4)[:length]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
        elif kind == b"tRNS":
            transparent = 1
        elif kind == b"iCCP":
            icc = zlib.decompress(body[body.index(b"\0") + 2 :])
    return _Picture(
        _PNG_BANDS[colour] + transparent, height, width, np.dtype(np.uint16 if depth == 16 else np.uint8), icc
    )


def _jpeg_header(uri: str, file: BinaryIO) -> _Picture:
    """Read the segments before the first scan."""
    file.seek(2)
    icc: list[bytes] = []
    frame: tuple[int, int, int, int] | None = None
    while True:
        marker, length = struct.unpack(">xBH", file.read(4))
        if marker == _START_OF_SCAN:
            break
        body = file.read(length - 2)
        if marker in _START_OF_FRAME:
            frame = struct.unpack(">BHHB", body[:6])
        elif marker == _APP2 and body.startswith(_ICC_MARKER):
            icc.append(body[len(_ICC_MARKER) :])
    if frame is None:
        raise ValueError("no frame header")
    precision, height, width, bands = frame
    if precision != 8 or bands not in (1, 3) or height == 0:
        raise InputError(f"{uri}: is a JPEG of {bands} bands of {precision} bits; save it as 8-bit grey or RGB")
    profile = b"".join(part[2:] for part in sorted(icc))
    return _Picture(bands, height, width, np.dtype(np.uint8), profile)


def _decode_jpeg(data: bytes) -> NDArray[Any]:
    scan = data.rfind(bytes([0xFF, _START_OF_SCAN]))
    if b"\xff\xd9" not in data[scan:]:
        # libjpeg draws the missing rest of a cut picture in grey, without an error
        raise EOFError("the file ends early")
    pixels: NDArray[Any] = imagecodecs.jpeg8_decode(data)
    return pixels
