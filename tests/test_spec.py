import json
import math
import pickle
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from docs.generate import JOB_FILE, job_file
from tileloom.jobs.archive import load
from tileloom.jobs.changes import changed
from tileloom.jobs.refusal import meant
from tileloom.jobs.spec import PATHS, RUNNING, JobSpec, from_options, load_job
from tileloom.jobs.task import Margins, NormalTask, describe, parse_task
from tileloom.tiling.errors import InputError
from tileloom.tiling.measurement import MaskSite, Measurement

PLAIN = {"input": "scene.tif", "output": "out.zarr", "task": "sr:4"}
NESTED = ("travel", "lockstep", "publish", "guidance", "parity", "cluster")


def written(tmp_path, content, name="job.yaml"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def spec(**keys):
    return from_options(PLAIN | keys)


# --- tasks ---


@pytest.mark.parametrize(
    ("text", "measurement"),
    [
        ("sr:4", Measurement(scale=4)),
        (["sr:2", "sr:3"], Measurement(scale=6)),
        ("inpaint", Measurement(mask=MaskSite.MEASURED)),
        ("colorize", Measurement(gray=True)),
        ("inpaint, sr:2", Measurement(scale=2, mask=MaskSite.TARGET)),
        (["inpaint", "sr:2", "sr:2"], Measurement(scale=4, mask=MaskSite.TARGET)),
        ("sr:2,inpaint", Measurement(scale=2, mask=MaskSite.MEASURED)),
        ("inpaint, colorize", Measurement(gray=True, mask=MaskSite.MEASURED)),
        ("colorize, sr:4, inpaint", Measurement(scale=4, gray=True, mask=MaskSite.MEASURED)),
        ("old-photo:4", Measurement(scale=4, gray=True, mask=MaskSite.TARGET)),
        ("cloudy:8", Measurement(scale=8, mask=MaskSite.MEASURED)),
        ("denoise:0.1", Measurement(sigma=0.1)),
        ("cloudy:2, denoise:0.5", Measurement(scale=2, mask=MaskSite.MEASURED, sigma=0.5)),
        (["sr:2, sr:2", "colorize"], Measurement(scale=4, gray=True)),
    ],
)
def test_a_task_has_one_normal_form(text, measurement):
    assert parse_task(text, noise=0).measurement == measurement


def test_noise_may_be_said_beside_the_task_or_in_it():
    assert (
        parse_task("sr:2", noise=0.1)
        == parse_task("sr:2, denoise:0.1", noise=0)
        == parse_task("sr:2, denoise", noise=0.1)
    )
    assert parse_task("denoise:0.1", noise=0.1).measurement.sigma == 0.1


@given(
    scale=st.integers(1, 64),
    gray=st.booleans(),
    mask=st.sampled_from(MaskSite),
    sigma=st.just(0.0) | st.floats(1e-9, 1),
    margins=st.builds(Margins, *[st.integers(0, 999)] * 4),
)
def test_a_described_task_reads_back_as_itself(scale, gray, mask, sigma, margins):
    masked = mask is not MaskSite.NONE
    site = MaskSite.MEASURED if any(margins) and not masked else mask
    task = NormalTask(Measurement(scale, gray, site, sigma), margins, masked)
    if task.measurement.trivial or (mask is MaskSite.TARGET and scale == 1):
        return
    assert parse_task(describe(task), noise=0) == task


def test_generation_reads_back_as_itself():
    task = parse_task("generate", noise=0)
    assert task.blank
    assert parse_task(describe(task), noise=0) == task


@pytest.mark.parametrize(
    ("text", "measurement", "margins"),
    [
        ("outpaint:1,2,3,4", Measurement(mask=MaskSite.MEASURED), (1, 2, 3, 4)),
        ("outpaint: 8, 0, 0, 0", Measurement(mask=MaskSite.MEASURED), (8, 0, 0, 0)),
        ("outpaint:8,4,0,12, sr:4", Measurement(4, mask=MaskSite.MEASURED), (2, 1, 0, 3)),
        ("sr:2, outpaint:8,4,0,12, sr:2", Measurement(4, mask=MaskSite.MEASURED), (4, 2, 0, 6)),
        ("sr:4,outpaint:8,4,0,12", Measurement(4, mask=MaskSite.MEASURED), (8, 4, 0, 12)),
        ("inpaint, sr:2, outpaint:1,1,1,1", Measurement(2, mask=MaskSite.TARGET), (1, 1, 1, 1)),
        (["outpaint:1,1,1,1", "colorize"], Measurement(gray=True, mask=MaskSite.MEASURED), (1, 1, 1, 1)),
        ("outpaint:1,1,1,1, denoise:0.1", Measurement(mask=MaskSite.MEASURED, sigma=0.1), (1, 1, 1, 1)),
    ],
)
def test_margins_are_counted_where_they_stand(text, measurement, margins):
    task = parse_task(text, noise=0)
    assert (task.measurement, task.margins) == (measurement, margins)


@pytest.mark.parametrize(
    ("text", "noise", "says"),
    [
        ("", 0, "nothing to restore"),
        ([], 0.1, "nothing to restore"),
        (" , ", 0, "nothing to restore"),
        ("blur", 0, "there is no task 'blur'"),
        ("sr", 0, "whole factor from 2 to 9999"),
        ("sr:1", 0, "not '1'"),
        ("sr:2.5", 0, "not '2.5'"),
        ("sr:-4", 0, "not '-4'"),
        ("sr:" + "9" * 5000, 0, "whole factor"),
        ("cloudy", 0, "sr needs a whole factor"),
        ("inpaint:3", 0, "write inpaint"),
        ("outpaint", 0, "the pixels to add left, top, right and bottom"),
        ("outpaint:8", 0, "not '8'"),
        ("outpaint:8,8,8", 0, "not '8,8,8'"),
        ("outpaint:8,8,8,8,8", 0, "not '8,8,8,8,8'"),
        ("outpaint:8,8,8,-8", 0, "not '8,8,8,-8'"),
        ("outpaint:1.5,8,8,8", 0, "not '1.5,8,8,8'"),
        ("outpaint:0,0,0,0", 0, "adds no pixel"),
        ("outpaint:1,1,1,1, outpaint:1,1,1,1", 0, "outpaint appears twice: add up the margins"),
        ("outpaint:8,8,8,2, sr:4", 0, "give multiples of 4, or put outpaint behind sr"),
        ("sr:2, inpaint, sr:2", 0, "between two sr"),
        ("inpaint, sr:2, inpaint", 0, "inpaint appears twice"),
        ("old-photo:4, colorize", 0, "colorize appears twice"),
        ("denoise:0.1, sr:2", 0, "put denoise at the end"),
        ("denoise:0.1, denoise:0.1", 0, "put denoise at the end"),
        ("denoise", 0, "needs to know the noise"),
        ("denoise:much", 0, "not 'much'"),
        ("denoise:nan", 0, "not 'nan'"),
        ("denoise:0.2", 0.1, "disagree"),
        ("sr:2", 1.5, "noise 1.5"),
        ("sr:2", math.nan, "noise nan"),
    ],
)
def test_an_impossible_task_is_refused_in_one_sentence(text, noise, says):
    with pytest.raises(InputError, match=re.escape(says)) as refused:
        parse_task(text, noise=noise)
    assert "\n" not in str(refused.value)


# --- job files ---


def test_three_keys_make_a_job(tmp_path):
    job = load_job(written(tmp_path, PLAIN))
    assert job.measurement == Measurement(scale=4)
    assert (job.model, job.steps, job.seed, job.tile, job.guard) == ({"name": "gaussian"}, "auto", 0, "auto", "auto")
    assert (job.travel.length, job.travel.repeat) == (1, 1)
    assert (job.publish.chunk, job.publish.shard) == (512, 2048)


def test_every_key_can_be_set(tmp_path):
    keys = {
        "input": "a.tif",
        "output": "b.zarr",
        "id": "north",
        "mask": "m.tif",
        "labels": "l.png",
        "instances": "i.png",
        "classes": {11: 2},
        "task": ["inpaint", "colorize", "sr:2"],
        "noise": 0.02,
        "model": {"name": "gaussian", "covariance": "exponential", "length": 8, "std": 0.5},
        "steps": 10,
        "travel": {
            **{"length": 5, "repeat": 2, "length2": 3, "repeat2": 4},
            **{"length3": 2, "repeat3": 5, "each": 2, "below": 7},
        },
        "sampler": "ddim",
        "eta": 0.5,
        **{"spacing": "fine", "begin": 0.25},
        "guidance": {"classifier": "/far/net.pt", "label": 3, "scale": 2.5},
        "parity": {
            **{"carry": False, "released_lambda": False, "released_pinv": True},
            **{"coarse_everywhere": False, "half_stride": False, "svd_colors": True, "simplified": False},
        },
        "seed": 2**64 - 1,
        "tile": 96,
        "stride": 64,
        "guard": 0,
        "weave": "naive",
        "lockstep": {"block": 192, "exchange": "features", "every": 4, "memory": 1_000_000},
        "levels": 2,
        "factor": 4,
        "bands": 3,
        "range": [-1, 2.5],
        "nodata": -9999,
        "dtype": "float32",
        "on_error": "stop",
        "retries": 0,
        "batch": 8,
        "lanes": 2,
        "priority": "oldest",
        "keep_scratch": False,
        "publish": {"chunk": 64, "shard": 256},
        "cluster": {
            **{"workers": 4, "address": "auto", "cpus": 2, "gpus": 0.5},
            **{"patience": 60, "capacity": 30, "restarts": 3, "least": 1, "idle": 5, "drain_seconds": 25},
            **{"drain_url": "http://169.254.169.254/preempted", "prices": {"A100": 1.8}},
            **{"classes": "any", "class_wait": 60},
        },
        "max_memory": "1.5GiB",
    }
    assert set(keys) == set(JobSpec.model_fields)
    job = load_job(written(tmp_path, keys))
    for key, value in keys.items():
        if key not in (*PATHS, "task", "max_memory", "range"):
            got = getattr(job, key)
            assert (got.model_dump() if key in NESTED else got) == value, key
    assert job.range == (-1, 2.5)
    assert job.max_memory == 1536 * 1024**2


def test_paths_start_from_the_job_files_folder(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    keys = {"input": "in/scene.tif", "output": "/far/out.zarr", "mask": "s3://bucket/mask.zarr", "task": "inpaint"}
    job = load_job(written(tmp_path, keys))
    assert job.input == str(tmp_path / "in" / "scene.tif")
    assert (job.output, job.mask) == ("/far/out.zarr", "s3://bucket/mask.zarr")


def test_paths_of_the_command_line_start_where_it_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert spec().input == str(tmp_path / "scene.tif")


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4_000_000_000), ("512 MiB", 512 * 2**20), ("1.5KB", 1500), ("1TiB", 2**40), (17, 17)]
)
def test_memory_is_bytes_or_a_text_with_a_unit(text, size):
    assert spec(max_memory=text).max_memory == size


