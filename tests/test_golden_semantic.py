"""Recordings of semantic diffusion replay whatever network, size and scale, and any array that is altered shows."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.golden.kinds import verdict
from tests.golden.semantic import config_of
from tests.test_golden import ALL, corrupted, rewritten
from tileloom.models.checkpoint import make, parameters_of, with_weights
from tileloom.models.schedule import schedule
from tileloom.models.semantic import one_hot

FACTS = {
    **{"image_size": 8, "num_channels": 32, "channel_mult": "1,1", "num_res_blocks": 1, "attention_resolutions": "4"},
    **{"num_head_channels": 16, "num_classes": 3, "no_instance": False, "resblock_updown": False, "weight_gain": 1.0},
}
BATCH, SIZE, STEPS, SCALE = 2, (4, 6), 3, 1.3


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run, a pass and losses of another network than any at hand, recorded beside the network by the formulas."""
    folder = tmp_path_factory.mktemp("other")
    torch.manual_seed(1)
    blank = {"input_blocks.0.0.weight": torch.zeros(1, 2), "out.2.weight": torch.zeros(4)}
    config = config_of(FACTS, blank)
    stored = {name: _stored(tensor) for name, tensor in make(config).state_dict().items()}
    facts = {**FACTS, "n_params": parameters_of(config)}
    names = sorted(stored)
    for part in range(2):
        arrays = {f"sd/{name}": stored[name] for name in names[part::2]}
        _save(folder, f"tiny_x_weights_{part}", facts, arrays)
    tensors = {n: torch.from_numpy(a.astype(np.float32) / (512 if a.ndim > 1 else 1)) for n, a in stored.items()}
    network = with_weights(config, tensors)
    facts["weight_files"] = ["tiny_x_weights_0.npz", "tiny_x_weights_1.npz"]
    label = torch.randint(0, 3, (BATCH, 1, *SIZE))
    instance = torch.randint(0, 2, (BATCH, 1, *SIZE))
    y = one_hot(label[:, 0], torch.stack([_edges(ids[0]) for ids in instance]), config)
    _save(folder, "tiny_x_unet", facts, _pass(network, label, instance, y))
    _save(folder, "tiny_x_sample_ddpm3_s1.3", *_run(network, facts, y))
    _save(folder, "tiny_x_training_loss", facts, _losses(network, y))
    return folder


def _stored(tensor):
    if tensor.ndim == 1:
        return (0.3 * torch.randn(tensor.shape)).numpy()
    drawn = 512 * torch.randn(tensor.shape) / tensor[0].numel() ** 0.5
    return drawn.round().clamp(-127, 127).to(torch.int8).numpy()


def _save(folder, stem, facts, arrays):
    arrays = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in arrays.items()}
    np.savez(folder / f"{stem}.npz", config_json=np.array(json.dumps(facts)), **arrays)


def _edges(ids):
    """Pixel by pixel."""
    rows, cols = ids.shape
    return torch.tensor(
        [
            [
                any(
                    ids[r, c] != ids[r + down, c + right]
                    for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0))
                    if 0 <= r + down < rows and 0 <= c + right < cols
                )
                for c in range(cols)
            ]
            for r in range(rows)
        ]
    )


@torch.inference_mode()
def _pass(network, label, instance, y):
    x, t = torch.randn(BATCH, 2, *SIZE), torch.tensor([3, 700])
    seen, first = {}, network.middle_block[0].in_norm
    # A hook that returns anything would replace what it saw.
    handles = [
        network.input_blocks[-1].register_forward_hook(lambda _, given, told: seen.update(enc_last=told)),
        network.middle_block.register_forward_hook(lambda _, given, told: seen.update(mid=told)),
        first.register_forward_hook(lambda _, given, told: seen.update(spade_in=given[0], spade_out=told)),
    ]
    out = network(x, t, y)
    for handle in handles:
        handle.remove()
    return {
        **{"x_t": x, "t": t, "label": label, "instance": instance, "y": y, "out": out},
        **{"out_null": network(x, t, 0 * y), **seen},
    }


@torch.inference_mode()
def _run(network, facts, y):
    """Three ancestral steps with guidance and learned variances, as the formulas have them."""
    steps, image = schedule(steps=STEPS), (BATCH, 2, *SIZE)
    torch.manual_seed(5)
    x_T, *noise = (torch.randn(image) for _ in range(STEPS + 1))
    taken, x = {"out_cond": [], "out_null": [], "pred_xstart": [], "samples": []}, x_T
    for i, z in zip(reversed(range(STEPS)), noise, strict=True):
        t = torch.full((BATCH,), steps.timesteps[i])
        cond, null = network(x, t, y), network(x, t, 0 * y)
        eps = null[:, :2] + SCALE * (cond[:, :2] - null[:, :2])
        share, abar, beta = (cond[:, 2:] + 1) / 2, float(steps.abar[i]), float(steps.betas[i])
        clean = ((x - (1 - abar) ** 0.5 * eps) / abar**0.5).clamp(-1, 1)
        log_variance = share * np.log(beta) + (1 - share) * float(steps.posterior_log_variance_clipped[i])
        mean = float(steps.posterior_mean_coef1[i]) * clean + float(steps.posterior_mean_coef2[i]) * x
        x = mean + (0.5 * log_variance).exp() * z if i else mean
        for name, value in {"out_cond": cond, "out_null": null, "pred_xstart": clean, "samples": x}.items():
            taken[name].append(value)
    order = [f"randn{image}", *[f"randn_like{image}"] * STEPS]
    said = {"s": SCALE, "clip_denoised": True, "eta": 0.0, "torch_seed": 5, "random_draw_order": order}
    arrays = {
        **{"x_T": x_T, "noise": torch.stack(noise), "y": y, "timesteps": np.array(steps.timesteps[::-1])},
        **{"betas64": steps.betas, "alphas_cumprod64": steps.abar},
        "posterior_log_variance_clipped64": steps.posterior_log_variance_clipped,
        **{name: torch.stack(each) for name, each in taken.items()},
    }
    return {**facts, **said, "respacing": str(STEPS), "case": "sampling"}, arrays


