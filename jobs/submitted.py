"""Jobs on a cluster, as the commands name them: by a job file, the output of a job, or a submission's id."""

from __future__ import annotations

from datetime import datetime
from importlib import import_module
from shlex import quote
from typing import TYPE_CHECKING

from ..cluster.submission import ID, Submission
from ..tiling.errors import InputError
from ..tiling.place import Place, place
from .archive import load
from .look import job_at

if TYPE_CHECKING:
    from ..cluster.submissions import Submissions

# Loads ray: only to talk to a cluster.
_SUBMISSIONS = "..cluster.submissions"


def cluster_at(address: str | None) -> Submissions:
    """What was submitted to the cluster at an address, or to the one that Ray finds."""
    found: Submissions = import_module(_SUBMISSIONS, __package__).connect(address)
    return found


def named(target: str, cluster: Submissions) -> Submission:
    """The submission of an id, or the last one of a job."""
    if ID.fullmatch(target):
        return cluster.find(target)
    found = cluster.latest(job_at(target).digest)
    if found is None:
        raise InputError(
            f"{target} was not submitted to the cluster at {cluster.address}: `tileloom list` says what was"
        )
    return found


def output_at(target: str) -> Place:
    """The output of a job file, or the one that is named."""
    if ID.fullmatch(target):
        raise InputError(f"{target} is a submission: say with --address on which cluster, or name its output")
    where = place(target).absolute()
    where.reach()
    return place(load(str(where)).output) if where.is_file() else where


def told(one: Submission) -> str:
    """A submission in a line."""
    times = [datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S") for at in (one.began, one.ended) if at]
    code = "" if one.exit_code is None else f" with exit code {one.exit_code}"
    return f"{one.id}: {one.state}{code}, {' to '.join(times)}, {one.output}"


def how_to_follow(one: Submission, address: str | None) -> str:
    """The command that follows a submission."""
    return f"tileloom logs --follow {one.id}{at(address)}"


def at(address: str | None) -> str:
    """The option that names the same cluster again."""
    return f" --address {quote(address)}" if address else ""