def test_numbers_are_read_as_people_write_them(tmp_path):
    text = "input: a\noutput: b\ntask: sr:2\nnoise: 1e-3\nrange: [0, 1E+4]\nnodata: .nan\n"
    job = load_job(written(tmp_path, text))
    assert job.noise == 0.001
    assert job.range == (0, 10000)
    assert job.nodata is not None
    assert math.isnan(job.nodata)


def test_a_job_never_changes_and_travels():
    job = spec()
    with pytest.raises(ValueError, match="frozen"):
        job.seed = 3
    assert pickle.loads(pickle.dumps(job)) == job
    assert JobSpec.model_validate(json.loads(json.dumps(job.model_dump(mode="json")))) == job


PLAIN_TEXT = "input: a.tif\noutput: b.zarr\ntask: sr:4\n"
BAD_FILES = {
    "unknown key": (PLAIN_TEXT + "sed: 3\n", "job.yaml: sed is no key of a job; did you mean seed?"),
    "unknown key unlike any": (PLAIN_TEXT + "qqq: 3\n", "the keys are input, output, id, mask"),
    "unknown nested key": (
        PLAIN_TEXT + "travel: {lenght: 3}\n",
        "travel.lenght is no key of a job; did you mean travel.length?",
    ),
    "mistyped required key": ("input: a\noutputs: b\ntask: sr:4\n", "outputs is no key of a job; did you mean output?"),
    "missing key": (
        "input: a\noutput: b\n",
        "job.yaml: task is missing: give what was done to the image, such as sr:4",
    ),
    "text for a number": (
        PLAIN_TEXT + "steps: fifty\n",
        "job.yaml: steps must be a whole number from 1 up, or auto, not 'fifty'",
    ),
    "fraction for a whole number": (
        PLAIN_TEXT + "steps: 2.5\n",
        "steps must be a whole number from 1 up, or auto, not 2.5",
    ),
    "quoted number": (PLAIN_TEXT + "seed: '3'\n", "seed must be a whole number from 0 to 2^64 - 1, not '3'"),
    "true for a number": (PLAIN_TEXT + "retries: true\n", "retries must be a whole number from 0 up, not true"),
    "number for a flag": (PLAIN_TEXT + "keep_scratch: 1\n", "keep_scratch must be true or false, not 1"),
    "too small": (PLAIN_TEXT + "factor: 1\n", "factor must be a whole number from 2 up, not 1"),
    "too large": (PLAIN_TEXT + "noise: 25\n", "noise must be a number from 0 to 1, not 25"),
    "noise that is no number": (PLAIN_TEXT + "noise: .nan\n", "noise must be a number from 0 to 1, not nan"),
    "neither number nor auto": (
        PLAIN_TEXT + "tile: automatic\n",
        "tile must be a whole number from 1 up, or auto, not 'automatic'",
    ),
    "tile below one": (PLAIN_TEXT + "tile: 0\n", "tile must be a whole number from 1 up, or auto, not 0"),
    "no such choice": (PLAIN_TEXT + "weave: loose\n", "weave must be auto, msr, joint, patches or naive, not 'loose'"),
    "no such type": (PLAIN_TEXT + "dtype: int8\n", "dtype must be uint8, uint16 or float32, not 'int8'"),
    "nothing": (PLAIN_TEXT + "steps:\n", "steps must be a whole number from 1 up, or auto, not nothing"),
    "nested value": (PLAIN_TEXT + "travel: {repeat: 0}\n", "travel.repeat must be a whole number from 1 up, not 0"),
    "text for a mapping": (PLAIN_TEXT + "publish: 512\n", "publish must be a mapping of keys and values, not 512"),
    "shard of broken chunks": (
        PLAIN_TEXT + "publish: {chunk: 500}\n",
        "publish.shard: 2048 is no multiple of publish.chunk, which is 500",
    ),
    "range of three": (PLAIN_TEXT + "range: [0, 1, 2]\n", "range must be two numbers, the lower first"),
    "range of texts": (
        PLAIN_TEXT + "range: ['0', 1]\n",
        "range must be two numbers, the lower first, such as [0, 255], not '0'",
    ),
    "range upside down": (PLAIN_TEXT + "range: [1, 0]\n", "range: 1 is not below 0"),
    "memory without unit": (
        PLAIN_TEXT + "max_memory: 4 elephants\n",
        "max_memory must be a number of bytes, or a text such as 4GB",
    ),
    "model without name": (PLAIN_TEXT + "model: {length: 8}\n", "model.name: the mapping names no model"),
    "model of another kind": (
        PLAIN_TEXT + "model: 3\n",
        "model must be a model's name, or a mapping of its name and options, not 3",
    ),
    "date in a model": (PLAIN_TEXT + "model: {name: x, since: 2020-01-01}\n", "model must be a model's name"),
    "number for a path": ("input: 3\noutput: b\ntask: sr:4\n", "input must be the path of a file or folder, not 3"),
    "empty path": ("input: ''\noutput: b\ntask: sr:4\n", "input must be the path of a file or folder, not ''"),
    "number for a task": ("input: a\noutput: b\ntask: 4\n", "task must be what was done to the image"),
    "impossible task": ("input: a\noutput: b\ntask: blur\n", "job.yaml: task: there is no task 'blur'"),
    "inpaint without mask": ("input: a\noutput: b\ntask: inpaint\n", "mask: the task has inpaint"),
    "mask without inpaint": (PLAIN_TEXT + "mask: m.tif\n", "mask: the task has no inpaint"),
    "bands without colorize": (PLAIN_TEXT + "bands: 3\n", "bands: only colorize and generate make bands"),
    "broken YAML": ("input: a\noutput: [b\ntask: sr:4\n", "job.yaml, line 3: "),
    "tab": ("input: a\n\toutput: b\n", "job.yaml, line 2: "),
    "key given twice": ("input: a\ninput: b\n", "job.yaml, line 2: 'input' is given twice"),
    "unhashable key": ("? [a]\n: b\n", "job.yaml, line 1: "),
    "code": ("input: !!python/object/apply:os.getcwd []\n", "job.yaml, line 1: "),
    "control character": ("input: \x00\n", "is not YAML"),
    "empty file": ("# nothing yet\n", "job.yaml is empty"),
    "no mapping": ("- sr:4\n", "must hold keys and their values"),
    "number for a key": ("1: 2\n", "must hold keys and their values"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_job_file_is_refused_in_one_sentence(tmp_path, name):
    content, says = BAD_FILES[name]
    with pytest.raises(InputError) as refused:
        load_job(written(tmp_path, content))
    message = str(refused.value)
    assert says in message
    assert "job.yaml" in message
    assert "\n" not in message
    assert not re.search(r"pydantic|Traceback|validation error|https?:", message)
    assert refused.value.__cause__ is None
    assert refused.value.exit_code == 2


def test_prices_can_be_one_text():
    assert spec(cluster={"prices": "A100=1.8, T4=0.35"}).cluster.prices == {"A100": 1.8, "T4": 0.35}


@pytest.mark.parametrize(
    ("cluster", "least"),
    [({"workers": 3}, None), ({"workers": 3, "address": "auto"}, 0), ({"workers": 3, "least": 1}, 1)],
)
def test_workers_stay_where_nothing_is_saved_by_their_going(cluster, least):
    assert spec(cluster=cluster).crew.least == least


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml cannot be read: No such file"):
        load_job(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load_job(tmp_path)
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(InputError, match=r"image\.yaml is not a text file"):
        load_job(tmp_path / "image.yaml")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"steps": 0}, "--steps must be a whole number from 1 up, or auto, not 0"),
        ({"on_error": "wait"}, "--on-error must be degrade or stop, not 'wait'"),
        ({"travel": {"length": 0}}, "--travel-length must be a whole number from 1 up, not 0"),
        ({"mask": "m.tif"}, "--mask: the task has no inpaint"),
        ({"task": ["sr:0"]}, "--task: sr needs a whole factor"),
        ({"cluster": {"idle": 0}}, "--cluster-idle must be a number above 0, not 0"),
        ({"cluster": {"drain_url": "file:///etc"}}, "--cluster-drain-url must be an address such as http://169.254."),
        (
            {"cluster": {"prices": "A100"}},
            "--cluster-prices must be a mapping of kinds of machines to numbers, such as",
        ),
        ({"cluster": {"prices": {"A100": "x"}}}, "--cluster-prices must be a mapping of kinds of machines to numbers"),
        ({"seed": None, "steps": "x" * 500}, "..."),
    ],
)
def test_a_bad_option_is_refused_by_its_own_name(keys, says):
    with pytest.raises(InputError, match=re.escape(says)) as refused:
        spec(**keys)
    assert len(str(refused.value)) < 200


