"""Jobs that are submitted to a cluster: this very code goes along, and a driver there runs the job as `run` would."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from shutil import copyfile, copytree, ignore_patterns
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import ray
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobSubmissionClient
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException

from ..tiling.errors import InputError, TileloomError
from .connect import ANSWER, last_line, may_grow, refuse_workers_without_room, show_token, unreachable
from .executor import CrewSpec
from .submission import ID, Submission

# Seconds that a driver has to end after it was asked to; Ray would kill it after three.
_LEAVE = 30
# Seconds between two looks at a submission that is to end.
_LOOK = 0.5
# A node that has it is where drivers belong; each takes a tenth, so that ten of them fit. Ray would choose the head.
_DRIVER = "driver"
_SHARE = 0.1
# Nodes of which it is asked what they have.
_NODES = 10_000
# Of the package's own folder, as a source tree has more in there.
_FILES = ("__init__.py", "py.typed", "constraints.txt")
_JOB = "job.yaml"
# Ray prefers it to whatever address it is given.
_PREFERRED = "RAY_API_SERVER_ADDRESS"


def connect(address: str | None) -> Submissions:
    """The submissions of the cluster at an address: its dashboard's URL, HOST:PORT or auto; None is one found here."""
    try:
        if address is not None:
            os.environ[_PREFERRED] = _answering(address)
        show_token()
        client = JobSubmissionClient()
    except (OSError, ValueError, RuntimeError, KeyError, RayError) as error:
        raise unreachable(address or "auto", error) from None
    theirs, ours = (str(version).rpartition(".")[0] for version in (client._server_ray_version, ray.__version__))
    if theirs != ours:
        raise InputError(
            f"the cluster at {client.get_address()} has Ray {client._server_ray_version}, and this tileloom needs "
            f"{ours}: start the cluster with the image of `tileloom cluster init`"
        )
    return Submissions(client)


