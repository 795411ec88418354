"""One output, one run at a time: whoever comes second is refused, and a refused job takes nothing away."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commandline import QUICK, tileloom, written
from tests.images import write_zarr
from tests.pipeline import assert_same_bytes, beside, job, restore, scene, stored_bytes
from tileloom.jobs.archive import Register, load
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import Redo, run_job
from tileloom.jobs.run_archive import run_archive
from tileloom.jobs.state import HIDDEN, only_run
from tileloom.tiling.errors import InputError, LedgerTaken

HOLD = """
import sys, time
from pathlib import Path
from tileloom.jobs.state import only_run
with only_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def spec(tmp_path):
    return job(tmp_path, scene(1, 12, 14), task="sr:2")


def test_a_second_run_is_refused_in_one_sentence_and_changes_nothing(spec):
    restore(spec)
    before = stored_bytes(spec)
    with only_run(Path(spec.output)):
        with pytest.raises(LedgerTaken, match=r"another run is working on .*: wait for it"):
            restore(spec)
        with pytest.raises(LedgerTaken, match="another run is working on"):
            restore(spec.model_copy(update={"seed": 9}), redo=Redo.STALE)
    assert stored_bytes(spec) == before


def test_the_system_frees_the_output_of_a_killed_run(spec):
    process = subprocess.Popen([sys.executable, "-c", HOLD, spec.output], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LedgerTaken):
            restore(spec)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert restore(spec).report.done > 0


def test_a_run_that_is_going_on_keeps_a_redo_out_until_it_ends(spec, tmp_path):
    refusals = []

    def meanwhile(_):
        if not refusals:
            with pytest.raises(LedgerTaken) as refused:
                restore(spec.model_copy(update={"steps": 2}), redo=Redo.STALE)
            refusals.append(refused)

    run_job(spec, Silent(), on_reports=meanwhile)
    assert len(refusals) == 1
    alone = beside(spec, tmp_path / "alone")
    restore(alone)
    assert_same_bytes(spec, alone)


def test_a_refused_job_leaves_no_folder_behind_that_it_made(tmp_path, capfd):
    image = np.full((1, 8, 8), 0.5, np.float32)
    image[0, 3, 4] = np.nan
    write_zarr(tmp_path / "nan.zarr", image)
    output = tmp_path / "a" / "b" / "out.zarr"
    said = tileloom(capfd, "restore", tmp_path / "nan.zarr", output, "--task", "sr:2", *QUICK)
    assert said.code == 2, said.errors
    assert not (tmp_path / "a").exists()


def test_a_killed_run_without_a_job_is_no_foreign_output(spec):
    folder = Path(spec.output) / HIDDEN
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    assert restore(spec).report.done > 0


def test_a_result_that_was_moved_is_resumed_where_it_lies(spec, tmp_path, capfd):
    restore(spec)
    moved = tmp_path / "elsewhere.zarr"
    os.rename(spec.output, moved)
    assert tileloom(capfd, "resume", moved).code == 0
    assert not Path(spec.output).exists()


def test_an_output_that_is_no_result_is_not_written_into(tmp_path, spec):
    folder = Path(spec.output)
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is no tileloom result"):
        restore(spec)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_an_archive_that_fails_on_the_way_keeps_what_it_has(spec, tmp_path, monkeypatch):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("one", "two"):
        write_zarr(images / f"{name}.zarr", scene(1, 12, 14))
    keys = spec.model_dump(mode="json", exclude_none=True, exclude={"cluster", "input", "id"})
    job_file = written(tmp_path, **keys | {"output": "out", "manifest": str(images)})
    add, added = Register.add, []

    def interrupted(self, record):
        if added:
            raise KeyboardInterrupt
        added.append(record.id)
        add(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Register, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_archive(load(job_file), Silent())
    assert (tmp_path / "out" / f"{added[0]}.zarr" / "zarr.json").exists()
    summary = run_archive(load(job_file), Silent())
    assert (summary.done, summary.whole) == (2, True)
