"""Replays sampling runs: DDNM and DDNM+, MSR, HiR, RePaint and the DDIM form of DDNM."""

from tempfile import TemporaryDirectory

import numpy as np
import torch

from tests.golden.networks import classifier_of, unet_of
from tests.golden.recorded import Notes, RecordedNoise, noting
from tests.golden.weaving import Scene, at_random, wavefront, weave
from tileloom.models.contract import Contract
from tileloom.models.ddim import DdnmImplicit
from tileloom.models.denoiser import Condition, Pull
from tileloom.models.guidance import Guided
from tileloom.models.networks import AdmDenoiser
from tileloom.models.parity import Parity
from tileloom.models.repaint import Repaint
from tileloom.models.schedule import Schedule, betas, jump_times, respace, space_timesteps
from tileloom.models.solvers import Ddnm
from tileloom.tiling.box import Box
from tileloom.tiling.measurement import MaskSite, Measurement

BOUNDS, TOTAL = (-1.0, 1.0), 1000
TABLE, LEAST, OF_FLOOR = 1e-12, 2e-4, 10
# Single precision, once and after a walk that nothing bounds.
SINGLE, UNBOUNDED = 1e-6, 1e-5
SITES = {"inpainting": MaskSite.MEASURED, "mask_color_sr": MaskSite.TARGET}
SCALED, GRAY = ("sr_averagepooling", "sr_color", "mask_color_sr"), ("colorization", "sr_color", "mask_color_sr")


def denoiser_of(golden):
    """The network of a file, and the classifier that guides it where it has one."""
    network = unet_of(golden)
    multiple = network.config.size_multiple
    terms = Contract("golden", bands=3, size_multiple=multiple, native_tile=multiple, smallest_tile=multiple)
    denoiser = AdmDenoiser(network, terms)
    return Guided(denoiser, classifier_of(golden)) if guides(golden.config) else denoiser


def guides(config):
    return config.get("classifier") is not None


def told_of(config, factor=2):
    """What the network of a file is told of every tile."""
    label = config["class_label"] if config.get("class_cond") else None
    pull = Pull(config["class_label"], config["classifier_scale"]) if guides(config) else None
    return Condition(factor=factor, label=label, pull=pull)


def measurement_of(deg, scale, sigma=0.0):
    """What a recorded operator measures; ``sigma`` on the model's range."""
    if deg not in (*SCALED, *GRAY, *SITES):
        raise ValueError(f"no operator is called {deg}")
    return Measurement(scale if deg in SCALED else 1, deg in GRAY, SITES.get(deg, MaskSite.NONE), sigma / 2)


def known_of(golden):
    """Where pixels are known, the same in all bands."""
    if "mask" not in golden:
        return None
    mask = golden["mask"].reshape(-1, *golden["mask"].shape[-2:])
    if not np.isin(mask, (0, 1)).all() or (mask != mask[0]).any():
        raise ValueError("mask is not 0 or 1, the same in all bands")
    return mask[0] == 1


def tolerance(config, floor="backend_dev_final"):
    return max(LEAST, OF_FLOOR * config.get(floor, config["backend_dev_final"]))


class Respaced:
    """The walk of a file by its settings, and the draws that the product numbers along it."""

    def __init__(self, golden, *, known=False):
        jump = dict(golden.config["jump"])
        self.golden, self.known = golden, known
        timesteps = space_timesteps(TOTAL, golden.config["respace"])
        times = jump_times(jump.pop("t_T"), **jump)
        self.schedule = Schedule(respace(betas("linear", TOTAL), timesteps), timesteps, times)

    def compared(self):
        yield self.golden.exact("times", self.schedule.times)
        yield self.golden.exact("timestep_map", self.schedule.timesteps)
        yield self.golden.relative("betas", self.schedule.betas, TABLE)

    def draws(self, *, begins=True):
        """(kind, index, number) of every draw of one tile, in the order of the recorded programs."""
        found = [("init", -1, 0)] if begins else []
        for position, (kind, i) in enumerate(self.schedule.transitions()):
            found.append(("step" if kind == "reverse" else "undo", i, position + 1))
            if self.known and kind == "reverse" and position:
                found.append(("known", i, len(self.schedule.times) + position))
        return found

    @property
    def reverse(self):
        return [i for kind, i in self.schedule.transitions() if kind == "reverse"]


