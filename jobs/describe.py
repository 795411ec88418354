"""What a published image says of itself: what its source told, on the result's grid, and how it was made."""

from __future__ import annotations

import json
from typing import Any

from .. import __version__
from ..tiling.georeference import scaled, shifted
from ..tiling.ome import Description, Provenance, describe
from .compile import Compiled


def attributes_of(compiled: Compiled, *, parts: dict[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    """The attributes of the published group."""
    image, spec = compiled.image, compiled.spec
    metadata = scaled(shifted(compiled.source.metadata, *image.corner), image.scale)
    size = metadata.get("pixel_size")
    names = tuple(metadata.get("bands", ()))
    dtype = image.result.dtype
    description = Description(
        name=spec.output.rsplit("/", 1)[-1],
        provenance=Provenance(
            version=__version__,
            source=spec.input,
            source_digest=parts["input"],
            # In one order, in whichever a job file has its keys.
            job=json.loads(json.dumps(parts, sort_keys=True)),
            model=str(spec.model["name"]),
            seeds=[spec.seed],
            counts=counts,
            generated=image.blank,
        ),
        pixel_size=(size["y"], size["x"]) if size else None,
        unit=size.get("unit") if size else None,
        band_names=names if len(names) == image.bands else (),
        limits=image.result_scaling.ends if dtype.startswith("float") else None,
        transform=tuple(metadata["transform"]) if "transform" in metadata else None,
        crs=metadata.get("crs"),
        tags={name: value for name, value in metadata.items() if name not in ("pixel_size", "bands")},
    )
    shapes = [image.result.shape(level) for level in range(image.result.levels)]
    return describe(description, shapes, dtype=dtype, nodata=image.nodata)
