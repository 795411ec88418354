"""Whatever the size, the bands, the type and the task: the exact shape, known pixels to the bit, and A(x) = y."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline import TILE, holes, job, mask_scale_of, measure, restore, result, scale_of, scene
from tileloom.jobs.compile import compile_job
from tileloom.tiling.errors import InputError
from tileloom.tiling.ledger import Ledger

LARGEST = 3 * TILE + 1
TASKS = ("sr:2", "sr:4", "colorize", "inpaint", "old-photo:2", "old-photo:4", "cloudy:2", "cloudy:4")
BANDS = (1, 3, 4, 13)
RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "float32": (-1.0, 1.0)}
NODATA = {"uint8": (None, 255.0), "uint16": (None, 0.0), "float32": (None, float("nan"), -9999.0)}
# Borders on multiples of 4 suit every task and level; the others only those whose blocks have one pixel.
ALIGNED = ((8, 0), (8, 4), (4, 4))
ODD = ((12, 0), (12, 2), (11, 3), (5, 7), (15, 0))


@dataclass(frozen=True)
class Case:
    """One image and one job; height and width in target pixels, rounded up to whole measured values."""

    height: int
    width: int
    task: str
    bands: int
    dtype: str
    out: str
    geometry: tuple[int, int]
    levels: int | str
    nodata: float | None
    seed: int
    weave: str = "msr"

    def __str__(self):
        stride, guard = self.geometry
        return (
            f"{self.weave}-{self.height}x{self.width}-{self.task}-{self.bands}b-{self.dtype}-{self.out}-s{stride}g{guard}"
            f"-L{self.levels}-{self.nodata}"
        )


def _cases():
    """Every size five times in both directions, with everything else drawn so that all pairs of it occur."""
    rng = np.random.default_rng(20)
    sizes = [np.concatenate([rng.permutation(np.arange(1, LARGEST + 1)) for _ in range(5)]) for _ in range(2)]
    combined = list(product(TASKS, BANDS, RANGES))
    rest = [combined[at] for _ in range(3) for at in rng.permutation(len(combined))]
    cases = []
    for seed, (height, width) in enumerate(zip(*sizes, strict=True)):
        task, bands, dtype = rest[seed]
        single = task in ("colorize", "inpaint") and rng.random() < 0.5
        pool = ODD if single else ALIGNED
        cases.append(
            Case(
                int(height),
                int(width),
                task,
                bands,
                dtype,
                "float32" if rng.random() < 0.5 else dtype,
                pool[rng.integers(len(pool))],
                1 if single or rng.random() < 0.3 else "auto",
                NODATA[dtype][rng.integers(len(NODATA[dtype]))],
                seed,
            )
        )
    return cases


CASES = _cases()
QUICK = 24


def _missing(height, width, seed):
    """Where the measurement holds nothing: a rectangle and single pixels, never everything."""
    missing = holes(height, width, share=0.15, seed=1000 + seed)
    missing[-1, -1] = False
    return missing


@dataclass(frozen=True)
class Given:
    """What a case's job is given: y in its own numbers, the mask on its own grid, which values are missing."""

    y: np.ndarray
    mask: np.ndarray | None
    missing: np.ndarray


