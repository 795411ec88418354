"""Patch-DM on whole images: the same noise by parts as at once, and all that a denoiser promises."""

from dataclasses import replace

import pytest
import torch

from tests.nets import PATCHES, network, weights
from tileloom.models.ancestral import Ddpm
from tileloom.models.build import denoiser_of
from tileloom.models.check import check_denoiser
from tileloom.models.collage import PatchGrid, collage, cut, pad, stitch
from tileloom.models.denoiser import Condition, split_answer
from tileloom.models.noise import PositionNoise
from tileloom.models.patchdm import dropped
from tileloom.models.patchdm_denoiser import PatchDenoiser, image_eps, in_cells
from tileloom.models.prediction import away_from
from tileloom.models.schedule import schedule
from tileloom.tiling.errors import InputError

PATCH = PATCHES.patch


def images(rows=3, cols=2, count=2):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((count, 3, rows * PATCH, cols * PATCH), generator=generator)
    style = torch.randn((count, PATCHES.style_channels), generator=generator)
    return x, torch.linspace(20, 800, count), style


def eps_of(net, *given, style=False, position=False, cells=4):
    return image_eps(net, *given, dropped(len(given[0]), style=style, position=position), cells=cells)


def test_guidance_goes_beyond_what_is_told_away_from_what_is_not():
    told, untold = torch.tensor([2.0]), torch.tensor([-1.0])
    assert away_from(untold, told, 0.5).item() == 1.5 * 2 + 0.5
    assert torch.equal(away_from(untold, told, 0.0), told)


def test_passes_are_of_one_shape_and_padding_is_cut_off():
    seen = []

    def half(x, t):
        seen.append((x.shape, t.shape))
        return [x + t[:, None], t]

    x, t = torch.arange(14.0).reshape(7, 2), torch.arange(7.0)
    both, times = in_cells(half, 3, x, t)
    assert seen == [((3, 2), (3,))] * 3
    assert torch.equal(both, x + t[:, None])
    assert torch.equal(times, t)


