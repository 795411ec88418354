"""Holes are filled by predict, pick and sample: what is known stays, company changes nothing, all is filled."""

from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.fillers import HOLES, ITERATIONS, SIDE, engine, file_of, filler, holed, network
from tests.tiles import run
from tileloom.models.contract import live_in, weights_contract
from tileloom.models.hole_filler import Fill
from tileloom.models.networks import load_denoiser
from tileloom.models.noise import Address, PositionNoise
from tileloom.models.operators import block_mean
from tileloom.models.spatial import SpatialNet, UncertaintyAttention
from tileloom.models.spatial_config import PICKINGS, SpatialReading
from tileloom.models.spread import Spread, spread, target
from tileloom.models.surface import CLOSE, QUICK, bent
from tileloom.models.weights import read_weights
from tileloom.tiling.errors import CorruptChunk, InputError
from tileloom.tiling.measurement import Measurement

WORK = engine()


def filled(inputs, work=WORK):
    return work.finish(run(work, work.begin(inputs)))


def known_of(inputs):
    """Where a tile is known, and as what: written here from the words of the protocol."""
    known = np.broadcast_to(inputs.measured, inputs.y.shape)
    values = inputs.y
    if inputs.context is not None:
        values = np.where(known, values, inputs.context)
        known = known | inputs.context_mask
    return known, values


# --- the network ---


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 12), (16, 4)])
def test_a_network_takes_any_size_that_its_stride_divides(height, width):
    x = torch.randn((2, 5, height, width), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert network()(x).shape == (2, 4, height, width)


@pytest.mark.parametrize("size", [(2, 4), (4, 6), (0, 4)])
def test_a_network_refuses_other_sizes(size):
    with pytest.raises(InputError, match="multiples of 4"):
        network()(torch.zeros((1, 5, *size)))


@pytest.mark.parametrize("stem", [1, 4])
@pytest.mark.parametrize("bands", [1, 5])
@pytest.mark.parametrize("detail", [0, 6])
def test_bands_levels_and_stride_are_the_configs(stem, bands, detail):
    shape = {"stem": stem, "in_channels": bands, "detail": detail}
    config = replace(HOLES, **shape, channel_mult=(1, 1, 2), attention_resolutions=())
    with torch.inference_mode():
        assert SpatialNet(config).eval()(torch.zeros((1, bands + 3, 4 * stem, 8 * stem))).shape[1] == 2 * bands
    assert config.size_multiple == 4 * stem


def test_all_that_a_network_is_shown_reaches_its_answer():
    x = torch.randn((1, 5, 8, 8), generator=torch.Generator().manual_seed(1))
    other = [x.clone() for _ in range(5)]
    for band, changed in enumerate(other):
        changed[:, band, 2:6, 2:6] += 1
    with torch.inference_mode():
        told = network()(x)
        assert all(not torch.equal(network()(changed), told) for changed in other)


def test_attention_is_softmax_of_likeness_and_doubt_and_leaves_rows_of_a_batch_alone():
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(5)
        attention, x, u = UncertaintyAttention(16, 8), torch.randn((3, 16, 4, 6)), torch.rand((3, 1, 4, 6))
        told, doubt = attention(x, u), u
        for layer in attention.doubts:
            doubt = layer(doubt)
        doubt = attention.doubt(doubt).reshape(3, 2, 24)
        q, k, v = attention.qkv(x).reshape(3, 3, 2, 8, 24).unbind(1)
        likeness = torch.einsum("bhcq,bhck->bhqk", q, k) / 8**0.5 + doubt[:, :, None]
        taken = torch.einsum("bhqk,bhck->bhcq", likeness.softmax(dim=-1), v).reshape(3, 16, 4, 6)
        torch.testing.assert_close(told, (x + attention.out(taken)) / 2**0.5)
        assert torch.equal(attention(x.roll(1, 0), u.roll(1, 0)), told.roll(1, 0))


def test_what_is_known_is_so_or_not_whatever_a_window_holds_in_that_plane():
    x = torch.randn((1, 5, 8, 8), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        told = network()(x)
        x[:, 2] = (x[:, 2] > 0).float()
        assert torch.equal(network()(x), told)


@pytest.mark.parametrize("detail", [0, 6])
def test_a_network_that_has_learned_nothing_bends_what_is_known_over_the_hole(detail):
    known = torch.zeros((2, 1, 8, 8))
    known[:, :, :, :3] = 1
    x = torch.tensor([0.25, -0.5])[:, None, None].expand(2, 2, 8, 8) * known
    x = torch.cat([x, known, 1 - known, torch.randn(known.shape)], dim=1)
    with torch.inference_mode():
        fresh = SpatialNet(replace(HOLES, detail=detail)).eval()
        mean, log_variance = fresh(x).chunk(2, dim=1)
        nothing = fresh(torch.zeros((1, 5, 8, 8)))
    torch.testing.assert_close(mean, torch.tensor([0.25, -0.5])[:, None, None].expand(2, 2, 8, 8))
    assert not log_variance.any()
    assert not nothing.any()


@pytest.mark.parametrize(("relaxation", "off"), [(QUICK, 0.0065), (CLOSE, 0.0045)])
def test_what_is_bent_over_a_hole_keeps_what_is_known_and_bends_on(relaxation, off):
    rows, cols = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 48), indexing="ij")
    x = torch.stack([rows + cols, rows * cols - cols**2])[None].repeat(2, 1, 1, 1)
    known = torch.ones((2, 1, 32, 48))
    known[0, :, :, 20:24] = known[1, :, 12:15] = 0
    found, there = bent(x, known, relaxation), known.bool().expand_as(x)
    assert torch.equal(found[there], x[there])
    # Where both sides are curved a membrane, which lies flat between them, is off by 0.013 and more.
    assert all(
        float((one - crop)[mask[0].expand_as(crop) == 0].square().mean().sqrt()) < off
        for one, crop, mask in zip(found, x, known, strict=True)
    )
    assert float((bent(x, torch.ones_like(known)) - x).abs().max()) == 0


