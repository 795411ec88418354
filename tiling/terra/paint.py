"""What the ground reflects in red, green, blue and near infrared, and how it is lit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..box import Box
from ..chance import Words, key, unit
from .ground import SUN, Ground
from .land import Flags, Land, Use
from .lattice import Field, fractal, grain, smoothstep, waves
from .trees import Trees

Picture = NDArray[np.float32]
"""Reflectance from 0 to 255, axes (band, row, column), bands red, green, blue, near infrared."""

_PLAIN = {
    Use.WATER: (30, 54, 66, 14),
    Use.SAND: (206, 192, 156, 196),
    Use.MEADOW: (108, 130, 70, 178),
    Use.WOOD: (58, 74, 42, 140),
    Use.GARDEN: (106, 124, 76, 176),
    Use.ROCK: (146, 138, 126, 132),
}
_CROPS = (
    (84, 118, 50, 206),
    (112, 138, 64, 200),
    (194, 172, 108, 160),
    (178, 158, 106, 150),
    (186, 182, 66, 190),
    (70, 102, 50, 212),
    (150, 148, 88, 168),
    (96, 128, 58, 204),
    (186, 166, 122, 152),
)
_SOILS = ((142, 112, 84, 116), (112, 90, 70, 96), (164, 138, 104, 134), (128, 104, 80, 106))
_ROOFS = (
    (168, 88, 64, 124),
    (146, 78, 60, 112),
    (112, 82, 68, 100),
    (128, 128, 132, 116),
    (84, 86, 94, 86),
    (196, 194, 190, 186),
    (178, 108, 80, 134),
)
_HALLS = ((200, 198, 194, 190), (150, 152, 156, 140), (122, 130, 140, 120), (176, 172, 160, 160), (146, 92, 76, 116))
_PAVED = ((174, 154, 122, 142), (118, 116, 114, 106), (132, 130, 128, 118))
_CROWNS = ((64, 86, 44, 172), (52, 74, 40, 150), (80, 96, 48, 180), (40, 60, 40, 112), (92, 100, 52, 176))


def paint(seed: int, box: Box, ground: Ground, land: Land, trees: Trees, dark: Field) -> Picture:
    """The picture of a box, as a lens would draw it before its own blur."""
    picture = _bare(seed, box, ground, land)
    picture *= 1 + ground.light * (land.use != Use.WATER)
    _roof(picture, land)
    _crown(picture, seed, box, trees)
    # The sky lights what the sun does not, and it is blue.
    for band, loss in enumerate((0.62, 0.58, 0.5, 0.64)):
        picture[band] *= 1 - np.float32(loss) * dark
    return picture


def _bare(seed: int, box: Box, ground: Ground, land: Land) -> Picture:
    """The ground without what stands on it."""
    picture = np.zeros((4, *box.shape), np.float32)
    for use, colour in _PLAIN.items():
        _fill(picture, land.use == use, (colour,), land.parcel)
    _fill(picture, land.use == Use.CROP, _CROPS, land.parcel)
    _fill(picture, land.use == Use.SOIL, _SOILS, land.parcel)
    paving = np.clip(np.floor(land.paved + np.float32(0.5)), 0, 2).astype(np.int64)
    for kind, colour in enumerate(_PAVED):
        _fill(picture, (land.use == Use.ROAD) & (paving == kind), (colour,), land.parcel)
    _fill(picture, land.use == Use.ROOF, (_PLAIN[Use.GARDEN],), land.parcel)
    wet = land.use == Use.WATER
    farmed = (land.use == Use.CROP) | (land.use == Use.SOIL)
    growing = farmed | (land.use == Use.MEADOW) | (land.use == Use.GARDEN)
    patches = fractal(key(seed, "patches"), box, 128, 4, fall=0.75)
    mottle = fractal(key(seed, "mottle"), box, 8, 2, fall=0.9)
    vigour = np.float32(0.05) * patches + np.float32(0.045) * mottle
    vigour += (unit(land.parcel, 20) - np.float32(0.5)) * np.float32(0.24)
    lit = 1 + np.where(growing, vigour, np.float32(0.35) * vigour) * ~wet + _furrows(land) * farmed
    picture *= lit
    # What is dry is redder and dimmer in the infrared.
    dry = np.where(growing, patches * np.float32(0.05) + (unit(land.parcel, 21) - np.float32(0.5)) * 0.2, 0)
    for band, share in enumerate((1.0, 0.25, 0.3, -0.9)):
        picture[band] *= 1 + np.float32(share) * dry.astype(np.float32)
    _water(picture, seed, box, ground, wet)
    return picture


def _fill(picture: Picture, where: Flags, colours: tuple[tuple[int, ...], ...], word: Words) -> None:
    """Give each parcel one of some colours."""
    chosen = np.floor(unit(word[where], 22) * len(colours)).astype(np.int64)
    table = np.array(colours, np.float32)
    for band in range(4):
        picture[band][where] = table[chosen, band]


def _furrows(land: Land) -> Field:
    """Rows of plants or of the plough, and the lines that tractors leave."""
    period = np.float32(2.2) + 4 * unit(land.parcel, 23)
    depth = np.float32(0.16) * unit(land.parcel, 24) * unit(land.parcel, 26)
    place = land.rows / period
    wave = np.abs(place - np.floor(place) - np.float32(0.5)) * 4 - 1
    lanes = land.rows / np.float32(15)
    lane = np.abs(lanes - np.floor(lanes) - np.float32(0.5)) * 15
    lines = smoothstep(1.6, 0.6, lane) * np.float32(-0.11) * (unit(land.parcel, 25) < np.float32(0.5))
    furrows: Field = wave * depth + lines
    return furrows


def _water(picture: Picture, seed: int, box: Box, ground: Ground, wet: Flags) -> None:
    """Deep water is dark and blue, shallow water shows its ground, and waves break white on the beach."""
    river = ground.height >= 0
    depth = np.where(river, np.minimum(-ground.river * np.float32(0.12), 1), -ground.height * np.float32(2.4))
    depth = np.clip(depth, 0, 1)
    tint = waves(key(seed, "tint"), box, 256) * np.float32(0.08) + 1
    ripple = fractal(key(seed, "ripple"), box, 16, 2, fall=0.8) * np.float32(0.025) + 1
    surf = smoothstep(0.012, 0.004, np.abs(ground.height + np.float32(0.012))) * ~river
    for band, (shallow, deep) in enumerate(((96, 24), (118, 50), (112, 74), (34, 9))):
        clear = np.float32(shallow) + (np.float32(deep - shallow)) * depth
        muddy = np.float32((88, 92, 74, 26)[band]) - np.float32((30, 26, 12, 12)[band]) * depth
        sea = np.where(river, muddy, clear) * tint * ripple
        picture[band][wet] = (sea + (214 - sea) * surf * np.float32(0.7))[wet]


def _roof(picture: Picture, land: Land) -> None:
    """Roofs, the side towards the sun brighter, with an edge of their own."""
    roofs = land.roofs
    there = roofs.there
    towards = (roofs.across[0] * SUN[0] + roofs.across[1] * SUN[1]) * np.sign(roofs.slant)
    lit = 1 + np.where(roofs.slant == 0, np.float32(0.06), np.float32(0.3) * towards)
    lit = lit * (np.float32(0.88) + np.float32(0.24) * unit(roofs.word, 30)) + (
        np.abs(roofs.slant) < np.float32(0.14)
    ) * (roofs.slant != 0) * np.float32(0.1)
    for kind, colours in ((there & ~roofs.hall, _ROOFS), (there & roofs.hall, _HALLS)):
        _fill(picture, kind, colours, roofs.word)
    picture *= np.where(there, lit, 1)


def _crown(picture: Picture, seed: int, box: Box, trees: Trees) -> None:
    """Crowns, in kinds that stand together."""
    there = trees.there
    stand = waves(key(seed, "stands"), box, 96) * np.float32(0.9) + 2 * unit(trees.word, 6)
    chosen = np.clip(np.floor(stand + np.float32(1.2)), 0, len(_CROWNS) - 1).astype(np.int64)[there]
    lit = np.float32(0.86) + np.float32(0.34) * trees.light + np.float32(0.28) * unit(trees.word, 5)
    lit += fractal(key(seed, "leaves"), box, 4, 2, fall=0.9) * np.float32(0.07)
    table = np.array(_CROWNS, np.float32)
    for band in range(4):
        picture[band][there] = table[chosen, band] * lit[there]


def through_lens(picture: Picture, seed: int, box: Box) -> Picture:
    """The picture, one pixel smaller on every side, as a sensor sees it: a little blurred, then a little noisy."""
    middle, side = np.float32(0.7), np.float32(0.15)
    down = picture[:, 1:-1] * middle + (picture[:, :-2] + picture[:, 2:]) * side
    seen = down[:, :, 1:-1] * middle + (down[:, :, :-2] + down[:, :, 2:]) * side
    for band in range(len(seen)):
        seen[band] += grain(key(seed, f"sensor {band}"), box) * np.float32(1.2)
    return np.clip(seen, 0, 255)
