"""What a denoiser needs and promises, as plain data: read by the planner, so torch stays out of here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Self, get_args

from ..tiling.errors import InputError
from .adm_config import NORM_GROUPS, AdmConfig, EncoderConfig, effort
from .patchdm_signatures import PatchReading
from .semantic_config import SemanticConfig
from .signatures import Reading, Told
from .spatial_config import ALPHA, ITERATIONS, PICKINGS, PLANES, Picking, SpatialConfig, SpatialReading
from .style import Style
from .weights import digest_of, read_weights, shipped, title_of

# Maps of the widest level that a network holds at once inside a block: its input, the concatenation and what norms
# and convolutions make of them in float32, with room for working memory. With 16 of them, measured peaks were up to
# 1.4 times the estimate.
LIVE_MAPS = 24
# Of what draws the details of single pixels: fewer, since no norms work in float32 there.
LIVE_DETAILS = 8

Precision = Literal["fp32", "bf16", "fp16"]
Covariance = Literal["exponential", "matern32", "matern52"]
Model = str | Mapping[str, object]
# Patches along a side of the window that a Patch-DM network is given unless a job says otherwise.
NATIVE_PATCHES = 4


@dataclass(frozen=True, slots=True)
class Contract:
    """A denoiser's terms, checked before anything starts.

    Sizes are pixels of the network's window. ``bands`` None means any number; ``value_range`` None
    means values without bounds, so that predictions are never clipped. ``conditions`` names what the
    network is told besides the noisy window and its timestep, ``classes`` counts those it draws;
    ``betas`` (a name, or one by one) and ``timesteps`` are the noise schedule it was made for.
    ``batches``: several windows in one call may be faster than one by one; ``batch_limits`` are the
    fewest and the most that one call takes, None for any number. ``weight_bytes`` is what its files hold,
    ``live_channels`` how many numbers live at once for each pixel of a window, as far as they tell. ``patch`` is the
    side of a patch, of a network whose patches exchange features, ``features`` how many numbers those of a patch are.
    ``spans`` are the values of each band that were -1 and 1 when it was trained, and ``dtype`` is the type that they
    were of, where its file tells. A call on a window of n pixels takes ``a n + b n^2`` floating-point operations, with
    ``effort`` (a, b); None where that is not known.
    ``label_classes`` counts the classes that a pixel of its map of labels may have, ``label_edges`` says that it is
    told edges of instances.
    A network that fills ``holes`` does nothing else; ``steps`` are those of a job that does not say how many.
    """

    name: str
    bands: int | None = None
    size_multiple: int = 1
    native_tile: int = 64
    smallest_tile: int = 1
    value_range: tuple[float, float] | None = (-1.0, 1.0)
    conditions: tuple[str, ...] = ()
    batches: bool = True
    betas: str | tuple[float, ...] = "linear"
    timesteps: int = 1000
    classes: int | None = None
    weight_bytes: int = 0
    live_channels: int = 0
    largest_tile: int | None = None
    batch_limits: tuple[int, int | None] = (1, None)
    patch: int | None = None
    features: int = 0
    spans: tuple[tuple[float, float], ...] | None = None
    dtype: str | None = None
    effort: tuple[float, float] | None = None
    label_classes: int | None = None
    label_edges: bool = False
    holes: bool = False
    steps: int = 50

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Self:
        """The contract that :meth:`stored` wrote."""
        values: dict[str, Any] = {name: _tupled(value) for name, value in stored.items()}
        return cls(**values)

    def stored(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def shown(self, bands: int) -> int:
        """Channels of a window of so many bands, as the network is shown it."""
        return bands + (PLANES if self.holes else 0)

    @property
    def learned(self) -> bool:
        """Whether it is a network with weights, and no exact field."""
        return self.weight_bytes > 0

    def check(self, tile: tuple[int, int], bands: int) -> None:
        """Refuse a window (rows, columns) or a number of bands that the network cannot take."""
        if self.bands not in (None, bands):
            raise InputError(
                f"model {self.name} works on {self.bands} bands, the image has {bands}: give it an image of "
                f"{self.bands} bands, or choose another model"
            )
        multiple, least, most = self.size_multiple, self.smallest_tile, self.largest_tile
        for size in tile:
            if size < least or size % multiple or (most is not None and size > most):
                nearest = max(round(size / multiple), -(-least // multiple)) * multiple
                nearest = nearest if most is None else min(nearest, most // multiple * multiple)
                raise InputError(
                    f"tile {size} does not suit model {self.name}: it takes multiples of {multiple} "
                    f"from {least} {'up' if most is None else f'to {most}'}; the nearest is {nearest}"
                )

    def check_batch(self, batch: int) -> None:
        """Refuse a number of windows that one call does not take."""
        least, most = self.batch_limits
        if batch < least or (most is not None and batch > most):
            takes = f"at least {least}" if most is None else f"{least} to {most}" if least < most else f"exactly {most}"
            raise InputError(
                f"batch is {batch}, but one call of model {self.name} takes {takes} windows: "
                f"set batch to {least}, or to auto"
            )


def _tupled(value: object) -> object:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class GaussianSpec:
    """A stationary Gaussian field in model range, its covariance a product over rows, columns and bands.

    ``length`` is the correlation length in pixels of the image itself; coarser levels are this field
    pooled. Any two bands have the correlation ``band_correlation``.
    """

    covariance: Covariance = "matern32"
    length: float = 12.0
    std: float = 0.4
    mean: float = 0.0
    band_correlation: float = 0.5

    def __post_init__(self) -> None:
        """Refuse values that describe no field."""
        if self.covariance not in get_args(Covariance):
            raise InputError(
                f"model.covariance is {self.covariance!r}; choose one of {', '.join(get_args(Covariance))}"
            )
        for name in ("length", "std", "mean", "band_correlation"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
                raise InputError(f"model.{name} is {value!r}; give a finite number")
        if self.length <= 0:
            raise InputError(f"model.length is {self.length}; give a correlation length above 0 pixels")
        if self.std <= 0:
            raise InputError(f"model.std is {self.std}; give a standard deviation above 0")
        if not 0 <= self.band_correlation < 1:
            raise InputError(
                f"model.band_correlation is {self.band_correlation}; give a number from 0 up to, not including, 1"
            )


def split_model(model: Model) -> tuple[str, dict[str, object]]:
    """The model's name and its options, from either way of writing them: a name, or a mapping with ``name``.

    A name may be the path of a file or folder; one of what comes with the package becomes that of its file.
    """
    options: dict[str, object] = {"name": model} if isinstance(model, str) else dict(model)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise InputError("model.name is missing; name one, such as gaussian")
    return shipped().get(name, name), options


def gaussian_spec(options: Mapping[str, object]) -> GaussianSpec:
    """The field that a model's options describe."""
    known = [field.name for field in fields(GaussianSpec)]
    for name in options:
        if name not in known:
            raise InputError(f"model.{name} is no option of gaussian; its options are {', '.join(known)}")
    return GaussianSpec(**options)  # type: ignore[arg-type]  # __post_init__ checks every value


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What a job says of a network: the ``precision`` of its convolutions, the class ``label`` of every tile.

    ``channels_last`` is how its numbers lie in memory, None: in reduced precision only, since in float32 it is a
    little faster and rounds otherwise than the published programs. ``compile``: torch compiles it for the job's
    batch, which takes minutes and pays in long jobs. ``guidance`` is how far it goes beyond what it predicts when
    it is told all, away from what it predicts when it is told nothing; ``guidance_scale`` is the same as programs of
    networks of labels write it, 1 more, and up to 1 none. ``style`` is how an image looks, as
    :meth:`Style.parse` reads it. ``picking`` is how many pixels of a hole are filled at each step, ``alpha`` the share
    of its standard deviation that is drawn. ``told`` is what shapes cannot tell of it.
    """

    precision: Precision = "fp32"
    label: int | None = None
    channels_last: bool | None = None
    compile: bool = False
    guidance: float = 0.0
    guidance_scale: float = 1.0
    style: str | None = None
    picking: Picking = "uniform"
    alpha: float = ALPHA
    told: Told = field(default_factory=Told)

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.precision not in get_args(Precision):
            raise InputError(f"model.precision is {self.precision!r}; choose one of {', '.join(get_args(Precision))}")
        if self.label is not None and (isinstance(self.label, bool) or not isinstance(self.label, int)):
            raise InputError(f"model.label is {self.label!r}; give the number of a class")
        for name in ("channels_last", "compile"):
            if not isinstance(getattr(self, name), bool | None):
                raise InputError(f"model.{name} is {getattr(self, name)!r}; choose true or false")
        for name, none in (("guidance", 0), ("guidance_scale", 1), ("alpha", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
                raise InputError(f"model.{name} is {value!r}; give a number, {none} for none")
        if self.picking not in PICKINGS:
            raise InputError(f"model.picking is {self.picking!r}; choose one of {', '.join(PICKINGS)}")
        if not isinstance(self.style, str | None):
            raise InputError(f"model.style is {self.style!r}; give row:N, sample, or the path of an image or a code")

    @property
    def lies_channels_last(self) -> bool:
        """How the network's numbers lie in memory."""
        return self.precision != "fp32" if self.channels_last is None else self.channels_last


