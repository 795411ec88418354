"""Replays single passes of U-Nets and classifiers."""

from dataclasses import fields, replace

import torch

from tileloom.models.adm_blocks import timestep_embedding
from tileloom.models.adm_config import AdmConfig, ClassifierConfig
from tileloom.models.checkpoint import with_weights
from tileloom.models.networks import class_gradient

PASS, HALF, GRADIENT = 2e-5, 5e-2, 1e-4
# Facts of the recorded programs that change nothing here, each with the one value it may have.
FIXED = {"dropout": 0.0, "num_heads_upsample": -1, "conv_resample": True}


def config_of(kind, facts, state_dict):
    """A network's config from a file's own words."""
    names = {field.name for field in fields(kind)}
    odd = {name: value for name, value in facts.items() if name not in names and FIXED.get(name, value) != value}
    if odd:
        raise ValueError(f"no network is like that: {odd}")
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items() if name in names}
    return kind(**{"model_channels": state_dict["time_embed.0.weight"].shape[1], **told})


def unet_of(golden, *, precision="fp32", **changes):
    """The U-Net of a file, loaded by the product's own strict loader."""
    state_dict = golden.state_dict("sd.")
    network = with_weights(replace(config_of(AdmConfig, golden.config["unet"], state_dict), **changes), state_dict)
    network.set_precision(precision)
    return network


def classifier_of(golden):
    """The classifier of a file."""
    state_dict = golden.state_dict("csd.")
    return with_weights(config_of(ClassifierConfig, golden.config["classifier"], state_dict), state_dict)


@torch.inference_mode()
def unet(golden):
    """Files unet_*: every output, by whatever of the inputs it has of its own."""
    networks = {
        "out": lambda: unet_of(golden),
        "out_legacy": lambda: unet_of(golden, use_new_attention_order=False),
        "out_new": lambda: unet_of(golden, use_new_attention_order=True),
        "out_nonsquare": lambda: unet_of(golden),
        "out_frac": lambda: unet_of(golden),
        "out_fp16torso": lambda: unet_of(golden, precision="fp16"),
    }
    for name, network in networks.items():
        if name in golden:
            own = name.removeprefix("out")
            inputs = [golden.optional(part + own if part + own in golden else part) for part in ("x", "t", "y")]
            yield golden.absolute(name, network()(*inputs), HALF if "fp16" in name else PASS)
    for name in ("emb", "emb_odd33"):
        if name in golden:
            yield golden.absolute(name, timestep_embedding(golden.tensor("emb_t"), golden[name].shape[1]), PASS)


@torch.inference_mode()
def classifier(golden):
    """Files classifier_*: scores, and where they were recorded log-probabilities and the gradient that guides."""
    network, x, t = classifier_of(golden), golden.tensor("x"), golden.tensor("t")
    scores = network(x, t)
    yield golden.absolute("logits", scores, PASS)
    if "logprob" in golden:
        yield golden.absolute("logprob", scores.log_softmax(dim=1), PASS)
    if "guidance_grad_scaled" in golden:
        scale = golden.config["classifier_scale"]
        gradient = class_gradient(network, x, t, golden.tensor("y"), scale=scale)
        yield golden.of_its_largest("guidance_grad_scaled", gradient, GRADIENT)
