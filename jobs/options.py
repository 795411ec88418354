"""The keys of a job as options of a command, each with the job file's own words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..tiling.errors import InputError
from .archive import Archive
from .refusal import parts
from .spec import ClusterSpec, JobSpec, from_options, with_cluster

Command = TypeVar("Command", bound=Callable[..., Any])

# Options whose value stays the text it is; all others become numbers where they look like one.
_TEXTS = {
    "mask": "FILE",
    "labels": "FILE",
    "instances": "FILE",
    "classes": "NAME|VALUE=CLASS,...",
    "task": "TASK",
    "model": "NAME",
    "guidance__classifier": "FILE",
    "cluster__address": "ADDRESS",
    "cluster__drain_url": "URL",
    "cluster__prices": "KIND=X,...",
}
_METAVARS = _TEXTS | {"range": "LO HI", "max_memory": "BYTES"}
_ARGUMENTS = ("input", "output")
# Keys that mean nothing where no image is given.
_OF_THE_GIVEN = {"mask", "task", "noise", "nodata"} | {
    f"parity__{quirk}" for quirk in ("released_lambda", "released_pinv", "coarse_everywhere", "svd_colors")
}
_FLAGS = {"true": True, "false": False}
model_option = click.option(
    "--model-option",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the model, such as length=8; may be given again.",
)
style_option = click.option(
    "--style",
    metavar="STYLE",
    help="How a Patch-DM image looks: row:N of the model's table, sample, or the path of an image or of a code.",
)
trust_model = click.option(
    "--trust-model",
    is_flag=True,
    help="Run a model that is code, a program or a plug-in: it can do whatever you can. Weights need no trust.",
)
# Click's names are identifiers: this stands for the dot of a key path.
_DOT = "__"
CLUSTER_ADDRESS = f"cluster{_DOT}address"


def number_or_text(text: str) -> int | float | str:
    """A number where the text is one; whether that suits its key, the job's own check says."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def job_options(command: Command) -> Command:
    """Give a command an option for every key of a job but input and output."""
    return _job_options(command, lambda _: True)


def generation_options(command: Command) -> Command:
    """Give a command the options of :func:`job_options` but those of a given image."""
    return _job_options(command, lambda key: key not in _OF_THE_GIVEN)


def synthesis_options(command: Command) -> Command:
    """Give a command the options of :func:`generation_options` but that of labels, which it is given otherwise."""
    return _job_options(command, lambda key: key not in _OF_THE_GIVEN | {"labels"})


def _job_options(command: Command, wanted: Callable[[str], bool]) -> Command:
    keys = [(key, field) for key, field in _keys(JobSpec, "") if key not in _ARGUMENTS and wanted(key)]
    for key, field in reversed(keys):
        if key == "model":
            command = style_option(model_option(command))
        command = _option(key, field)(command)
    return command


def cluster_options(command: Command) -> Command:
    """Give a command an option for every key of a job's cluster, which says where it runs."""
    return _cluster_options(command, lambda _: True)


def worker_options(command: Command) -> Command:
    """Give a command the options of :func:`cluster_options` but the address."""
    return _cluster_options(command, lambda key: key != CLUSTER_ADDRESS)


def _cluster_options(command: Command, wanted: Callable[[str], bool]) -> Command:
    for key, field in reversed(list(_keys(ClusterSpec, f"cluster{_DOT}"))):
        if wanted(key):
            command = _option(key, field)(command)
    return command


def on_cluster(job: JobSpec | Archive, options: Mapping[str, Any]) -> JobSpec | Archive:
    """A job that runs where the options of :func:`cluster_options` say, and else where it did."""
    given = {name.removeprefix(f"cluster{_DOT}"): value for name, value in options.items() if value is not None}
    if not given:
        return job
    if isinstance(job, Archive):
        return replace(job, job=with_cluster(job.job, given))
    return with_cluster(job, given)


def job_of(options: Mapping[str, Any]) -> JobSpec:
    """The job that the options of :func:`job_options`, and ``input`` and ``output``, ask for."""
    given: dict[str, Any] = {}
    for name, value in options.items():
        key, dot, below = name.partition(_DOT)
        if value is None or value == ():
            continue
        if dot:
            given.setdefault(key, {})[below] = value
        else:
            given[key] = value
    model_options = given.pop("model_option", ())
    if style := given.pop("style", None):
        model_options = (*model_options, f"style={style}")
    if model_options:
        name = given.get("model", JobSpec.model_fields["model"].default["name"])
        given["model"] = model_of(name, model_options)
    return from_options(given)


def model_of(name: str, options: tuple[str, ...]) -> dict[str, Any]:
    """A model as a job has it, from its name and the KEY=VALUE texts of ``--model-option``."""
    return {"name": name, **_pairs(options)}


def _pairs(texts: tuple[str, ...]) -> dict[str, bool | int | float | str]:
    """KEY=VALUE texts as a mapping."""
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value) or key == "name":
            raise InputError(f"--model-option must be KEY=VALUE, such as length=8, not '{text}'")
        pairs[key] = _FLAGS.get(value, number_or_text(value))
    return pairs


def _keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """(key path, field) of every key that holds a value."""
    for name, field in model.model_fields.items():
        below = parts(field)
        if below is None:
            yield prefix + name, field
        else:
            yield from _keys(below, f"{prefix}{name}{_DOT}")


def _option(key: str, field: FieldInfo) -> Callable[[Command], Command]:
    """One key's option; the default stays out of it, so that only what was given reaches the job."""
    flag = "--" + key.replace(_DOT, "-").replace("_", "-")
    text = f"{field.description}{_default(field)}"
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", key, default=None, help=text)
    return click.option(
        flag,
        key,
        type=str if key in _TEXTS else number_or_text,
        multiple=key == "task",
        nargs=2 if key == "range" else 1,
        metavar=_METAVARS.get(key) or "|".join(_words(field.annotation)),
        help=text,
    )


def _default(field: FieldInfo) -> str:
    if field.is_required() or field.default is None:
        return ""
    default = field.default["name"] if isinstance(field.default, dict) else field.default
    return f"  [default: {str(default).lower() if isinstance(default, bool) else default}]"


def _words(kind: Any) -> Iterator[str]:  # noqa: ANN401  any annotation
    """What a type takes, as a metavar's alternatives."""
    if get_origin(kind) is Annotated:
        yield from _words(get_args(kind)[0])
    elif get_origin(kind) is Literal:
        yield from get_args(kind)
    elif kind in (int, float):
        yield "N" if kind is int else "X"
    elif kind is not NoneType:
        for part in get_args(kind):
            yield from _words(part)
