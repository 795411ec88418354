"""A batch that a trial finds is found once for a result, recorded, and kept to."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests import nets
from tests.commandline import tileloom
from tests.pipeline import assert_same_bytes, beside, job, measure, restore, result, scene
from tileloom.jobs import bill, course, run
from tileloom.jobs.compile import compile_job
from tileloom.jobs.forecast import bill_of
from tileloom.jobs.state import JobState
from tileloom.tiling.errors import InputError, TileloomError


@pytest.fixture
def spec(tmp_path):
    """A job of a network whose batch and lanes are left open."""
    y = measure(scene(3, 32, 48), "sr:2").astype(np.float32)
    model = {"name": nets.weights(tmp_path), "betas": "cosine"}
    return job(tmp_path, y, task="sr:2", range=[-1, 1], model=model, batch="auto", lanes="auto", levels=1)


@pytest.fixture
def trials(monkeypatch):
    """What a trial is to find; it keeps account of the trials that were made."""
    found, made = {"shape": (2, 1)}, []

    def choose(make, *, batch, lanes, device, worthwhile):
        if batch is None:
            made.append(found["shape"])
        return batch or found["shape"][0], lanes or found["shape"][1]

    monkeypatch.setattr("tileloom.models.build.fastest_shape", choose)
    found["made"] = made
    return found


def batch_of(spec):
    return JobState.load(spec.output).parts["batch"]


def test_what_was_found_is_part_of_the_result_and_its_bytes_are_those_of_that_batch(spec, trials, tmp_path):
    restore(spec)
    assert batch_of(spec) == 2
    given = beside(spec, tmp_path / "beside").model_copy(update={"batch": 2})
    restore(given)
    assert trials["made"] == [(2, 1)]
    assert_same_bytes(given, spec)


def test_a_result_goes_on_with_the_batch_it_was_begun_with(spec, trials, tmp_path, monkeypatch):
    whole = beside(spec, tmp_path / "beside")
    restore(whole)
    with monkeypatch.context() as broken:
        broken.setattr(course, "restore", _interrupted)
        with pytest.raises(TileloomError, match="stopped here"):
            restore(spec)
    trials["shape"] = (3, 2)
    restore(spec)
    assert batch_of(spec) == 2
    assert trials["made"] == [(2, 1), (2, 1)]
    np.testing.assert_array_equal(result(spec), result(whole))


def _interrupted(*_, **__):
    raise TileloomError("stopped here")


def test_a_real_trial_is_made_for_a_network(spec):
    summary = restore(spec)
    assert batch_of(spec) in (1, 2, 4, 8)
    assert summary.report.done == sum(summary.bill.solve)


def test_a_plan_says_that_a_trial_will_tell(spec, tmp_path, capfd):
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(spec.model_dump(mode="json", exclude_none=True)))
    told = tileloom(capfd, "plan", file).out
    assert "lanes of 1 or more, as a trial tells when the job begins" in told
    assert tileloom(capfd, "plan", file, "--json").json["trial"] is True


def test_a_batch_has_to_fit_beside_what_the_job_takes_anyway(spec, monkeypatch):
    monkeypatch.setattr(bill, "_available_memory", lambda: 10**9)
    compiled = compile_job(spec)
    affordable = run.work_factory(compiled).affordable
    assert 0 < affordable < 10**9 - bill.BASE_BYTES
    limited = replace(compiled, spec=spec.model_copy(update={"max_memory": 5 * 10**8}))
    assert run.work_factory(limited).affordable == affordable - 5 * 10**8


def test_an_accelerator_that_is_too_small_is_refused(spec, tmp_path):
    compiled = compile_job(spec)
    costs = bill_of(compiled, (6,), device_bytes=3 * 10**9)
    bill.refuse_unaffordable(costs, tmp_path, max_memory=None, device_memory=3 * 10**9)
    words = "needs about 3.00 GB of the accelerator's own memory and 2.00 GB can be had: lower batch or tile"
    with pytest.raises(InputError, match=words):
        bill.refuse_unaffordable(costs, tmp_path, max_memory=None, device_memory=2 * 10**9)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("compile=maybe", "model.compile is 'maybe'; choose true or false"),
        ("channels_last=1", "model.channels_last is 1; choose true or false"),
        ("precision=fp8", "model.precision is 'fp8'; choose one of fp32, bf16, fp16"),
    ],
)
def test_an_option_of_a_network_that_means_nothing_is_refused(spec, tmp_path, capfd, option, says):
    words = ("restore", spec.input, tmp_path / "other.zarr", "--task", "sr:2", "--model", spec.model["name"])
    ran = tileloom(capfd, *words, "--model-option", option)
    assert ran.code == 2
    assert says in " ".join(ran.errors)
    assert not (tmp_path / "other.zarr").exists()


def test_a_network_runs_in_reduced_precision_from_the_command_line(spec, tmp_path, capfd):
    words = ("restore", spec.input, tmp_path / "half.zarr", "--task", "sr:2", "--model", spec.model["name"])
    options = ("--model-option", "precision=bf16", "--model-option", "channels_last=true", "--steps", "2")
    ran = tileloom(capfd, *words, *options, "--tile", "16", "--range", "-1", "1", "--batch", "2")
    assert (ran.code, ran.errors) == (0, [])
    kept = json.loads((tmp_path / "half.zarr" / ".tileloom" / "job.json").read_text())["parts"]
    assert kept["numeric class"]["precision"] == "bf16"
    assert kept["numeric class"]["memory format"] == "channels last"
    assert kept["numeric class"]["compiled"] == "no"