# --- identity ---


def test_the_identity_holds_what_decides_the_bytes_and_nothing_else():
    assert set(spec().identity()) == set(JobSpec.model_fields) - RUNNING - {"noise"}
    assert set(JobSpec.model_fields) > RUNNING
    running = spec(
        output="elsewhere", retries=9, on_error="stop", lanes=3, priority="oldest", keep_scratch=False, max_memory=10**9
    )
    assert running.identity() == spec().identity()
    json.dumps(spec(nodata=math.nan).identity(), allow_nan=False)


DECIDING = {
    "input": "other.tif",
    "labels": "map.tif",
    "task": "sr:2",
    "noise": 0.1,
    "model": {"name": "gaussian", "length": 8},
    "steps": 49,
    "travel": {"repeat": 2},
    "sampler": "ddpm",
    "spacing": "fine",
    "begin": 0.25,
    "guidance": {"scale": 2.0},
    "parity": {"released_pinv": True},
    "seed": 1,
    "tile": 64,
    "stride": 48,
    "guard": 8,
    "weave": "naive",
    "levels": 1,
    "factor": 4,
    "range": [0, 1],
    "nodata": 0,
    "dtype": "uint8",
    "batch": 4,
    "publish": {"chunk": 256},
    "id": "north",
}


@pytest.mark.parametrize("key", DECIDING)
def test_each_deciding_key_changes_the_identity_and_is_named(key):
    lines = changed(spec().identity(), spec(**{key: DECIDING[key]}).identity())
    assert len(lines) == 1
    assert lines[0].startswith("task: " if key == "noise" else key)
    assert " -> " in lines[0]


