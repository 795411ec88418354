"""A diffusers folder as a denoiser: the network is that of diffusers, whatever is computed of it is ours."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import version

import torch
from torch import Tensor

from ..tiling.errors import InputError
from .adapted import Adapted, bytes_of
from .checkpoint import load_tensors
from .contract import Model, split_model
from .denoiser import LIVE_MAPS
from .folder import NETWORK, Folder, folder_contract, read_folder
from .prediction import Prediction
from .shapes import difference

_DIFFUSERS = "diffusers"
# Attention layers as the first releases of diffusers named them, which its own loader still reads.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD = re.compile(rf"(attentions\.\d+)\.({'|'.join(_OLD_NAMES)})\.")


def load_folder(model: Model, *, device: str = "cpu") -> Adapted:
    """The denoiser of a diffusers folder, by path and options."""
    name, options = split_model(model)
    contract, folder = folder_contract(name, options), read_folder(name)
    network = _with_weights(folder).to(device).requires_grad_(False).eval()

    def predicted(x_BCHW: Tensor, t_B: Tensor, *y_B: Tensor) -> Tensor:
        sample: Tensor = network(x_BCHW, t_B, *y_B, return_dict=False)[0]
        return sample

    prediction = Prediction(folder.predicts, folder.betas, folder.variance)
    weight_bytes = bytes_of(network.parameters())
    # Another version may compute the same network by other operations, which are other bits.
    numerics = {"precision": "fp32", _DIFFUSERS: version(_DIFFUSERS)}
    live = _live_channels(folder)
    return Adapted(contract, predicted, prediction, weight_bytes, live, networks=(network,), numerics=numerics)


def _with_weights(folder: Folder) -> torch.nn.Module:
    """The network with exactly the weights of the folder's file, which is read without running anything."""
    try:
        kind = getattr(import_module(_DIFFUSERS), NETWORK)
    except ImportError as error:
        raise InputError(f"{folder.name} needs diffusers ({error}): pip install tileloom[diffusers]") from None
    try:
        network: torch.nn.Module = kind(**folder.network)
    except (TypeError, ValueError) as error:
        raise InputError(f"the config.json of {folder.name} describes no {NETWORK} ({error}): save it again") from None
    tensors = {_OLD.sub(_renamed, key): tensor for key, tensor in load_tensors(str(folder.weights)).items()}
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    reshaped = [key for key in expected if key in found and found[key] != expected[key]]
    wrong = difference(expected, found, reshaped=reshaped)
    if wrong:
        raise InputError(f"{folder.weights} does not suit the config.json beside it: {wrong}")
    network.load_state_dict(tensors)
    return network


def _renamed(old: re.Match[str]) -> str:
    return f"{old[1]}.{_OLD_NAMES[old[2]]}."


def _live_channels(folder: Folder) -> int:
    """The way down's outputs, all kept for the way up, and a block's own maps, as numbers a pixel of the window."""
    maps: list[int] = [-(-wide // 4**level) for level, wide in enumerate(folder.widths)]
    return sum(maps) * (folder.layers + 1) + LIVE_MAPS * max(maps)
