"""The job: everything the user asks for, read strictly and never changed afterwards.

Every refusal is one sentence that names the key and says what was meant.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from hashlib import blake2b
from os import PathLike, path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from ..cluster.executor import CrewSpec
from ..models.parity import Parity
from ..models.recipe import Guidance, Sampler
from ..models.style import names_file
from ..models.weights import is_path
from ..tiling.blank_source import is_blank
from ..tiling.errors import InputError
from ..tiling.measurement import Measurement
from .labels import refuse_labels
from .refusal import Meant, at_key, refusal
from .task import NormalTask, describe, parse_task
from .values import (
    Accelerators,
    AutoCount,
    AutoWhole,
    Begin,
    Bytes,
    Classes,
    Count,
    Factor,
    File,
    Flag,
    Mapped,
    Model,
    Name,
    Noise,
    Number,
    Positive,
    Prices,
    Seed,
    Share,
    Span,
    Task,
    Url,
    Whole,
)
from .yamlfile import read_yaml

PATHS = ("input", "output", "mask", "labels", "instances")
# How and where a job runs: none of it changes a byte of the result.
RUNNING = {"output", "retries", "on_error", "lanes", "priority", "lockstep", "keep_scratch", "cluster", "max_memory"}


class Strict(BaseModel):
    """Unknown keys and values of another type are refused; nothing changes afterwards."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Travel(Strict):
    """Time travel: how often, and how far, the schedule steps back to let constraints settle."""

    length: Count = Field(default=1, description="Steps taken back at a time.")
    repeat: Count = Field(default=1, description="How often each stretch of the schedule is run; 1 never goes back.")
    length2: Count = Field(default=1, description="Steps of a second kind of jump back, anew within every one above.")
    repeat2: Count = Field(default=1, description="How often each stretch of the second kind is run.")
    length3: Count = Field(default=1, description="Steps of a third kind of jump back, anew within the others.")
    repeat3: Count = Field(default=1, description="How often each stretch of the third kind is run.")
    each: Count = Field(default=1, description="How often every single step is run.")
    below: Count | None = Field(
        default=None, description="The step from the end that travel stays below; everywhere if left out."
    )

    @property
    def jumps(self) -> dict[str, int]:
        """What is not the default, of what has no name of its own in a schedule."""
        names = {
            "length2": "jump2_length",
            "repeat2": "jump2_n_sample",
            "length3": "jump3_length",
            "repeat3": "jump3_n_sample",
            "each": "n_sample",
            "below": "start_resampling",
        }
        given = self.model_dump(include=set(names), exclude_defaults=True)
        return {names[key]: value for key, value in given.items()}


class GuidanceSpec(Strict):
    """Classifier guidance: every tile is pulled to a class."""

    classifier: File | None = Field(default=None, description="Weights of a classifier of noisy images; none: no pull.")
    label: Whole | None = Field(default=None, description="The class it pulls to; if left out, the model's own label.")
    scale: Number = Field(default=1.0, description="How hard it pulls.")


class ParitySpec(Strict):
    """What published programs do otherwise than their papers; all of it is off unless asked for."""

    carry: Flag = Field(
        default=False, description="A tile begins from the finished tile before it, row by row, instead of from noise."
    )
    released_lambda: Flag = Field(
        default=False, description="The trust in a noisy measurement as it was released, for sampler ddnm."
    )
    released_pinv: Flag = Field(
        default=False, description="Masked blocks are spread back as released, so that results do not fit y exactly."
    )
    coarse_everywhere: Flag = Field(
        default=False, description="The coarser level settles pixels beside known ones too, at the price of a crease."
    )
    half_stride: Flag = Field(default=False, description="Tiles half a tile apart, without guard bands.")
    svd_colors: Flag = Field(default=False, description="Gray weighs three bands 0.3333, 0.3334 and 0.3333.")
    simplified: Flag = Field(default=False, description="The noise of the short program, for sampler ddim-ddnm.")


