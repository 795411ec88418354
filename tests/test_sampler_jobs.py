"""Jobs that name their sampler, a class to pull to, or a quirk of published programs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import nets
from tests.images import write_zarr
from tests.pipeline import holes, job, restore, result, scene
from tests.tiles import run, tile
from tileloom.jobs.compile import compile_job
from tileloom.models.adm_config import AdmConfig
from tileloom.models.ancestral import Ddpm
from tileloom.models.contract import Contract
from tileloom.models.denoiser import Condition, Pull, split_answer
from tileloom.models.engine import Engine
from tileloom.models.guidance import Guided
from tileloom.models.networks import AdmDenoiser, class_gradient
from tileloom.models.noise import PositionNoise
from tileloom.models.schedule import schedule
from tileloom.tiling.errors import InputError
from tileloom.tiling.measurement import MaskSite, Measurement

SAMPLERS = ("ddnm", "ddim-ddnm", "repaint", "ddpm", "ddim")


# --- guidance ---


SIZE = nets.CLASSIFIER.image_size


PULLED = Condition(pull=Pull(3, 2.0))


def guided(config: AdmConfig = nets.UNET):
    contract = Contract("net", bands=3, size_multiple=2, native_tile=SIZE, smallest_tile=2)
    return Guided(AdmDenoiser(nets.network(config), contract), nets.network(nets.CLASSIFIER, seed=1))


@pytest.mark.parametrize("learned", [True, False])
def test_a_guided_denoiser_tells_eps_the_variance_and_the_classifiers_pull(learned):
    ours = guided(nets.UNET if learned else replace(nets.UNET, out_channels=3))
    x, t = nets.images()
    answer = [split_answer(one, 3) for one in ours.predict(x, t, [PULLED, PULLED])]
    alone = ours.denoiser.predict(x, t, [])
    labels = torch.tensor([3, 3])
    pull = class_gradient(ours.classifier, x, t, labels, scale=2.0)
    for row in range(len(x)):
        assert torch.equal(answer[row].eps, alone[row, :3])
        assert torch.equal(answer[row].v, alone[row, 3:] if learned else torch.full_like(x[row], -1))
        assert torch.equal(answer[row].gradient, pull[row])
    raised = (ours.classifier(x + 1e-2 * pull / pull.norm(), t) - ours.classifier(x, t)).log_softmax(1)
    assert raised[:, 3].isfinite().all()
    assert ours.memory((2, 3, SIZE, SIZE))[0] > ours.denoiser.memory((2, 3, SIZE, SIZE))[0]
    assert ours.contract.name != ours.denoiser.contract.name


def test_every_window_is_pulled_to_a_class_of_its_own_or_to_none():
    ours, (x, t) = guided(), nets.images(4)
    told = [PULLED, Condition(), Condition(pull=Pull(1, 0.5))]
    pulls = [split_answer(one, 3).gradient for one in ours.predict(x, t, told)]
    for row, (label, scale) in enumerate([(3, 2.0), (0, 0.0), (1, 0.5), (0, 0.0)]):
        alone = class_gradient(ours.classifier, x, t, torch.full((4,), label), scale=scale)
        assert torch.equal(pulls[row], alone[row])
        assert bool(pulls[row].any()) == bool(scale)


def test_only_attention_pooling_ties_tiles_to_the_classifiers_size():
    ours, any_size = guided(), replace(nets.CLASSIFIER, pool="adaptive")
    assert (ours.contract.smallest_tile, ours.contract.largest_tile) == (SIZE, SIZE)
    free = replace(ours, classifier=nets.network(any_size, seed=1))
    assert free.contract == replace(ours.denoiser.contract, name=ours.contract.name)
    x, t = nets.images(2, size=(SIZE + 8, SIZE))
    assert free.predict(x, t, [Condition(pull=Pull(1))] * 2).shape == (2, 9, SIZE + 8, SIZE)


def test_a_guided_engine_keeps_tiles_bits_in_company():
    walk = Ddpm(schedule(steps=4), PositionNoise(5), 3, (-1.0, 1.0), told=PULLED)
    engine = Engine(guided(), walk, tile=(SIZE, SIZE), bands=3, batch=2)
    ones = [
        replace(
            tile(at, context=None, context_mask=None),
            measurement=Measurement(mask=MaskSite.MEASURED),
            measured=np.zeros((3, SIZE, SIZE), bool),
            y=np.zeros((3, SIZE, SIZE), np.float32),
            box=replace(tile(at).box, bottom=tile(at).box.top + SIZE, right=tile(at).box.left + SIZE),
        )
        for at in (0, 3)
    ]
    alone = [engine.finish(run(engine, engine.begin(one))) for one in ones]
    states = [engine.begin(one) for one in ones[::-1]]
    for _ in range(engine.calls_per_tile):
        states = engine.step(states)
    for ours, theirs in zip(map(engine.finish, states), alone[::-1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- jobs ---


@pytest.mark.parametrize(
    ("steps", "travel", "calls"),
    [(100, {}, 100), (100, {"length": 10, "repeat": 3}, 280), (250, {"length": 10, "repeat": 10}, 2410)],
)
def test_published_settings_take_their_calls(tmp_path, steps, travel, calls):
    spec = job(tmp_path, scene(1, 16, 16), task="inpaint", mask=holes(16, 16), steps=steps, travel=travel)
    assert compile_job(spec).calls_per_tile == calls


def test_every_kind_of_jump_reaches_the_schedule(tmp_path):
    travel = {"length": 5, "repeat": 2, "length2": 2, "repeat2": 2}
    spec = job(tmp_path, scene(1, 16, 16), task="sr:2", steps=20, travel=travel)
    assert compile_job(spec).calls_per_tile == 69
    travel = {"length": 3, "repeat": 2, "each": 2}
    assert compile_job(job(tmp_path, spec.input, task="sr:2", steps=12, travel=travel)).calls_per_tile == 40
    travel = {"length": 10, "repeat": 10, "below": 100}
    assert compile_job(job(tmp_path, spec.input, task="sr:2", steps=250, travel=travel)).calls_per_tile == 1150


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_job_runs_with_every_sampler_and_reports_its_calls(tmp_path, name):
    image, mask = scene(1, 20, 24), holes(20, 24)
    spec = job(tmp_path, image, task="inpaint", mask=mask, sampler=name, range=[-1, 1], travel={"repeat": 2})
    told = restore(spec).as_json()
    assert told["calls_per_tile"] == compile_job(spec).calls_per_tile == 5
    assert told["network_calls"] == 5 * told["done"]
    np.testing.assert_array_equal(result(spec)[:, ~mask], image[:, ~mask])
    assert np.isfinite(result(spec)).all()


def test_samplers_and_quirks_differ(tmp_path):
    image, mask = scene(1, 20, 24), holes(20, 24)
    job(tmp_path, image, task="inpaint", mask=mask)
    shared = {
        "task": "inpaint",
        "mask": str(tmp_path / "mask.zarr"),
        "range": [-1, 1],
        "travel": {"repeat": 2},
        "levels": 1,
    }
    variants = {
        **{name: {"sampler": name} for name in SAMPLERS},
        "eta": {"sampler": "ddim", "eta": 0.9},
        "low noise": {"eta": 0.5},
        "carry": {"parity": {"carry": True}, "stride": 8, "guard": 0},
        "fresh": {"stride": 8, "guard": 0},
        "simplified": {"sampler": "ddim-ddnm", "parity": {"simplified": True}},
    }
    results = set()
    given = str(tmp_path / "input.zarr")
    for name, more in variants.items():
        spec = job(tmp_path, given, output=f"{name}.zarr", **shared, **more)
        restore(spec)
        results.add(result(spec).tobytes())
    assert len(results) == len(variants)


def test_a_guided_job_shows_its_class_and_refuses_other_tiles(tmp_path):
    model = nets.weights(tmp_path, name="net.safetensors")
    classifier = nets.weights(tmp_path, nets.CLASSIFIER, name="classifier.safetensors")
    image = write_zarr(tmp_path / "in.zarr", scene(3, 8, 8), names=["c", "y", "x"])
    shared = {"task": "sr:2", "model": model, "steps": 2, "range": [-1, 1], "levels": 1}
    guidance = {"classifier": classifier, "label": 1, "scale": 50.0}
    pixels = []
    for at, more in enumerate(({}, {"guidance": guidance}, {"guidance": {**guidance, "label": 2}})):
        spec = job(tmp_path, str(image), output=f"{at}.zarr", **{**shared, "tile": SIZE, **more})
        restore(spec)
        pixels.append(result(spec).tobytes())
    assert len(set(pixels)) == 3
    for wrong, says in (
        ({"tile": 32, "guidance": guidance}, f"takes {SIZE}x{SIZE} pixels and no other size, tiles have 32x32"),
        ({"tile": SIZE, "guidance": {**guidance, "label": 9}}, "guidance.label is 9; give a class of .*, 0 to 4"),
        ({"tile": SIZE, "guidance": {**guidance, "classifier": model}}, "name the file of a classifier"),
    ):
        with pytest.raises(InputError, match=says):
            compile_job(job(tmp_path, str(image), output="refused.zarr", **{**shared, **wrong}))


def test_another_classifier_is_another_job(tmp_path):
    model = nets.weights(tmp_path, name="net.safetensors")
    image = write_zarr(tmp_path / "in.zarr", scene(3, 8, 8), names=["c", "y", "x"])
    shared = {"task": "sr:2", "model": model, "steps": 1, "range": [-1, 1], "levels": 1, "tile": SIZE}
    guidance = {"classifier": nets.weights(tmp_path, nets.CLASSIFIER, name="c.safetensors"), "label": 1}
    spec = job(tmp_path, str(image), **shared, guidance=guidance)
    restore(spec)
    nets.weights(tmp_path, nets.CLASSIFIER, name="c.safetensors", seed=5)
    with pytest.raises(InputError, match="classifier: "):
        restore(spec)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "sr:2", "sampler": "repaint"}, "--sampler: repaint fills in missing pixels"),
        ({"task": "sr:2", "sampler": "ddpm", "eta": 0.5}, "--eta: sampler ddpm takes none"),
        ({"task": "sr:2", "parity": {"simplified": True}}, "--parity-simplified: only sampler ddim-ddnm has it"),
        ({"task": "sr:2", "parity": {"svd_colors": True}}, "--parity-svd-colors: the task has no colorize"),
        (
            {"task": "sr:2", "parity": {"coarse_everywhere": True}},
            "--parity-coarse-everywhere: the task knows no pixels exactly",
        ),
        ({"task": "sr:2", "parity": {"carry": True}, "guard": 2}, "--parity-carry: tiles go on from whole tiles"),
        ({"task": "sr:2", "parity": {"half_stride": True}, "weave": "naive"}, "--parity-half-stride: naive tiles"),
        ({"task": "sr:2", "guidance": {"label": 3}}, "--guidance-label: no classifier pulls to it"),
        ({"task": "sr:2", "guidance": {"classifier": "c.pt"}}, "--guidance-label: the classifier needs a class"),
        (
            {"task": "sr:2", "sampler": "ddpm", "parity": {"released_lambda": True}},
            "--parity-released-lambda: only sampler ddnm has it",
        ),
    ],
)
def test_what_a_sampler_has_no_use_for_is_refused_by_key(tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        job(tmp_path, scene(1, 8, 8), **changes)


def test_weighed_colours_need_three_bands_and_half_strides_an_even_grid(tmp_path):
    gray = {"task": "colorize", "bands": 2, "parity": {"svd_colors": True}}
    first = job(tmp_path, scene(1, 20, 20), **gray)
    with pytest.raises(InputError, match="weighs three bands, the result has 2"):
        compile_job(first)
    half = {"task": "sr:2", "parity": {"half_stride": True}}
    with pytest.raises(InputError, match="half_stride needs tiles half a tile apart"):
        compile_job(job(tmp_path, first.input, **half, stride=4))
    grid = compile_job(job(tmp_path, first.input, **half)).image.plan.levels[0]
    assert (grid.tile, grid.stride, grid.guard) == (16, 8, 0)