@pytest.mark.parametrize("side", [31, 62, 63, 72, 100, 112])
def test_a_plane_is_a_plane_whatever_its_sides(side):
    rows, cols = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    x, known = (rows + cols)[None, None] / 2, torch.ones((1, 1, side, side))
    known[..., side // 3 : side // 2] = 0
    assert float((bent(x, known) - x).square()[known == 0].mean().sqrt()) < 0.02
    assert bent(x, known * 0).abs().max() == 0


def test_what_is_bent_over_wide_holes_goes_little_beyond_what_is_known():
    generator = torch.Generator().manual_seed(3)
    x, known = torch.rand((2, 3, 32, 32), generator=generator), torch.rand((2, 1, 32, 32), generator=generator) < 0.3
    known[:, :, 8:, 8:] = False
    found = bent(x, known.float())
    assert found.min() > -1
    assert found.max() < 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stem": 3}, "stem is 3"),
        ({"num_head_channels": 7}, "heads of 7"),
        ({"num_head_channels": 0}, "num_head_channels is 0"),
        ({"num_res_blocks": 0}, "num_res_blocks is 0"),
        ({"channel_mult": ()}, "channel_mult is empty"),
        ({"attention_resolutions": (2, 3)}, "attention at factor 3, and levels are coarser by 1, 2: choose"),
    ],
)
def test_what_cannot_be_built_is_refused(tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        replace(HOLES, **changes)
    with pytest.raises(InputError) as refused:
        read_weights(file_of(tmp_path, config={**asdict(HOLES), **changes}))
    assert "\n" not in str(refused.value)


# --- its file ---


def test_a_file_says_what_its_network_is(tmp_path):
    file = file_of(tmp_path)
    reading = read_weights(file)
    assert (type(reading), reading.config, reading.image_size) == (SpatialReading, HOLES, 16)
    terms = weights_contract(file, {})
    assert (terms.bands, terms.size_multiple, terms.native_tile, terms.holes, terms.steps) == (2, 4, 16, True, 3)
    x = torch.randn((1, 5, 8, 8), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert torch.equal(load_denoiser(file).predict(x, torch.zeros(1), []), network()(x))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"picking": "random"}, "model.picking is 'random'; choose one of uniform, cosine, sqrt, cubic"),
        ({"alpha": "much"}, "model.alpha is 'much'; give a number"),
        ({"precision": "bf16"}, "model.precision is no option of"),
        ({"label": 3}, "model.label is no option of"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path, options, says):
    with pytest.raises(InputError, match=says):
        weights_contract(file_of(tmp_path), options)


