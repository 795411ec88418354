"""Replays single passes of U-Nets and classifiers."""

import re
from dataclasses import fields, replace

import torch

from tileloom.models.adm_blocks import timestep_embedding
from tileloom.models.adm_config import AdmConfig, ClassifierConfig
from tileloom.models.checkpoint import with_weights
from tileloom.models.networks import class_gradient

PASS, HALF, GRADIENT = 2e-5, 5e-2, 1e-4
# How a network that an output names differs from the file's.
OTHERWISE = {
    "_legacy": {"use_new_attention_order": False},
    "_new": {"use_new_attention_order": True},
    "_fp16torso": {"precision": "fp16"},
}
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
    for name in golden:
        if re.fullmatch("out(_.*)?", name):
            own = name.removeprefix("out")
            inputs = [golden.optional(part + own if part + own in golden else part) for part in ("x", "t", "y")]
            network = unet_of(golden, **OTHERWISE.get(own, {}))
            yield golden.absolute(name, network(*inputs), HALF if own == "_fp16torso" else PASS)
        elif re.fullmatch("emb(_odd.*)?", name):
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
        scale = golden.config.get("classifier_scale", 1.0)
        gradient = class_gradient(network, x, t, golden.tensor("y"), scale=scale)
        yield golden.of_its_largest("guidance_grad_scaled", gradient, GRADIENT)