def _losses(network, y):
    """The hybrid loss of a timestep in the middle, where the bound is a divergence of two normals."""
    chain, t = schedule(steps=1000), torch.tensor([400, 600])
    y = y.clone()
    y[-1] = 0
    x_0, noise = torch.rand(BATCH, 2, *SIZE) * 2 - 1, torch.randn(BATCH, 2, *SIZE)

    def at(table):
        return torch.from_numpy(table[t.numpy()]).float()[:, None, None, None]

    x_t = at(chain.abar) ** 0.5 * x_0 + (1 - at(chain.abar)) ** 0.5 * noise
    network.requires_grad_(True)
    told = network(x_t, t, y)
    mse = ((told[:, :2] - noise) ** 2).mean(dim=(1, 2, 3))
    low, share = at(chain.posterior_log_variance_clipped), (told[:, 2:] + 1) / 2
    log_variance = share * at(np.log(chain.betas)) + (1 - share) * low
    off = at(chain.posterior_mean_coef1) * (at(chain.sqrt_recipm1_abar) * (told[:, :2].detach() - noise))
    divergence = 0.5 * (log_variance - low - 1 + (low - log_variance).exp() + off**2 * (-log_variance).exp())
    vb = divergence.mean(dim=(1, 2, 3)) / np.log(2)
    (mse + vb).mean().backward()
    gradient = network.out[2].weight.grad.clone()
    network.zero_grad()
    arrays = {"x_0": x_0, "t": t, "noise": noise, "y": y, "grad/out.2.weight": gradient}
    return arrays | {name: each.detach() for name, each in {"loss": mse + vb, "mse": mse, "vb": vb}.items()}


STEMS = ["tiny_x_weights_0", "tiny_x_weights_1", "tiny_x_unet", "tiny_x_sample_ddpm3_s1.3", "tiny_x_training_loss"]


@pytest.mark.parametrize("stem", STEMS)
def test_a_recording_of_another_network_size_and_scale_replays(other, stem):
    came_to = verdict(other / f"{stem}.npz")
    assert not came_to.problem, str(came_to)


def _other(name, array):
    """Other content; ids of instances by other numbers would have the same edges."""
    if array.dtype.kind in "fiu" and not array.any():
        return array + 1
    return array[..., ::-1] if name == "instance" else corrupted(array)


@pytest.mark.parametrize("stem", STEMS[2:])
def test_any_corrupted_array_fails(other, tmp_path, stem):
    for part in STEMS[:2]:
        (tmp_path / f"{part}.npz").write_bytes((other / f"{part}.npz").read_bytes())
    with np.load(other / f"{stem}.npz") as opened:
        altered = {name: _other(name, opened[name]) for name in opened.files if name != "config_json"}
    passed = [
        name
        for name, array in altered.items()
        if not verdict(rewritten(tmp_path, other / f"{stem}.npz", **{name: array})).problem
    ]
    assert passed == []


def test_a_weight_that_is_altered_fails_in_every_file_of_the_network(other, tmp_path):
    for stem in STEMS:
        (tmp_path / f"{stem}.npz").write_bytes((other / f"{stem}.npz").read_bytes())
    with np.load(other / "tiny_x_weights_1.npz") as opened:
        altered = {name: corrupted(opened[name]) for name in opened.files if name.endswith("gamma.weight")}
    rewritten(tmp_path, other / "tiny_x_weights_1.npz", **altered)
    assert [stem for stem in STEMS if not verdict(tmp_path / f"{stem}.npz").problem] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["*_unet", "*_training_loss", "*_sample_ddim", "a_sample_ddpm", "b_sample_ddpm", "*_weights"]
)
def test_any_corrupted_array_of_what_was_recorded_fails(tmp_path, kind):
    """Of every file at hand all arrays beside weights; of weights one tensor in twenty."""
    if not (ALL / "semantic").exists():
        return
    folder, passed = shutil.copytree(ALL / "semantic", tmp_path / "files"), []
    for file in sorted((ALL / "semantic").glob(f"{kind}*.npz")):
        with np.load(file) as opened:
            weights = [name for name in opened.files if name.startswith("sd/")]
            names = [name for name in opened.files if name not in weights] + weights[::20]
            altered = {name: _other(name, opened[name]) for name in names}
        for name, array in altered.items():
            if not verdict(rewritten(folder, file, **{name: array})).problem:
                passed.append((file.stem, name))
        shutil.copy(file, folder)
    assert passed == []