def test_a_file_of_another_network_than_it_says_is_refused(tmp_path):
    wider = {**asdict(HOLES), "model_channels": 16}
    with pytest.raises(InputError, match="of another shape"):
        load_denoiser(file_of(tmp_path, config=wider))
    with pytest.raises(InputError, match="in words unknown here"):
        read_weights(file_of(tmp_path, config={**wider, "wings": 2}))
    for layout in (1, 2):
        with pytest.raises(InputError, match=f"layout {layout}, and this tileloom knows layout 3: train it again"):
            read_weights(file_of(tmp_path, layout=layout))


# --- the solver ---


@pytest.mark.parametrize("at", range(4))
def test_all_is_filled_and_what_is_known_stays_to_the_bit(at):
    inputs = holed(at)
    known, values = known_of(inputs)
    result = filled(inputs)
    assert np.array_equal(result[known], values[known])
    assert (result[~known] != 0).all()


def test_each_iteration_fills_its_share_and_knows_how_uncertain_that_is():
    state = WORK.begin(holed(1))
    missing = int((~state.first.known_HW).sum())
    for at in range(ITERATIONS):
        (state,) = WORK.step([state])
        known, u, _ = state.x_CHW[2:]
        filled_now = (known > 0) & ~state.first.known_HW
        assert int(filled_now.sum()) == missing * (at + 1) // ITERATIONS
        assert (u[state.first.known_HW] == 0).all()
        assert (u[known == 0] == 1).all()
        assert ((u >= 0) & (u <= 1)).all()
        assert (state.x_CHW[:2, known == 0] == 0).all()
    assert WORK.finished(state)


@pytest.mark.parametrize("picking", PICKINGS)
@pytest.mark.parametrize("missing", [0, 1, 7, 1000])
def test_every_schedule_goes_up_and_ends_with_all(picking, missing):
    for steps in (1, 2, 5):
        counts = [0, *(target(picking, missing, at, steps) for at in range(steps))]
        assert all(after >= before for before, after in pairwise(counts))
        assert counts[-1] == missing


def test_schedules_begin_as_their_names_say():
    first = {picking: target(picking, 1000, 0, 4) for picking in PICKINGS}
    assert first == {"uniform": 250, "cosine": 76, "sqrt": 500, "cubic": 15}


def test_many_windows_are_spread_over_as_each_is_alone():
    generator = torch.Generator().manual_seed(6)
    x, mean, z = (torch.randn((3, 2, 8, 12), generator=generator) for _ in range(3))
    known = torch.rand((3, 8, 12), generator=generator) < torch.tensor([0.9, 0.4, 0.1])[:, None, None]
    # Few values, so that many are alike.
    variance = torch.randint(1, 4, (3, 2, 8, 12), generator=generator).float()
    counts = (~known).sum(dim=(1, 2)) // 2

    def after(first, *told, count):
        state = first
        for _ in range(2):
            state, _ = spread(state, first, *told[:2], count=count, noise_CHW=told[2])
        return state.window

    together = after(Spread.begin(x, known), mean, variance, z, count=counts)
    for at, ours in enumerate(together):
        alone = after(Spread.begin(x[at], known[at]), mean[at], variance[at], z[at], count=int(counts[at]))
        assert torch.equal(ours, alone)
        assert torch.equal(Spread.of(together).window[at], ours)


def test_tiles_at_different_iterations_share_a_forward_and_no_bit():
    states = [WORK.begin(holed(at)) for at in range(3)]
    states[1] = run(WORK, states[1], 1)
    states[2] = run(WORK, states[2], 2)
    while not all(map(WORK.finished, states)):
        going = [at for at, state in enumerate(states) if not WORK.finished(state)]
        for at, state in zip(going, WORK.step([states[at] for at in going]), strict=True):
            states[at] = state
    for at, state in enumerate(states):
        assert np.array_equal(WORK.finish(state), filled(holed(at)))


def test_a_saved_tile_goes_on_as_if_nothing_had_happened():
    inputs = holed(3)
    saved = WORK.pack(run(WORK, WORK.begin(inputs), 2))
    assert np.array_equal(WORK.finish(run(WORK, WORK.unpack(inputs, saved), 1)), filled(inputs))
    with pytest.raises(CorruptChunk):
        engine(alpha=0.5).unpack(inputs, saved)


