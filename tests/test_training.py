"""Training loses nothing, tells what goes wrong, and leaves a model that a job takes."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.house import ROOT
from tests.pipeline import restored
from tests.trainings import CLASSIFIER, COURSE, UNET, archive, crops_of, learner, trained
from tileloom.models.contract import weights_contract
from tileloom.models.denoiser import Condition
from tileloom.models.networks import load_classifier, load_denoiser
from tileloom.models.training.checkpoints import STATE, Checkpoints
from tileloom.models.training.loop import CHECKPOINTS, CURVE, HELD_OUT, LOG, MODEL, SHEETS, TrainingFailed, train
from tileloom.models.training.objective import LOSS, Batch, Draws
from tileloom.models.training.recipe import Course, Learning
from tileloom.models.training.sheets import curve, sheet
from tileloom.models.weights import description_of
from tileloom.tiling.box import Box
from tileloom.tiling.errors import StoreError
from tileloom.tiling.patience import impatient
from tileloom.tiling.place import Folder, place
from tileloom.tiling.terra.scene import Terra


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def whole(image, tmp_path_factory):
    """What a training leaves that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    assert trained(image, output) == 0
    return output


def lines(output):
    return [json.loads(line) for line in (output / LOG).read_text().splitlines()]


def losses(output):
    """The lines of a log; one more stands at every end, of what was held out."""
    return [line for line in lines(output) if LOSS in line]


def same(one, other):
    """Whether two trainings came to the same bits."""
    assert losses(one) == losses(other)
    assert (one / MODEL).read_bytes() == (other / MODEL).read_bytes()
    for name in ("weights", "mean", "optimizer"):
        files = [folder / CHECKPOINTS / "00000006" / f"{name}.safetensors" for folder in (one, other)]
        assert files[0].read_bytes() == files[1].read_bytes(), name


# --- going on ---


def test_a_run_that_goes_on_has_the_bits_of_one_that_was_never_stopped(image, whole, tmp_path):
    for steps in (2, 4, 6):
        began = trained(image, tmp_path / "run", replace(COURSE, steps=steps))
        assert began == steps - 2
    same(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [2, 3, 5])
def test_a_run_that_was_killed_goes_on_with_the_same_bits(image, whole, tmp_path, killed_at):
    code = f"""
import os, signal
from tests.trainings import trained
def report(step, scalars, files):
    if step == {killed_at}:
        os.kill(os.getpid(), signal.SIGKILL)
trained({image!r}, {str(tmp_path / "run")!r}, report=report)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    assert trained(image, tmp_path / "run") == killed_at // 2 * 2
    same(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", STATE, MODEL, LOG])
def test_a_run_that_was_killed_while_it_wrote_goes_on_with_the_same_bits(image, whole, tmp_path, file):
    """At its second checkpoint, before one of the files is whole."""
    code = f"""
import os, signal
from tileloom.tiling.place import Folder
from tests.trainings import trained
write, seen = Folder.write, []
def killing(self, data, **how):
    if self.name == {file!r}:
        seen.append(1)
        if len(seen) == 2:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.with_name("x.partial").write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
    write(self, data, **how)
Folder.write = killing
trained({image!r}, {str(tmp_path / "run")!r})
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    assert trained(image, tmp_path / "run") == 2
    same(tmp_path / "run", whole)


def test_a_full_disk_loses_nothing_that_was_kept(image, whole, tmp_path, monkeypatch):
    output = tmp_path / "run"
    trained(image, output, replace(COURSE, steps=2))

    def full(self, data, *, exclusive):
        raise OSError(errno.ENOSPC, "No space left on device", str(self.path))

    with monkeypatch.context() as patched, impatient():
        patched.setattr(Folder, "_write", full)
        with pytest.raises(StoreError, match="No space left"):
            trained(image, output)
    assert trained(image, output) == 2
    same(output, whole)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(image, whole, tmp_path):
    output = tmp_path / "run"
    trained(image, output, replace(COURSE, steps=4))
    damaged = output / CHECKPOINTS / "00000004" / "mean.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert trained(image, output) == 2
    same(output, whole)