class Submissions:
    """The submissions of one cluster."""

    def __init__(self, client: JobSubmissionClient) -> None:
        """Those that a client tells of."""
        self._client = client
        self.address: str = client.get_address()

    def all(self) -> list[Submission]:
        """Every submission that the cluster remembers, the newest last."""
        with self._asking():
            told = [_submission(job) for job in self._client.list_jobs() if ID.fullmatch(job.submission_id or "")]
        return sorted(told, key=lambda one: one.began or 0)

    def latest(self, digest: str) -> Submission | None:
        """The last submission of a job."""
        return max((one for one in self.all() if one.digest == digest), key=lambda one: one.number, default=None)

    def find(self, name: str) -> Submission:
        """The submission of that id."""
        found = next((one for one in self.all() if one.id == name), None)
        if found is None:
            raise InputError(f"the cluster at {self.address} knows no {name}: `tileloom list` names those it does")
        return found

    def submit(
        self, digest: str, job: str, options: Sequence[str], *, output: str, crew: CrewSpec
    ) -> tuple[Submission, bool]:
        """Start a job unless it is pending or running; which submission it is, and whether it is a new one.

        ``job`` is the text of the job file, ``options`` are those of the `run` that runs it, ``output`` is its name,
        ``crew`` the workers that it wants: such as can never be had are refused here, not by its driver.
        """
        last = self.latest(digest)
        if last and not last.over:
            return last, False
        nodes = self._nodes()
        refuse_workers_without_room(crew, list(nodes.values()), grows=lambda: self._may_grow(nodes), where=self.address)
        name = f"tileloom-{digest}-{last.number + 1 if last else 1}"
        with TemporaryDirectory() as folder:
            working = Path(folder, "job")
            working.mkdir()
            (working / _JOB).write_text(job, encoding="utf-8")
            environment = {
                "working_dir": str(working),
                "py_modules": [str(copy_package(Path(folder)))],
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_LEAVE)},
            }
            with self._asking():
                new = self._submit_as(
                    name,
                    entrypoint=f"python -m tileloom.jobs.cli run {shlex.join([_JOB, *options])}",
                    runtime_env=environment,
                    metadata={"output": output},
                    entrypoint_resources={_DRIVER: _SHARE} if any(_DRIVER in one for one in nodes.values()) else None,
                )
        return self.find(name), new

    def _submit_as(self, name: str, **what: Any) -> bool:  # noqa: ANN401  Ray's own
        """Submit under an id; False where somebody else, who submits the same job at this moment, was faster."""
        try:
            self._client.submit_job(submission_id=name, **what)
        except RuntimeError:
            if all(job.submission_id != name for job in self._client.list_jobs()):
                raise
            return False
        return True

    def logs(self, name: str) -> str:
        """All that a submission has written."""
        with self._asking():
            return self._client.get_job_logs(name)

    def follow(self, name: str, say: Callable[[str], None]) -> Submission:
        """Say what a submission has written and writes until it has ended; how it ended."""

        async def tail() -> None:
            async for text in self._client.tail_job_logs(name):
                say(text)

        with self._asking():
            asyncio.run(tail())
        found = self.find(name)
        if not found.over:
            raise TileloomError(f"the log of {name} broke off, and it is still {found.state}: follow it once more")
        return found

    def stop(self, name: str) -> Submission:
        """Ask a submission to end, and wait until it has; what it came to."""
        with self._asking():
            self._client.stop_job(name)
        until = monotonic() + 1.5 * _LEAVE
        while not (found := self.find(name)).over and monotonic() < until:
            sleep(_LOOK)
        return found

    def _nodes(self) -> dict[str, dict[str, float]]:
        """What each node has in all, by its id."""
        with self._asking():
            found = list_nodes(self.address, limit=_NODES, raise_on_missing_output=False)
        return {node.node_id: node.resources_total for node in found if node.state == "ALIVE"}

    def _may_grow(self, nodes: Iterable[str]) -> bool:
        with self._asking():
            told = self._client._do_request("GET", "/api/cluster_status").json()
        report = (told.get("data", {}).get("clusterStatus") or {}).get("autoscalerReport")
        return may_grow(report and report["activeNodes"], nodes)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # Whoever reads what is said has enough; the cluster has done nothing wrong.
            raise
        except AuthenticationError as error:
            raise unreachable(self.address, error) from None
        except (OSError, ValueError, RuntimeError, RayStateApiException) as error:
            raise TileloomError(f"the cluster at {self.address} did not do as asked: {last_line(error)}") from error


def copy_package(folder: Path) -> Path:
    """Copy tileloom's code and data into a folder, without what else a source tree holds."""
    source, target = Path(__file__).parents[1], folder / "tileloom"
    target.mkdir()
    for name in _FILES:
        copyfile(source / name, target / name)
    for init in source.glob("*/__init__.py"):
        copytree(init.parent, target / init.parent.name, ignore=ignore_patterns("__pycache__"))
    return target


def _submission(job: JobDetails) -> Submission:
    began, ended = (None if told is None else told / 1000 for told in (job.start_time, job.end_time))
    output = (job.metadata or {}).get("output", "")
    state = job.status.value.lower()
    # Of a job that ran, Ray repeats the log.
    message = job.message or "" if job.driver_exit_code is None else ""
    return Submission(str(job.submission_id), state, output, began, ended, job.driver_exit_code, message)


def _answering(address: str) -> str:
    """The address as Ray wants it; raises OSError where nobody answers, as Ray itself would wait for minutes."""
    scheme, colon, _ = address.partition("://")
    if colon and scheme not in ("http", "https"):
        raise ValueError("jobs are submitted to the URL of a dashboard, such as http://head:8265")
    if address == "auto":
        return address
    url = address.rstrip("/") if colon else f"http://{address}"
    try:
        urlopen(f"{url}/api/version", timeout=ANSWER).close()
    except HTTPError as answer:
        # Whatever it says, somebody is there.
        answer.close()
    except URLError as error:
        raise OSError(error.reason) from error
    except HTTPException as error:
        if colon:
            raise OSError(f"what answers there is no dashboard: {type(error).__name__}") from error
        # Ray itself, which will say where its dashboard is.
        return address
    return url