def test_two_seeds_differ_inside_the_hole_and_agree_outside():
    inputs = holed(0)
    known, _ = known_of(inputs)
    one, other = filled(inputs), filled(inputs, engine(seed=5))
    assert np.array_equal(one[known], other[known])
    assert (one != other)[~known].mean() > 0.5
    # With nothing of the variance drawn, they differ by the noise that the network sees.
    assert (filled(inputs, engine(alpha=0.0)) != filled(inputs, engine(seed=5, alpha=0.0)))[~known].mean() > 0.5


def test_all_iterations_see_the_noise_of_their_place():
    inputs = holed(0)
    state, box = WORK.begin(inputs), inputs.box
    (shown,) = PositionNoise(4).windows([Address(inputs.image, inputs.key.level, 0, box)], 1)
    for _ in range(ITERATIONS):
        assert torch.equal(state.x_CHW[-1:], shown)
        (state,) = WORK.step([state])
    assert torch.equal(state.x_CHW[-1:], shown)


def test_a_finished_neighbour_is_known_without_uncertainty():
    inputs = holed(1)
    assert inputs.context is not None
    state = WORK.begin(inputs)
    known, _ = known_of(inputs)
    assert np.array_equal(state.x_CHW[2].numpy() > 0, known.all(axis=0))
    assert not state.x_CHW[3][known.all(axis=0)].any()


def test_a_coarse_fill_gives_the_fine_one_its_low_frequencies():
    rng = np.random.default_rng(9)
    nothing = np.zeros((1, SIDE, SIDE), bool)
    nothing[:, :, :2] = True
    coarse = rng.uniform(-1, 1, (2, SIDE // 2, SIDE // 2)).astype(np.float32)
    taken = np.arange(SIDE // 2)[None] > np.zeros((SIDE // 2, 1))
    inputs = holed(2, coarse=coarse, coarse_mask=taken, factor=2)
    inputs = replace(inputs, measured=nothing, y=np.where(nothing, inputs.y, 0).astype(np.float32), context=None)
    result = torch.from_numpy(filled(inputs))
    means = block_mean(result, 2).numpy()
    np.testing.assert_allclose(means[:, taken], coarse[:, taken], atol=1e-5)


def test_a_coarse_fill_has_its_say_at_every_step():
    rng = np.random.default_rng(9)
    known = np.zeros((1, SIDE, SIDE), bool)
    known[:, :, :2] = True
    coarse = rng.uniform(-1, 1, (2, SIDE // 2, SIDE // 2)).astype(np.float32)
    inputs = holed(2, coarse=coarse, factor=2, measured=known, context=None)
    solver = Fill(PositionNoise(4), 2, ITERATIONS, alpha=0.0)
    state = solver.begin(replace(inputs, y=np.where(known, inputs.y, 0).astype(np.float32)))
    # Most certain are whole blocks, one after the other.
    blocks = torch.arange(16.0).reshape(1, 4, 4).repeat_interleave(2, 1).repeat_interleave(2, 2)
    for step in range(1, ITERATIONS + 1):
        mean = torch.from_numpy(rng.uniform(-1, 1, (2, SIDE, SIDE)).astype(np.float32))
        state = solver.tell(state, torch.cat([mean, (blocks / 16).expand(2, -1, -1)]))
        filled_now = block_mean(state.x_CHW[2:3], 2)[0] == 1
        filled_now[:, 0] = False
        assert int(filled_now.sum()) == 12 * step // ITERATIONS
        means = block_mean(state.x_CHW[:2], 2)[:, filled_now]
        np.testing.assert_allclose(means, coarse[:, filled_now.numpy()], atol=1e-5)


def test_only_holes_are_filled():
    with pytest.raises(InputError, match="name a denoiser"):
        WORK.begin(holed(0, measurement=Measurement(2)))


def test_a_mean_is_bounded_where_values_are():
    bounded = engine(solver=Fill(PositionNoise(4), 2, ITERATIONS, alpha=0.0, clip=(-0.01, 0.01)))
    inputs = holed(2)
    known, _ = known_of(inputs)
    assert np.abs(filled(inputs, bounded)[~known]).max() <= np.float32(0.01)


def test_the_estimate_of_memory_counts_weights_and_maps():
    weights, forward = filler().memory((3, 5, SIDE, SIDE))
    assert weights == 4 * sum(parameter.numel() for parameter in network().parameters())
    assert forward == 4 * 3 * SIDE * SIDE * live_in(HOLES)
