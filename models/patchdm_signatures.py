"""Known Patch-DM networks, and what one is once its shapes, this table and the user have told of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..tiling.errors import InputError
from .patchdm_config import PatchConfig
from .patchdm_shapes import COPIES, encoder_layout, own_tensors, patch_layout
from .shapes import PATCHES, Shapes
from .signatures import ASSUMED, BETAS, DESCRIBED, EPS, OPTION, SHAPES, TABLE, Description, Told

# What tells one U-Net of the table from another.
_TELLING = (
    *("model_channels", "channel_mult", "num_res_blocks", "attention_resolutions"),
    *("embed_channels", "style_channels"),
)


@dataclass(frozen=True, slots=True)
class KnownPatches:
    """A published U-Net, in words, without what gives it its styles."""

    name: str
    config: PatchConfig
    parameters: int


def _unet(patch: int, width: int, *mult: float) -> PatchConfig:
    return PatchConfig(
        patch=patch,
        model_channels=width,
        channel_mult=mult,
        num_res_blocks=2,
        # At the third level whatever the patch is: its label counts as if every patch had 64 pixels.
        attention_resolutions=(4,),
        embed_channels=512,
        style_channels=512,
    )


KNOWN_PATCHES = (
    KnownPatches("Patch-DM, patches of 64 pixels", _unet(64, 64, 1, 2, 4, 8), 71_404_035),
    KnownPatches("Patch-DM, patches of 128 pixels", _unet(128, 128, 1, 1, 2, 3, 4), 102_098_307),
    KnownPatches("Patch-DM, patches of 256 pixels", _unet(256, 128, 1, 1, 2, 2, 4, 4), 134_270_979),
)


@dataclass(frozen=True, slots=True)
class PatchReading:
    """A Patch-DM network as its file and the user tell it; ``copy`` of its weights, None where there is one.

    ``described`` is what its file says, if it was trained here.
    """

    config: PatchConfig
    betas: str
    copy: str | None
    known: KnownPatches | None
    origins: Mapping[str, str]
    described: Description | None = None

    kind = PATCHES
    options = ("precision", "style", "channels_last", "patch", "heads", "weights", "betas", "guidance")

    @property
    def predicts(self) -> str:
        """What it predicts, "eps" or "v"."""
        return self.described.predicts if self.described else EPS

    @property
    def known_as(self) -> list[str]:
        """Names of the published network that it is."""
        return [self.known.name] if self.known else []

    @property
    def told(self) -> tuple[object, ...]:
        """All that options can make another network of."""
        return self.config, self.betas, self.copy

    def facts(self) -> Iterator[tuple[str, str, str]]:
        """(fact, value, how it is known) of all that makes the network."""
        config = self.config
        encoder, latent, by_number = config.encoder, config.latent, config.num_head_channels == -1
        for name, value in {
            "input channels": config.in_channels,
            "output channels": config.out_channels,
            "width": config.model_channels,
            "levels": ", ".join(f"{mult:g}" for mult in config.channel_mult),
            "residual blocks a level": config.num_res_blocks,
            "attention at factors": ", ".join(map(str, config.attention_resolutions)) or "none",
            "embedded channels": config.embed_channels,
            "style channels": config.style_channels or "none",
            "table of styles": config.codes or "none",
            "image encoder": "none" if encoder is None else f"{len(encoder.channel_mult)} levels",
            "network that draws styles": "none" if latent is None else f"{latent.layers} layers of {latent.hidden}",
            "patch": config.patch,
            "heads": config.num_heads if by_number else f"{config.num_head_channels} channels each",
            "betas": self.betas,
            "weights": self.copy or "one set",
            **({"stem": config.stem} if config.stem > 1 else {}),
            **({"detail": config.detail} if config.detail else {}),
            **({} if config.positions else {"positions": "never told"}),
            **({"image size": self.described.image_size} if self.described else {}),
            **({"predicts": self.predicts} if self.predicts != EPS else {}),
        }.items():
            yield name, str(value), self.origins.get(name, SHAPES)


def read_described(description: Description, told: Told) -> PatchReading:
    """The network that its own file describes, but for what the user says better."""
    config = description.config
    assert isinstance(config, PatchConfig)
    if told.patch is not None:
        config = replace(config, patch=told.patch)
    if told.heads is not None:
        config = replace(config, num_head_channels=-1, num_heads=told.heads)
    facts = ("patch", "heads", "betas", "stem", "detail", "positions", "image size", "predicts")
    origins = {name: OPTION if getattr(told, name, None) else DESCRIBED for name in facts}
    betas, copy = told.betas or description.betas, told.weights
    return PatchReading(config, betas, copy, None, origins, description)


def read_patches(shapes: Shapes, told: Told) -> PatchReading:
    """The network that a set of tensors is: as the user told, else as the table knows it; nothing of it is guessed."""
    held = [name for name, prefix in COPIES.items() if any(key.startswith(prefix) for key in shapes)]
    shapes = own_tensors(shapes, told.weights)
    fields = patch_layout(shapes)
    known = _known(fields)
    origins = {
        "patch": OPTION if told.patch else TABLE,
        "heads": OPTION if told.heads else TABLE,
        "betas": OPTION if told.betas else TABLE if known else ASSUMED,
        "weights": OPTION if told.weights else SHAPES,
    }
    patch = told.patch or (known.config.patch if known else None)
    heads = told.heads or (known.config.num_heads if known else None)
    if patch is None or heads is None:
        raise InputError(_untold(patch, heads))
    config = PatchConfig(**fields, patch=patch, num_heads=heads, encoder=encoder_layout(shapes, heads))
    copy = told.weights or (held[0] if held else None)
    return PatchReading(config, told.betas or BETAS[0], copy, known, origins)


def _known(fields: Mapping[str, Any]) -> KnownPatches | None:
    """The entry of the table whose U-Net has these fields."""
    same = (known for known in KNOWN_PATCHES if all(getattr(known.config, name) == fields[name] for name in _TELLING))
    return next(same, None)


def _untold(patch: int | None, heads: int | None) -> str:
    lacking = [
        *([] if patch else ["model.patch, the side of its patches in pixels"]),
        *([] if heads else ["model.heads, how many heads its attention has (published ones have 1)"]),
    ]
    return f"is {PATCHES} of no published shape, and its tensors do not tell all of it: give {' and '.join(lacking)}"
