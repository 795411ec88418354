"""Diffusers folders: the same numbers as diffusers itself, terms from JSON alone, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from tests.commandline import tileloom, written
from tests.diffused import SCHEDULERS, SMALL, changed, diffused
from tests.images import noise, write_zarr
from tests.pipeline import job, restore, result, scene
from tileloom.models import folder_network
from tileloom.models.build import denoiser_of
from tileloom.models.denoiser import Condition, split_answer
from tileloom.models.folder import read_folder
from tileloom.models.kinds import contract_of, identity_of
from tileloom.models.schedule import beta_table, schedule
from tileloom.tiling.errors import InputError

BETAS = {
    "linear": {},
    "other ends": {"beta_start": 0.001, "beta_end": 0.012, "num_train_timesteps": 500},
    "scaled": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": np.linspace(0.0002, 0.05, 300).tolist(), "num_train_timesteps": 300},
}


def noisy(count=3, size=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randn((count, 3, size, size), generator=generator)


# --- the same as diffusers ---


@pytest.mark.parametrize("kind", BETAS)
@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_clean_guesses_are_those_of_the_scheduler(tmp_path, scheduler, predicts, kind):
    settings = {**BETAS[kind], "prediction_type": predicts, "clip_sample": False}
    folder = diffused(tmp_path, scheduler=scheduler, **settings)
    ours, theirs = denoiser_of(folder), SCHEDULERS[scheduler].from_pretrained(tmp_path)
    if scheduler == "DDIM":
        theirs.set_timesteps(theirs.config.num_train_timesteps)
    network = UNet2DModel.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    x = noisy(1)
    with torch.no_grad():
        for timestep in (0, 17, theirs.config.num_train_timesteps * 3 // 4):
            told = theirs.step(network(x, timestep).sample, timestep, x).pred_original_sample
            eps = ours.predict(x, torch.tensor([float(timestep)]), [Condition()])
            abar = np.prod(1 - beta_table(ours.contract.betas, ours.contract.timesteps)[: timestep + 1])
            guess = (x - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
            torch.testing.assert_close(guess.float(), told, rtol=1e-3, atol=1e-4)


def test_epsilon_is_passed_on_bit_for_bit(tmp_path):
    ours = denoiser_of(diffused(tmp_path))
    network = UNet2DModel.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    x, t = noisy(), torch.tensor([0.0, 3.5, 999.0])
    with torch.no_grad():
        assert torch.equal(ours.predict(x, t, [Condition()] * 3), network(x, t).sample)


@pytest.mark.parametrize("kind", ["learned_range", "learned"])
def test_a_learned_variance_is_the_schedulers(tmp_path, kind):
    folder = diffused(tmp_path, network={"out_channels": 6}, variance_type=kind)
    ours, theirs = denoiser_of(folder), DDPMScheduler.from_pretrained(tmp_path)
    x, timestep = noisy(1), 300
    told = ours.network(x, torch.tensor([300.0]))[:, 3:]
    if kind == "learned":
        # A network of random weights tells no variance; this one is between the bounds.
        told = told.abs() * 1e-3 + 5e-3
    expected = theirs._get_variance(timestep, predicted_variance=told, variance_type=kind)
    expected = expected if kind == "learned_range" else expected.log()
    answer = ours.prediction.answer(torch.cat([x, told], dim=1), x, torch.tensor([300.0]))
    place = split_answer(answer[0], 3).v
    steps = schedule(ours.contract.betas, steps=1000)
    low, high = steps.posterior_log_variance_clipped[timestep], np.log(steps.betas[timestep])
    torch.testing.assert_close(low + (high - low) * (place + 1) / 2, expected[0], rtol=1e-4, atol=1e-4)


def test_classes_reach_the_network_row_by_row(tmp_path):
    ours = denoiser_of({"name": diffused(tmp_path, network={"num_class_embeds": 4}), "label": 2})
    network = UNet2DModel.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    x, t = noisy(), torch.tensor([5.0, 50.0, 500.0])
    with torch.no_grad():
        told = network(x, t, torch.tensor([3, 1, 0])).sample
    assert torch.equal(ours.predict(x, t, [Condition(label=3), Condition(label=1)]), told)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("pipeline", [True, False])
def test_every_layout_holds_the_same_network(tmp_path, pipeline, safe):
    folder = diffused(tmp_path / "a", pipeline=pipeline, safe=safe)
    other = diffused(tmp_path / "b")
    x, t = noisy(1), torch.tensor([9.0])
    assert torch.equal(denoiser_of(folder).predict(x, t, []), denoiser_of(other).predict(x, t, []))
    nested = tmp_path / "b" / "scheduler"
    nested.mkdir()
    (tmp_path / "b" / "scheduler_config.json").rename(nested / "scheduler_config.json")
    assert read_folder(other).betas == read_folder(folder).betas


def test_attention_of_the_first_releases_is_read(tmp_path):
    folder = diffused(tmp_path)
    expected = denoiser_of(folder).predict(noisy(1), torch.tensor([9.0]), [])
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(file)
    for new, name in old.items():
        tensors = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in tensors.items()}
    save_file(tensors, file)
    assert torch.equal(denoiser_of(folder).predict(noisy(1), torch.tensor([9.0]), []), expected)


# --- terms ---


def test_terms_are_read_without_torch_and_without_diffusers(tmp_path):
    folder = diffused(tmp_path / "net", pipeline=True)
    write_zarr(tmp_path / "in.zarr", noise())
    spec = written(tmp_path, input="in.zarr", output="out.zarr", task="sr:2", model={"name": "./net"})
    code = "import sys; from tileloom.jobs.cli import main; assert not main(sys.argv[1:]); "
    code += "print({'torch', 'diffusers', 'safetensors'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, "plan", spec], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    assert f"model {folder}" in done.stdout
    assert "tile 16, stride 12, guard 2" in done.stdout
    assert not {"torch", "diffusers"} & set(done.stdout.splitlines()[-1].split("'"))


def test_terms_follow_from_the_files(tmp_path):
    found = contract_of(diffused(tmp_path / "net", clip_sample_range=2.0))
    assert (found.name, found.bands, found.size_multiple, found.native_tile) == ("net", 3, 2, 16)
    assert (found.value_range, found.timesteps, found.classes) == ((-2, 2), 1000, None)
    changed(tmp_path / "net", "scheduler_config.json", clip_sample=False)
    assert contract_of(str(tmp_path / "net")).value_range is None
    changed(tmp_path / "net", "scheduler_config.json", thresholding=True)
    assert contract_of(str(tmp_path / "net")).value_range == (-1, 1)
    changed(tmp_path / "net", "config.json", sample_size=[32, 16])
    assert contract_of(str(tmp_path / "net")).native_tile == 16
    changed(tmp_path / "net", "config.json", sample_size=None)
    assert contract_of(str(tmp_path / "net")).native_tile == 64
    assert contract_of({"name": str(tmp_path / "net"), "image_size": 32}).native_tile == 32
    changed(tmp_path / "net", "config.json", norm_num_groups=8)
    assert contract_of(str(tmp_path / "net")).smallest_tile == 2 * found.smallest_tile


def test_what_a_scheduler_leaves_out_is_its_default(tmp_path):
    folder = diffused(tmp_path)
    before = contract_of(folder)
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDPMScheduler"}))
    assert contract_of(folder) == before


# --- what is refused ---

NETWORK, SCHEDULER = "config.json", "scheduler_config.json"


@pytest.mark.parametrize(
    ("file", "values", "says"),
    [
        (NETWORK, {"_class_name": "UNet2DConditionModel"}, "the model is 'UNet2DConditionModel', which is not taken"),
        (NETWORK, {"_class_name": None}, "the model is None, which is not taken: give UNet2DModel"),
        (
            SCHEDULER,
            {"_class_name": "PNDMScheduler"},
            "the scheduler is 'PNDMScheduler', which is not taken: give DDPM",
        ),
        (SCHEDULER, {"beta_schedule": "laplace"}, "beta_schedule is 'laplace'; give one of linear, scaled_linear"),
        (SCHEDULER, {"prediction_type": "flow"}, "prediction_type is 'flow'; give one of epsilon"),
        (SCHEDULER, {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True; give false"),
        (SCHEDULER, {"num_train_timesteps": "many"}, "num_train_timesteps is 'many'; give a whole number from 1 up"),
        (SCHEDULER, {"beta_end": 3.0}, r"beta_end is 3\.0; give what makes all betas lie above 0 and below 1"),
        (SCHEDULER, {"trained_betas": ["a"]}, r"trained_betas is \['a'\]; give a list of numbers"),
        (SCHEDULER, {"clip_sample": "no"}, "clip_sample is 'no'; give true or false"),
        (NETWORK, {"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'; give positional"),
        (NETWORK, {"class_embed_type": "timestep"}, "class_embed_type is 'timestep'; give null"),
        (NETWORK, {"block_out_channels": 8}, "block_out_channels is 8; give the width of each level"),
        (
            NETWORK,
            {"out_channels": 6},
            "turns 3 channels into 6, which does not suit a scheduler of variance fixed_small",
        ),
        (NETWORK, {"in_channels": 4}, "turns 4 channels into 3"),
    ],
)
def test_what_is_not_known_is_refused_by_file_and_key(tmp_path, file, values, says):
    folder = changed(diffused(tmp_path), file, **values)
    with pytest.raises(InputError, match=f"{tmp_path}/{file}: .*{says}"):
        contract_of(folder)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"label": 1}, r"model\.label is 1, but .* knows no classes"),
        ({"image_size": 17}, r"model\.image_size is 17; give a multiple of 2"),
        ({"heads": 2}, r"model\.heads is no option of .*; its options are label, image_size"),
    ],
)
def test_options_that_do_not_suit_are_refused(tmp_path, options, says):
    with pytest.raises(InputError, match=says):
        contract_of({"name": diffused(tmp_path), **options})


def test_a_folder_that_lacks_a_file_is_told_which(tmp_path):
    folder = diffused(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has neither diffusion_pytorch_model\.safetensors nor .*\.bin: save"):
        contract_of(folder)
    (tmp_path / SCHEDULER).write_text("{")
    with pytest.raises(InputError, match=r"scheduler_config\.json is no JSON"):
        contract_of(folder)
    (tmp_path / SCHEDULER).write_text("[]")
    with pytest.raises(InputError, match="holds no mapping"):
        contract_of(folder)
    (tmp_path / SCHEDULER).unlink()
    with pytest.raises(InputError, match=r"scheduler_config\.json: does not exist, and a diffusers folder has it"):
        contract_of(folder)


def test_a_pipeline_of_more_than_pixels_is_refused(tmp_path):
    folder = changed(diffused(tmp_path, pipeline=True), "model_index.json", vqvae=["diffusers", "VQModel"])
    with pytest.raises(InputError, match=r"model_index\.json lists unet, scheduler, vqvae: only a pipeline of unet"):
        contract_of(folder)


def test_weights_that_are_not_the_networks_are_refused(tmp_path):
    folder = changed(diffused(tmp_path), NETWORK, layers_per_block=2)
    with pytest.raises(InputError, match=r"safetensors does not suit the config\.json beside it: \d+ keys are missing"):
        denoiser_of(folder)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"up_block_types": ["UpBlock2D"]}, "ValueError: Must provide the same number"),
        ({"attention_head_dim": 0}, "ZeroDivisionError: integer division or modulo by zero"),
        ({"block_out_channels": [10**9, 10**9]}, "RuntimeError: Storage size calculation overflowed"),
        ({"act_fn": 3}, "AttributeError: 'int' object has no attribute 'lower'"),
        ({"norm_eps": "small"}, "TypeError: group_norm"),
        ({"downsample_padding": 7}, "RuntimeError: Sizes of tensors must match"),
        ({"mid_block_scale_factor": "one"}, "TypeError: unsupported operand"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_network_are_one_sentence(tmp_path, values, why):
    folder = changed(diffused(tmp_path), NETWORK, **values)
    with pytest.raises(InputError, match=r"the config\.json of .* describes no UNet2DModel that runs \(") as refused:
        denoiser_of(folder)
    said = str(refused.value)
    assert why in said
    assert said.endswith("): save it again")
    assert "\n" not in said


def test_a_network_that_changes_the_size_is_refused(tmp_path, monkeypatch):
    folder = diffused(tmp_path)
    whole = UNet2DModel.forward
    monkeypatch.setattr(UNet2DModel, "forward", lambda *told, **more: (whole(*told, **more)[0][..., 1:],))
    with pytest.raises(InputError, match=r"that runs \(it returns 4x3 pixels for 4x4\)"):
        denoiser_of(folder)


def test_widths_beyond_any_memory_are_refused_before_memory_is_taken(tmp_path):
    folder = changed(diffused(tmp_path), NETWORK, block_out_channels=[8, 2_000_000])
    with pytest.raises(InputError, match=r"does not suit the config\.json beside it: \d+ keys are of another shape"):
        denoiser_of(folder)


def test_bits_are_told_to_depend_on_the_version_of_diffusers(tmp_path):
    assert denoiser_of(diffused(tmp_path)).numerics == {"precision": "fp32", "diffusers": diffusers.__version__}


class Touch:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_pickled_code_in_a_folder_is_refused_and_not_run(tmp_path):
    folder, ran = diffused(tmp_path, safe=False), tmp_path / "ran"
    torch.save({"extra": Touch(ran)}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="holds code beside its weights"):
        denoiser_of(folder)
    assert not ran.exists()


def test_without_diffusers_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_network, "_DIFFUSERS", "no_such_diffusers")
    with pytest.raises(InputError, match=r"needs diffusers \(.*\): pip install tileloom\[diffusers\]$"):
        denoiser_of(diffused(tmp_path))


# --- jobs ---


def test_a_folder_restores_on_a_class_and_needs_no_trust(tmp_path):
    folder = diffused(tmp_path / "net", network={"num_class_embeds": 4}, prediction_type="v_prediction")
    shared = {"task": "sr:2", "steps": 2, "levels": 1}
    image = scene(3, 20, 24)
    spec = job(tmp_path, image, model={"name": folder, "label": 2}, **shared)
    restore(spec)
    pooled = result(spec).astype(np.float64).reshape(3, 20, 2, 24, 2).mean(axis=(2, 4))
    assert np.abs(pooled - image).max() < 1e-5
    other = job(tmp_path, spec.input, model={"name": folder, "label": 0}, output="other.zarr", **shared)
    restore(other)
    assert not np.array_equal(result(other), result(spec))


def test_the_digest_is_over_every_file_and_no_path(tmp_path):
    one, same = diffused(tmp_path / "a", pipeline=True), diffused(tmp_path / "b", pipeline=True)
    assert identity_of({"name": one}) == identity_of({"name": same})
    seen = {identity_of({"name": one})["weights"]}
    for file in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        seen.add(identity_of({"name": changed(one, file, _note=file)})["weights"])
    weights = Path(one) / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    seen.add(identity_of({"name": one})["weights"])
    assert len(seen) == 5


def test_a_folder_is_inspected_from_its_files(tmp_path, capfd):
    out = tileloom(capfd, "models", "inspect", diffused(tmp_path)).out.splitlines()
    assert out[0] == f"{tmp_path}: a diffusers folder"
    assert out[1:] == [
        "bands: 3",
        "tiles: multiples of 2 from 2 up, its own is 16",
        "clean values: -1 to 1",
        "classes: none",
        "noise: 1000 timesteps, betas 0.0001 to 0.02",
        "windows a call: 1 up",
    ]
    found = tileloom(capfd, "models", "inspect", tmp_path, "--json").json
    assert found["contract"]["native_tile"] == SMALL["sample_size"]
    assert found["digest"] == identity_of({"name": str(tmp_path)})["weights"]
