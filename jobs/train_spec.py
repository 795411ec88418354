"""The job of a training: what a network learns from, how, and for how long; read as strictly as any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from os import PathLike, path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, model_validator

from ..cluster.executor import CrewSpec
from ..models.adm_config import NORM_GROUPS, AdmConfig, ClassifierConfig, Pool
from ..models.contract import Precision
from ..models.patchdm_config import PatchConfig
from ..models.semantic_config import SemanticConfig
from ..models.signatures import Trained
from ..models.spatial_config import SpatialConfig
from ..models.training.recipe import Course, Learning, Subject
from ..models.weights import shipped, weights_digest
from ..tiling.crops import Cutting, Scene
from ..tiling.errors import InputError
from .manifest import Manifest
from .refusal import Meant, at_key, refusal
from .spec import Strict, digest_of, rooted_model, rooted_path
from .values import Accelerators, Count, File, Finite, Flag, Mapped, Noise, Positive, Seed, Share, Whole
from .yamlfile import read_yaml

# None of these changes what a step learns, so a training may go on with others; data has a digest of its own.
_RUNNING = {"data", "output", "steps", "check", "sheet", "checkpoint", "log", "half", "cluster"}
# Keys that mean something to networks of some kinds alone.
_KINDS_OF = {
    "variance": {"unet", "semantic"},
    "predicts": {"unet", "patches", "semantic"},
    "classes": {"unet", "classifier", "semantic"},
    "edges": {"semantic"},
    "detail": {"unet", "patches", "semantic", "spatial"},
    "pool": {"classifier"},
    "patch": {"patches"},
    "positions": {"patches"},
    "style": {"patches"},
}
# What a Patch-DM network's blocks are told, in units of its width, as ADM's.
_EMBEDDED = 4
_IMAGES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".zarr")
_FILES, _ROOTED = ("image", "mask", "classes", "instances"), ("output", "features")
# Between what StyleGAN2's networks were published with and what learns best from pixels.
_CONTEST_BETAS = (0.5, 0.99)


def _listed(data: object) -> object:
    """One image, or what names many, as the list it stands for; texts as the mappings they stand for."""
    entries = data if isinstance(data, list) else [data]
    return tuple({"image": entry} if isinstance(entry, str) else entry for entry in entries)


def _pairs(span: object) -> object:
    """One range as the list it stands for; anything else is left for the type check."""
    if isinstance(span, list | tuple) and span and not isinstance(span[0], list | tuple):
        return (tuple(span),)
    return tuple(tuple(pair) if isinstance(pair, list) else pair for pair in span) if isinstance(span, list) else span


Pair = Annotated[tuple[Finite, Finite], Field(strict=False)]
Ranges = Annotated[
    Annotated[tuple[Pair, ...], Field(min_length=1)] | Literal["measure"],
    BeforeValidator(_pairs),
    Meant("two numbers, the lower first, or a list of such pairs, one a band, or measure"),
]
Widths = Annotated[
    tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...],
    Field(min_length=1, strict=False),
    Meant("a list of numbers above 0, such as [1, 2, 2]"),
]
Factors = Annotated[
    tuple[Annotated[int, Field(ge=1, strict=True)], ...],
    Field(strict=False),
    Meant("a list of whole numbers from 1 up, such as [2, 4]"),
]
Below = Annotated[float, Field(ge=0, lt=1), Meant("a number from 0 to below 1")]


class Entry(Strict):
    """One image to learn from, or with a folder, pattern or list as ``image``, many."""

    image: File = Field(description="An image, a folder, a pattern such as scans/*.tif, or a list (.csv, .jsonl).")
    mask: File | None = Field(default=None, description="An image that is not 0 where nothing may be learned.")
    label: Whole | None = Field(default=None, description="The class that all of it shows.")
    classes: File | None = Field(default=None, description="An image of one band with the class of each pixel.")
    instances: File | None = Field(default=None, description="An image of one band with the instance of each pixel.")


Entries = Annotated[
    tuple[Entry, ...],
    BeforeValidator(_listed),
    Field(min_length=1),
    Meant("an image, a folder, a pattern or a list of images, or several of them in a list"),
]


class NetworkSpec(Strict):
    """The network that is trained: an ADM U-Net, the classifier that guides one, or one of another method."""

    kind: Annotated[
        Literal["unet", "classifier", "patches", "semantic", "spatial"],
        Meant("unet, classifier, patches, semantic or spatial"),
    ] = Field(
        default="unet",
        description="unet denoises; classifier guides one to a class; patches denoises patch by patch (Patch-DM); "
        "semantic draws what a map of classes says; spatial fills holes.",
    )
    width: Count = Field(default=64, description="Channels that levels are multiples of.")
    levels: Widths = Field(default=(1, 2), description="Channels of each level, finest first, in units of width.")
    blocks: Count = Field(default=2, description="Residual blocks of a level.")
    attention: Factors = Field(default=(2,), description="Levels with attention, by how much coarser than the stem.")
    head_channels: Count = Field(default=32, description="Channels of a head of attention.")
    stem: Count = Field(
        default=1, description="Pixels along a side that are folded into channels first: 2 or 4 make it much faster."
    )
    detail: Whole = Field(
        default=0,
        description="Channels of every single pixel, which draw what a stem blurs, an even number: 32 take a tenth to "
        "a third more time; 0: none.",
    )
    variance: Annotated[Literal["learned", "fixed"], Meant("learned or fixed")] = Field(
        default="learned", description="Whether a U-Net learns the variance of a step, too."
    )
    predicts: Annotated[Literal["v", "eps"], Meant("v or eps")] = Field(
        default="v", description="What a U-Net predicts: v learns much faster, eps is what ADM was published with."
    )
    classes: Count | None = Field(default=None, description="Classes that it draws, or tells apart; none if left out.")
    edges: Flag | None = Field(
        default=None, description="Whether a semantic network is told edges, of instances or else of classes."
    )
    pool: Annotated[Pool, Meant("attention or adaptive")] = Field(
        default="attention", description="How a classifier sums up: attention takes crops of one size only."
    )

    patch: Count = Field(default=32, description="Of patches: pixels along a side of one.")
    positions: Flag = Field(
        default=True,
        description="Of patches: whether a network is told where in its image a patch lies, in half of the crops; "
        "false for images far larger than crops.",
    )
    style: Annotated[Literal["none", "table"], Meant("none or table")] = Field(
        default="none",
        description="Of patches: table learns a style for each image, told in nine of ten crops, to draw in later.",
    )

    @property
    def foreign(self) -> set[str]:
        """Keys that mean nothing to its kind."""
        return {key for key, kinds in _KINDS_OF.items() if self.kind not in kinds}

    @property
    def multiple(self) -> int:
        """What the sides of all that it sees are multiples of."""
        return self.stem << len(self.levels) - 1

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        for key in sorted(self.foreign & self.model_fields_set):
            raise at_key(f"network.{key}", f"means nothing to a network of kind {self.kind}: leave it out")
        if self.kind == "patches" and self.patch % (2 * self.multiple):
            raise at_key(
                "network.patch", f"{self.patch} is no multiple of {2 * self.multiple}, which the network's levels need"
            )
        if self.kind == "spatial":
            try:
                SpatialConfig(**self.shape(bands=1))
            except InputError as error:
                raise at_key("network.levels", str(error)) from None
            return self
        for level in self.levels:
            wide = int(level * self.width)
            if not wide or wide % NORM_GROUPS:
                raise at_key(
                    "network.levels",
                    f"{level:g} times the width of {self.width} is {wide} channels, which is no multiple of "
                    f"{NORM_GROUPS}: choose others",
                )
            if wide % self.head_channels:
                raise at_key("network.head_channels", f"{self.head_channels} does not divide a level's {wide} channels")
        if self.kind == "classifier" and self.classes is None:
            raise at_key("network.classes", "a classifier tells classes apart: say how many")
        if self.kind == "semantic" and self.classes is None:
            raise at_key("network.classes", "a semantic network is told the class of each pixel: say how many")
        return self

    def shape(self, bands: int) -> dict[str, Any]:
        """What networks of all kinds are made of, for images of so many bands."""
        return {
            "model_channels": self.width,
            "channel_mult": self.levels,
            "num_res_blocks": self.blocks,
            "attention_resolutions": self.attention,
            "in_channels": bands,
            "num_head_channels": self.head_channels,
            "stem": self.stem,
            "detail": self.detail,
        }


class Workers(Strict):
    """Workers of Ray that share each step's crops; they must see data and output at the same addresses."""

    workers: Count = Field(default=1, description="Workers that share every batch; 1 is this process, without Ray.")
    address: Annotated[str, Field(min_length=1), Meant("the address of a Ray cluster, such as auto")] | None = Field(
        default=None, description="The Ray cluster of the workers; if left out, one is started here for the job alone."
    )
    cpus: Share = Field(default=1.0, description="Cores of each worker.")
    gpus: Accelerators = Field(default=0.0, description="Accelerators of each worker.")
    restarts: Whole = Field(default=20, description="How often all may begin anew, from a checkpoint, after a loss.")


