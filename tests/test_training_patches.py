"""A Patch-DM network is trained like any other: it learns, goes on with the same bits, and its file says what it is."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commandline import tileloom
from tests.house import ROOT
from tests.nets import network, normal
from tests.trainings import COURSE, PATCHES, archive, crops_of, learner, trained
from tileloom.models.contract import weights_contract
from tileloom.models.denoiser import Condition
from tileloom.models.networks import load_denoiser
from tileloom.models.patchdm import dropped
from tileloom.models.patchdm_denoiser import image_eps
from tileloom.models.signatures import DESCRIBED, OPTION, Description, Told
from tileloom.models.training import patching
from tileloom.models.training.loop import CHECKPOINTS, LOG, MODEL, SHEETS, train
from tileloom.models.training.objective import LOSS, Batch, Draws
from tileloom.models.training.recipe import Course
from tileloom.models.weights import DESCRIPTION, description_of, read_weights
from tileloom.tiling.crops import Crops, Cutting, Scene
from tileloom.tiling.errors import InputError
from tileloom.tiling.place import place

SIZE, P = 32, PATCHES.patch
STYLED = replace(PATCHES, style_channels=16, codes=2)
SAID = Description(PATCHES, SIZE, "cosine", "v", ((0.0, 255.0),) * 3, None, {"steps": 3})


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def whole(image, tmp_path_factory):
    """What a training leaves that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    assert trained(image, output, config=PATCHES, size=SIZE) == 0
    return output


def losses(output):
    """The lines of a log; one more stands at every end, of what was held out."""
    lines = [json.loads(line) for line in (output / LOG).read_text().splitlines()]
    return [line for line in lines if LOSS in line]


def same(one, other):
    """Whether two trainings came to the same bits."""
    assert losses(one) == losses(other)
    for file in (MODEL, *(f"{CHECKPOINTS}/00000006/{name}.safetensors" for name in ("weights", "mean", "optimizer"))):
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


def batch_of(crops, count=2, *, use="train"):
    taken = [crops.take(use, number) for number in range(count)]
    x_BCHW = torch.from_numpy(np.stack([crop.pixels for crop in taken]))
    return Batch(x_BCHW, None, tuple(crop.where for crop in taken), tuple(crop.scene for crop in taken))


# --- going on ---