def test_where_all_checkpoints_are_damaged_nothing_begins_anew_unasked(image, tmp_path):
    output = tmp_path / "run"
    trained(image, output, replace(COURSE, steps=2))
    (output / CHECKPOINTS / "00000002" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(StoreError, match="are damaged: remove them to begin anew"):
        trained(image, output)


def test_two_checkpoints_are_kept(whole):
    assert [found.name for found in Checkpoints(place(whole / CHECKPOINTS)).folder.children()] == [
        "00000004",
        "00000006",
    ]


def test_a_finished_training_is_not_run_again(image, whole, tmp_path):
    seen = []
    assert trained(image, whole, report=lambda *told: seen.append(told)) == 6
    assert not seen


# --- what goes wrong ---


def test_a_loss_that_is_no_number_stops_with_the_step_and_the_crops(image, tmp_path):
    crops = crops_of(image)
    small = learner(crops)
    loss = small.objective.loss
    small.objective.loss = lambda batch, draws, step: {
        name: value * (math.nan if step == 3 else 1) for name, value in loss(batch, draws, step).items()
    }
    with pytest.raises(TrainingFailed, match=r"the loss is nan at step 4: .*scene.zarr rows \d+:\d+, columns \d+:\d+"):
        train(small, crops, COURSE, place(tmp_path), seed=0)
    assert Checkpoints(place(tmp_path / CHECKPOINTS)).newest().step == 2


def test_a_gradient_that_is_no_number_stops_before_anything_is_learned_from_it(image, tmp_path):
    crops = crops_of(image)
    small = learner(crops)
    small.objective.network.out[2].bias.register_hook(lambda gradient: gradient * math.inf)
    before = {name: tensor.clone() for name, tensor in small.saved()["weights"].items()}
    with pytest.raises(TrainingFailed, match=r"the gradient is (nan|inf) at step 1"):
        train(small, crops, COURSE, place(tmp_path), seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.saved()["weights"].items())


# --- what it leaves ---


def test_the_log_has_every_step_and_what_is_held_out(whole):
    assert [line["step"] for line in lines(whole) if LOSS in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines(whole) if HELD_OUT in line] == [3, 6]
    assert all({"simple", "bound", "gradient"} <= line.keys() for line in lines(whole) if LOSS in line)


def test_a_line_of_the_log_is_the_mean_since_the_last(image, whole, tmp_path):
    trained(image, tmp_path, replace(COURSE, log=4, checkpoint=6))
    first, last = (line[LOSS] for line in lines(tmp_path) if LOSS in line)
    single = [line[LOSS] for line in lines(whole) if LOSS in line]
    assert first == pytest.approx(np.mean(single[:4]))
    assert last == pytest.approx(np.mean(single[4:]))


def test_reports_name_the_files_that_were_written(image, tmp_path):
    told = []
    trained(image, tmp_path / "run", report=lambda step, scalars, files: told.append((step, scalars[LOSS], files)))
    assert [step for step, *_ in told] == [1, 2, 3, 4, 5, 6]
    assert not told[0][2]
    assert [os.path.basename(file) for file in told[5][2]] == ["00000006.png", LOG, CURVE, MODEL, "00000006"]
    assert all(os.path.exists(file) for file in told[5][2])


def test_the_sheet_and_the_curve_are_pictures(whole):
    picture = imagecodecs.png_decode((whole / SHEETS / "00000006.png").read_bytes())
    assert picture.shape == (4 * 98, 8 * 98, 3)
    drawing = ElementTree.parse(whole / CURVE).getroot()
    assert len([part for part in drawing if part.tag.endswith("polyline")]) == 2


@pytest.mark.parametrize("bands", [1, 2, 3, 6])
def test_a_sheet_shows_any_number_of_bands(bands):
    pictures = torch.linspace(-1.2, 1.2, 2 * 3 * bands * 96 * 96).reshape(2, 3, bands, 96, 96)
    assert sheet(pictures).shape == (2 * 98, 3 * 98, 3)


def test_a_curve_of_nothing_is_empty():
    assert len(ElementTree.fromstring(curve([], [LOSS]))) == 1


def test_a_job_takes_what_was_trained(image, whole):
    """The file has the mean weights, in half precision, and all that shapes do not tell."""
    model = str(whole / MODEL)
    terms = weights_contract(model, {})
    assert (terms.bands, terms.size_multiple, terms.native_tile, terms.classes) == (3, 4, 16, None)
    mean = load_file(whole / CHECKPOINTS / "00000006" / "mean.safetensors")
    stored = load_file(model)
    assert {f"unet.{name}" for name in stored} == set(mean)
    for name, tensor in stored.items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor, mean[f"unet.{name}"].half())
    told = load_denoiser({"name": model}).predict(torch.zeros(1, 3, 16, 16), torch.tensor([5.0]), [Condition()])
    assert told.shape == (1, 6, 16, 16)


