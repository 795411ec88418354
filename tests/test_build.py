"""A job's settings as data that travels: what is built from them heeds them all."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from tests.nets import SEMANTIC, weights
from tests.tiles import BANDS, TILE, run, tile
from tileloom.models.build import EngineFactory
from tileloom.tiling.errors import InputError

FACTORY = EngineFactory(
    model={"name": "gaussian", "length": 4.0}, steps=5, seed=3, tile=TILE, bands=BANDS, batch=2, levels=2
)


def outcome(factory, at=0):
    work = factory()
    return work.finish(run(work, work.begin(tile(at)), work.calls_per_tile)).tobytes()


def test_a_factory_travels_and_builds_the_same_engine():
    arrived = pickle.loads(pickle.dumps(FACTORY))
    assert arrived == FACTORY
    ours, theirs = FACTORY(), arrived()
    for name in ("slots", "batch_shape", "calls_per_tile", "numeric_class"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert outcome(FACTORY) == outcome(arrived)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"model": {"name": "gaussian", "length": 5.0}},
        {"steps": 6},
        {"travel_length": 2, "travel_repeat": 2},
    ],
)
def test_a_factory_heeds_what_results_depend_on(changes):
    assert outcome(replace(FACTORY, **changes)) != outcome(FACTORY)


def test_a_factory_heeds_the_factor_between_levels():
    assert outcome(replace(FACTORY, factor=3), at=1) != outcome(FACTORY, at=1)
    assert outcome(replace(FACTORY, factor=3), at=0) == outcome(FACTORY, at=0)


def test_a_factory_builds_the_published_schedule():
    work = replace(FACTORY, steps=100, travel_length=10, travel_repeat=3, batch=3, lanes=2)()
    assert (work.calls_per_tile, work.slots, work.batch_shape) == (280, 6, (3, BANDS, TILE, TILE))


def test_values_are_not_clipped_by_a_model_without_a_range():
    work = replace(FACTORY, model={"name": "gaussian", "std": 4.0})()
    unmeasured = tile(0, measured=np.zeros((BANDS, TILE // 2, TILE // 2), bool))
    assert np.abs(work.finish(run(work, work.begin(unmeasured)))).max() > 2


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="no model is called 'galssian'; there are"):
        EngineFactory(model={"name": "galssian"})()


def test_a_folder_named_like_a_model_is_told_how_to_write_it(tmp_path, monkeypatch):
    (tmp_path / "df").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^no model is called 'df': for the folder of that name give \./df$"):
        EngineFactory(model={"name": "df"})()


def test_workers_that_share_a_device_share_the_room_for_what_is_kept_of_labels(tmp_path):
    factory = EngineFactory({"name": weights(tmp_path, SEMANTIC), "edges": True}, steps=1, tile=16, bands=3)
    whole, quarter = (replace(factory, device_share=share).denoiser("cpu").room for share in (1.0, 0.25))
    assert whole == 4 * quarter > 0
