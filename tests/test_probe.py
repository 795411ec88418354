"""Which batch and lanes a trial chooses, and what it leaves alone."""

from dataclasses import dataclass

import pytest

from tests import nets
from tests.nets import weights
from tileloom.models import probe
from tileloom.models.build import EngineFactory
from tileloom.models.engine import DependentRows
from tileloom.models.probe import fastest_shape, most_lanes
from tileloom.tiling.errors import InputError, OutOfMemory, TileloomError


@dataclass
class Timed:
    """In place of an engine: one that says how fast it is."""

    tiles_a_second: float

    def rate(self):
        return self.tiles_a_second


class Trials:
    """Rates by (batch, lanes), 1 for any other; it keeps account of what was tried."""

    def __init__(self, rates, *, spoilt=()):
        self.rates, self.spoilt, self.tried = rates, spoilt, []

    def __call__(self, batch, lanes):
        self.tried.append((batch, lanes))
        if (batch, lanes) in self.spoilt:
            raise self.spoilt[batch, lanes]
        return Timed(self.rates.get((batch, lanes), 1.0))


def found(trials, *, batch=None, lanes=None, device="cpu", worthwhile=lambda batch, lanes: True):
    return fastest_shape(trials, batch=batch, lanes=lanes, device=device, worthwhile=worthwhile)


@pytest.fixture(autouse=True)
def _cores(monkeypatch):
    monkeypatch.setattr(probe.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})


def test_the_fastest_lanes_and_then_the_fastest_batch_are_taken():
    assert found(Trials({(1, 1): 1, (1, 4): 3, (2, 4): 4, (4, 4): 9, (8, 4): 6})) == (4, 4)
    assert found(Trials({(1, 1): 5, (1, 4): 3, (8, 1): 9})) == (8, 1)


def test_a_larger_batch_and_fewer_lanes_have_to_pay():
    assert found(Trials({(1, 1): 1.05, (1, 4): 1.0, (2, 4): 1.04, (8, 4): 1.1})) == (1, 4)
    assert found(Trials({(1, 4): 1.0, (2, 4): 1.9, (4, 4): 2.0})) == (2, 4)


def test_what_is_given_is_kept_and_not_tried_for():
    trials = Trials({(3, 4): 2})
    assert found(trials, batch=3) == (3, 4)
    assert sorted(trials.tried) == [(3, 1), (3, 4)]
    trials = Trials({(2, 5): 2})
    assert found(trials, lanes=5) == (2, 5)
    assert trials.tried == [(1, 5), (2, 5), (4, 5), (8, 5)]
    trials = Trials({})
    assert found(trials, batch=7, lanes=2) == (7, 2)
    assert trials.tried == []


def test_what_does_not_fit_or_heeds_its_company_is_passed_over():
    rates = {(1, 4): 1, (2, 4): 2, (4, 4): 3, (8, 4): 4}
    trials = Trials(rates)
    assert found(trials, worthwhile=lambda batch, lanes: batch * lanes <= 8) == (2, 4)
    assert (4, 4) not in trials.tried
    for error in (DependentRows("heeds its slot"), OutOfMemory("full")):
        assert found(Trials(rates, spoilt={(8, 4): error})) == (4, 4)
    assert found(Trials(rates), worthwhile=lambda batch, lanes: False) == (1, 4)


def test_any_other_failure_is_raised():
    with pytest.raises(TileloomError, match="no such thing"):
        found(Trials({}, spoilt={(2, 4): TileloomError("no such thing")}))


def test_an_accelerator_has_one_lane_and_larger_batches():
    trials = Trials({(64, 1): 50.0, (32, 1): 40.0})
    assert found(trials, device="cuda") == (64, 1)
    assert trials.tried == [(2**power, 1) for power in range(7)]
    assert (most_lanes("cuda"), most_lanes("cpu")) == (1, 4)


def test_the_time_for_trials_is_limited(monkeypatch):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(probe, "perf_counter", lambda: next(clock))
    trials = Trials({(8, 4): 9.0})
    assert found(trials) == (1, 4)
    assert trials.tried[-1] == (2, 4)


def test_a_factory_finds_a_shape_for_a_network_and_none_for_the_built_in(tmp_path, monkeypatch):
    asked = []

    def choose(make, **options):
        asked.append(options)
        return 2, 1

    monkeypatch.setattr("tileloom.models.build.fastest_shape", choose)
    factory = EngineFactory(tile=16, bands=3, batch=None, lanes=None)
    work = factory()
    assert (work.batch_shape, work.slots) == ((1, 3, 16, 16), 4)
    assert asked == []
    model = {"name": weights(tmp_path, nets.UNET)}
    work = EngineFactory(model, tile=16, bands=3, batch=None, lanes=None, affordable=10_000_000)()
    assert (work.batch_shape, work.slots) == ((2, 3, 16, 16), 2)
    [options] = asked
    assert (options["batch"], options["lanes"], options["device"]) == (None, None, "cpu")
    assert options["worthwhile"](1, 1)
    assert not options["worthwhile"](64, 8)


def test_a_real_trial_gives_an_engine_of_the_shape_it_found(tmp_path, monkeypatch):
    monkeypatch.setattr(probe.os, "sched_getaffinity", lambda _: {0, 1})
    model = {"name": weights(tmp_path, nets.UNET)}
    work = EngineFactory(model, tile=16, bands=3, batch=None, lanes=None)()
    batch = work.batch_shape[0]
    assert batch in (1, 2, 4, 8)
    assert work.slots in (batch, 2 * batch)


def test_no_batch_is_larger_than_tiles_can_run_side_by_side(tmp_path, monkeypatch):
    asked = []

    def choose(make, **options):
        asked.append(options["worthwhile"])
        return 1, 1

    monkeypatch.setattr("tileloom.models.build.fastest_shape", choose)
    model = {"name": weights(tmp_path, nets.UNET)}
    EngineFactory(model, tile=16, bands=3, batch=None, lanes=None, side_by_side=4)()
    [worthwhile] = asked
    assert worthwhile(4, 1)
    assert worthwhile(1, 8)
    assert not worthwhile(4, 2)


@pytest.mark.parametrize("batch", [8, None])
def test_what_does_not_fit_is_refused_before_the_network_runs(tmp_path, monkeypatch, batch):
    monkeypatch.setattr("tileloom.models.adm.AdmUNet.forward", None)
    factory = EngineFactory(
        {"name": weights(tmp_path, nets.UNET)}, tile=16, bands=3, batch=batch, lanes=None, affordable=100_000
    )
    with pytest.raises(InputError, match=r"need about .* GB of memory, and 0\.00 GB are left for them: lower batch"):
        factory()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_lacks_while_an_engine_is_built_is_a_sentence(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("tileloom.models.adm.AdmUNet.forward", fail)
    factory = EngineFactory({"name": weights(tmp_path, nets.UNET)}, tile=16, bands=3, batch=2, lanes=1)
    with pytest.raises(OutOfMemory, match="out of memory with batches of 2 in 1 lanes: lower batch, lanes or tile"):
        factory()
