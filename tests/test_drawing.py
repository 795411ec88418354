"""How tiles are drawn where a job leaves it open: few steps and no fresh noise where all was measured in some mean."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.images import smooth, write_zarr
from tests.nets import UNET, weights
from tests.pipeline import restored
from tests.test_spec import spec
from tileloom.jobs.drawing import LOW_NOISE_STEPS, SURFACE, SURFACE_ETA, SURFACE_STEPS, drawing_of
from tileloom.models.build import EngineFactory
from tileloom.models.kinds import contract_of
from tileloom.models.schedule import fine_timesteps, schedule
from tileloom.models.solvers import Walk
from tileloom.tiling.errors import InputError

TASKS = ("sr:4", "sr:4, denoise:0.1", "inpaint", "sr:4, inpaint", "colorize", "old-photo:4", "denoise:0.1")
MEANS, HOLES = ("sr:4",), ("inpaint",)
USUAL = (50, "even", None, 1.0)


def drawn(model, contract=None, **keys):
    masked = {"mask": "mask.zarr"} if {"inpaint", "old-photo:4"} & set(keys["task"].split(", ")) else {}
    weave = {"auto": "msr"}.get(keys.get("weave", "auto"), keys.get("weave"))
    return drawing_of(spec(model=model, **masked, **keys), replace(contract_of(model), **(contract or {})), weave)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return {"name": weights(tmp_path_factory.mktemp("net"), UNET)}


@pytest.mark.parametrize("task", TASKS)
def test_a_network_draws_means_without_fresh_noise_and_holes_from_a_surface(network, task):
    special = dict.fromkeys(MEANS, (LOW_NOISE_STEPS, "fine", 0.0, 1.0))
    special |= dict.fromkeys(HOLES, (SURFACE_STEPS, "fine", SURFACE_ETA, SURFACE))
    assert drawn(network, task=task) == special.get(task, USUAL)


def test_a_field_draws_samples_of_all():
    assert drawn({"name": "gaussian"}, task="sr:4") == USUAL
    assert drawn({"name": "gaussian"}, task="inpaint") == USUAL


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
    assert drawn(network, task="sr:4", **said) == (*expected, 1.0)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"steps": 50}, USUAL),
        ({"begin": 1.0}, USUAL),
        ({"sampler": "repaint"}, USUAL),
        ({"travel": {"repeat": 2}}, USUAL),
        ({"weave": "joint"}, USUAL),
        ({"eta": 0.0}, (SURFACE_STEPS, "fine", 0.0, SURFACE)),
        ({"begin": 0.5, "steps": 9}, (9, "fine", SURFACE_ETA, 0.5)),
        ({"begin": SURFACE}, (SURFACE_STEPS, "fine", SURFACE_ETA, SURFACE)),
        ({"begin": 0.05}, (11, "fine", SURFACE_ETA, 0.05)),
        ({"begin": 0.5, "sampler": "repaint"}, (50, "even", None, 0.5)),
        ({"begin": 0.15, "sampler": "repaint"}, (43, "even", None, 0.15)),
        ({"weave": "naive"}, (SURFACE_STEPS, "fine", SURFACE_ETA, SURFACE)),
    ],
)
def test_what_a_job_says_of_holes_is_so(network, said, expected):
    assert drawn(network, task="inpaint", **said) == expected


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        ({"holes": True, "steps": 4}, (4, "even", None, 1.0)),
        ({"label_classes": 10}, USUAL),
        ({"patch": 16}, (SURFACE_STEPS, "fine", SURFACE_ETA, SURFACE)),
        ({"timesteps": 100}, (4, "fine", SURFACE_ETA, SURFACE)),
        ({"betas": (0.1,) * 50, "timesteps": 50}, USUAL),
    ],
)
def test_only_what_a_surface_can_tell_begins_as_one(network, contract, expected):
    assert drawn(network, contract, task="inpaint") == expected


def test_a_class_is_not_told_by_a_surface(tmp_path):
    network = {"name": weights(tmp_path, replace(UNET, num_classes=3)), "label": 1}
    assert drawn(network, task="inpaint") == USUAL


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (
            {"task": "inpaint", "parity": {"carry": True}, "weave": "msr", "guard": 0},
            "parity.carry a tile begins with the one",
        ),
        ({"task": "sr:4"}, "only pixels that are known exactly show through noise: set task to inpaint"),
        ({"task": "sr:4, inpaint"}, "set task to inpaint"),
        ({"task": "denoise:0.1"}, "set task to inpaint"),
        ({"task": "inpaint", "weave": "joint"}, "one tile at a time: set weave to msr"),
    ],
)
def test_a_surface_that_cannot_be_is_refused(network, said, says):
    with pytest.raises(InputError, match=f"begin is 0.2, .*{says}"):
        drawn(network, begin=0.2, **said)


SAID_ALOUD = {"eta": 0.0, "spacing": "fine", "steps": LOW_NOISE_STEPS}
HOLES_SAID_ALOUD = {"eta": SURFACE_ETA, "spacing": "fine", "steps": SURFACE_STEPS, "begin": SURFACE}


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


def test_holes_begin_as_a_surface_under_little_noise(network, tmp_path, monkeypatch):
    walks, begun = [], []
    make, begin = EngineFactory.solver, Walk.begin
    monkeypatch.setattr(EngineFactory, "solver", lambda *told: walks.append(make(*told)) or walks[-1])
    monkeypatch.setattr(Walk, "begin", lambda *told: begun.append(begin(*told)) or begun[-1])
    rows, cols = np.mgrid[:16, :16]
    plane = np.stack([40 + 10 * rows, 200 - 10 * cols, rows * 0 + 90])
    image = write_zarr(tmp_path / "small.zarr", plane.astype("u1"))
    mask = np.zeros((1, 16, 16), "u1")
    mask[:, 3:5] = 1
    small = {
        "task": "inpaint",
        "model": network,
        "batch": 1,
        "steps": "auto",
        "mask": write_zarr(tmp_path / "m.zarr", mask),
    }
    runs = ({}, HOLES_SAID_ALOUD)
    images = [restored(tmp_path, image, output=f"{len(said)}.zarr", **small | said) for said in runs]
    assert np.array_equal(*images)
    assert walks[0].schedule.timesteps == walks[1].schedule.timesteps
    assert len(walks[0].schedule.timesteps) == SURFACE_STEPS
    assert np.sqrt(1 - walks[0].schedule.abar[-1]) == pytest.approx(SURFACE, abs=0.005)
    # What lies under the noise is the image itself, as no plane bends.
    assert (begun[0].x_CHW.numpy() - (plane / 127.5 - 1)).std() < 1.2 * SURFACE


def test_a_surface_needs_steps_of_little_noise():
    assert schedule(steps=5, spacing="fine", begin=0.15).timesteps[-1] == 42
    with pytest.raises(InputError, match=r"has 43 with as little noise as begin, 0.15: give at most 43, or more"):
        schedule(steps=50, begin=0.15)
    with pytest.raises(InputError, match=r"has 0 with as little noise as begin, 0.001: give more of begin"):
        schedule(steps=1, begin=0.001)


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
