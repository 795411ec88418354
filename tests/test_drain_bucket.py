"""Tiles that are saved on their way to a bucket, and gone on with from there: the same bytes, no call twice."""

import numpy as np
import pytest

from tests.crews import PLAIN, crew_of
from tests.objects import assert_same_bytes, stored
from tests.objects import bucket as bucket
from tests.objects import server as server
from tests.pipeline import job, measure, restore, scene
from tileloom.cluster.worker import Outcome
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.spec import ClusterSpec
from tileloom.models.engine import Engine

STEPS = 6
WORKERS = ClusterSpec(workers=1, cpus=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A job whose result is on disk, of tiles that nobody disturbed."""
    y = measure(scene(2, 48, 64), "sr:2").astype(np.float32)
    options = {"task": "sr:2", "range": [-1, 1], "stride": 8, "guard": 4, "levels": 1, "batch": 2, "steps": STEPS}
    spec = job(tmp_path_factory.mktemp("whole"), y, **options)
    restore(spec)
    return spec


@pytest.fixture
def there(whole, bucket):
    """The same job with its output in a bucket and a worker."""
    return whole.model_copy(update={"output": f"{bucket}/out.zarr", "cluster": WORKERS})


def paused_in(spec):
    return sorted(name.rpartition("/")[2] for name in stored(spec.output) if "/paused/" in name)


def test_tiles_saved_in_a_bucket_outlive_their_driver(there, whole, monkeypatch):
    """The worker is told to go while tiles are in its batch, and the driver ends as soon as these are saved."""
    paused, steps, step = [], [], Engine.step

    def stepped(self, states):
        steps.append(len(states))
        if len(steps) == 2 * STEPS + 3:
            crews[0].drain()
        return step(self, states)

    def strike(reports):
        paused.extend(report for report in reports if report.outcome is Outcome.PAUSED)
        if paused:
            raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "step", stepped)
    with crew_of(PLAIN) as crews, pytest.raises(KeyboardInterrupt):
        run_job(there, Silent(), on_reports=strike)
    monkeypatch.setattr(Engine, "step", step)
    assert 0 < sum(one.calls for one in paused) < STEPS * len(paused)
    assert paused_in(there) == sorted(f"{one.tile}-{one.output}" for one in paused)
    here = there.model_copy(update={"cluster": ClusterSpec()})
    summary = run_job(here, Silent())
    assert summary.report.spared == sum(one.calls for one in paused) > 0
    assert summary.calls + summary.report.spared == summary.report.done * summary.calls_per_tile
    assert paused_in(there) == []
    assert_same_bytes(there.output, whole)
