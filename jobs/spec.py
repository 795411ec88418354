"""The job: everything the user asks for, read strictly and never changed afterwards.

Every refusal is one sentence that names the key and says what was meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from os import PathLike, path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, model_validator

from ..models.weights import is_weights
from ..tiling.errors import InputError
from ..tiling.measurement import MaskSite, Measurement
from .refusal import Meant, at_key, refusal
from .task import describe, parse_task
from .yamlfile import read_yaml

PATHS = ("input", "output", "mask")
# How and where a job runs: none of it changes a byte of the result.
RUNNING = {"output", "retries", "on_error", "lanes", "priority", "keep_scratch", "max_memory", "publish"}


def _named(model: object) -> object:
    """A model's name alone as the mapping it stands for."""
    return {"name": model} if isinstance(model, str) else model


def _listed(task: object) -> object:
    """A task as the list it stands for; anything else is left for the type check."""
    if isinstance(task, str):
        return (task,)
    return tuple(task) if isinstance(task, list) else task


def _bytes(size: object) -> object:
    """Bytes of a text such as 4GB or 512MiB; anything else is left for the type check."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT])(i?)B", size) if isinstance(size, str) else None
    if not match:
        return size
    return int(float(match[1]) * (1024 if match[3] else 1000) ** ("KMGT".index(match[2]) + 1))


File = Annotated[str, Field(min_length=1), Meant("the path of a file or folder")]
Count = Annotated[int, Field(ge=1), Meant("a whole number from 1 up")]
Whole = Annotated[int, Field(ge=0), Meant("a whole number from 0 up")]
Factor = Annotated[int, Field(ge=2), Meant("a whole number from 2 up")]
Seed = Annotated[int, Field(ge=0, lt=2**64), Meant("a whole number from 0 to 2^64 - 1")]
Flag = Annotated[bool, Meant("true or false")]
Number = Annotated[float, Meant("a number")]
Noise = Annotated[float, Field(ge=0, le=1), Meant("a number from 0 to 1")]
AutoCount = Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], Meant("a whole number from 1 up, or auto")]
AutoWhole = Annotated[Annotated[int, Field(ge=0)] | Literal["auto"], Meant("a whole number from 0 up, or auto")]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
# YAML has lists only, so that the pair cannot be strict about being a tuple; its two numbers are.
Span = Annotated[tuple[Finite, Finite], Field(strict=False), Meant("two numbers, the lower first, such as [0, 255]")]
Task = Annotated[
    tuple[str, ...],
    BeforeValidator(_listed),
    Meant("what was done to the image, such as sr:4 or [inpaint, colorize, sr:2]"),
]
Model = Annotated[
    dict[str, JsonValue], BeforeValidator(_named), Meant("a model's name, or a mapping of its name and options")
]
Bytes = Annotated[int, Field(ge=1), BeforeValidator(_bytes), Meant("a number of bytes, or a text such as 4GB")]
Mapped = Meant("a mapping of keys and values")


class _Strict(BaseModel):
    """Unknown keys and values of another type are refused; nothing changes afterwards."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Travel(_Strict):
    """Time travel: how often, and how far, the schedule steps back to let constraints settle."""

    length: Count = Field(default=1, description="Steps taken back at a time.")
    repeat: Count = Field(default=1, description="How often each stretch of the schedule is run; 1 never goes back.")


class Publish(_Strict):
    """How the result is cut into files."""

    chunk: Count = Field(default=512, description="Pixels along a side of a chunk, the least that is read at once.")
    shard: Count = Field(default=2048, description="Pixels along a side of a shard, which is one file; whole chunks.")

    @model_validator(mode="after")
    def _whole_chunks(self) -> Self:
        if self.shard % self.chunk:
            raise at_key("publish.shard", f"{self.shard} is no multiple of publish.chunk, which is {self.chunk}")
        return self


