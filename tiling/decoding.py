"""One error for every way in which stored pixels can be damaged, and the limit on what is decoded at once."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import CorruptChunk, InputError, StoreError

DECODED_LIMIT = 256 * 2**20
"""Most bytes that one decoding unit (chunk, tile, strip or whole picture, all bands) may take when decoded."""

DAMAGE: tuple[type[Exception], ...] = (
    *(ValueError, RuntimeError, LookupError, TypeError, ArithmeticError, EOFError, OSError),
    *(struct.error, zlib.error, lzma.LZMAError),
)
"""What codecs, zarr and tifffile raise on damaged bytes: they share no base class."""

DAMAGED_HEADER: tuple[type[Exception], ...] = (*DAMAGE, AttributeError, SyntaxError)
"""What parsers add to that on damaged headers; damaged XML is a SyntaxError."""


@contextmanager
def decoding(array: str, chunk: str) -> Iterator[None]:
    """Turn whatever a codec raises inside the block into ``CorruptChunk``, naming array and chunk."""
    try:
        yield
    except (CorruptChunk, StoreError):
        raise
    except DAMAGE as error:
        raise CorruptChunk(f"{array}: chunk {chunk} is damaged or cannot be read ({_reason(error)})") from error


@contextmanager
def opening(uri: str, kind: str) -> Iterator[None]:
    """Turn whatever a library raises inside the block on a file's header into one sentence for the user."""
    try:
        yield
    except (InputError, CorruptChunk, StoreError):
        raise
    except PermissionError as error:
        raise InputError(f"{uri}: may not be read; give this user permission to read it") from error
    except DAMAGED_HEADER as error:
        raise InputError(f"{uri}: is no readable {kind}: damaged or incomplete ({_reason(error)})") from error


def check_decoded(uri: str, unit: str, nbytes: int) -> None:
    """Refuse an image whose smallest decodable piece would not fit the memory that one piece may take."""
    if nbytes > DECODED_LIMIT:
        raise InputError(
            f"{uri}: one {unit} takes {nbytes / 2**20:.0f} MB decoded and at most {DECODED_LIMIT >> 20} MB are read "
            "at once; save it again in tiles or convert it to Zarr with chunks of about 512 x 512 pixels"
        )


def _reason(error: BaseException) -> str:
    """The first line of what a library says, short enough for a sentence."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
