"""Which network a set of tensors is: the published checkpoints, custom ones, and what is none."""

from dataclasses import replace
from math import prod

import pytest

from tests.nets import CLASSIFIER, UNET, WITH_CLASSES, shapes
from tests.test_adm import VARIANTS
from tileloom.models.shapes import difference, layout, looks_like
from tileloom.models.signatures import ASSUMED, KNOWN, OPTION, SHAPES, TABLE, Told, read
from tileloom.tiling.errors import InputError

# file: parameters, entries of the state dict, heads at 512 channels, new order, betas, image size
PUBLISHED = {
    "256x256_diffusion_uncond.pt": (552_814_086, 566, 8, False, "linear", 256),
    "256x256_diffusion.pt": (553_838_086, 567, 8, False, "linear", 256),
    "512x512_diffusion.pt": (558_997_638, 645, 8, False, "linear", 512),
    "128x128_diffusion.pt": (421_529_606, 493, 4, False, "linear", 128),
    "64x64_diffusion.pt": (295_904_454, 541, 9, True, "cosine", 64),
    "celeba256_250000.pt": (552_814_086, 566, 8, False, "linear", 256),
    "places256_300000.pt": (552_814_086, 566, 8, False, "linear", 256),
    "lsun_*.pt": (552_814_086, 566, 8, False, "linear", 256),
    "256x256_classifier.pt": (54_096_360, 249, 8, False, "linear", 256),
    "512x512_classifier.pt": (54_448_360, 281, 8, False, "linear", 512),
    "ema_0.9999_best.pt of ADE20K": (660_608_518, 766, 8, False, "linear", 256),
    "ema_0.9999_best.pt of CelebAMask-HQ": (653_062_918, 766, 8, False, "linear", 256),
    "ema_0.9999_best.pt of COCO-Stuff": (662_451_718, 766, 8, False, "linear", 256),
}


def of(file):
    return next(known for known in KNOWN if file in known.files)


def origins(reading):
    return {name: origin for name, _, origin in reading.facts()}


# --- published checkpoints ---


def test_the_table_is_of_all_published_checkpoints():
    assert {file for known in KNOWN for file in known.files} == set(PUBLISHED)


@pytest.mark.parametrize("file", PUBLISHED)
def test_a_published_checkpoint_is_known_by_its_shapes(file):
    parameters, entries, heads, new_order, betas, size = PUBLISHED[file]
    known = of(file)
    found = shapes(known.config)
    assert len(found) == entries
    assert known.parameters == sum(prod(shape) for shape in found.values()) == parameters
    reading = read(found)
    assert reading.known is known
    assert reading.config == known.config
    assert reading.config.heads(576 if "64x64" in file else 512) == heads
    assert (reading.config.use_new_attention_order, reading.betas, reading.image_size) == (new_order, betas, size)
    told = origins(reading)
    assert told["heads"] == told["attention_order"] == told["betas"] == TABLE
    assert told["levels"] == told["attention at factors"] == told["classes"] == SHAPES
    assert ASSUMED not in told.values()


def test_the_blocks_lie_where_the_published_256_network_has_them():
    found = shapes(of("256x256_diffusion_uncond.pt").config)
    attended = {int(name.split(".")[1]) for name in found if name.startswith("input_") and ".qkv.w" in name}
    assert attended == {10, 11, 13, 14, 16, 17}
    ups = {
        name.removesuffix(".in_layers.2.weight")
        for name in found
        if name.startswith("output_") and name.endswith("in_layers.2.weight") and ".0.in" not in name
    }
    assert ups == {f"output_blocks.{block}" for block in ("2.2", "5.2", "8.2", "11.1", "14.1")}
    assert found["output_blocks.0.0.in_layers.2.weight"] == (1024, 2048, 3, 3)
    assert found["output_blocks.17.0.in_layers.2.weight"] == (256, 512, 3, 3)


