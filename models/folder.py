"""Diffusers folders: what their JSON files say of a ``UNet2DModel`` and its scheduler. Reads no weights.

::

    folder/model_index.json            or    folder/config.json
    folder/unet/config.json                  folder/diffusion_pytorch_model.safetensors
    folder/unet/diffusion_pytorch_model...   folder/scheduler_config.json, or in folder/scheduler/
    folder/scheduler/scheduler_config.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tiling.errors import InputError
from .contract import Contract, check_label, live_channels
from .fields import Fields
from .schedule import betas

NETWORK = "UNet2DModel"
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
OPTIONS = ("label", "image_size")
# What a scheduler calls a thing, and what it is called here.
PREDICTS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
# Where a network's own size is not told, and no more is needed.
_USUAL_SIZE = 64


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder holds: the network's own settings, its weights file, and what its output means.

    ``predicts`` is "eps", "v" or "x0". ``variance`` is "learned" or "learned_range" where as many channels
    follow that tell the variance, else None. ``files`` are all that decide what the network does.
    """

    name: str
    network: Mapping[str, Any]
    weights: Path
    files: tuple[Path, ...]
    bands: int
    widths: tuple[int, ...]
    layers: int
    groups: int
    image_size: int | None
    classes: int | None
    predicts: str
    betas: tuple[float, ...]
    clip: float | None
    variance: str | None

    @property
    def size_multiple(self) -> int:
        """Every level but the last halves the window."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def smallest_tile(self) -> int:
        """One pixel at the last level, or two where a norm has a group a channel and would leave nothing of one."""
        return self.size_multiple * (2 if min(self.widths) <= self.groups else 1)


def folder_contract(name: str, options: Mapping[str, object]) -> Contract:
    """The terms of a folder's network."""
    asked = Fields("model.", options)
    asked.refuse_others(OPTIONS, name)
    found = read_folder(name)
    check_label(name, found.classes, asked.whole("label", least=0))
    multiple = found.size_multiple
    size = asked.whole("image_size", default=found.image_size) or max(_USUAL_SIZE, multiple)
    if size % multiple:
        raise InputError(f"model.image_size is {size}; give a multiple of {multiple}, which {name} takes")
    return Contract(
        found.name,
        bands=found.bands,
        size_multiple=multiple,
        native_tile=size,
        smallest_tile=found.smallest_tile,
        value_range=None if found.clip is None else (-found.clip, found.clip),
        betas=found.betas,
        timesteps=len(found.betas),
        classes=found.classes,
        weight_bytes=found.weights.stat().st_size,
        live_channels=live_channels(found.widths, found.layers),
    )


def read_folder(name: str) -> Folder:
    """All that a folder tells."""
    root = Path(name)
    if not (root / "model_index.json").exists():
        beside = [root / "scheduler_config.json", root / "scheduler" / "scheduler_config.json"]
        scheduler = next((file for file in beside if file.exists()), beside[0])
        return _read(root, root / "config.json", scheduler)
    index = root / "model_index.json"
    parts = {key: value for key, value in _json(index).values.items() if not key.startswith("_") and value}
    if "unet" not in parts or "scheduler" not in parts or len(parts) > 2:
        held = ", ".join(parts) or "nothing"
        raise InputError(f"{index} lists {held}: only a pipeline of unet and scheduler alone, in pixels, is taken")
    return _read(root, root / "unet" / "config.json", root / "scheduler" / "scheduler_config.json", index)