def numbered(golden, boxes, drawn):
    """The recorded noise by box and number, and how the file's own account of it compares."""
    noise = golden.tensor("noise")[:, 0]
    expected = [(kind, i, tile) for tile, draws in enumerate(drawn) for kind, i, _ in draws]
    yield_all = [same(golden, "noise_kind", [kind for kind, _, _ in expected])]
    yield_all.append(golden.exact("noise_t", [i for _, i, _ in expected]))
    if "noise_tile" in golden:
        yield_all.append(golden.exact("noise_tile", [tile for _, _, tile in expected]))
    left = iter(noise)
    by_box = {box: {number: next(left) for _, _, number in draws} for box, draws in zip(boxes, drawn, strict=True)}
    return RecordedNoise(golden.name, by_box), yield_all


def same(golden, name, words):
    """Words compare by how many of them differ."""
    theirs = golden[name]
    differ = np.inf if len(theirs) != len(words) else np.count_nonzero(theirs != np.array(words))
    return golden.compared(name, float(differ))


def woven(golden):
    """Files ddnm_tile_*, ddnmplus_*, msr_* and hir_*."""
    config, walk = golden.config, Respaced(golden)
    carry = not config.get("fresh_xT", False)
    scene = Scene(
        measurement_of(config["deg"], config["scale"], config["sigma_y"]),
        golden["gt"][0],
        measured=config["resize_y"],
        tile=config["tile"],
        known=known_of(golden),
        coarse=golden["hir_ref"][0] if "hir_ref" in golden else None,
        factor=config.get("hir_scale", 2),
        carry=carry,
    )
    plan = scene.plan()
    tiles = plan.tiles(0)
    boxes = [plan.sees(tile) for tile in tiles]
    yield from walk.compared()
    yield golden.exact("tiles", [_row(plan, tile) for tile in tiles])
    drawn = [walk.draws(begins=not (carry and number)) for number in range(len(tiles))]
    noise, account = numbered(golden, boxes, drawn)
    yield from account
    notes = Notes()
    parity = Parity(released_lambda=True, released_pinv=True)
    told = told_of(config, scene.factor)
    solver = noting(Ddnm, notes)(walk.schedule, noise, 3, BOUNDS, told=told, parity=parity)
    denoiser = denoiser_of(golden)
    with TemporaryDirectory() as folder:
        final = weave(scene, denoiser, solver, f"{folder}/raster")
        came_to = golden.absolute("x_final", final[None], tolerance(config))
        yield came_to
        yield from _traced(golden, walk, notes, boxes)
        if not carry and came_to.ok:
            for order in (wavefront, at_random):
                again = weave(scene, denoiser, solver, f"{folder}/{order.__name__}", order)
                yield golden.compared(f"bits of {order.__name__}", float(np.count_nonzero(again != final)))
        if "x_final_intended" in golden:
            notes = Notes()
            parity = Parity(released_pinv=True)
            mended = noting(Ddnm, notes)(walk.schedule, noise, 3, BOUNDS, told=told, parity=parity)
            final = weave(scene, denoiser, mended, f"{folder}/intended")
            yield golden.absolute("x_final_intended", final[None], tolerance(config))
            yield from _traced(golden, walk, notes, boxes, suffix="_intended")


def _row(plan, tile):
    key, box = plan.key(tile), plan.sees(tile)
    return [key.row, key.col, box.top, box.bottom, box.left, box.right]


def _traced(golden, walk, notes, boxes, *, suffix=""):
    """What was recorded of every reverse step."""
    if "trace_t" not in golden:
        return
    yield golden.exact("trace_t", walk.reverse * len(boxes))
    if "trace_tile" in golden:
        yield golden.exact("trace_tile", np.repeat(np.arange(len(boxes)), len(walk.reverse)))
    agreed, states = notes.all("agreed", boxes), notes.all("states", boxes)
    allowed = tolerance(golden.config, "backend_dev_sample_max")
    # A guess is so much more uncertain than eps.
    scale = np.maximum(1, walk.schedule.sqrt_recipm1_abar[walk.reverse * len(boxes)])
    ours = {
        "trace_x0": (agreed, scale[:, None, None, None, None]),
        "trace_sample": (states, 1),
        "trace_x0_mean": (agreed.mean(axis=(1, 2, 3, 4), dtype=np.float64), scale),
        "trace_sample_std": (states.std(axis=(1, 2, 3, 4), dtype=np.float64), 1),
    }
    for name, (value, unit) in ours.items():
        if name + suffix in golden:
            yield golden.absolute(name + suffix, value, allowed, unit)


