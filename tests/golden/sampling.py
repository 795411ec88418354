"""Replays sampling runs in tiles: DDNM and DDNM+, MSR and HiR."""

from tempfile import TemporaryDirectory

import numpy as np

from tests.golden.recorded import Notes, noting
from tests.golden.scenes import BANDS, Observed, denoiser_of, known_of, measurement_of, told_of
from tests.golden.walks import Respaced, numbered, walked
from tests.golden.weaving import Scene, at_random, raster, wavefront, weave
from tileloom.models.parity import Parity
from tileloom.models.solvers import Ddnm
from tileloom.tiling.observe import repeat

BOUNDS = (-1.0, 1.0)
LEAST, OF_FLOOR = 2e-4, 10
INTENDED = Parity(released_pinv=True, coarse_everywhere=True)
RELEASED = Parity(released_pinv=True, coarse_everywhere=True, released_lambda=True)


def tolerance(config, floor="backend_dev_final"):
    return max(LEAST, OF_FLOOR * config.get(floor, config.get("backend_dev_final", 0)))


def scenes_of(golden):
    """The images of a file, one for each of its batch."""
    config, gt = golden.config, golden["gt"]
    # A low resolution image is a clean one of large pixels, which measures as it is.
    clean = repeat(gt, config["scale"]) if config["resize_y"] else gt
    measurement = measurement_of(config["deg"], config["scale"], config["sigma_y"])
    return [
        Scene(
            str(at),
            Observed(clean[at], measurement, RELEASED, known),
            tile=config["tile"],
            coarse=golden["hir_ref"][at] if "hir_ref" in golden else None,
            factor=config.get("hir_scale", 2),
            carry=not config.get("fresh_xT", False),
        )
        for at, known in enumerate(known_of(golden, len(gt)))
    ]


def woven(golden):
    """Files ddnm_tile_*, ddnmplus_*, msr_* and hir_*."""
    walk, scenes = Respaced(golden), scenes_of(golden)
    plan = scenes[0].plan()
    boxes = [plan.sees(tile) for tile in plan.tiles(0)]
    yield from walk.compared()
    yield from golden.each("exact", {"tiles": [_row(plan, tile) for tile in plan.tiles(0)]})
    yield from walked(golden, walk, len(boxes))
    carry = scenes[0].carry
    noise, account = numbered(golden, boxes, [walk.draws(begins=not (carry and at)) for at in range(len(boxes))])
    yield from account
    denoiser = denoiser_of(golden)
    for parity, suffix in ((RELEASED, ""), (INTENDED, "_intended")):
        if f"x_final{suffix}" not in golden and suffix:
            continue
        notes = Notes()
        solver = noting(Ddnm, notes)(walk.schedule, noise, BANDS, BOUNDS, told=told_of(golden.config), parity=parity)
        final = _all(scenes, denoiser, solver)
        came_to = golden.absolute(f"x_final{suffix}", final, tolerance(golden.config))
        yield came_to
        yield from traced(golden, walk, notes, boxes, suffix=suffix)
        if not carry and came_to.ok and not suffix:
            for order in (wavefront, at_random):
                again = _all(scenes, denoiser, solver, order)
                yield golden.compared(f"bits of {order.__name__}", float(np.count_nonzero(again != final)))


def _all(scenes, denoiser, solver, order=raster):
    """Every image of a batch, each woven by itself."""
    with TemporaryDirectory() as folder:
        return np.stack([weave(scene, denoiser, solver, f"{folder}/{scene.name}", order) for scene in scenes])


def _row(plan, tile):
    key, box = plan.key(tile), plan.sees(tile)
    return [key.row, key.col, box.top, box.bottom, box.left, box.right]


def traced(golden, walk, notes, boxes, *, suffix=""):
    """What was recorded of every reverse step."""
    images = len(golden["gt"])
    agreed, states = notes.all("agreed", boxes, images), notes.all("states", boxes, images)
    allowed = tolerance(golden.config, "backend_dev_sample_max")
    # A guess is so much more uncertain than eps, and a state by its size where the network makes it large.
    guess = np.maximum(1, np.tile(walk.schedule.sqrt_recipm1_abar[walk.reverse], len(boxes)))
    size = np.maximum(1, np.abs(states))
    ours = {
        "trace_x0": (agreed, guess[:, None, None, None, None]),
        "trace_sample": (states, size),
        # Over thousands of pixels, errors all but cancel.
        "trace_x0_mean": (agreed.mean(axis=(1, 2, 3, 4), dtype=np.float64), 0.1),
        "trace_sample_std": (states.std(axis=(1, 2, 3, 4), dtype=np.float64), 0.1),
    }
    for name, (value, unit) in ours.items():
        yield from golden.each("absolute", {name + suffix: value}, allowed, unit)
