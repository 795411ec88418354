"""What people made of the land: districts with roads between them, parcels within, and on those houses or crops."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ..box import Box
from ..chance import Words, key, unit, words
from .ground import Ground
from .lattice import Cells, Field, Points, cells, cuts, direction, fractal, smoothstep, waves

Kinds = NDArray[np.uint8]
Flags = NDArray[np.bool_]

_DISTRICT = 384
_TOWN, _WORKS, _WILD = 0.19, 0.24, 0.38
"""Shares of the districts that are towns, then those that are works, then those left to nature."""

_ROAD, _TRACK, _STREET = 3.4, 1.5, 2.4
_LOT, _HALL = 17.0, 46.0


class Use(IntEnum):
    """The classes of a scene's label map."""

    WATER = 0
    SAND = 1
    MEADOW = 2
    CROP = 3
    SOIL = 4
    WOOD = 5
    GARDEN = 6
    ROAD = 7
    ROOF = 8
    ROCK = 9


@dataclass(frozen=True)
class Roofs:
    """Buildings, where ``there``: a ``word`` each, and the ``height`` of the roof above the ground in pixels.

    ``slant`` says where between the ridge (0) and the eaves on either side (-1, 1) a pixel lies, ``across`` is the
    direction (down, right) in which it grows. Halls of works are ``hall``.
    """

    there: Flags
    word: Words
    height: Field
    slant: Field
    across: tuple[Field, Field]
    hall: Flags


@dataclass(frozen=True)
class Land:
    """What every pixel of the land is used for, and what its look depends on.

    ``parcel`` is a word for each field, lawn or wood; ``rows`` how far along a furrow's normal a pixel lies, in
    pixels; ``paved`` tells tracks (below 1) from streets; ``trees`` is the share of the ground that crowns cover.
    """

    use: Kinds
    parcel: Words
    rows: Field
    paved: Field
    trees: Field
    roofs: Roofs


@dataclass(frozen=True)
class _Parcels:
    """The parcels of districts, with their own axes: how far their ends are, and a word for the nearest border."""

    word: Words
    across: Field
    sides: tuple[Field, Field]
    ends: tuple[Field, Field]
    edge: Field
    border: Words
    turn: tuple[Field, Field]


def land_in(seed: int, box: Box, ground: Ground) -> Land:
    """The land in a box."""
    district = _districts(seed, box)
    chance = unit(district.word, 3)
    town, works = chance < np.float32(_TOWN), (chance >= np.float32(_TOWN)) & (chance < np.float32(_WORKS))
    built = town | works
    wild = (chance >= np.float32(_WORKS)) & (chance < np.float32(_WILD)) | (ground.rough > np.float32(0.45))
    parcels = _parcels(district, built)
    use, trees = _farmed(parcels)
    _plant_borders(parcels, trees, ~built & ~wild)
    use[built], trees[built] = Use.GARDEN, np.float32(0.16)
    paved = np.zeros(box.shape, np.float32)
    streets = built & ~wild & (parcels.edge < np.float32(_STREET))
    yards = works & ~wild & (unit(parcels.word, 8) < np.float32(0.6))
    use[streets | yards], trees[streets | yards] = Use.ROAD, 0
    paved[streets], paved[yards] = 1.0, 1.2
    roofs = _roofs(district, parcels, works, built & ~wild & ~streets)
    _let_grow(seed, box, ground, wild, use, trees)
    _pave_roads(district, use, trees, paved, roofs.there)
    roofs.there[wild] = False
    _flood(seed, box, ground, use, trees, paved, roofs.there)
    use[roofs.there] = Use.ROOF
    trees[roofs.there] = 0
    return Land(use, parcels.word, parcels.across, paved, trees, roofs)


def _districts(seed: int, box: Box) -> Cells:
    """Cells with bent borders: roads are seldom straight for long."""
    bends = [
        waves(key(seed, f"bend {way}"), box, 256) * np.float32(26) + waves(key(seed, f"turn {way}"), box, 96) * 7
        for way in ("down", "right")
    ]
    rows, cols = np.ogrid[box.top : box.bottom, box.left : box.right]
    y, x = rows + bends[0].astype(np.float64), cols + bends[1].astype(np.float64)
    return cells(Points.around(key(seed, "districts"), y, x, _DISTRICT, jitter=0.36))


def _parcels(district: Cells, built: Flags) -> _Parcels:
    """Strips side by side, each cut into pieces: both along axes of the district's own."""
    cosine, sine = direction(district.word, 4)
    u = district.down * cosine - district.right * sine
    v = district.down * sine + district.right * cosine
    width = np.where(built, np.float32(46), 40 + 76 * unit(district.word, 5))
    length = width * (np.float32(1.3) + 2 * unit(district.word, 6))
    strip = cuts(words(district.word, np.array([1])), u, width)
    own = words(district.word, strip.number)
    piece = cuts(own, v, length)
    sides_nearer = strip.edge < piece.edge
    side = words(district.word, strip.number + (strip.behind < strip.before), np.array([7]))
    end = words(own, piece.number + (piece.behind < piece.before), np.array([7]))
    return _Parcels(
        word=words(own, piece.number),
        across=u,
        sides=(strip.before, strip.behind),
        ends=(piece.before, piece.behind),
        edge=np.minimum(strip.edge, piece.edge),
        border=np.where(sides_nearer, side, end),
        turn=(cosine, sine),
    )