def repaint(golden):
    """Files repaint_*: the raw sample, as the recorded program returns it."""
    config, walk = golden.config, Respaced(golden, known=True)
    gt, size = golden["gt"][0], golden["gt"].shape[-1]
    scene = Scene(measurement_of("inpainting", 1), gt, measured=True, tile=size, known=known_of(golden))
    box = Box(0, 0, size, size)
    yield from walk.compared()
    noise, account = numbered(golden, [box], [walk.draws()])
    yield from account
    notes = Notes()
    solver = noting(Repaint, notes)(walk.schedule, noise, 3, BOUNDS, paste=False, told=told_of(config))
    with TemporaryDirectory() as folder:
        final = weave(scene, denoiser_of(golden), solver, f"{folder}/raster", raw=True)[None]
    yield golden.absolute("x_final", final, tolerance(config))
    yield golden.absolute("pred_xstart_final", notes.all("agreed", [box])[-1], tolerance(config))
    yield from _traced(golden, walk, notes, [box])
    # Truncated numbers differ by one wherever rounding crosses a whole one: ours must lie in the step theirs names.
    levels = ((final.transpose(0, 2, 3, 1) + 1) * 127.5).clip(0, 255)
    within = levels.clip(golden["u8_final"], golden["u8_final"] + 1.0)
    yield golden.compared("u8_final", float(np.abs(levels - within).max()), 127.5 * tolerance(config))


def implicit(golden):
    """Files ddim_ddnm_*: the DDIM form of DDNM, on one window."""
    config, size = golden.config, golden.config["tile"]
    travel = config["time_travel"]
    count, skip = travel["T_sampling"], TOTAL // travel["T_sampling"]
    timesteps = tuple(range(0, count * skip, skip))
    times = jump_times(count, jump_length=travel["travel_length"], jump_n_sample=travel["travel_repeat"])
    walk = Schedule(respace(betas("linear", TOTAL), timesteps), timesteps, times)
    yield golden.exact("times", walk.times)
    yield golden.relative("betas", betas("linear", TOTAL), SINGLE)
    simplified = "_simplified_" in golden.name
    parity = Parity(simplified=simplified, svd_colors=not simplified)
    deg, known = config["deg"], known_of(golden)
    measurement = measurement_of(deg, config["deg_scale"], 2 * config["sigma_y"])
    scene = Scene(measurement, golden["image"][0], measured=False, tile=size, known=known, parity=parity)
    yield golden.absolute("y", _measured(scene).reshape(golden["y"].shape), SINGLE)
    if "Apy" in golden:
        yield golden.absolute("Apy", scene.operator.pinv(torch.from_numpy(scene.y))[None], SINGLE)
    box = Box(0, 0, size, size)
    transitions = list(enumerate(walk.transitions(), start=1))
    draws = [("init", -1, 0)]
    draws += [("step" if kind == "reverse" else "undo", i * skip, number) for number, (kind, i) in transitions]
    noise, account = numbered(golden, [box], [draws])
    yield from account
    notes = Notes()
    solver = noting(DdnmImplicit, notes)(walk, noise, 3, None, told=told_of(config), parity=parity, eta=config["eta"])
    with TemporaryDirectory() as folder:
        final = weave(scene, denoiser_of(golden), solver, f"{folder}/raster", raw=True)[None]
    guesses = notes.all("guesses", [box])
    ours = {
        "x_final": final,
        "x0_last": guesses[-1],
        "trace_x0": guesses,
        "trace_x": notes.all("travelled", [box]),
    }
    for name, value in ours.items():
        if name in golden:
            yield golden.of_its_largest(name, value, UNBOUNDED)


def _measured(scene):
    """The measurement as files have it: lost pixels are 0."""
    return scene.y if scene.known is None else scene.y * scene.known
