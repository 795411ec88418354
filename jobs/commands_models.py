"""The commands about models: what there is, what one of them is, whether it keeps its terms, another form for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from math import prod
from typing import Any

import click

from ..models.contract import Contract, Read, asked_network, label_of, split_model
from ..models.kinds import BUILT_IN, Kind, contract_of, identity_of, model_kind
from ..models.patchdm_shapes import own_tensors
from ..models.patchdm_signatures import KNOWN_PATCHES, KnownPatches
from ..models.plugins import installed, origin
from ..models.shapes import PATCHES
from ..models.signatures import ASSUMED, KNOWN, Known, classes_of, kind_of
from ..models.weights import description_of, read_weights, shapes_of, shipped, weights_digest
from .commands_look import as_json, example
from .options import model_of, model_option, trust_model

# Loads torch: only to check or rewrite tensors.
CHECKPOINTS = "..models.checkpoint"
# Load torch, to run what is checked.
CHECK, BUILD, DENOISER = "..models.check", "..models.build", "..models.denoiser"


@click.group(epilog=example("tileloom models list", "tileloom models inspect 256x256_diffusion_uncond.pt"))
def models() -> None:
    """List the models there are, look into one, check it, or convert its weights.

    A job names a model, or the path of its weights, diffusers folder or program:
    `tileloom restore a.tif b.zarr --task sr:4 --model net.pt`.
    """


@models.command(
    name="list",
    short_help="List the models and known checkpoints.",
    epilog=example("tileloom models list", "tileloom models list --json"),
)
@as_json
def list_models(*, as_json: bool) -> None:
    """List what is built in, the plug-ins, and the published checkpoints known by their shapes.

    Nothing of a plug-in is run for it.
    """
    plugins = {name: origin(name) for name in installed()}
    if as_json:
        checkpoints = [_known(known) for known in KNOWN]
        patches = [_known_patches(known) for known in KNOWN_PATCHES]
        ours = {name: _shipped(file) for name, file in shipped().items()}
        listed = {"built_in": list(BUILT_IN), "shipped": ours, "plugins": plugins}
        click.echo(json.dumps({**listed, "checkpoints": checkpoints, "patch_networks": patches}, indent=1))
        return
    for name in BUILT_IN:
        click.echo(f"{name}: built in, needs no weights")
    for name, file in shipped().items():
        ours = _shipped(file)
        click.echo(f"{name}: built in, {ours['kind']} of {ours['bands']} bands, {ours['parameters']:,} parameters")
    for name, whose in plugins.items():
        click.echo(f"{name}: a plug-in of {whose}, needs --trust-model")
    for known in KNOWN:
        facts = _known(known)
        classes = f", {facts['classes']} classes" if facts["classes"] else ""
        click.echo(
            f"{', '.join(known.files)}: {facts['kind']}, {known.image_size} pixels{classes}, "
            f"{known.parameters:,} parameters"
        )
    for unet in KNOWN_PATCHES:
        click.echo(f"{unet.name}: {PATCHES} of one's own weights, {unet.parameters:,} parameters beside its styles")
    click.echo("other networks of these kinds: whatever their shapes tell (see `tileloom models inspect`)")


@models.command(
    short_help="Say what a model is.",
    epilog=example(
        "tileloom models inspect 256x256_diffusion_uncond.pt",
        "tileloom models inspect net.pt --json",
        "tileloom models inspect net.pt2 --trust-model",
    ),
)
@click.argument("target")
@model_option
@trust_model
@as_json
def inspect(*, target: str, model_option: tuple[str, ...], trust_model: bool, as_json: bool) -> None:
    """Say which network the weights file TARGET holds and how each fact is known, or the terms of another model.

    What is neither in the shapes nor in the table of known checkpoints is assumed; model options of the same
    names, here and in a job, say it better. A file that is not whole is refused.
    """
    model = model_of(target, model_option)
    if model_kind(target) is not Kind.WEIGHTS:
        _inspect_terms(model, trusted=trust_model, as_json=as_json)
        return
    file, options = split_model(model)
    asked, reading = asked_network(file, options)
    shapes = own_tensors(shapes_of(file), asked.told.weights)
    checkpoints = import_module(CHECKPOINTS, __package__)
    checkpoints.refuse_difference(reading.config, shapes, file=file)
    parameters = checkpoints.parameters_of(reading.config)
    if as_json:
        click.echo(json.dumps(_inspection(file, len(shapes), parameters, reading), indent=1))
    else:
        click.echo("\n".join([f"{target}: {_summary(len(shapes), parameters, reading)}", *_lines(file, reading)]))


def _inspect_terms(model: dict[str, Any], *, trusted: bool, as_json: bool) -> None:
    contract = contract_of(model, trusted=trusted)
    name, kind = model["name"], model_kind(model["name"])
    if as_json:
        digest = identity_of(model).get("weights")
        told = {"file": name, "kind": kind.value, "contract": contract.stored(), "digest": digest}
        click.echo(json.dumps(told, indent=1))
    else:
        click.echo("\n".join([f"{name}: {kind.value}", *_terms(contract)]))


@models.command(
    short_help="Run a model to see whether it keeps its terms.",
    epilog=example(
        "tileloom models check gaussian",
        "tileloom models check ./ddpm-cat",
        "tileloom models check net.pt2 --trust-model --model-option predicts=v",
    ),
)
@click.argument("target")
@model_option
@trust_model
def check(*, target: str, model_option: tuple[str, ...], trust_model: bool) -> None:
    """Run the model TARGET on a few noisy windows to see whether it is a denoiser as a job needs it.

    Shapes and types, finite values, rows that leave each other alone, the same answer every time, timesteps with
    fractions, and that what it predicts is the noise. Needs a few dozen calls of the network.
    """
    model = model_of(target, model_option)
    denoiser = import_module(BUILD, __package__).denoiser_of(model, trusted=trust_model)
    told = import_module(DENOISER, __package__).Condition(label=label_of(model))
    import_module(CHECK, __package__).check_denoiser(denoiser, told=told)
    click.echo(f"{target}: keeps all that a denoiser promises")


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


def _shipped(file: str) -> dict[str, Any]:
    reading = read_weights(file)
    return {
        "kind": reading.kind,
        "bands": reading.config.in_channels,
        "parameters": sum(map(prod, shapes_of(file).values())),
        "digest": weights_digest(file),
    }


def _known(known: Known) -> dict[str, Any]:
    return {
        "files": list(known.files),
        "kind": kind_of(known.config),
        "image_size": known.image_size,
        "classes": classes_of(known.config),
        "betas": known.betas,
        "parameters": known.parameters,
    }


def _known_patches(known: KnownPatches) -> dict[str, Any]:
    return {"name": known.name, "kind": PATCHES, "patch": known.config.patch, "parameters": known.parameters}


def _inspection(file: str, tensors: int, parameters: int, reading: Read) -> dict[str, Any]:
    described = description_of(file)
    return {
        "file": file,
        "kind": reading.kind,
        "known_as": reading.known_as,
        "parameters": parameters,
        "tensors": tensors,
        "facts": {name: {"value": value, "known": known} for name, value, known in reading.facts()},
        "digest": weights_digest(file),
        "description": described.stored() if described else None,
    }


def _summary(tensors: int, parameters: int, reading: Read) -> str:
    return f"{reading.kind}, {parameters:,} parameters in {tensors} tensors"


def _lines(file: str, reading: Read) -> Iterator[str]:
    if reading.known_as:
        yield f"known as: {', '.join(reading.known_as)}"
    for name, value, known in reading.facts():
        yield f"{name}: {value} ({known})"
    described = description_of(file)
    if described:
        spans = ", ".join(f"{low:g} and {high:g}" for low, high in described.spans)
        yield f"values that became -1 and 1: {spans}{f', of type {described.dtype}' if described.dtype else ''}"
        made = described.provenance
        yield f"trained here: {made.get('steps')} steps, version {made.get('version')}, data {made.get('data')}"
    assumed = [name for name, _, known in reading.facts() if known == ASSUMED]
    if assumed:
        yield f"assumed: {', '.join(assumed)}; where that is wrong, say so with `--model-option`, such as betas=cosine"


def _terms(contract: Contract) -> Iterator[str]:
    """What a denoiser needs and promises, a line each."""
    largest = "up" if contract.largest_tile is None else f"to {contract.largest_tile}"
    yield f"bands: {contract.bands or 'any number'}"
    sizes = f"multiples of {contract.size_multiple} from {contract.smallest_tile} {largest}"
    yield f"tiles: {sizes}, its own is {contract.native_tile}"
    low, high = contract.value_range or (None, None)
    yield f"clean values: {'without bounds' if low is None else f'{low:g} to {high:g}'}"
    yield f"classes: {contract.classes or 'none'}"
    betas = contract.betas
    ends = betas if isinstance(betas, str) else f"{betas[0]:.4g} to {betas[-1]:.4g}"
    yield f"noise: {contract.timesteps} timesteps, betas {ends}"
    least, most = contract.batch_limits
    yield f"windows a call: {least} {'up' if most is None else f'to {most}'}"