_OWN = ("precision", "label", "channels_last", "compile", "guidance", "guidance_scale", "style", "picking", "alpha")
Read = Reading | PatchReading | SpatialReading


def network_options(file: str, options: Mapping[str, object]) -> NetworkOptions:
    """The options of a model that is a weights file."""
    told = [field.name for field in fields(Told)]
    for name in options:
        if name not in (*_OWN, *told):
            known = ", ".join((*_OWN, *told))
            raise InputError(f"model.{name} is no option of {file}; a network's options are {known}")
    said = Told(**{name: options[name] for name in told if name in options})  # type: ignore[arg-type]  # it checks them
    rest = {name: options[name] for name in _OWN if name in options}
    return NetworkOptions(told=said, **rest)  # type: ignore[arg-type]  # __post_init__ checks every value


def asked_network(file: str, options: Mapping[str, object]) -> tuple[NetworkOptions, Read]:
    """What a job says of a weights file, and the network that this makes it; refuses what says nothing of such."""
    asked = network_options(file, options)
    reading = read_weights(file, asked.told)
    for name, value in options.items():
        if value is not None and name not in reading.options:
            known = ", ".join(reading.options)
            raise InputError(f"model.{name} is no option of {file}, which is {reading.kind}; its options are {known}")
    return asked, reading