def test_a_network_that_predicts_v_is_a_denoiser_like_any_other(image, tmp_path):
    """A job's denoiser sees the noise that training saw; half precision of the file aside."""
    crops = crops_of(image)
    small = learner(crops, predicts="v")
    train(small, crops, replace(COURSE, half=False), place(tmp_path), seed=0)
    denoiser = load_denoiser({"name": str(tmp_path / MODEL)})
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([40, 900])
    told = denoiser.predict(x, t.float(), [Condition()] * 2)
    with small.averaged():
        raw = small.objective.network(x, t)
    torch.testing.assert_close(told[:, :3], small.objective.chain.noised(raw[:, :3], x, t), atol=1e-5, rtol=1e-4)
    assert torch.equal(told[:, 3:], raw[:, 3:])
    assert description_of(str(tmp_path / MODEL)).predicts == "v"


def test_the_file_says_what_it_was_made_of(image, whole):
    told = description_of(str(whole / MODEL))
    assert told.config == UNET
    assert told.spans == ((0.0, 255.0),) * 3
    assert told.provenance == {"version": "test", "data": crops_of(image).digest, "steps": 6}


def test_a_network_of_classes_says_which_one_is_none(image, tmp_path):
    crops = crops_of(image, label=1, classes=4)
    small = learner(crops, replace(UNET, num_classes=5), drop_label=0.1)
    train(small, crops, replace(COURSE, steps=1, checkpoint=1), place(tmp_path), seed=0)
    assert description_of(str(tmp_path / MODEL)).null_class == 4
    assert weights_contract(str(tmp_path / MODEL), {"label": 3}).classes == 5


@pytest.mark.parametrize("pool", ["attention", "adaptive"])
def test_a_classifier_guides_after_training(image, tmp_path, pool):
    crops = crops_of(image, label=1, classes=4)
    config = replace(CLASSIFIER, pool=pool, image_size=16 if pool == "attention" else None)
    train(learner(crops, config), crops, replace(COURSE, steps=2), place(tmp_path), seed=0)
    scores = load_classifier(str(tmp_path / MODEL))(torch.zeros(2, 3, 16, 16), torch.tensor([1.0, 2.0]))
    assert scores.shape == (2, 4)
    assert not (tmp_path / SHEETS).exists()


# --- how it learns ---


