"""What was done to the image, in the user's words, and the measurement it amounts to.

A task is an ordered list of what happened to the image, first to last: ``inpaint`` (pixels were
lost), ``outpaint`` (its margins were cut off), ``colorize`` (the bands were averaged), ``sr:k`` (k x k pixels
became one), ``denoise`` (noise was added). Or it is ``generate`` alone: there is no image yet; or ``edit`` alone: a
region of it is to show something else. Any such list has one normal form, a :class:`NormalTask`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..tiling.errors import InputError
from ..tiling.measurement import MaskSite, Measurement

# DDNM's "old photo", and an image taken at low resolution through clouds.
NAMED = {"old-photo": ("inpaint", "colorize", "sr"), "cloudy": ("sr", "inpaint")}
ATOMS = ("sr", "inpaint", "outpaint", "colorize", "denoise", "edit", "generate")
PARTS = "sr:4, inpaint, outpaint:64,0,64,0, colorize, denoise, denoise:0.1, old-photo:4, cloudy:4, edit or generate"
# A comma before a digit stands between the numbers of a part.
_BETWEEN_PARTS = re.compile(r",(?!\s*[\d.+-])")
_WHOLE = re.compile(r"\d{1,9}")


class Margins(NamedTuple):
    """Pixels around an image, left, top, right and bottom."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


NO_MARGINS = Margins()


@dataclass(frozen=True, slots=True)
class NormalTask:
    """A task, however it was written; ``margins`` are to be added on the measured grid.

    ``masked``: an image of what is missing belongs to it. ``blank``: no image does. ``edit``: what is under the mask is
    drawn anew as labels say, as if they had the value ``paint`` there, None for their own.
    """

    measurement: Measurement
    margins: Margins = NO_MARGINS
    masked: bool = False
    blank: bool = False
    edit: bool = False
    paint: int | None = None


def parse_task(text: str | Sequence[str], *, noise: float) -> NormalTask:
    """The normal form of a task: parts in a list or in one text with commas, applied left to right.

    ``noise`` is the standard deviation of the noise on a data range of [0, 1]; ``denoise:sigma`` says it too.
    """
    if not 0 <= noise <= 1:
        raise InputError(f"noise {noise:g} is not a standard deviation on a data range of [0, 1]")
    atoms = list(_atoms(text))
    if not atoms:
        raise InputError(f"nothing to restore: name what was done to the image, such as {PARTS}")
    if "generate" in (name for name, _ in atoms):
        return _generate(atoms, noise)
    if "edit" in (name for name, _ in atoms):
        return _edit(atoms, noise)
    task, denoised = NormalTask(Measurement(sigma=float(noise))), False
    for name, value in atoms:
        if denoised:
            raise InputError(f"{name} comes after denoise, but noise is added last: put denoise at the end")
        if name == "denoise":
            task, denoised = replace(task, measurement=replace(task.measurement, sigma=_sigma(value, noise))), True
        elif name == "outpaint":
            task = _outpaint(task, value)
        else:
            task = _then(task, name, value)
    measurement = task.measurement
    on_target = measurement.mask is MaskSite.TARGET and measurement.scale == 1
    if on_target or (any(task.margins) and measurement.mask is MaskSite.NONE):
        measurement = replace(measurement, mask=MaskSite.MEASURED)
    return replace(task, measurement=measurement)


def describe(task: NormalTask) -> str:
    """The task in its normal form, which :func:`parse_task` reads back as the same one."""
    measurement = task.measurement
    if task.blank:
        return "generate"
    if task.edit:
        return "edit" if task.paint is None else f"edit:{task.paint}"
    atoms = []
    if measurement.mask is MaskSite.TARGET:
        atoms.append("inpaint")
    if measurement.gray:
        atoms.append("colorize")
    if measurement.scale > 1:
        atoms.append(f"sr:{measurement.scale}")
    if task.masked and measurement.mask is MaskSite.MEASURED:
        atoms.append("inpaint")
    if any(task.margins):
        atoms.append("outpaint:" + ",".join(map(str, task.margins)))
    if measurement.sigma:
        atoms.append(f"denoise:{measurement.sigma!r}")
    return ", ".join(atoms)


