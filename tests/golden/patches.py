"""Replays Patch-DM: single passes of its networks, whole sampling runs, and what they are trained on."""

import re
from dataclasses import replace

import numpy as np
import torch

from tests.golden.recorded import Notes, RecordedNoise, noting
from tests.golden.scenes import Observed, measurement_of
from tests.golden.windows import inputs_of
from tileloom.models.ancestral import Ddpm
from tileloom.models.checkpoint import parameters_of, with_weights
from tileloom.models.collage import PatchGrid, collage, cut, pad, stitch
from tileloom.models.contract import Contract
from tileloom.models.ddim import Ddim
from tileloom.models.engine import Engine
from tileloom.models.latent import BETA, style_schedule, walk_styles
from tileloom.models.parity import Parity
from tileloom.models.patchdm import dropped
from tileloom.models.patchdm_config import LatentConfig, PatchConfig, StyleEncoderConfig
from tileloom.models.patchdm_denoiser import PatchDenoiser, image_eps
from tileloom.models.patchdm_losses import Draw, drops_of, patch_losses, style_losses
from tileloom.models.patchdm_shapes import latent_layout
from tileloom.models.schedule import schedule
from tileloom.tiling.box import Box

PASS, RUN, GRADIENT, LOSS, TABLE = 2e-5, 1e-4, 1e-4, 1e-5, 1e-12
# The label of the finest level of the U-Net, whatever its patches are.
FINEST = 64
WEIGHTS = "sd/"
# Tensors of more than one axis are stored as whole numbers of these.
UNIT = np.float32(1 / 512)
CHAIN = schedule(steps=1000)


# --- networks ---


def state_dict_of(golden, prefix=WEIGHTS):
    """The tensors of a network, by its own names."""
    named = {name: golden[name] for name in golden if name.startswith(prefix)}
    return {
        name.removeprefix(prefix): torch.from_numpy(array.astype(np.float32) * UNIT if array.ndim > 1 else array)
        for name, array in named.items()
    }


