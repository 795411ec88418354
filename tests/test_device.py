"""The same on every device that torch finds here: noise to the bit, all samplers, tiles' bits in company."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import fillers, nets, pipeline
from tests.tiles import BANDS, LEVELS, TILE, run, tile
from tileloom.models.ancestral import Ddpm
from tileloom.models.build import EngineFactory
from tileloom.models.contract import GaussianSpec
from tileloom.models.ddim import Ddim, DdnmImplicit
from tileloom.models.device import CPU, CUDA, best_device, device_class, knows_bf16, own_memory
from tileloom.models.engine import Engine
from tileloom.models.gaussian import Gaussian
from tileloom.models.noise import Address, PositionNoise, normal
from tileloom.models.repaint import Repaint
from tileloom.models.schedule import schedule
from tileloom.models.solvers import Ddnm
from tileloom.tiling.box import Box
from tileloom.tiling.label_window import LabelWindow
from tileloom.tiling.measurement import MaskSite, Measurement

DEVICES = [CPU, CUDA] if torch.cuda.is_available() else [CPU]
STEPS = schedule(steps=5, travel_length=2, travel_repeat=2)
SAMPLERS = {
    "ddnm": Ddnm,
    "ddnm in its DDIM form": DdnmImplicit,
    "repaint": Repaint,
    "ddpm": Ddpm,
    "ddim": Ddim,
}
TASKS = {
    "sr": Measurement(2),
    "gray": Measurement(gray=True, sigma=0.1),
    "holes": Measurement(mask=MaskSite.MEASURED),
    "old photo": Measurement(2, gray=True, mask=MaskSite.TARGET),
}


def engine(device, kind=Ddnm, *, batch=3, denoiser=None, seed=4):
    solver = kind(STEPS, PositionNoise(seed, device), BANDS)
    denoiser = denoiser or Gaussian(GaussianSpec("exponential", length=4.0))
    return Engine(denoiser, solver, tile=(TILE, TILE), bands=BANDS, batch=batch, levels=LEVELS)


def asked(task):
    """A tile of a task, with everything that can be known of it."""
    rng = np.random.default_rng(3)
    measurement = TASKS[task]
    side = TILE // measurement.scale
    y = rng.standard_normal((1 if measurement.gray else BANDS, side, side)).astype(np.float32)
    full = rng.standard_normal((BANDS, TILE, TILE)).astype(np.float32)
    near = np.arange(TILE) < np.full((TILE, 1), 3)
    return tile(
        1,
        measurement=measurement,
        y=y,
        measured=rng.random(y.shape) < 0.6 if measurement.mask is MaskSite.MEASURED else np.ones(y.shape, bool),
        visible=rng.random((TILE, TILE)) < 0.7 if measurement.mask is MaskSite.TARGET else None,
        context=full,
        context_mask=near,
        coarse=full[:, ::2, ::2],
        coarse_mask=near[::2, ::2],
    )


def test_the_device_is_what_torch_finds():
    assert best_device() == DEVICES[-1]
    for device in DEVICES:
        found = device_class(device)
        assert found["device"].strip()
        assert found["instructions"].strip()
        own = own_memory(device)
        assert own is None if device == CPU else 0 < own <= torch.cuda.get_device_properties(0).total_memory
    assert len({tuple(device_class(device).values()) for device in DEVICES}) == len(DEVICES)


def test_what_forbids_instructions_is_part_of_the_class(monkeypatch):
    """Kernels are chosen by units that a processor's name does not tell, and by what forbids them."""
    before = device_class(CPU)["instructions"]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert device_class(CPU)["instructions"] == f"{before} ONEDNN_MAX_CPU_ISA=AVX2"


@pytest.mark.parametrize("device", DEVICES)
def test_noise_has_the_same_bits_on_every_device(device):
    box = Box(1000, 3, 1090, 77)
    addresses = [Address("scene", 2, 5, box), Address("another", 0, 900, box.shift(7, 70))]
    ours = PositionNoise(7, device).windows(addresses, 6)
    assert ours.device.type == device
    assert torch.equal(ours.cpu(), PositionNoise(7).windows(addresses, 6))