def _generate(atoms: Sequence[tuple[str, str]], noise: float) -> NormalTask:
    """The task of an image of which nothing is known: all of it is missing."""
    if len(atoms) > 1:
        others = ", ".join(name for name, _ in atoms if name != "generate") or "generate"
        raise InputError(f"generate starts from nothing, so nothing was done to it: drop {others}")
    if noise:
        raise InputError("generate starts from nothing, which has no noise: leave noise out")
    return NormalTask(Measurement(mask=MaskSite.MEASURED), blank=True)


def _edit(atoms: Sequence[tuple[str, str]], noise: float) -> NormalTask:
    """The task of an image of which a region is to show something else; the rest of it is known exactly."""
    if len(atoms) > 1 or noise:
        raise InputError("edit draws a region of an image anew and leaves the rest: give it alone, without noise")
    value = atoms[0][1]
    if value and not _WHOLE.fullmatch(value):
        raise InputError(f"edit takes a value of labels to paint the region with, such as edit:21, not '{value}'")
    paint = int(value) if value else None
    return NormalTask(Measurement(mask=MaskSite.MEASURED), masked=True, edit=True, paint=paint)


def _atoms(text: str | Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, what follows its colon) of every part, named tasks spelled out."""
    texts = [text] if isinstance(text, str) else text
    parts = [piece for part in texts for piece in _BETWEEN_PARTS.split(part)]
    for part in filter(None, map(str.strip, parts)):
        name, colon, value = part.partition(":")
        if name in NAMED:
            yield from ((atom, value if atom == "sr" else "") for atom in NAMED[name])
        elif name not in ATOMS:
            raise InputError(f"there is no task '{part}': choose from {PARTS}")
        elif colon and name in ("inpaint", "colorize", "generate"):
            raise InputError(f"'{part}' takes no number: write {name}")
        else:
            yield name, value


def _then(task: NormalTask, name: str, value: str) -> NormalTask:
    """The task of an image to which one more thing was done, noise and lost margins apart.

    Until a downsampling follows it, a mask lies on the target grid.
    """
    measurement = task.measurement
    if name == "sr":
        if measurement.mask is MaskSite.MEASURED:
            raise InputError("inpaint stands between two sr, where no image has a mask: put it first or last")
        scale = _scale(value)
        return replace(
            task,
            measurement=replace(measurement, scale=measurement.scale * scale),
            margins=_averaged(task.margins, scale),
        )
    if name == "inpaint":
        if task.masked:
            raise InputError("inpaint appears twice: merge both masks into one")
        site = MaskSite.TARGET if measurement.scale == 1 else MaskSite.MEASURED
        return replace(task, measurement=replace(measurement, mask=site), masked=True)
    if measurement.gray:
        raise InputError("colorize appears twice: name it once")
    return replace(task, measurement=replace(measurement, gray=True))


def _outpaint(task: NormalTask, value: str) -> NormalTask:
    """The task of an image whose margins were cut off, too."""
    if any(task.margins):
        raise InputError("outpaint appears twice: add up the margins")
    numbers = [number.strip() for number in value.split(",")]
    if len(numbers) != len(Margins._fields) or not all(map(_WHOLE.fullmatch, numbers)):
        raise InputError(
            f"outpaint needs the pixels to add left, top, right and bottom, such as outpaint:64,0,64,0, not '{value}'"
        )
    margins = Margins(*map(int, numbers))
    if not any(margins):
        raise InputError(f"outpaint:{value} adds no pixel: give at least one margin")
    return replace(task, margins=margins)


def _averaged(margins: Margins, scale: int) -> Margins:
    """Margins once scale x scale pixels became one."""
    if any(margin % scale for margin in margins):
        raise InputError(
            f"outpaint:{','.join(map(str, margins))} stands before sr:{scale} and so counts pixels of the result: give "
            f"multiples of {scale}, or put outpaint behind sr to count pixels of the input"
        )
    return Margins(*(margin // scale for margin in margins))


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