def _given(case):
    scale, (lo, hi) = scale_of(case.task), RANGES[case.dtype]
    height, width = (-(-size // scale) * scale for size in (case.height, case.width))
    truth = scene(case.bands, height, width, seed=case.seed).astype(np.float64)
    truth = lo + (truth + 1) / 2 * (hi - lo)
    site = mask_scale_of(case.task)
    mask = holes(height // site, width // site, seed=case.seed) if site else None
    y = measure(truth, case.task, mask=mask, middle=(lo + hi) / 2)
    y = y.astype(np.float32) if case.dtype == "float32" else np.rint(y).astype(case.dtype)
    missing = np.zeros(y.shape[1:], bool)
    if case.nodata is not None:
        # A value that equals nodata in the data itself would be missing too.
        y[y == case.nodata] = y.dtype.type(hi / 2)
        missing = _missing(*missing.shape, case.seed)
        y[:, missing] = case.nodata
    return Given(y, mask, missing)


def _spec(case, folder, given):
    stride, guard = case.geometry
    return job(
        folder,
        given.y,
        task=case.task,
        mask=given.mask,
        range=RANGES[case.dtype],
        stride=stride,
        guard=guard,
        weave=case.weave,
        levels=case.levels,
        nodata=case.nodata,
        dtype=case.out,
        bands=case.bands if "colorize" in case.task or "old-photo" in case.task else None,
        publish={"chunk": 64, "shard": 64},
        seed=case.seed,
    )


def _blown_up(values, scale):
    return values.repeat(scale, axis=-2).repeat(scale, axis=-1)


def _exactly_known(case, given):
    """Target pixels that are the input's own: what was measured as it is, and what is missing."""
    missing = _blown_up(given.missing, scale_of(case.task))
    return missing | ~given.mask if case.task == "inpaint" else missing


def _check_known(case, given, out):
    known = _exactly_known(case, given)
    own = np.broadcast_to(_blown_up(given.y, scale_of(case.task)), out.shape)[:, known]
    np.testing.assert_array_equal(
        out[:, known].view(f"u{out.itemsize}"), own.astype(out.dtype).view(f"u{out.itemsize}")
    )
    if case.nodata is not None:
        lost = np.isnan(out) if np.isnan(case.nodata) else out == case.nodata
        np.testing.assert_array_equal(lost.all(axis=0), _blown_up(given.missing, scale_of(case.task)))


def _check_measures_as_y(case, given, out):
    """I8 where the result is float32; where it is rounded, to half a step wherever nothing was clipped."""
    lo, hi = RANGES[case.dtype]
    scale = scale_of(case.task)
    again = measure(out, case.task, mask=given.mask, middle=(lo + hi) / 2)
    counts = ~given.missing
    if given.mask is not None:
        holds = given.mask.shape == counts.shape
        blocks = given.mask if holds else given.mask.reshape(counts.shape[0], scale, counts.shape[1], scale)
        counts &= ~(blocks if holds else blocks.all(axis=(1, 3)))
    tolerance = 1e-5 * (hi - lo)
    if out.dtype.kind != "f":
        tolerance += 0.5
        clipped = ((out == np.iinfo(out.dtype).min) | (out == np.iinfo(out.dtype).max)).any(axis=0)
        counts &= ~clipped.reshape(counts.shape[0], scale, counts.shape[1], scale).any(axis=(1, 3))
    error = np.abs(again - given.y.astype(np.float64))[:, counts]
    assert error.size == 0 or error.max() <= tolerance


def _check(case, given, summary, out):
    scale = scale_of(case.task)
    assert out.shape == (case.bands, *(size * scale for size in given.y.shape[1:]))
    assert out.dtype == case.out
    assert not summary.degraded
    _check_known(case, given, out)
    _check_measures_as_y(case, given, out)


def _check_owned_once(spec, case, given):
    """Every pixel of every level has one owner, and level 0's canvas holds just the tiles with work to do."""
    compiled = compile_job(spec)
    plan = compiled.image.plan
    for level, grid in enumerate(plan.levels):
        owners = np.zeros(grid.box.shape, int)
        for tile in plan.tiles(level):
            owners[plan.owns(tile).slices] += 1
        assert (owners == 1).all()
    grid = plan.levels[0]
    wanted = np.zeros(grid.box.shape, bool)
    known = _exactly_known(case, given)
    wanted[: known.shape[0], : known.shape[1]] = ~known
    expected, tiles = np.zeros_like(wanted), set()
    for tile in plan.tiles(0):
        if wanted[plan.owns(tile).slices].any():
            expected[plan.owns(tile).slices] = True
            tiles.add(tile)
    np.testing.assert_array_equal(_written(spec, grid), expected)
    (root,) = Path(spec.output, ".tileloom").glob("*-0")
    lines = Counter(entry.tile for entry in Ledger(root / "ledger").entries())
    assert set(lines.values()) <= {1}
    assert {tile for tile in lines if tile in plan.tiles(0)} == tiles


def _written(spec, grid):
    """Which pixels of level 0 lie in a chunk that is there."""
    offset = (grid.guard - grid.tile) % grid.stride
    written = np.zeros([size + offset for size in grid.box.shape], bool)
    for chunk in Path(spec.output, ".tileloom").glob("*-0/canvas-0/c/0/*/*"):
        row, col = int(chunk.parent.name) * grid.stride, int(chunk.name) * grid.stride
        written[row : row + grid.stride, col : col + grid.stride] = True
    return written[offset:, offset:]


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=str(case), marks=[pytest.mark.slow] * (at >= QUICK)) for at, case in enumerate(CASES)],
)
def test_exact(case, tmp_path):
    given = _given(case)
    spec = _spec(case, tmp_path, given)
    _check(case, given, restore(spec), result(spec))
    _check_owned_once(spec, case, given)