class ClusterSpec(Strict):
    """Workers beside this process, each an actor of Ray with a network of its own."""

    workers: Count | None = Field(
        default=None, description="Workers; if left out, this process does all, and nothing is started."
    )
    address: Annotated[str, Field(min_length=1), Meant("the address of a Ray cluster, such as auto")] | None = Field(
        default=None, description="The Ray cluster of the workers; if left out, one is started here for the job alone."
    )
    cpus: Share | None = Field(
        default=None, description="Cores of each worker; if left out, an even share of this machine's, 1 on a cluster."
    )
    gpus: Accelerators = Field(default=0.0, description="Accelerators of each worker, 0.5 for half of one.")
    patience: Positive = Field(
        default=3600.0, description="Seconds after which a worker that was not heard of is ended and replaced."
    )
    capacity: Positive = Field(
        default=600.0, description="Seconds to wait for a cluster that has no room for any worker."
    )
    restarts: Whole = Field(default=20, description="How often workers may die before the job ends.")
    least: Whole | None = Field(
        default=None,
        description="Workers that stay however little there is to do; if left out, none on a cluster, else all.",
    )
    idle: Positive = Field(
        default=60.0,
        description="Seconds after which a worker with nothing to do is ended, so that its machine may go.",
    )
    drain_url: Url | None = Field(
        default=None,
        description="What a machine asks to learn that it will be taken away: any answer but FALSE says so.",
    )
    drain_seconds: Positive = Field(
        default=100.0,
        description="Seconds that a worker whose machine is taken away has to save its tiles; then they begin anew.",
    )
    classes: Annotated[Literal["one", "any"], Meant("one or any")] = Field(
        default="one", description="Numeric classes of workers: one alone, or any, an image then by workers of one."
    )
    class_wait: Positive = Field(
        default=600.0, description="Seconds that an image waits for workers of its class before it begins anew."
    )
    prices: Prices | None = Field(
        default=None,
        description="Price an hour of a machine, by its accelerator, instance type or any of its labels or resources.",
    )


class LockstepSpec(Strict):
    """How blocks of an image advance together, for weaves other than msr and naive."""

    block: AutoCount = Field(
        default="auto",
        description="Pixels along a side of a block, which one worker holds; auto: four tiles, or eight patches.",
    )
    exchange: Annotated[Literal["pixels", "features"], Meant("pixels or features")] = Field(
        default="pixels",
        description="What blocks of patches give each other: pixels, of which more are computed, or features, of which "
        "more are sent. Both make the same image.",
    )
    every: Count = Field(default=10, description="Steps after which all blocks are saved, so that a run can go on.")
    memory: Bytes = Field(
        default=2_000_000_000,
        description="What a worker keeps of its blocks in memory, such as 2GB; the rest lies in files where its TMPDIR "
        "says.",
    )


class Publish(Strict):
    """How the result is cut into files."""

    chunk: Count = Field(default=512, description="Pixels along a side of a chunk, the least that is read at once.")
    shard: Count = Field(default=2048, description="Pixels along a side of a shard, which is one file; whole chunks.")

    @model_validator(mode="after")
    def _whole_chunks(self) -> Self:
        if self.shard % self.chunk:
            raise at_key("publish.shard", f"{self.shard} is no multiple of publish.chunk, which is {self.chunk}")
        return self