def _read(root: Path, network_file: Path, scheduler_file: Path, *others: Path) -> Folder:
    network, scheduler = _json(network_file), _json(scheduler_file)
    _refuse_class(network, (NETWORK,), "model")
    _refuse_class(scheduler, SCHEDULERS, "scheduler")
    weights = _weights(network_file.parent)
    variance = scheduler.choice("variance_type", VARIANCES)
    bands = _channels(network, scheduler, learned=variance.startswith("learned"))
    return Folder(
        name=root.resolve().name,
        network={key: value for key, value in network.values.items() if not key.startswith("_")},
        weights=weights,
        files=(*others, network_file, scheduler_file, weights),
        bands=bands,
        widths=_widths(network),
        layers=network.whole("layers_per_block", default=2) or 1,
        groups=network.whole("norm_num_groups", default=32) or 1,
        image_size=_size(network),
        classes=_classes(network),
        predicts=PREDICTS[scheduler.choice("prediction_type", tuple(PREDICTS))],
        betas=_betas(scheduler),
        clip=_clip(scheduler),
        variance=variance if network.whole("out_channels", default=3) == 2 * bands else None,
    )


def _json(file: Path) -> Fields:
    """The mapping that a JSON file holds."""
    if not file.exists():
        raise InputError(f"{file}: does not exist, and a diffusers folder has it: save the model and its scheduler")
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise InputError(f"{file} is no JSON ({error}): copy or download it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no mapping: copy or download it again")
    return Fields(f"{file}: ", content)


def _refuse_class(config: Fields, known: tuple[str, ...], what: str) -> None:
    found = config.values.get("_class_name")
    if found not in known:
        raise InputError(f"{config.where}the {what} is {found!r}, which is not taken: give {' or '.join(known)}")


def _weights(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    raise InputError(f"{folder} has neither {' nor '.join(WEIGHTS)}: save the model's weights there, in one file")


def _channels(network: Fields, scheduler: Fields, *, learned: bool) -> int:
    """Bands of the image: the network returns as many, or twice that where it learned the variance."""
    bands, out = network.whole("in_channels", default=3), network.whole("out_channels", default=3)
    assert bands
    assert out
    if out == bands or (learned and out == 2 * bands):
        return bands
    told = scheduler.values.get("variance_type", "fixed_small")
    raise InputError(
        f"{network.where}the network turns {bands} channels into {out}, which does not suit a scheduler of variance "
        f"{told}: give a network of the noisy image alone, with its own scheduler"
    )


def _widths(network: Fields) -> tuple[int, ...]:
    """Channels of each level."""
    widths = network.values.get("block_out_channels", [224, 448, 672, 896])
    if not isinstance(widths, list) or not widths or not all(isinstance(width, int) for width in widths):
        raise network.refused("block_out_channels", "the width of each level")
    # Others know whole timesteps only, or divide by them.
    if network.choice("time_embedding_type", ("positional", "learned", "fourier")) != "positional":
        raise network.refused("time_embedding_type", "positional, the only one that is taken")
    return tuple(widths)


def _size(network: Fields) -> int | None:
    size = network.values.get("sample_size")
    if isinstance(size, list) and size:
        return Fields(network.where, {"sample_size": min(size)}).whole("sample_size")
    return network.whole("sample_size")


def _classes(network: Fields) -> int | None:
    if network.values.get("class_embed_type") is not None:
        raise network.refused("class_embed_type", "null: only classes by number are taken")
    return network.whole("num_class_embeds")


def _betas(scheduler: Fields) -> tuple[float, ...]:
    if scheduler.flag("rescale_betas_zero_snr"):
        raise scheduler.refused("rescale_betas_zero_snr", "false: a schedule must leave some signal at its end")
    if scheduler.values.get("trained_betas") is not None:
        return scheduler.variances("trained_betas", scheduler.numbers("trained_betas"))
    count = scheduler.whole("num_train_timesteps", default=1000) or 1
    start, end = scheduler.number("beta_start", default=0.0001), scheduler.number("beta_end", default=0.02)
    name = BETAS[scheduler.choice("beta_schedule", tuple(BETAS))]
    return scheduler.variances("beta_end", betas(name, count, start=start, end=end))


def _clip(scheduler: Fields) -> float | None:
    """The bound of clean values on either side of 0."""
    if scheduler.flag("thresholding"):
        # What a threshold is for: values are brought back to this range.
        return 1.0
    return scheduler.number("clip_sample_range", default=1.0) if scheduler.flag("clip_sample", default=True) else None
