"""Writes the pages of docs/ that are made from the code: ``python -m docs.generate``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel

from tileloom.jobs.refusal import meant, parts
from tileloom.jobs.spec import JobSpec

JOB_FILE = Path(__file__).parent / "job-file.md"

INTRODUCTION = """\
# The job file

<!-- Written by `make docs` from jobs/spec.py: change the descriptions there. -->

A job is a YAML file. Three keys are required; the rest has defaults.

```yaml
input: scene.tif
output: scene.zarr
task: sr:4
```

Paths start from the job file's own folder; addresses such as `s3://bucket/scene.zarr` stay as they are.
A key or value that means nothing is refused with its name, before anything is read or written.

A larger one, which fills the clouds of a scene and sharpens it fourfold:

```yaml
input: scene.tif
mask: clouds.tif
output: scene.zarr
task: [sr:4, inpaint]
model: {name: gaussian, covariance: exponential, length: 8, std: 0.5, band_correlation: 0.9}
steps: 100
travel: {length: 5, repeat: 2}
seed: 7
tile: 256
max_memory: 8GB
```

## Tasks

A task says what was done to the image, first to last, in a list or in one text with commas.

| part | what was done |
|---|---|
| `sr:k` | every k x k pixels were averaged into one |
| `inpaint` | pixels were lost: those of the result if it comes before every `sr`, else those of the input |
| `outpaint:l,t,r,b` | so many pixels were cut off left, top, right and bottom: counted as those of `inpaint` |
| `colorize` | the bands were averaged into one |
| `denoise:sigma` | noise was added, last of all; `denoise` alone takes `sigma` from `noise` |
| `old-photo:k` | `inpaint, colorize, sr:k` |
| `cloudy:k` | `sr:k, inpaint` |
| `generate` | nothing: there is no image yet, and no other part |

`outpaint` makes the result larger than the image, whose own pixels come back inside of it as they were. A mask has the
size of the given image all the same. Where an edge shows around it, margins need to settle against the image: they do
so with `sampler: ddim-ddnm` and an `eta` of 0.2 at no further network call, or with `travel` at many.

## From nothing

With a size in place of an image, a job draws one:

```yaml
input: blank:1024x512
output: drawn.zarr
task: generate
bands: 3
```

Its size is width x height. The result is `uint8` unless `dtype` says otherwise, and has as many bands as `bands` says,
or else as the model has, or three. `seed` and `id` decide which image is drawn; its attributes say that it was
generated.

## Weaves

| `weave` | how tiles agree |
|---|---|
| `msr` | a tile takes the finished pixels of its west and north neighbours, exactly |
| `joint` | all tiles advance together, and their overlaps are fused at every step |
| `patches` | the patches of a [Patch-DM](models.md#patch-dm) network advance together, and exchange features at every step |
| `naive` | not at all, so that every border shows |

With `msr` hardly any memory is needed, and a front of tiles moves over the image: one image may be too small to keep
many workers busy. With `joint` and `patches` there is no such order, but the state of the whole image is held by its workers, they
trade halos at every step, and all tiles of a level are run, however little there is to restore.

`tileloom plan` compares `msr` with `joint` for a job's own workers: network calls one after the other, state of a
worker, bytes between workers; for `patches` it tells the bytes of either `lockstep.exchange`, which makes no difference
to the image. [why it works in blocks](decisions/lockstep.md) is a page of its own.

## Archives

A job with `manifest` in place of `input`, `mask` and `id` restores many images, side by side:

```yaml
manifest: list.csv
output: restored
task: sr:4
```

The manifest is a CSV file, a file of JSON lines (`.jsonl`), a folder, or a pattern such as `scans/*.tif`. A folder
stands for its Zarr, TIFF, PNG and JPEG images. A file has a row for each image; rows are counted without the line that
names the columns, and without empty lines. An empty value means what the job says.

| column | meaning |
|---|---|
| `id` | the image's name, which its noise belongs to and its result is called by; if left out, that of the file |
| `input` | the image, the only column that must be there; paths start from the manifest's folder |
| `mask` | for inpaint: the image of what is missing |
| `reference` | what the result should have been; the report then says how far it is from that |
| `task` | this image's own task |
| `noise` | this image's own noise |
| `priority` | a whole number, 0 if left out: images of higher priority go first |

The result of an image is `restored/ID.zarr`, byte for byte what a job of that image alone gives with the same `id` and
`batch`. It is a result like any other, to look at, to verify and to mend. `restored/report.csv` has a line for each
image that has ended: how (`done`, `degraded` where tiles were given up, or `failed`) and why, its tiles, its network
calls, its seconds, and the root of its mean squared error (`rmse`) where there is a reference.

- All rows are checked before anything is begun. After that, a broken image is named and stops no other; the exit code
  is 1 unless every image is done. Images must agree in their bands and in the size of their tiles.
- `tileloom retry restored` runs those again that failed or have degraded tiles, with what was mended of their files.
- Add rows and run the job again: images that have ended are not touched. An image whose row has changed is refused,
  and with `--redo stale` redone. That looks at all images again, their files included.
- `status` and `verify` take the output of an archive, too, and `plan` its job file.

## Keys
"""


def job_file() -> str:
    """The reference of the job file."""
    rows = [
        f"| `{key}` | {takes} | {default} | {description} |" for key, takes, default, description in _rows(JobSpec, "")
    ]
    return "\n".join([INTRODUCTION, "| key | takes | default | meaning |", "|---|---|---|---|", *rows, ""])


def _rows(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """(key, what it takes, default, description) of every key that holds a value."""
    for name, field in model.model_fields.items():
        below = parts(field)
        if below is not None:
            yield from _rows(below, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else _default(field.default)
            yield prefix + name, meant(field), default, field.description or ""


def _default(value: object) -> str:
    """A default as a job file would write it; the description says what an absent value means."""
    if value is None:
        return ""
    return f"`{yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}`"


if __name__ == "__main__":
    JOB_FILE.write_text(job_file(), encoding="utf-8")