class JobSpec(Strict):
    """What is restored, how, and where it goes; paths of :func:`load_job` and :func:`from_options` are absolute."""

    input: File = Field(
        description="The image that was measured: Zarr, OME-Zarr, TIFF, PNG or JPEG; Zarr also from an object store. "
        "For generate a size, such as blank:1024x512."
    )
    output: File = Field(
        description="Where the result goes, by a path or a URL such as s3://bucket/scene.zarr: a Zarr group, made by "
        "the job."
    )
    id: Name = Field(default="image", description="The image's name, which its noise belongs to.")
    mask: File | None = Field(
        default=None, description="For inpaint and edit: the image of what is missing or drawn anew, where not 0."
    )
    labels: File | None = Field(default=None, description="For a network of labels: the image of what pixels show.")
    instances: File | None = Field(
        default=None, description="The image of the instance of each pixel; if left out, classes have edges."
    )
    classes: Classes | None = Field(
        default=None, description="Which class of the network each value of labels stands for; if left out, itself."
    )
    task: Task = Field(description="What was done to the image, first to last; the job undoes it.")
    noise: Noise = Field(default=0.0, description="Standard deviation of the input's noise, on a data range of [0, 1].")
    model: Model = Field(
        default={"name": "gaussian"},
        description="The denoiser, or the path of its weights, folder or program, with its options beside its name.",
    )
    steps: AutoCount = Field(
        default="auto",
        description="Steps of the schedule, each a call of the network; auto: 50, 16 where eta is 0 by itself, 12 "
        "where begin is below 1 by itself, or 3 iterations that fill a hole.",
    )
    spacing: Annotated[Literal["auto", "even", "fine"], Meant("auto, even or fine")] = Field(
        default="auto",
        description="How these lie among all: even, or fine, most where little noise is left; auto is fine where eta "
        "is 0 or begin below 1 by itself.",
    )
    begin: Begin = Field(
        default="auto",
        description="Noise that tiles with holes begin under, as its standard deviation: 1 is nothing but noise, and "
        "through less shows a surface bent over the holes. Auto is 0.15 where a network does inpaint alone, tile by "
        "tile, with ddnm as it comes and steps left to auto, and no class or label says what to draw; else 1.",
    )
    travel: Annotated[Travel, Mapped] = Field(default=Travel(), description="Time travel along the schedule.")
    sampler: Annotated[Sampler, Meant("ddnm, ddim-ddnm, repaint, ddpm or ddim")] = Field(
        default="ddnm", description="How a tile is drawn: by DDNM, its DDIM form, RePaint, or plain DDPM or DDIM."
    )
    eta: Noise | None = Field(
        default=None,
        description="Share of fresh noise in ddnm, ddim and ddim-ddnm; if left out, 1, 0 and 0.85, but 0 where a "
        "network restores sr:k alone, with ddnm as it comes: nearest to the truth, no sample; and 0.85 where begin is "
        "below 1 by itself.",
    )
    guidance: Annotated[GuidanceSpec, Mapped] = Field(default=GuidanceSpec(), description="A class that tiles show.")
    parity: Annotated[ParitySpec, Mapped] = Field(default=ParitySpec(), description="Quirks of published programs.")
    seed: Seed = Field(default=0, description="Same seed, same bytes.")
    tile: AutoCount = Field(default="auto", description="Pixels along a side of a tile; auto is the model's own size.")
    stride: AutoCount = Field(default="auto", description="Pixels between tiles; auto is three quarters of a tile.")
    guard: AutoWhole = Field(
        default="auto",
        description="Pixels at a tile's east and south edge that the next tile draws again; auto is an eighth.",
    )
    weave: Annotated[
        Literal["auto", "msr", "joint", "patches", "naive"], Meant("auto, msr, joint, patches or naive")
    ] = Field(
        default="auto",
        description="msr: each tile goes on from its west and north neighbours; joint: all tiles advance together, and "
        "are fused at every step; patches: those of a Patch-DM network exchange features at every step; naive: a tile "
        "knows no other. auto is patches for such a network, msr for all others.",
    )
    lockstep: Annotated[LockstepSpec, Mapped] = Field(
        default=LockstepSpec(), description="How blocks advance together where the weave is joint or patches."
    )
    levels: AutoCount = Field(
        default="auto",
        description="Resolutions to restore, coarse first; 1 is the image alone, auto goes on until few tiles fit.",
    )
    factor: Factor = Field(default=2, description="How much coarser each level is than the one before.")
    bands: Count | None = Field(
        default=None, description="Bands of the result, for colorize and generate; otherwise those of the input."
    )
    range: Span | None = Field(
        default=None,
        description="The data range, mapped to the model's [-1, 1]; if left out, what the model's file says it learned "
        "from, else [0, 255] for uint8, [0, 65535] for uint16 and [0, 1] for floats.",
    )
    nodata: Number | None = Field(
        default=None, description="The value of pixels that hold none; if left out, what the file says."
    )
    dtype: Annotated[Literal["uint8", "uint16", "float32"], Meant("uint8, uint16 or float32")] | None = Field(
        default=None, description="Type of the result's values; if left out, that of the input, uint8 for generate."
    )
    on_error: Annotated[Literal["degrade", "stop"], Meant("degrade or stop")] = Field(
        default="degrade",
        description="What a tile does that fails every try: it is flagged and filled in, or the image stops.",
    )
    retries: Whole = Field(default=2, description="Tries of a tile after its first failure.")
    batch: AutoCount = Field(
        default="auto",
        description="Tiles in one call of the network; part of what decides the bytes. "
        "auto is found by a short trial, once for a result.",
    )
    lanes: AutoCount = Field(
        default="auto", description="Calls of the network side by side; auto is found by a short trial."
    )
    priority: Annotated[Literal["critical-path", "oldest"], Meant("critical-path or oldest")] = Field(
        default="critical-path",
        description="Which tiles go first: those that most others wait for, or the oldest image's.",
    )
    keep_scratch: Flag = Field(default=True, description="Keep the working arrays once the result is published.")
    publish: Annotated[Publish, Mapped] = Field(default=Publish(), description="How the result is cut into files.")
    cluster: Annotated[ClusterSpec, Mapped] = Field(default=ClusterSpec(), description="Workers beside this process.")
    max_memory: Bytes | None = Field(
        default=None, description="Refuse a job whose bill is higher: bytes, or a text such as 4GB or 512MiB."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not isinstance(self.model.get("name"), str):
            raise at_key("model.name", "the mapping names no model; add it, such as name: gaussian")
        try:
            task = self.normal_task
        except InputError as error:
            raise at_key("task", str(error)) from None
        measurement = task.measurement
        if is_blank(self.input) != task.blank:
            if task.blank:
                raise at_key("input", "task generate starts from no image: write a size, such as blank:1024x512")
            raise at_key("task", "of a blank image nothing is known, so its task is generate and no other")
        if task.masked and self.mask is None:
            part, missing = ("edit", "drawn anew") if task.edit else ("inpaint", "missing")
            raise at_key("mask", f"the task has {part}, which needs the image of what is {missing}: name its file")
        if not task.masked and self.mask is not None:
            raise at_key("mask", "the task has no inpaint that would use it: add inpaint to the task, or drop the mask")
        if self.cluster.address is not None and self.cluster.workers is None:
            raise at_key("cluster.workers", "an address names a cluster for workers: say how many, or drop it")
        if self.bands is not None and not (measurement.gray or task.blank):
            raise at_key("bands", "only colorize and generate make bands, and the task has neither: leave bands out")
        refuse_labels(self.labels, self.instances, self.classes, task)
        self._sampler_suits(measurement)
        if self.range and self.range[0] >= self.range[1]:
            raise at_key("range", f"{self.range[0]:g} is not below {self.range[1]:g}: write the lower number first")
        return self

    def _sampler_suits(self, measurement: Measurement) -> None:
        """Refuse what the sampler has no use for."""
        if self.sampler == "repaint" and not measurement.exact:
            raise at_key("sampler", "repaint fills in missing pixels and does nothing else: choose ddnm for this task")
        if self.eta is not None and self.sampler not in ("ddnm", "ddim", "ddim-ddnm"):
            raise at_key("eta", f"sampler {self.sampler} takes none: leave it out")
        for key, sampler in (("released_lambda", "ddnm"), ("simplified", "ddim-ddnm")):
            if getattr(self.parity, key) and self.sampler != sampler:
                raise at_key(
                    f"parity.{key}", f"only sampler {sampler} has it, and the job's is {self.sampler}: drop it"
                )
        if self.parity.svd_colors and not measurement.gray:
            raise at_key("parity.svd_colors", "the task has no colorize that would use it: drop it")
        if self.parity.coarse_everywhere and not measurement.exact:
            raise at_key("parity.coarse_everywhere", "the task knows no pixels exactly, so it is so anyway: drop it")
        if self.parity.carry and (self.weave not in ("auto", "msr") or self.guard not in ("auto", 0)):
            raise at_key("parity.carry", "tiles go on from whole tiles, which needs weave msr and guard 0: set both")
        if self.parity.half_stride and self.weave == "naive":
            raise at_key("parity.half_stride", "naive tiles do not overlap: set weave to msr, or drop it")
        if self.weave == "joint" and self.guard not in ("auto", 0):
            raise at_key("guard", "tiles that are fused at every step have no guard band: leave guard out")
        if self.weave == "patches" and {self.tile, self.stride, self.guard} != {"auto"}:
            raise at_key("tile", "patches are as large as their network says: leave tile, stride and guard out")
        if self.guidance.classifier is None and self.guidance.label is not None:
            raise at_key("guidance.label", "no classifier pulls to it: name one as guidance.classifier, or drop it")
        if self.guidance.classifier is not None and not isinstance(self._label, int):
            raise at_key("guidance.label", "the classifier needs a class to pull to: give its number")

    @property
    def _label(self) -> JsonValue:
        return self.model.get("label") if self.guidance.label is None else self.guidance.label

    @property
    def guide(self) -> Guidance | None:
        """Who guides, if anyone does."""
        told = self.guidance
        if told.classifier is None:
            return None
        assert isinstance(self._label, int)
        return Guidance(told.classifier, self._label, told.scale)

    @property
    def crew(self) -> CrewSpec:
        """The workers that are asked for."""
        told = self.cluster
        count = told.workers or 1
        here = max(1, len(os.sched_getaffinity(0)) // count) if told.address is None else 1
        cpus = here if told.cpus is None else told.cpus
        least = 0 if told.address and told.least is None else told.least
        return CrewSpec(
            workers=count,
            cpus=cpus,
            least=least,
            **told.model_dump(exclude={"workers", "cpus", "least", "prices"}),
        )

    @property
    def quirks(self) -> Parity:
        """The published programs' behaviour that is asked for."""
        return Parity(**self.parity.model_dump())

    @property
    def normal_task(self) -> NormalTask:
        """What the task amounts to, however it is written."""
        return parse_task(self.task, noise=self.noise)

    @property
    def measurement(self) -> Measurement:
        """What is known of the image."""
        return self.normal_task.measurement

    def identity(self) -> dict[str, JsonValue]:
        """Whatever decides the bytes of the result, as plain JSON; equal tasks are equal however they were written."""
        identity: dict[str, JsonValue] = self.model_dump(mode="json", exclude=RUNNING | {"noise"})
        identity["task"] = describe(self.normal_task)
        # JSON has no NaN, and no NaN equals another.
        identity["nodata"] = None if self.nodata is None else repr(self.nodata)
        return identity

    @property
    def digest(self) -> str:
        """What the job is known by: whatever decides the result's bytes, and where they go."""
        return digest_of({**self.identity(), "output": self.output})

    def text(self) -> dict[str, JsonValue]:
        """The job as its file has it, paths absolute."""
        return self.model_dump(mode="json", exclude_defaults=True)


def digest_of(told: Mapping[str, JsonValue]) -> str:
    """A short digest of what a job is known by."""
    return blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=6).hexdigest()


def load_job(file: str | PathLike[str]) -> JobSpec:
    """The job of a YAML file; its relative paths start from the file's folder."""
    content = read_yaml(file)
    return job_from(content, base=path.dirname(path.abspath(file)), named=lambda key: f"{path.basename(file)}: {key}")


def from_options(options: Mapping[str, object]) -> JobSpec:
    """The job of a command line: keys as in a job file, None for what was not given."""
    given = {key: value for key, value in options.items() if value is not None}
    return job_from(given, base=path.abspath("."), named=lambda key: "--" + re.sub("[._]", "-", key))


def with_cluster(spec: JobSpec, given: Mapping[str, object]) -> JobSpec:
    """A job with other workers, by the options of a command line."""
    try:
        cluster = ClusterSpec.model_validate({**spec.cluster.model_dump(), **given})
    except ValidationError as error:
        raise refusal(error, ClusterSpec, lambda key: f"--cluster-{key}") from None
    if cluster.address is not None and cluster.workers is None:
        raise InputError("--cluster-workers is missing, and --cluster-address names a cluster for them: say how many")
    return spec.model_copy(update={"cluster": cluster})


def job_from(content: Mapping[str, object], *, base: str, named: Callable[[str], str]) -> JobSpec:
    """The job of a mapping, its paths starting from ``base``; ``named`` turns a key into what the user wrote."""
    rooted = {key: rooted_path(value, base) if key in PATHS else value for key, value in content.items()}
    guidance = rooted.get("guidance")
    if isinstance(guidance, Mapping) and "classifier" in guidance:
        rooted["guidance"] = {**guidance, "classifier": rooted_path(guidance["classifier"], base)}
    if "model" in rooted:
        rooted["model"] = rooted_model(rooted["model"], base)
        if isinstance(rooted["model"], Mapping) and rooted["model"].get("style") == "sample":
            # Another seed is another image, and so another draw.
            rooted["model"] = {**rooted["model"], "style": f"sample:{rooted.get('seed', 0)}"}
    try:
        return JobSpec.model_validate(rooted)
    except ValidationError as error:
        raise refusal(error, JobSpec, named) from None


def rooted_path(value: object, base: str) -> object:
    """An absolute path; addresses such as s3://bucket/key and blank images stay as they are."""
    if not isinstance(value, str) or not value or "://" in value or is_blank(value):
        return value
    return path.normpath(path.join(base, path.expanduser(value)))


def rooted_model(model: object, base: str) -> object:
    """A model whose name and style, where they are paths, are absolute."""
    if isinstance(model, Mapping) and "name" in model:
        style = model.get("style")
        files = {"style": rooted_path(style, base)} if names_file(style) else {}
        return {**model, **files, "name": rooted_model(model["name"], base)}
    return rooted_path(model, base) if isinstance(model, str) and is_path(model) else model
