"""Submitted jobs on a real cluster that asks for a token: the whole way from the command line, and what it refuses."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.request import Request, urlopen

import pytest
import zarr

from tests.commandline import written
from tests.images import write_zarr
from tests.pipeline import QUICK, scene
from tests.processes import children
from tileloom.cluster.submissions import copy_package

pytestmark = pytest.mark.slow

TOKEN, WRONG = "0123456789abcdef" * 4, "fedcba9876543210" * 4
SECRET = "a-secret-that-stays-here"
HEAD = ["--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--num-gpus=0"]
HEAD += ["--object-store-memory=100000000", "--min-worker-port=0", "--max-worker-port=0"]
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "ray-client-server-port")
# Added to the module of workers: each leaves a mark where it is loaded, and takes its time.
SLOWLY = """

import os, pathlib, time
pathlib.Path({marks!r}, str(os.getpid())).touch()
_advance = Worker.advance
def _slowly(*arguments):
    time.sleep(0.5)
    return _advance(*arguments)
Worker.advance = _slowly
"""


def free_ports(count):
    """Ports of this machine that nobody listens at."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


@pytest.fixture(scope="module")
def head():
    """A Ray head of our own, its dashboard up: addresses, and what it must be asked with."""
    # Sockets have short names only, and pytest's folders are long.
    with tempfile.TemporaryDirectory(prefix="tl-") as folder:
        token = Path(folder, "token")
        token.write_text(TOKEN)
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        plain |= {"HOME": folder, "RAY_USAGE_STATS_ENABLED": "0"}
        plain["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), plain["PATH"]])
        ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *HEAD, f"--temp-dir={folder}/ray"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        environment = plain | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        before = set(children(os.getpid()))
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as ray:
            here = SimpleNamespace(
                url=f"http://127.0.0.1:{ports['dashboard-port']}",
                gcs=f"127.0.0.1:{ports['port']}",
                folder=Path(folder),
                plain=plain,
                token={"RAY_AUTH_TOKEN_PATH": str(token)},
            )
            try:
                until = time.monotonic() + 120
                while cli(here, "list", "--address", here.url).code:
                    assert ray.poll() is None
                    assert time.monotonic() < until
                yield here
            finally:
                for process in set(children(os.getpid())) - before:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)