def telling_options(file: str, options: Mapping[str, object]) -> dict[str, object]:
    """The options of a weights file without which it would be another network; the rest is written at its default."""
    asked = network_options(file, options)
    usual = {
        "precision": NetworkOptions().precision,
        "channels_last": NetworkOptions(asked.precision).lies_channels_last,
        "compile": False,
        "guidance": 0,
        "guidance_scale": 1,
        "picking": PICKINGS[0],
        "alpha": ALPHA,
    }
    said = {name: value for name, value in options.items() if value is not None and value != usual.get(name)}
    if asked.style and (shown := Style.parse(asked.style).file):
        said["style"] = digest_of(shown)
    return {name: value for name, value in said.items() if name in _OWN or _tells(file, asked.told, name)}


def _tells(file: str, told: Told, name: str) -> bool:
    """Whether a file is read as another network where the user does not say one thing of it."""
    found = read_weights(file, told)
    try:
        bare = read_weights(file, replace(told, **{name: None}))
    except InputError:
        # It cannot be read without.
        return True
    return found.told != bare.told


def label_of(model: Model) -> int | None:
    """The class that a model is to draw; None where the job names none."""
    label = split_model(model)[1].get("label")
    return label if isinstance(label, int) else None


def network_contract(file: str, reading: Read, asked: NetworkOptions) -> Contract:
    """The terms of a network that was read from a file, as a job asks for it."""
    if isinstance(reading, SpatialReading):
        return _of_holes(file, reading)
    if isinstance(reading, PatchReading):
        return _of_patches(file, reading, asked.style, guided=bool(asked.guidance))
    return _of_windows(file, reading, asked)


def _learned(reading: Read) -> dict[str, Any]:
    """Of a network that was trained here: what -1 and 1 stood for, and of which type values were."""
    return {"spans": reading.described.spans, "dtype": reading.described.dtype} if reading.described else {}


def _of_holes(file: str, reading: SpatialReading) -> Contract:
    config = reading.config
    return Contract(
        title_of(file),
        bands=config.in_channels,
        size_multiple=config.size_multiple,
        native_tile=reading.image_size,
        # Evened features of a group need more than one value.
        smallest_tile=2 * config.size_multiple,
        conditions=("known", "uncertainty", "noise"),
        weight_bytes=Path(file).stat().st_size,
        live_channels=live_in(config),
        holes=True,
        steps=ITERATIONS,
        **_learned(reading),
    )


