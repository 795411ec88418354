"""Noise that belongs to a place: the value at a pixel depends on nothing but the pixel's own address.

So overlapping tiles see the same noise, a crop agrees bit for bit with the whole, and a tile can be
drawn again on any worker. Bits come from Philox4x32-10 (Salmon et al., 2011), normals from Wichura's
AS241 inverse distribution function (1988), computed from exactly rounded operations only (integers,
+ - * / and square root in float64): no math library and no vector unit can change a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..tiling.box import Box
from .device import CPU

_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10

_SPLIT = 0.425
_CENTRE_TOP = (
    3.3871328727963666080e0,
    1.3314166789178437745e2,
    1.9715909503065514427e3,
    1.3731693765509461125e4,
    4.5921953931549871457e4,
    6.7265770927008700853e4,
    3.3430575583588128105e4,
    2.5090809287301226727e3,
)
_CENTRE_BOTTOM = (
    1.0,
    4.2313330701600911252e1,
    6.8718700749205790830e2,
    5.3941960214247511077e3,
    2.1213794301586595867e4,
    3.9307895800092710610e4,
    2.8729085735721942674e4,
    5.2264952788528545610e3,
)
_TAIL_TOP = (
    1.42343711074968357734e0,
    4.63033784615654529590e0,
    5.76949722146069140550e0,
    3.64784832476320460504e0,
    1.27045825245236838258e0,
    2.41780725177450611770e-1,
    2.27238449892691845833e-2,
    7.74545014278341407640e-4,
)
_TAIL_BOTTOM = (
    1.0,
    2.05319162663775882187e0,
    1.67638483018380384940e0,
    6.89767334985100004550e-1,
    1.48103976427480074590e-1,
    1.51986665636164571966e-2,
    5.47593808499534494600e-4,
    1.05075007164441684324e-9,
)
_LN2 = 0.6931471805599453
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
_ATANH_SERIES = tuple(1.0 / (2 * k + 1) for k in range(11))


class Address(NamedTuple):
    """A window of one draw on a level of an image; ``box`` in pixels of the level."""

    image: str
    level: int
    draw: int
    box: Box


class NoiseField(Protocol):
    """Standard normal noise over the whole plane of every level of every image."""

    @property
    def device(self) -> str:
        """Where windows lie."""
        ...

    def windows(self, addresses: Sequence[Address], bands: int) -> Tensor:
        """The noise of windows of one size: float32 (window, bands, rows, columns)."""
        ...


@dataclass(frozen=True, slots=True)
class PositionNoise:
    """Independent standard normals, addressed by (seed, image, level, draw, band, row, column)."""

    seed: int
    device: str = "cpu"

    def windows(self, addresses: Sequence[Address], bands: int) -> Tensor:
        """The noise of windows of one size: float32 (window, bands, rows, columns).

        Neither a window, its company nor the number of bands changes a value. One counter serves four bands
        of a pixel. Many windows cost an accelerator hardly more than one: it counts operations, not pixels.
        """
        for box in (address.box for address in addresses):
            if box.top < 0 or box.left < 0:
                raise ValueError(f"noise begins at row 0 and column 0, not at {box}")
        groups, shape = -(-bands // 4), addresses[0].box.shape
        where = torch.tensor(
            [(box.top, level, box.left, draw, *self._key(image)) for image, level, draw, box in addresses]
        )
        top, level, left, draw, k0, k1 = where.to(self.device).T[..., None, None, None]
        counter = (
            top + torch.arange(shape[0], device=self.device)[:, None],
            torch.arange(groups, device=self.device)[:, None, None] | level << 24,
            left + torch.arange(shape[1], device=self.device),
            draw,
        )
        words = torch.stack(philox(counter, (k0, k1)), dim=2)
        return normal(words.reshape(-1, 4 * groups, *shape)[:, :bands])

    def _key(self, image: str) -> tuple[int, int]:
        digest = blake2b(f"{self.seed}\0{image}".encode(), digest_size=8).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


Words = int | Tensor


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Words, Words]) -> tuple[Tensor, ...]:
    """Four random 32-bit words for every counter of four, all held in int64; counters and keys may broadcast."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # Products may pass 2**63 and wrap: their 64 bits are right. One mask a word sheds signs and high halves.
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, c = (right >> 32 ^ b ^ k0) & _WORD, (left >> 32 ^ d ^ k1) & _WORD
        b, d = right, left
        k0, k1 = k0 + _WEYL[0] & _WORD, k1 + _WEYL[1] & _WORD
    return a, b & _WORD, c, d & _WORD


def normal(words: Tensor) -> Tensor:
    """The standard normal whose distribution function is ``(word + 0.5) / 2**32``: float32, for int64 words."""
    centred = words.double().sub_(2.0**31 - 0.5).mul_(2.0**-32).reshape(-1)
    squared = (centred * centred).neg_().add_(_SPLIT * _SPLIT)
    values = _polynomial(_CENTRE_TOP, squared).div_(_polynomial(_CENTRE_BOTTOM, squared)).mul_(centred)
    outer = centred.abs() > _SPLIT
    if words.device.type == CPU:
        values[outer] = _tail(centred[outer])
    else:
        # To pick a few, the host would have to wait for the device: all are cheaper there.
        values = torch.where(outer, _tail(centred), values)
    return values.float().reshape(words.shape)


def _tail(centred: Tensor) -> Tensor:
    """AS241 beyond the split. 32-bit words stay below its second tail, which begins at e**-25."""
    radius = _log(0.5 - centred.abs()).neg_().sqrt_().sub_(1.6)
    values = _polynomial(_TAIL_TOP, radius).div_(_polynomial(_TAIL_BOTTOM, radius))
    return torch.where(centred < 0, -values, values)


def _log(x: Tensor) -> Tensor:
    """The natural logarithm of positive normal float64: a power of two times m near 1, log m = 2 atanh((m-1)/(m+1))."""
    bits = x.view(torch.int64)
    exponent = (bits - _SQRT_HALF_BITS) >> 52
    m = (bits - (exponent << 52)).view(torch.float64)
    s = (m - 1) / (m + 1)
    series = _polynomial(_ATANH_SERIES, s * s).mul_(s)
    return exponent.double().mul_(_LN2).add_(series).add_(series)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Horner's scheme, lowest coefficient first; one kernel an operation, so that nothing fuses a rounding away."""
    value = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        value.add_(coefficient).mul_(x)
    return value.add_(coefficients[0])