def test_the_list_of_deciding_keys_is_complete():
    assert set(DECIDING) | RUNNING | {"mask", "instances", "classes", "bands", "eta"} == set(JobSpec.model_fields)


def test_changes_read_as_a_person_would_say_them():
    old, new = spec(), spec(seed=2, travel={"length": 3}, nodata=7, noise=0.25)
    assert changed(old.identity(), new.identity()) == [
        "task: sr:4 -> sr:4, denoise:0.25",
        "travel.length: 1 -> 3",
        "seed: 0 -> 2",
        "nodata: none -> 7.0",
    ]
    assert changed({"a": 1}, {"b": {"c": 2}}) == ["a: 1 -> none", "b.c: none -> 2"]
    assert changed(spec(nodata=math.nan).identity(), spec(nodata=math.nan).identity()) == []


def test_two_ways_of_writing_the_same_job_are_the_same_job():
    terse = spec(task="sr:4", model="gaussian", noise=0.5)
    wordy = spec(task=["sr:2", "sr:2", "denoise"], model={"name": "gaussian"}, noise=0.5)
    assert terse.identity() == wordy.identity()


# --- the page about it ---


def test_the_reference_is_up_to_date():
    assert JOB_FILE.read_text(encoding="utf-8") == job_file(), "run `make docs`"


def test_every_key_is_explained():
    for name, field in JobSpec.model_fields.items():
        assert meant(field), name
        assert field.description, name
        assert f"| `{name}" in job_file()


def test_the_jobs_on_the_page_can_be_read(tmp_path):
    jobs = re.findall(r"```yaml\n(.*?)```", Path(JOB_FILE).read_text(encoding="utf-8"), re.DOTALL)
    assert len(jobs) == 6
    found = [load(written(tmp_path, text)) for text in jobs]
    assert [getattr(job, "job", job).measurement.scale for job in found] == [4, 4, 1, 1, 1, 4]
