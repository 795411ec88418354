"""Writes the pages of docs/ that are made from the code: ``python -m docs.generate``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel

from tileloom.jobs.refusal import meant, parts
from tileloom.jobs.spec import JobSpec
from tileloom.jobs.train_spec import TrainSpec

JOB_FILE = Path(__file__).parent / "job-file.md"
TRAINING = Path(__file__).parent / "training.md"

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
| `edit` | nothing yet: what the mask marks is to show what `labels` say; with `edit:n` what their value n stands for |
| `generate` | nothing: there is no image yet, and no other part |

`outpaint` makes the result larger than the image, whose own pixels come back inside of it as they were. A mask has the
size of the given image all the same. Where an edge shows around it, margins need to settle against the image: they do
so with `sampler: ddim-ddnm` and an `eta` of 0.2 at no further network call, or with `travel` at many.

A denoising network fills holes of `inpaint` from a surface that is bent over them, under little noise and in 12 calls
a tile: near to the truth where they are small, calm where they are large. `begin: 1` draws them from noise alone, so
that large holes show more, and something else with each seed; a `begin` of 0.7 lies between. Holes that a class, labels
or patches are to fill, and those of a `joint` weave, are drawn from noise alone.

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

## From labels

A [network of labels](models.md#networks-of-labels) draws what a map says, whether from nothing or beside whatever else
is known of the image:

```yaml
input: blank:1024x512
output: town.zarr
task: generate
labels: map.tif
instances: houses.tif
classes: {11: 0, 21: 1, 22: 1}
model: {name: town.safetensors, guidance_scale: 1.5}
```

`labels` and `instances` are images of one band of whole numbers, as large as the result. `classes` says which class of
the network each value stands for, as in a published data set (`ade20k`, `celeba`, `cityscapes`, `coco`) or by a
mapping; if left out, values are classes. A value that stands for none is told, with its first pixel and how many there
are, before the network is called. A network that is told edges sees those of `instances`, else those between classes.
Coarser levels are told every so many-th pixel of the map, and edges of these.

Where a map changes, `--redo stale` runs the tiles again that see the change, and whatever hangs on them. To leave all
else as it is to the last bit, edit the image instead: here what `region.tif` marks becomes water.

```yaml
input: town.zarr
output: lake.zarr
task: edit:22
mask: region.tif
labels: map.tif
classes: {11: 0, 21: 1, 22: 2}
model: town.safetensors
```

## Weaves

| `weave` | how tiles agree |
|---|---|
| `msr` | a tile takes the finished pixels of its west and north neighbours, exactly |
| `joint` | all tiles advance together, and their overlaps are fused at every step |
| `patches` | those of a [Patch-DM](models.md#patch-dm) network advance together, and see each other's features |
| `naive` | not at all, so that every border shows |

With `msr` hardly any memory is needed, and a front of tiles moves over the image: one image may be too small to keep
many workers busy. With `joint` and `patches` there is no such order, but the state of the whole image is held by its
workers, they trade halos at every step, and all tiles of a level are run, however little there is to restore.

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
| `labels` | for a network of labels, the image of what pixels show |
| `instances` | and that of the instance of each pixel |
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


ABOUT_TRAINING = """\
# Training a model of your own

<!-- Written by `make docs` from jobs/train_spec.py: change the descriptions there. -->

A model restores what it has learned to expect. One that has learned from your own images, at their own resolution and
with their own bands, restores those best.

```yaml
# train.yaml
data: scans
output: prior
crop: 64
flips: true
turns: true
network: {width: 128, levels: [1, 1], stem: 4, detail: 32}
steps: 20000
```

```sh
tileloom train train.yaml --dry-run
tileloom train train.yaml
tileloom restore scene.tif scene.zarr --task sr:4 --model prior/model.safetensors
```

The first command says what is to be trained and what it takes: images, the size of the network and of its file, memory.
A key or value that means nothing is refused by its name, before anything is read or written.

## What it learns from