def cli(head, *words, code="from tileloom.jobs.cli import main", folder=None, **environment):
    """A command in a process of its own, with the token unless the environment says otherwise."""
    told = {name: value for name, value in ({**head.token, **environment}).items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; sys.exit(main(sys.argv[1:]))", *map(str, words)],
        env=head.plain | told,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert TOKEN not in done.stdout + done.stderr
    return SimpleNamespace(code=done.returncode, out=done.stdout, errors=done.stderr.splitlines())


@pytest.fixture
def job(tmp_path):
    """A job of a hundred tiles for a cluster, and the same one for this machine."""
    write_zarr(tmp_path / "in.zarr", scene(3, 60, 60))
    keys = {**QUICK, "input": "in.zarr", "task": "sr:2", "range": [-1, 1], "batch": 2}
    there = written(tmp_path, **keys, output="out.zarr", cluster={"workers": 1, "cpus": 0.5})
    return there, written(tmp_path, "here.yaml", **keys, output="here.zarr")


@pytest.fixture
def slow_code(tmp_path):
    """A folder with a copy of the package that takes its time, and one that tells who loaded it."""
    marks, copy = tmp_path / "marks", tmp_path / "copy"
    marks.mkdir()
    copy.mkdir()
    module = copy_package(copy) / "cluster" / "worker.py"
    with module.open("a", encoding="utf-8") as text:
        text.write(SLOWLY.format(marks=str(marks)))
    return copy, marks


def published(output):
    """Every level of a result, as its bytes."""
    return {level: zarr.open_array(f"{output}/{level}", mode="r")[...].tobytes() for level in range(2)}


def done(output):
    """Tiles that are done, by what the output itself says."""
    said = subprocess.run(
        [sys.executable, "-m", "tileloom.jobs.cli", "status", output, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    return sum(level["done"] for level in json.loads(said.stdout)["levels"]) if not said.returncode else 0


def test_a_job_is_submitted_attached_to_cancelled_and_goes_on(head, job, slow_code, tmp_path):
    """With credentials where it is submitted, which must stay there."""
    job, here = job
    output = tmp_path / "out.zarr"
    us = {"RAY_ADDRESS": head.url, "AWS_SECRET_ACCESS_KEY": SECRET}

    # The code that goes along is that which submits.
    began = cli(head, "submit", job, "--json", folder=slow_code[0], **us)
    assert began.code == 0, began.errors
    first = json.loads(began.out)["id"]
    assert first.endswith("-1")
    until = time.monotonic() + 120
    while done(output) < 5:
        assert time.monotonic() < until
    assert len(list(slow_code[1].iterdir())) == 3, "who submits, the driver and its worker"
    again = cli(head, "submit", job, **us)
    assert (again.code, again.out.splitlines()[0]) == (0, f"{first}: running already")
    stopped = cli(head, "cancel", job, **us)
    assert (stopped.code, stopped.out, stopped.errors) == (0, f"{first}: stopped\n", [])
    kept = done(output)
    assert 5 <= kept < 100
    log = cli(head, "logs", first, **us).out.splitlines()
    assert log[-1] == f"stopped; everything finished is kept, go on with: tileloom resume {output}"

    followed = cli(head, "submit", job, "--follow", **us)
    assert followed.code == 0, followed.out
    second = first.removesuffix("1") + "2"
    assert followed.out.startswith(f"{second}: submitted\n")
    assert f"restore: {100 - kept} tiles" in followed.out

    assert cli(head, "run", here).code == 0
    assert published(output) == published(tmp_path / "here.zarr")
    listed = json.loads(cli(head, "list", "--json", **us).out)["submissions"]
    states = {one["id"]: (one["state"], one["exit_code"], one["output"]) for one in listed}
    assert states[first] == ("stopped", None, str(output))
    assert states[second] == ("succeeded", 0, str(output))
    status = json.loads(cli(head, "status", job, "--address", head.url, "--json").out)
    assert (status["submission"]["id"], status["phase"]) == (second, "done")
    written_by_ray = [path for path in head.folder.rglob("*") if path.is_file()]
    assert any(first.encode() in path.read_bytes() for path in written_by_ray)
    assert not [path for path in written_by_ray if SECRET.encode() in path.read_bytes()]


def test_a_job_whose_workers_can_never_be_had_is_not_submitted(head, job):
    """A head says a few seconds after its start that no other nodes come."""
    asked = Request(f"{head.url}/api/cluster_status", headers={"Authorization": f"Bearer {TOKEN}"})
    until = time.monotonic() + 60
    while b"autoscalerReport" not in urlopen(asked).read():
        assert time.monotonic() < until
        time.sleep(0.5)
    said = cli(head, "submit", job[0], "--follow", "--cluster-gpus", 1, "--address", head.url)
    assert (said.code, said.out) == (2, "")
    assert said.errors[-1] == (
        f"error: a worker needs 0.5 CPUs and 1 GPUs, and no node of the cluster at {head.url} has so many "
        "(2 CPUs and 0 GPUs): ask for less with cluster.cpus and cluster.gpus, or add a node"
    )


def test_a_job_that_is_asked_wrongly_ends_so_for_whoever_follows(head, job, tmp_path):
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / "other").write_text("another's")
    said = cli(head, "submit", job[0], "--follow", "--address", head.url)
    assert said.code == 2
    assert any("out.zarr exists and is no tileloom result" in line for line in said.out.splitlines())


@pytest.mark.parametrize("where", ["url", "gcs"])
@pytest.mark.parametrize(
    ("token", "says"),
    [
        ({"RAY_AUTH_TOKEN": WRONG}, "does not know the token that is at hand: put the cluster's own"),
        (
            {"RAY_AUTH_TOKEN_PATH": None},
            "wants a token, and none is at hand: put the cluster's own into ~/.ray/auth_to",
        ),
    ],
)
def test_without_the_right_token_nothing_is_told(head, where, token, says):
    said = cli(head, "list", "--address", getattr(head, where), **token)
    assert (said.code, said.out) == (2, "")
    # Ray's own core may have a line of its own.
    assert says in said.errors[-1]
    assert WRONG not in said.errors[-1]


def test_every_place_of_the_token_will_do(head, tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    for place in (
        {"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_TOKEN_PATH": None},
        {"HOME": tmp_path, "RAY_AUTH_TOKEN_PATH": None},
    ):
        assert cli(head, "list", "--address", head.url, **place).code == 0


def test_a_run_joins_only_a_cluster_of_its_own_versions(head, job, tmp_path):
    code = "import platform; platform.python_version = lambda: '3.12.1'; from tileloom.jobs.cli import main"
    words = ("run", job[0], "--cluster-address", head.gcs)
    said = cli(head, *words, code=code)
    assert said.code == 2
    assert f"the cluster at {head.gcs} has Ray " in said.errors[-1]
    assert "and Python 3.12.1, and they must be the same: run the job in the cluster's own image" in said.errors[-1]
    wrong = cli(head, *words, RAY_AUTH_TOKEN=WRONG)
    assert wrong.code == 2
    assert "does not know the token" in wrong.errors[-1]
    assert not (tmp_path / "out.zarr").exists()


def test_a_status_needs_no_cluster(job, head, tmp_path):
    assert cli(head, "run", job[1]).code == 0
    (gone,) = free_ports(1)
    address = f"http://127.0.0.1:{gone}"
    said = cli(head, "status", tmp_path / "here.zarr", RAY_ADDRESS=address)
    assert (said.code, said.errors) == (0, [])
    assert "100 done, 0 to do" in said.out
    for words in (("list",), ("submit", job[0]), ("status", job[0])):
        asked = cli(head, *words, "--address", address)
        assert (asked.code, len(asked.errors)) == (2, 1)
        assert f"the cluster at {address} cannot be reached" in asked.errors[0]
