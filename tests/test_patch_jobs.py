"""Jobs of a Patch-DM network from end to end: generation, holes and margins, levels, and workers on Ray."""

import json
from dataclasses import replace

import numpy as np
import pytest
import zarr

from tests.commandline import tileloom
from tests.nets import LATENT, PATCHES, weights
from tests.pipeline import assert_same_bytes, beside, holes, job, measure, restore, result, scene
from tileloom.cluster.weaving import Weaving
from tileloom.jobs.compile import compile_job
from tileloom.jobs.forecast import forecast, survey_image
from tileloom.jobs.lockstep_bill import better_exchange
from tileloom.jobs.progress import Silent
from tileloom.jobs.spec import from_options
from tileloom.tiling.errors import InputError

P = PATCHES.patch
TOLD = {"patch": P, "heads": 1}
DRAWN = {"steps": 2, "batch": 4, "sampler": "ddim", "lanes": 1}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("net"), replace(PATCHES, latent=LATENT))


def generated(folder, network, size, *, model=None, **options):
    """A job that draws an image."""
    folder.mkdir(exist_ok=True)
    given = {"input": f"blank:{size}", "output": str(folder / "out.zarr"), "task": "generate", "dtype": "float32"}
    return from_options({**given, **DRAWN, "model": {"name": network, **TOLD, **(model or {})}, **options})


def drawn(folder, network, size, **options):
    spec = generated(folder, network, size, **options)
    restore(spec)
    return result(spec)


def repaired(folder, network, **options):
    """A job that fills holes, and the image they are in."""
    folder.mkdir(exist_ok=True)
    image, mask = scene(3, 6 * P, 5 * P - 1), holes(6 * P, 5 * P - 1, share=0.5)
    keys = {"range": [-1, 1], "tile": "auto", "model": {"name": network, **TOLD}, **DRAWN, **options}
    return job(folder, image, task="inpaint", mask=mask, **keys), image, mask


@pytest.mark.parametrize("size", ["1x1", "4x4", "13x6", "30x9"])
def test_an_image_of_any_size_is_drawn_whatever_blocks_exchange(network, tmp_path, size):
    width, height = map(int, size.split("x"))
    whole = drawn(tmp_path / "whole", network, size)
    assert whole.shape == (3, height, width)
    assert np.isfinite(whole).all()
    for exchange in ("pixels", "features"):
        cut = drawn(tmp_path / exchange, network, size, lockstep={"block": 2 * P, "exchange": exchange, "every": 1})
        assert np.array_equal(cut, whole)


def test_style_guidance_and_seed_each_draw_another_image(network, tmp_path):
    plain = drawn(tmp_path / "plain", network, "12x8")
    for number, told in enumerate(
        ({"model": {"style": "row:1"}}, {"model": {"guidance": 0.5}}, {"model": {"style": "sample"}}, {"seed": 5})
    ):
        assert not np.allclose(drawn(tmp_path / str(number), network, "12x8", **told), plain, atol=1e-5)


def test_patches_larger_than_memory_lie_in_files(network, tmp_path):
    told = {"block": 2 * P, "memory": 10_000}
    assert np.array_equal(
        drawn(tmp_path / "files", network, "24x16", lockstep=told), drawn(tmp_path / "memory", network, "24x16")
    )


@pytest.mark.parametrize("sampler", ["ddnm", "ddpm", "ddim", "repaint"])
def test_holes_are_filled_and_known_pixels_come_back(network, tmp_path, sampler):
    travel = {"length": 1, "repeat": 2} if sampler == "repaint" else {}
    spec, image, mask = repaired(tmp_path / "a", network, sampler=sampler, travel=travel)
    restore(spec)
    known = ~mask
    assert np.array_equal(result(spec)[:, known], image[:, known])
    other, *_ = repaired(
        tmp_path / "b", network, sampler=sampler, travel=travel, lockstep={"block": 2 * P, "exchange": "features"}
    )
    restore(other)
    assert np.array_equal(result(other), result(spec))


def test_margins_are_drawn_around_an_image(network, tmp_path, capfd):
    image = scene(3, 9, 10)
    zarr.create_array(str(tmp_path / "in"), shape=image.shape, chunks=image.shape, dtype="float32")[...] = image
    words = ["--model", network, "--model-option", f"patch={P}", "--model-option", "heads=1", "--style", "row:1"]
    run = ["--steps", "2", "--batch", "4", "--range", "-1", "1", "--sampler", "ddpm"]
    said = tileloom(
        capfd, "restore", tmp_path / "in", tmp_path / "out.zarr", "--task", "outpaint:5,3,2,4", *words, *run
    )
    assert said.code == 0, said.errors
    framed = np.asarray(zarr.open_array(str(tmp_path / "out.zarr" / "0"), mode="r")[...])
    assert framed.shape == (3, 16, 17)
    assert np.array_equal(framed[:, 3:12, 5:15], image)


def test_a_measurement_is_met_across_patches_and_through_levels(network, tmp_path):
    low = measure(scene(3, 24, 24), "sr:4").astype(np.float32)
    for levels in (1, 2):
        folder = tmp_path / str(levels)
        folder.mkdir()
        told = {"model": {"name": network, **TOLD}, "tile": "auto", "levels": levels, "lockstep": {"block": 2 * P}}
        spec = job(folder, low, task="sr:4", range=[-1, 1], **DRAWN, **told)
        restore(spec)
        pooled = result(spec).astype(np.float64).reshape(3, 6, 4, 6, 4).mean(axis=(2, 4))
        assert np.abs(pooled - low).max() < 1e-5