class JobSpec(_Strict):
    """What is restored, how, and where it goes; paths of :func:`load_job` and :func:`from_options` are absolute."""

    input: File = Field(description="The image that was measured: Zarr, OME-Zarr, TIFF, PNG or JPEG.")
    output: File = Field(description="Where the result goes: a Zarr group, made by the job.")
    mask: File | None = Field(default=None, description="For inpaint: the image of what is missing, where not 0.")
    task: Task = Field(description="What was done to the image, first to last; the job undoes it.")
    noise: Noise = Field(default=0.0, description="Standard deviation of the input's noise, on a data range of [0, 1].")
    model: Model = Field(
        default={"name": "gaussian"},
        description="The denoiser, or the path of its weights, with its own options beside its name.",
    )
    steps: Count = Field(default=50, description="Steps of the schedule, each one a call of the network.")
    travel: Annotated[Travel, Mapped] = Field(default=Travel(), description="Time travel along the schedule.")
    seed: Seed = Field(default=0, description="Same seed, same bytes.")
    tile: AutoCount = Field(default="auto", description="Pixels along a side of a tile; auto is the model's own size.")
    stride: AutoCount = Field(default="auto", description="Pixels between tiles; auto is three quarters of a tile.")
    guard: AutoWhole = Field(
        default="auto",
        description="Pixels at a tile's east and south edge that the next tile draws again; auto is an eighth.",
    )
    weave: Annotated[Literal["msr", "naive"], Meant("msr or naive")] = Field(
        default="msr", description="msr: each tile goes on from its west and north neighbours; naive: it knows none."
    )
    levels: AutoCount = Field(
        default="auto",
        description="Resolutions to restore, coarse first; 1 is the image alone, auto goes on until few tiles fit.",
    )
    factor: Factor = Field(default=2, description="How much coarser each level is than the one before.")
    bands: Count | None = Field(
        default=None, description="Bands of the result, for colorize alone; otherwise those of the input."
    )
    range: Span | None = Field(
        default=None,
        description="The data range, mapped to the model's [-1, 1]; "
        "if left out, [0, 255] for uint8, [0, 65535] for uint16 and [0, 1] for floats.",
    )
    nodata: Number | None = Field(
        default=None, description="The value of pixels that hold none; if left out, what the file says."
    )
    dtype: Annotated[Literal["uint8", "uint16", "float32"], Meant("uint8, uint16 or float32")] | None = Field(
        default=None, description="Type of the result's values; if left out, that of the input."
    )
    on_error: Annotated[Literal["degrade", "stop"], Meant("degrade or stop")] = Field(
        default="degrade",
        description="What a tile does that fails every try: it is flagged and filled in, or the image stops.",
    )
    retries: Whole = Field(default=2, description="Tries of a tile after its first failure.")
    batch: AutoCount = Field(
        default="auto", description="Tiles in one call of the network; part of what decides the bytes."
    )
    lanes: AutoCount = Field(default="auto", description="Calls of the network side by side; auto is one a core.")
    priority: Annotated[Literal["critical-path", "oldest"], Meant("critical-path or oldest")] = Field(
        default="critical-path",
        description="Which tiles go first: those that most others wait for, or the oldest image's.",
    )
    keep_scratch: Flag = Field(default=True, description="Keep the working arrays once the result is published.")
    publish: Annotated[Publish, Mapped] = Field(default=Publish(), description="How the result is cut into files.")
    max_memory: Bytes | None = Field(
        default=None, description="Refuse a job whose bill is higher: bytes, or a text such as 4GB or 512MiB."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not isinstance(self.model.get("name"), str):
            raise at_key("model.name", "the mapping names no model; add it, such as name: gaussian")
        try:
            measurement = self.measurement
        except InputError as error:
            raise at_key("task", str(error)) from None
        if measurement.mask is not MaskSite.NONE and self.mask is None:
            raise at_key("mask", "the task has inpaint, which needs the image of what is missing: name its file")
        if measurement.mask is MaskSite.NONE and self.mask is not None:
            raise at_key("mask", "the task has no inpaint that would use it: add inpaint to the task, or drop the mask")
        if self.bands is not None and not measurement.gray:
            raise at_key("bands", "only colorize adds bands, and the task has none: leave bands out")
        if self.range and self.range[0] >= self.range[1]:
            raise at_key("range", f"{self.range[0]:g} is not below {self.range[1]:g}: write the lower number first")
        return self

    @property
    def measurement(self) -> Measurement:
        """What the task amounts to."""
        return parse_task(self.task, noise=self.noise)

    def identity(self) -> dict[str, JsonValue]:
        """Whatever decides the bytes of the result, as plain JSON; equal tasks are equal however they were written."""
        identity: dict[str, JsonValue] = self.model_dump(mode="json", exclude=RUNNING | {"noise"})
        identity["task"] = describe(self.measurement)
        # JSON has no NaN, and no NaN equals another.
        identity["nodata"] = None if self.nodata is None else repr(self.nodata)
        return identity


def load_job(file: str | PathLike[str]) -> JobSpec:
    """The job of a YAML file; its relative paths start from the file's folder."""
    content = read_yaml(file)
    return _job(content, base=path.dirname(path.abspath(file)), named=lambda key: f"{path.basename(file)}: {key}")


def from_options(options: Mapping[str, object]) -> JobSpec:
    """The job of a command line: keys as in a job file, None for what was not given."""
    given = {key: value for key, value in options.items() if value is not None}
    return _job(given, base=path.abspath("."), named=lambda key: "--" + re.sub("[._]", "-", key))


def _job(content: Mapping[str, object], *, base: str, named: Callable[[str], str]) -> JobSpec:
    rooted = {key: _rooted(value, base) if key in PATHS else value for key, value in content.items()}
    if "model" in rooted:
        rooted["model"] = _rooted_model(rooted["model"], base)
    try:
        return JobSpec.model_validate(rooted)
    except ValidationError as error:
        raise refusal(error, JobSpec, named) from None


def _rooted(value: object, base: str) -> object:
    """An absolute path; addresses such as s3://bucket/key stay as they are."""
    if not isinstance(value, str) or not value or "://" in value:
        return value
    return path.normpath(path.join(base, path.expanduser(value)))


def _rooted_model(model: object, base: str) -> object:
    """A model whose name, where that is the path of its weights, is absolute."""
    if isinstance(model, Mapping) and "name" in model:
        return {**model, "name": _rooted_model(model["name"], base)}
    return _rooted(model, base) if isinstance(model, str) and is_weights(model) else model


def changed(old: Mapping[str, JsonValue], new: Mapping[str, JsonValue]) -> list[str]:
    """What differs between two identities, a line each: ``seed: 1 -> 2``."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {_plain(before.get(key))} -> {_plain(after.get(key))}"
        for key in before | after
        if before.get(key) != after.get(key)
    ]


def _leaves(tree: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _plain(value: JsonValue) -> str:
    return "none" if value is None else str(value)
