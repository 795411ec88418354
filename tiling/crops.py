"""Random crops of an archive, to learn from: read where they lie, each one again whenever it is asked for.

A crop is known by its number. Which image it is of, where it lies and how it is turned depend on the seed and that
number alone, so whoever goes on with a training, or shares one, sees the crops it would have seen. Every place where
a whole crop has valid pixels is as likely as any other, in whichever image.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .box import Box
from .cache import ChunkCache
from .chance import Words, key, unit, words
from .errors import InputError
from .inputs import boxes
from .label_window import LabelWindow
from .labels import LabelMaps, LabelPlan, same_numbers
from .observe import is_nodata
from .scaling import DEFAULT_RANGES, Scaling
from .source import Source, open_labels, open_mask, open_source

Purpose = Literal["train", "check"]
Spans = tuple[tuple[float, float], ...]

_BLOCK = 256
_SQUARE = 4
"""A square that is held out has so many crops along a side."""
_TRIES = 5000
_COARSEST = 3
"""How often a crop may be coarsened by 2."""
_OPEN = 32
_CACHE = 256 * 2**20
_PROBES = 16
# Crops that ranges are measured on, and the share of values that may lie outside at either end.
_MEASURED, _OUTSIDE = 128, 0.001


@dataclass(frozen=True)
class Scene:
    """An image to learn from: pixels under its ``mask`` are never taken.

    Its crops show the class ``label``, or the one that most pixels have in ``classes``, an image of one band. Of such,
    ``instances`` has those of all pixels.
    """

    image: str
    mask: str | None = None
    label: int | None = None
    classes: str | None = None
    instances: str | None = None


@dataclass(frozen=True, eq=False)
class Crop:
    """Pixels in model range, float32 (band, row, column), the class they show, and where they were taken from.

    ``scene`` is the number of their image, ``labels`` has the class of each pixel, where that was asked for.
    """

    pixels: NDArray[np.float32]
    label: int | None
    where: str
    scene: int
    labels: LabelWindow | None = None


@dataclass(frozen=True)
class Cutting:
    """How an archive is cut: crops of ``size`` pixels a side, mirrored or turned by quarters where that is allowed.

    A share of the archive is ``held_out``: training never sees a pixel of it. ``spans`` are the values of each band
    that become -1 and 1, or of all bands where there is one; "measure" finds them, None takes those of the type. Of a
    number of ``classes`` every crop shows one, or where it is ``mapped`` every pixel of it, with ``edges`` or without.
    A share of the crops is ``coarse``: seen from twice as far, the same share of these from twice as far again, and so
    on as far as the image goes, up to eight times. What is held out is seen as it is.
    """

    size: int
    seed: int = 0
    held_out: float = 0.0
    flips: bool = False
    turns: bool = False
    spans: Spans | Literal["measure"] | None = None
    classes: int | None = None
    # Trainings that know no maps are known as they were before there were any.
    mapped: bool = field(default=False, repr=False)
    edges: bool = field(default=False, repr=False)
    coarse: float = field(default=0.0, repr=False)


@dataclass(frozen=True)
class _Opened:
    """A scene's files, open for reading."""

    image: Source
    mask: Source | None
    classes: Source | None
    maps: LabelMaps | None = None

    @classmethod
    def of(cls, scene: Scene, cutting: Cutting, cache: ChunkCache) -> _Opened:
        image = open_source(scene.image, cache=cache)
        open_map = open_labels if cutting.mapped else open_source
        beside = {
            "mask": open_mask(scene.mask, cache=cache) if scene.mask else None,
            "classes": open_map(scene.classes, cache=cache) if scene.classes else None,
            "instances": open_labels(scene.instances, cache=cache) if scene.instances else None,
        }
        for part in beside.values():
            if part is not None and (part.height, part.width) != (image.height, image.width):
                raise InputError(
                    f"{part.uri}: is {part.height}x{part.width} pixels and its image {scene.image} "
                    f"{image.height}x{image.width}: both must be of one size"
                )
        if beside["classes"] is not None and (beside["classes"].bands != 1 or beside["classes"].dtype.kind == "f"):
            raise InputError(f"{scene.classes}: is no map of classes, which has one band of whole numbers")
        maps = None
        if cutting.mapped:
            if scene.classes is None or cutting.classes is None:
                raise InputError(f"{scene.image}: has no map of classes, which the network learns from: give classes")
            table = same_numbers(cutting.classes)
            plan = LabelPlan(scene.classes, cutting.classes, table, scene.instances, cutting.edges)
            maps = LabelMaps(plan, cache=cache)
        return cls(image, beside["mask"], beside["classes"], maps)

    @property
    def whole(self) -> bool:
        """Whether every pixel is valid, known without reading one."""
        return self.mask is None and self.image.nodata is None

    def valid(self, box: Box) -> NDArray[np.bool_]:
        """Which pixels of a box may be learned from."""
        pixels = self.image.read(box)
        valid: NDArray[np.bool_] = np.ones(box.shape, np.bool_)
        if pixels.dtype.kind == "f":
            valid &= np.isfinite(pixels).all(axis=0)
        if self.image.nodata is not None:
            valid &= ~is_nodata(pixels, self.image.nodata)
        if self.mask is not None:
            valid &= self.mask.read(box)[0] == 0
        return valid