# --- other networks ---


@pytest.mark.parametrize("config", [*VARIANTS.values(), CLASSIFIER], ids=[*VARIANTS, "classifier"])
def test_a_network_of_ones_own_is_read_from_its_shapes(config):
    reading = read(shapes(config))
    untold = {"num_head_channels": reading.config.num_head_channels, "num_heads": 4, "use_new_attention_order": False}
    seen = replace(config, **untold)
    if not any(".op." in name or ("_blocks" in name and ".conv." in name) for name in shapes(config)):
        # One level never resamples, so that nothing tells how it would.
        seen = replace(seen, resblock_updown=True)
    assert reading.config == seen
    told = origins(reading)
    assert reading.known is None
    assert told["heads"] == told["attention_order"] == told["betas"] == ASSUMED
    assert told["image_size"] == (SHAPES if config is CLASSIFIER else ASSUMED)
    assert told["width"] == SHAPES


@pytest.mark.parametrize("updown", [True, False])
@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("attention", [(), (4,), (2, 4), (1, 2, 4)])
@pytest.mark.parametrize(("mult", "blocks"), [((1, 1, 1), 1), ((1, 2, 2), 2), ((1, 1, 2), 3)])
def test_every_layout_is_read_back(updown, scale_shift, attention, mult, blocks):
    config = replace(
        UNET,
        channel_mult=mult,
        num_res_blocks=blocks,
        attention_resolutions=attention,
        use_scale_shift_norm=scale_shift,
        resblock_updown=updown,
        in_channels=1,
        out_channels=2,
        num_classes=7,
    )
    read_back = layout(shapes(config))
    heads = {"num_head_channels": read_back.num_head_channels}
    assert read_back == replace(config, **heads)
    in_classifier = replace(
        CLASSIFIER,
        channel_mult=mult,
        num_res_blocks=blocks,
        attention_resolutions=attention,
        use_scale_shift_norm=scale_shift,
        resblock_updown=updown,
    )
    if attention or not updown:
        read_back = layout(shapes(in_classifier))
        assert read_back == replace(in_classifier, num_head_channels=read_back.num_head_channels)


def test_levels_that_shapes_do_not_tell_apart_are_refused():
    even = replace(CLASSIFIER, channel_mult=(1,) * 6, num_res_blocks=2, attention_resolutions=(), image_size=32)
    with pytest.raises(InputError, match="its 18 input blocks do not tell its levels"):
        layout(shapes(even))


def test_the_likely_image_size_has_eight_attended_pixels_a_side():
    """The smallest attended side of a published network is 8 pixels: 8 x 32 at a factor of 32."""
    deep = replace(UNET, channel_mult=(1,) * 6, attention_resolutions=(8, 16, 32))
    assert read(shapes(deep)).image_size == 256
    assert read(shapes(UNET)).image_size == 64


def test_what_is_told_counts_before_what_is_known():
    found = shapes(of("128x128_diffusion.pt").config)
    reading = read(found, Told(head_channels=64, attention_order="new", betas="cosine", image_size=192))
    assert (reading.config.num_head_channels, reading.config.use_new_attention_order) == (64, True)
    assert (reading.betas, reading.image_size) == ("cosine", 192)
    told = origins(reading)
    assert {told[name] for name in ("heads", "attention_order", "betas", "image_size")} == {OPTION}
    assert read(found, Told(heads=8)).config.heads(512) == 8
    assert origins(read(found, Told(heads=8)))["betas"] == TABLE


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"heads": 0}, "model.heads is 0; give a whole number from 1 up"),
        ({"heads": True}, "model.heads is True"),
        ({"head_channels": 1.5}, "model.head_channels is 1.5"),
        ({"image_size": "big"}, "model.image_size is 'big'"),
        ({"attention_order": "old"}, "model.attention_order is 'old'; choose legacy or new"),
        ({"betas": "sqrt"}, "model.betas is 'sqrt'; choose linear or cosine"),
        ({"heads": 2, "head_channels": 32}, "say the same thing twice"),
    ],
)
def test_what_makes_no_sense_is_refused(told, says):
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        Told(**told)


