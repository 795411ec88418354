"""Workers that are told to go: their tiles are saved on their way and gone on with elsewhere, with the same bytes."""

from tests.stubwork import STEPS
from tests.test_ray import GRIDS, assert_same, cluster, expected, here, on_ray, woven  # noqa: F401
from tileloom.tiling.ledger import Status


def paused(run):
    return [entry for ledger in run.ledgers for entry in ledger.entries() if entry.status is Status.PAUSED]


def test_a_worker_that_gets_sigterm_saves_its_tiles(tmp_path, expected):  # noqa: F811
    """No death and no failure is allowed at all."""
    run = woven(tmp_path / "run", on_ray, faults=["term-0-1-1"], pause=0.2, restarts=0, retries=0)
    assert run.faults.struck == ["term-0-1-1"]
    assert [line for line in run.said if "goes and is replaced: it was told to end" in line]
    assert_gone_on(run, expected)


def assert_gone_on(run, expected):  # noqa: F811
    """Tiles were saved on their way, no call was made twice, and nothing is left of what was saved."""
    assert paused(run)
    assert run.total("failures") == 0
    assert run.total("paused") == len(paused(run))
    assert run.total("spared") > 0
    assert run.total("calls") == STEPS * sum(grid.count for grid in GRIDS)
    assert not list(run.folder.glob("*/work/paused/*"))
    assert_same(run, expected)