def test_normals_are_the_same_where_every_tail_is_computed(monkeypatch):
    """As on an accelerator, whose branch the processor can run as well."""
    words = torch.randint(0, 2**32, (5, 999), generator=torch.Generator().manual_seed(0))
    words[0, :2] = torch.tensor([0, 2**32 - 1])
    expected = normal(words)
    monkeypatch.setattr("tileloom.models.noise.CPU", "nowhere")
    assert torch.equal(normal(words), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("sampler", "task"), [(sampler, task) for sampler in SAMPLERS for task in TASKS if sampler != "repaint"]
)
def test_every_sampler_restores_every_task(device, sampler, task):
    ours, theirs = (engine(place, SAMPLERS[sampler]) for place in (device, CPU))
    inputs = asked(task)
    state = ours.begin(inputs)
    assert {state.x_CHW.device.type} == {device}
    found = ours.finish(run(ours, state))
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, theirs.finish(run(theirs, theirs.begin(inputs))), atol=2e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_repaint_fills_holes(device):
    ours, theirs = (engine(place, Repaint) for place in (device, CPU))
    results = [work.finish(run(work, work.begin(asked("holes")))) for work in (ours, theirs)]
    np.testing.assert_allclose(*results, atol=2e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_a_state_is_saved_and_goes_on_with_the_same_bits(device):
    work = engine(device)
    state = run(work, work.begin(tile(1)), 3)
    again = work.unpack(tile(1), work.pack(state))
    assert again.x_CHW.device == state.x_CHW.device
    ends = [work.finish(run(work, one, work.calls_per_tile - 3)).tobytes() for one in (state, again)]
    assert ends[0] == ends[1]


NUMERICS = {
    "fp32": {},
    "fp32, channels last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    "bf16, contiguous": {"precision": "bf16", "channels_last": False},
    "fp16": {"precision": "fp16"},
}


@pytest.mark.parametrize("options", NUMERICS.values(), ids=NUMERICS)
def test_a_networks_tiles_keep_their_bits_in_company(tmp_path, options):
    """On the device that torch finds, at any precision: alone, together, and over a pause."""
    model = {"name": nets.weights(tmp_path), **options}
    factory = EngineFactory(model, steps=4, tile=16, bands=3, batch=3)
    work, precision = factory(), options.get("precision", "fp32")
    assert work.numeric_class["precision"] == precision
    last = options.get("channels_last", precision != "fp32")
    assert work.numeric_class["memory format"] == ("channels last" if last else "contiguous")
    inputs = [
        tile(at, box=Box(16 * at, 0, 16 * at + 16, 16), y=np.full((3, 8, 8), at / 9, np.float32)) for at in (0, 3)
    ]
    inputs = [
        replace(one, measurement=Measurement(2), measured=one.y < 9, context=None, context_mask=None) for one in inputs
    ]
    alone = [work.finish(run(work, work.begin(one))) for one in inputs]
    states = [work.begin(one) for one in inputs]
    for _ in range(work.calls_per_tile):
        states = [work.unpack(one, work.pack(state)) for one, state in zip(inputs, work.step(states), strict=True)]
    for ours, state in zip(alone, states, strict=True):
        assert ours.dtype == np.float32
        assert ours.tobytes() == work.finish(state).tobytes()
        # Whatever the precision of the network, what was measured is met in float32.
        means = ours.reshape(3, 8, 2, 8, 2).mean(axis=(2, 4))
        np.testing.assert_allclose(means, np.broadcast_to(means[0, 0, 0], means.shape), atol=1e-6)


@pytest.mark.parametrize("kind", ["fills holes", "draws labels"])
def test_other_networks_keep_their_bits_in_company_and_differ_little_from_the_processors(tmp_path, monkeypatch, kind):
    """On the device that torch finds: alone, together, and beside the processor."""
    if kind == "fills holes":
        factory = EngineFactory({"name": fillers.file_of(tmp_path)}, steps=3, tile=8, bands=2, batch=3, levels=3)
        inputs = [fillers.holed(at) for at in range(3)]
    else:
        factory = EngineFactory({"name": nets.weights(tmp_path, nets.SEMANTIC)}, steps=3, tile=16, bands=3, batch=3)
        inputs = [labelled(at) for at in range(3)]
    work = factory()
    alone = [work.finish(run(work, work.begin(one))) for one in inputs]
    states = [work.begin(one) for one in inputs]
    for _ in range(work.calls_per_tile):
        states = [work.unpack(one, work.pack(state)) for one, state in zip(inputs, work.step(states), strict=True)]
    assert [work.finish(state).tobytes() for state in states] == [one.tobytes() for one in alone]
    monkeypatch.setattr("tileloom.models.build.best_device", lambda: CPU)
    theirs = factory()
    for one, ours in zip(inputs, alone, strict=True):
        np.testing.assert_allclose(ours, theirs.finish(run(theirs, theirs.begin(one))), atol=1e-3)


def labelled(at):
    """A tile of which a map of labels is all that is known."""
    rng = np.random.default_rng(at)
    y, box = np.zeros((3, 16, 16), np.float32), Box(16 * at, 0, 16 * at + 16, 16)
    shown = LabelWindow(box, rng.integers(0, 5, (16, 16)).astype(np.uint16), rng.random((16, 16)) < 0.2)
    alone = {"context": None, "context_mask": None, "labels": shown}
    return tile(3 * at, box=box, measurement=Measurement(), y=y, measured=y > 0, **alone)


def test_reduced_precision_is_near_the_full_one(tmp_path):
    path = nets.weights(tmp_path)
    full, half = (
        EngineFactory({"name": path, "precision": precision}, steps=1, tile=16, bands=3)()
        for precision in ("fp32", "bf16")
    )
    y = np.zeros((3, 16, 16), np.float32)
    hidden = tile(0, box=Box(0, 0, 16, 16), measurement=Measurement(mask=MaskSite.MEASURED), y=y, measured=y > 0)
    ends = [work.finish(run(work, work.begin(hidden))) for work in (full, half)]
    assert (ends[0] != ends[1]).any()
    assert np.abs(ends[0] - ends[1]).mean() < 0.1 * np.abs(ends[0]).mean()


def test_a_job_runs_on_the_device_and_its_result_names_it(tmp_path):
    y = pipeline.measure(pipeline.scene(3, 32, 40), "sr:2").astype(np.float32)
    spec = pipeline.job(tmp_path, y, task="sr:2", range=[-1, 1], batch=2, steps=4)
    pipeline.restore(spec)
    found = pipeline.result(spec)
    np.testing.assert_allclose(found.reshape(3, 16, 2, 20, 2).mean(axis=(2, 4)), y, atol=1e-5)
    kept = json.loads((tmp_path / "out.zarr" / ".tileloom" / "job.json").read_text())["parts"]["numeric class"]
    assert kept.items() >= device_class(best_device()).items()
    again = pipeline.beside(spec, tmp_path / "beside")
    pipeline.restore(again)
    pipeline.assert_same_bytes(again, spec)


@pytest.mark.parametrize(
    ("flags", "known"),
    [("avx2 avx512_bf16", True), ("amx_tile amx_bf16", True), ("avx2 avx512f fma", False), ("", False)],
)
def test_a_processor_knows_bf16_by_its_units(monkeypatch, flags, known):
    monkeypatch.setattr("tileloom.models.device.best_device", lambda: CPU)
    monkeypatch.setattr("tileloom.models.device._cpu_facts", lambda: {"flags": flags})
    assert knows_bf16() == known