def test_low_frequencies_come_from_the_coarser_image(network, tmp_path):
    """Of a generated image all is unknown, so that its means are those of the coarser one."""
    spec = generated(tmp_path / "job", network, "16x16", levels=2, factor=2)
    restore(spec)
    coarse = np.asarray(zarr.open_array(str(next((tmp_path / "job").glob("out.zarr/.tileloom/*-0/canvas-1"))))[...])
    pooled = result(spec) * 2 - 1
    pooled = pooled.reshape(3, 8, 2, 8, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(pooled, coarse[:, -8:, -8:], atol=1e-5)


def test_every_other_weave_takes_its_windows_for_images_of_their_own(network, tmp_path):
    images = [drawn(tmp_path / weave, network, "24x16", weave=weave) for weave in ("auto", "msr", "joint", "naive")]
    for at, one in enumerate(images):
        assert np.isfinite(one).all()
        assert not any(np.allclose(one, other, atol=1e-3) for other in images[:at])


def test_auto_is_patches_for_such_a_network_alone(network, tmp_path):
    assert compile_job(generated(tmp_path / "a", network, "8x8")).weave == "patches"
    plain = {"input": "blank:64x64", "output": str(tmp_path / "b"), "task": "generate"}
    assert compile_job(from_options(plain)).weave == "msr"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"weave": "patches", "model": {"name": "gaussian"}}, "weave is patches, and model gaussian draws windows"),
        ({"weave": "patches", "guard": 2}, "patches are as large as their network says"),
        ({"lockstep": {"block": 6}}, "lockstep.block is 6"),
        ({"sampler": "ddim", "steps": 60}, "no whole stride keeps exactly 60 of 1000 steps: use 59 or 63"),
        (
            {"levels": 3, "factor": 3},
            "patches of model .* have 4 pixels a side, which this task cuts at multiples of 3",
        ),
    ],
)
def test_what_patches_cannot_do_is_refused_in_one_sentence(network, tmp_path, keys, says):
    given = {"input": "blank:64x64", "output": str(tmp_path / "out.zarr"), "task": "generate", **DRAWN}
    with pytest.raises(InputError, match=says) as refused:
        compile_job(from_options({**given, "model": {"name": network, **TOLD}, **keys}))
    assert "\n" not in str(refused.value)


def test_a_style_is_an_option_of_the_command(network, tmp_path, capfd):
    words = ["--model", network, "--model-option", f"patch={P}", "--model-option", "heads=1", "--dtype", "float32"]
    run = ["--steps", "2", "--batch", "4", "--sampler", "ddim"]
    said = tileloom(capfd, "generate", "9x7", tmp_path / "a.zarr", *words, *run, "--style", "sample", "--seed", "3")
    assert said.code == 0, said.errors
    stored = json.loads((tmp_path / "a.zarr" / ".tileloom" / "job.json").read_text())["spec"]
    assert stored["model"]["style"] == "sample:3"
    said = tileloom(capfd, "generate", "9x7", tmp_path / "b.zarr", *words, *run, "--style", "row:5")
    assert (said.code, len(said.errors)) == (2, 1)
    assert not (tmp_path / "b.zarr").exists()


@pytest.mark.slow
@pytest.mark.parametrize("exchange", ["pixels", "features"])
def test_workers_on_ray_draw_the_image_of_one_process(network, tmp_path, exchange):
    alone = generated(tmp_path / "alone", network, "40x24", lockstep={"block": 2 * P, "exchange": exchange})
    restore(alone)
    spec = beside(alone, tmp_path / "ray")
    crew = spec.cluster.model_copy(update={"workers": 2, "cpus": 0.5})
    summary = restore(spec.model_copy(update={"cluster": crew}))
    assert summary.report.sent
    assert_same_bytes(spec, alone)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"tile": 8}, "tile is 8, and the patches of model .* are as large as they are"),
        ({"guard": 0}, "guard is 0, and the patches"),
        ({"parity": {"carry": True}}, "parity.carry is of tiles that go on from each other, and the weave is patches"),
        ({"weave": "joint", "lockstep": {"exchange": "features"}}, "only patches have some"),
        ({"weave": "joint", "parity": {"half_stride": True}}, "parity.half_stride is of tiles .* the weave is joint"),
        ({"guidance": {"classifier": "c.pt", "label": 1}}, "guidance.classifier guides windows"),
    ],
)
def test_what_a_weave_has_no_use_for_is_refused_also_where_it_was_left_open(network, tmp_path, keys, says):
    with pytest.raises(InputError, match=says):
        compile_job(generated(tmp_path / "job", network, "16x16", **keys))


def test_a_plan_weighs_what_blocks_may_exchange(network, tmp_path):
    def better(block):
        told = {"lockstep": {"block": block}, "cluster": {"workers": 2}}
        compiled = compile_job(generated(tmp_path / "job", network, "64x64", **told))
        return better_exchange(forecast(compiled, survey_image(compiled, Silent())).bill.lockstep)

    assert better(8 * P).startswith("pixels, since pixels are ")
    assert better(P).startswith("features, since ")
    assert better(16 * P) is None


def test_a_draw_is_of_the_jobs_seed(network, tmp_path):
    spec = generated(tmp_path / "job", network, "8x8", model={"style": "sample"}, seed=4)
    assert spec.model["style"] == "sample:4"


def test_status_tells_the_step_that_all_blocks_have_saved(network, tmp_path, capfd, monkeypatch):
    spec = generated(tmp_path / "job", network, "24x16", steps=4, lockstep={"block": 2 * P, "every": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Weaving, "_finish", lambda self, finished: 1 / 0 if finished else None)
        with pytest.raises(ZeroDivisionError):
            restore(spec)
    said = tileloom(capfd, "status", spec.output)
    assert "level 0: 6 blocks, 0 with nothing to restore, 0 done, 6 to do, 0 degraded" in said.out
    assert "level 0: all blocks are saved at step 3 of 4" in said.out
