"""The Patch-DM networks: what they are made of and what a pass promises. Parity with the reference is in golden."""

from dataclasses import replace

import pytest
import torch

from tests.nets import LATENT, PATCHES, STYLE_ENCODER, network, normal, shapes
from tileloom.models.checkpoint import blank, parameters_of
from tileloom.models.latent import BETA, draw_styles, style_schedule, walk_styles
from tileloom.models.patchdm import dropped
from tileloom.models.patchdm_config import LatentConfig, PatchConfig, StyleEncoderConfig
from tileloom.models.patchdm_signatures import KNOWN_PATCHES
from tileloom.tiling.errors import InputError

VARIANTS = {
    "with a table": PATCHES,
    "a style as wide as the embedding": replace(PATCHES, style_channels=16, codes=None),
    "one level": replace(PATCHES, channel_mult=(1,), attention_resolutions=(), patch=2),
    "three levels, two heads": replace(PATCHES, channel_mult=(1, 1, 2), num_heads=2, patch=16, num_res_blocks=2),
    "wide": replace(PATCHES, model_channels=32),
    "other bands": replace(PATCHES, in_channels=5, out_channels=5),
    "a stem, and no style": replace(PATCHES, stem=2, patch=8, style_channels=0, codes=None, positions=False),
}


def rows(config, count=3, *, seed=1):
    """Patches and all that they are told, each of another image."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((count, config.in_channels, config.patch, config.patch), generator=generator)
    style = torch.randn((count, config.style_channels), generator=generator)
    positions = torch.rand((count, 2), generator=generator).mul(20).round() / 2
    return x, torch.linspace(3.5, 900, count), positions, style, dropped(count, style=False, position=False)


def predicted(net, x, *told):
    return net.decode(net.encode(x, *told), *told)


# --- sizes ---


def test_the_published_networks_have_as_many_parameters():
    assert [parameters_of(known.config) for known in KNOWN_PATCHES] == [71_404_035, 102_098_307, 134_270_979]
    assert [known.parameters for known in KNOWN_PATCHES] == [parameters_of(known.config) for known in KNOWN_PATCHES]
    unet = KNOWN_PATCHES[0].config
    encoder = StyleEncoderConfig(
        model_channels=64,
        channel_mult=(1, 2, 4, 8, 8),
        num_res_blocks=2,
        attention_resolutions=(16,),
        out_channels=512,
    )
    assert parameters_of(replace(unet, encoder=encoder)) == 92_300_483
    assert parameters_of(replace(unet, codes=21_443)) == 71_404_035 + 21_443 * 512
    latent = LatentConfig(channels=512, hidden=2048, layers=10, skips=tuple(range(1, 10)))
    assert parameters_of(latent) == 54_109_696


def test_the_blocks_lie_where_the_published_network_has_them():
    found = shapes(KNOWN_PATCHES[0].config)
    attended = {name.removesuffix(".qkv.weight") for name in found if name.endswith("qkv.weight")}
    assert attended == {
        *("input_blocks.7.1", "input_blocks.8.1", "middle_block.1"),
        *("output_blocks.3.1", "output_blocks.4.1", "output_blocks.5.1"),
    }
    ins = [found[f"output_blocks.{block}.0.in_layers.2.weight"][:2] for block in range(12)]
    assert ins == [
        *((512, 1024), (512, 1024), (512, 768), (256, 768), (256, 512), (256, 384)),
        *((128, 384), (128, 256), (128, 192), (64, 192), (64, 128), (64, 128)),
    ]
    assert "time_embed.style.0.weight" not in found
    assert KNOWN_PATCHES[0].config.feature_values == 1_392_640


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_features_have_the_shapes_that_the_config_tells(config):
    net, (x, *told) = network(config), rows(config)
    features = net.encode(x, *told)
    assert [tuple(feature.shape) for feature in features] == [
        (len(x), shape.channels, shape.side, shape.side) for shape in config.features
    ]
    assert sum(feature[0].numel() for feature in features) == config.feature_values
    assert all(shape.side % 2 == 0 for shape in config.features)
    eps = net.decode(features, *told)
    assert (eps.shape, eps.dtype) == (x.shape, torch.float32)
    assert eps.isfinite().all()


# --- what a pass promises ---


@pytest.mark.parametrize("part", range(5))
def test_both_halves_use_all_that_they_are_told_of_each_row_and_of_that_row_alone(part):
    config = PATCHES
    net, given = network(config), list(rows(config))
    before_features, before = net.encode(*given), predicted(net, *given)
    given[part] = given[part].clone()
    given[part][1] = ~given[part][1] if part == 4 else given[part][1] + 1
    for was, now in ((before_features[-1], net.encode(*given)[-1]), (before, predicted(net, *given))):
        assert [torch.allclose(a, b, atol=1e-6) for a, b in zip(was, now, strict=True)] == [True, False, True]
    if part:
        late = net.decode(before_features, *given[1:])
        assert [torch.allclose(a, b, atol=1e-6) for a, b in zip(before, late, strict=True)] == [True, False, True]


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_dropped_makes_no_difference_any_more(place):
    net, (x, t, positions, style, _) = network(), rows(PATCHES)
    net = network(PATCHES)
    drops = dropped(len(x), style=place == 0, position=place == 1)
    other = (positions, style + 1) if place == 0 else (positions + 1, style)
    assert torch.equal(predicted(net, x, t, positions, style, drops), predicted(net, x, t, *other, drops))
    # What is made of nothing is learned: not the same as being told 0.
    emb, styled = net.time_embed(t, positions, style, dropped(len(x), style=True, position=True))
    assert emb.abs().min() > 0
    assert styled.abs().min() > 0


def test_low_precision_is_the_torsos_convolutions_alone():
    net, given = network(PATCHES), rows(PATCHES)
    full = predicted(net, *given)
    net.set_precision("bf16")
    assert net.encode(*given)[0].dtype is torch.bfloat16
    low = predicted(net, *given)
    assert low.dtype is torch.float32
    assert 0 < (low - full).abs().max() < 0.2 * full.abs().max()
    assert net.time_embed.pos_embed[0].weight.dtype is torch.float32


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"patch": 6}, "model.patch is 6; .* give a multiple of 4"),
        ({"patch": 0}, "model.patch is 0"),
        ({"model_channels": 48}, "48 channels wide, which 32 norm groups do not divide"),
        ({"num_heads": 3}, "does not split into heads"),
        ({"embed_channels": 15}, "embed_channels is even"),
    ],
)
def test_what_cannot_be_divided_is_refused(changes, says):
    with pytest.raises(InputError, match=says):
        replace(PATCHES, **changes)


# --- styles ---


def test_a_table_gives_the_style_of_an_image_by_its_number():
    net = network(PATCHES)
    styles = net.styles(torch.tensor([4, 0]))
    assert torch.equal(styles, net.encoder.semantic_enc.weight[[4, 0]])
    with pytest.raises(InputError, match="holds no table of styles"):
        network(replace(PATCHES, codes=None)).styles(torch.tensor([0]))


def test_an_image_gives_a_style_whatever_its_size():
    net = network(replace(PATCHES, codes=None, encoder=STYLE_ENCODER))
    for size in ((8, 8), (8, 12)):
        images = normal(2, 3, *size)
        assert net.encoder(images).shape == (2, PATCHES.style_channels)
        assert not torch.allclose(*net.encoder(images))
    assert not any("out_layers" in name or "emb_layers" in name for name in shapes(STYLE_ENCODER))


def test_the_latent_network_takes_the_noisy_style_in_again_where_it_skips():
    found = shapes(replace(LATENT, skips=(2,)))
    assert [found[f"layers.{layer}.linear.weight"][1] for layer in range(3)] == [6, 10, 16]
    assert {name for name in found if name.startswith("layers.2.")} == {
        "layers.2.linear.weight",
        "layers.2.linear.bias",
    }
    net = network(LATENT)
    assert net.layers[0].linear_emb.weight is net.layers[0].cond_layers[1].weight


def test_the_chain_of_styles_has_one_beta_and_a_whole_stride():
    steps = style_schedule()
    assert steps.timesteps[:3] + steps.timesteps[-1:] == (0, 20, 40, 980)
    assert steps.abar[1] == pytest.approx((1 - BETA) ** 21, rel=1e-12)


def test_drawing_styles_is_a_rotation_of_guess_and_noise_that_ends_with_the_guess():
    net, noise, steps = network(LATENT), normal(2, 6), style_schedule(4)
    x = noise
    for i, (clean, after) in zip((3, 2, 1, 0), walk_styles(net, noise, steps), strict=True):
        abar, before = float(steps.abar[i]), float(steps.abar_prev[i])
        eps = net(x, torch.full((2,), float(steps.timesteps[i])))
        torch.testing.assert_close(abar**0.5 * clean + (1 - abar) ** 0.5 * eps, x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after, before**0.5 * clean + (1 - before) ** 0.5 * eps)
        x = after
    assert torch.equal(x, clean)
    assert torch.equal(draw_styles(net, noise, 4), x)


def test_networks_made_for_their_shapes_alone_take_no_memory():
    assert blank(KNOWN_PATCHES[2].config).out[2].weight.is_meta
    assert isinstance(KNOWN_PATCHES[2].config, PatchConfig)
