"""Small jobs for the tests of the whole pipeline, and an independent idea of what they must come to.

Images are (band, row, column). ``measure`` is written in numpy from the task's own words and shares no
code with the software under test.
"""

from pathlib import Path

import numpy as np
import zarr

from tests.images import write_zarr
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import Redo, run_job
from tileloom.jobs.spec import from_options
from tileloom.tiling.ledger import Ledger

TILE = 16
NAMED = {"old-photo": ("inpaint", "colorize", "sr"), "cloudy": ("sr", "inpaint")}
QUICK = {
    "tile": TILE,
    "steps": 3,
    "lanes": 1,
    "model": {"name": "gaussian", "length": 4.0},
    "publish": {"chunk": 32, "shard": 64},
}


def job(folder, image, *, task, mask=None, output="out.zarr", **options):
    """A quick job on an image, which is written to ``folder`` as Zarr (a path is taken as it is); mask likewise."""
    options = {**QUICK, "task": task, "output": str(folder / output), **options}
    options["input"] = str(_file(folder / "input.zarr", image))
    if mask is not None:
        options["mask"] = str(_file(folder / "mask.zarr", mask))
    return from_options(options)


def _file(path, content):
    if not isinstance(content, np.ndarray):
        return content
    if content.ndim == 2:
        content = content[None].astype(np.uint8)
    return write_zarr(path, content, chunk=(32, 32), names=("c", "y", "x"))


def restore(spec, *, redo=Redo.NOTHING, trusted=False):
    """Run a job to its end, in this process."""
    return run_job(spec, Silent(), redo=redo, trusted=trusted)


def result(spec, level=0):
    """A published level, whole."""
    return zarr.open_array(f"{spec.output}/{level}", mode="r")[...]


def restored(folder, image, **options):
    """The published image of a quick job that was run just now."""
    spec = job(folder, image, **options)
    restore(spec)
    return result(spec)


def atoms(task):
    """What was done to the image, first to last: (name, factor) pairs."""
    found = []
    for part in [piece for text in ([task] if isinstance(task, str) else task) for piece in text.split(",")]:
        name, _, value = part.strip().partition(":")
        found += [(atom, int(value) if atom == "sr" else 1) for atom in NAMED.get(name, (name,))]
    return found


def scale_of(task):
    """Target pixels a measured value covers, along a side."""
    return int(np.prod([factor for _, factor in atoms(task)]))


def mask_scale_of(task):
    """Target pixels a mask pixel covers, along a side."""
    scale = 1
    for name, factor in atoms(task):
        if name == "inpaint":
            return scale
        scale *= factor
    return None


def measure(image, task, *, mask=None, middle=0.0):
    """What the task makes of an image, in float64; a masked pixel is ``middle``, the data range's centre."""
    y = np.asarray(image, np.float64)
    for name, factor in atoms(task):
        if name == "inpaint":
            y = np.where(mask, middle, y)
        elif name == "colorize":
            y = y.mean(axis=0, keepdims=True)
        elif name == "sr":
            bands, height, width = y.shape
            y = y.reshape(bands, height // factor, factor, width // factor, factor).mean(axis=(2, 4))
        else:
            raise ValueError(f"no measurement {name}")
    return y


def scene(bands, height, width, *, seed=0):
    """A picture in [-1, 1], float32: waves of several lengths and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y / (3 + band) + seed) + np.cos(x / (5 + band)) for band in range(bands)]
    return (0.3 * np.stack(waves) + 0.1 * rng.standard_normal((bands, height, width))).clip(-1, 1).astype(np.float32)


def holes(height, width, *, share=0.4, seed=0):
    """A mask with a rectangle of about ``share`` of the image and a few lost pixels; never all, if it can be."""
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < 0.03
    tall, wide = (max(1, int(size * share**0.5)) for size in (height, width))
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    mask[top : top + tall, left : left + wide] = True
    if mask.all() and mask.size > 1:
        mask[0, 0] = False
    return mask


def beside(spec, folder):
    """The same job with its output in another folder, under the same name."""
    return spec.model_copy(update={"output": str(folder / Path(spec.output).name)})


def root_of(spec):
    """The folder of the output's only generation."""
    (root,) = (path for path in Path(spec.output, ".tileloom").iterdir() if path.is_dir())
    return root


def committed(spec):
    """The tiles that stand in the ledger, in the order in which they were committed."""
    return [entry.tile for entry in Ledger(root_of(spec) / "ledger").entries()]


def stored_bytes(spec):
    """Every stored file that a result is made of, by its path: the published group, canvases, coarser inputs."""
    output, root = Path(spec.output), root_of(spec)
    published = {path.relative_to(output): path for path in output.rglob("*") if ".tileloom" not in path.parts}
    scratch = {path.relative_to(root): path for path in root.rglob("*") if "ledger" not in path.parts}
    return {str(name): path.read_bytes() for name, path in {**published, **scratch}.items() if path.is_file()}


def assert_same_bytes(spec, other):
    """Both outputs hold the same files with the same bytes."""
    ours, theirs = stored_bytes(spec), stored_bytes(other)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
