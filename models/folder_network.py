"""A diffusers folder as a denoiser: the network is that of diffusers, whatever is computed of it is ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version

import torch
from torch import Tensor

from ..tiling.errors import InputError
from .adapted import Adapted, bytes_of
from .checkpoint import load_tensors, shapes_of
from .contract import Model, live_channels, split_model
from .folder import NETWORK, Folder, folder_contract, read_folder
from .prediction import Prediction
from .reasons import reason
from .shapes import mismatch

_DIFFUSERS = "diffusers"
# Attention layers as the first releases of diffusers named them, which its own loader still reads.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD = re.compile(rf"(attentions\.\d+)\.({'|'.join(_OLD_NAMES)})\.")


def load_folder(model: Model, *, device: str = "cpu") -> Adapted:
    """The denoiser of a diffusers folder, by path and options."""
    name, options = split_model(model)
    contract, folder = folder_contract(name, options), read_folder(name)
    network = _with_weights(folder).to(device).requires_grad_(False).eval()
    _try(network, folder, device=device)

    def predicted(x_BCHW: Tensor, t_B: Tensor, *y_B: Tensor) -> Tensor:
        sample: Tensor = network(x_BCHW, t_B, *y_B, return_dict=False)[0]
        return sample

    prediction = Prediction(folder.predicts, folder.betas, folder.variance)
    weight_bytes = bytes_of(network.parameters())
    # Another version may compute the same network by other operations, which are other bits.
    numerics = {"precision": "fp32", _DIFFUSERS: version(_DIFFUSERS)}
    live = live_channels(folder.widths, folder.layers)
    return Adapted(contract, predicted, prediction, weight_bytes, live, networks=(network,), numerics=numerics)


def _with_weights(folder: Folder) -> torch.nn.Module:
    """The network with exactly the weights of the folder's file, which is read without running anything."""
    try:
        kind = getattr(import_module(_DIFFUSERS), NETWORK)
    except ImportError as error:
        raise InputError(f"{folder.name} needs diffusers ({error}): pip install tileloom[diffusers]") from None
    # Widths that the weights do not have could be beyond any memory: first a network without memory for them.
    with torch.device("meta"):
        blank = _made(kind, folder)
    tensors = {_OLD.sub(_renamed, key): tensor for key, tensor in load_tensors(str(folder.weights)).items()}
    if wrong := mismatch(shapes_of(blank.state_dict()), shapes_of(tensors)):
        raise InputError(f"{folder.weights} does not suit the config.json beside it: {wrong}")
    network = _made(kind, folder)
    network.load_state_dict(tensors)
    return network


def _made(kind: Callable[..., torch.nn.Module], folder: Folder) -> torch.nn.Module:
    """The network that the settings describe."""
    try:
        return kind(**folder.network)
    except Exception as error:  # settings are checked nowhere, and fail wherever they are used
        raise _undescribed(folder, reason(error)) from error


@torch.inference_mode()
def _try(network: torch.nn.Module, folder: Folder, *, device: str) -> None:
    """Refuse settings that make a network which fails on a small window, or changes its size."""
    size = 2 * folder.size_multiple
    told = [torch.zeros((1, folder.bands, size, size), device=device), torch.full((1,), 0.5, device=device)]
    if folder.classes is not None:
        told.append(torch.zeros(1, dtype=torch.int64, device=device))
    try:
        found = network(*told, return_dict=False)[0]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # as above
        raise _undescribed(folder, reason(error)) from error
    if found.shape[2:] != told[0].shape[2:]:
        returned = "x".join(map(str, found.shape[2:]))
        raise _undescribed(folder, f"it returns {returned} pixels for {size}x{size}")


def _undescribed(folder: Folder, why: str) -> InputError:
    return InputError(f"the config.json of {folder.name} describes no {NETWORK} that runs ({why}): save it again")


def _renamed(old: re.Match[str]) -> str:
    return f"{old[1]}.{_OLD_NAMES[old[2]]}."
