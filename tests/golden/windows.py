"""Replays sampling runs of one window: RePaint and the DDIM form of DDNM."""

import numpy as np
import torch

from tests.golden.recorded import Notes, noting
from tests.golden.sampling import BOUNDS, OF_FLOOR, tolerance, traced
from tests.golden.scenes import BANDS, Observed, denoiser_of, engine_of, known_of, measurement_of, told_of
from tests.golden.walks import SINGLE, Respaced, Strided, numbered, walked
from tileloom.models.ddim import DdnmImplicit
from tileloom.models.parity import Parity
from tileloom.models.repaint import Repaint
from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.errors import TileFailed
from tileloom.tiling.measurement import MaskSite
from tileloom.tiling.work import TileInputs

# Of what is largest, after a walk that nothing bounds.
UNBOUNDED = 1e-5


def inputs_of(at, observed):
    """The only tile of an image of a batch."""
    y, known = observed.y, observed.known
    measured = known if observed.measurement.mask is MaskSite.MEASURED else np.ones(y.shape, bool)
    return TileInputs(
        image=str(at),
        key=TileKey(0, 0, 0),
        box=_box(observed),
        measurement=observed.measurement,
        y=np.where(measured, y, np.float32(0)),
        measured=measured,
        visible=observed.visible,
    )


def _box(observed):
    return Box(0, 0, *observed.shape)


def drawn(denoiser, solver, images):
    """The windows as the solver leaves them."""
    engine = engine_of(denoiser, solver, images[0].shape)
    return np.stack([_drawn(engine, inputs_of(at, observed)) for at, observed in enumerate(images)])


def _drawn(engine, inputs):
    state = engine.begin(inputs)
    while not engine.finished(state):
        (state,) = engine.step([state])
        if isinstance(state, TileFailed):
            raise state
    return engine.finish(state)


def repaint(golden):
    """Files repaint_*: the raw sample, as the recorded program returns it."""
    config, walk, gt = golden.config, Respaced(golden, known=True), golden["gt"]
    known = known_of(golden, len(gt))
    images = [
        Observed(one, measurement_of("inpainting", 1), Parity(), where) for one, where in zip(gt, known, strict=True)
    ]
    box = _box(images[0])
    yield from walk.compared()
    yield from walked(golden, walk, 1)
    noise, account = numbered(golden, [box], [walk.draws()])
    yield from account
    notes = Notes()
    solver = noting(Repaint, notes)(walk.schedule, noise, BANDS, BOUNDS, paste=False, told=told_of(config))
    final, allowed = drawn(denoiser_of(golden), solver, images), tolerance(config)
    yield golden.absolute("x_final", final, allowed)
    guess = notes.all("agreed", [box], len(gt))[-1]
    yield from golden.each("absolute", {"pred_xstart_final": guess}, allowed)
    yield from traced(golden, walk, notes, [box])
    yield from golden.each("truncated", {"u8_final": (final.transpose(0, 2, 3, 1) + 1) * 127.5}, 127.5 * allowed)


def implicit(golden):
    """Files ddim_ddnm_*: the DDIM form of DDNM."""
    config, walk, clean = golden.config, Strided(golden), golden["image"]
    simplified = "simplified" in golden.name
    parity = Parity(simplified=simplified, svd_colors=not simplified, released_pinv=True)
    measurement = measurement_of(config["deg"], config["deg_scale"], 2 * config["sigma_y"])
    known = known_of(golden, len(clean))
    images = [Observed(one, measurement, parity, where) for one, where in zip(clean, known, strict=True)]
    box = _box(images[0])
    yield from walk.compared()
    yield golden.compared("config tile", max(abs(config["tile"] - side) for side in images[0].shape))
    yield from golden.each("absolute", measured(golden, images), SINGLE)
    noise, account = numbered(golden, [box], [walk.draws()])
    yield from account
    notes = Notes()
    how = {"told": told_of(config), "parity": parity, "eta": config["eta"]}
    solver = noting(DdnmImplicit, notes)(walk.schedule, noise, BANDS, None, **how)
    final = drawn(denoiser_of(golden), solver, images)
    floor = OF_FLOOR * config.get("backend_dev_final", 0) / np.abs(golden["x_final"]).max()
    allowed = max(UNBOUNDED, float(floor))
    yield golden.of_its_largest("x_final", final, allowed)
    guesses, travelled = (notes.all(book, [box], len(clean)) for book in ("guesses", "travelled"))
    ours = {"x0_last": guesses[-1], "trace_x0": guesses, "trace_x": travelled}
    yield from golden.each("of_its_largest", ours, allowed)


def measured(golden, images):
    """y and its pseudo-inverse in the forms that files have them."""
    ours = {}
    if "y" in golden:
        ours["y"] = np.stack([_as_stored(observed, golden["y"]) for observed in images])
    if "Apy" in golden:
        ours["Apy"] = np.stack([one.operator.pinv(torch.tensor(_lost_as_zero(one))).numpy() for one in images])
    return ours


def _lost_as_zero(observed):
    return inputs_of(0, observed).y


def _as_stored(observed, theirs):
    """One image's y: as an image, of three bands where gray is kept so, or flat and then without lost pixels."""
    y = _lost_as_zero(observed)
    if theirs.ndim > 2:
        return np.broadcast_to(y, (theirs.shape[1], *y.shape[1:])) if len(y) == 1 else y
    if observed.measurement.mask is MaskSite.MEASURED:
        # Pixel by pixel, the bands of each side by side.
        return observed.y.transpose(1, 2, 0)[observed.known.transpose(1, 2, 0)]
    return y.reshape(-1)
