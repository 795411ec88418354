"""From a job to a plan: geometry, what is known at each level, the bill. Loads no network and writes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

import numpy as np

from ..models.contract import Contract
from ..models.kinds import contract_of
from ..models.parity import SVD_COLORS
from ..models.schedule import schedule
from ..tiling.access import ImagePlan
from ..tiling.blank_source import is_blank
from ..tiling.box import Box
from ..tiling.errors import InputError
from ..tiling.georeference import whereabouts
from ..tiling.grid import Grid, grid_align, legal_triple
from ..tiling.labels import LabelPlan
from ..tiling.lockstep import Lattice, nearest_block
from ..tiling.measurement import Lift, MaskSite, Measurement
from ..tiling.place import Place, place
from ..tiling.plan import WeavePlan
from ..tiling.pyramid import PyramidSpec
from ..tiling.raster import RasterPlan
from ..tiling.scaling import DEFAULT_RANGES, Scaling
from ..tiling.source import Source, SourceFacts, open_labels, open_mask, open_source
from .drawing import Drawing, Weave, drawing_of
from .holes import refuse_unfit
from .labels import label_plan
from .spec import JobSpec

FEW_TILES = 4
# A byte each is held while a job is planned.
MOST_TILES = 2**31
# Tiles along a side of a block, about, where the job leaves that open; patches of a network that exchanges them.
_BLOCK_TILES, _BLOCK_PATCHES = 4, 8
DEFAULT_BANDS = 3


@dataclass(frozen=True)
class Compiled:
    """A job, checked and laid out; ``resolved`` is what its "auto" fields came to.

    ``trusted``: a model that is code may be run.
    """

    spec: JobSpec
    image: ImagePlan
    contract: Contract
    calls_per_tile: int
    source: SourceFacts
    resolved: dict[str, Any]
    trusted: bool = False

    @property
    def weave(self) -> Weave:
        """How it is woven."""
        weave: Weave = self.resolved["weave"]
        return weave

    @property
    def tile(self) -> int:
        """Pixels along a side of a tile."""
        return (self.image.lattices[0].windows if self.image.lattices else self.image.plan.levels[0]).tile


def reach_stores(spec: JobSpec) -> None:
    """Refuse a job of which a store cannot be used, before anything waits for one that is merely away."""
    for address in filter(None, (spec.input, spec.mask, spec.labels, spec.instances, spec.output)):
        place(address).reach()


def compile_job(spec: JobSpec, *, contract: Contract | None = None, trusted: bool = False) -> Compiled:
    """Check a job against its input and model, and lay out its tiles.

    With a ``contract`` neither the model nor a classifier is looked at; without, a model that is code is run, only
    if ``trusted``.
    """
    _refuse_inside_another(place(spec.output))
    source = open_source(spec.input)
    measurement = spec.measurement
    if contract is None:
        contract, guide = contract_of(spec.model, trusted=trusted), spec.guide
        refuse_unfit(spec, contract)
    else:
        # Whoever looks at a result may lack the classifier as well as the model.
        guide = None
    bands = _bands(spec, source, measurement, contract)
    weave = _weave(spec, contract)
    _check_weave(spec, weave, contract)
    size, given = _framed(spec, source)
    measurements, lifts, grids = _levels(spec, size, measurement, contract, weave)
    lattices = tuple(_lattice(spec, grid) for grid in grids) if weave in ("joint", "patches") else ()
    contract.check((grids[0].tile, grids[0].tile), bands)
    contract.check_batch(least_batch(spec, contract))
    _check_mask(spec, source, measurement)
    _check_quirks(spec, bands, grids[0])
    if guide:
        guide.check(grids[0].tile)
    known = {
        "measurements": measurements,
        "lifts": lifts,
        "given": given,
        "labels": _labels(spec, size, contract),
        "scaling": _scaling(spec, source, contract),
    }
    image = _image(spec, source, size, bands=bands, grids=grids, lattices=lattices, known=known)
    drawing = drawing_of(spec, contract, weave)
    resolved = {
        **drawing._asdict(),
        "tile": grids[0].tile,
        "stride": grids[0].stride,
        "guard": grids[0].guard,
        "weave": weave,
        "block": lattices[0].blocks.tile if lattices else None,
        "levels": len(grids),
        "bands": bands,
        "range": image.scaling.listed,
        "dtype": image.result.dtype,
        "nodata": None if image.nodata is None else repr(float(image.nodata)),
    }
    calls = _calls(spec, contract, drawing)
    return Compiled(spec, image, contract, calls, _facts(spec, source, image), resolved, trusted)


def _labels(spec: JobSpec, size: tuple[int, int], contract: Contract) -> LabelPlan | None:
    """The maps of what the result shows, which are as large as that; ``size`` is that of the measured grid."""
    return label_plan(
        contract,
        labels=spec.labels,
        instances=spec.instances,
        classes=spec.classes,
        size=(spec.measurement.scale * size[0], spec.measurement.scale * size[1]),
        paint=spec.normal_task.paint,
    )


def _facts(spec: JobSpec, source: Source, image: ImagePlan) -> SourceFacts:
    """What the result keeps of its source; a map of labels knows where a blank image lies, and nothing else of it."""
    told = SourceFacts.of(source)
    if spec.labels and is_blank(spec.input):
        told = replace(told, metadata=whereabouts(open_labels(spec.labels).metadata))
    return replace(told, bands=image.measured_shape[0])


def _calls(spec: JobSpec, contract: Contract, drawing: Drawing) -> int:
    """Network calls of a tile: every iteration is one where holes are filled."""
    if contract.holes:
        return drawing.steps
    travelled = schedule(
        contract.betas,
        steps=drawing.steps,
        travel_length=spec.travel.length,
        travel_repeat=spec.travel.repeat,
        total=contract.timesteps,
        jumps=spec.travel.jumps,
        spacing=drawing.spacing,
        begin=drawing.begin,
    )
    return travelled.calls


def refuse_unlike(first: Compiled, other: Compiled, where: str) -> None:
    """Refuse an image of an archive for which the batch that its first image asks for has no room."""
    ours, theirs = (first.tile, first.image.bands), (other.tile, other.image.bands)
    if ours != theirs:
        raise InputError(
            f"{where}: it has tiles of {theirs[0]} pixels and {theirs[1]} bands, the archive's first image "
            f"tiles of {ours[0]} pixels and {ours[1]} bands: put it into an archive of its own kind"
        )


def _refuse_inside_another(output: Place) -> None:
    """Refuse an output that would lie inside a Zarr group or array, whose own files could replace it."""
    for folder in output.parents:
        if any((folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")):
            raise InputError(f"{output} lies inside {folder}, which is Zarr already: choose an output beside it")


def least_batch(spec: JobSpec, contract: Contract) -> int:
    """Tiles in one call of the network, at least: auto is found when the job begins."""
    return contract.batch_limits[0] if spec.batch == "auto" else spec.batch


def most_lanes(spec: JobSpec) -> int:
    """Calls of the network side by side, at most: auto is found when the job begins, up to one a core."""
    return len(os.sched_getaffinity(0)) if spec.lanes == "auto" else spec.lanes


def _image(
    spec: JobSpec,
    source: Source,
    size: tuple[int, int],
    *,
    bands: int,
    grids: list[Grid],
    lattices: tuple[Lattice, ...],
    known: dict[str, Any],
) -> ImagePlan:
    """What workers must know of the image; where it works is decided when the job begins."""
    dtype = np.dtype(spec.dtype or source.dtype)
    nodata = source.nodata if spec.nodata is None else spec.nodata
    own_numbers = dtype == _numbers(spec, source) or dtype.kind == "f"
    height, width = (spec.measurement.scale * length for length in size)
    publish = spec.publish
    result = PyramidSpec(bands, height, width, dtype.name, nodata, chunk=publish.chunk, shard=publish.shard)
    if nodata is not None and not own_numbers and result.fill is None:
        raise InputError(
            f"dtype {dtype.name} cannot hold {nodata:g}, the nodata value of {spec.input}: "
            "choose float32, or leave dtype out"
        )
    return ImagePlan(
        name=spec.id,
        input=spec.input,
        mask=spec.mask,
        root="",
        bands=bands,
        result_scaling=known["scaling"] if own_numbers else Scaling(*DEFAULT_RANGES[dtype.name]),
        nodata=nodata,
        plan=_plan(spec, tuple(lattice.blocks for lattice in lattices) or tuple(grids)),
        result=result,
        coarse_everywhere=spec.parity.coarse_everywhere,
        lattices=lattices,
        **known,
    )


def _numbers(spec: JobSpec, source: Source) -> np.dtype[Any]:
    """The type of the values that are given; where nothing is, there are none but those of the result."""
    return np.dtype(spec.dtype or source.dtype) if is_blank(spec.input) else source.dtype


def _scaling(spec: JobSpec, source: Source, contract: Contract) -> Scaling:
    """From the input's values to the model's: as the job says, as the model has learned them, or as is usual."""
    numbers, spans = _numbers(spec, source), contract.spans
    usual = DEFAULT_RANGES[numbers.name]
    if spec.range or spans is None:
        return Scaling(*(spec.range or usual))
    learned = Scaling.of(spans)
    if contract.dtype != numbers.name and learned != Scaling(*usual):
        low, high = learned.ends
        if is_blank(spec.input) and contract.dtype:
            raise InputError(
                f"dtype is {numbers.name}, and model {contract.name} learned from {contract.dtype} values: set dtype "
                f"to {contract.dtype}, or give the range of values that means {low:g} to {high:g}"
            )
        raise InputError(
            f"range is missing: model {contract.name} learned from {contract.dtype or 'other'} values of {low:g} to "
            f"{high:g}, and {spec.input} has values of type {numbers.name}: give the range of these that means the "
            f"same, such as [{usual[0]:g}, {usual[1]:g}]"
        )
    if spec.measurement.gray and isinstance(learned.lo, tuple):
        raise InputError(
            f"range is missing: model {contract.name} has one for each band, and a gray image has one band: give the "
            "range of its values"
        )
    return learned


def _plan(spec: JobSpec, grids: tuple[Grid, ...]) -> WeavePlan:
    return (RasterPlan if spec.parity.carry else WeavePlan)(grids, factor=spec.factor)


def _lattice(spec: JobSpec, windows: Grid) -> Lattice:
    """A level of windows, cut into blocks; where the job leaves their size open they are no larger than the level."""
    cell, tile = windows.stride, windows.tile
    side = spec.lockstep.block
    if side == "auto":
        needed = max(windows.rows.length, windows.cols.length)
        # Patches that two blocks encode are one in so many, windows that one block sends another are more anyway.
        tiles = _BLOCK_PATCHES if cell == tile else _BLOCK_TILES
        side = max(-(-tile // cell), min(tiles * tile // cell, -(-needed // cell))) * cell
    nearest = nearest_block(windows, side)
    if side != nearest:
        raise InputError(
            f"lockstep.block is {side}, and tiles of {tile} pixels {cell} apart need a multiple of {cell} that is no "
            f"smaller than a tile: the nearest is {nearest}"
        )
    return Lattice(windows, Grid(windows.height, windows.width, side, side, 0, windows.align, least=tile))


def _bands(spec: JobSpec, source: Source, measurement: Measurement, contract: Contract) -> int:
    """Bands of the result; a gray measurement has one, of which any number may be made, and a blank image none."""
    if is_blank(spec.input):
        return spec.bands or contract.bands or DEFAULT_BANDS
    if not measurement.gray:
        return source.bands
    if source.bands != 1:
        raise InputError(
            f"{spec.input} has {source.bands} bands, and colorize starts from one: save the gray image with one band"
        )
    return spec.bands or contract.bands or DEFAULT_BANDS


def _weave(spec: JobSpec, contract: Contract) -> Weave:
    """How the job is woven; refuses a model that this does not suit."""
    if spec.weave == "auto":
        return "patches" if contract.patch else "msr"
    if spec.weave == "patches" and not contract.patch:
        raise InputError(
            f"weave is patches, and model {contract.name} draws windows of any size instead: set weave to msr or joint"
        )
    return spec.weave


def _check_weave(spec: JobSpec, weave: Weave, contract: Contract) -> None:
    """Refuse what a weave that the job left open has no use for; of one that it names the job file is refused."""
    if weave != "joint" and weave != "patches":
        return
    if spec.lockstep.exchange == "features" and weave == "joint":
        raise InputError("lockstep.exchange is features, and only patches have some: leave it out, or see to the weave")
    for name in ("carry", "half_stride"):
        if getattr(spec.parity, name):
            raise InputError(f"parity.{name} is of tiles that go on from each other, and the weave is {weave}: drop it")
    if weave == "joint":
        return
    for name in ("tile", "stride", "guard"):
        if getattr(spec, name) != "auto":
            raise InputError(
                f"{name} is {getattr(spec, name)}, and the patches of model {contract.name} are as large as they are: "
                f"leave {name} out, or set weave to msr or joint"
            )
    if spec.guidance.classifier:
        raise InputError(
            "guidance.classifier guides windows, and the weave is patches: leave it out, or set weave to msr or joint"
        )


def _framed(spec: JobSpec, source: Source) -> tuple[tuple[int, int], Box | None]:
    """(rows, columns) of the measured grid, and what of it is given; None: all of it."""
    task = spec.normal_task
    if task.blank:
        return (source.height, source.width), Box(0, 0, 0, 0)
    left, top, right, bottom = task.margins
    size = top + source.height + bottom, left + source.width + right
    return size, Box(0, 0, source.height, source.width).shift(top, left) if any(task.margins) else None


def _levels(
    spec: JobSpec, measured: tuple[int, int], measurement: Measurement, contract: Contract, weave: Weave
) -> tuple[tuple[Measurement, ...], tuple[Lift, ...], list[Grid]]:
    """What is known at each level, and its grid; as many levels as the job asks for, or as few tiles need."""
    chain, lifts = _chain(spec, measurement)
    height, width = (measurement.scale * length for length in measured)
    for count in range(1, len(chain) + 1):
        tile, stride, guard = _geometry(spec, chain[:count], contract, weave)
        grids: list[Grid] = []
        size = height, width
        for level in range(count):
            align = grid_align(chain[level].align, spec.factor if level + 1 < count else None)
            grids.append(Grid(*size, tile, stride, guard, lcm(align, tile) if weave == "patches" else align))
            size = grids[-1].rows.length // spec.factor, grids[-1].cols.length // spec.factor
        if grids[0].count > MOST_TILES:
            raise InputError(
                f"{spec.input} would be cut into {grids[0].count} tiles, and at most {MOST_TILES} can be: "
                "choose a larger tile and stride"
            )
        enough = (
            grids[-1].count <= FEW_TILES or weave in ("naive", "patches")
            if spec.levels == "auto"
            else count == spec.levels
        )
        if enough:
            break
    else:
        if spec.levels != "auto":
            raise InputError(
                f"levels is {spec.levels}, but this task has only {len(chain)} with factor {spec.factor}, "
                f"since a coarser one would add nothing; ask for {len(chain)} or auto"
            )
    return tuple(chain[:count]), tuple(lifts[: count - 1]), grids


def _chain(spec: JobSpec, measurement: Measurement) -> tuple[list[Measurement], list[Lift]]:
    """Every level there could be, finest first; sixteen halve any image to nothing."""
    chain, lifts = [measurement], []
    limit = 16 if spec.levels == "auto" else spec.levels
    while len(chain) < limit and (coarser := chain[-1].coarsen(spec.factor)):
        chain.append(coarser[0])
        lifts.append(coarser[1])
    return chain, lifts


def _geometry(spec: JobSpec, chain: list[Measurement], contract: Contract, weave: Weave) -> tuple[int, int, int]:
    """(tile, stride, guard) that all levels can share; what the job leaves open is snapped to the legal."""
    align = lcm(*(grid_align(m.align, spec.factor if k + 1 < len(chain) else None) for k, m in enumerate(chain)))
    if weave == "patches":
        return _patches(contract, align)
    multiple = contract.size_multiple
    wanted = contract.native_tile if spec.tile == "auto" else spec.tile
    if weave == "naive":
        unit = lcm(align, multiple)
        tile = -(-wanted // unit) * unit
        given = {"tile": tile, "stride": tile, "guard": 0}
    else:
        tile = legal_triple(wanted, wanted, 0, align=align, multiple=multiple)[0]
        stride, guard = _usual(spec, tile, weave)
        asked = (
            tile,
            stride if spec.stride == "auto" else spec.stride,
            guard if spec.guard == "auto" else spec.guard,
        )
        given = dict(zip(("tile", "stride", "guard"), _fit(spec, asked, align, multiple), strict=True))
    for name, value in given.items():
        asked_for = getattr(spec, name)
        if asked_for not in ("auto", value):
            raise InputError(
                f"{name} is {asked_for}, which this task and model cannot take (borders fall on multiples of {align}, "
                f"tiles on multiples of {lcm(align, multiple)}, and stride + guard is below tile); the nearest legal "
                f"geometry is tile {given['tile']}, stride {given['stride']}, guard {given['guard']}"
            )
    return given["tile"], given["stride"], given["guard"]


def _patches(contract: Contract, align: int) -> tuple[int, int, int]:
    """The patches of a network, which lie side by side."""
    assert contract.patch is not None
    if contract.patch % align:
        raise InputError(
            f"the patches of model {contract.name} have {contract.patch} pixels a side, which this task cuts at "
            f"multiples of {align}: choose a scale, levels and factor of which that is a multiple, or weave joint"
        )
    return contract.patch, contract.patch, 0


def _usual(spec: JobSpec, tile: int, weave: Weave) -> tuple[int, int]:
    """(stride, guard) where the job leaves them open; whole tiles to go on from leave no room for a guard band."""
    if spec.parity.half_stride:
        return tile // 2, 0
    if weave == "joint":
        return 3 * tile // 4, 0
    return 3 * tile // 4, 0 if spec.parity.carry else tile // 8


def _fit(spec: JobSpec, asked: tuple[int, int, int], align: int, multiple: int) -> tuple[int, int, int]:
    """The legal triple nearest to what is asked, giving way in what the job left open."""
    tile, stride, guard = asked
    if spec.stride != "auto" and spec.guard == "auto":
        guard = max(0, min(guard, tile - stride - align))
    return legal_triple(tile, stride, guard, align=align, multiple=multiple)


def _check_quirks(spec: JobSpec, bands: int, grid: Grid) -> None:
    """Refuse a published program's behaviour that does not suit the tiles."""
    if spec.parity.half_stride and (2 * grid.stride, grid.guard) != (grid.tile, 0):
        raise InputError(
            f"parity.half_stride needs tiles half a tile apart without guard bands, and these are {grid.tile} pixels "
            f"with stride {grid.stride} and guard {grid.guard}: drop stride and guard, or choose an even tile"
        )
    if spec.parity.svd_colors and bands != len(SVD_COLORS):
        raise InputError(f"parity.svd_colors weighs three bands, the result has {bands}: drop it, or set bands to 3")


def _check_mask(spec: JobSpec, source: Source, measurement: Measurement) -> None:
    """Refuse a mask that does not lie on the grid it belongs to."""
    if spec.mask is None:
        return
    mask = open_mask(spec.mask)
    scale = measurement.scale if measurement.mask is MaskSite.TARGET else 1
    expected = source.height * scale, source.width * scale
    if (mask.height, mask.width) != expected:
        raise InputError(
            f"mask {spec.mask} is {mask.height}x{mask.width} pixels, this task needs one of "
            f"{expected[0]}x{expected[1]}: give a mask of that size"
        )
