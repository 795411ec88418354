"""Weights files as tensors: read without ever running what is in them, and loaded strictly."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..tiling.errors import InputError, StoreError
from .adm import AdmClassifier, AdmUNet
from .adm_config import AdmConfig, ClassifierConfig
from .shapes import Shapes, difference, looks_like
from .weights import DESCRIPTION, SAFE, description_of, program_in, refuse_no_file

Network = AdmUNet | AdmClassifier


def torch_shapes(file: str) -> Shapes:
    """The names and shapes of the tensors that torch saved in a file, without reading the tensors."""
    return {name: tuple(tensor.shape) for name, tensor in _torch_tensors(file, device="meta").items()}


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


def blank(config: AdmConfig | ClassifierConfig) -> Network:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return AdmUNet(config) if isinstance(config, AdmConfig) else AdmClassifier(config)


def refuse_difference(config: AdmConfig | ClassifierConfig, shapes: Shapes, *, file: str) -> None:
    """Refuse tensors that are not exactly the network's."""
    expected = {name: tuple(tensor.shape) for name, tensor in blank(config).state_dict().items()}
    reshaped = [name for name in expected if name in shapes and shapes[name] != expected[name]]
    wrong = difference(expected, shapes, reshaped=reshaped)
    if wrong:
        raise InputError(f"{file} looks like {looks_like(shapes)}, but {wrong}")


def with_weights(
    config: AdmConfig | ClassifierConfig,
    tensors: Mapping[str, Tensor],
    *,
    file: str = "the state dict",
    device: str = "cpu",
) -> Network:
    """A network in float32 with these weights, exactly all of them; ready to predict, not to be trained."""
    refuse_difference(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, file=file)
    # Weights made in inference mode could never let a gradient through to the image.
    with torch.inference_mode(mode=False):
        network: Network = blank(config).to_empty(device=device)
        # Copies and widens: what lies in a file must not change under a running job.
        network.load_state_dict(tensors)
        return network.requires_grad_(False).eval()


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