`data` is an image (Zarr, TIFF, PNG, JPEG; Zarr also from an object store), a folder, a pattern such as `scans/*.tif`, a
[list](job-file.md#archives) in which `input` and `mask` count, or several of these. An image with more to say is a
mapping:

```yaml
data:
  - scans
  - {image: s3://bucket/scene.zarr, mask: clouds.tif}
```

Crops are read where they lie, window by window, so an archive may be of any size. Every place where a whole crop has
valid pixels is as likely as any other. Pixels are not valid where the mask is not 0, where all bands hold the file's
nodata value, or where a float is no number; to keep a region out of training, mask it. All images have the same number
of bands.

`held_out` is drawn as squares of four crops a side. Training never sees a pixel of them; every `check` steps the loss
on them is logged, always on the same crops and noise. When it stops falling while the loss goes on, the network learns
your images by heart: give it more of them, flips and turns, or fewer channels.

Values become -1 to 1 by `range`, which is recorded in the model's file with their type: `tileloom models inspect` shows
it. A job takes it over for values of that type; for values of another it must name the `range` that means the same.

## Networks

A network is an ADM U-Net: `levels` of `width` channels, each half as fine as the one before. What decides how fast it
is, is how many pixels it works on: a `stem` of 4 folds every 4 x 4 pixels into channels first, so that it works on a
sixteenth of them, and crops must then be multiples of 4 times 2 for each further level. What it folds must pass through
few channels, in which fine things are lost. A `detail` of 32 gives every single pixel so many channels at the very end,
for a tenth to a third more time: terra, trained like that, was after a tenth of its steps as good as it had been at the
end. Tiles of a job may be larger than crops.

Jobs with several `levels` restore a coarse image first. A network that is to be good at those learns from such, too: a
`coarse` of 0.25 shows it a quarter of the crops from twice as far or further.

A rate that falls leaves less noise in the weights. `halving: 3000` halves it in every so many steps, however many there
will be, so that a training may be stopped or prolonged at any time.

A network predicts `v`, a mixture of the noise and the picture, unless `predicts` says `eps`, the noise alone: from that
a picture under much noise is only told when it is known very exactly, which takes many times as many crops. Jobs take
either.

With `variance: learned` it learns the variance of each step besides the noise (the hybrid loss). With `classes` it is
told what a crop shows: the `label` of an image, or what most pixels of a crop have in its map of `classes`:

```yaml
data:
  - {image: forest, label: 0}
  - {image: scene.zarr, classes: scene.zarr/labels}
network: {classes: 10}
drop_label: 0.1
```

With `drop_label` the last class, one more than there are, stands for none. A network of `kind: classifier` learns to
tell classes of noisy crops apart, and guides another as `guidance.classifier` of a job. One of `kind: spatial` fills
[holes](#holes).

## Holes

A network of `kind: spatial` fills holes, and does that by [iterations](models.md#spatial-diffusion) of its own instead
of a denoiser's steps:

```yaml
network: {kind: spatial, width: 64, levels: [1, 2, 4], blocks: 1, attention: [4], stem: 4, detail: 16}
alone: 7500
rate: 1e-2
halving: 3000
clip: 100
ema: 0.999
```

Each crop gets a hole: strokes and rectangles as a hand would draw them, or what archives suffer, which are stripes,
clouds, scratches and scattered pixels. Three iterations are unrolled, which see the same noise beside the crop, to draw
texture of. Each learns how far its mean is off, and how likely its mean and variance make each pixel. The first is a
guess, to be as near as it can; those after it heed distances most where much is certain, and also learn by features,
and against a critic, which learns at five times the rate. The [critic](decisions/a-critic-of-places.md) tells how real
every 8 x 8 pixels look that a hole touches, or fewer where the total stride is less; it is trained along with the
network and never published (layers of StyleGAN2, with R1, seeing pictures turned, shifted and discoloured the more it
knows them by heart). Features are those of a ResNet-50 where `features` names weights of one, in the format of common
libraries, of which the first three bands are shown to it; otherwise they are the critic's. What is told of held-out
crops, the `error`, is how far values in the holes are off on average, in model range: what looks real is further off
than a blur. Before it has learned anything, a hole is filled by the surface through all that is known which bends
least. The first `alone` steps leave out the critic and the further iterations, and learn from pixels alone, which takes
a fraction of the time. Crops must be multiples of the total stride: the stem times 2 for each level after the first.

## Maps of labels

A network of `kind: semantic` learns to draw what a map says, and is told the class of every pixel; with `edges` also
where `instances` meet, or else classes. Of a share `drop_label` of the crops it is told nothing, so that
`guidance_scale` has something to lean away from; unlike other networks it has no class more for that:

```yaml
data:
  - {image: scene.zarr, classes: scene.zarr/labels}
network: {kind: semantic, classes: 10, edges: true}
drop_label: 0.2
```

A list names the maps of its images in columns `labels` and `instances`.

## Networks of patches

A network of `kind: patches` is a [Patch-DM](models.md#patch-dm), which draws images of any size without tiles:

```yaml
crop: 256
network:
  {kind: patches, patch: 32, positions: false, width: 64, levels: [1.5, 1.5, 1], attention: [4], stem: 4, detail: 32}
```

It is a U-Net like the others, cut between its halves; `patch` is a multiple of twice the `stem`, times 2 for each
further level, and `crop` one of `patch`. A crop is an image of its own to it, with nothing beyond its edges. Of all
crops of a step it is shown the same window, 2 x 2 patches wide and half a patch off, and decodes it twice: the patch in
the middle from features of all four, and each of the four from its own. The loss is the sum of both errors, which the
log tells apart as `moved` and `alone`. Only a window that lies inside its crop looks like the inside of a large image:
of crops four patches wide it is a quarter of them, of eight more than half. Larger crops only take longer to read.

Half of the crops are not told where in their crop a patch lies, so that `guidance` has something to lean away from.
Positions count patches from the edge of a crop: a network that is told of them has seen no larger numbers than a crop
has patches, and knows its way in images of that size. With `positions: false` it is never told any, while training and
after, and draws images of every size alike. With `style: table` each image of `data` has a style that is learned with
the network, and told in nine of ten crops; a job draws in the style of the first with `--style row:0`.

[`examples/terra/patches.yaml`](../examples/terra/patches.yaml) trains one on scenes from the air.

## What it leaves

| file | what it is |
|---|---|
| `model.safetensors` | the running mean of the weights, with all that a job has to know of them; whole at any time |
| `log.jsonl` | every `log` steps the mean loss, and what is held out |
| `loss.svg` | its curve |
| `sheets/00001000.png` | rows of crops; with noise; denoised; drawn from noise alone. Or with holes, and filled |
| `checkpoints/` | the last two states to go on from |
| `training.json` | what is trained, and with which versions |

All of it may lie in an object store. A checkpoint is whole or absent: whatever kills a training, a full disk, a lost
store or a power cut, the same command goes on from the last one, with the same losses as if nothing had happened, to
the last bit on one machine. At another place, or with other threads, it says that last bits will differ. Give the file
more `steps` to train for longer. What changes what is learned (a rate, a network, other images) is refused by name:
choose another output for it.

A loss that is no number stops a training, with the step and the crops that it came from. The exit code is 0 when all
steps are done, 1 when it failed, 2 when it was asked wrongly, 130 after Ctrl-C.

## From a model that is there

```yaml
start: terra
rate: 2e-4
halving: 2000
```

A training begins with random weights, or with those of a model: one that comes with tileloom, or any file of weights of
the same network. A few thousand crops of your own images then teach it what these have of their own. It says so where
the network is another one. The model's own file stays as it is.

## On several workers

```yaml
cluster: {workers: 4, gpus: 1, address: auto}
```

Workers of Ray share the crops of every step and learn from the mean of their gradients; `pip install tileloom[train]`
brings what that needs. Without an address a Ray of this machine is started for the training alone. All workers must
reach data and output at the same addresses. When a worker dies all begin anew, from the last checkpoint, with the same
losses. With another number of workers a training goes on, but with other noise.

## Something to try it on

`tileloom terra` draws scenes as from the air, of any size, from a seed: no such place exists.

![A scene of 512 pixels, its classes, and its near infrared](images/terra.jpg)

```sh
tileloom terra aerial.zarr --size 2048 --seed 5
tileloom terra cloudy.zarr --size 1024 --clouds 0.2
tileloom restore cloudy.zarr/covered clear.zarr --task inpaint --mask cloudy.zarr/mask
```

A scene is a Zarr group that opens as its picture: red, green, blue and near infrared in 8 bits, or with `--bands` gray
(1), gray and infrared (2) or no infrared (3), and with `--dtype float32` from 0 to 1. `aerial.zarr/labels` has the
class of each pixel: 0 water, 1 sand, 2 meadow, 3 crop, 4 bare soil, 5 wood, 6 garden, 7 road, 8 roof, 9 rock. With
`--clouds` or `--stripes` there are `covered`, the picture with parts hidden, and `mask`, which ones; the picture itself
stays whole, to compare with. Any window of a scene can be drawn alone and has the bits of the whole, so memory does not
grow with its size:

```python
from tileloom.tiling.box import Box
from tileloom.tiling.terra.scene import Terra

picture, classes = Terra(seed=5).look(Box(1_000_000, 0, 1_000_256, 256))
```

[`examples/terra/train.yaml`](../examples/terra/train.yaml) trains a small model on four of them, the one that jobs know
as [`terra`](models.md#terra), [`patches.yaml`](../examples/terra/patches.yaml) one of patches, and
[`holes.yaml`](../examples/terra/holes.yaml) and [`holes-further.yaml`](../examples/terra/holes-further.yaml), one after
the other, one that fills holes.

## Losses of your own

The loop knows nothing of networks: it takes anything that keeps the protocol of
[`models/training/objective.py`](../models/training/objective.py), networks by name and
`loss(batch, draws, step)`, and gives it crops, checkpoints and a log. Random numbers come from `draws`, which knows the
step, so that a run that goes on draws what it would have drawn. Networks that learn against each other keep `Contest`
beside it: each rival learns from a scalar of its own, at a pace of its own, and what the objective remembers goes into
the checkpoints.

## Keys
"""


def job_file() -> str:
    """The reference of the job file."""
    return _page(INTRODUCTION, JobSpec)


def training() -> str:
    """The page about training."""
    return _page(ABOUT_TRAINING, TrainSpec)


def _page(introduction: str, model: type[BaseModel]) -> str:
    """An introduction, and a table of all keys."""
    rows = [f"| `{key}` | {takes} | {default} | {told} |" for key, takes, default, told in _rows(model, "")]
    return "\n".join([introduction, "| key | takes | default | meaning |", "|---|---|---|---|", *rows, ""])


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
    plain = list(value) if isinstance(value, tuple) else value
    return f"`{yaml.safe_dump(plain, default_flow_style=True).splitlines()[0]}`"


if __name__ == "__main__":
    JOB_FILE.write_text(job_file(), encoding="utf-8")
    TRAINING.write_text(training(), encoding="utf-8")
