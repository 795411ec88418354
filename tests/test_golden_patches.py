"""Recordings of Patch-DM replay, other ones of their form too, and any array that is altered shows."""

import json

import numpy as np
import pytest
import torch

from tests.golden.arrays import Golden
from tests.golden.kinds import OF_PATCHES, kind_of, verdict
from tests.golden.patches import config_of, state_dict_of
from tests.test_golden import ALTERED, KEPT, corrupted, kept, rewritten
from tileloom.models.checkpoint import make, parameters_of
from tileloom.models.collage import stitch
from tileloom.models.patchdm import dropped
from tileloom.models.patchdm_denoiser import image_eps
from tileloom.models.schedule import schedule

STEMS = [file.stem for file in KEPT if file.stem.endswith(tuple(OF_PATCHES))]
# A run of another size, grid, batch and network than any that is at hand.
FACTS = {
    **{"patch_size": 4, "grid": [2, 3], "batch": 2, "model_channels": 8, "channel_mult": [1, 1], "num_res_blocks": 1},
    **{"embed_channels": 16, "style_channels": 16, "attention_labels": [64], "num_heads": 4, "image_size": 16},
    **{"last_encoder_block": 3, "fine_skip_encoder_block": 1, "fine_skip_decoder_block": 2, "weight_gain": 1.0},
}


def beside(folder, *stems):
    """Recordings that others are read with, in a folder of their own."""
    for stem in stems:
        (folder / f"{stem}.npz").write_bytes(kept(stem).read_bytes())
    return folder


def problem(folder, stem, **changed):
    with_it = {"b_weights": ["b_unet_window"], "b_unet_window": ["b_weights"], "b_training_loss": ["b_weights"]}
    return verdict(rewritten(beside(folder, *with_it.get(stem, [])), kept(stem), **changed)).problem


def arrays_of(stem):
    with np.load(kept(stem)) as opened:
        return {name: opened[name] for name in opened.files}


QUICK = [(stem, name) for stem in STEMS for name in arrays_of(stem) if not name.startswith("sd/")]


@pytest.mark.parametrize(("stem", "name"), QUICK)
def test_a_corrupted_array_fails(tmp_path, stem, name):
    assert problem(tmp_path, stem, **{name: corrupted(arrays_of(stem)[name])})


@pytest.mark.slow
@pytest.mark.parametrize("stem", [stem for stem in STEMS if any("sd/" in name for name in arrays_of(stem))])
def test_any_corrupted_weight_fails(tmp_path, stem):
    """One tensor in three; outputs miss nothing but biases that a norm or a softmax takes out again."""
    given = {name: array for name, array in list(arrays_of(stem).items())[::3] if name.startswith("sd/")}
    problems = {name: problem(tmp_path, stem, **{name: corrupted(array)}) for name, array in given.items()}
    assert all(problems.values()), problems
    unseen = [name for name, said in problems.items() if said == ALTERED]
    assert all(name.endswith(".bias") for name in unseen)
    assert len(unseen) < 0.25 * len(problems)


def test_words_that_change_nothing_may_not_be_altered_either(tmp_path):
    facts = Golden(kept("b_unet_window")).config
    said = problem(tmp_path, "b_unet_window", config_json=np.array(json.dumps({**facts, "seed": 7})))
    assert said == ALTERED


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"eps_plain": None}, "KeyError"),
        ({"surprise": np.zeros(3)}, "nothing was compared with surprise"),
        ({"eps_shifted": np.full((2, 3, 8, 8), np.nan, np.float32)}, "eps_shifted"),
        ({"index": np.array([0, 0])}, "pos_encoder"),
    ],
)
def test_what_is_missing_odd_or_no_number_fails(tmp_path, changed, says):
    said = problem(tmp_path, "b_unet_window", **changed)
    assert says in said


def test_a_recording_without_its_weights_beside_it_fails(tmp_path):
    assert verdict(rewritten(tmp_path, kept("b_unet_window"))).problem


def test_a_loss_of_another_kind_of_network_is_none_of_patches(tmp_path):
    assert kind_of(kept("b_training_loss")) is OF_PATCHES["training_loss"]
    assert kind_of(rewritten(tmp_path, kept("b_training_loss"), noise_padded=None)) is None