def _farmed(parcels: _Parcels) -> tuple[Kinds, Field]:
    """What each parcel of a farming district is, and how much of it trees cover."""
    chance = unit(parcels.word, 9)
    use = np.full(chance.shape, Use.CROP, np.uint8)
    trees = np.zeros(chance.shape, np.float32)
    use[chance < np.float32(0.42)] = Use.MEADOW
    use[chance < np.float32(0.22)] = Use.SOIL
    use[chance < np.float32(0.1)] = Use.WOOD
    trees[use == Use.MEADOW] = np.float32(0.012)
    trees[use == Use.WOOD] = np.float32(0.97)
    return use, trees


def _plant_borders(parcels: _Parcels, trees: Field, where: Flags) -> None:
    """Hedges along some of the borders between fields."""
    hedge = where & (unit(parcels.border, 1) < np.float32(0.2)) & (parcels.edge < np.float32(2.6))
    trees[hedge] = np.maximum(trees[hedge], np.float32(0.75))


def _roofs(district: Cells, parcels: _Parcels, works: Flags, where: Flags) -> Roofs:
    """A house on most lots of a town, a hall on those of works; lots share a block evenly.

    None stands so near the district's border that the road would cut it.
    """
    pitch = np.where(works, np.float32(_HALL), np.float32(_LOT))
    lots, middles, sizes = [], [], []
    for before, behind in (parcels.sides, parcels.ends):
        whole = before + behind
        count = np.maximum(np.floor(whole / pitch), 1)
        size = whole / count
        number = np.clip(np.floor(before / size), 0, count - 1)
        lots.append(number.astype(np.int64))
        middles.append(before - (number + np.float32(0.5)) * size)
        sizes.append(size)
    lot = words(parcels.word, *lots)
    halves = [size * (np.float32(0.24) + np.float32(0.15) * unit(lot, draw)) for draw, size in enumerate(sizes, 10)]
    shifts = [(unit(lot, draw) - np.float32(0.5)) * (size * np.float32(0.2)) for draw, size in enumerate(sizes, 12)]
    p, q = (middle - shift for middle, shift in zip(middles, shifts, strict=True))
    there = where & (np.abs(p) < halves[0]) & (np.abs(q) < halves[1]) & (unit(lot, 14) < np.float32(0.82))
    there &= parcels.edge > np.float32(_STREET + 1.5)
    cosine, sine = parcels.turn
    # From the house's middle to the pixel, and from there how far the middle is from the border.
    down, right = p * cosine + q * sine, q * cosine - p * sine
    room = district.edge + down * district.towards[0] + right * district.towards[1]
    there &= room > halves[0] + halves[1] + np.float32(_ROAD)
    lengthways = halves[1] > halves[0]
    slant = np.where(lengthways, p / halves[0], q / halves[1])
    flat = works | (unit(lot, 15) < np.float32(0.12))
    eaves = np.where(works, np.float32(7.0), 3 + 3 * unit(lot, 16))
    height = eaves + np.where(flat, np.float32(0), np.float32(2.5) * (1 - np.abs(slant)))
    across = np.where(lengthways, cosine, sine), np.where(lengthways, -sine, cosine)
    return Roofs(there, lot, height, np.where(flat, np.float32(0), slant), across, works)


def _let_grow(seed: int, box: Box, ground: Ground, wild: Flags, use: Kinds, trees: Field) -> None:
    """Woods, clearings and rock where nobody farms."""
    growth = fractal(key(seed, "growth"), box, 256, 8, fall=0.6)
    use[wild] = Use.MEADOW
    trees[wild] = np.float32(0.05)
    wood = wild & (growth > np.float32(-0.35))
    use[wood], trees[wood] = Use.WOOD, np.float32(0.97)
    bare = wild & (ground.rough * np.float32(0.8) - growth * np.float32(0.7) > np.float32(1.15))
    use[bare], trees[bare] = Use.ROCK, np.float32(0.02)


def _pave_roads(district: Cells, use: Kinds, trees: Field, paved: Field, roofs: Flags) -> None:
    """Roads and tracks along the borders of districts, which therefore meet, with green beside them."""
    chance = unit(district.border, 1)
    half = np.where(chance < np.float32(0.62), np.float32(_ROAD), np.float32(_TRACK))
    half = np.where(chance > np.float32(0.88), np.float32(-9), half)
    beside = (district.edge < half + np.float32(2.2)) & (half > 0)
    alley = unit(district.border, 2) < np.float32(0.35)
    use[beside] = Use.MEADOW
    trees[beside] = np.where(alley, np.float32(0.5), np.float32(0.03))[beside]
    road = district.edge < half
    use[road], trees[road], roofs[beside] = Use.ROAD, 0, False
    paved[road] = np.where(half > 2, np.float32(2.0), np.float32(0.5))[road]


def _flood(seed: int, box: Box, ground: Ground, use: Kinds, trees: Field, paved: Field, roofs: Flags) -> None:
    """Sea and rivers, with beaches and wooded banks; main roads cross a river on bridges."""
    bank = smoothstep(9, 0, ground.river) * (waves(key(seed, "banks"), box, 64) > np.float32(-0.2))
    wet = (ground.river < 0) & (paved < 2)
    np.maximum(trees, bank * np.float32(0.6), out=trees, where=(paved == 0) & ~roofs)
    sea = ground.height < 0
    shore = np.float32(0.02) + np.float32(0.012) * waves(key(seed, "shore"), box, 128)
    beach = ~sea & (ground.height < shore)
    use[beach], trees[beach], paved[beach] = Use.SAND, 0, 0
    water = sea | wet & ~beach
    use[water], trees[water], paved[water] = Use.WATER, 0, 0
    roofs[water | beach | (ground.river < np.float32(4))] = False
