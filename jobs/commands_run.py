"""The commands that run a job: restore, run, resume, retry."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ..tiling.errors import CorruptChunk, InputError, LedgerTaken, StoreError
from ..tiling.patience import impatient
from ..tiling.source import open_labels
from .archive import Archive, load
from .commands_look import MOST_NAMED, example, print_plan
from .logs import log_json
from .look import job_at
from .options import (
    cluster_options,
    generation_options,
    job_of,
    job_options,
    on_cluster,
    synthesis_options,
    trust_model,
)
from .progress import watching
from .spec import JobSpec
from .state import begun_at
from .timeline import Timeline

if TYPE_CHECKING:
    from .course import Summary
    from .run_archive import ArchiveSummary
    from .workforce import Workforce

# Loads torch: only once a job has been read, so that help and refusals come at once.
RUNNER, ARCHIVE_RUNNER = ".run", ".run_archive"

dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done and what it costs, and do nothing.")
redo = click.option(
    "--redo",
    type=click.Choice(["stale", "failed"]),
    help="stale: redo what a change of job, input, mask or labels makes stale, and keep the rest. "
    "failed: run degraded tiles again.",
)
timeline = click.option(
    "--timeline",
    metavar="FILE",
    help="Write to FILE which worker did which tile and when, as a trace for ui.perfetto.dev or chrome://tracing.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and progress to stderr.")


@click.command(
    epilog=example(
        "tileloom restore scene.tif scene.zarr --task sr:4",
        "tileloom restore scene.tif scene.zarr --task sr:2,inpaint --mask clouds.tif --seed 7",
        "tileloom restore photo.png wider.zarr --task outpaint:64,0,64,0 --sampler ddim-ddnm --eta 0.2",
        "tileloom restore gray.png photo.zarr --task colorize --model gaussian --model-option length=8",
        "tileloom restore scene.tif scene.zarr --task sr:4 --model net.pt2 --trust-model",
        "tileloom restore town.zarr lake.zarr --task edit:21 --mask region.tif --labels labels.tif --model net.pt",
    ),
)
@click.argument("input")
@click.argument("output")
@job_options
@dry_run
@redo
@timeline
@log_json
@trust_model
@as_json
def restore(
    *,
    dry_run: bool,
    redo: str | None,
    timeline: str | None,
    trust_model: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401  every key of a job
) -> None:
    """Restore the image INPUT and publish it as the Zarr group OUTPUT.

    Once begun, the same command goes on where it was stopped.
    """
    _begin(job_of(options), dry_run=dry_run, redo=redo, timeline=timeline, trusted=trust_model, as_json=as_json)


@click.command(
    epilog=example(
        "tileloom generate 1024x512 drawn.zarr",
        "tileloom generate 4096x4096 drawn.zarr --model gaussian --model-option length=30 --bands 1 --seed 7",
        "tileloom generate 1024x512 drawn.zarr --model net.pt --weave joint --dtype float32 --range 0 1",
        "tileloom generate 2048x1024 drawn.zarr --model patches.ckpt --style row:17 --sampler ddim",
    ),
)
@click.argument("size")
@click.argument("output")
@generation_options
@dry_run
@redo
@timeline
@log_json
@trust_model
@as_json
def generate(
    *,
    size: str,
    dry_run: bool,
    redo: str | None,
    timeline: str | None,
    trust_model: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401  the keys of a job
) -> None:
    """Draw an image from nothing, and publish it as the Zarr group OUTPUT.

    SIZE is its width and height in pixels, such as 1024x512. A job file says the same by input blank:1024x512 and task
    generate. Another --seed, or another --id, draws another image; the same ones draw the same.
    """
    if not re.fullmatch(r"\d+x\d+", size):
        raise InputError(f"'{size}' is no size: give width and height in pixels, such as 1024x512")
    spec = job_of(options | {"input": f"blank:{size}", "task": ("generate",)})
    _begin(spec, dry_run=dry_run, redo=redo, timeline=timeline, trusted=trust_model, as_json=as_json)


@click.command(
    epilog=example(
        "tileloom synthesize labels.tif drawn.zarr --model net.pt --classes ade20k --model-option guidance_scale=1.5",
        "tileloom synthesize labels.png drawn.zarr --model net.pt --instances instances.png --classes cityscapes "
        "--model-option edges=true",
        "tileloom synthesize map.zarr drawn.zarr --model net.safetensors --classes 11=0,21=1,22=1 --sampler ddim",
    ),
)
@click.argument("labels")
@click.argument("output")
@synthesis_options
@dry_run
@redo
@timeline
@log_json
@trust_model
@as_json
def synthesize(
    *,
    labels: str,
    dry_run: bool,
    redo: str | None,
    timeline: str | None,
    trust_model: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401  the keys of a job
) -> None:
    """Draw the image that the map LABELS says, as large as that, and publish it as the Zarr group OUTPUT.

    LABELS has one band with the number of what each pixel shows. The model is a network that was trained with such
    maps. A job file says the same by input blank:WIDTHxHEIGHT, task generate and labels.
    """
    shown = open_labels(labels)
    told = {"input": f"blank:{shown.width}x{shown.height}", "task": ("generate",), "labels": labels}
    _begin(job_of(options | told), dry_run=dry_run, redo=redo, timeline=timeline, trusted=trust_model, as_json=as_json)


@click.command(
    epilog=example(
        "tileloom run job.yaml", "tileloom run job.yaml --redo stale", "tileloom run job.yaml --cluster-workers 4"
    )
)
@click.argument("job")
@cluster_options
@redo
@timeline
@log_json
@trust_model
@as_json
def run(
    *,
    job: str,
    redo: str | None,
    timeline: str | None,
    trust_model: bool,
    as_json: bool,
    **cluster: Any,  # noqa: ANN401  keys
) -> None:
    """Run the job of the file JOB, or go on with it where it was stopped.

    A job with a manifest restores all images of that; rows may be added, and images that have ended are not run again.
    A job that differs from the one that began its output is refused, and the difference is named.
    """
    _go(load(job), cluster, redo or "nothing", timeline=timeline, trusted=trust_model, as_json=as_json)


@click.command(
    epilog=example("tileloom resume scene.zarr", "tileloom resume job.yaml --redo stale"),
)
@click.argument("target")
@cluster_options
@redo
@timeline
@log_json
@trust_model
@as_json
def resume(
    *,
    target: str,
    redo: str | None,
    timeline: str | None,
    trust_model: bool,
    as_json: bool,
    **cluster: Any,  # noqa: ANN401  keys
) -> None:
    """Go on with TARGET: a job file, or the output of a job.

    A job that was submitted to a cluster goes on when it is submitted again.
    """
    job = job_at(target)
    if not begun_at(job.output):
        raise InputError(f"{job.output} was not begun yet: start it with `tileloom run {quote(target)}`")
    _go(job, cluster, redo or "nothing", timeline=timeline, trusted=trust_model, as_json=as_json)


@click.command(epilog=example("tileloom retry scene.zarr"))
@click.argument("output")
@cluster_options
@timeline
@log_json
@trust_model
@as_json
def retry(
    *,
    output: str,
    timeline: str | None,
    trust_model: bool,
    as_json: bool,
    **cluster: Any,  # noqa: ANN401  keys
) -> None:
    """Run the degraded tiles of OUTPUT again, and whatever they made stale, and publish it anew.

    Tiles whose working array is damaged are run again too, and damaged files of the result are replaced. Of an
    archive, all images are run that failed or have degraded tiles. On a cluster, `tileloom submit --redo failed` does
    the same.
    """
    _go(job_at(output), cluster, "failed", timeline=timeline, trusted=trust_model, as_json=as_json)


def _begin(
    spec: JobSpec, *, dry_run: bool, redo: str | None, timeline: str | None, trusted: bool, as_json: bool
) -> None:
    """Run a job of the command line, or say what it costs."""
    if dry_run:
        print_plan(spec, trusted=trusted, as_json=as_json)
    else:
        _go(spec, {}, redo or "nothing", timeline=timeline, trusted=trusted, as_json=as_json)


def _go(
    job: JobSpec | Archive, cluster: dict[str, Any], redo: str, *, timeline: str | None, trusted: bool, as_json: bool
) -> None:
    """Run a job and say what it came to; exit code 1 unless all of it is whole."""
    wanted = on_cluster(job, cluster)
    with _resumable(wanted), _drawn(timeline) as drawn:
        runner = import_module(ARCHIVE_RUNNER if isinstance(wanted, Archive) else RUNNER, __package__)
        run = runner.run_archive if isinstance(wanted, Archive) else runner.run_job
        # Libraries print what they like; on stdout there is the result and nothing else.
        with watching() as watcher, redirect_stdout(sys.stderr):
            summary = run(wanted, watcher, redo=runner.Redo[redo.upper()], timeline=drawn, trusted=trusted)
    lines = _archive_lines if isinstance(wanted, Archive) else _lines
    _print(summary.as_json() if as_json else lines(summary))
    if not summary.whole:
        click.get_current_context().exit(1)


@contextmanager
def _drawn(timeline: str | None) -> Iterator[Timeline | None]:
    """The timeline that was asked for, if one was."""
    if timeline is None:
        yield None
        return
    with Timeline(timeline) as drawn:
        yield drawn


def _print(what: dict[str, Any] | Iterator[str]) -> None:
    click.echo(json.dumps(what, indent=1) if isinstance(what, dict) else "\n".join(what))


def _archive_lines(summary: ArchiveSummary) -> Iterator[str]:
    output = quote(str(summary.output))
    yield (
        f"{summary.images} images: {summary.done} done, {len(summary.degraded)} degraded, "
        f"{len(summary.failed)} failed; in this run {summary.tiles} tiles, {summary.calls} network calls, "
        f"{summary.seconds:.1f} s"
    )
    yield from _workers(summary.workforce, saved=summary.calls_saved)
    ends = {
        "degraded": summary.degraded,
        "failed": summary.failed,
        "stopped": summary.stopped,
        "begun anew by workers of another numeric class": summary.anew,
    }
    for how, images in ends.items():
        yield from (f"{how}: {image}" for image in images[:MOST_NAMED])
        if len(images) > MOST_NAMED:
            yield f"{how}: and {len(images) - MOST_NAMED} more, see tileloom status {output}"
    if summary.degraded or summary.failed:
        yield f"run these again with: tileloom retry {output}"
    if summary.stopped:
        yield f"go on with these by: tileloom resume {output}"
    yield f"results: {summary.output}"


def _lines(summary: Summary) -> Iterator[str]:
    report = summary.report
    yield (
        f"{report.done} tiles restored, {report.inherited} taken over, {len(summary.degraded)} degraded; "
        f"{summary.calls} network calls, {summary.seconds:.1f} s"
    )
    if summary.workforce:
        yield from _workers(summary.workforce, saved=report.spared)
    yield from (f"begun anew: {why}" for why in summary.anew)
    for tile in summary.degraded:
        yield f"degraded: {tile}"
    if summary.degraded:
        yield f"degraded tiles are filled in; run them again with: tileloom retry {quote(str(summary.output))}"
    yield f"result: {summary.output}"


def _workers(force: Workforce, *, saved: int) -> Iterator[str]:
    """What workers did and saved."""
    if saved:
        yield f"{saved} network calls saved: tiles of workers that had to go went on from where they were"
    yield from force.lines()


def _may_go_on(job: JobSpec | Archive) -> bool:
    """Whether a run has left anything to go on with; a store that is away may hold some."""
    try:
        with impatient():
            return begun_at(job.output)
    except StoreError:
        return True


@contextmanager
def _resumable(spec: JobSpec | Archive) -> Iterator[None]:
    """Whatever ends a run early says how to go on."""
    output = quote(str(spec.output))
    try:
        yield
    except KeyboardInterrupt as stop:
        if _may_go_on(spec):
            stop.add_note(f"everything finished is kept, go on with: tileloom resume {output}")
        raise
    except (InputError, LedgerTaken):
        raise
    except Exception as error:
        # What is damaged in the input is not ours to mend.
        ours = isinstance(error, CorruptChunk) and str(spec.output) in str(error)
        if _may_go_on(spec) and "`tileloom " not in str(error):
            error.add_note(
                f"mend it with `tileloom retry {output}`" if ours else f"go on with `tileloom resume {output}`"
            )
        raise
