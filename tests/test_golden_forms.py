"""Files of the recorded form with other settings replay too: what a change must come to is known without a recorder."""

import json

import numpy as np
import pytest
import torch

from tests.golden import windows
from tests.golden.arrays import Golden
from tests.golden.kinds import verdict
from tests.golden.scenes import OPERATORS, Observed, known_of, measurement_of
from tests.golden.weaving import Scene
from tests.test_golden import kept, rewritten
from tileloom.models.operators import block_mean
from tileloom.models.parity import Parity

SR = "msr_sr_exact_fresh"
TRACES = {"trace_t": None, "trace_x0": None, "trace_sample": None}
RNG = np.random.default_rng(0)


def arrays(stem):
    with np.load(kept(stem)) as opened:
        return dict(opened)


def told(stem, **changes):
    """A file's config with other settings."""
    return np.array(json.dumps({**Golden(kept(stem)).config, **changes}))


def problem(folder, stem, **changed):
    return verdict(rewritten(folder, kept(stem), **changed)).problem


def image(*shape):
    return RNG.uniform(-1, 1, shape).astype(np.float32)


# --- tiles ---


@pytest.mark.parametrize("factor", [4, 8])
def test_where_coarse_pixels_are_as_large_as_measured_ones_the_measurement_overrules_them(tmp_path, factor):
    height, width = arrays(SR)["x_final"].shape[2:]
    coarse = image(1, 3, height // factor, width // factor)
    config = told(SR, hir_scale=factor)
    assert problem(tmp_path, SR, name="hir_overruled", config=config, hir_ref=coarse) == ""


def test_a_finer_coarse_pass_makes_a_difference_and_one_of_another_size_is_named(tmp_path):
    height, width = arrays(SR)["x_final"].shape[2:]
    coarse = image(1, 3, height // 2, width // 2)
    config = told(SR, hir_scale=2)
    assert "x_final" in problem(tmp_path, SR, name="hir_rules", config=config, hir_ref=coarse)
    assert "hir_ref is" in problem(tmp_path, SR, name="hir_cut", config=config, hir_ref=coarse[..., 1:])
    uneven = told(SR, hir_scale=3)
    assert "do not fit each other" in problem(tmp_path, SR, name="hir_uneven", config=uneven, hir_ref=coarse)


def test_an_image_of_large_pixels_measures_as_the_small_one_does(tmp_path):
    large = arrays(SR)["gt"].repeat(4, axis=2).repeat(4, axis=3)
    assert problem(tmp_path, SR, gt=large, config=told(SR, resize_y=False)) == ""


@pytest.mark.slow
def test_a_batch_of_tiles_replays_image_by_image(tmp_path):
    twice = {name: np.concatenate([arrays(SR)[name]] * 2) for name in ("gt", "x_final")}
    twice["noise"] = np.concatenate([arrays(SR)["noise"]] * 2, axis=1)
    assert problem(tmp_path, SR, **twice) == ""
    twice["x_final"][1, 0, 0, 0] += 0.01
    assert problem(tmp_path, SR, **twice) == "x_final"


def test_what_only_accounts_for_a_run_may_be_left_out(tmp_path):
    lists = ("tiles", "times", "timestep_map", "betas", "noise_kind", "noise_t", "noise_tile", "trace_t", "trace_tile")
    traces = ("trace_x0_mean", "trace_sample_std")
    assert problem(tmp_path, SR, **dict.fromkeys((*lists, *traces))) == ""
    assert problem(tmp_path, SR, x_final=None) == "KeyError: 'x_final'"
    assert "noise has 41 draws, and the run takes 42" in problem(tmp_path, SR, noise=arrays(SR)["noise"][1:])


@pytest.mark.parametrize(("deg", "scale"), [("sr_averagepooling", 32), ("sr_color", 8), ("inpainting", 4)])
def test_an_image_of_one_tile_takes_any_scale_that_divides_it(deg, scale):
    known = np.ones((3, 32, 32), bool)
    observed = Observed(image(3, 32, 32), measurement_of(deg, scale), Parity(), known)
    plan = Scene("only", observed, tile=32).plan()
    assert plan.count == 1
    assert plan.sees(0).shape == (32, 32)


def test_an_image_that_blocks_cut_is_measured_by_as_many_unequal_ones():
    clean = image(3, 10, 9)
    observed = Observed(clean, measurement_of("sr_averagepooling", 4), Parity())
    assert observed.shape == (8, 8)
    expected = [
        [clean[:, rows, cols].mean(axis=(1, 2)) for cols in (slice(0, 5), slice(4, 9))]
        for rows in (slice(0, 5), slice(5, 10))
    ]
    np.testing.assert_allclose(observed.y, np.moveaxis(np.array(expected), -1, 0), atol=1e-6)


# --- windows ---


def test_windows_of_a_batch_replay_one_by_one(tmp_path):
    stem, axis = "repaint_uncond", {"gt": 0, "mask": 0, "x_final": 0, "pred_xstart_final": 0, "u8_final": 0}
    axis |= {"noise": 1, "trace_x0": 1, "trace_sample": 1}
    twice = {name: np.concatenate([arrays(stem)[name]] * 2, axis=at) for name, at in axis.items()}
    assert problem(tmp_path, stem, **twice) == ""
    twice["mask"][1, :, 0, 0] = 0
    assert "x_final" in problem(tmp_path, stem, **twice)


def test_a_window_need_not_be_square_nor_its_mask_the_same_in_all_bands(tmp_path):
    stem, whole = "repaint_uncond", arrays("repaint_uncond")
    cut = {name: whole[name][..., :24] for name in ("gt", "mask", "x_final", "pred_xstart_final", "noise")}
    cut["mask"] = cut["mask"].copy()
    cut["mask"][:, 1, 5:9] = 0
    assert problem(tmp_path, stem, **cut, **TRACES, u8_final=None) == "x_final, pred_xstart_final"


def test_a_soft_mask_is_refused(tmp_path):
    soft = arrays("repaint_uncond")["mask"] * np.float32(0.5)
    assert "mask is neither 0 nor 1 somewhere" in problem(tmp_path, "repaint_uncond", mask=soft)


def test_masks_may_have_any_leading_axes(tmp_path):
    mask = (RNG.random((4, 6)) < 0.5).astype(np.float32)
    for shape in ((4, 6), (1, 4, 6), (1, 1, 4, 6)):
        np.savez(tmp_path / "one.npz", mask=mask.reshape(shape))
        found = known_of(Golden(tmp_path / "one.npz"), 2)
        assert [one.shape for one in found] == [(3, 4, 6)] * 2
        assert all(np.array_equal(one[band], mask == 1) for one in found for band in range(3))


@pytest.mark.parametrize("deg", sorted(OPERATORS))
def test_measurements_of_windows_have_the_forms_of_files(tmp_path, deg):
    clean, known = image(3, 8, 8), np.broadcast_to(RNG.random((8, 8)) < 0.5, (3, 8, 8))
    measurement = measurement_of(deg, 2)
    observed = Observed(clean, measurement, Parity(released_pinv=True), known)
    kept_pixels = clean * known if deg in ("inpainting", "mask_color_sr") else clean
    gray = kept_pixels.mean(axis=0, keepdims=True).repeat(3, 0) if measurement.gray else kept_pixels
    plain = block_mean(torch.tensor(gray), measurement.scale).numpy()
    flat = plain[: 1 if measurement.gray else 3].reshape(-1)
    if deg == "inpainting":
        flat = np.array(
            [
                clean[band, row, col]
                for row in range(8)
                for col in range(8)
                for band in range(3)
                if known[band, row, col]
            ]
        )
    for name, y in (("ddim_ddnm_simplified", plain[None]), ("ddim_ddnm_svd", flat[None])):
        np.savez(tmp_path / f"{name}.npz", y=y)
        found = windows.measured(Golden(tmp_path / f"{name}.npz"), [observed])["y"]
        assert found.shape == y.shape
        np.testing.assert_allclose(found, y, atol=1e-6)
