"""What was done to the image, in the user's words, and the measurement it amounts to.

A task is an ordered list of what happened to the image, first to last: ``inpaint`` (pixels were
lost), ``colorize`` (the bands were averaged), ``sr:k`` (k x k pixels became one), ``denoise`` (noise
was added). Any such list has one normal form, a :class:`Measurement`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..tiling.errors import InputError
from ..tiling.measurement import MaskSite, Measurement

# DDNM's "old photo", and an image taken at low resolution through clouds.
NAMED = {"old-photo": ("inpaint", "colorize", "sr"), "cloudy": ("sr", "inpaint")}
PARTS = "sr:4, inpaint, colorize, denoise, denoise:0.1, old-photo:4 or cloudy:4"


def parse_task(text: str | Sequence[str], *, noise: float) -> Measurement:
    """The measurement of a task: parts in a list or in one text with commas, applied left to right.

    ``noise`` is the standard deviation of the noise on a data range of [0, 1]; ``denoise:sigma`` says it too.
    """
    if not 0 <= noise <= 1:
        raise InputError(f"noise {noise:g} is not a standard deviation on a data range of [0, 1]")
    measurement = Measurement(sigma=float(noise))
    denoised = False
    atoms = list(_atoms(text))
    if not atoms:
        raise InputError(f"nothing to restore: name what was done to the image, such as {PARTS}")
    for name, value in atoms:
        if denoised:
            raise InputError(f"{name} comes after denoise, but noise is added last: put denoise at the end")
        if name == "denoise":
            measurement, denoised = replace(measurement, sigma=_sigma(value, noise)), True
        else:
            measurement = _then(measurement, name, value)
    if measurement.mask is MaskSite.TARGET and measurement.scale == 1:
        measurement = replace(measurement, mask=MaskSite.MEASURED)
    return measurement


def describe(measurement: Measurement) -> str:
    """The task in its normal form, which :func:`parse_task` reads back as the same measurement."""
    atoms = []
    if measurement.mask is MaskSite.TARGET:
        atoms.append("inpaint")
    if measurement.gray:
        atoms.append("colorize")
    if measurement.scale > 1:
        atoms.append(f"sr:{measurement.scale}")
    if measurement.mask is MaskSite.MEASURED:
        atoms.append("inpaint")
    if measurement.sigma:
        atoms.append(f"denoise:{measurement.sigma!r}")
    return ", ".join(atoms)


def _atoms(text: str | Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, what follows its colon) of every part, named tasks spelled out."""
    parts = text.split(",") if isinstance(text, str) else [piece for part in text for piece in part.split(",")]
    for part in filter(None, map(str.strip, parts)):
        name, colon, value = part.partition(":")
        if name in NAMED:
            yield from ((atom, value if atom == "sr" else "") for atom in NAMED[name])
        elif name not in ("sr", "inpaint", "colorize", "denoise"):
            raise InputError(f"there is no task '{part}': choose from {PARTS}")
        elif colon and name in ("inpaint", "colorize"):
            raise InputError(f"'{part}' takes no number: write {name}")
        else:
            yield name, value


def _then(measurement: Measurement, name: str, value: str) -> Measurement:
    """The measurement of an image to which one more thing was done, noise apart.

    Until a downsampling follows it, a mask lies on the target grid.
    """
    if name == "sr":
        if measurement.mask is MaskSite.MEASURED:
            raise InputError("inpaint stands between two sr, where no image has a mask: put it first or last")
        return replace(measurement, scale=measurement.scale * _scale(value))
    if name == "inpaint":
        if measurement.mask is not MaskSite.NONE:
            raise InputError("inpaint appears twice: merge both masks into one")
        return replace(measurement, mask=MaskSite.TARGET if measurement.scale == 1 else MaskSite.MEASURED)
    if measurement.gray:
        raise InputError("colorize appears twice: name it once")
    return replace(measurement, gray=True)


def _scale(value: str) -> int:
    """The factor of a downsampling."""
    if not (value.isascii() and value.isdigit() and len(value) <= 4 and int(value) >= 2):
        raise InputError(f"sr needs a whole factor from 2 to 9999, such as sr:4, not '{value}'")
    return int(value)


def _sigma(value: str, noise: float) -> float:
    """The noise that ``denoise`` or ``denoise:sigma`` means beside the job's own."""
    if not value:
        if noise == 0:
            raise InputError("denoise needs to know the noise: write denoise:0.1, or set noise")
        return noise
    try:
        sigma = float(value)
    except ValueError:
        sigma = 0.0
    if not 0 < sigma <= 1:
        raise InputError(f"denoise needs a standard deviation above 0 and up to 1, such as denoise:0.1, not '{value}'")
    if noise not in (0, sigma):
        raise InputError(f"denoise:{value} and noise {noise:g} disagree: give the noise once")
    return sigma