def test_an_image_size_must_suit_the_network():
    with pytest.raises(InputError, match="image_size is 65; this network takes a multiple of 2"):
        read(shapes(UNET), Told(image_size=65))
    with pytest.raises(InputError, match="image_size is 32; this network takes 16"):
        read(shapes(CLASSIFIER), Told(image_size=32))
    with pytest.raises(InputError, match="heads of 5"):
        read(shapes(UNET), Told(head_channels=5))


# --- what is no such network ---

FOREIGN = {
    "a diffusers U-Net": {
        **{"conv_in.weight": (32, 3, 3, 3), "time_embedding.linear_1.weight": (128, 32), "conv_out.bias": (3,)},
        **{f"down_blocks.0.resnets.{k}.conv1.weight": (32, 32, 3, 3) for k in range(9)},
    },
    "a Patch-DM network": {"time_embed.time_embed.0.weight": (256, 64), "time_embed.pos_embed.0.weight": (256, 128)},
    "a Patch-DM network whose names begin with model. and ema_model.": {
        f"{copy}.time_embed.pos_embed.0.weight": (256, 128) for copy in ("model", "ema_model")
    },
    "a latent diffusion model": {"model.diffusion_model.time_embed.0.weight": (1280, 320)},
    "a pixel DDPM U-Net": {"temb.dense.0.weight": (512, 128), "down.0.block.0.conv1.weight": (128, 128, 3, 3)},
    "an ADM U-Net whose names begin with module.": {f"module.{key}": shape for key, shape in shapes(UNET).items()},
    "an ADM classifier whose names begin with model.": {f"model.{k}": shape for k, shape in shapes(CLASSIFIER).items()},
    "no network that is known here": {"fc.weight": (10, 10), "fc.bias": (10,)},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_network_is_named_with_what_it_lacks_and_has_too_much(kind):
    with pytest.raises(InputError) as refused:
        read(FOREIGN[kind])
    said = str(refused.value)
    assert said.startswith(f"looks like {kind}")
    own = set(FOREIGN[kind]) - set(shapes(UNET))
    assert f"{len(own)} key{' is' if len(own) == 1 else 's are'} unexpected ({min(own)}" in said
    assert "4 keys are missing (input_blocks.0.0.weight, middle_block.1.qkv.weight, out.0.weight, ...)" in said


def test_every_kind_of_adm_network_is_recognised():
    assert looks_like(shapes(WITH_CLASSES)) == "an ADM U-Net"
    assert looks_like(shapes(CLASSIFIER)) == "an ADM classifier"


@pytest.mark.parametrize("lost", ["out.2.weight", "input_blocks.1.0.emb_layers.1.weight"])
def test_a_key_that_the_shape_follows_from_is_named_when_it_is_missing(lost):
    found = {key: shape for key, shape in shapes(UNET).items() if key != lost}
    with pytest.raises(InputError, match=f"looks like an ADM U-Net, but {lost} is missing"):
        read(found)
    with pytest.raises(InputError, match=f"{lost} is missing or has another shape"):
        read({**found, lost: ()})


def test_a_network_whose_levels_are_cut_off_is_refused():
    found = {key: shape for key, shape in shapes(UNET).items() if not key.startswith("output_blocks.1.")}
    with pytest.raises(InputError, match="do not tell its levels"):
        read(found)


def test_differences_are_counted_and_the_first_few_named():
    assert difference(["a", "b"], ["b", "a"]) == ""
    said = difference("abcde", "exyz", reshaped=["e"])
    assert said == ("4 keys are missing (a, b, c, ...), 3 keys are unexpected (x, y, z), 1 key is of another shape (e)")