# --- recordings of other networks ---


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A folder with a run that was recorded from the formulas alone, of a network of other shapes."""
    folder = tmp_path_factory.mktemp("other")
    torch.manual_seed(0)
    config = config_of(FACTS, in_channels=2, out_channels=2)
    network = make(config).requires_grad_(False).eval()
    stored = {}
    for name, tensor in network.state_dict().items():
        matrix, gain = tensor.ndim > 1, float(tensor.ndim == 1 and name.endswith("weight"))
        random = gain + torch.randn(tensor.shape) * (0.2 if matrix else 0.05)
        whole = (random * 512).round().clamp(-127, 127).to(torch.int8)
        stored[f"sd/{name}"] = (whole if matrix else random).numpy()
    facts = {**FACTS, "n_params": parameters_of(config)}
    np.savez(folder / "tiny_weights.npz", config_json=np.array(json.dumps(facts)), **stored)
    network.load_state_dict(state_dict_of(Golden(folder / "tiny_weights.npz")))
    _record(folder, network, facts)
    return folder


def _record(folder, network, facts):
    """Three DDIM steps with guidance, in float64 beside the network, as the formulas have them."""
    (rows, cols), p, batch = facts["grid"], facts["patch_size"], facts["batch"]
    image, patches = (batch, 2, rows * p, cols * p), (batch * (rows + 1) * (cols + 1), 2, p, p)
    order = [f"randn{image}", f"randn{(2 * batch, *image[1:])}", *[f"randn_like{patches}"] * 3]
    torch.manual_seed(5)
    x_T, _, *drawn = torch.randn(image), torch.randn(2 * batch, *image[1:]), *(torch.randn(patches) for _ in range(3))
    h = p // 2
    arrays = {"noise": torch.stack([stitch(one, rows + 1, cols + 1)[..., h:-h, h:-h] for one in drawn])}
    style, steps = torch.randn(batch, facts["style_channels"]), schedule(steps=3, spacing="stride")
    taken, x = {"eps_model": [], "pred_xstart": [], "samples": []}, x_T
    for i in (2, 1, 0):
        t = torch.full((batch,), steps.timesteps[i])
        told, untold = (
            image_eps(network, x, t, style, dropped(batch, style=off, position=off), cells=5) for off in (False, True)
        )
        abar, before = float(steps.abar[i]), float(steps.abar_prev[i])
        clean = ((x - (1 - abar) ** 0.5 * (1.7 * told - 0.7 * untold)) / abar**0.5).clamp(-1, 1)
        eps = (x - abar**0.5 * clean) / (1 - abar) ** 0.5
        x = before**0.5 * clean + (1 - before) ** 0.5 * eps
        for name, value in {"eps_model": torch.cat([told, untold]), "pred_xstart": clean, "samples": x}.items():
            taken[name].append(value)
    arrays |= {"x_T": x_T, "cond": style, **{name: torch.stack(each) for name, each in taken.items()}}
    said = {"cfg": True, "guidance_w": 0.7, "clip_denoised": True, "eta": 0.0, "torch_seed": 5}
    np.savez(
        folder / "tiny_sample_ddim3_cfg.npz",
        config_json=np.array(json.dumps({**facts, **said, "random_draw_order": order, "case": "ddim sampling"})),
        timesteps=np.array(steps.timesteps[::-1]),
        betas64=steps.betas,
        alphas_cumprod64=steps.abar,
        **{name: tensor.numpy() for name, tensor in arrays.items()},
    )


@pytest.mark.parametrize("stem", ["tiny_weights", "tiny_sample_ddim3_cfg"])
def test_a_recording_of_another_network_grid_and_batch_replays(other, stem):
    came_to = verdict(other / f"{stem}.npz")
    assert not came_to.problem, str(came_to)


RUN = ("x_T", "noise", "eps_model", "pred_xstart", "samples", "timesteps", "betas64", "alphas_cumprod64")


@pytest.mark.parametrize(("name", "shows"), [*((name, name) for name in RUN), ("cond", "eps_model")])
def test_a_corrupted_array_of_a_run_fails(other, tmp_path, name, shows):
    with np.load(other / "tiny_sample_ddim3_cfg.npz") as opened:
        changed = corrupted(opened[name])
    (tmp_path / "tiny_weights.npz").write_bytes((other / "tiny_weights.npz").read_bytes())
    came_to = verdict(rewritten(tmp_path, other / "tiny_sample_ddim3_cfg.npz", **{name: changed}))
    assert shows in came_to.problem
