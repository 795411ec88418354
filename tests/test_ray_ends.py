"""What outlives the driver and the head of a cluster: everything that was committed."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from tests.commandline import written
from tests.house import ROOT
from tests.pipeline import assert_same_bytes, beside, committed, job, measure, restore, root_of, scene
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.tiling.errors import TileloomError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A job with more tiles than are done before anybody dies, run in one process."""
    folder = tmp_path_factory.mktemp("reference")
    y = measure(scene(3, 128, 160), "sr:4").astype(np.float32)
    spec = job(folder, y, task="sr:4", range=[-1, 1], stride=8, guard=4, batch=2, levels=1, steps=20)
    restore(spec)
    return spec


@pytest.fixture
def cluster(monkeypatch):
    """A head that computes nothing, and a node."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture
def begun(reference, cluster, tmp_path):
    """(job, driver): the same job on the cluster, some of its tiles done."""
    spec = beside(reference, tmp_path)
    keys = spec.model_dump(mode="json", exclude_none=True, exclude={"cluster"})
    words = ["--cluster-workers", "1", "--cluster-address", cluster.address]
    command = [sys.executable, "-m", "tileloom.jobs.cli", "run", str(written(tmp_path, **keys)), *words]
    with (tmp_path / "said").open("w") as said:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
    until = time.monotonic() + 120
    while done(spec) < 10:
        assert driver.poll() is None, (tmp_path / "said").read_text()
        assert time.monotonic() < until
        time.sleep(0.1)
    yield spec, driver
    driver.kill()
    driver.wait()


def done(spec):
    try:
        return len(committed(spec))
    except (ValueError, TileloomError, OSError):
        # The run has not come so far.
        return 0


def gone_on(spec, reference):
    """Go on in this process; what was committed is not done again, and the bytes are as ever."""
    before, again = set(committed(spec)), []
    assert before
    run_job(spec, Silent(), on_reports=again.extend)
    assert not before & {report.tile for report in again}
    assert len(before) + len(again) == len(set(committed(spec)))
    assert root_of(spec)
    assert_same_bytes(spec, reference)


def test_the_job_goes_on_after_its_driver_was_killed(begun, reference):
    spec, driver = begun
    os.kill(driver.pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    gone_on(spec, reference)


def test_the_job_goes_on_elsewhere_after_the_head_was_lost(begun, cluster, reference):
    """Ray ends the driver's process itself, without an exception."""
    spec, driver = begun
    cluster.head_node.kill_gcs_server(check_alive=False)
    assert driver.wait(timeout=200) != 0
    gone_on(spec, reference)
