"""Known checkpoints, and what a network is once its shapes, this table and the user have told of it.

Shapes do not tell how channels split into heads, in which order q, k and v lie, with which betas the
network was trained, or at which image size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from ..tiling.errors import InputError
from .adm_config import AdmConfig, ClassifierConfig
from .patchdm_config import PatchConfig
from .semantic_config import SemanticConfig
from .semantic_shapes import is_semantic, semantic_layout
from .shapes import ADM, CLASSIFIER, PATCHES, SEMANTIC, Shapes, layout

SHAPES, TABLE, OPTION, ASSUMED = "from the shapes", "from the table of known checkpoints", "as asked", "assumed"
DESCRIBED = "as its file says"
EPS = "eps"
BETAS = ("linear", "cosine")
ORDERS = ("legacy", "new")
WEIGHTS = ("ema", "raw")
WindowConfig = AdmConfig | ClassifierConfig | SemanticConfig
"""A network that sees a window, whole."""
Trained = WindowConfig | PatchConfig
"""The shapes of networks that are trained here."""
_KINDS: dict[str, type[Trained]] = {
    ADM: AdmConfig,
    CLASSIFIER: ClassifierConfig,
    PATCHES: PatchConfig,
    SEMANTIC: SemanticConfig,
}
# Published U-Nets attend where 8 pixels a side and up to 32 are left.
_LEAST_ATTENDED = 8


@dataclass(frozen=True, slots=True)
class Known:
    """A published checkpoint, by the names of the files that have these shapes; ``image_size`` in pixels a side."""

    files: tuple[str, ...]
    config: WindowConfig
    image_size: int
    parameters: int
    betas: str = "linear"


def _unet(size: int, *mult: float, width: int = 256, blocks: int = 2, classes: int | None = 1000) -> AdmConfig:
    return AdmConfig(
        model_channels=width,
        channel_mult=mult,
        num_res_blocks=blocks,
        attention_resolutions=(size // 32, size // 16, size // 8),
        num_classes=classes,
    )


def _classifier(size: int, *mult: float) -> ClassifierConfig:
    return ClassifierConfig(
        model_channels=128,
        channel_mult=mult,
        num_res_blocks=2,
        attention_resolutions=(size // 32, size // 16, size // 8),
        out_channels=1000,
        image_size=size,
    )


def _semantic(classes: int, *, edges: bool = False) -> SemanticConfig:
    return SemanticConfig(
        model_channels=256,
        channel_mult=(1, 1, 2, 2, 4, 4),
        num_res_blocks=2,
        attention_resolutions=(8, 16, 32),
        num_classes=classes,
        edges=edges,
    )


KNOWN = (
    Known(
        ("256x256_diffusion_uncond.pt", "celeba256_250000.pt", "places256_300000.pt", "lsun_*.pt"),
        _unet(256, 1, 1, 2, 2, 4, 4, classes=None),
        256,
        552_814_086,
    ),
    Known(("256x256_diffusion.pt",), _unet(256, 1, 1, 2, 2, 4, 4), 256, 553_838_086),
    Known(("512x512_diffusion.pt",), _unet(512, 0.5, 1, 1, 2, 2, 4, 4), 512, 558_997_638),
    Known(
        ("128x128_diffusion.pt",),
        replace(_unet(128, 1, 1, 2, 3, 4), num_head_channels=-1, num_heads=4),
        128,
        421_529_606,
    ),
    Known(
        ("64x64_diffusion.pt",),
        replace(_unet(64, 1, 2, 3, 4, width=192, blocks=3), use_new_attention_order=True),
        64,
        295_904_454,
        "cosine",
    ),
    Known(("256x256_classifier.pt",), _classifier(256, 1, 1, 2, 2, 4, 4), 256, 54_096_360),
    Known(("512x512_classifier.pt",), _classifier(512, 0.5, 1, 1, 2, 2, 4, 4), 512, 54_448_360),
    # All three were published under one name.
    Known(("ema_0.9999_best.pt of ADE20K",), _semantic(151), 256, 660_608_518),
    Known(("ema_0.9999_best.pt of CelebAMask-HQ",), _semantic(19, edges=True), 256, 653_062_918),
    Known(("ema_0.9999_best.pt of COCO-Stuff",), _semantic(183), 256, 662_451_718),
)


def kind_of(config: Trained) -> str:
    """What a network is, in words."""
    return next(words for words, kind in _KINDS.items() if type(config) is kind)


def classes_of(config: WindowConfig) -> int | None:
    """How many classes a network is told, or tells apart; None for one that knows none."""
    return config.out_channels if isinstance(config, ClassifierConfig) else config.num_classes


@dataclass(frozen=True, slots=True)
class Description:
    """What the file of a network that was trained here says of it.

    It ``predicts`` "eps", or "v" of :class:`~tileloom.models.prediction.Prediction`. ``spans`` are the values that
    each band's -1 and 1 stood for, ``dtype`` the type of all of these values, None where they were of several;
    ``null_class`` is the one that stands for no class, ``provenance`` how it was made.
    """

    config: Trained
    image_size: int
    betas: str
    predicts: str
    spans: tuple[tuple[float, float], ...]
    null_class: int | None
    provenance: Mapping[str, Any]
    dtype: str | None = None

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Self:
        """The description that :meth:`stored` wrote; raises whatever is wrong with another."""
        kind: Callable[..., Trained] = _KINDS[stored["kind"]]
        config = {name: tuple(value) if isinstance(value, list) else value for name, value in stored["config"].items()}
        spans = tuple((float(low), float(high)) for low, high in stored["spans"])
        rest = {name: stored[name] for name in ("image_size", "betas", "predicts", "null_class", "provenance")}
        return cls(config=kind(**config), spans=spans, dtype=stored.get("dtype"), **rest)

    def stored(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return {**asdict(self), "kind": kind_of(self.config)}


@dataclass(frozen=True, slots=True)
class Told:
    """What the user says of a network because its shapes do not; None: not said."""

    heads: int | None = None
    head_channels: int | None = None
    attention_order: str | None = None
    betas: str | None = None
    image_size: int | None = None
    patch: int | None = None
    weights: str | None = None
    edges: bool | None = None

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        for name in ("heads", "head_channels", "image_size", "patch"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"model.{name} is {value!r}; give a whole number from 1 up")
        for name, choices in (("attention_order", ORDERS), ("betas", BETAS), ("weights", WEIGHTS)):
            if getattr(self, name) not in (None, *choices):
                raise InputError(f"model.{name} is {getattr(self, name)!r}; choose {' or '.join(choices)}")
        if not isinstance(self.edges, bool | None):
            raise InputError(f"model.edges is {self.edges!r}; choose true or false")
        if self.heads is not None and self.head_channels is not None:
            raise InputError("model.heads and model.head_channels say the same thing twice; give one of them")


@dataclass(frozen=True, slots=True)
class Reading:
    """A network as its file and the user tell it; ``origins`` says of each fact of :meth:`facts` how it is known.

    ``image_size`` is the side in pixels that it was trained on, ``betas`` the name of its noise schedule.
    ``described`` is what its file says, if it was trained here.
    """

    config: WindowConfig
    image_size: int
    betas: str
    known: Known | None
    origins: Mapping[str, str]
    described: Description | None = None

    options = (
        *("precision", "label", "channels_last", "compile"),
        *("heads", "head_channels", "attention_order", "betas", "image_size"),
    )

    @property
    def kind(self) -> str:
        """What it is, in words."""
        return kind_of(self.config)

    @property
    def known_as(self) -> list[str]:
        """Names of the published checkpoints that it may be."""
        return list(self.known.files) if self.known else []

    @property
    def predicts(self) -> str:
        """What it predicts."""
        return self.described.predicts if self.described else EPS

    @property
    def told(self) -> tuple[object, ...]:
        """All that options can make another network of."""
        return self.config, self.betas, self.image_size

    def facts(self) -> Iterator[tuple[str, str, str]]:
        """(fact, value, how it is known) of all that makes the network."""
        config = self.config
        by_number = config.num_head_channels == -1
        for name, value in {
            "input channels": config.in_channels,
            "output channels": config.out_channels,
            "width": config.model_channels,
            "levels": ", ".join(f"{mult:g}" for mult in config.channel_mult),
            "residual blocks a level": config.num_res_blocks,
            "attention at factors": ", ".join(map(str, config.attention_resolutions)) or "none",
            "scale-shift norm": "yes" if config.use_scale_shift_norm else "no",
            "residual resampling": "yes" if config.resblock_updown else "no",
            "classes": classes_of(config) or "none",
            "heads": config.num_heads if by_number else f"{config.num_head_channels} channels each",
            "attention_order": "new" if config.use_new_attention_order else "legacy",
            "betas": self.betas,
            "image_size": self.image_size,
            **({"edges": "yes" if config.edges else "no"} if isinstance(config, SemanticConfig) else {}),
            **({"stem": config.stem} if config.stem > 1 else {}),
            **({"detail": config.detail} if config.detail else {}),
            **({"predicts": self.predicts} if self.predicts != EPS else {}),
        }.items():
            yield name, str(value), self.origins.get(name, SHAPES)


class SemanticReading(Reading):
    """A network that is told maps of labels."""

    options = (
        *("precision", "guidance_scale", "channels_last", "edges"),
        *("heads", "head_channels", "attention_order", "betas", "image_size"),
    )


def read(shapes: Shapes, told: Told | None = None, described: Description | None = None) -> Reading:
    """The network that a set of tensors is: as the user told, else as its file or the table says, else as is usual."""
    told = told or Told()
    bare = described.config if described else _layout(shapes)
    assert not isinstance(bare, PatchConfig)
    known = None if described else _known(bare)
    origin = DESCRIBED if described else TABLE if known else ASSUMED
    facts = ("heads", "attention_order", "betas", "image_size", "stem", "detail", "predicts", "edges")
    origins = dict.fromkeys(facts, origin)
    config = known.config if known else bare
    if told.heads is not None:
        config, origins["heads"] = replace(config, num_head_channels=-1, num_heads=told.heads), OPTION
    if told.head_channels is not None:
        config, origins["heads"] = replace(config, num_head_channels=told.head_channels), OPTION
    if told.attention_order is not None:
        new = told.attention_order == "new"
        config, origins["attention_order"] = replace(config, use_new_attention_order=new), OPTION
    if told.edges is not None and isinstance(config, SemanticConfig):
        config, origins["edges"] = with_edges(config, told.edges), OPTION
    betas = described.betas if described else known.betas if known else BETAS[0]
    if told.betas is not None:
        betas, origins["betas"] = told.betas, OPTION
    usual = described.image_size if described else known.image_size if known else None
    size, origins["image_size"] = _image_size(config, usual, told, origins["image_size"])
    kind = SemanticReading if isinstance(config, SemanticConfig) else Reading
    return kind(config, size, betas, known, origins, described)


def _layout(shapes: Shapes) -> WindowConfig:
    return semantic_layout(shapes) if is_semantic(shapes) else layout(shapes)


def with_edges(config: SemanticConfig, edges: bool) -> SemanticConfig:
    """The same tensors, the last channel of their labels being that of edges, or of one more class."""
    channels = config.label_channels
    if channels < 1 + edges:
        raise InputError("model.edges is true; this network has one label channel, which leaves none for a class")
    return replace(config, num_classes=channels - edges, edges=edges)


def _known(bare: WindowConfig) -> Known | None:
    """The entry of the table that differs at most in what shapes do not tell."""
    untold = ("num_head_channels", "num_heads", "use_new_attention_order")
    as_bare = {name: getattr(bare, name) for name in untold}
    for known in KNOWN:
        config = known.config
        if isinstance(config, SemanticConfig):
            config = with_edges(config, edges=False)
        if type(config) is type(bare) and replace(config, **as_bare) == bare:
            return known
    return None


def _image_size(config: WindowConfig, known: int | None, told: Told, origin: str) -> tuple[int, str]:
    """The side of a training image in pixels, and how it is known."""
    fixed = config.image_size if isinstance(config, ClassifierConfig) else None
    if told.image_size is not None:
        if told.image_size % config.size_multiple or fixed not in (None, told.image_size):
            takes = fixed or f"a multiple of {config.size_multiple}"
            raise InputError(f"model.image_size is {told.image_size}; this network takes {takes}")
        return told.image_size, OPTION
    if fixed is not None:
        return fixed, SHAPES
    if known:
        return known, origin
    return max(64, config.size_multiple, _LEAST_ATTENDED * max(config.attention_resolutions, default=1)), ASSUMED
