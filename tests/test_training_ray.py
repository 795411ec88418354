"""Training on workers of Ray: what they tell, what ends them, and that a worker which dies costs no bit."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from tests.commandline import tileloom, written
from tests.processes import children, command
from tests.trainings import archive, trained
from tileloom.cluster.executor import CrewSpec
from tileloom.cluster.training import train_on
from tileloom.jobs import train as module
from tileloom.models.training.loop import LOG, MODEL
from tileloom.models.training.peers import Group
from tileloom.tiling.errors import InputError, TileloomError

# Ray warns of settings of its own that nobody has touched.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
WORKER = "RayTrainWorker"
TWO = CrewSpec(workers=2, restarts=2)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all tests of this module."""
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=4, num_gpus=0, object_store_memory=100_000_000, **quiet)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return archive(tmp_path_factory.mktemp("archive"))


@dataclass
class Trains:
    """A worker's share of a small training; at one step the last worker dies, once."""

    image: str
    output: str
    dies_at: int | None = None

    def __call__(self, report):
        died = Path(f"{self.output}.died")

        def told(step, scalars, files):
            report(step, scalars, files)
            if step == self.dies_at and Group().rank == 1 and not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        trained(self.image, self.output, peers=Group(), report=told)


@dataclass
class Refuses:
    """A worker's share of what cannot be."""

    seen: str
    error: Exception

    def __call__(self, report):
        with open(self.seen, "a") as file:
            file.write("once\n")
        raise self.error


def test_a_worker_that_dies_costs_no_bit(image, tmp_path):
    told = []
    train_on(Trains(image, str(tmp_path / "whole")), TWO, lambda step, *_: told.append(step))
    assert told == [1, 2, 3, 4, 5, 6]
    again = []
    train_on(Trains(image, str(tmp_path / "killed"), dies_at=5), TWO, lambda step, *_: again.append(step))
    assert (tmp_path / "killed.died").exists()
    assert again[-2:] == [5, 6]
    for name in (MODEL, LOG):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_a_worker_refuses_ends_all_of_them_and_is_told_as_it_is(tmp_path):
    with pytest.raises(InputError, match="the image is broken"):
        train_on(Refuses(str(tmp_path / "seen"), InputError("the image is broken")), TWO, print)
    assert (tmp_path / "seen").read_text().count("once") <= TWO.workers


def test_what_nobody_foresaw_is_tried_again_and_then_told(tmp_path):
    with pytest.raises(TileloomError, match=r"more often than cluster\.restarts allows"):
        train_on(Refuses(str(tmp_path / "seen"), RuntimeError("odd")), CrewSpec(workers=1, restarts=1), print)
    assert (tmp_path / "seen").read_text().count("once") == 2


def test_a_job_trains_on_workers(image, tmp_path, capfd):
    network = {"width": 32, "levels": [1], "blocks": 1, "stem": 2, "attention": []}
    keys = {"crop": 16, "batch": 4, "steps": 3, "checkpoint": 1, "held_out": 0.3, "network": network}
    path = written(tmp_path, data=image, output="prior", cluster={"workers": 2}, **keys)
    said = tileloom(capfd, "train", path)
    assert (said.code, said.errors) == (0, [])
    assert said.out.splitlines()[-2].startswith("trained from step 0 to 3 in ")
    assert (tmp_path / "prior" / MODEL).exists()


def test_a_training_on_workers_ends_when_it_is_told_to(image, tmp_path):
    network = {"width": 32, "levels": [1], "blocks": 1, "stem": 2, "attention": []}
    keys = {"crop": 16, "batch": 4, "steps": 1_000_000, "checkpoint": 1, "log": 1, "network": network}
    path = written(tmp_path, data=image, output="prior", cluster={"workers": 2}, **keys)
    begun = [sys.executable, "-m", "tileloom.jobs.cli", "train", str(path)]
    child = subprocess.Popen(begun, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        while child.poll() is None and not (tmp_path / "prior" / LOG).exists():
            time.sleep(0.1)
        workers = [pid for pid in children(child.pid) if WORKER in command(pid)]
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 143, errors
    assert f"all checkpoints are kept, go on with: tileloom train {path}" in errors
    assert len(workers) == 2
    until = time.monotonic() + 20
    while any(WORKER in command(pid) for pid in workers):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_without_ray_train_it_is_said_what_to_install(image, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(module, "_TOGETHER", "..cluster.nowhere")
    keys = {"crop": 16, "network": {"levels": [1]}, "cluster": {"workers": 2}}
    said = tileloom(capfd, "train", written(tmp_path, data=image, output="prior", **keys))
    assert said.code == 2
    assert not (tmp_path / "prior").exists()
    assert "pip install tileloom[train]" in said.errors[-1]
