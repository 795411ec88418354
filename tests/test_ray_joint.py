"""Joint jobs of a real engine on Ray: the bytes of one process, through deaths of workers and of the driver."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from examples.cluster_demo import actors
from tests.commandline import written
from tests.house import ROOT
from tests.pipeline import assert_same_bytes, beside, job, measure, restore, root_of, scene
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.state import JobState
from tileloom.models.cells import CellWork
from tileloom.tiling.errors import TileloomError
from tileloom.tiling.ledger import Ledger

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A joint job of two levels, run in one process."""
    y = measure(scene(3, 128, 160), "sr:4").astype(np.float32)
    options = {"stride": 8, "batch": 2, "levels": 2, "steps": 12, "weave": "joint"}
    spec = job(tmp_path_factory.mktemp("reference"), y, task="sr:4", range=[-1, 1], **options)
    spec = spec.model_copy(update={"lockstep": spec.lockstep.model_copy(update={"block": 48, "every": 2})})
    restore(spec)
    return spec


@pytest.fixture(scope="module")
def cluster():
    """A head that computes nothing, and a node."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        made.add_node(num_cpus=2)
        yield made
        made.shutdown()


def settled(spec):
    """The step of the fine level that all blocks have committed."""
    try:
        return Ledger(root_of(spec) / "ledger").facts.get("woven level 0", 0)
    except (ValueError, TileloomError, OSError):
        # The run has not come so far.
        return 0


def on(cluster, spec, folder, workers=2):
    """The job's driver as a process of its own."""
    keys = spec.model_dump(mode="json", exclude_none=True, exclude={"cluster"})
    words = ["--cluster-workers", str(workers), "--cluster-address", cluster.address]
    command = [sys.executable, "-m", "tileloom.jobs.cli", "run", str(written(folder, **keys)), *words]
    with (folder / "said").open("w") as said:
        return subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)


def until_settled(spec, driver, folder):
    until = time.monotonic() + 120
    while settled(spec) < 4:
        assert driver.poll() is None, (folder / "said").read_text()
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_killed_driver_is_gone_on_with_from_the_settled_step(reference, cluster, tmp_path, monkeypatch):
    spec = beside(reference, tmp_path)
    driver = on(cluster, spec, tmp_path)
    until_settled(spec, driver, tmp_path)
    driver.kill()
    driver.wait()
    # Its workers end by themselves, and until then they may write what they would have written anyway.
    step, begun, begin = settled(spec), set(), CellWork.begin

    def noted(self, lattice, number, inputs, saved, at):
        begun.add((inputs.key.level, at))
        return begin(self, lattice, number, inputs, saved, at)

    monkeypatch.setattr(CellWork, "begin", noted)
    run_job(spec, Silent())
    assert begun == {(0, 2 * step)}
    assert_same_bytes(spec, reference)


def test_a_worker_is_killed_on_the_way(reference, cluster, tmp_path):
    spec = beside(reference, tmp_path)
    driver = on(cluster, spec, tmp_path)
    until_settled(spec, driver, tmp_path)
    workers = sorted(pid for node in cluster.list_all_nodes() for pid in actors(raylet_of(node)))
    os.kill(workers[0], signal.SIGKILL)
    assert driver.wait(timeout=200) == 0, (tmp_path / "said").read_text()
    assert "was lost and is replaced" in (tmp_path / "said").read_text()
    assert JobState.load(spec.output) is not None
    assert_same_bytes(spec, reference)


def raylet_of(node):
    return node.all_processes["raylet"][0].process.pid
