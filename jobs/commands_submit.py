"""The commands about jobs on a cluster: submit, list, logs, cancel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from os import path
from signal import SIGTERM
from typing import TYPE_CHECKING, Any

import click
import yaml

from ..cluster.submission import Submission
from ..tiling.errors import InputError, TileloomError
from .archive import Archive, load
from .commands_look import as_json, example
from .commands_run import redo, timeline
from .logs import log_json, wants_json
from .options import CLUSTER_ADDRESS, on_cluster, trust_model, worker_options
from .submitted import at, cluster_at, how_to_follow, named, told

if TYPE_CHECKING:
    from ..cluster.submissions import Submissions

address = click.option(
    "--address",
    envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
    metavar="ADDRESS",
    help="The cluster: the URL of its dashboard, such as http://127.0.0.1:8265, or HOST:PORT or auto on one of its "
    "nodes; if left out, what RAY_API_SERVER_ADDRESS or RAY_ADDRESS says, or the one that runs here.",
)
follow = click.option("--follow", "-f", is_flag=True, help="Print what it writes until it ends, and end as it does.")


@click.command(
    epilog=example(
        "tileloom submit job.yaml --address http://127.0.0.1:8265 --cluster-workers 8 --cluster-gpus 1",
        "tileloom submit job.yaml --cluster-workers 8 --follow",
        "tileloom submit job.yaml --cluster-workers 8 --redo failed",
    ),
)
@click.argument("job")
@address
@follow
@worker_options
@redo
@timeline
@log_json
@trust_model
@as_json
def submit(
    *,
    job: str,
    address: str | None,
    follow: bool,
    redo: str | None,
    timeline: str | None,
    trust_model: bool,
    as_json: bool,
    **cluster: Any,  # noqa: ANN401  keys
) -> None:
    """Run the job of the file JOB on a cluster, with this very code, or go on with it where it was stopped.

    Its paths, which start from the job file's folder, must be there on every node. A job that is pending or running is
    not submitted again. One that has ended is, under the next number, and goes on from what was finished.
    """
    wanted = on_cluster(load(job), cluster)
    shared = wanted.job if isinstance(wanted, Archive) else wanted
    if shared.cluster.workers is None:
        raise InputError(f"{job} does not say how many workers it wants: add cluster.workers, or --cluster-workers 8")
    wanted = on_cluster(wanted, {CLUSTER_ADDRESS: "auto"})
    options = [
        *(["--redo", redo] if redo else []),
        *(["--timeline", path.abspath(timeline)] if timeline else []),
        *(["--log-json"] if wants_json(click.get_current_context()) else []),
        *(["--trust-model"] if trust_model else []),
    ]
    submissions = cluster_at(address)
    crew = (wanted.job if isinstance(wanted, Archive) else wanted).crew
    text, output = yaml.safe_dump(wanted.text()), str(wanted.output)
    found, new = submissions.submit(wanted.digest, text, options, output=output, crew=crew)
    if redo and not new:
        raise InputError(
            f"{found.id} is {found.state}, and --redo would not change it: wait for it, or end it with "
            f"`tileloom cancel {found.id}{at(address)}`"
        )
    click.echo(f"{found.id}: {'submitted' if new else f'{found.state} already'}", err=as_json)
    if follow:
        _follow(submissions, found, address, as_json=as_json)
    elif as_json:
        _print_json({"new": new, **asdict(found)})
    else:
        click.echo(f"follow it with: {how_to_follow(found, address)}")


@click.command("list", epilog=example("tileloom list --address http://127.0.0.1:8265", "tileloom list --json"))
@address
@as_json
def list_all(*, address: str | None, as_json: bool) -> None:
    """List the jobs that were submitted to a cluster, the newest last."""
    found = cluster_at(address).all()
    if as_json:
        _print_json({"submissions": [asdict(one) for one in found]})
    else:
        click.echo("\n".join(map(told, found)) or "nothing was submitted")


@click.command(epilog=example("tileloom logs job.yaml", "tileloom logs --follow tileloom-0123456789ab-1"))
@click.argument("target")
@address
@follow
def logs(*, target: str, address: str | None, follow: bool) -> None:
    """Print what a submitted job has written; TARGET is its job file, its output or the id of a submission."""
    submissions = cluster_at(address)
    found = named(target, submissions)
    if follow:
        _follow(submissions, found, address, as_json=False)
    else:
        click.echo(submissions.logs(found.id), nl=False)


@click.command(epilog=example("tileloom cancel job.yaml", "tileloom cancel tileloom-0123456789ab-1"))
@click.argument("target")
@address
@as_json
def cancel(*, target: str, address: str | None, as_json: bool) -> None:
    """End a submitted job; TARGET is its job file, its output or the id of a submission.

    Everything it has finished is kept, and the job goes on from there when it is submitted again.
    """
    submissions = cluster_at(address)
    found = named(target, submissions)
    ended = found if found.over else submissions.stop(found.id)
    if not ended.over:
        raise TileloomError(
            f"{ended.id} is to end, but is still {ended.state}: it does so once a node has room for it, or when Ray "
            f"gives up to start it, a quarter of an hour after it was submitted; look with `tileloom list{at(address)}`"
        )
    if as_json:
        _print_json(asdict(ended))
    else:
        click.echo(f"{ended.id}: {f'{ended.state} already' if found.over else ended.state}")


def _follow(submissions: Submissions, one: Submission, address: str | None, *, as_json: bool) -> None:
    """Print what a submission writes until it ends, and end as it did."""
    with _going_on(one, address):
        ended = submissions.follow(one.id, lambda text: click.echo(text, nl=False, err=as_json))
    if as_json:
        _print_json(asdict(ended))
    else:
        click.echo(told(ended))
    if ended.state == "failed" and ended.exit_code is None:
        raise TileloomError(f"{ended.id} failed before its job began: {' '.join(ended.message.split())}")
    # A run that is told to stop ends so, but Ray does not tell.
    click.get_current_context().exit(128 + SIGTERM if ended.state == "stopped" else ended.exit_code or 0)


@contextmanager
def _going_on(one: Submission, address: str | None) -> Iterator[None]:
    """Whoever stops looking on does not stop the job."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(f"the job goes on, follow it with: {how_to_follow(one, address)}")
        stop.add_note(f"end it with: tileloom cancel {one.id}{at(address)}")
        raise


def _print_json(what: dict[str, Any]) -> None:
    click.echo(json.dumps(what, indent=1))