@dataclass(frozen=True)
class _Corners:
    """All places where the first pixel of a crop may lie: rectangles, as (scene, top, left, rows, columns)."""

    rectangles: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, rectangles: Sequence[tuple[int, int, int, int, int]]) -> _Corners:
        table = np.array(rectangles, np.int64).reshape(-1, 5)
        return cls(table, np.cumsum(table[:, 3] * table[:, 4]))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, number: int) -> tuple[int, int, int]:
        """(scene, row, column) of a place."""
        at = int(np.searchsorted(self.ends, number, side="right"))
        scene, top, left, rows, cols = (int(part) for part in self.rectangles[at])
        row, col = divmod(number - int(self.ends[at]) + rows * cols, cols)
        return scene, top + row, left + col


class Crops:
    """The crops of an archive. Memory: a number for each block of 256 pixels a side of images that have gaps."""

    def __init__(self, scenes: Sequence[Scene], cutting: Cutting) -> None:
        """Open every image once; those with a mask or nodata are read through for where they have anything."""
        if not scenes:
            raise InputError("there is no image to learn from: name some")
        self.scenes, self.cutting = tuple(scenes), cutting
        self._cache = ChunkCache(_CACHE)
        self._open: OrderedDict[int, _Opened] = OrderedDict()
        self._opening = threading.Lock()
        self._starts = {use: key(cutting.seed, f"crops to {use}") for use in ("train", "check")}
        # An image keeps what is held out of it wherever it is moved, and whatever comes beside it.
        self._held = [key(cutting.seed, f"held out {scene.image.rpartition('/')[2]}") for scene in self.scenes]
        first = self._opened(0).image
        self.bands, self.pixels, self._facts = first.bands, 0, blake2b(digest_size=16)
        self._dtypes: set[str] = set()
        self._share = cutting.held_out
        self._places = self._survey(first)
        spans = self._measured() if cutting.spans == "measure" else cutting.spans or (DEFAULT_RANGES[first.dtype.name],)
        if len(spans) not in (1, self.bands):
            raise InputError(f"range has {len(spans)} pairs for {self.bands} bands: give one a band, or one for all")
        self.spans: Spans = tuple(spans) * (self.bands if len(spans) == 1 else 1)

    def _survey(self, first: Source) -> dict[str, _Corners]:
        """Where crops may lie to train and to check; refuses images that do not go together."""
        train: list[tuple[int, int, int, int, int]] = []
        squares: list[NDArray[np.float32]] = []
        for number, scene in enumerate(self.scenes):
            opened = self._opened(number)
            image = opened.image
            self._refuse_unfit(scene, image, first)
            told = (image.bands, image.height, image.width, image.dtype.name, image.nodata)
            beside = (scene.label, scene.mask is None, scene.classes is None)
            self._facts.update(repr(told + beside).encode())
            self._dtypes.add(image.dtype.name)
            self.pixels += image.height * image.width
            train += [(number, *corner) for corner in self._corners(opened)]
            if self._share:
                squares.append(self._squares(number, image))
        check = self._held_out(squares) if squares else []
        return {"train": _Corners.of(train), "check": _Corners.of(check)}

    @property
    def dtype(self) -> str | None:
        """The type of the images' values; None where they are of several."""
        return next(iter(self._dtypes)) if len(self._dtypes) == 1 else None

    @property
    def checks(self) -> bool:
        """Whether anything is held out."""
        return len(self._places["check"]) > 0

    def take(self, use: Purpose, number: int) -> Crop:
        """A crop to train on, or one of what is held out to check on."""
        scene, box, word = self._place(use, number)
        opened = self._opened(scene)
        pixels = opened.image.read(box)
        level = (box.height // self.cutting.size).bit_length() - 1
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise InputError(f"{self.scenes[scene].image}: holds values that are no numbers within {box}")
        scaled = _coarser(Scaling.of(self.spans).to_model(pixels), 2**level)
        quarters = int(unit(word, 1)[0] * 4) if self.cutting.turns else 0
        mirrored = self.cutting.flips and bool(unit(word, 2)[0] < 0.5)
        turned = np.rot90(scaled[:, :, ::-1] if mirrored else scaled, quarters, axes=(1, 2))
        where = f"{self.scenes[scene].image} {box}"
        if opened.maps is None:
            return Crop(np.ascontiguousarray(turned), self._label(scene, opened, box), where, scene)
        labels = opened.maps.window(level, box.coarsen(2**level)).turned(quarters, mirrored=mirrored)
        return Crop(np.ascontiguousarray(turned), None, where, scene, labels)

    @cached_property
    def digest(self) -> str:
        """A digest of what the archive says of itself and of some crops: all of it may be too much to read."""
        digest = self._facts.copy()
        digest.update(repr((self.cutting, self.spans)).encode())
        for number in range(_PROBES):
            crop = self.take("train", number)
            digest.update(crop.pixels.tobytes() + repr(crop.label).encode())
            for name, array in crop.labels.arrays() if crop.labels else ():
                digest.update(name.encode() + array.tobytes())
        return digest.hexdigest()

    def _refuse_unfit(self, scene: Scene, image: Source, first: Source) -> None:
        size = self.cutting.size
        if image.bands != first.bands:
            raise InputError(
                f"{scene.image}: has {image.bands} bands and {self.scenes[0].image} has {first.bands}: "
                "all images must have the same"
            )
        if image.dtype != first.dtype and self.cutting.spans is None:
            raise InputError(
                f"{scene.image}: has values of type {image.dtype} and {self.scenes[0].image} of type {first.dtype}: "
                "set range, which says what becomes -1 and 1"
            )
        if min(image.height, image.width) < size:
            raise InputError(
                f"{scene.image}: is {image.height}x{image.width} pixels, smaller than a crop of {size}: "
                "drop it, or make crops smaller"
            )

    def _corners(self, opened: _Opened) -> Iterator[tuple[int, int, int, int]]:
        """Rectangles of places for a crop: all of an image, or the blocks that have something valid."""
        rows, cols = (side - self.cutting.size + 1 for side in (opened.image.height, opened.image.width))
        if opened.whole:
            yield 0, 0, rows, cols
            return
        for block in boxes(rows, cols, _BLOCK):
            if opened.valid(block).any():
                yield block.top, block.left, block.height, block.width

    def _squares(self, scene: int, image: Source) -> NDArray[np.float32]:
        """A number for every square of an image, axes (row, column); those too small for a crop have a large one."""
        size, side = self.cutting.size, _SQUARE * self.cutting.size
        rows, cols = math.ceil(image.height / side), math.ceil(image.width / side)
        drawn = self._draw(scene, np.arange(rows)[:, None], np.arange(cols)[None])
        if image.height - (rows - 1) * side < size:
            drawn[-1] = np.inf
        if image.width - (cols - 1) * side < size:
            drawn[:, -1] = np.inf
        return drawn

    def _held_out(self, squares: Sequence[NDArray[np.float32]]) -> list[tuple[int, int, int, int, int]]:
        """Rectangles of places for a crop that lies in a square whose number is below the share."""
        size, side = self.cutting.size, _SQUARE * self.cutting.size
        # Of a small archive the draw may leave nothing to check on: then one square is held out.
        least = min(drawn.min() for drawn in squares)
        self._share = max(self._share, float(np.nextafter(least, np.float32(1))))
        if all((drawn < self._share).all() for drawn in squares):
            raise InputError(
                f"held_out is {self.cutting.held_out:g}, which leaves nothing to train on in so small an archive: "
                "give 0 for no checks, or more images"
            )
        found = []
        for scene, drawn in enumerate(squares):
            image = self._opened(scene).image
            for row, col in np.argwhere(drawn < self._share):
                top, left = int(row) * side, int(col) * side
                rows, cols = min(side, image.height - top) - size + 1, min(side, image.width - left) - size + 1
                found.append((scene, top, left, rows, cols))
        return found

    def _draw(self, scene: int, rows: NDArray[Any], cols: NDArray[Any]) -> NDArray[np.float32]:
        """A number from 0 to 1 for squares of an image: those below the share are held out."""
        return unit(words(self._held[scene], rows, cols))

    def _place(self, use: Purpose, number: int) -> tuple[int, Box, Words]:
        """Of the places that are tried, the first that is valid; and a word for all else about the crop."""
        places, size, side = self._places[use], self.cutting.size, _SQUARE * self.cutting.size
        for attempt in range(_TRIES if len(places) else 0):
            word = words(self._starts[use], np.array([number]), np.array([attempt]))
            scene, top, left = places[int(word[0]) % len(places)]
            box = Box(top, left, top + size, left + size)
            if use == "train" and self.cutting.coarse:
                box = self._widened(box, self._opened(scene).image, float(unit(word, 3)[0]))
            squares = box.coarsen(side)
            rows, cols = np.ogrid[squares.top : squares.bottom, squares.left : squares.right]
            if use == "train" and (self._draw(scene, rows, cols) < self._share).any():
                continue
            opened = self._opened(scene)
            if (opened.whole and opened.image.dtype.kind != "f") or opened.valid(box).all():
                return scene, box, word
        raise InputError(
            f"none of {_TRIES} places has {size}x{size} valid pixels to {use} on: make crops smaller, "
            "hold out less, or give images with fewer gaps"
        )

    def _widened(self, box: Box, image: Source, drawn: float) -> Box:
        """What a crop from further away covers, on the grid of the pixels of its level."""
        size = self.cutting.size
        for level in range(_COARSEST, 0, -1):
            far, grid = size << level, 2**level
            top, left = box.top // grid * grid, box.left // grid * grid
            if drawn < self.cutting.coarse**level and top + far <= image.height and left + far <= image.width:
                return Box(top, left, top + far, left + far)
        return box

    def _label(self, scene: int, opened: _Opened, box: Box) -> int | None:
        told, most = self.scenes[scene], self.cutting.classes
        if most is None:
            return None
        label = told.label if opened.classes is None else int(np.bincount(opened.classes.read(box).ravel()).argmax())
        if label is None or not 0 <= label < most:
            given = "has no class" if label is None else f"has class {label} within {box}"
            raise InputError(f"{told.image}: {given}; give it a label from 0 to {most - 1}, or a map of such classes")
        return label

    def _measured(self) -> Spans:
        """For each band the values between which nearly all of it lies."""
        found = []
        for number in range(_MEASURED):
            scene, box, _ = self._place("train", number)
            found.append(self._opened(scene).image.read(box)[:, ::4, ::4].reshape(self.bands, -1))
        ends = np.quantile(np.concatenate(found, axis=1).astype(np.float64), (_OUTSIDE, 1 - _OUTSIDE), axis=1)
        return tuple((float(low), float(max(high, low + 1e-6))) for low, high in ends.T)

    def _opened(self, scene: int) -> _Opened:
        """A scene's open files; those that were not used for long are closed."""
        with self._opening:
            opened = self._open.get(scene)
            if opened is None:
                opened = self._open[scene] = _Opened.of(self.scenes[scene], self.cutting, self._cache)
                if len(self._open) > _OPEN:
                    self._open.popitem(last=False)
            self._open.move_to_end(scene)
            return opened


def _coarser(pixels: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Means of factor x factor pixels."""
    if factor == 1:
        return pixels
    bands, rows, cols = pixels.shape
    blocks = pixels.reshape(bands, rows // factor, factor, cols // factor, factor)
    means: NDArray[np.float32] = blocks.mean(axis=(2, 4), dtype=np.float32)
    return means
