"""Patch-DM in lock-step: any cut into blocks, either exchange and any company make the image that one pass makes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import nets
from tests.golden.arrays import Golden
from tests.golden.patches import bands_of, config_of, state_dict_of
from tests.looms import Cluster, Disk, Losses
from tileloom.models.ancestral import Ddpm
from tileloom.models.checkpoint import with_weights
from tileloom.models.ddim import Ddim
from tileloom.models.halves import Halves
from tileloom.models.noise import PositionNoise
from tileloom.models.patchdm import dropped
from tileloom.models.patchdm_denoiser import image_eps
from tileloom.models.patches import PatchWork
from tileloom.models.prediction import Prediction, away_from
from tileloom.models.repaint import Repaint
from tileloom.models.schedule import beta_table, schedule
from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.errors import InputError, TileFailed
from tileloom.tiling.grid import Grid
from tileloom.tiling.lockstep import Lattice
from tileloom.tiling.measurement import MaskSite, Measurement
from tileloom.tiling.seam import seam_ratio
from tileloom.tiling.work import TileInputs

STEPS, BATCH = 2, 4
DATA = Path(__file__).parent / "golden" / "data"
P = nets.PATCHES.patch
HEIGHT, WIDTH = 4 * P, 3 * P
STYLE = torch.linspace(-1, 1, nets.PATCHES.style_channels)
NETWORKS = {bands: nets.network(replace(nets.PATCHES, in_channels=bands, out_channels=bands)) for bands in (1, 3, 13)}


def lattice(block, height=HEIGHT, width=WIDTH):
    return Lattice(Grid(height, width, P, P, 0, P, least=P), Grid(height, width, block, block, 0, P, least=P))


def inputs(box, key, bands=3, known=None):
    """A window of an image of which nothing is known, or these pixels where they are not NaN."""
    if known is None:
        y, measured = np.zeros((bands, *box.shape), np.float32), np.zeros(box.shape, bool)
    else:
        y = known[:, *box.slices]
        measured = np.isfinite(y).all(axis=0)
        y = np.where(measured, y, 0).astype(np.float32)
    return TileInputs("image", key, box, Measurement(mask=MaskSite.MEASURED), y, measured)


def sampler(kind, bands=3, steps=STEPS, **settings):
    return kind(schedule(steps=steps, spacing="stride", **settings), PositionNoise(3), bands, (-1.0, 1.0))


def work(
    exchange,
    guidance=0.0,
    kind=Ddim,
    bands=3,
    style=STYLE,
    batch=BATCH,
    lanes=2,
    network=None,
    prediction=None,
    **settings,
):
    halves = Halves(network or NETWORKS[bands], style, batch=batch, lanes=lanes, device="cpu")
    return PatchWork(
        halves,
        sampler(kind, bands, **settings),
        room=2**30,
        exchange=exchange,
        guidance=guidance,
        styled=style is not None,
        prediction=prediction,
    )


def drawn(made, at, bands=3, known=None, *, exchange=True):
    """The image that all blocks make together, in rounds, or each on its own."""
    blocks = [
        made.begin(at, n, inputs(at.box(n), TileKey(0, *at.place(n)), bands, known), None, 0) for n in range(at.count)
    ]
    for _ in range(made.steps * made.phases):
        strips = [made.strips(block) for block in blocks]
        given_to = [{m: strips[m][n] for m in at.around[n] if n in strips[m] and exchange} for n in range(at.count)]
        blocks = made.advance(list(zip(blocks, given_to, strict=True)))
        failed = [block for block in blocks if isinstance(block, TileFailed)]
        assert not failed
    image = np.full((bands, at.blocks.rows.length, at.blocks.cols.length), np.nan, np.float32)
    for block in blocks:
        image[:, *block.inputs.box.slices] = block.x
    return image


def at_once(guidance, kind, bands=3, style=STYLE, network=None, prediction=None):
    """The image of passes over all of it."""
    walk = sampler(kind, bands)
    state = walk.begin(inputs(Box(0, 0, HEIGHT, WIDTH), TileKey(0, 0, 0), bands))
    network = network or NETWORKS[bands]
    codes = torch.zeros(1, network.config.style_channels) if style is None else style[None]

    def eps(question, *, style, position):
        drops, t = dropped(1, style=style, position=position), torch.tensor([question.timestep])
        return image_eps(network, question.x_CHW[None], t, codes, drops, prediction=prediction)[0]

    while not walk.finished(state):
        question = walk.ask(state)
        eps_CHW = eps(question, style=style is None, position=False)
        if guidance:
            eps_CHW = away_from(eps(question, style=True, position=True), eps_CHW, guidance)
        state = walk.tell(state, torch.cat([eps_CHW, torch.ones_like(eps_CHW)]))
    return walk.result(state).numpy()


@pytest.mark.parametrize("kind", [Ddim, Ddpm])
@pytest.mark.parametrize(("guidance", "style"), [(0.0, STYLE), (0.5, STYLE), (-0.3, STYLE), (0.0, None)])
def test_blocks_make_the_image_of_passes_over_all_of_it(kind, guidance, style):
    together = at_once(guidance, kind, style=style)
    for exchange in ("pixels", "features"):
        found = drawn(work(exchange, guidance, kind, style=style), lattice(2 * P))
        np.testing.assert_allclose(found, together, atol=1e-5)


STEMMED = replace(nets.PATCHES, codes=None, style_channels=0, channel_mult=(1,), stem=2, in_channels=3)


@pytest.mark.parametrize(("guidance", "detail"), [(0.0, 0), (0.5, 8)])
def test_patches_are_drawn_alike_by_a_network_of_our_own(guidance, detail):
    """One with a stem and without styles, which predicts v; with details pixels are handed over, too."""
    network = nets.network(replace(STEMMED, detail=detail))
    own = {"network": network, "prediction": Prediction("v", tuple(beta_table("linear", 1000))), "style": None}
    together = at_once(guidance, Ddim, **own)
    assert np.abs(together - at_once(guidance, Ddim, network=network, style=None)).mean() > 0.01
    images = [drawn(work(exchange, guidance, **own), lattice(2 * P)) for exchange in ("pixels", "features")]
    np.testing.assert_allclose(images[0], together, atol=1e-5)
    assert np.array_equal(*images)
    assert np.array_equal(drawn(work("pixels", guidance, **own), lattice(P)), images[0])


@pytest.mark.parametrize(("bands", "guidance"), [(1, 0.0), (3, 0.5), (13, 0.0)])
def test_neither_blocks_nor_what_they_exchange_change_a_bit(bands, guidance):
    whole = drawn(work("pixels", guidance, bands=bands), lattice(4 * P), bands)
    for block in (P, 2 * P, 3 * P):
        for exchange in ("pixels", "features"):
            assert np.array_equal(drawn(work(exchange, guidance, bands=bands), lattice(block), bands), whole)


@settings(max_examples=8)
@given(
    block=st.integers(1, 3),
    rows=st.integers(1, 3),
    cols=st.integers(1, 3),
    exchange=st.sampled_from(["pixels", "features"]),
)
def test_images_of_any_size_are_the_same_in_any_blocks(block, rows, cols, exchange):
    shape = rows * P, cols * P
    whole = drawn(work("pixels"), lattice(3 * P, *shape))
    assert np.array_equal(drawn(work(exchange), lattice(block * P, *shape)), whole)


def recorded_network():
    """A network of the reference recordings: all of its weights count."""
    golden = Golden(DATA / "b_weights.npz")
    tensors = state_dict_of(golden)
    return with_weights(config_of(golden.config, **bands_of(tensors)), tensors)


def test_the_same_patches_each_on_their_own_are_another_image():
    """The same noise in the same places; what is beyond a patch is all that is missing."""
    network = recorded_network()
    side, style = network.config.patch, torch.ones(network.config.style_channels)
    halves = Halves(network, style, batch=BATCH, lanes=2, device="cpu")
    made = PatchWork(halves, sampler(Ddim), room=2**30, exchange="pixels", guidance=0.0, styled=True)
    length = 3 * side
    windows = Grid(length, length, side, side, 0, side, least=side)
    together = drawn(made, Lattice(windows, Grid(length, length, length, length, 0, side, least=side)))
    single = Lattice(windows, windows)
    assert np.array_equal(drawn(made, single), together)
    apart = drawn(made, single, exchange=False)
    assert np.abs(apart - together).mean() > 0.05
    lines = (side, 2 * side)
    assert seam_ratio(apart, lines, lines, block=1) != pytest.approx(
        seam_ratio(together, lines, lines, block=1), rel=1e-3
    )


@pytest.mark.parametrize(
    ("kind", "travel"), [(Ddim, {}), (Ddpm, {}), (Repaint, {"travel_length": 2, "travel_repeat": 2})]
)
def test_known_pixels_come_back_in_every_exchange(kind, travel):
    known = np.random.default_rng(0).uniform(-1, 1, (3, HEIGHT, WIDTH)).astype(np.float32)
    known[:, 5:11, 3:10] = np.nan
    given = np.isfinite(known)
    images = [
        drawn(work(exchange, kind=kind, **travel), lattice(block), known=known)
        for exchange, block in (("pixels", 4 * P), ("features", 2 * P))
    ]
    np.testing.assert_allclose(images[0][given], known[given], atol=1e-6)
    assert all(np.array_equal(image, images[0]) for image in images)
    assert np.isfinite(images[0]).all()


def woven(exchange, block, *, seed, looms=2, disturb=lambda cluster: None):
    """The image by looms that trade halos late, twice and in any order, whoever holds which blocks."""
    at, made = lattice(block), work(exchange, steps=4)
    whole = inputs(at.windows.box, TileKey(0, 0, 0))
    return Cluster(made, [Disk(at, whole)], looms=looms, seed=seed).run(disturb)


@pytest.mark.parametrize("exchange", ["pixels", "features"])
def test_no_partition_changes_a_bit(exchange):
    whole = drawn(work("pixels", steps=4), lattice(4 * P))
    for seed in range(5):
        found = woven(exchange, (1 + seed % 3) * P, seed=seed, looms=(2, 4)[seed % 2])
        assert np.array_equal(found.disks[0].result, whole)
        assert found.redone == {}


@pytest.mark.parametrize("exchange", ["pixels", "features"])
@pytest.mark.parametrize("count", [1, 2])
def test_losses_change_no_bit_and_only_lost_blocks_are_drawn_again(exchange, count):
    whole = drawn(work("pixels", steps=4), lattice(4 * P))
    for seed in range(3):
        moment = woven(exchange, P, seed=seed, looms=4).moment()
        found = woven(exchange, P, seed=seed, looms=4, disturb=Losses(moment, count=count, hire=seed % 2))
        assert len(found.lost) == count
        assert np.array_equal(found.disks[0].result, whole)


def test_features_are_handed_over_by_whoever_encodes_them_and_once():
    made, at = work("features"), lattice(2 * P)
    blocks = [made.begin(at, n, inputs(at.box(n), TileKey(0, *at.place(n))), None, 0) for n in range(at.count)]
    pixels = [made.strips(block) for block in blocks]
    # Each block encodes the patches whose centres are its own first corners, and so looks up and to the left.
    assert {n for n, strip in pixels[0].items() if strip} == set(at.around[0])
    assert not any(made.strips(blocks[at.count - 1]).values())
    given_to = [{m: pixels[m][n] for m in at.around[n] if n in pixels[m]} for n in range(at.count)]
    encoded = made.advance(list(zip(blocks, given_to, strict=True)))
    patches = sum(len(block.between[0]) for block in encoded)
    assert patches == (HEIGHT // P + 1) * (WIDTH // P + 1)


def test_a_shape_of_no_rows_is_refused():
    with pytest.raises(InputError, match="batch is 0; give at least 1"):
        Halves(NETWORKS[3], None, batch=0, lanes=1, device="cpu")