def test_a_run_that_goes_on_has_the_bits_of_one_that_was_never_stopped(image, whole, tmp_path):
    for steps in (4, 6):
        trained(image, tmp_path / "run", replace(COURSE, steps=steps), config=PATCHES, size=SIZE)
    same(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_the_same_bits(image, whole, tmp_path):
    code = f"""
import os, signal
from tests.trainings import PATCHES, trained
def report(step, scalars, files):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
trained({image!r}, {str(tmp_path / "run")!r}, config=PATCHES, size={SIZE}, report=report)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    assert trained(image, tmp_path / "run", config=PATCHES, size=SIZE) == 4
    same(tmp_path / "run", whole)


# --- how it learns ---


def test_the_loss_is_that_of_both_decodings(whole):
    for line in losses(whole):
        assert line[LOSS] == pytest.approx(line["moved"] + line["alone"])
    # At first it predicts nothing, so that all of the noise is missed, and a part of one window is no image.
    assert losses(whole)[0]["moved"] == pytest.approx(1, abs=0.2)
    assert 0.2 < losses(whole)[0]["alone"] < 1.1


def test_every_window_of_a_crop_is_learned_from_sooner_or_later(image, monkeypatch):
    crops, seen = crops_of(image, size=3 * P, held_out=0), []
    objective = learner(crops, PATCHES).objective

    def noted(network, x, style, draw, chain, *, predicts):
        seen.append(draw)
        return x.sum(), x.sum()

    monkeypatch.setattr(patching, "patch_losses", noted)
    batch = batch_of(crops, 10)
    for step in range(100):
        objective.loss(batch, Draws(0, step), step)
    assert {draw.corner for draw in seen} == {(row, col) for row in range(3) for col in range(3)}
    styleless, placeless = torch.cat([draw.drops for draw in seen]).float().mean(dim=0).tolist()
    assert (styleless, placeless) == (pytest.approx(0.1, abs=0.03), pytest.approx(0.5, abs=0.05))
    assert objective.loss(batch, Draws(0, 1), 0) == objective.loss(batch, Draws(0, 1), 7)
    assert torch.equal(seen[1].noise, seen[-1].noise)


def test_a_network_without_positions_makes_no_difference_between_places():
    features = {}
    for positions in (False, True):
        net = network(replace(PATCHES, positions=positions))
        x, t, style, drops = (
            normal(2, 3, P, P),
            torch.tensor([5.0, 900.0]),
            torch.zeros(2, 0),
            dropped(2, style=False, position=False),
        )
        features[positions] = [net.encode(x, t, torch.full((2, 2), place), style, drops)[-1] for place in (0.0, 7.0)]
    assert torch.equal(*features[False])
    assert not torch.allclose(*features[True], atol=1e-3)


def test_each_image_has_a_style_of_its_own_that_is_learned(image, tmp_path):
    other = archive(tmp_path, seed=9)
    crops = Crops([Scene(image), Scene(other)], Cutting(SIZE, held_out=0.3))
    small = learner(crops, STYLED)
    table = small.objective.network.encoder.semantic_enc.weight
    # What begins as nothing lets no gradient through at first.
    small.learn(batch_of(crops), Draws(0, 0), 0)
    before = table.detach().clone()
    batch = replace(batch_of(crops), scenes=(1, 1))
    for step in range(1, 4):
        small.learn(batch, Draws(0, step), step)
    moved = (table.detach() - before).abs().amax(dim=1)
    assert moved[1] > 0
    assert {crop.scene for crop in (crops.take("train", number) for number in range(20))} == {0, 1}
    assert not any("encoder" in name for name, _ in learner(crops, PATCHES).objective.network.named_parameters())
    assert small.objective.pictures(batch, Draws(0, 0)).shape == (4, 2, 3, SIZE, SIZE)


@pytest.mark.slow
def test_it_learns_what_the_land_looks_like(tmp_path):
    """On crops it has never seen it misses half as much as at first, of patches alone and of those between."""
    crops = crops_of(archive(tmp_path, size=384), size=4 * P, held_out=0.1, flips=True, turns=True)
    small = learner(crops, PATCHES, predicts="v", rate=2e-3, warmup=20, ema=0.98)
    course = Course(steps=250, batch=8, log=250, check=250, sheet=250, checkpoint=250)

    def missed():
        batch = batch_of(crops, 16, use="check")
        with small.averaged():
            return [small.objective.loss(batch, Draws(1, step), 0) for step in range(8)]

    first = missed()
    train(small, crops, course, place(tmp_path / "run"), seed=0)
    for name in ("moved", "alone"):
        before, after = (float(sum(loss[name] for loss in losses)) for losses in (first, missed()))
        assert after < before / 2


# --- what it leaves ---


def test_a_sheet_shows_what_it_draws(whole):
    assert (whole / SHEETS / "00000006.png").stat().st_size > 1000


def test_the_file_says_what_the_network_is(image, whole):
    told = description_of(str(whole / MODEL))
    assert (told.config, told.image_size, told.predicts) == (PATCHES, SIZE, "eps")
    assert told.spans == ((0.0, 255.0),) * 3
    assert told.provenance == {"version": "test", "data": crops_of(image, size=SIZE).digest, "steps": 6}
    terms = weights_contract(str(whole / MODEL), {})
    assert (terms.bands, terms.patch, terms.features, terms.conditions) == (3, P, PATCHES.feature_values, ())


def test_a_job_takes_what_was_trained(image, tmp_path):
    """Its denoiser sees the noise that training saw, of a network that predicts v."""
    crops = crops_of(image, size=SIZE)
    small = learner(crops, PATCHES, predicts="v")
    train(small, crops, replace(COURSE, steps=2, half=False), place(tmp_path), seed=0)
    mean = load_file(tmp_path / CHECKPOINTS / "00000002" / "mean.safetensors")
    stored = load_file(tmp_path / MODEL)
    assert all(torch.equal(tensor, mean[f"unet.{name}"]) for name, tensor in stored.items())
    x, t = normal(2, 3, SIZE, SIZE), torch.tensor([40, 900])
    told = load_denoiser({"name": str(tmp_path / MODEL)}).predict(x, t.float(), [Condition()] * 2)
    drops = dropped(2, style=True, position=True)
    with small.averaged():
        v = image_eps(small.objective.network, x, t, torch.zeros(2, 0), drops)
    torch.testing.assert_close(told[:, :3], small.objective.chain.noised(v, x, t), atol=1e-5, rtol=1e-4)


def file_of(folder, said=SAID):
    """A file of a network that describes itself."""
    path = str(folder / "own.safetensors")
    save_file(network(said.config).state_dict(), path, {DESCRIPTION: json.dumps(said.stored())})
    return path


@pytest.mark.parametrize("config", [PATCHES, STYLED])
def test_a_description_comes_back_as_it_was_written(tmp_path, config):
    said = replace(SAID, config=config)
    file = file_of(tmp_path, said)
    assert description_of(file) == said
    reading = read_weights(file)
    assert (reading.config, reading.betas, reading.predicts, reading.described.image_size) == (
        config,
        "cosine",
        "v",
        SIZE,
    )
    known = {name: how for name, _, how in reading.facts()}
    assert {known[name] for name in ("patch", "heads", "betas", "stem", "positions", "image size", "predicts")} == {
        DESCRIBED
    }


def test_an_option_says_it_better(tmp_path):
    reading = read_weights(file_of(tmp_path), Told(patch=32, heads=2, betas="linear"))
    assert (reading.config.patch, reading.config.heads(32), reading.betas) == (32, 2, "linear")
    assert {how for name, _, how in reading.facts() if name in ("patch", "heads", "betas")} == {OPTION}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": "ema"}, "model.weights asks for ema"),
        ({"guidance": 0.5}, "model.guidance leads away from what .* is told, which is nothing: leave it out"),
        ({"style": "row:0"}, "holds no table of styles"),
        ({"style": "code.npy"}, "is told of no style: leave it out"),
        ({"patch": 6}, "model.patch is 6; this network folds 2 x 2 pixels into one and halves its patches 1 times"),
    ],
)
def test_what_means_nothing_to_it_is_refused(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    np.save("code.npy", np.zeros(0))
    with pytest.raises(InputError, match=says):
        load_denoiser({"name": file_of(tmp_path), **options})


def test_inspect_tells_it(tmp_path, capfd):
    lines = tileloom(capfd, "models", "inspect", file_of(tmp_path)).out.splitlines()
    assert lines[0].endswith("tensors")
    assert {
        f"patch: {P} (as its file says)",
        "style channels: none (from the shapes)",
        "positions: never told (as its file says)",
        "predicts: v (as its file says)",
        "values that became -1 and 1: 0 and 255, 0 and 255, 0 and 255",
    } <= set(lines)
