"""Recordings of the spatial diffusion model replay, other ones of their form too, and what is altered shows."""

import json

import numpy as np
import pytest

from tests.golden.arrays import Golden
from tests.golden.kinds import OF_SPREADING, verdict
from tests.test_golden import ALTERED, KEPT, corrupted, kept, rewritten
from tileloom.models.spread import target

STEMS = [file.stem for file in KEPT if file.stem.endswith(tuple(OF_SPREADING))]


def arrays_of(stem):
    with np.load(kept(stem)) as opened:
        return {name: opened[name] for name in opened.files}


def problem(folder, stem, **changed):
    return verdict(rewritten(folder, kept(stem), **changed)).problem


ARRAYS = [(stem, name) for stem in STEMS for name in arrays_of(stem) if name != "config_json"]


@pytest.mark.parametrize(("stem", "name"), ARRAYS)
def test_a_corrupted_array_fails(tmp_path, stem, name):
    assert problem(tmp_path, stem, **{name: corrupted(arrays_of(stem)[name])})


@pytest.mark.parametrize("stem", STEMS)
def test_words_that_change_nothing_may_not_be_altered_either(tmp_path, stem):
    facts = {**Golden(kept(stem)).config, "seed": 99}
    assert problem(tmp_path, stem, config_json=np.array(json.dumps(facts))) == ALTERED


def test_noise_of_the_last_iteration_has_no_weight_and_may_not_be_altered_either(tmp_path):
    noise = arrays_of("b_loop")["z_64"].copy()
    noise[-1] += 1
    assert problem(tmp_path, "b_loop", z_64=noise) == ALTERED


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_loop_of_other_settings_replays(tmp_path, steps):
    """Written here in numpy, from the words of the definition."""
    rng = np.random.default_rng(steps)
    shape, alpha = (2, 7, 5), 0.3
    known = rng.random(shape[1:]) < 0.4
    x_0 = rng.uniform(-1, 1, shape) * known
    mu, z = rng.standard_normal((2, steps, *shape))
    # Few values, so that many are tied.
    var = rng.integers(1, 4, (steps, *shape)) / 8
    missing, now, found = int((~known).sum()), known, {"m": [], "u_tilde_64": [], "u_64": [], "x_64": []}
    for at in range(steps):
        spread = var[at].mean(axis=0)
        low, high = spread[~now].min(), spread[~now].max()
        told = ((spread - low) / (high - low)).clip(0, 1) if high > low else np.zeros(shape[1:])
        count = missing * (at + 1) // steps - missing * at // steps
        places = sorted(np.flatnonzero(~now), key=lambda place: (told.flat[place], place))[:count]
        now = now.copy()
        now.flat[places] = True
        fresh = (now & ~known).astype(float)
        weight = alpha if at + 1 < steps else 0
        found["m"].append(now.astype(np.uint8))
        found["u_tilde_64"].append(told)
        found["u_64"].append(np.where(known, 0, np.where(now, told, 1)))
        found["x_64"].append(x_0 + fresh * (mu[at] + weight * np.sqrt(var[at]) * z[at]))
    facts = {"T": steps, "alpha": alpha, "schedule": "uniform", "missing": missing, "case": "", "seed": 0}
    given = {"x_0_64": x_0, "m_0": known.astype(np.uint8), "mu_64": mu, "var_64": var, "z_64": z}
    file = tmp_path / "other_loop.npz"
    np.savez(file, **given, **{name: np.stack(one) for name, one in found.items()}, config_json=json.dumps(facts))
    assert verdict(file).problem == ""


def test_recorded_settings_are_those_of_the_recorded_arrays():
    for stem in STEMS:
        if stem.endswith("_loop"):
            golden = Golden(kept(stem))
            filled = [int(one.sum() - golden["m_0"].sum()) for one in golden["m"]]
            steps = len(filled)
            assert filled == [target("uniform", golden.config["missing"], at, steps) for at in range(steps)]
