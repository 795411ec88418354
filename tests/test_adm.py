"""The ADM networks: what they are made of, and what a single pass promises. Parity with the reference is in golden."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.nets import CLASSIFIER, UNET, WITH_CLASSES, images, network, shapes
from tileloom.models.adm_blocks import double, halve, split_heads, timestep_embedding
from tileloom.models.adm_config import AdmConfig, effort
from tileloom.models.contract import NetworkOptions, network_contract
from tileloom.models.denoiser import Condition
from tileloom.models.networks import AdmDenoiser, class_gradient
from tileloom.models.signatures import Reading
from tileloom.tiling.errors import InputError

PLAIN = replace(UNET, use_scale_shift_norm=False, resblock_updown=False, attention_resolutions=(), out_channels=3)
VARIANTS = {
    "as published": UNET,
    "with classes": WITH_CLASSES,
    "conv resampling, shift alone": PLAIN,
    "a narrow first level": replace(UNET, model_channels=64, channel_mult=(0.5, 1, 1)),
    "one level": replace(UNET, channel_mult=(1,), attention_resolutions=(1,)),
    "new attention order": replace(UNET, use_new_attention_order=True, num_head_channels=16),
}


def labels(config, count=2):
    return None if config.num_classes is None else torch.arange(count)


@pytest.mark.parametrize(
    "config",
    [*VARIANTS.values(), replace(UNET, stem=2), replace(UNET, stem=2, detail=16)],
    ids=[*VARIANTS, "with a stem", "with details"],
)
def test_the_effort_of_a_call_is_what_torch_counts(config):
    pixels = 32**2
    # Of the fused kernels torch counts nothing.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(config)(torch.zeros(1, 3, 32, 32), torch.zeros(1), labels(config, 1))
    a, b = effort(config)
    # What the blocks are told is left out.
    assert a * pixels + b * pixels**2 == pytest.approx(counter.get_total_flops(), rel=0.02)


# --- parts ---


def test_the_timestep_embedding_has_cosines_first_and_a_zero_where_the_width_is_odd():
    t_B = torch.tensor([0.0, 7.25])
    even, odd = timestep_embedding(t_B, 8), timestep_embedding(t_B, 9)
    frequencies = 10000 ** (-torch.arange(4) / 4)
    torch.testing.assert_close(even[1], torch.cat([(7.25 * frequencies).cos(), (7.25 * frequencies).sin()]))
    assert torch.equal(even[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    assert torch.equal(odd[:, :8], even)
    assert not odd[:, 8].any()


@pytest.mark.parametrize("new_order", [False, True])
def test_heads_are_cut_as_the_checkpoints_have_them(new_order):
    heads, each, tokens = 2, 3, 4
    channel = torch.arange(3 * heads * each).float()
    parts = split_heads(channel[None, :, None].expand(1, -1, tokens), heads, new_order=new_order)
    for which, part in enumerate(parts):
        assert part.shape == (1, heads, tokens, each)
        for head in range(heads):
            first = (which * heads + head) * each if new_order else (head * 3 + which) * each
            assert part[0, head, 0].tolist() == list(range(first, first + each))


def test_resampling_is_block_means_and_repeated_pixels():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert halve(x)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert torch.equal(halve(double(x)), x)
    assert double(x)[0, 0, 1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_attention_weighs_every_pixel_by_the_softmax_of_its_likeness():
    block = network().middle_block[1]
    x = images(1, (3, 5))[0].mean(dim=1, keepdim=True) * torch.linspace(-1, 1, 64).reshape(1, 64, 1, 1)
    tokens = x.flatten(2)
    heads = block.qkv(block.norm(tokens)).reshape(4, 3, 16, 15)
    found = [(q.T @ k / 4).softmax(dim=-1) @ v.T for q, k, v in heads]
    expected = tokens + block.proj_out(torch.cat(found, dim=1).T[None])
    torch.testing.assert_close(block(x), expected.reshape(x.shape))


# --- the U-Net ---


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_any_size_that_the_levels_divide_comes_back_whole(config):
    net, multiple = network(config), config.size_multiple
    for size in ((16, 16), (3 * multiple, 5 * multiple), (multiple, multiple)):
        x, t = images(2, size)
        out = net(x, t, labels(config))
        assert out.shape == (2, config.out_channels, *size)
        assert out.dtype is torch.float32
        assert out.isfinite().all()


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_the_seam_between_the_halves_changes_no_bit(config):
    net, (x, t) = network(config), images()
    emb = net.embed(t, labels(config))
    h, skips = net.way_down(x, emb)
    assert h.shape[-1] == 16 // config.size_multiple
    assert [skip.shape[1] for skip in skips] == net.skip_widths
    kept = [skip.clone() for skip in skips]
    assert torch.equal(net.way_up(h, skips, emb), net(x, t, labels(config)))
    assert all(torch.equal(one, other) for one, other in zip(kept, skips, strict=True))


def test_the_halves_take_features_of_other_places_than_they_gave():
    """What Patch-DM does: features of several patches are put together anew before the way up."""
    net, (x, t) = network(), images(4)
    emb = net.embed(t)
    h, skips = net.way_down(x, emb)
    order = torch.tensor([2, 0, 3, 1])
    moved = net.way_up(h[order], [skip[order] for skip in skips], emb[order])
    torch.testing.assert_close(moved, net(x, t)[order])


def test_the_network_is_told_the_exact_timestep_and_the_class():
    net, (x, _) = network(WITH_CLASSES), images(1)
    outs = [net(x, torch.tensor([t]), torch.tensor([y])) for t in (10.0, 10.5, 11.0) for y in (0, 4)]
    for at, one in enumerate(outs):
        assert not any(torch.allclose(one, other, atol=1e-6) for other in outs[at + 1 :])
    assert torch.equal(net(x, torch.tensor([10]), torch.tensor([0])), outs[0])


@pytest.mark.parametrize(("config", "y"), [(UNET, torch.arange(2)), (WITH_CLASSES, None)])
def test_labels_without_classes_and_classes_without_labels_are_refused(config, y):
    with pytest.raises(InputError, match="class labels"):
        network(config)(*images(), y)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_is_the_torsos_convolutions_alone(precision):
    net, (x, t) = network(), images()
    full = net(x, t)
    net.set_precision(precision)
    low = torch.bfloat16 if precision == "bf16" else torch.float16
    for name, parameter in net.named_parameters():
        torso = name.split(".")[0] in ("input_blocks", "middle_block", "output_blocks")
        norm = any(part in name for part in ("in_layers.0", "out_layers.0", ".norm."))
        is_low = torso and not norm and "emb_layers" not in name
        assert parameter.dtype is (low if is_low else torch.float32), name
    out = net(x, t)
    assert out.dtype is torch.float32
    assert 0 < (out - full).abs().max() < (0.2 if precision == "bf16" else 0.02) * full.abs().max()


# --- configurations ---


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_channels": 48}, "48 channels wide"),
        ({"channel_mult": (0.001,)}, "0 channels wide"),
        ({"num_head_channels": 48}, "does not split into heads of 48"),
        ({"num_heads": 100}, "option heads"),
        ({"num_heads": 5}, "does not split"),
    ],
)
def test_widths_that_norms_or_heads_cannot_divide_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        replace(UNET, **changes)


def test_heads_matter_only_where_attention_is():
    config = replace(UNET, channel_mult=(1, 2), num_head_channels=64, attention_resolutions=(2,))
    assert config.heads(64) == 1
    with pytest.raises(InputError, match="32 channels wide"):
        replace(config, attention_resolutions=(1, 2))


def test_width_and_size_follow_from_the_levels():
    config = AdmConfig(
        model_channels=256, channel_mult=(0.5, 1, 1, 2), num_res_blocks=2, attention_resolutions=(8,), num_heads=4
    )
    assert config.widths == (128, 256, 256, 512)
    assert config.size_multiple == 8
    assert shapes(config)["input_blocks.0.0.weight"] == (128, 3, 3, 3)
    assert shapes(config)["time_embed.0.weight"] == (1024, 256)


# --- the classifier ---


@pytest.mark.parametrize("pool", ["attention", "adaptive"])
def test_a_classifier_scores_every_class(pool):
    config = replace(CLASSIFIER, pool=pool)
    scores = network(config)(*images(3))
    assert scores.shape == (3, 5)
    assert not torch.allclose(scores[0], scores[1], atol=1e-5)


def test_attention_pooling_takes_one_size_and_says_so():
    with pytest.raises(InputError, match=r"takes 16x16 pixels and no other size, the tile has 16x32: set tile to 16"):
        network(CLASSIFIER)(*images(1, (16, 32)))
    assert network(replace(CLASSIFIER, pool="adaptive", image_size=None))(*images(1, (16, 32))).shape == (1, 5)


@pytest.mark.parametrize("size", [None, 17])
def test_attention_pooling_needs_a_size_that_the_levels_divide(size):
    with pytest.raises(InputError, match="give a multiple of 2"):
        network(replace(CLASSIFIER, image_size=size))


def test_the_pull_of_a_class_is_the_slope_of_its_log_probability():
    net, (x, t), y = network(CLASSIFIER), images(), torch.tensor([1, 3])
    pull = class_gradient(net, x, t, y, scale=2.5)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))

    def chosen(step):
        return net(x + step * direction, t).double().log_softmax(dim=1)[[0, 1], y].sum()

    step = 1e-2
    slope = (chosen(step) - chosen(-step)) / (2 * step)
    assert float((pull * direction).sum()) == pytest.approx(2.5 * float(slope), rel=1e-2)


def test_a_pull_is_found_where_gradients_are_off_and_leaves_none_behind():
    net, (x, t), y = network(CLASSIFIER), images(), torch.tensor([1, 3])
    expected = class_gradient(net, x, t, y, scale=1)
    with torch.inference_mode():
        made_here = x + 0, t + 0, y + 0
        assert torch.equal(class_gradient(net, *made_here, scale=1), expected)
    assert not expected.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


# --- as a denoiser ---


@pytest.mark.parametrize(("config", "label"), [(UNET, None), (WITH_CLASSES, 4), (PLAIN, None)])
def test_a_denoisers_answer_is_the_networks_first_channels(config, label):
    net, (x, t) = network(config), images()
    told = None if label is None else torch.tensor([label, label])
    denoiser = AdmDenoiser(net, None)
    conditions = [Condition(label=label)] * 2
    assert torch.equal(denoiser.predict(x, t, conditions)[:, :3], net(x, t, told)[:, :3])


def test_every_row_is_told_its_own_class_and_padding_the_first():
    net, (x, t) = network(WITH_CLASSES), images(3)
    told = [Condition(label=4), Condition(label=1)]
    predicted = AdmDenoiser(net, None).predict(x, t, told)
    assert torch.equal(predicted, net(x, t, torch.tensor([4, 1, 0])))
    with pytest.raises(InputError, match="give the job's model a label"):
        AdmDenoiser(net, None).predict(x, t, [*told, Condition()])


def test_memory_covers_the_weights_and_what_is_kept_for_the_way_up():
    net = network()
    denoiser = AdmDenoiser(net, None)
    weights, pass_of_two = denoiser.memory((2, 3, 32, 32))
    assert weights == 4 * sum(parameter.numel() for parameter in net.parameters())
    _, skips = net.way_down(images(2, (32, 32))[0], net.embed(torch.zeros(2)))
    # Besides, a block's own maps: 24 of them live at once.
    widest = 2 * 32 * 32 * max(net.config.widths[0], net.config.widths[1] // 4)
    assert pass_of_two > 4 * (sum(skip.numel() for skip in skips) + 24 * widest)
    assert denoiser.memory((4, 3, 32, 32))[1] == 2 * pass_of_two
    net.set_precision("bf16")
    assert weights / 2 < denoiser.memory((2, 3, 32, 32))[0] < weights


# --- a stem ---

STEMMED = replace(UNET, stem=4, in_channels=4, out_channels=8)


def test_a_stem_folds_pixels_into_channels_and_back():
    """It is the same network, working on every 4 x 4 pixels as one with channels for each."""
    stemmed = network(STEMMED)
    plain = network(replace(UNET, in_channels=64, out_channels=128))
    plain.load_state_dict(stemmed.state_dict())
    x, t = torch.randn(2, 4, 32, 48), torch.tensor([3.0, 700.0])
    folded = torch.nn.functional.pixel_unshuffle(x, 4)
    expected = torch.nn.functional.pixel_shuffle(plain(folded, t), 4)
    assert torch.equal(stemmed(x, t), expected)
    assert expected.shape == (2, 8, 32, 48)


def test_a_stem_makes_windows_coarser_and_memory_smaller():
    assert STEMMED.size_multiple == 4 * UNET.size_multiple
    terms = {stem: network_contract_of(replace(UNET, stem=stem)) for stem in (1, 4)}
    assert terms[4].smallest_tile == 4 * terms[1].smallest_tile
    assert terms[4].live_channels < terms[1].live_channels / 8


def test_details_are_drawn_pixel_by_pixel_whatever_a_stem_folds():
    """What comes out of the fold aside, a pixel tells of itself and of those that three convolutions reach."""
    net = network(replace(STEMMED, detail=8))
    with torch.no_grad():
        for parameter in net.out[-1].parameters():
            parameter.zero_()
    x, t = torch.randn(1, 4, 32, 32), torch.tensor([300.0])
    changed = x.clone()
    changed[..., 13, 18] += 1
    moved = (net(changed, t) - net(x, t)).abs().sum(dim=(0, 1)) > 0
    assert moved[13, 18]
    moved[10:17, 15:22] = False
    assert not moved.any()
    assert (net(x, t) - net(x, torch.tensor([900.0]))).abs().min() > 0


@pytest.mark.parametrize("detail", [-2, 3])
def test_details_that_cannot_be_are_refused(detail):
    with pytest.raises(InputError, match=f"detail is {detail}: give an even number"):
        replace(STEMMED, detail=detail)


def test_details_are_of_the_torsos_precision_but_for_what_comes_out():
    net = network(replace(STEMMED, detail=8))
    net.set_precision("bf16")
    assert {layer.weight.dtype for layer in net.detail.layers} == {torch.bfloat16}
    assert net.last.weight.dtype == torch.float32
    assert net(torch.randn(1, 4, 32, 32), torch.tensor([3.0])).dtype == torch.float32


def network_contract_of(config):
    reading = Reading(config, 64, "linear", None, {})
    return network_contract(__file__, reading, NetworkOptions())
