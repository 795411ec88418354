"""Whatever is asked wrongly is refused in one sentence, with exit code 2, and leaves nothing behind."""

import json

import numpy as np
import pytest
import zarr

from tests.commandline import QUICK, files_in, tileloom, written
from tests.images import noise, write_png, write_tiff, write_zarr
from tileloom.tiling import decoding

OUT = "out.zarr"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a scene of 3 bands, a gray one and a mask of the right size lie."""
    monkeypatch.chdir(tmp_path)
    write_zarr(tmp_path / "scene.zarr", noise(3, 24, 28), names=("c", "y", "x"))
    write_png(tmp_path / "gray.png", noise(1, 24, 28))
    write_png(tmp_path / "mask.png", noise(1, 24, 28) // 128)
    return tmp_path


def refused(capfd, folder, words, *says):
    """Hold a command line to the promise."""
    before = files_in(folder)
    said = tileloom(capfd, *words)
    assert said.code == 2, said
    assert len(said.errors) == 1, said.errors
    assert said.errors[0].startswith("error: ")
    assert all(text in said.errors[0] for text in says), said.errors[0]
    assert files_in(folder) == before
    return said


def restore(*options, image="scene.zarr", task="sr:2"):
    return ["restore", image, OUT, "--task", task, *QUICK, *options]


# --- options ---


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (restore(task="blur"), "there is no task 'blur'"),
        (restore(task="sr"), "sr needs a whole factor"),
        (restore(task=""), "nothing to restore"),
        (restore(task="denoise"), "denoise needs to know the noise"),
        (["restore", "scene.zarr", OUT], "--task is missing"),
        (restore(task="inpaint"), "--mask: the task has inpaint"),
        (restore("--mask", "mask.png"), "--mask: the task has no inpaint"),
        (restore("--tile", "2"), "tile is 2, which this task and model cannot take"),
        (restore("--tile", "big"), "--tile must be a whole number from 1 up, or auto, not 'big'"),
        (restore("--stride", "16"), "the nearest legal geometry is tile 16, stride 14, guard 0"),
        (restore("--stride", "7"), "stride is 7"),
        (restore("--guard", "14"), "guard is 14"),
        (restore("--guard", "-1"), "--guard must be a whole number from 0 up"),
        (restore("--levels", "9"), "levels is 9, but this task has only 1"),
        (restore("--bands", "3"), "--bands: only colorize and generate make bands"),
        (restore("--range", "255", "0"), "--range: 255 is not below 0"),
        (restore("--range", "0", "white"), "--range must be two numbers"),
        (restore("--nodata", "none"), "--nodata must be a number, not 'none'"),
        (restore("--dtype", "float64"), "--dtype must be uint8, uint16 or float32"),
        (restore("--noise", "2"), "--noise must be a number from 0 to 1"),
        (restore("--steps", "0"), "--steps must be a whole number from 1 up"),
        (restore("--steps", "2000"), "steps"),
        (restore("--seed", "-1"), "--seed must be"),
        (restore("--batch", "0"), "--batch must be"),
        (restore("--retries", "1.5"), "--retries must be a whole number from 0 up, not 1.5"),
        (restore("--weave", "loose"), "--weave must be auto, msr, joint, patches or naive"),
        (restore("--max-memory", "1MB"), "this job needs about"),
        (restore("--max-memory", "much"), "--max-memory must be a number of bytes"),
        (restore("--publish-chunk", "100"), "--publish-shard: 64 is no multiple of publish.chunk"),
        (restore("--model", "oracle"), "no model is called 'oracle'"),
        (restore("--model-option", "width=3"), "model.width is no option of gaussian"),
        (restore("--model-option", "length=-3"), "model.length is -3"),
        (restore("--model-option", "length"), "--model-option must be KEY=VALUE"),
    ],
    ids=lambda value: " ".join(value[len(restore()) :]) if isinstance(value, list) else "",
)
def test_an_option_that_cannot_be(capfd, folder, words, says):
    refused(capfd, folder, words, says)


# --- images and masks ---


def _nan(at):
    pixels = noise(2, 24, 28, dtype="float32")
    pixels[at] = np.nan
    return pixels


IMAGES = {
    "missing": (lambda path: None, "does not exist"),
    "empty folder": (lambda path: path.mkdir(), "is a folder but no Zarr array"),
    "text": (lambda path: path.write_text("no image"), "is of no kind that can be read"),
    "four axes": (
        lambda path: write_zarr(path, np.zeros((2, 3, 8, 8), np.uint8), names=("t", "c", "y", "x")),
        "axis t",
    ),
    "one axis": (lambda path: write_zarr(path, np.zeros(8, np.uint8)), "shape (8,)"),
    "no pixel": (lambda path: zarr.create_array(str(path), shape=(3, 0, 8), chunks=(1, 1, 1), dtype="u1"), "no pixel"),
    "float64": (lambda path: write_zarr(path, noise(dtype="float64")), "has dtype float64"),
    "int32": (lambda path: write_zarr(path, noise(dtype="int32")), "has dtype int32"),
    "cut short": (lambda path: path.write_bytes(b"II*\0\x08\0\0\0"), "damaged or incomplete"),
    "not a number": (lambda path: write_zarr(path, _nan((1, 20, 3))), "holds nan in band 1 at row 20, column 3"),
    "missing in one band": (lambda path: write_zarr(path, _nan((0, 2, 5)), attributes={"nodata": float("nan")}), "nan"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_that_cannot_be_restored(capfd, folder, kind):
    make, says = IMAGES[kind]
    make(folder / "bad")
    refused(capfd, folder, restore(image="bad"), f"{folder}/bad", says)


MASKS = {
    "missing": (lambda path: None, "does not exist"),
    "other size": (lambda path: write_png(path, noise(1, 28, 24)), "28x24 pixels, this task needs one of 24x28"),
    "three bands": (lambda path: write_png(path, noise(3, 24, 28)), "has 3 bands and a mask has one"),
    "floats": (lambda path: write_tiff(path, noise(1, 24, 28, dtype="float32")), "has dtype float32 and a mask"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_that_does_not_fit(capfd, folder, kind):
    make, says = MASKS[kind]
    make(folder / "bad")
    refused(capfd, folder, restore("--mask", "bad", task="inpaint"), f"{folder}/bad", says)


def test_color_from_an_image_that_has_it(capfd, folder):
    refused(capfd, folder, restore(task="colorize"), "has 3 bands, and colorize starts from one")


def test_an_image_in_one_piece_too_large_to_decode(capfd, folder, monkeypatch):
    monkeypatch.setattr(decoding, "DECODED_LIMIT", 2**8)
    refused(capfd, folder, restore(), "at most 0 MB are read at once", "convert it to Zarr with chunks")


@pytest.mark.parametrize("image", ["ftp://bucket/scene.zarr", "https://example.com/scene.tif"])
def test_an_image_elsewhere(capfd, folder, image):
    refused(capfd, folder, restore(image=image), f"{image.partition(':')[0]}://...: there are no stores of this kind")


# --- outputs ---


@pytest.mark.parametrize("output", ["mask.png", "mask.png/out.zarr", "mask.png/deep/out.zarr"])
def test_an_output_below_or_instead_of_a_file(capfd, folder, output):
    refused(capfd, folder, ["restore", "scene.zarr", output, "--task", "sr:2", *QUICK], "mask.png")


@pytest.mark.parametrize("output", ["scene.zarr/1", "scene.zarr/deep/out.zarr"])
def test_an_output_inside_of_zarr(capfd, folder, output):
    refused(capfd, folder, ["restore", "scene.zarr", output, "--task", "sr:2", *QUICK], "which is Zarr already")


def test_an_output_elsewhere(capfd, folder):
    refused(capfd, folder, ["restore", "scene.zarr", "ftp://host/out.zarr", "--task", "sr:2"], "ftp://...: there")


def test_an_output_that_is_something_else(capfd, folder):
    write_zarr(folder / OUT, noise())
    refused(capfd, folder, restore(), "exists and is no tileloom result: choose another output or remove it")
    refused(capfd, folder, ["restore", "scene.zarr", "scene.zarr", "--task", "sr:2"], "is no tileloom result")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], restore()),
        (lambda text: "[]", restore()),
        (lambda text: json.dumps({**json.loads(text), "spec": {"task": "blur"}}), ["resume", OUT]),
    ],
    ids=["cut short", "no mapping", "another job"],
)
def test_an_output_whose_job_is_damaged(capfd, folder, damage, words):
    assert tileloom(capfd, *restore()).code == 0
    job = folder / OUT / ".tileloom" / "job.json"
    job.write_text(damage(job.read_text()))
    refused(capfd, folder, words, f"{job} is damaged")


def test_an_output_that_another_job_began(capfd, folder):
    assert tileloom(capfd, *restore()).code == 0
    refused(capfd, folder, restore("--seed", "1"), "seed: 0 -> 1", "add --redo stale")
    zarr.open_array(folder / "scene.zarr")[0, 0, 0] ^= 1
    refused(capfd, folder, restore(), "input: ")


@pytest.mark.parametrize("command", ["status", "verify", "retry", "resume"])
def test_an_output_that_holds_nothing(capfd, folder, command):
    refused(capfd, folder, [command, "."], f"{folder} holds no result of tileloom")
    refused(capfd, folder, [command, "nothing.zarr"], f"{folder}/nothing.zarr")


# --- job files ---

JOBS = {
    "unknown key": ("input: scene.zarr\noutput: out.zarr\ntask: sr:2\ntiles: 16\n", "tiles is no key of a job"),
    "wrong type": ("input: scene.zarr\noutput: out.zarr\ntask: sr:2\ntile: '16'\n", "tile must be a whole number"),
    "no task": ("input: scene.zarr\noutput: out.zarr\n", "task is missing"),
    "a key twice": ("input: a\ninput: b\noutput: out.zarr\ntask: sr:2\n", "line 2: 'input' is given twice"),
    "empty": ("", "is empty"),
    "no yaml": ("input: [scene.zarr\n", "job.yaml, line"),
    "no mapping": ("- sr:2\n", "must hold keys and their values"),
    "nested unknown key": ("input: a\noutput: b\ntask: sr:2\ntravel: {lenght: 3}\n", "did you mean travel.length?"),
}


@pytest.mark.parametrize("command", ["run", "plan", "resume"])
@pytest.mark.parametrize("kind", JOBS)
def test_a_job_file_that_cannot_be_read(capfd, folder, kind, command):
    text, says = JOBS[kind]
    (folder / "job.yaml").write_text(text)
    refused(capfd, folder, [command, "job.yaml"], says)


@pytest.mark.parametrize("command", ["run", "plan", "resume"])
def test_a_job_file_that_is_not_there(capfd, folder, command):
    refused(capfd, folder, [command, "job.yaml"], "job.yaml cannot be read: No such file")


def test_a_job_that_was_not_begun_cannot_go_on(capfd, folder):
    written(folder, input="scene.zarr", output=OUT, task="sr:2")
    refused(capfd, folder, ["resume", "job.yaml"], "was not begun yet: start it with `tileloom run job.yaml`")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--autoscale", "4"], "--autoscale must be MIN:MAX"),
        (["--autoscale", "4:8"], "do not lie in the range 4:8"),
        (["--mtbf", "0.001"], "hardly ever finish a tile"),
        (["--call-seconds", "0"], "above 0"),
    ],
)
def test_a_cluster_that_cannot_be(capfd, folder, options, says):
    written(folder, input="scene.zarr", output=OUT, task="sr:2")
    words = ["simulate", "job.yaml", "--workers", "2", "--slots", "1", "--call-seconds", "1", *options]
    refused(capfd, folder, words, says)


def test_a_plan_that_does_not_fit_is_shown_and_refused(capfd, folder):
    written(folder, input="scene.zarr", output=OUT, task="sr:2", max_memory="1MB")
    assert "memory: about" in refused(capfd, folder, ["plan", "job.yaml"], "max_memory allows").out
