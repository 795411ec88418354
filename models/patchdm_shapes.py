"""What the names and shapes of tensors tell of a Patch-DM network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ..tiling.errors import InputError
from .patchdm_config import LatentConfig, StyleEncoderConfig
from .shapes import PATCHES, Shapes, difference, size_of, way_down

Tensors = TypeVar("Tensors")

# The averaged weights and those of the last training step, by the prefixes that the training program saves them under.
COPIES = {"ema": "ema_model.", "raw": "model."}
_MARK = "time_embed.pos_embed.0.weight"
_TABLE, _OLDER_TABLE = "encoder.semantic_enc.weight", "semantic_enc.semantic_enc.weight"
# What the training program keeps beside the networks: a fixed noise for its pictures, statistics of the styles.
_BESIDE = ("x_T", "conds_mean", "conds_std")
_PARTS = ("time_embed.", "input_blocks.", "middle_block.", "output_blocks.", "out.", "encoder.", "latent_net.")


def is_patches(named: Mapping[str, object]) -> bool:
    """Whether tensors, by name, are those of a Patch-DM network, bare or as its training program saves them."""
    return any(prefix + _MARK in named for prefix in ("", *COPIES.values()))


def own_tensors(named: Mapping[str, Tensors], copy: str | None = None) -> dict[str, Tensors]:
    """A network's tensors under its own names: of a training checkpoint one copy, the averaged one unless asked."""
    held = [name for name, prefix in COPIES.items() if prefix + _MARK in named]
    if copy is not None and copy not in held:
        held_words = " and ".join(held) or "one set of weights"
        raise InputError(f"holds {held_words}, and model.weights asks for {copy}: leave it out")
    if held:
        strays = [name for name in named if not name.startswith(tuple(COPIES.values())) and name not in _BESIDE]
        if strays:
            raise InputError(f"looks like a training checkpoint of {PATCHES}, but {difference([], strays)}")
        prefix = COPIES[copy or held[0]]
        named = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
    # A file that has both spellings keeps both, so that one is too many.
    renamed = {} if _TABLE in named else {_OLDER_TABLE: _TABLE}
    return {renamed.get(name, name): value for name, value in named.items()}


def patch_layout(shapes: Shapes) -> dict[str, Any]:
    """The fields of a config that a bare network's shapes tell: all but the patch and the number of heads."""
    strays = [name for name in shapes if not name.startswith(_PARTS)]
    if strays:
        raise InputError(f"looks like {PATCHES}, but {difference([], strays)}")
    width = size_of(shapes, "time_embed.time_embed.0.weight", 1)
    embedded = 2 * size_of(shapes, "time_embed.time_embed.2.weight", 0)
    styled = "time_embed.style.0.weight"
    unstyled = not any(".cond_emb_layers." in name for name in shapes)
    latent = _within(shapes, "latent_net.")
    return {
        **way_down(_unet(shapes), width),
        "embed_channels": embedded,
        "style_channels": 0 if unstyled else size_of(shapes, styled, 1) if styled in shapes else embedded,
        "out_channels": size_of(shapes, "out.2.weight", 0),
        "codes": size_of(shapes, _TABLE, 0) if _TABLE in shapes else None,
        "latent": latent_layout(latent) if latent else None,
    }


def encoder_layout(shapes: Shapes, heads: int) -> StyleEncoderConfig | None:
    """The image encoder of a bare network, None for one with a table of styles or neither."""
    inside = _within(shapes, "encoder.")
    if not inside or _TABLE in shapes:
        return None
    width = size_of(inside, "input_blocks.0.0.weight", 0)
    return StyleEncoderConfig(
        **way_down(inside, width), out_channels=size_of(inside, "out.3.weight", 0), num_heads=heads
    )


def latent_layout(shapes: Shapes) -> LatentConfig:
    """The network that draws styles, by its own tensors; that its layers are scaled around 1 leaves no trace."""
    first = "layers.0.linear.weight"
    hidden, channels = size_of(shapes, first, 0), size_of(shapes, first, 1)
    layers = len({name.split(".")[1] for name in shapes if name.startswith("layers.")})
    takes = [size_of(shapes, f"layers.{layer}.linear.weight", 1) for layer in range(layers)]
    return LatentConfig(
        channels=channels,
        hidden=hidden,
        layers=layers,
        skips=tuple(layer for layer, width in enumerate(takes) if layer and width != hidden),
        time_channels=size_of(shapes, "time_embed.0.weight", 1),
        norm="layers.0.norm.weight" in shapes,
    )


def _unet(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if not name.startswith(("encoder.", "latent_net."))}


def _within(shapes: Shapes, part: str) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(part): shape for name, shape in shapes.items() if name.startswith(part)}
