"""Weights files as tensors: read without ever running what is in them, and loaded strictly."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..tiling.errors import InputError, StoreError
from .adm import AdmClassifier, AdmUNet
from .adm_config import AdmConfig, ClassifierConfig
from .latent import LatentNet
from .patchdm import PatchUNet, StyleEncoder
from .patchdm_config import LatentConfig, PatchConfig, StyleEncoderConfig
from .semantic import SemanticUNet
from .semantic_config import SemanticConfig
from .shapes import Shapes, looks_like, mismatch
from .spatial import SpatialNet
from .spatial_config import SpatialConfig
from .weights import DESCRIPTION, SAFE, description_of, program_in, refuse_no_file

Network = AdmUNet | AdmClassifier | SemanticUNet | PatchUNet | StyleEncoder | LatentNet | SpatialNet
Config = AdmConfig | ClassifierConfig | SemanticConfig | PatchConfig | StyleEncoderConfig | LatentConfig | SpatialConfig
_MADE: dict[type[Config], Callable[[Any], Network]] = {
    AdmConfig: AdmUNet,
    ClassifierConfig: AdmClassifier,
    SemanticConfig: SemanticUNet,
    PatchConfig: PatchUNet,
    StyleEncoderConfig: StyleEncoder,
    LatentConfig: LatentNet,
    SpatialConfig: SpatialNet,
}


def torch_shapes(file: str) -> Shapes:
    """The names and shapes of the tensors that torch saved in a file, without reading the tensors."""
    return shapes_of(_torch_tensors(file, device="meta"))


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """The names and shapes of tensors."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def load_tensors(file: str) -> dict[str, Tensor]:
    """A file's tensors on the CPU. They may still lie in the file: copy them before it can change."""
    refuse_no_file(file)
    if Path(file).suffix != SAFE:
        return _torch_tensors(file, device="cpu")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise InputError(f"{file} is no whole {SAFE} file ({error}): copy or download it again") from None


def _torch_tensors(file: str, *, device: str) -> dict[str, Tensor]:
    """The tensors of a state dict, bare or beside other things under ``state_dict``."""
    zipped = zipfile.is_zipfile(file)
    if program_in(file) is not None:
        raise InputError(f"{file} is a program, which is code, not weights: give its state dict")
    try:
        content = torch.load(file, map_location=device, weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if not named:
            raise InputError(_damaged(file)) from None
        raise InputError(
            f"{file} holds code beside its weights ({named[1]}) and is refused, since loading it would run that: "
            "save its state dict alone"
        ) from None
    except Exception:  # the unpickler raises whatever it stumbles over
        raise InputError(_damaged(file)) from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    named_tensors = content.items() if isinstance(content, Mapping) else ()
    tensors = {name: value.detach() for name, value in named_tensors if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{file} holds no tensors by name: save the network's state dict")
    return tensors


def _damaged(file: str) -> str:
    return f"{file} is damaged or nothing that torch saved: copy or download it again"


def make(config: Config) -> Network:
    """A network with PyTorch's own random weights."""
    return _MADE[type(config)](config)


def blank(config: Config) -> Network:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return make(config)


def parameters_of(config: Config) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in blank(config).parameters())


def refuse_difference(config: Config, shapes: Shapes, *, file: str) -> None:
    """Refuse tensors that are not exactly the network's."""
    if wrong := mismatch(shapes_of(blank(config).state_dict()), shapes):
        raise InputError(f"{file} looks like {looks_like(shapes)}, but {wrong}")


def with_weights(
    config: Config,
    tensors: Mapping[str, Tensor],
    *,
    file: str = "the state dict",
    device: str = "cpu",
) -> Network:
    """A network in float32 with these weights, exactly all of them; ready to predict, not to be trained."""
    refuse_difference(config, shapes_of(tensors), file=file)
    # Weights made in inference mode could never let a gradient through to the image.
    with torch.inference_mode(mode=False):
        network: Network = blank(config).to_empty(device=device)
        # Copies and widens: what lies in a file must not change under a running job.
        network.load_state_dict(tensors)
        _refuse_unlike(network, tensors, file=file)
        return network.requires_grad_(False).eval()


def _refuse_unlike(network: Network, tensors: Mapping[str, Tensor], *, file: str) -> None:
    """Refuse a file in which one tensor of the network, saved under two names, is two."""
    names: dict[int, str] = {}
    for name, loaded in network.state_dict().items():
        twin = names.setdefault(loaded.data_ptr(), name)
        if twin != name and not torch.equal(tensors[twin], tensors[name]):
            raise InputError(f"{file} holds {twin} and {name}, which are one in this network, with unlike values")


def convert(source: str, target: str) -> int:
    """Write a file's tensors as .safetensors, bit for bit; returns how many there are."""
    path = Path(target)
    if path.suffix != SAFE:
        raise InputError(f"{target}: only {SAFE} files are written; choose a name that ends so")
    if path.exists():
        raise InputError(f"{target} exists: choose another name, or remove it first")
    tensors = {name: tensor.clone().contiguous() for name, tensor in load_tensors(source).items()}
    description = description_of(source)
    described = {DESCRIPTION: json.dumps(description.stored())} if description else {}
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        save_file(tensors, partial, metadata={"format": "pt", **described})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot write {target}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return len(tensors)