def factors(labels, finest):
    return tuple(finest // label for label in labels)


def config_of(facts, **more):
    """The U-Net of a file's own words."""
    return PatchConfig(
        patch=facts["patch_size"],
        model_channels=facts["model_channels"],
        channel_mult=tuple(facts["channel_mult"]),
        num_res_blocks=facts["num_res_blocks"],
        attention_resolutions=factors(facts["attention_labels"], FINEST),
        embed_channels=facts["embed_channels"],
        style_channels=facts["style_channels"],
        num_heads=facts["num_heads"],
        **more,
    )


def bands_of(tensors):
    """How many bands a network takes and gives, which no file says otherwise."""
    return {"in_channels": tensors["input_blocks.0.0.weight"].shape[1], "out_channels": len(tensors["out.2.weight"])}


def weights_beside(golden):
    """The file of weights that a recording names by its own name."""
    return golden.beside(re.sub(r"_(unet|sample|training)_.*", "_weights", golden.name))


def network_of(golden):
    """The network of a file, loaded by the product's own strict loader."""
    tensors = state_dict_of(weights_beside(golden))
    return with_weights(config_of(golden.config, **bands_of(tensors)), tensors)


def same_network(golden, network):
    """What a file says of the network beside it, and of the image."""
    facts, theirs = golden.config, weights_beside(golden).config
    odd = [name for name in theirs if facts.get(name) != theirs[name]]
    yield golden.compared("config network", len(odd))
    own = parameters_of(network.config)
    yield golden.compared("config n_params", abs(facts["n_params"] - own))
    # The way up takes what the way down gave, last first.
    last, mirrored = len(network.input_blocks) - 1, facts["fine_skip_encoder_block"] + facts["fine_skip_decoder_block"]
    yield golden.compared("config blocks", int((facts["last_encoder_block"], mirrored) != (last, last)))


def told_of(grid, images, t, style, drops, *, decoder=False):
    """What every patch of a batch of images is told."""
    positions = grid.decoder_positions() if decoder else grid.encoder_positions()
    each = (condition.repeat_interleave(len(positions), dim=0) for condition in (style, drops))
    return t.repeat_interleave(len(positions)), positions.repeat(images, 1), *each


def grid_of(golden, images):
    """The grid of a batch of images, as the file has it too."""
    patch = golden.config["patch_size"]
    grid = PatchGrid.of(*images.shape[-2:], patch)
    off = int([grid.rows, grid.cols] != golden.config["grid"]) + int(len(images) != golden.config["batch"])
    return grid, golden.compared("config grid", off)


@torch.inference_mode()
def weights(golden):
    """Files *_weights: what the network makes of the recorded window beside them, where there is one."""
    tensors, facts = state_dict_of(golden), golden.config
    config = config_of(facts, **bands_of(tensors))
    network = with_weights(config, tensors)
    yield golden.compared("config n_params", abs(facts["n_params"] - parameters_of(config)))
    shown = golden.beside(f"{golden.name.removesuffix('weights')}unet_window")
    if shown is not None:
        yield from decoded(shown, network)


@torch.inference_mode()
def forward(golden):
    """Files *_unet_collage: one pass over the grid, with all that lies between."""
    network, facts = network_of(golden), golden.config
    x, t, style = (golden.tensor(name) for name in ("x_t", "t", "cond"))
    yield from same_network(golden, network)
    grid, came_to = grid_of(golden, x)
    yield came_to
    drops = dropped(len(x), style=False, position=False)
    patches = cut(pad(x, network.config.patch), network.config.patch)
    encoder = told_of(grid, len(x), t, style, drops)
    decoder = told_of(grid, len(x), t, style, drops, decoder=True)
    features = network.encode(patches, *encoder)
    moved = [collage(feature, grid) for feature in features]
    last, fine = facts["last_encoder_block"], facts["fine_skip_encoder_block"]
    (enc_emb, enc_style), (dec_emb, dec_style) = network.time_embed(*encoder), network.time_embed(*decoder)
    ours = {
        "enc_time_pos_emb": enc_emb,
        "enc_style": enc_style,
        "dec_time_pos_emb": dec_emb,
        "dec_style": dec_style,
        "mid_before_collage": features[-1],
        "mid_after_collage": moved[-1],
        "skip_last_before_collage": features[last],
        "skip_last_after_collage": moved[last],
        "fine_skip_before_collage": features[fine],
        "fine_skip_after_collage": moved[fine],
        "eps_collage": network.decode(moved, *decoder),
        "eps_full": image_eps(network, x, t, style, drops, cells=7),
    }
    yield golden.exact("x_padded_patches", patches)
    yield golden.exact("pos_encoder", encoder[1])
    for name, value in ours.items():
        yield golden.absolute(name, value, PASS)


@torch.inference_mode()
def without_conditions(golden):
    """Files *_unet_dropped_conditions: the same images with less said of them."""
    network = network_of(golden)
    yield from same_network(golden, network)
    shown = golden.beside(golden.name.replace("dropped_conditions", "collage"))
    x, t, style = (shown.tensor(name) for name in ("x_t", "t", "cond"))
    yield grid_of(golden, x)[1]
    for name, (no_style, no_position) in {
        "eps_no_cond_no_pos": (True, True),
        "eps_no_cond": (True, False),
        "eps_no_pos": (False, True),
    }.items():
        drops = dropped(len(x), style=no_style, position=no_position)
        eps = image_eps(network, x, t, style, drops, cells=7)
        yield golden.absolute(name, cut(eps, network.config.patch), PASS)


@torch.inference_mode()
def window(golden):
    """Files *_unet_window: one window of 2 x 2 encoder patches, decoded twice."""
    network = network_of(golden)
    yield from same_network(golden, network)
    yield from decoded(golden, network)


def decoded(golden, network):
    """A recorded window, decoded by a network."""
    x, t, style = (golden.tensor(name) for name in ("x_window_patches", "t", "cond"))
    yield golden.compared("config batch", abs(golden.config["batch"] - len(t)))
    grid = PatchGrid(1, 1, *golden["index"].tolist())
    drops = dropped(len(t), style=False, position=False)
    encoder = told_of(grid, len(t), t, style, drops)
    features = network.encode(x, *encoder)
    moved = [collage(feature, grid) for feature in features]
    yield golden.exact("pos_encoder", encoder[1])
    yield golden.absolute("eps_plain", network.decode(features, *encoder), PASS)
    decoder = told_of(grid, len(t), t, style, drops, decoder=True)
    yield golden.absolute("eps_shifted", network.decode(moved, *decoder), PASS)


@torch.inference_mode()
def image_encoder(golden):
    """Files *_semantic_encoder: the style of an image."""
    facts, tensors = golden.config, state_dict_of(golden, WEIGHTS + "encoder.")
    config = StyleEncoderConfig(
        model_channels=facts["model_channels"],
        channel_mult=tuple(facts["enc_channel_mult"]),
        num_res_blocks=facts["enc_num_res_blocks"],
        attention_resolutions=factors(facts["attention_labels"], facts["image_size"]),
        in_channels=golden["x"].shape[1],
        out_channels=facts["style_channels"],
        num_heads=facts["num_heads"],
    )
    yield golden.compared("config n_params", abs(facts["n_params"] - parameters_of(config)))
    yield golden.absolute("style", with_weights(config, tensors)(golden.tensor("x")), PASS)


# --- styles ---


@torch.inference_mode()
def latent(golden):
    """Files *_latent_mlp: the noise in styles, a run, and what it is trained on."""
    facts, tensors = golden.config, state_dict_of(golden)
    config = LatentConfig(
        channels=facts["num_channels"],
        hidden=facts["num_hid_channels"],
        layers=facts["num_layers"],
        skips=tuple(facts["skip_layers"]),
        time_channels=facts["time_emb_channels"],
        bias=float(facts["condition_bias"]),
        norm=facts["use_norm"],
    )
    network, steps, run = with_weights(config, tensors), style_schedule(facts["steps"]), style_schedule(1000)
    read = latent_layout({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    yield golden.compared("config layers", int(read != LatentConfig(**{**_fields(config), "bias": read.bias})))
    yield golden.compared("config n_params", abs(facts["n_params"] - parameters_of(config)))
    yield golden.compared("config beta_schedule", int(facts["beta_schedule"] != f"const{BETA}"))
    yield golden.compared("config clip_denoised", int(facts["clip_denoised"]))
    yield golden.absolute("eps", network(golden.tensor("x"), golden.tensor("t")), PASS)
    yield golden.exact("timesteps", steps.timesteps[::-1])
    yield golden.relative("alphas_cumprod64", steps.abar, TABLE)
    guesses, states = zip(*walk_styles(network, golden.tensor("x_T"), steps), strict=True)
    yield step_by_step(golden, "pred_xstart", torch.stack(guesses).numpy())
    yield step_by_step(golden, "samples", torch.stack(states).numpy())
    losses = style_losses(network, golden.tensor("loss_x0"), golden.tensor("loss_noise"), golden.tensor("t"), run)
    yield golden.absolute("loss_per_sample", losses, PASS)


def _fields(config):
    return {name: getattr(config, name) for name in type(config).__slots__}


# --- runs ---


class _Heard(PatchDenoiser):
    """A denoiser that keeps the noise that its network predicts, before guidance."""

    heard = ()

    def _eps(self, *args, **how):
        eps = super()._eps(*args, **how)
        type(self).heard = (*self.heard, eps)
        return eps


def sample(golden):
    """Files *_sample_*: a whole run, the image being one window."""
    facts, name = golden.config, re.search(r"_sample_(ddim|ddpm)(\d+)(_cfg)?(_noclip)?$", golden.name)
    kind, count = name[1], int(name[2])
    x_T, network = golden["x_T"], network_of(golden)
    yield from same_network(golden, network)
    yield grid_of(golden, x_T)[1]
    flags = [facts["cfg"] == bool(name[3]), facts["clip_denoised"] == (not name[4])]
    flags.append((facts["guidance_w"] is not None) == facts["cfg"])
    yield golden.compared("config of the run", flags.count(False))
    steps = schedule(steps=count, spacing="stride" if kind == "ddim" else "even")
    yield golden.exact("timesteps", steps.timesteps[::-1])
    yield golden.relative("betas64", steps.betas, TABLE)
    yield golden.relative("alphas_cumprod64", steps.abar, TABLE)
    yield from _draws(golden)
    run = [_walked(golden, network, steps, kind, image) for image in range(len(x_T))]
    ours = {part: np.concatenate([one[part] for one in run], axis=1) for part in ("pred_xstart", "samples")}
    # Of a batch all predictions with conditions come first.
    ways = 1 + facts["cfg"]
    ours["eps_model"] = np.concatenate([one["eps_model"][:, way::ways] for way in range(ways) for one in run], axis=1)
    # A guess is so much more uncertain than the noise that it is made of.
    uncertain = {"pred_xstart": steps.sqrt_recipm1_abar[::-1]}
    for part, value in ours.items():
        yield step_by_step(golden, part, value, uncertain.get(part, 1))


def step_by_step(golden, name, ours, unit=1):
    """By the largest value of each step, where that is more than the unit."""
    expected = golden[name]
    step = (-1, *[1] * (expected.ndim - 1))
    largest = np.abs(expected).reshape(len(expected), -1).max(axis=1)
    return golden.absolute(name, ours, RUN, np.maximum(np.maximum(1, unit), largest).reshape(step))


def _draws(golden):
    """x_T and the noise of every step, drawn again in the order that the file gives."""
    facts = golden.config
    grid = PatchGrid(*facts["grid"])
    half = facts["patch_size"] // 2
    torch.manual_seed(facts["torch_seed"])
    drawn = [torch.randn(*map(int, re.findall(r"\d+", call))) for call in facts["random_draw_order"]]
    steps = drawn[-len(golden["timesteps"]) :]
    padded = torch.stack([stitch(patches, grid.rows + 1, grid.cols + 1) for patches in steps])
    yield golden.exact("x_T", drawn[0])
    yield golden.exact("noise", padded[..., half:-half, half:-half])


@torch.inference_mode()
def _walked(golden, network, steps, kind, image):
    """One image of a batch, walked by the product's solver in the product's engine."""
    facts, bands, config = golden.config, golden["x_T"].shape[1], network.config
    terms = Contract("golden", bands, config.patch, config.patch, config.patch)
    denoiser = _Heard(network, terms, facts["guidance_w"] if facts["cfg"] else 0.0, golden.tensor("cond")[image])
    _Heard.heard = ()
    found = walked_whole(golden, denoiser, steps, kind, image)
    # Before its first step an engine tries out its batch.
    heard = torch.cat(_Heard.heard).reshape(-1, 1 + facts["cfg"], *found["samples"].shape[2:])[-len(steps.timesteps) :]
    return {**found, "eps_model": heard.numpy()}


def walked_whole(golden, denoiser, steps, kind, image, **told):
    """One image of a batch as one window: guesses and states of every step."""
    facts, x_T = golden.config, golden.tensor("x_T")
    _, bands, height, width = x_T.shape
    box = Box(0, 0, height, width)
    draws = {step + 1: noise[image] for step, noise in enumerate(golden.tensor("noise"))}
    noise = RecordedNoise(golden.name, {(str(image), box): {0: x_T[image], **draws}})
    notes = Notes()
    how = {"eta": facts["eta"]} if kind == "ddim" else {}
    clip = (-1.0, 1.0) if facts["clip_denoised"] else None
    solver = noting(Ddim if kind == "ddim" else Ddpm, notes)(steps, noise, bands, clip, **how)
    nothing = np.zeros((bands, height, width), bool)
    clean = Observed(np.zeros(nothing.shape, np.float32), measurement_of("inpainting", 1), Parity(), nothing)
    engine = Engine(denoiser, solver, tile=(height, width), bands=bands, batch=1)
    state = engine.begin(replace(inputs_of(image, clean), **told))
    while not engine.finished(state):
        (state,) = engine.step([state])
    place = str(image), box
    guesses, states = (np.stack(getattr(notes, book)[place])[:, None] for book in ("guesses", "states"))
    return {"pred_xstart": guesses, "samples": states}


# --- training ---


def training(golden):
    """Files *_training_loss: the loss of one window, and gradients."""
    network = network_of(golden)
    yield from same_network(golden, network)
    x0, style = golden.tensor("x_0"), golden.tensor("cond")
    yield grid_of(golden, x0)[1]
    drops = drops_of(golden.tensor("drop_u_cond"), golden.tensor("drop_u_pos"))
    patch, corner = network.config.patch, tuple(golden["index"].tolist())
    rows, cols = (slice(at * patch, (at + 2) * patch) for at in corner)
    draw = Draw(golden.tensor("noise_padded")[..., rows, cols], golden.tensor("t"), drops, corner)
    network.requires_grad_(True)
    loss = sum(patch_losses(network, x0, style, draw, CHAIN))
    loss.backward()
    yield golden.relative("loss64", np.array(loss.item()), LOSS)
    gradients = {f"grad/{name}": parameter.grad for name, parameter in network.named_parameters()}
    for name in golden:
        if name.startswith("grad/"):
            yield golden.of_its_largest(name, gradients[name], GRADIENT)