class TrainSpec(Strict):
    """What is trained, from what, and where it goes; paths of :func:`load_training` are absolute."""

    data: Entries = Field(description="Images to learn from: one, a folder, a pattern, a list, or several of these.")
    output: File = Field(description="The folder or prefix where weights, log, sheets and checkpoints go.")
    crop: Count = Field(default=64, description="Pixels along a side of what it learns from at once, its own tile.")
    held_out: Below = Field(
        default=0.02, description="Share of the images that is never learned from, but checked on; 0 for none."
    )
    flips: Flag = Field(default=False, description="Mirror half of the crops: true where left is as good as right.")
    turns: Flag = Field(default=False, description="Turn crops by quarters: true where no side is up.")
    coarse: Below = Field(
        default=0.0,
        description="Share of the crops that are seen from twice as far, of these the same share from twice as far "
        "again, and so on up to eight times: such are the coarse levels of hierarchical jobs.",
    )
    range: Ranges | None = Field(
        default=None,
        description="Values that become -1 and 1, for all bands or for each, or measure to find them; "
        "if left out, [0, 255] for uint8, [0, 65535] for uint16 and [0, 1] for floats.",
    )
    network: Annotated[NetworkSpec, Mapped] = Field(default=NetworkSpec(), description="The network.")
    start: File | None = Field(
        default=None,
        description="A model of the same network whose weights it begins with: a file, or the name of one that comes "
        "with tileloom. Random ones if left out.",
    )
    features: File | None = Field(
        default=None,
        description="Weights of a ResNet-50 in the common format, whose features pictures with filled holes are "
        "compared by; if left out, those of the network's critic.",
    )
    alone: Whole = Field(
        default=0,
        description="Of networks that fill holes: so many first steps learn from pixels alone, several times as fast. "
        "Then a critic joins in.",
    )
    betas: Annotated[Literal["linear", "cosine"], Meant("linear or cosine")] = Field(
        default="linear", description="The noise schedule, of 1000 timesteps."
    )
    drop_label: Noise = Field(
        default=0.0,
        description="Share of crops whose class is not told; a unet has one class more then, for none.",
    )
    seed: Seed = Field(default=0, description="Same seed, same losses.")
    steps: Count = Field(default=100_000, description="Steps in all; more of them go on with what was trained.")
    batch: Count = Field(default=16, description="Crops of a step.")
    rate: Positive = Field(default=1e-4, description="Learning rate of AdamW.")
    warmup: Whole = Field(default=500, description="Steps in which the rate rises to it.")
    halving: Whole = Field(default=0, description="Steps in which the rate halves after that; 0: it stays.")
    weight_decay: Share = Field(default=0.0, description="AdamW's weight decay.")
    clip: Positive = Field(default=1.0, description="Length that gradients are shortened to.")
    ema: Below = Field(
        default=0.9999, description="What a step keeps of the running mean of weights, which is published."
    )
    precision: Annotated[Precision, Meant("fp32, bf16 or fp16")] = Field(
        default="fp32", description="Precision of the arithmetic; weights are always learned in fp32."
    )
    recompute: Flag = Field(default=False, description="Take less memory and a third more time.")
    threads: Count = Field(default=1, description="Threads on a processor; another number gives other bits.")
    log: Count = Field(default=50, description="Steps between lines of the log.")
    check: Count = Field(default=500, description="Steps between checks on what is held out.")
    sheet: Count = Field(default=1000, description="Steps between sheets of pictures.")
    checkpoint: Count = Field(default=500, description="Steps between checkpoints.")
    half: Flag = Field(default=True, description="Publish weights in 16 bits.")
    cluster: Annotated[Workers, Mapped] = Field(default=Workers(), description="Workers beside this process.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        multiple = self.network.multiple
        least = multiple * 2
        if self.network.kind == "patches" and self.crop % self.network.patch:
            raise at_key("crop", f"{self.crop} is no multiple of the {self.network.patch} pixels of network.patch")
        if self.crop % multiple or self.crop < least:
            raise at_key(
                "crop", f"{self.crop} is no multiple of {multiple} from {least} up, which the network's levels need"
            )
        for low, high in self.range if isinstance(self.range, tuple) else ():
            if low >= high:
                raise at_key("range", f"{low:g} is not below {high:g}: write the lower number first")
        if self.batch % self.cluster.workers:
            raise at_key("batch", f"{self.batch} crops are not shared evenly by {self.cluster.workers} workers")
        if self.cluster.address is not None and self.cluster.workers == 1:
            raise at_key("cluster.workers", "an address names a cluster for workers: say how many, or drop it")
        self._contested()
        if self.drop_label and (self.network.classes is None or self.network.kind == "classifier"):
            raise at_key("drop_label", "only a U-Net of classes is told one that could be dropped: leave it out")
        classes = self.network.classes
        for number, entry in enumerate(self.data):
            told = entry.label is not None or entry.classes is not None
            # Each row of a list may name its own.
            if classes is not None and not told and _is_image(entry.image):
                raise at_key("data", f"{entry.image} has no label, and the network has classes: give label or classes")
            if classes is None and told:
                raise at_key("data", f"{entry.image} has a label, and the network has no classes: set network.classes")
            if entry.label is not None and classes is not None and entry.label >= classes:
                raise at_key("data", f"{entry.image} has label {entry.label}; classes are 0 to {classes - 1}")
            if self.network.kind == "semantic" and entry.classes is None and _is_image(entry.image):
                raise at_key("data", f"{entry.image} has no map, and a semantic network learns from one: give classes")
            if entry.instances is not None and not self.network.edges:
                raise at_key("data", f"{entry.image} has instances, and the network no edges: set network.edges")
            if entry.label is not None and entry.classes is not None:
                raise at_key("data", f"entry {number + 1} has both label and classes: give one of them")
        return self

    def _contested(self) -> None:
        """Refuse what only networks with a critic have, or all others."""
        fills = self.network.kind == "spatial"
        if self.features is not None and not fills:
            raise at_key("features", "only a network of kind spatial compares pictures by them: leave it out")
        if self.alone and not fills:
            raise at_key("alone", "only a network of kind spatial has a critic that could join in later: leave it out")
        if fills and self.precision == "fp16":
            raise at_key("precision", "a critic's gradients are too small for fp16: choose bf16 or fp32")
        if fills and "betas" in self.model_fields_set:
            raise at_key("betas", "a network of kind spatial has no schedule of noise: leave it out")
        if fills and self.recompute:
            raise at_key("recompute", "a network of kind spatial has no stages to compute again: leave it out")

    @property
    def cutting(self) -> Cutting:
        """How crops are cut."""
        told, mapped = self.network, self.network.kind == "semantic"
        how = (self.crop, self.seed, self.held_out, self.flips, self.turns, self.range, told.classes)
        return Cutting(*how, mapped=mapped, edges=bool(told.edges), coarse=self.coarse)

    @property
    def learning(self) -> Learning:
        """How it learns."""
        names = ("rate", "warmup", "halving", "weight_decay", "clip", "ema", "precision", "recompute")
        learning = Learning(**{name: getattr(self, name) for name in names})
        return replace(learning, betas=_CONTEST_BETAS) if self.network.kind == "spatial" else learning

    @property
    def course(self) -> Course:
        """How long, and what it leaves when."""
        names = ("steps", "batch", "log", "check", "sheet", "checkpoint", "half")
        return Course(**{name: getattr(self, name) for name in names})

    def subject(self, bands: int, images: int) -> Subject:
        """The network, for so many images of so many bands."""
        predicts = "eps" if "predicts" in self.network.foreign else self.network.predicts
        config = self._config(bands, images)
        return Subject(
            config=config,
            betas=self.betas,
            predicts=predicts,
            drop_label=self.drop_label,
            seed=self.seed,
            start=self._start,
            features=self.features,
            alone=self.alone,
        )

    def _config(self, bands: int, images: int) -> Trained | SpatialConfig:
        told, same = self.network, self.network.shape(bands)
        if told.kind == "spatial":
            return SpatialConfig(**same)
        drawn = bands * (2 if told.variance == "learned" else 1)
        if told.kind == "classifier":
            size = self.crop if told.pool == "attention" else None
            return ClassifierConfig(**same, out_channels=told.classes or 0, pool=told.pool, image_size=size)
        if told.kind == "semantic":
            return SemanticConfig(**same, out_channels=drawn, num_classes=told.classes or 0, edges=bool(told.edges))
        if told.kind == "patches":
            embedded, styled = _EMBEDDED * told.width, told.style == "table"
            return PatchConfig(
                **same,
                out_channels=bands,
                patch=told.patch,
                embed_channels=embedded,
                style_channels=embedded if styled else 0,
                positions=told.positions,
                codes=images if styled else None,
            )
        return AdmConfig(
            **same,
            out_channels=drawn,
            num_classes=told.classes and told.classes + bool(self.drop_label),
        )

    @property
    def crew(self) -> CrewSpec:
        """The workers that are asked for."""
        return CrewSpec(**self.cluster.model_dump())

    def scenes(self) -> list[Scene]:
        """All images, with those that folders, patterns and lists name."""
        classed = self.network.classes is not None
        found = [scene for entry in self.data for scene in _scenes(entry, classed=classed)]
        for scene in found:
            if classed and scene.label is None and scene.classes is None:
                raise InputError(f"{scene.image} has no label, and the network has classes: give its row labels")
        return found

    @property
    def _start(self) -> str | None:
        """The file that it begins with."""
        return self.start and shipped().get(self.start, self.start)

    def identity(self) -> dict[str, JsonValue]:
        """Whatever decides what a step learns, as plain JSON."""
        told: dict[str, JsonValue] = self.model_dump(
            mode="json", exclude=_RUNNING | {"network", "start", "features", "alone"}
        )
        if self.network.kind == "spatial":
            told["alone"] = self.alone
        # A file is known by what is in it, wherever it lies.
        files = {"start": self._start, "features": self.features}
        told |= {key: weights_digest(file) for key, file in files.items() if file is not None}
        return told | {"network": self.network.model_dump(mode="json", exclude=self.network.foreign)}

    @property
    def digest(self) -> str:
        """What the training is known by."""
        return digest_of(self.identity())


def _scenes(entry: Entry, *, classed: bool) -> Iterator[Scene]:
    name = entry.image
    if _is_image(name):
        yield Scene(name, entry.mask, entry.label, entry.classes, entry.instances)
        return
    if entry.mask or entry.classes or entry.instances:
        raise InputError(f"{name} names many images, and a mask or map is of one: name the images one by one")
    manifest = Manifest(name)
    for row in (manifest[number] for number in range(len(manifest))):
        mapped = (row.labels, row.instances) if classed and entry.label is None else ()
        yield Scene(row.input, row.mask, entry.label, *mapped)


def _is_image(name: str) -> bool:
    """Whether a name is that of one image, and not of many."""
    pattern = any(mark in name for mark in "*?[") and not path.exists(name)
    known = path.splitext(name)[1].lower() in _IMAGES or path.isfile(path.join(name, "zarr.json"))
    return "://" in name or (known and not pattern)


def load_training(file: str | PathLike[str]) -> TrainSpec:
    """The training of a YAML file; its relative paths start from the file's folder."""
    base, name = path.dirname(path.abspath(file)), path.basename(file)
    content = read_yaml(file, needs="data and output")
    rooted = {key: rooted_path(value, base) if key in _ROOTED else value for key, value in content.items()}
    if "start" in rooted:
        rooted["start"] = rooted_model(rooted["start"], base)
    if "data" in rooted:
        entries = rooted["data"] if isinstance(rooted["data"], list) else [rooted["data"]]
        rooted["data"] = [_rooted(entry, base) for entry in entries]
    try:
        return TrainSpec.model_validate(rooted)
    except ValidationError as error:
        raise refusal(error, TrainSpec, lambda key: f"{name}: {key}") from None


def _rooted(entry: object, base: str) -> object:
    if isinstance(entry, Mapping):
        return {key: rooted_path(value, base) if key in _FILES else value for key, value in entry.items()}
    return rooted_path(entry, base)
