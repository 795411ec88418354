"""Nodes that go and come: tiles lost with a node are nobody's fault, and a cluster without nodes is waited for."""

import time

import pytest
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from tests.metadata import metadata
from tests.stubwork import Faults
from tests.test_drain import assert_gone_on
from tests.test_ray import assert_same, here, on_ray, woven

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def cluster():
    """A head that computes nothing, and nodes with one place each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.nodes_made = [made.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def test_nodes_go_one_by_one_and_another_comes(tmp_path, cluster):
    """No death is allowed at all: those with a node are none."""
    expected = woven(tmp_path / "here", here)
    gone, came, executors, done = [], [], [], 0

    def strike(reports):
        nonlocal done
        done += len(reports)
        if done >= (8, 14, float("inf"))[len(gone)]:
            gone.append(cluster.nodes_made[len(gone)])
            cluster.remove_node(gone[-1], allow_graceful=False)

    def on_nodes(factory, say, **settings):
        def heard(text):
            say(text)
            if text.startswith("waiting for a worker") and not came:
                came.append(cluster.add_node(num_cpus=1))

        executors.append(on_ray(factory, heard, **settings))
        return executors[0]

    run = woven(tmp_path / "run", on_nodes, workers=2, cpus=1, pause=0.1, restarts=0, on_reports=strike)
    assert len(gone) == 2
    assert any("was lost with its node and is replaced" in line for line in run.said)
    assert any(line.startswith("waiting for a worker: each needs 1 CPUs and 0 GPUs") for line in run.said)
    assert came
    assert executors[0].timesheet.lost.total() == sum("is replaced: " in line for line in run.said)
    assert_same(run, expected)


def test_tiles_leave_machines_that_go_before_they_go(tmp_path, cluster):
    """The machine's own address tells of the first, Ray of the second; the third comes when none is left."""
    expected = woven(tmp_path / "here", here)
    executors, nodes, drained = [], [], []

    def on_nodes(factory, say, **settings):
        def heard(text):
            say(text)
            if text.startswith("waiting for a worker"):
                cluster.add_node(num_cpus=1)

        executors.append(on_ray(factory, heard, drain_url=url, **settings))
        return executors[0]

    def strike(_):
        nodes.extend(hand.node for hand in executors[0]._crew.hands if hand.node not in (*nodes, ""))
        struck = Faults(tmp_path / "run" / "faults").struck
        if "dwell-0-1-1" in struck and machine.answer[0] == 404:
            machine.answer = 200, b"TRUE"
        if "dwell-0-2-2" in struck and not drained:
            drained.append(nodes[-1])
            drain(cluster.address, drained[0])

    with metadata() as (machine, url):
        run = woven(
            tmp_path / "run",
            on_nodes,
            faults=["dwell-0-1-1", "dwell-0-2-2"],
            **{"workers": 1, "cpus": 1, "restarts": 0, "retries": 0, "on_reports": strike},
        )
    assert run.faults.struck == ["dwell-0-1-1", "dwell-0-2-2"]
    assert [line.partition("replaced: ")[2] for line in run.said if "goes and is replaced" in line] == [
        "its machine will be taken away",
        "its node is draining",
    ]
    assert any(line.startswith("waiting for a worker: each needs 1 CPUs and 0 GPUs") for line in run.said)
    assert len(nodes) == len(set(nodes)) == 3
    assert drained == nodes[1:2]
    assert_gone_on(run, expected)


def drain(address, node):
    """What a node's own `ray start` does when it gets a SIGTERM."""
    soon = int(1000 * (time.time() + 60))
    accepted, _ = GcsClient(address=address).drain_node(
        node, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "the machine goes", soon
    )
    assert accepted
