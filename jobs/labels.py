"""What a job says of the labels that a network is told, and what they are read as."""

from __future__ import annotations

from collections.abc import Mapping

from ..models.contract import Contract
from ..tiling.access import ImagePlan
from ..tiling.cache import ChunkCache
from ..tiling.errors import InputError
from ..tiling.labels import PRESETS, LabelMaps, LabelPlan, Table, refuse_unknown, same_numbers
from ..tiling.source import open_labels, open_mask
from .refusal import at_key
from .task import NormalTask

Classes = Mapping[int, int] | str
_CACHE = 64 * 2**20


def refuse_labels(labels: str | None, instances: str | None, classes: Classes | None, task: NormalTask) -> None:
    """Refuse keys that mean nothing without a map of labels, and a task that needs one."""
    if labels is not None:
        return
    if task.edit:
        raise at_key("labels", "the task has edit, which draws what labels say: name their image")
    for key, value in (("instances", instances), ("classes", classes)):
        if value is not None:
            raise at_key(key, "there are no labels that it would belong to: name their image as labels, or drop it")


def label_plan(
    contract: Contract,
    *,
    labels: str | None,
    instances: str | None,
    classes: Classes | None,
    size: tuple[int, int],
    paint: int | None,
) -> LabelPlan | None:
    """The maps of an image of ``size`` (rows, columns); refuses what its network is not told, or not so."""
    known = contract.label_classes
    if known is None:
        if labels is not None:
            raise InputError(
                f"labels is {labels}, but model {contract.name} is told none: leave labels out, or choose a network of "
                "labels"
            )
        return None
    if labels is None:
        raise InputError(f"model {contract.name} draws what labels say: name the image of them as labels")
    if instances is not None and not contract.label_edges:
        raise InputError(
            f"instances is {instances}, but model {contract.name} is told no edges of them: leave it out, or give the "
            "model's option edges"
        )
    for key, file in (("labels", labels), ("instances", instances)):
        if file is not None:
            _check_size(key, file, size)
    table = _table(classes, contract, known)
    if paint is not None and paint not in dict(table):
        raise InputError(
            f"task edit:{paint} paints with {paint}, which stands for none of the {known} classes of model "
            f"{contract.name}: give a value of labels that does, or say in classes what it stands for"
        )
    return LabelPlan(labels, known, table, instances, contract.label_edges, paint)


def refuse_unknown_labels(image: ImagePlan) -> None:
    """Refuse a map with values that stand for no class; all of it is read, by few pixels at a time."""
    if image.labels is None:
        return
    cache = ChunkCache(_CACHE)
    maps = LabelMaps(image.labels, mask=open_mask(image.mask, cache=cache) if image.mask else None, cache=cache)
    refuse_unknown(image.labels, map(maps.unknown, maps.checks()))


def _check_size(key: str, file: str, size: tuple[int, int]) -> None:
    found = open_labels(file)
    if (found.height, found.width) != size:
        raise InputError(
            f"{key} {file} is {found.height}x{found.width} pixels, and the result has {size[0]}x{size[1]}: "
            "give a map of that size"
        )


def _table(classes: Classes | None, contract: Contract, known: int) -> Table:
    """Which class each value stands for."""
    if classes is None:
        return same_numbers(known)
    if not isinstance(classes, str):
        for value, kind in classes.items():
            if kind >= known:
                raise InputError(
                    f"classes says that {value} stands for {kind}, and model {contract.name} has classes 0 to "
                    f"{known - 1}: choose one of them"
                )
        return tuple(sorted(classes.items()))
    preset = PRESETS[classes]
    if preset.classes != known:
        edges = contract.label_edges
        # The channel of edges is that of one more class where they are off.
        turned = preset.classes == known + (1 if edges else -1)
        raise InputError(
            f"classes is {classes}, which has {preset.classes} classes, and model {contract.name} is told {known}"
            f"{' and edges' if edges else ''}: choose what it was trained with"
            f"{f', or give the model the option edges={str(not edges).lower()}' if turned else ''}"
        )
    return preset.table
