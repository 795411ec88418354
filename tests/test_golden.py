"""Golden files replay, and a replay can fail: at every array, by every kind of damage."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.golden.__main__ import main
from tests.golden.arrays import Golden
from tests.golden.digests import digests_of, recorded
from tests.golden.kinds import KINDS, OF_PATCHES, OF_SPREADING, files_in, kind_of, verdict
from tests.golden.networks import PASS
from tests.house import ROOT

KEPT = files_in(ROOT / "tests" / "golden" / "data")
# Recorded files that a clone does not bring along.
ALL = ROOT.parent / "shared" / "golden"
ALTERED = "what no output shows is not what was recorded"
LARGEST_SELECTION = 6_500_000
NETWORKS = ("unet_", "classifier_", "schedules")
# These recordings have their own tests of what fails.
APART = (*OF_PATCHES, *OF_SPREADING)
WALKS = [file.stem for file in KEPT if not file.stem.startswith(NETWORKS) and not file.stem.endswith(APART)]


def rewritten(folder, file, *, name=None, **changed):
    """A copy of a file with other arrays, maybe under another name; an array that is None is left out."""
    with np.load(file) as opened:
        arrays = {**{name: opened[name] for name in opened.files}, **changed}
    path = folder / f"{name or file.stem}.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def corrupted(array):
    """The same kind of array with other content."""
    if array.dtype.kind in "US":
        return np.array(str(array).replace("1", "3"))
    if array.dtype.kind in "iu":
        return array + 1
    noise = np.random.default_rng(0).standard_normal(array.shape)
    return (array + 0.5 * np.abs(array).max() * noise).astype(array.dtype)


def kept(stem):
    return next(file for file in KEPT if file.stem == stem)


# --- what passes ---


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_a_kept_file_replays(file):
    came_to = verdict(file)
    assert not came_to.problem, str(came_to)
    assert came_to.error <= came_to.tolerance


def at_hand():
    return [file for folder in sorted(ALL.glob("*")) for file in files_in(folder) if kind_of(file)]


def test_every_network_at_hand_replays():
    networks = [file for file in at_hand() if file.stem.startswith(NETWORKS)]
    failed = [str(came_to) for came_to in map(verdict, networks) if came_to.problem]
    assert failed == []


@pytest.mark.slow
def test_every_file_at_hand_of_a_known_kind_replays():
    failed = [str(came_to) for came_to in map(verdict, at_hand()) if came_to.problem]
    assert failed == []


def test_the_selection_is_small_and_has_every_kind_of_network():
    assert sum(file.stat().st_size for file in KEPT) <= LARGEST_SELECTION
    for begins in NETWORKS:
        assert any(file.stem.startswith(begins) for file in KEPT)
        assert begins in KINDS


def test_the_program_prints_a_line_each_and_counts():
    command = [sys.executable, "-m", "tests.golden", "tests/golden/data"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[-1] == f"{len(KEPT)} passed, 0 failed"
    assert [line.split(":")[0] for line in lines[:-1]] == [file.stem for file in KEPT]
    assert all(line.endswith(", ok") and "tolerance" in line for line in lines[:-1])


# --- what fails ---


def test_failures_are_counted_named_and_end_with_1(tmp_path, capsys):
    rewritten(tmp_path, kept("classifier_adaptive_pool"), logits=np.zeros((3, 10), np.float32))
    (tmp_path / "schedules.npz").write_bytes(kept("schedules").read_bytes())
    (tmp_path / "mystery_file.npz").write_bytes(kept("schedules").read_bytes())
    (tmp_path / "notes.txt").touch()
    (tmp_path / "unet_torn.npz").write_bytes(kept("unet_classcond").read_bytes()[:1000])
    (tmp_path / "README.md").touch()
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 passed, 4 failed"
    said = dict(line.split(": ", 1) for line in lines[:-1])
    assert said["classifier_adaptive_pool"].endswith("not ok: logits")
    assert said["mystery_file.npz"].endswith("no replay knows this kind of file")
    assert said["notes.txt"].endswith("no replay knows this kind of file")
    assert "BadZipFile" in said["unet_torn"]
    assert said["schedules"].endswith("ok")


def test_a_folder_without_files_is_no_success(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == "0 passed, 0 failed\n"
    for words in ([str(tmp_path / "missing")], [], [str(tmp_path), "more"]):
        assert main(words) == 2
        assert capsys.readouterr().err == "usage: python -m tests.golden FOLDER\n"


def arrays_of(stem):
    with np.load(kept(stem)) as opened:
        return opened.files


def fails(tmp_path, stem, name):
    with np.load(kept(stem)) as opened:
        changed = corrupted(opened[name])
    return verdict(rewritten(tmp_path, kept(stem), **{name: changed})).problem


OF_NETWORKS = [
    (stem, name)
    for stem in ("classifier_guidance", "unet_classcond")
    for name in arrays_of(stem)
    if "sd." not in name or name.endswith(("label_emb.weight", "out.0.bias", "middle_block.1.qkv.weight"))
]
OF_SCHEDULES = ("config", "betas_cosine_1000", "respace_4_map", "jump_3", "travel_2")


@pytest.mark.parametrize(("stem", "name"), [*OF_NETWORKS, *(("schedules", name) for name in OF_SCHEDULES)])
def test_a_corrupted_array_fails(tmp_path, stem, name):
    assert fails(tmp_path, stem, name)


@pytest.mark.slow
@pytest.mark.parametrize("stem", WALKS)
def test_any_corrupted_array_of_a_run_fails(tmp_path, stem):
    """Every array beside the weights, and one weight in fifty: a run takes seconds to replay."""
    names = arrays_of(stem)
    weights = [name for name in names if "sd." in name]
    tried = [name for name in names if name not in weights] + weights[::50]
    assert [name for name in tried if not fails(tmp_path, stem, name)] == []


@pytest.mark.slow
@pytest.mark.parametrize("stem", [file.stem for file in KEPT if file.stem.startswith(NETWORKS)])
def test_any_corrupted_array_fails(tmp_path, stem):
    """Every array of the file, one at a time; outputs miss nothing but biases that a norm takes out again."""
    problems = {name: fails(tmp_path, stem, name) for name in arrays_of(stem)}
    assert all(problems.values()), problems
    unseen = [name for name, problem in problems.items() if problem == ALTERED]
    assert [name for name in unseen if not re.fullmatch(r"c?sd\..*_blocks?\..*\.bias", name)] == []
    assert len(unseen) < 0.25 * len(problems)


def test_weights_that_no_output_depends_on_may_not_be_altered(tmp_path):
    """One of them or several; in a file that was recorded anew, with other inputs, they are its own."""
    with np.load(kept("unet_classcond")) as opened:
        dead = {name: corrupted(opened[name]) for name in opened.files if name.endswith("1.0.in_layers.2.bias")}
        again = {name: opened[name][:2] for name in ("x", "t", "y", "out")}
    assert len(dead) > 1
    name = "sd.input_blocks.1.0.in_layers.2.bias"
    assert fails(tmp_path, "unet_classcond", name) == ALTERED
    assert verdict(rewritten(tmp_path, kept("unet_classcond"), **dead)).problem == ALTERED
    assert verdict(rewritten(tmp_path, kept("unet_classcond"), **dead, **again)).problem == ""


def test_every_kept_file_has_its_digests():
    assert {digests_of(Golden(file)) for file in KEPT} <= set(recorded().items())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"out": np.full((3, 6, 32, 32), np.nan, np.float32)}, "out"),
        ({"out": np.zeros((3, 6, 32, 31), np.float32)}, "out"),
        ({"out": None}, "nothing was compared with config, sd."),
        ({"surprise": np.zeros(3)}, "nothing was compared with surprise"),
        ({"sd.out.2.bias": None}, "1 key is missing (out.2.bias)"),
        ({"sd.extra": np.zeros(3, np.float16)}, "1 key is unexpected (extra)"),
        ({"config": np.array("{}")}, "KeyError"),
        ({"config": np.array('{"unet": {"conv_resample": false}}')}, "no network is like that"),
    ],
)
def test_what_is_missing_odd_or_no_number_fails(tmp_path, changed, says):
    came_to = verdict(rewritten(tmp_path, kept("unet_classcond"), **changed))
    assert says in came_to.problem


def test_the_count_of_a_walk_is_compared(tmp_path):
    config = dict(Golden(kept("schedules")).config)
    config["jumps"] = json.loads(json.dumps(config["jumps"]).replace('"n_reverse": 280', '"n_reverse": 281'))
    came_to = verdict(rewritten(tmp_path, kept("schedules"), config=np.array(json.dumps(config))))
    assert "jump_0 counts" in came_to.problem


def test_an_error_of_the_tolerance_passes_and_one_beyond_it_fails(tmp_path):
    golden = Golden(kept("classifier_adaptive_pool"))
    logits = golden["logits"]
    for share, ok in ((0.9, True), (1.2, False)):
        off = logits.copy()
        off[0, 0] += share * PASS
        assert golden.absolute("logits", off, PASS).ok == ok
    assert not golden.absolute("logits", logits * np.nan, PASS).ok