def test_an_image_is_what_its_patches_are():
    """Step by step, as the method is published, one patch at a time."""
    net, (x, t, style) = network(PATCHES), images(2, 2, 1)
    keep = dropped(1, style=False, position=False)
    padded = pad(x, PATCH)
    grid, features = PatchGrid(2, 2), []
    for row in range(3):
        for col in range(3):
            patch = padded[..., row * PATCH : (row + 1) * PATCH, col * PATCH : (col + 1) * PATCH]
            features.append(net.encode(patch, t, torch.tensor([[float(row), float(col)]]), style, keep))
    moved = [collage(torch.cat(level), grid) for level in zip(*features, strict=True)]
    eps = [
        net.decode([level[at : at + 1] for level in moved], t, grid.decoder_positions()[at : at + 1], style, keep)
        for at in range(4)
    ]
    torch.testing.assert_close(eps_of(net, x, t, style), stitch(torch.cat(eps), 2, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("top", "left", "rows", "cols"), [(0, 0, 1, 1), (1, 1, 2, 1), (0, 0, 3, 2), (2, 0, 1, 2)])
def test_a_block_with_half_a_patch_of_its_neighbours_pixels_has_the_noise_of_the_whole(top, left, rows, cols):
    net, (x, t, style) = network(PATCHES), images(3, 2, 1)
    block, keep = PatchGrid(rows, cols, top, left), dropped(1, style=False, position=False)
    seen = pad(x, PATCH)[..., top * PATCH : (top + rows + 1) * PATCH, left * PATCH : (left + cols + 1) * PATCH]

    def told(positions):
        return [each.repeat_interleave(len(positions), dim=0) for each in (t, positions[None], style, keep)]

    def rows_of(positions):
        count = len(positions)
        return t.repeat(count), positions, style.repeat(count, 1), keep.repeat(count, 1)

    features = net.encode(cut(seen, PATCH), *rows_of(block.encoder_positions()))
    moved = [collage(level, block) for level in features]
    ours = stitch(net.decode(moved, *rows_of(block.decoder_positions())), rows, cols)
    whole = eps_of(net, x, t, style)
    crop = whole[..., top * PATCH : (top + rows) * PATCH, left * PATCH : (left + cols) * PATCH]
    torch.testing.assert_close(ours, crop, rtol=0, atol=1e-5)


def test_pixels_half_a_patch_beyond_a_patch_are_all_that_reaches_it():
    net, (x, t, style) = network(PATCHES), images(3, 3, 1)
    upper = slice(0, 2 * PATCH)
    before = eps_of(net, x, t, style)[..., upper, :]
    for row, reaches in ((2 * PATCH + PATCHES.half, False), (2 * PATCH + PATCHES.half - 1, True)):
        moved = x.clone()
        moved[..., row, :] += 1
        assert torch.equal(eps_of(net, moved, t, style)[..., upper, :], before) != reaches


def test_images_of_a_batch_do_not_mix_and_the_number_of_cells_only_rounds():
    net, given = network(PATCHES), images()
    whole = eps_of(net, *given)
    for at in range(2):
        torch.testing.assert_close(
            eps_of(net, *(each[at : at + 1] for each in given)), whole[at : at + 1], rtol=0, atol=1e-5
        )
    torch.testing.assert_close(eps_of(net, *given, cells=24), whole, rtol=0, atol=1e-5)


def test_an_image_that_is_not_made_of_patches_is_refused():
    with pytest.raises(InputError, match="6 x 8 pixels are not cut into whole patches"):
        eps_of(network(PATCHES), torch.zeros(1, 3, 6, 8), torch.zeros(1), torch.zeros(1, 6))


# --- as a denoiser ---


def denoiser(folder, **options):
    return denoiser_of({"name": weights(folder, PATCHES), "patch": PATCH, "heads": 1, **options})


@pytest.mark.parametrize(
    "options", [{}, {"style": "row:2"}, {"style": "row:2", "guidance": 0.5}, {"precision": "bf16"}]
)
def test_it_is_a_denoiser(tmp_path, options):
    ours = denoiser(tmp_path, **options)
    check_denoiser(ours, trained=False)


def test_every_image_has_the_style_of_the_job_and_none_without(tmp_path):
    x, t, _ = images()
    ours = denoiser(tmp_path, style="row:1")
    net = ours.network
    told = ours.predict(x, t, [Condition()] * 2)[:, :3]
    assert torch.equal(told, eps_of(net, x, t, net.styles(torch.tensor([1, 1])), cells=ours.cells))
    plain = denoiser(tmp_path).predict(x, t, [Condition()] * 2)[:, :3]
    assert torch.equal(plain, eps_of(net, x, t, torch.ones(2, 6), style=True, cells=ours.cells))


def test_guidance_drops_style_and_position(tmp_path):
    x, t, style = images()
    ours = denoiser(tmp_path, style="row:1", guidance=0.5)
    told, untold = (
        eps_of(ours.network, x, t, style, style=off, position=off, cells=ours.cells) for off in (False, True)
    )
    assert torch.equal(ours.eps(x, t, style), 1.5 * told - 0.5 * untold)


def test_ancestral_steps_have_the_larger_variance(tmp_path):
    x, t, _ = images(1, 1, 1)
    answer = split_answer(denoiser(tmp_path).predict(x, t, [Condition()])[0], 3)
    steps = schedule(steps=6)
    log_variance = Ddpm(steps, PositionNoise(0), 3).log_variance(3, answer.v)
    torch.testing.assert_close(log_variance.exp(), torch.full_like(log_variance, float(steps.betas[3])))


def test_memory_covers_the_features_of_all_patches():
    net = network(PATCHES)
    ours = PatchDenoiser(net, None)
    held, forward = ours.memory((2, 3, 3 * PATCH, 2 * PATCH))
    assert held == 4 * sum(parameter.numel() for parameter in net.parameters())
    assert forward > 4 * 2 * (4 * 3 + 3 * 2) * PATCHES.feature_values
    assert ours.memory((4, 3, 3 * PATCH, 2 * PATCH))[1] > forward
    assert replace(ours, cells=64).memory((2, 3, 3 * PATCH, 2 * PATCH))[1] > forward
