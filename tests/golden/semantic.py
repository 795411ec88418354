"""Replays semantic diffusion: single passes of its network, whole sampling runs, and what it is trained on."""

import re

import numpy as np
import torch

from tests.golden.patches import GRADIENT, LOSS, PASS, TABLE, factors, state_dict_of, step_by_step, walked_whole
from tileloom.models.checkpoint import parameters_of, with_weights
from tileloom.models.contract import Contract
from tileloom.models.schedule import schedule
from tileloom.models.semantic import one_hot
from tileloom.models.semantic_config import SemanticConfig
from tileloom.models.semantic_denoiser import SemanticDenoiser
from tileloom.models.training.objective import LOSS as TOTAL
from tileloom.models.training.objective import Batch
from tileloom.models.training.painting import Painting
from tileloom.tiling.box import Box
from tileloom.tiling.label_window import LabelWindow, edges_of

# Facts of a file beside those of its network.
OWN = {"case", "seed", "torch_seed", "random_draw_order", "respacing", "s", "eta", "clip_denoised", "weight_files"}


# --- networks ---


def numbers(text):
    """Numbers as the recorded program takes them, in one text with commas, or in a list."""
    return [float(part) for part in text.split(",")] if isinstance(text, str) else list(text)


def config_of(facts, tensors):
    """The network of a file's own words."""
    return SemanticConfig(
        model_channels=facts["num_channels"],
        channel_mult=tuple(numbers(facts["channel_mult"])),
        num_res_blocks=facts["num_res_blocks"],
        attention_resolutions=factors(map(int, numbers(facts["attention_resolutions"])), facts["image_size"]),
        in_channels=tensors["input_blocks.0.0.weight"].shape[1],
        out_channels=len(tensors["out.2.weight"]),
        num_head_channels=facts["num_head_channels"],
        num_heads=facts.get("num_heads", 1),
        resblock_updown=facts["resblock_updown"],
        num_classes=facts["num_classes"],
        edges=not facts["no_instance"],
    )


def tag_of(golden):
    """The name of the network that a file is a recording of."""
    return re.sub(r"_(weights_\d+|unet|sample_.*|training_loss)$", "", golden.name)


def weights_of(golden):
    """All files of the network's weights."""
    count, found = 0, []
    while (part := golden.beside(f"{tag_of(golden)}_weights_{count}")) is not None:
        found.append(part)
        count += 1
    return found


def network_of(golden):
    """The network of a file, loaded by the product's own strict loader."""
    parts = weights_of(golden)
    if not parts:
        raise ValueError(f"there are no weights beside {golden.name}")
    tensors = {name: tensor for part in parts for name, tensor in state_dict_of(part).items()}
    return with_weights(config_of(golden.config, tensors), tensors)


def same_network(golden, network):
    """What a file says of its network, and the files of weights beside it."""
    facts, parts = golden.config, weights_of(golden)
    odd = [part.name for part in parts for name in facts if name not in OWN and part.config.get(name) != facts[name]]
    yield golden.compared("config network", len(odd))
    yield golden.compared("config n_params", abs(facts["n_params"] - parameters_of(network.config)))
    if "weight_files" in facts:
        yield golden.compared("config weight_files", abs(len(facts["weight_files"]) - len(parts)))


@torch.inference_mode()
def weights(golden):
    """Files *_weights_N: what the network makes of the recorded pass beside them, where there is one."""
    network = network_of(golden)
    state_dict_of(golden)
    yield from same_network(golden, network)
    shown = golden.beside(f"{tag_of(golden)}_unet")
    if shown is not None:
        yield from passed(shown, network)


@torch.inference_mode()
def forward(golden):
    """Files *_unet: one pass with labels and one without."""
    network = network_of(golden)
    yield from same_network(golden, network)
    yield from passed(golden, network)


def passed(golden, network):
    """A recorded pass, and what lies between."""
    x, t = golden.tensor("x_t"), golden.tensor("t")
    edges = [edges_of(np.pad(ids[0], 1, mode="edge")) for ids in golden["instance"]]
    y = one_hot(golden.tensor("label")[:, 0], torch.from_numpy(np.stack(edges)), network.config)
    yield golden.exact("y", y)
    seen = {}
    first = network.middle_block[0].in_norm
    handles = [
        network.input_blocks[-1].register_forward_hook(lambda _, given, told: seen.update(enc_last=told)),
        network.middle_block.register_forward_hook(lambda _, given, told: seen.update(mid=told)),
        first.register_forward_hook(lambda _, given, told: seen.update(spade_in=given[0], spade_out=told)),
    ]
    ours = {"out": network(x, t, y)}
    for handle in handles:
        handle.remove()
    ours |= {**seen, "out_null": network(x, t, torch.zeros_like(y))}
    for name, value in ours.items():
        yield golden.absolute(name, value, PASS)


# --- runs ---


def window_of(y, config, box):
    """Recorded labels (channel, row, column) as the product has them, or None where they say nothing."""
    if not y.any():
        return None
    edges = y[config.num_classes] != 0 if config.edges else None
    return LabelWindow(box, y[: config.num_classes].argmax(axis=0).astype(np.uint16), edges)


def read_back(window, like, config):
    """The same labels as the network is told them."""
    if window is None:
        return np.zeros_like(like)
    classes, *edges = [torch.from_numpy(array.astype(np.int64))[None] for _, array in window.arrays()]
    return one_hot(classes, edges[0] if edges else None, config)[0].numpy()