JOINT = [replace(case, weave="joint", geometry=(case.geometry[0], 0)) for case in CASES[::4]]


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=str(case), marks=[pytest.mark.slow] * (at >= QUICK // 2)) for at, case in enumerate(JOINT)],
)
def test_exact_where_tiles_are_fused(case, tmp_path):
    given = _given(case)
    spec = _spec(case, tmp_path, given)
    _check(case, given, restore(spec), result(spec))


def test_the_sample_is_what_it_claims_to_be():
    assert len({(case.height, case.width) for case in CASES}) >= 200
    for sizes in ([case.height for case in CASES], [case.width for case in CASES]):
        assert set(sizes) == set(range(1, LARGEST + 1))
    for one, other in (("bands", BANDS), ("dtype", tuple(RANGES))):
        assert {(case.task, getattr(case, one)) for case in CASES} == set(product(TASKS, other))
    for facts in (
        lambda case: (case.task, case.geometry[1] > 0),
        lambda case: (case.task, case.out == "float32"),
        lambda case: (case.task, case.nodata is not None),
    ):
        assert set(map(facts, CASES)) == set(product(TASKS, (False, True)))
    assert any(case.nodata is not None and np.isnan(case.nodata) for case in CASES)


@pytest.mark.parametrize("weave", ["msr", "joint"])
@pytest.mark.parametrize("task", ["sr:4", "colorize", "inpaint", "cloudy:4", "old-photo:4"])
def test_exact_through_two_levels(task, weave, tmp_path):
    geometry = (8, 4) if weave == "msr" else (8, 0)
    case = Case(49, 41, task, 3, "float32", "float32", geometry, 2, float("nan"), 7, weave)
    given = _given(case)
    spec = _spec(case, tmp_path, given)
    assert len(compile_job(spec).image.plan.levels) == 2
    summary = restore(spec)
    assert all(summary.bill.solve)
    _check(case, given, summary, result(spec))
    if weave == "msr":
        _check_owned_once(spec, case, given)


@pytest.mark.parametrize(("nodata", "level"), [(0, 1), (255, 254), (7, 7)])
def test_no_restored_pixel_is_taken_for_a_missing_one(nodata, level, tmp_path):
    y = np.full((2, 20, 24), level, np.uint8)
    y[:, 2:5, 6:9] = nodata
    y[1, 10, 10] = nodata
    missing = (y == nodata).all(axis=0)
    spec = job(tmp_path, y, task="sr:2", nodata=nodata, publish={"chunk": 64, "shard": 64})
    restore(spec)
    out = result(spec)
    np.testing.assert_array_equal((out == nodata).all(axis=0), _blown_up(missing, 2))
    np.testing.assert_array_equal((out == nodata).any(axis=0), _blown_up(missing, 2))


@pytest.mark.parametrize("nodata", [float("nan"), -9999.0])
def test_a_type_that_cannot_hold_nodata_is_refused(nodata, tmp_path):
    y = scene(1, 20, 24)
    y[:, 3, 4] = nodata
    spec = job(tmp_path, y, task="sr:2", nodata=nodata, dtype="uint8", range=[-1, 1])
    with pytest.raises(InputError, match=r"dtype uint8 cannot hold .* nodata .* choose float32"):
        restore(spec)
    assert not Path(spec.output).exists()


def test_another_type_keeps_what_is_missing_and_takes_no_known_pixel_for_it(tmp_path):
    y = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 16, 16)
    y[0, 9, :3] = 0.001
    mask = np.zeros((16, 16), bool)
    mask[4:8, 4:8] = True
    spec = job(tmp_path, y, task="inpaint", mask=mask, nodata=0, dtype="uint8", range=[0, 1])
    restore(spec)
    out, known = result(spec)[0], ~mask & (y[0] != 0)
    np.testing.assert_array_equal(out == 0, y[0] == 0)
    np.testing.assert_array_equal(out[known], np.maximum(np.rint(y[0][known] * 255), 1))
