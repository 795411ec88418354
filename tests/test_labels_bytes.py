"""A job of labels comes to the same bytes in any order, by any workers, whatever is kept and whoever is killed."""

import signal

import numpy as np
import pytest
import tifffile

from tests.nets import SEMANTIC, weights
from tests.pipeline import assert_same_bytes, beside, committed, job, restore
from tests.test_labels import blocks
from tests.victim import Victims
from tileloom.jobs import phases
from tileloom.jobs.compile import compile_job
from tileloom.models import networks

HEIGHT, WIDTH = 28, 44


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A guided job of two levels, with edges of instances."""
    folder = tmp_path_factory.mktemp("reference")
    files = {"labels": blocks(HEIGHT, WIDTH, values=5), "instances": blocks(HEIGHT, WIDTH, values=9, seed=3)}
    for name, ids in files.items():
        tifffile.imwrite(folder / f"{name}.tif", ids.astype("uint8"))
    told = {name: str(folder / f"{name}.tif") for name in files}
    model = {"name": weights(folder, SEMANTIC), "edges": True, "guidance_scale": 1.5}
    how = {"sampler": "ddpm", "levels": 2, "batch": 3, "steps": 2, "stride": 8, "guard": 4}
    spec = job(folder, f"blank:{WIDTH}x{HEIGHT}", task="generate", model=model, **told, **how)
    restore(spec)
    return spec


def in_order(spec, policy, monkeypatch):
    monkeypatch.setitem(phases.POLICIES, "critical-path", policy)
    restore(spec)


def by_row(plan):
    return lambda image, rank, tile: tile


def by_front(plan):
    return lambda image, rank, tile: plan.depth(tile)


def at_random(plan):
    rng = np.random.default_rng(7)
    return lambda image, rank, tile: int(rng.integers(1 << 20))


@pytest.mark.parametrize("order", [by_row, by_front, at_random])
def test_any_order(reference, tmp_path, monkeypatch, order):
    spec = beside(reference, tmp_path)
    in_order(spec, order(compile_job(reference).image.plan), monkeypatch)
    assert sorted(committed(spec)) == sorted(committed(reference))
    assert_same_bytes(spec, reference)


def test_whether_there_is_room_to_keep_anything(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "ROOM", 0)
    spec = beside(reference, tmp_path)
    restore(spec)
    assert_same_bytes(spec, reference)


@pytest.mark.slow
@pytest.mark.parametrize("point", [("step", "before", 3), ("chunk", "after", 4)])
def test_a_run_that_is_killed_and_goes_on(reference, tmp_path, point):
    spec, victims = beside(reference, tmp_path), Victims()
    try:
        assert victims.run(spec, tmp_path, point=point).status == -signal.SIGKILL
    finally:
        victims.close()
    restore(spec)
    assert_same_bytes(spec, reference)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers(reference, tmp_path, workers):
    cluster = reference.cluster.model_copy(update={"workers": workers, "cpus": 1.0})
    spec = beside(reference, tmp_path).model_copy(update={"cluster": cluster})
    restore(spec)
    assert_same_bytes(spec, reference)