@torch.inference_mode()
def sample(golden):
    """Files *_sample_*: a whole run, the image being one window."""
    name = re.search(r"_sample_(ddim|ddpm)(\d+)_s([\d.]+?)(_noclip)?$", golden.name)
    kind, count, facts = name[1], int(name[2]), golden.config
    network, x_T, y = network_of(golden), golden["x_T"], golden["y"]
    yield from same_network(golden, network)
    words = "ddim" if kind == "ddim" else ""
    flags = [facts["s"] == float(name[3]), facts["clip_denoised"] == (not name[4])]
    flags.append(facts["respacing"] == f"{words}{count}")
    yield golden.compared("config of the run", flags.count(False))
    steps = schedule(steps=count, spacing="stride" if kind == "ddim" else "even")
    yield golden.exact("timesteps", steps.timesteps[::-1])
    tables = {
        "betas64": steps.betas,
        "alphas_cumprod64": steps.abar,
        "posterior_log_variance_clipped64": steps.posterior_log_variance_clipped,
    }
    for table, values in tables.items():
        yield golden.relative(table, values, TABLE)
    yield from _draws(golden)
    box = Box(0, 0, *x_T.shape[2:])
    windows = [window_of(one, network.config, box) for one in y]
    back = [read_back(window, one, network.config) for window, one in zip(windows, y, strict=True)]
    yield golden.exact("y", np.stack(back))
    run = [_walked(golden, network, steps, kind, image, window) for image, window in enumerate(windows)]
    # A guess is so much more uncertain than the noise that it is made of.
    uncertain = {"pred_xstart": steps.sqrt_recipm1_abar[::-1]}
    for part in run[0]:
        value = np.concatenate([one[part] for one in run], axis=1)
        yield step_by_step(golden, part, value, uncertain.get(part, 1))


def _draws(golden):
    """x_T and the noise of every step, drawn again in the order that the file gives."""
    torch.manual_seed(golden.config["torch_seed"])
    drawn = [torch.randn(*map(int, re.findall(r"\d+", call))) for call in golden.config["random_draw_order"]]
    yield golden.exact("x_T", drawn[0])
    yield golden.exact("noise", torch.stack(drawn[1:]))


def _walked(golden, network, steps, kind, image, labels):
    """One image of a batch, walked by the product's solver in the product's engine."""
    bands, scale, multiple = golden["x_T"].shape[1], golden.config["s"], network.config.size_multiple
    denoiser = SemanticDenoiser(network, Contract("golden", bands, multiple, multiple, multiple), scale)
    heard = []
    handle = network.register_forward_hook(lambda _, given, told: heard.append(told))
    found = walked_whole(golden, denoiser, steps, kind, image, labels=labels)
    handle.remove()
    # Before its first step an engine tries out its batch.
    told = np.stack([one.numpy() for one in heard[-len(steps.timesteps) :]])
    ways = {"out_cond": told[:, :1], "out_null": told[:, 1:]}
    return {**found, **{name: value for name, value in ways.items() if value.size}}


# --- training ---


class Recorded:
    """Recorded draws of one item in place of a step's own."""

    device = "cpu"

    def __init__(self, noise, t, *, dropped):
        self._noise, self._t, self._dropped = noise, t, dropped

    def normal(self, purpose, shape):
        return {"eps": self._noise}[purpose].reshape(shape)

    def uniform(self, purpose, shape):
        # The middle of what becomes this timestep; below any share where labels are dropped.
        value = {"timesteps": (self._t + 0.5) / 1000, "drop label": 0.0 if self._dropped else 1.0}[purpose]
        return torch.full(shape, value, dtype=torch.float64)


def training(golden):
    """Files *_training_loss: the losses of a batch, item by item, and gradients of their mean."""
    network = network_of(golden)
    yield from same_network(golden, network)
    network.requires_grad_(True)
    objective, x_0, y = Painting(network, drop_label=0.2), golden.tensor("x_0"), golden["y"]
    box, terms, back = Box(0, 0, *x_0.shape[2:]), [], []
    for item in range(len(x_0)):
        window = window_of(y[item], network.config, box)
        back.append(read_back(window, y[item], network.config))
        shown = (
            LabelWindow(box, np.zeros(box.shape, np.uint16), np.zeros(box.shape, bool)) if window is None else window
        )
        layers = torch.from_numpy(np.stack([array.astype(np.int64) for _, array in shown.arrays()]))
        draws = Recorded(golden.tensor("noise")[item], int(golden["t"][item]), dropped=window is None)
        found = objective.loss(Batch(x_0[item : item + 1], None, ("",), labels_BNHW=layers[None]), draws, 0)
        (found[TOTAL] / len(x_0)).backward()
        terms.append([float(found[name].detach()) for name in (TOTAL, "simple", "bound")])
    yield golden.exact("y", np.stack(back))
    for name, ours in zip(("loss", "mse", "vb"), np.array(terms).T, strict=True):
        yield golden.relative(name, ours, LOSS)
    gradients = {f"grad/{name}": parameter.grad for name, parameter in network.named_parameters()}
    for name in golden:
        if name.startswith("grad/"):
            ours = gradients[name]
            cut = ours if ours.numel() <= 20000 else ours.flatten()[:20000]
            yield golden.of_its_largest(name, cut, GRADIENT)
