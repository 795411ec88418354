"""Workers for whom no node of a cluster is large enough: refused before anything is started, where no other comes."""

import json
from types import SimpleNamespace

import pytest

from tests.commandline import tileloom
from tests.test_submission import _environment as _environment
from tests.test_submission import cluster as cluster
from tests.test_submission import job as job
from tests.test_submission import nodes as nodes
from tileloom.cluster import connect
from tileloom.cluster.executor import CrewSpec
from tileloom.tiling.errors import InputError


@pytest.mark.parametrize("words", [("--cluster-gpus", 1), ("--cluster-cpus", 5)], ids=["gpus", "cpus"])
def test_workers_that_can_never_be_had_are_refused_when_they_are_submitted(cluster, nodes, job, capfd, words):
    """The nodes are those that the autoscaler knows, by the names that a dashboard makes of theirs; one has gone."""
    nodes.append(SimpleNamespace(node_id="c2d", state="DEAD", resources_total={"CPU": 64.0, "GPU": 8.0}))
    client = cluster()
    client.active = ["nodeA1B"]
    said = tileloom(capfd, "submit", job, *words)
    assert (said.code, client.submitted) == (2, [])
    [line] = said.errors
    assert line.endswith(
        "and no node of the cluster at http://head:8265 has so many (4 CPUs and 0 GPUs): ask for less with "
        "cluster.cpus and cluster.gpus, or add a node"
    )


@pytest.mark.parametrize("active", [None, ["nodeA1B", "spotNode"]])
def test_workers_for_whom_nodes_may_come_are_submitted(cluster, job, capfd, active):
    client = cluster()
    client.active = active
    assert tileloom(capfd, "submit", job, "--cluster-gpus", 1).code == 0
    assert len(client.submitted) == 1


@pytest.fixture
def hand_made(monkeypatch):
    """A cluster of two nodes; what its autoscaler calls them may be said."""

    def use(names):
        own = {"CPU": 2.0, "GPU": 1.0, "memory": 8e9}
        there = [{"NodeID": name, "Alive": True, "Resources": own} for name in ("aa", "bb")]
        report = None if names is None else json.dumps({"autoscaler_report": {"active_nodes": dict.fromkeys(names, 1)}})
        monkeypatch.setattr(connect.ray, "nodes", lambda: there)
        monkeypatch.setattr(connect, "_internal_kv_get", lambda _: report)

    return use


@pytest.mark.parametrize("names", [None, ["head", "worker"], ["node_aa", "worker"]])
def test_a_cluster_that_may_grow_is_waited_for(hand_made, names):
    hand_made(names)
    connect._refuse_nodes_without_room(CrewSpec(gpus=2, address="auto"))


def test_a_cluster_that_cannot_grow_must_have_a_node_that_is_large_enough(hand_made):
    hand_made(["node_aa", "node_bb"])
    connect._refuse_nodes_without_room(CrewSpec(workers=9, cpus=2, gpus=1, address="auto"))
    with pytest.raises(InputError) as said:
        connect._refuse_nodes_without_room(CrewSpec(gpus=2, address="auto"))
    assert str(said.value).startswith(
        "a worker needs 1 CPUs and 2 GPUs, and no node of the cluster at auto has so many (2 CPUs and 1 GPUs): ask for"
    )


def test_a_cluster_that_cannot_grow_must_have_the_memory_that_a_worker_needs(hand_made):
    hand_made(["node_aa", "node_bb"])
    connect._refuse_nodes_without_room(CrewSpec(cpus=2, memory=8 * 10**9, address="auto"))
    with pytest.raises(InputError) as said:
        connect._refuse_nodes_without_room(CrewSpec(cpus=2, memory=9 * 10**9, address="auto"))
    assert str(said.value) == (
        "a worker needs about 9.00 GB of memory, and no node of the cluster at auto that has its CPUs and GPUs has so "
        "much (8.00 GB): lower batch, lanes or tile, or add a larger node"
    )
    hand_made(["node_aa", "worker"])
    connect._refuse_nodes_without_room(CrewSpec(cpus=2, memory=9 * 10**9, address="auto"))
