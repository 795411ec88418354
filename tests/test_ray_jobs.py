"""Jobs on workers: from the command line to the bytes, through a worker's death, and what is refused."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import ray

from examples.cluster_demo import actors
from tests import nets
from tests.archives import archive
from tests.commandline import tileloom, written
from tests.pipeline import assert_same_bytes, beside, job, measure, restore, result, root_of, scene
from tileloom.cluster.worker import Outcome
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.spec import ClusterSpec
from tileloom.jobs.state import JobState
from tileloom.tiling.errors import InputError
from tileloom.tiling.ledger import Ledger, Status

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A job of two levels, run in one process."""
    folder = tmp_path_factory.mktemp("reference")
    y = measure(scene(3, 64, 80), "sr:4").astype(np.float32)
    spec = job(folder, y, task="sr:4", range=[-1, 1], stride=8, guard=4, batch=2, levels=2)
    restore(spec)
    return spec


@pytest.fixture
def moved(reference, tmp_path):
    """The same job with two workers and another output."""
    cluster = reference.cluster.model_copy(update={"workers": 2, "cpus": 1.0})
    return beside(reference, tmp_path).model_copy(update={"cluster": cluster})


class Listening(Silent):
    """Keeps what was said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def test_a_job_starts_its_own_cluster_and_leaves_none(reference, tmp_path, capfd):
    keys = beside(reference, tmp_path).model_dump(mode="json", exclude_none=True, exclude={"cluster"})
    words = ["--cluster-workers", 2, "--cluster-prices", "A100=1.8,CPU=3600", "--json"]
    ran = tileloom(capfd, "run", written(tmp_path, **keys), *words)
    assert ran.code == 0
    assert ran.json["done"] > 20
    assert ran.json["network_calls"] == ran.json["done"] * ran.json["calls_per_tile"]
    assert ran.json["network_calls_saved"] == 0
    assert 0 < ran.json["node_seconds"] <= ran.json["worker_seconds"]
    assert 0 < ran.json["idle_share"] < 1
    assert ran.json["cost"] == pytest.approx(ran.json["node_seconds"], abs=0.01)
    assert not ray.is_initialized()
    assert_same_bytes(beside(reference, tmp_path), reference)
    kept = json.loads((tmp_path / "out.zarr" / ".tileloom" / "job.json").read_text())
    assert kept["spec"]["cluster"]["workers"] == 2


def test_a_worker_of_a_real_engine_is_killed_on_the_way(moved, reference):
    """The first of its processes that loads the network, once tiles come back."""
    watcher, struck = Listening(), []

    def strike(reports):
        if reports and not struck:
            workers = sorted(actors(os.getpid()))
            struck.extend(workers[:1])
            for pid in struck:
                os.kill(pid, signal.SIGKILL)

    run_job(moved, watcher, on_reports=strike)
    assert struck
    assert any("was lost and is replaced" in line for line in watcher.said)
    assert_same_bytes(moved, reference)


def test_what_was_saved_on_a_machine_that_went_outlives_the_driver(reference, moved):
    """The driver ends as soon as tiles are saved; a process without Ray goes on from them."""
    paused, struck = [], []

    def strike(reports):
        paused.extend(report for report in reports if report.outcome is Outcome.PAUSED)
        if paused:
            raise KeyboardInterrupt
        workers = sorted(actors(os.getpid()))
        for pid in set(workers) - set(struck) if reports else ():
            os.kill(pid, signal.SIGTERM)
            struck.append(pid)

    slow = moved.model_copy(update={"steps": 60})
    with pytest.raises(KeyboardInterrupt):
        run_job(slow, Silent(), on_reports=strike)
    assert struck
    root = root_of(slow)
    assert sorted(file.name for file in root.glob("paused/*")) == sorted(f"{one.tile}-{one.output}" for one in paused)
    lines = [entry for entry in Ledger(root / "ledger").entries() if entry.status is Status.PAUSED]
    assert [(line.tile, line.output) for line in lines] == [(one.tile, one.output) for one in paused]
    here = slow.model_copy(update={"cluster": ClusterSpec()})
    summary = run_job(here, Silent())
    assert summary.report.spared == sum(one.calls for one in paused) > 0
    assert summary.calls + summary.report.spared == summary.report.done * summary.calls_per_tile
    assert not (root / "paused").exists()
    alone = beside(reference, Path(slow.output).parent / "alone").model_copy(update={"steps": 60})
    restore(alone)
    assert_same_bytes(slow, alone)


def test_a_worker_that_is_drained_in_the_middle_of_schedules_loses_no_call(reference, moved):
    """Workers are told to go once many have tiles, until some were saved; their successors go on in the same run."""
    settled, paused, struck = [], [], set()

    def strike(reports):
        settled.extend(reports)
        paused.extend(report for report in reports if report.outcome is Outcome.PAUSED)
        if reports and len(settled) > 20 and not paused:
            for pid in set(actors(os.getpid())) - struck:
                os.kill(pid, signal.SIGTERM)
                struck.add(pid)

    slow = moved.model_copy(update={"steps": 60})
    summary = run_job(slow, Silent(), on_reports=strike)
    assert paused
    assert summary.report.paused == len(paused)
    told = summary.as_json()
    assert told["network_calls_saved"] > 0
    assert told["network_calls"] == summary.report.done * summary.calls_per_tile
    alone = beside(reference, Path(slow.output).parent / "alone").model_copy(update={"steps": 60})
    restore(alone)
    assert_same_bytes(slow, alone)


def test_a_job_begun_here_goes_on_there(moved, reference, monkeypatch):
    def stop(reports):
        if sum(map(len, seen)) > 10:
            raise KeyboardInterrupt
        seen.append(reports)

    seen = []
    alone = moved.model_copy(update={"cluster": reference.cluster})
    with pytest.raises(KeyboardInterrupt):
        run_job(alone, Silent(), on_reports=stop)
    summary = run_job(moved, Silent())
    assert 0 < summary.report.done < sum(summary.bill.solve)
    assert_same_bytes(moved, reference)


def test_all_workers_have_the_batch_that_the_first_one_found(tmp_path):
    y = measure(scene(3, 32, 48), "sr:2").astype(np.float32)
    model = {"name": nets.weights(tmp_path)}
    cluster = {"workers": 2, "cpus": 1}
    spec = job(tmp_path, y, task="sr:2", range=[-1, 1], model=model, batch="auto", levels=1, cluster=cluster)
    summary = run_job(spec, Silent())
    assert summary.report.done == sum(summary.bill.solve)
    found = JobState.load(Path(spec.output)).parts["batch"]
    alone = beside(spec, tmp_path / "alone").model_copy(update={"batch": found, "cluster": ClusterSpec()})
    restore(alone)
    np.testing.assert_array_equal(result(spec), result(alone))


def test_more_accelerators_than_there_are_are_refused(moved):
    asked = moved.model_copy(update={"cluster": moved.cluster.model_copy(update={"gpus": 1.0})})
    with pytest.raises(InputError, match=r"cluster.gpus asks for 2 accelerators in all, and this machine has 0: ask"):
        run_job(asked, Silent())
    assert not ray.is_initialized()
    assert not Path(asked.output).exists()


def test_a_client_address_says_how_a_job_joins(moved):
    asked = moved.model_copy(update={"cluster": moved.cluster.model_copy(update={"address": "ray://10.0.0.1:10001"})})
    with pytest.raises(InputError, match="from one of its nodes, by HOST:PORT or auto"):
        run_job(asked, Silent())


def test_a_cluster_that_does_not_answer_is_refused_in_a_sentence(moved):
    nowhere = moved.model_copy(update={"cluster": moved.cluster.model_copy(update={"address": "127.0.0.1:1"})})
    words = r"the cluster at 127\.0\.0\.1:1 cannot be reached .*: check the address"
    with pytest.raises(InputError, match=words) as said:
        run_job(nowhere, Silent())
    assert "\n" not in str(said.value)
    assert not Path(nowhere.output).exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--cluster-workers", "0"), "--cluster-workers must be a whole number from 1 up, not 0"),
        (("--cluster-address", "auto"), "--cluster-workers is missing, and --cluster-address names a cluster"),
        (("--cluster-gpus", "-1"), "--cluster-gpus must be a share below 1, or a whole number"),
        (("--cluster-gpus", "1.5"), "--cluster-gpus must be a share below 1, or a whole number"),
        (("--cluster-cpus", "inf"), "--cluster-cpus must be a number from 0 up"),
        (("--cluster-patience", "never"), "--cluster-patience must be a number above 0"),
    ],
)
def test_workers_that_mean_nothing_are_refused(moved, tmp_path, capfd, words, says):
    keys = moved.model_dump(mode="json", exclude_none=True, exclude={"cluster"})
    ran = tileloom(capfd, "run", written(tmp_path, **keys), *words)
    assert ran.code == 2
    assert says in " ".join(ran.errors)
    assert not Path(moved.output).exists()


def test_an_archive_on_workers_is_the_archive_of_one_process(tmp_path):
    """With a broken image among the others."""
    here = archive(tmp_path, rows=["a", "b", "c", "d"])
    (tmp_path / "d.zarr" / "c" / "0" / "0" / "0").write_bytes(b"damaged")
    assert here.run().failed == ["d"]
    there = archive(tmp_path, name="there", rows=["c", "d", "b", "a"], cluster={"workers": 2, "cpus": 1})
    summary = there.run()
    assert (summary.done, summary.failed) == (3, ["d"])
    for image in "abc":
        assert_same_bytes(there.spec(image), here.spec(image))
