"""The commands about models: what there is, what a weights file holds, and another form for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from math import prod
from typing import Any

import click

from ..models.contract import BUILT_IN
from ..models.shapes import Shapes
from ..models.signatures import ASSUMED, KNOWN, Known, Reading, classes_of, kind_of
from ..models.weights import read_weights, shapes_of, weights_digest
from .commands_look import as_json, example

# Loads torch: only to check or rewrite tensors.
CHECKPOINTS = "..models.checkpoint"


@click.group(epilog=example("tileloom models list", "tileloom models inspect 256x256_diffusion_uncond.pt"))
def models() -> None:
    """List the models there are, look into a weights file, or convert one.

    A job names a model, or the path of its weights: `tileloom restore a.tif b.zarr --task sr:4 --model net.pt`.
    """


@models.command(
    name="list",
    short_help="List the models and known checkpoints.",
    epilog=example("tileloom models list", "tileloom models list --json"),
)
@as_json
def list_models(*, as_json: bool) -> None:
    """List the models that need no weights, and the published checkpoints that are known by their shapes."""
    if as_json:
        click.echo(
            json.dumps({"built_in": list(BUILT_IN), "checkpoints": [_known(known) for known in KNOWN]}, indent=1)
        )
        return
    for name in BUILT_IN:
        click.echo(f"{name}: built in, needs no weights")
    for known in KNOWN:
        facts = _known(known)
        classes = f", {facts['classes']} classes" if facts["classes"] else ""
        click.echo(
            f"{', '.join(known.files)}: {facts['kind']}, {known.image_size} pixels{classes}, "
            f"{known.parameters:,} parameters"
        )
    click.echo("other networks of these two kinds: whatever their shapes tell (see `tileloom models inspect`)")


@models.command(
    short_help="Say which network a weights file holds.",
    epilog=example("tileloom models inspect 256x256_diffusion_uncond.pt", "tileloom models inspect net.pt --json"),
)
@click.argument("target")
@as_json
def inspect(*, target: str, as_json: bool) -> None:
    """Say which network the weights file TARGET holds, and how each fact of it is known.

    What is neither in the shapes nor in the table of known checkpoints is assumed; a job's model options
    of the same names say it better. A file that is not whole is refused.
    """
    shapes = shapes_of(target)
    reading = read_weights(target)
    import_module(CHECKPOINTS, __package__).refuse_difference(reading.config, shapes, file=target)
    if as_json:
        click.echo(json.dumps(_inspection(target, shapes, reading), indent=1))
    else:
        click.echo("\n".join(_lines(target, shapes, reading)))


@models.command(
    short_help="Write weights as .safetensors.",
    epilog=example("tileloom models convert 256x256_diffusion_uncond.pt model.safetensors"),
)
@click.argument("input")
@click.argument("output")
def convert(*, input: str, output: str) -> None:
    """Write the tensors of the weights file INPUT, bit for bit, as OUTPUT, a .safetensors file.

    Such a file holds no code, and a plan reads its shapes without loading torch.
    """
    count = import_module(CHECKPOINTS, __package__).convert(input, output)
    click.echo(f"{output}: {count} tensors")


def _known(known: Known) -> dict[str, Any]:
    return {
        "files": list(known.files),
        "kind": kind_of(known.config),
        "image_size": known.image_size,
        "classes": classes_of(known.config),
        "betas": known.betas,
        "parameters": known.parameters,
    }


def _inspection(file: str, shapes: Shapes, reading: Reading) -> dict[str, Any]:
    return {
        "file": file,
        "kind": reading.kind,
        "known_as": list(reading.known.files) if reading.known else [],
        "parameters": _parameters(shapes),
        "tensors": len(shapes),
        "facts": {name: {"value": value, "known": origin} for name, value, origin in reading.facts()},
        "digest": weights_digest(file),
    }


def _parameters(shapes: Shapes) -> int:
    return sum(prod(shape) for shape in shapes.values())


def _lines(file: str, shapes: Shapes, reading: Reading) -> Iterator[str]:
    yield f"{file}: {reading.kind}, {_parameters(shapes):,} parameters in {len(shapes)} tensors"
    if reading.known:
        yield f"known as: {', '.join(reading.known.files)}"
    for name, value, origin in reading.facts():
        yield f"{name}: {value} ({origin})"
    assumed = [name for name, _, origin in reading.facts() if origin == ASSUMED]
    if assumed:
        yield f"assumed: {', '.join(assumed)}; where that is wrong, say so with `--model-option`, such as betas=cosine"
