"""Programs as denoisers, TorchScript and ``torch.export``: what a job says of them, and their terms.

A program takes (x, t), or with classes (x, t, y): noisy windows (batch, band, row, column) in model range and
timesteps of the original schedule, both float32, and class numbers, int64. It returns what it predicts in the
shape of x, or twice as many channels where it learned the variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from math import lcm
from pathlib import Path

from ..tiling.errors import InputError
from .contract import Contract, check_label
from .fields import Fields
from .schedule import betas

PREDICTS = ("eps", "v", "x0")
BETAS = ("linear", "scaled_linear", "cosine", "sigmoid")
OPTIONS = (
    *("bands", "image_size", "size_multiple", "predicts", "betas", "beta_start", "beta_end", "timesteps"),
    *("clip", "classes", "label"),
)

# Loads torch, and runs what it is given: only once that is trusted.
_READER = ".program_network"


@dataclass(frozen=True, slots=True)
class Shapes:
    """What an exported program tells of its input; sizes in pixels, limits as (least, most), most None for any."""

    bands: int
    size_multiple: int
    sizes: tuple[int, int | None]
    batches: tuple[int, int | None]


@dataclass(frozen=True, slots=True)
class ProgramOptions:
    """What a job says of a program; ``clip`` bounds clean values on either side of 0, None leaves them as they are."""

    bands: int | None
    image_size: int | None
    size_multiple: int | None
    predicts: str
    betas: tuple[float, ...]
    clip: float | None
    classes: int | None


def program_options(file: str, options: Mapping[str, object]) -> ProgramOptions:
    """A program's options, each checked."""
    told = Fields("model.", options)
    told.refuse_others(OPTIONS, file)
    classes = told.whole("classes")
    check_label(file, classes, told.whole("label", least=0))
    clip = None if told.values.get("clip") == "none" else told.number("clip", default=1.0)
    if clip is not None and clip <= 0:
        raise told.refused("clip", "a number above 0, or none")
    return ProgramOptions(
        bands=told.whole("bands"),
        image_size=told.whole("image_size"),
        size_multiple=told.whole("size_multiple"),
        predicts=told.choice("predicts", PREDICTS),
        betas=_betas(told),
        clip=clip,
        classes=classes,
    )


def _betas(told: Fields) -> tuple[float, ...]:
    timesteps = told.whole("timesteps")
    if isinstance(told.values.get("betas"), list):
        given = told.variances("betas", told.numbers("betas"))
        if timesteps not in (None, len(given)):
            raise told.refused("timesteps", f"{len(given)}, as many as there are betas, or leave it out")
        return given
    count = timesteps or 1000
    start, end = told.number("beta_start", default=0.1 / count), told.number("beta_end", default=20.0 / count)
    return told.variances("beta_end", betas(told.choice("betas", BETAS), count, start=start, end=end))


def torchscript_contract(file: str, options: Mapping[str, object]) -> Contract:
    """The terms of a TorchScript program, which tells none itself."""
    asked = program_options(file, options)
    multiple = asked.size_multiple or 8
    shapes = Shapes(asked.bands or 3, multiple, (multiple, None), (1, None))
    return _contract(file, asked, shapes)


def exported_contract(file: str, options: Mapping[str, object]) -> Contract:
    """The terms of an exported program, which is loaded for them."""
    asked = program_options(file, options)
    shapes: Shapes = import_module(_READER, __package__).exported_shapes(file, asked.classes)
    if asked.bands not in (None, shapes.bands):
        raise InputError(f"model.bands is {asked.bands}, but {file} takes {shapes.bands} bands: leave it out")
    return _contract(file, asked, shapes)


def _contract(file: str, asked: ProgramOptions, shapes: Shapes) -> Contract:
    multiple = lcm(shapes.size_multiple, asked.size_multiple or 1)
    least, most = shapes.sizes
    least = -(-least // multiple) * multiple
    usual = max(least, 64 // multiple * multiple) if most is None else min(max(least, 64 // multiple * multiple), most)
    size = asked.image_size or usual
    contract = Contract(
        Path(file).name,
        bands=shapes.bands,
        size_multiple=multiple,
        native_tile=size,
        smallest_tile=least,
        largest_tile=most,
        value_range=None if asked.clip is None else (-asked.clip, asked.clip),
        betas=asked.betas,
        timesteps=len(asked.betas),
        classes=asked.classes,
        batch_limits=shapes.batches,
        weight_bytes=Path(file).stat().st_size,
    )
    try:
        contract.check((size, size), shapes.bands)
    except InputError as error:
        raise InputError(f"model.image_size is {size}, but {error}") from None
    return contract
