"""Nodes that go and come: tiles lost with a node are nobody's fault, and a cluster without nodes is waited for."""

import pytest
import ray
from ray.cluster_utils import Cluster

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
    gone, came, done = [], [], 0

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

        return on_ray(factory, heard, **settings)

    run = woven(tmp_path / "run", on_nodes, workers=2, cpus=1, pause=0.1, restarts=0, on_reports=strike)
    assert len(gone) == 2
    assert any("was lost with its node and is replaced" in line for line in run.said)
    assert any(line.startswith("waiting for a worker: each needs 1 CPUs and 0 GPUs") for line in run.said)
    assert came
    assert_same(run, expected)
