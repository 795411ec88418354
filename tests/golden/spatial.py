"""Replays the parts of the spatial diffusion model: StyleGAN2's blocks, likelihoods, and predict, pick, sample."""

import numpy as np
import torch

from tileloom.models.likelihood import pixel_nll
from tileloom.models.spread import Spread, spread, target
from tileloom.models.stylegan import ConvLayer, ScaledConv, StyleLayer, ToImage, fir

BLOCK, LIKELIHOOD, LOOP = 5e-6, 1e-9, 1e-12
# Less mass than this need not be told as exactly.
_TOLD = 1e-12
_NAMES = {"weight": "conv.weight", "conv.affine.weight": "affine.weight", "conv.affine.bias": "affine.bias"}
# What a file says of its blocks, as its words and as they are here.
_FACTS = {"activation": "lrelu 0.2, gain sqrt(2)", "resample_filter": [1, 3, 3, 1]}


def likelihood(golden):
    """Files *_nll: every pixel whose mass can be told, and all together."""
    y, mean, sigma, theirs = (golden.tensor(name) for name in ("y64", "mu64", "sigma64", "nll64"))
    ours = pixel_nll(y, mean, sigma.log())
    told = torch.exp(-theirs) > _TOLD
    unit = np.where(told.numpy(), 1, np.abs(theirs.numpy()))
    yield golden.absolute("nll64", ours.numpy(), LIKELIHOOD, unit)
    yield golden.relative("sum64", ours.sum().numpy(), LIKELIHOOD)
    yield golden.absolute("y64", golden["pixel_uint8"] / 127.5 - 1, LOOP)
    yield golden.compared("unit", float(golden.config["unit"] != "nats"))


def loop(golden):
    """Files *_loop: every mask to the pixel, all else to the last digits."""
    facts = golden.config
    means, variances, noise = (golden.tensor(name) for name in ("mu_64", "var_64", "z_64"))
    first = Spread.begin(golden.tensor("x_0_64"), golden.tensor("m_0") > 0)
    missing, steps, state = int((~first.known_HW).sum()), len(means), first
    yield golden.compared("T", abs(facts["T"] - steps))
    yield golden.compared("missing", abs(facts["missing"] - missing))
    # What is told of pixels that are missing must not be a value.
    yield golden.absolute("x_0_64", first.x_CHW.numpy(), 0)
    yield golden.exact("m_0", first.known_HW.numpy().astype(np.uint8))
    states, told, filled = [], [], 0
    for at, (mean, variance, z) in enumerate(zip(means, variances, noise, strict=True)):
        reached = target(facts["schedule"], missing, at, steps)
        last = at + 1 == steps
        how = {"count": reached - filled, "noise_CHW": None if last else z, "alpha": facts["alpha"]}
        state, u_tilde = spread(state, first, mean, variance, **how)
        filled = reached
        states.append(state)
        told.append(u_tilde)
    yield golden.exact("m", np.stack([one.known_HW.numpy().astype(np.uint8) for one in states]))
    yield golden.absolute("u_tilde_64", torch.stack(told).numpy(), LOOP)
    yield golden.absolute("u_64", torch.stack([one.u_HW for one in states]).numpy(), LOOP)
    yield golden.absolute("x_64", torch.stack([one.x_CHW for one in states]).numpy(), LOOP)


@torch.inference_mode()
def blocks(golden):
    """Files *_stylegan_blocks: every block, by its name."""
    facts = golden.config
    x, style = golden.tensor("x"), golden.tensor("style")
    told, made, wide = x.shape[1], facts["cout"], style.shape[1]
    yield golden.compared("sizes", abs(facts["cin"] - told) + abs(facts["style_dim"] - wide))
    yield golden.compared("words", sum(facts[name] != value for name, value in _FACTS.items()))
    filters = [name for name in golden if name.endswith("resample_filter")]
    taps = fir(torch.nn.functional.pad(torch.ones(1, 1, 1, 1), (3, 3, 3, 3)))[0, 0]
    for name in filters:
        yield golden.absolute(name, taps.numpy(), 1e-7)
    made_of = {
        "style_conv": StyleLayer(told, made, wide),
        "style_conv_up": StyleLayer(told, made, wide, resample="up"),
        "conv": ConvLayer(told, made),
        "conv_down": ConvLayer(told, made, resample="down"),
        "conv_up": ConvLayer(told, made, resample="up"),
        "to_rgb": ToImage(told, len(golden["rgb_skip_same"][0]), wide),
    }
    for name, block in made_of.items():
        _load(block, golden.state_dict(f"sd/{name}."))
        given = [x] if isinstance(block, ConvLayer) else [x, style]
        yield golden.absolute(f"out/{name}", block(*given).numpy(), BLOCK)
    for which in ("same", "half"):
        image = made_of["to_rgb"](x, style, golden.tensor(f"rgb_skip_{which}"))
        yield golden.absolute(f"out/to_rgb_skip_{which}", image.numpy(), BLOCK)


def _load(block, state_dict):
    """A recorded block's parameters, by the names of the recorded program."""
    shapes = {name: tensor.shape for name, tensor in block.state_dict().items()}
    ours = {_NAMES.get(name, name): tensor for name, tensor in state_dict.items() if "resample_filter" not in name}
    block.load_state_dict({name: tensor.reshape(shapes[name]) for name, tensor in ours.items()})
    assert any(isinstance(part, ScaledConv) for part in block.modules())