def _of_patches(file: str, reading: PatchReading, style: str | None, *, guided: bool) -> Contract:
    config = reading.config
    if config.in_channels != config.out_channels:
        raise InputError(
            f"{file} turns {config.in_channels} channels into {config.out_channels}, and the noise has as many as the "
            "image: name the file of another network"
        )
    if style is not None:
        Style.parse(style).check(config, file)
    if guided and not (config.positions or config.style_channels):
        raise InputError(f"model.guidance leads away from what {file} is told, which is nothing: leave it out")
    return Contract(
        title_of(file),
        bands=config.in_channels,
        size_multiple=config.patch,
        native_tile=NATIVE_PATCHES * config.patch,
        smallest_tile=config.patch,
        conditions=("position",) if config.positions else (),
        patch=config.patch,
        features=config.feature_values * (2 if guided else 1),
        betas=reading.betas,
        weight_bytes=Path(file).stat().st_size,
        # A window of one patch has four encoder patches around it, and their features once more as a collage.
        live_channels=max(5 * live_channels(config.widths, config.num_res_blocks, stem=config.stem), live_in(config)),
        **_learned(reading),
    )


def _of_windows(file: str, reading: Reading, asked: NetworkOptions) -> Contract:
    config = reading.config
    if not isinstance(config, AdmConfig | SemanticConfig):
        raise InputError(f"{file} is {reading.kind}, which guides a model but is none: name the file of a U-Net")
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        raise InputError(
            f"{file} turns {config.in_channels} channels into {config.out_channels}, so that it needs more than "
            "the noisy image: name the file of a network without such inputs"
        )
    labelled = isinstance(config, SemanticConfig)
    if not labelled:
        check_label(file, config.num_classes, asked.label)
    # Both halves of what is guided lie in one batch.
    ways = 2 if asked.guidance_scale > 1 else 1
    return Contract(
        title_of(file),
        bands=config.in_channels,
        size_multiple=config.size_multiple,
        native_tile=reading.image_size,
        # Of a single pixel with a channel a group, a norm would leave nothing.
        smallest_tile=config.size_multiple * (2 if min(config.widths) <= NORM_GROUPS else 1),
        betas=reading.betas,
        conditions=("labels",) if labelled else (),
        classes=None if labelled else config.num_classes,
        label_classes=config.num_classes if labelled else None,
        label_edges=isinstance(config, SemanticConfig) and config.edges,
        weight_bytes=Path(file).stat().st_size,
        live_channels=ways * live_in(config),
        effort=effort(config) if isinstance(config, AdmConfig) else None,
        **_learned(reading),
    )


def live_channels(widths: Sequence[int], blocks: int, *, stem: int = 1) -> int:
    """Numbers a pixel of the window: a U-Net's outputs on the way down, all kept for the way up, and a block's own."""
    maps: list[int] = [-(-wide // (stem**2 * 4**level)) for level, wide in enumerate(widths)]
    return sum(maps) * (blocks + 1) + LIVE_MAPS * max(maps)


def live_in(config: EncoderConfig | SpatialConfig) -> int:
    """The same of a network by its shape; with what draws the details of single pixels, when all else is gone."""
    torso = live_channels(config.widths, config.num_res_blocks, stem=config.stem)
    return max(torso, LIVE_DETAILS * config.detail)


def check_label(file: str, classes: int | None, label: int | None) -> None:
    """Refuse a class that a network does not draw, and a network of classes without one."""
    if classes is None and label is not None:
        raise InputError(f"model.label is {label}, but {file} knows no classes: leave the label out")
    if classes is not None and (label is None or not 0 <= label < classes):
        given = "missing" if label is None else label
        raise InputError(f"model.label is {given}; give the class that {file} draws, 0 to {classes - 1}")


def weights_contract(name: str, options: Mapping[str, object]) -> Contract:
    """The contract of a weights file, of which the shapes are read."""
    asked, reading = asked_network(name, options)
    return network_contract(name, reading, asked)


def gaussian_contract(options: Mapping[str, object]) -> Contract:
    """The contract of a field: any number of bands, any window, values without bounds."""
    gaussian_spec(options)
    return Contract("gaussian", native_tile=64, smallest_tile=4, value_range=None, conditions=("level",), batches=False)
