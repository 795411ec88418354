"""The command that draws scenes to try things on."""

from __future__ import annotations

import re

import click

from ..tiling.errors import InputError
from ..tiling.terra.scene import BANDS, DTYPES, Cover, Terra
from ..tiling.terra.write import write_scene
from .commands_look import example
from .logs import log_json
from .progress import watching

_LARGEST = 2**24
"""Pixels a side: with float32 distances, larger scenes would lose the sharpness of their lines."""


@click.command(
    epilog=example(
        "tileloom terra scene.zarr",
        "tileloom terra archive/one.zarr --size 8192x4096 --seed 1 --bands 3",
        "tileloom terra cloudy.zarr --clouds 0.2",
    )
)
@click.argument("output")
@click.option("--size", default="1024", show_default=True, metavar="N|ROWSxCOLUMNS", help="Pixels of the scene.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Which scene it is.")
@click.option(
    "--bands",
    type=click.IntRange(1, max(BANDS)),
    default=4,
    show_default=True,
    metavar="N",
    help="1: gray; 2: gray, near infrared; 3: red, green, blue; 4: and near infrared.",
)
@click.option("--dtype", type=click.Choice(DTYPES), default=DTYPES[0], show_default=True, help="Type of its values.")
@click.option("--clouds", type=float, default=0.0, metavar="X", help="Share of the scene that clouds cover.")
@click.option("--stripes", type=float, default=0.0, metavar="X", help="Share of the scene that a scanner skipped.")
@log_json
def terra(*, output: str, size: str, seed: int, bands: int, dtype: str, clouds: float, stripes: float) -> None:
    """Draw a scene as from the air, and write it as the Zarr group OUTPUT.

    Fields, woods, towns, roads, rivers and coasts, made up from a seed; no such place exists. The group opens as the
    picture; OUTPUT/labels has the class of every pixel, for 1 to 4 bands and any seed at the same places. With clouds
    or stripes, OUTPUT/covered is what is left of the picture and OUTPUT/mask what is hidden. Memory does not grow with
    the size.
    """
    rows, cols = _sides(size)
    cover = Cover(seed, clouds, stripes) if clouds or stripes else None
    drawn = Terra(seed, bands, dtype)
    with watching() as watcher:
        watcher.begin("draw", rows * cols, unit="pixels")
        write_scene(drawn, output, (rows, cols), cover=cover, advance=watcher.advance)
    click.echo(f"scene: {output}")


def _sides(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
    sides = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(1 <= side <= _LARGEST for side in sides):
        raise InputError(f"--size must be pixels a side from 1 to {_LARGEST}, such as 1024 or 512x2048, not '{size}'")
    return sides
