"""How tiles are drawn where a job leaves it open: few steps and no fresh noise where all was measured in some mean."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.images import smooth, write_zarr
from tests.nets import UNET, weights
from tests.pipeline import restored
from tests.test_spec import spec
from tileloom.jobs.drawing import LOW_NOISE_STEPS, drawing_of
from tileloom.models.build import EngineFactory
from tileloom.models.kinds import contract_of
from tileloom.models.schedule import fine_timesteps, schedule

TASKS = ("sr:4", "sr:4, denoise:0.1", "inpaint", "sr:4, inpaint", "colorize", "old-photo:4", "denoise:0.1")
MEANS = ("sr:4",)


def drawn(model, **keys):
    masked = {"mask": "mask.zarr"} if {"inpaint", "old-photo:4"} & set(keys["task"].split(", ")) else {}
    return drawing_of(spec(model=model, **masked, **keys), contract_of(model))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return {"name": weights(tmp_path_factory.mktemp("net"), UNET)}


@pytest.mark.parametrize("task", TASKS)
def test_a_network_draws_without_fresh_noise_what_was_measured_in_means_alone(network, task):
    expected = (LOW_NOISE_STEPS, "fine", 0.0) if task in MEANS else (50, "even", None)
    assert drawn(network, task=task) == expected


def test_a_field_draws_samples_of_all():
    assert drawn({"name": "gaussian"}, task="sr:4") == (50, "even", None)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"eta": 1.0}, (50, "even", 1.0)),
        ({"eta": 0.0}, (LOW_NOISE_STEPS, "fine", 0.0)),
        ({"travel": {"repeat": 2}}, (50, "even", None)),
        ({"parity": {"released_pinv": True}}, (50, "even", None)),
        ({"sampler": "ddim-ddnm"}, (50, "even", None)),
        ({"steps": 7}, (7, "fine", 0.0)),
        ({"spacing": "even"}, (LOW_NOISE_STEPS, "even", 0.0)),
        ({"eta": 0.5, "spacing": "fine", "steps": 9}, (9, "fine", 0.5)),
    ],
)
def test_what_a_job_says_is_so(network, said, expected):
    assert drawn(network, task="sr:4", **said) == expected


SAID_ALOUD = {"eta": 0.0, "spacing": "fine", "steps": LOW_NOISE_STEPS}


def test_the_default_reaches_the_engine_and_writing_it_out_changes_no_byte(network, tmp_path, monkeypatch):
    walks = []
    make = EngineFactory.solver
    monkeypatch.setattr(EngineFactory, "solver", lambda *told: walks.append(make(*told)) or walks[-1])
    small = {"task": "sr:2", "model": network, "batch": 1, "steps": "auto"}
    image = write_zarr(tmp_path / "small.zarr", smooth(3, 8, 8))
    images = [restored(tmp_path, image, output=f"{len(said)}.zarr", **small | said) for said in ({}, SAID_ALOUD)]
    assert np.array_equal(*images)
    assert [walk.eta for walk in walks] == [0.0, 0.0]
    assert {walk.schedule.timesteps for walk in walks} == {fine_timesteps(1000, LOW_NOISE_STEPS)}


@given(total=st.integers(1, 1000), share=st.floats(0, 1))
def test_fine_steps_lie_apart_from_the_first_to_the_last_and_closest_where_little_noise_is_left(total, share):
    count = max(1, round(share * total))
    kept = fine_timesteps(total, count)
    assert len(set(kept)) == count
    assert kept[0] == 0
    assert list(kept) == sorted(kept)
    if count > 1:
        assert kept[-1] == total - 1
        gaps = [after - before for before, after in pairwise(kept)]
        assert all(after >= before - 1 for before, after in pairwise(gaps))


def test_fine_steps_are_squares():
    assert schedule(steps=5, spacing="fine").timesteps == (0, 62, 250, 562, 999)
