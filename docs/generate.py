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
| `colorize` | the bands were averaged into one |
| `denoise:sigma` | noise was added, last of all; `denoise` alone takes `sigma` from `noise` |
| `old-photo:k` | `inpaint, colorize, sr:k` |
| `cloudy:k` | `sr:k, inpaint` |

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
