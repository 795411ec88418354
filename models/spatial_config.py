"""A network that fills holes, as plain data: its shape, what its file says of it, how it is asked. Torch stays out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

from ..tiling.errors import InputError

SPATIAL = "a spatial diffusion network"
# What a network makes of its weights: 2 sees a surface and evens its features, 3 sees noise.
_LAYOUT = 3
ITERATIONS = 3
"""Iterations that it learns with, and of a job that does not say how many: more sharpen what is sharp enough."""

Picking = Literal["uniform", "cosine", "sqrt", "cubic"]
PICKINGS: tuple[Picking, ...] = get_args(Picking)
ALPHA = 0.01
# What a window has beside its bands: which pixels are known, how uncertain each is, and noise to draw texture of.
PLANES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SpatialConfig:
    """A U-shaped network of StyleGAN2's blocks, for images of ``in_channels`` bands.

    ``channel_mult`` has a level's width in units of ``model_channels``, finest level first; a level has
    ``num_res_blocks`` convolutions on either way. ``attention_resolutions`` are the factors by which a level with
    attention is coarser than the first, in heads of ``num_head_channels``. A ``stem`` of s folds every s x s pixels
    into the channels of one, and ``detail`` channels of every single pixel draw what that blurs; 0: none do. A style of
    ``style_channels`` values modulates the way up.
    """

    model_channels: int
    channel_mult: tuple[float, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    in_channels: int = 3
    num_head_channels: int = 32
    stem: int = 1
    detail: int = 0
    style_channels: int = 128

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        for name in ("num_res_blocks", "in_channels", "num_head_channels", "style_channels"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"{name} is {value}; a network that fills holes takes 1 and up")
        if not self.channel_mult:
            raise InputError("channel_mult is empty; a network that fills holes has at least one level")
        factors = tuple(2**level for level in range(len(self.channel_mult)))
        for factor in self.attention_resolutions:
            if factor not in factors:
                raise InputError(
                    f"there is attention at factor {factor}, and levels are coarser by {', '.join(map(str, factors))}: "
                    "choose one of these, or leave that attention out"
                )
        if self.detail < 0:
            raise InputError(f"detail is {self.detail}; a network that fills holes takes 0, for none, and up")
        if self.stem < 1 or self.stem & (self.stem - 1):
            raise InputError(f"stem is {self.stem}; a network that fills holes takes 1, 2, 4 and so on")
        for level, width in enumerate(self.widths):
            if width < 1:
                raise InputError(f"a level has {width} channels: choose model_channels and channel_mult for more")
            if 2**level in self.attention_resolutions and width % self.num_head_channels:
                raise InputError(
                    f"attention {width} channels wide does not split into heads of {self.num_head_channels}: "
                    "choose num_head_channels that divide it"
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(int(mult * self.model_channels) for mult in self.channel_mult)

    @property
    def size_multiple(self) -> int:
        """The total stride: rows and columns of every window are a multiple of it."""
        return self.stem << len(self.channel_mult) - 1


@dataclass(frozen=True, slots=True)
class SpatialDescription:
    """What the file of such a network says of it, as :class:`~tileloom.models.signatures.Description` does."""

    config: SpatialConfig
    image_size: int
    spans: tuple[tuple[float, float], ...]
    dtype: str | None
    provenance: Mapping[str, Any]

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Self:
        """The description that :meth:`stored` wrote; raises whatever is wrong with another."""
        if (layout := stored.get("layout", 1)) != _LAYOUT:
            raise ValueError(f"layout {layout}, and this tileloom knows layout {_LAYOUT}: train it again")
        config: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored["config"].items()
        }
        spans = tuple((float(low), float(high)) for low, high in stored["spans"])
        return cls(SpatialConfig(**config), stored["image_size"], spans, stored["dtype"], stored["provenance"])

    def stored(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return {**asdict(self), "kind": SPATIAL, "layout": _LAYOUT}


@dataclass(frozen=True, slots=True)
class SpatialReading:
    """A network that fills holes, as its file describes it."""

    described: SpatialDescription

    kind = SPATIAL
    options = ("picking", "alpha")
    known_as = ()

    @property
    def config(self) -> SpatialConfig:
        """The shape of the network."""
        return self.described.config

    @property
    def image_size(self) -> int:
        """The side in pixels that it was trained on."""
        return self.described.image_size

    @property
    def told(self) -> tuple[object, ...]:
        """All that makes it the network it is: no option does."""
        return self.config, self.image_size

    def facts(self) -> Iterator[tuple[str, str, str]]:
        """(fact, value, how it is known) of all that makes the network."""
        config = self.config
        for name, value in {
            "bands": config.in_channels,
            "width": config.model_channels,
            "levels": ", ".join(f"{mult:g}" for mult in config.channel_mult),
            "convolutions a level": config.num_res_blocks,
            "attention at factors": ", ".join(map(str, config.attention_resolutions)) or "none",
            "channels of a head": config.num_head_channels,
            "stem": config.stem,
            **({"detail": config.detail} if config.detail else {}),
            "total stride": config.size_multiple,
            "style channels": config.style_channels,
            "image_size": self.image_size,
        }.items():
            yield name, str(value), "as its file says"
