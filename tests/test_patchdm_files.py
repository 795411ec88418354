"""Patch-DM files: which network they hold, which of their weights are taken, and how a job names one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.commandline import tileloom
from tests.nets import LATENT, PATCHES, STYLE_ENCODER, UNET, network, shapes, weights
from tests.pipeline import job, restore, result, scene
from tests.test_patchdm import VARIANTS
from tileloom.models.build import denoiser_of
from tileloom.models.checkpoint import with_weights
from tileloom.models.kinds import contract_of, identity_of
from tileloom.models.networks import load_denoiser
from tileloom.models.patchdm_denoiser import PatchDenoiser
from tileloom.models.patchdm_shapes import is_patches, latent_layout, own_tensors
from tileloom.models.patchdm_signatures import KNOWN_PATCHES, read_patches
from tileloom.models.signatures import ASSUMED, OPTION, SHAPES, TABLE, Told
from tileloom.models.weights import read_weights
from tileloom.tiling.errors import InputError

TOLD = {"patch": 4, "heads": 1}
TABLE_KEY = "encoder.semantic_enc.weight"
# What a stem folds, and whether positions are told, only the file of a network that was trained here tells.
STYLES = {
    **{name: config for name, config in VARIANTS.items() if config.stem == 1 and config.positions},
    "an image encoder": replace(PATCHES, codes=None, encoder=STYLE_ENCODER),
    "a network that draws styles": replace(PATCHES, latent=LATENT),
}


def checkpoint(folder, *, copies=("model", "ema_model"), name="last.ckpt", **beside):
    """A training checkpoint: the raw weights of seed 1 and the averaged ones of seed 2."""
    seeds = {"model": 1, "ema_model": 2}
    tensors = {}
    for copy in copies:
        held = network(PATCHES, seed=seeds[copy]).state_dict()
        tensors |= {f"{copy}.{key}": tensor for key, tensor in held.items()}
    torch.save({"state_dict": {**tensors, **beside}, "global_step": 7, "epoch": 1}, folder / name)
    return str(folder / name)


def origins(reading):
    return {name: origin for name, _, origin in reading.facts()}


# --- shapes ---


@pytest.mark.parametrize("config", STYLES.values(), ids=STYLES)
def test_a_network_is_read_back_from_its_shapes_and_what_they_do_not_tell(config):
    reading = read_patches(shapes(config), Told(patch=config.patch, heads=config.num_heads))
    assert reading.config == config
    assert reading.known is None
    told = origins(reading)
    assert {told["patch"], told["heads"]} == {OPTION}
    assert {told["levels"], told["style channels"], told["table of styles"], told["attention at factors"]} == {SHAPES}
    assert told["betas"] == ASSUMED


@pytest.mark.parametrize("known", KNOWN_PATCHES, ids=lambda known: known.name)
def test_a_published_network_needs_no_telling_whatever_gives_it_its_styles(known):
    for codes in (None, 21_443):
        config = replace(known.config, codes=codes)
        reading = read_patches(shapes(config), Told())
        assert (reading.config, reading.known, reading.known_as) == (config, known, [known.name])
        assert {origins(reading)[name] for name in ("patch", "heads", "betas")} == {TABLE}
    assert read_patches(shapes(known.config), Told(patch=512)).config.patch == 512


@pytest.mark.parametrize(
    ("told", "lacks"),
    [
        ({}, ["model.patch, the side", "model.heads, how many"]),
        ({"patch": 4}, ["model.heads, how many"]),
        ({"heads": 1}, ["model.patch, the side"]),
    ],
)
def test_what_leaves_no_trace_is_asked_for_by_its_key(tmp_path, told, lacks):
    with pytest.raises(InputError) as refused:
        contract_of({"name": weights(tmp_path, PATCHES), **told})
    said = str(refused.value)
    assert said.startswith(f"{tmp_path}/net.safetensors is a Patch-DM network of no published shape")
    assert [key for key in ("model.patch, the side", "model.heads, how many") if key in said] == lacks


def test_the_network_that_draws_styles_is_read_from_its_layers():
    for config in (LATENT, replace(LATENT, skips=(2,)), replace(LATENT, norm=False), replace(LATENT, layers=5)):
        assert latent_layout(shapes(config)) == config


def test_a_tensor_that_is_saved_twice_must_be_the_same_twice(tmp_path):
    config = replace(PATCHES, latent=LATENT)
    tensors = network(config).state_dict()
    assert with_weights(config, tensors).config == config
    wrong = {**tensors, "latent_net.layers.0.cond_layers.1.weight": torch.zeros(10, 6)}
    with pytest.raises(InputError, match=r"linear_emb\.weight and .*cond_layers\.1\.weight, which are one in this net"):
        with_weights(config, wrong, file="net.ckpt")


# --- files ---


@pytest.mark.parametrize(("weights_option", "seed"), [({}, 2), ({"weights": "ema"}, 2), ({"weights": "raw"}, 1)])
def test_of_a_training_checkpoint_the_averaged_weights_are_taken_unless_asked(tmp_path, weights_option, seed):
    file = checkpoint(tmp_path, x_T=torch.zeros(2, 3, 8, 8), conds_mean=torch.zeros(1, 6), conds_std=torch.ones(1, 6))
    denoiser = load_denoiser({"name": file, **TOLD, **weights_option})
    expected = network(PATCHES, seed=seed).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in denoiser.network.state_dict().items())
    copy = weights_option.get("weights", "ema")
    origin = OPTION if weights_option else SHAPES
    told = Told(patch=4, heads=1, **weights_option)
    assert ("weights", copy, origin) in list(read_weights(file, told).facts())


def test_a_checkpoint_of_one_copy_has_just_that_one(tmp_path):
    file = checkpoint(tmp_path, copies=("model",))
    assert read_weights(file, Told(**TOLD)).copy == "raw"
    with pytest.raises(InputError, match=r"last\.ckpt holds raw, and model\.weights asks for ema: leave it out"):
        read_weights(file, Told(**TOLD, weights="ema"))
    with pytest.raises(InputError, match=r"holds one set of weights, and model\.weights asks for raw"):
        read_weights(weights(tmp_path, PATCHES), Told(**TOLD, weights="raw"))


def test_the_older_spelling_of_the_table_is_taken(tmp_path):
    tensors = network(PATCHES).state_dict()
    tensors["semantic_enc.semantic_enc.weight"] = tensors.pop(TABLE_KEY)
    save_file(tensors, tmp_path / "old.safetensors")
    file = str(tmp_path / "old.safetensors")
    table = load_denoiser({"name": file, **TOLD}).network.encoder.semantic_enc.weight
    assert torch.equal(table, network(PATCHES).encoder.semantic_enc.weight)
    both = {**tensors, TABLE_KEY: torch.zeros(5, 6)}
    assert set(own_tensors(both)) == set(both)


def test_every_key_counts(tmp_path):
    for changed, says in (
        ({"out.2.bias": None}, "1 key is missing (out.2.bias)"),
        ({"out.2.bias": torch.zeros(4)}, "1 key is of another shape (out.2.bias)"),
        ({"output_blocks.0.0.extra": torch.zeros(4)}, "1 key is unexpected (output_blocks.0.0.extra)"),
        ({"head.weight": torch.zeros(4)}, "1 key is unexpected (head.weight)"),
    ):
        with pytest.raises(InputError) as refused:
            load_denoiser({"name": weights(tmp_path, PATCHES, **changed), **TOLD})
        assert f"net.safetensors looks like a Patch-DM network, but {says}" in str(refused.value)
    with pytest.raises(
        InputError, match=r"a training checkpoint of a Patch-DM network, but 1 key is unexpected \(lost\)"
    ):
        load_denoiser({"name": checkpoint(tmp_path, lost=torch.zeros(1)), **TOLD})


def test_only_names_of_such_a_network_make_one():
    assert is_patches(shapes(PATCHES))
    assert is_patches({f"ema_model.{name}": None for name in shapes(PATCHES)})
    assert not is_patches(shapes(UNET))


# --- jobs ---


def test_a_job_names_it_as_any_weights_file(tmp_path):
    model = {"name": weights(tmp_path, PATCHES), **TOLD}
    contract = contract_of(model)
    assert (contract.size_multiple, contract.smallest_tile, contract.native_tile) == (4, 4, 16)
    assert (contract.bands, contract.betas, contract.classes, contract.conditions) == (3, "linear", None, ("position",))
    assert contract.patch == 4
    denoiser = denoiser_of({**model, "guidance": 0.5})
    assert isinstance(denoiser, PatchDenoiser)
    assert (denoiser.guidance, denoiser.contract) == (0.5, contract_of({**model, "guidance": 0.5}))
    assert denoiser_of({**model, "precision": "bf16"}).numerics["precision"] == "bf16"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"compile": True}, "model.compile is no option of .*, which is a Patch-DM network; its options are precision"),
        ({"attention_order": "new"}, "model.attention_order is no option"),
        ({"image_size": 64}, "model.image_size is no option"),
        ({"patch": 6}, "model.patch is 6; .* give a multiple of 4"),
        ({"patch": "big"}, "model.patch is 'big'; give a whole number"),
        ({"weights": "mean"}, "model.weights is 'mean'; choose ema or raw"),
        ({"guidance": "strong"}, "model.guidance is 'strong'; give a number"),
        ({"guidance": float("nan")}, "model.guidance is nan"),
        ({"label": 3}, "model.label is no option"),
        ({"style": 3}, "model.style is 3; give row:N"),
        ({"style": "row"}, "model.style is row: write row:N or sample:SEED"),
        ({"style": "row:5"}, "model.style is row:5, and .* holds a table of rows 0 to 4"),
        ({"style": "sample"}, "model.style is sample, and .* holds no network that draws styles"),
        ({"style": "sunny"}, "model.style is 'sunny', which is no file"),
    ],
)
def test_an_option_that_says_nothing_of_it_is_refused(tmp_path, options, says):
    with pytest.raises(InputError, match=says):
        contract_of({"name": weights(tmp_path, PATCHES), **TOLD, **options})


def test_a_row_needs_a_table_and_the_noise_as_many_bands_as_the_image(tmp_path):
    file = weights(tmp_path, replace(PATCHES, codes=None))
    with pytest.raises(InputError, match=r"model\.style is row:0, and .* holds no table of styles"):
        contract_of({"name": file, **TOLD, "style": "row:0"})
    file = weights(tmp_path, replace(PATCHES, out_channels=6))
    with pytest.raises(InputError, match="turns 3 channels into 6"):
        contract_of({"name": file, **TOLD})


@pytest.mark.parametrize("option", [{"patch": 4}, {"weights": "ema"}, {"guidance": 0.5}])
def test_options_of_patches_are_none_of_an_adm_network(tmp_path, option):
    (name,) = option
    with pytest.raises(InputError, match=rf"model\.{name} is no option of .*, which is an ADM U-Net"):
        contract_of({"name": weights(tmp_path), **option})


def test_options_count_where_they_make_a_difference(tmp_path):
    model = {"name": checkpoint(tmp_path), **TOLD}
    same = {**model, "weights": "ema", "guidance": 0, "betas": "linear", "precision": "fp32", "channels_last": False}
    assert identity_of(same)["model"] == identity_of(model)["model"] == {**TOLD, "name": "weights"}
    for told in ({"weights": "raw"}, {"guidance": 0.5}, {"style": "row:1"}, {"precision": "bf16"}, {"betas": "cosine"}):
        assert identity_of({**model, **told})["model"] == {**TOLD, **told, "name": "weights"}


def test_it_restores_tile_by_tile_and_the_measurement_holds(tmp_path):
    low = scene(3, 6, 8)
    spec = job(
        tmp_path,
        low,
        task="sr:2",
        model={"name": weights(tmp_path, PATCHES), **TOLD},
        tile=8,
        steps=2,
        levels=1,
        weave="msr",
    )
    restore(spec)
    pooled = result(spec).astype(np.float64).reshape(3, 6, 2, 8, 2).mean(axis=(2, 4))
    assert np.abs(pooled - low).max() < 1e-5


# --- the command line ---


def test_inspecting_says_what_it_is_and_which_weights_are_taken(tmp_path, capfd):
    file = checkpoint(tmp_path)
    said = tileloom(capfd, "models", "inspect", file, "--model-option", "patch=4", "--model-option", "heads=1")
    count = sum(tensor.numel() for tensor in network(PATCHES).parameters())
    lines = said.out.splitlines()
    assert lines[0] == f"{file}: a Patch-DM network, {count:,} parameters in {len(shapes(PATCHES))} tensors"
    for line in ("patch: 4 (as asked)", "weights: ema (from the shapes)", "table of styles: 5 (from the shapes)"):
        assert line in lines
    refused = tileloom(capfd, "models", "inspect", file)
    assert (refused.code, len(refused.errors)) == (2, 1)
    assert "model.patch" in refused.errors[0]


def test_a_network_that_draws_styles_counts_what_it_holds_twice_once(tmp_path, capfd):
    config = replace(PATCHES, latent=LATENT)
    options = [word for key, value in TOLD.items() for word in ("--model-option", f"{key}={value}")]
    found = tileloom(capfd, "models", "inspect", weights(tmp_path, config), *options, "--json").json
    assert found["parameters"] == sum(tensor.numel() for tensor in network(config).parameters())
    assert found["facts"]["network that draws styles"]["value"] == "3 layers of 10"


def test_a_training_checkpoint_becomes_a_file_of_the_same_network(tmp_path, capfd):
    source, target = checkpoint(tmp_path), str(tmp_path / "net.safetensors")
    assert tileloom(capfd, "models", "convert", source, target).code == 0
    taken = (load_denoiser({"name": file, **TOLD}).network.state_dict() for file in (source, target))
    assert all(torch.equal(one, other) for one, other in zip(*(each.values() for each in taken), strict=True))


def test_the_list_has_every_known_network(capfd):
    lines = tileloom(capfd, "models", "list").out
    for known in KNOWN_PATCHES:
        assert f"{known.name}: a Patch-DM network" in lines
    listed = tileloom(capfd, "models", "list", "--json").json
    assert [one["patch"] for one in listed["patch_networks"]] == [64, 128, 256]