def batch_of(crops):
    return Batch(torch.from_numpy(np.stack([crops.take("train", n).pixels for n in range(2)])), None, ("a", "b"))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(image, precision):
    crops = crops_of(image)
    small = learner(crops, precision=precision)
    losses = [small.learn(batch_of(crops), Draws(0, 0), step)[LOSS] for step in range(8)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_learner_in_reduced_precision_goes_on_with_the_same_bits(image, precision):
    crops = crops_of(image)
    one, other = learner(crops, precision=precision), learner(crops, precision=precision)
    for step in range(3):
        one.learn(batch_of(crops), Draws(0, step), step)
    other.restore(one.saved())
    told = [each.learn(batch_of(crops), Draws(0, 3), 3) for each in (one, other)]
    assert told[0] == told[1]


def test_what_is_computed_again_changes_no_bit(image):
    crops = crops_of(image)
    one, other = learner(crops), learner(crops, recompute=True)
    for step in range(3):
        told = [each.learn(batch_of(crops), Draws(0, step), step) for each in (one, other)]
        assert told[0] == told[1]


def test_the_mean_follows_the_weights(image):
    crops = crops_of(image)
    small = learner(crops, ema=0.5)
    before = {name: tensor.clone() for name, tensor in small.saved()["mean"].items()}
    small.learn(batch_of(crops), Draws(0, 0), 0)
    saved = small.saved()
    for name, tensor in saved["mean"].items():
        torch.testing.assert_close(tensor, before[name] * 0.1 + saved["weights"][name] * 0.9)


def test_within_averaged_the_networks_have_their_mean(image):
    crops = crops_of(image)
    small = learner(crops)
    small.learn(batch_of(crops), Draws(0, 0), 0)
    saved = {what: {name: t.clone() for name, t in tensors.items()} for what, tensors in small.saved().items()}
    with small.averaged():
        for name, parameter in small.objective.network.named_parameters():
            assert torch.equal(parameter, saved["mean"][f"unet.{name}"])
    for name, parameter in small.objective.network.named_parameters():
        assert torch.equal(parameter, saved["weights"][f"unet.{name}"])


def test_the_rate_rises_for_as_long_as_it_is_told_to(image):
    """Adam's first step moves every weight by the rate, whatever its gradient."""
    crops = crops_of(image)
    moved = []
    for warmup in (1, 10):
        small = learner(crops, warmup=warmup, clip=1e9)
        before = small.objective.network.out[2].bias.detach().clone()
        small.learn(batch_of(crops), Draws(0, 0), 0)
        moved.append(float((small.objective.network.out[2].bias.detach() - before).abs().max()))
    assert moved[0] == pytest.approx(1e-3, rel=1e-2)
    assert moved[1] == pytest.approx(1e-4, rel=1e-2)


def test_the_rate_halves_from_then_on_however_many_steps_there_will_be():
    learning = Learning(rate=8e-4, warmup=4, halving=10)
    assert [learning.rate_at(step) for step in (0, 3, 4, 14, 34)] == pytest.approx([2e-4, 8e-4, 8e-4, 4e-4, 1e-4])
    assert replace(learning, halving=0).rate_at(10**6) == 8e-4


@pytest.mark.parametrize("detail", [0, 8])
def test_a_network_begins_as_nothing(image, detail):
    crops = crops_of(image)
    network = learner(crops, replace(UNET, detail=detail)).objective.network
    assert not network(torch.randn(1, 3, 16, 16), torch.tensor([3])).any()


@pytest.mark.slow
def test_it_learns_what_the_land_looks_like(tmp_path):
    """Crops it has never seen lose most of their noise, and a place it has never seen is restored far better."""
    image = archive(tmp_path, size=320)
    config = replace(UNET, model_channels=64, out_channels=3)
    crops = crops_of(image, size=32, held_out=0.1, flips=True, turns=True)
    small = learner(crops, config, rate=2e-3, warmup=20, ema=0.98)
    course = Course(steps=300, batch=8, log=50, check=300, sheet=300, checkpoint=300)
    errors = []
    for steps in (1, course.steps):
        run = tmp_path / f"run-{steps}"
        train(small, crops, replace(course, steps=steps), place(run), seed=0)
        errors.append(error_of_a_filled_hole(tmp_path / f"restored-{steps}", str(run / MODEL)))
    (left,) = (line[HELD_OUT] for line in lines(run) if HELD_OUT in line)
    assert left < 0.15
    untrained, learned = errors
    assert learned < 0.5 * untrained


def error_of_a_filled_hole(folder, model):
    """Root mean square, in gray values, in holes of a scene of another seed."""
    truth, _ = Terra(6, 3).look(Box(0, 0, 64, 64))
    mask = np.zeros((64, 64), bool)
    mask[8::16, :], mask[:, 8:12] = True, True
    given = np.where(mask, 0, truth)
    found = restored(folder, given, task="inpaint", mask=mask, model={"name": model}, tile=32, steps=15)
    return np.sqrt(np.mean((found.astype(float) - truth)[:, mask] ** 2))
