"""What plan, status, verify and simulate say, held against what a run then does and what lies on disk."""

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import zarr

from tests import faults
from tests.commandline import files_in, tileloom
from tests.pipeline import holes, job, restore, scene
from tileloom.jobs.compile import compile_job
from tileloom.jobs.forecast import forecast, survey_image
from tileloom.jobs.look import Phase, job_status, open_state, verify_output
from tileloom.jobs.progress import Silent
from tileloom.jobs.spec import ClusterSpec
from tileloom.tiling.box import TileKey
from tileloom.tiling.errors import InputError
from tileloom.tiling.simulate import Autoscale, simulate

HEIGHT, WIDTH = 40, 48
TASKS = {
    "sr": {"task": "sr:2"},
    "small hole": {"task": "inpaint", "mask": "corner"},
    "holes": {"task": "inpaint", "mask": "holes"},
    "cloudy": {"task": "cloudy:2", "mask": "holes"},
}


def small_job(folder, kind="holes", **options):
    """A job on an image that lies in the folder as it is, so that it can be asked for again."""
    mask = None
    if TASKS[kind].get("mask") == "corner":
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[3:9, 5:12] = True
    elif "mask" in TASKS[kind]:
        mask = holes(HEIGHT, WIDTH)
    image = scene(2, HEIGHT, WIDTH)
    return job(folder, image, task=TASKS[kind]["task"], mask=mask, range=[-1, 1], **options)


def status_of(spec):
    return job_status(open_state(Path(spec.output)))


def verified(spec):
    return verify_output(open_state(Path(spec.output)), Silent())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished job, not to be changed."""
    spec = small_job(tmp_path_factory.mktemp("finished"), "small hole")
    return spec, restore(spec)


# --- plan ---


@pytest.mark.parametrize("kind", TASKS)
def test_a_plan_foretells_the_run(tmp_path, kind):
    spec = small_job(tmp_path, kind)
    compiled = compile_job(spec)
    bits = survey_image(compiled, Silent())
    found = forecast(compiled, bits)
    bill = restore(spec).bill
    assert not np.any(open_state(spec.output).bits() & ~bits), "a tile has more to restore than was foretold"
    assert found.bill.tiles == bill.tiles
    assert found.bill.solve[0] == bill.solve[0]
    assert all(most >= ran for most, ran in zip(found.bill.solve, bill.solve, strict=True))
    assert found.bill.calls == sum(found.bill.solve) * found.calls_per_tile >= bill.calls
    assert found.bill.result_bytes == bill.result_bytes
    assert found.bill.scratch_bytes >= bill.scratch_bytes
    published = zarr.open_array(f"{spec.output}/0", mode="r")
    assert found.result_size == published.shape
    assert found.dtype == published.dtype
    sizes = [(level.height, level.width) for level in found.levels]
    assert sizes == [(grid.height, grid.width) for grid in compiled.image.plan.levels]


def test_a_plan_tells_the_hole_from_the_rest(tmp_path):
    compiled = compile_job(small_job(tmp_path, "small hole"))
    found = forecast(compiled, survey_image(compiled, Silent()))
    assert all(0 < level.solve < tiles / 2 for level, tiles in zip(found.levels[:2], found.bill.tiles, strict=False))
    assert found.side_by_side == compiled.image.plan.width_profile().max()


def test_a_plan_writes_nothing(tmp_path, capfd):
    spec = small_job(tmp_path)
    path = faults.job_file(spec)
    before = files_in(tmp_path)
    assert tileloom(capfd, "plan", path).code == 0
    assert tileloom(capfd, "plan", path, "--json").code == 0
    assert files_in(tmp_path) == before


def test_a_dry_run_is_the_plan_of_the_same_job(tmp_path, capfd):
    spec = job(tmp_path, scene(3, 20, 24), task="sr:2", range=[0.0, 1.0])
    options = ["--tile", 16, "--steps", 3, "--lanes", 1, "--model-option", "length=4", "--range", 0, 1]
    options += ["--publish-chunk", 32, "--publish-shard", 64, "--json", "--dry-run"]
    planned = tileloom(capfd, "plan", faults.job_file(spec), "--json").json
    dry = tileloom(capfd, "restore", spec.input, spec.output, "--task", "sr:2", *options).json
    assert dry == planned
    assert not Path(spec.output).exists()


def test_a_plan_for_people_says_what_the_other_says(tmp_path, capfd):
    path = faults.job_file(small_job(tmp_path))
    told = tileloom(capfd, "plan", path, "--json").json
    text = tileloom(capfd, "plan", path).out
    calls, pixels = told["bill"]["calls"], told["effort"]["pixel_calls"]
    assert pixels == calls * told["tile"] ** 2
    assert f"network calls: at most {calls}, {pixels / 1e6:.3g} million pixels seen\n" in text
    assert told["effort"]["flops"] is None
    assert f"longest chain: {told['bill']['critical_path']} tiles" in text
    assert f"tile {told['tile']}, stride {told['stride']}, guard {told['guard']}" in text
    for level in told["levels"]:
        size = f"level {level['level']}: {level['height']}x{level['width']} pixels"
        assert f"{size}, {level['rows']}x{level['cols']} tiles, " in text


# --- status ---


def test_a_status_adds_up_and_knows_the_end(finished):
    spec, summary = finished
    found = status_of(spec)
    assert found.phase is Phase.DONE
    assert found.shards_published == found.shards == sum(1 for _ in Path(spec.output).glob("[0-9]*/c/0/*/*"))
    assert tuple(level.tiles for level in found.levels) == summary.bill.tiles
    assert tuple(level.done for level in found.levels) == summary.bill.solve
    for level in found.levels:
        assert level.known + level.todo + level.done + level.degraded == level.tiles
        assert level.todo == level.degraded == 0
    assert any(level.known for level in found.levels)


@pytest.mark.parametrize(
    ("at", "count", "phase"),
    [
        ("survey", 0, Phase.SURVEYING),
        ("survey", 1, Phase.SURVEYING),
        ("restore", 0, Phase.RESTORING),
        ("restore", 5, Phase.RESTORING),
        ("publish", 0, Phase.PUBLISHING),
        ("publish", 1, Phase.PUBLISHING),
    ],
)
def test_a_status_knows_where_a_run_was_stopped(tmp_path, at, count, phase):
    spec = small_job(tmp_path)
    faults.run(spec, stop=(at, count))
    before = files_in(tmp_path)
    found = status_of(spec)
    assert found.phase is phase
    assert found.shards_published == (count if at == "publish" else 0)
    assert sum(level.done for level in found.levels) == count if at == "restore" else True
    assert bool(found.levels) == (phase is not Phase.SURVEYING)
    assert verified(spec).damage == ()
    assert files_in(tmp_path) == before


def test_a_status_is_told_in_json_and_in_words(finished, capfd):
    spec, _ = finished
    said = tileloom(capfd, "status", spec.output, "--json")
    assert said.code == 0
    assert said.json["phase"] == "done"
    assert said.json["degraded"] == []
    text = tileloom(capfd, "status", spec.output).out
    assert text.startswith(f"{spec.output}: done\n")
    for level in said.json["levels"]:
        assert f"level {level['level']}: {level['tiles']} tiles, {level['known']} with nothing to restore" in text


def test_a_status_lists_what_was_given_up(tmp_path, capfd, monkeypatch):
    bad = TileKey(0, 1, 2)
    faults.break_work(monkeypatch, bad={bad})
    spec = small_job(tmp_path, "sr", retries=0)
    restore(spec)
    said = tileloom(capfd, "status", spec.output, "--json")
    assert said.code == 1
    [tile] = said.json["degraded"]
    assert (tile["level"], tile["row"], tile["col"]) == bad
    assert "struck by lightning" in tile["reason"]
    assert tile["box"] == str(compile_job(spec).image.plan.levels[0].owns(1, 2))
    assert said.json["levels"][0]["degraded"] == 1
    said = tileloom(capfd, "status", spec.output)
    assert said.code == 1
    assert f"degraded: {bad} (" in said.out
    assert said.out.endswith(f"run these again with: tileloom retry {spec.output}\n")


def test_a_status_asks_for_the_job_not_for_any_folder(tmp_path):
    with pytest.raises(InputError, match="holds no result of tileloom"):
        open_state(tmp_path)


# --- verify ---


def test_what_was_written_is_verified(finished, capfd):
    spec, summary = finished
    found = verified(spec)
    assert (found.tiles, found.damage) == (sum(summary.bill.solve), ())
    assert found.shards == status_of(spec).shards
    said = tileloom(capfd, "verify", spec.output)
    assert said.code == 0
    assert said.out.endswith("nothing is damaged\n")


@pytest.mark.parametrize("damage", faults.DAMAGES)
def test_a_damaged_tile_is_named_and_nothing_else(tmp_path, capfd, damage):
    spec = small_job(tmp_path, "sr")
    restore(spec)
    key = TileKey(0, 2, 3)
    damage(faults.chunk_of(spec, key))
    said = tileloom(capfd, "verify", spec.output, "--json")
    assert said.code == 1
    [found] = said.json["damage"]
    assert found["tile"].startswith(f"{key} (")
    assert found["array"].endswith("canvas-0")
    assert (Path(found["array"]) / found["chunk"]) == faults.chunk_of(spec, key)


def test_a_tile_that_is_whole_but_not_the_one_written_is_found(tmp_path):
    spec = small_job(tmp_path, "sr")
    restore(spec)
    one, other = (faults.chunk_of(spec, TileKey(0, 2, col)) for col in (2, 3))
    one.write_bytes(other.read_bytes())
    [found] = verified(spec).damage
    assert found.tile.startswith(str(TileKey(0, 2, 2)))
    assert found.problem == "its pixels are not those written"


@pytest.mark.parametrize("damage", faults.DAMAGES)
@pytest.mark.parametrize("level", [0, 1])
def test_a_damaged_file_of_the_result_is_named(tmp_path, capfd, damage, level):
    spec = small_job(tmp_path, "sr")
    restore(spec)
    file = sorted((Path(spec.output) / str(level)).glob("c/0/*/*"))[-1]
    damage(file)
    said = tileloom(capfd, "verify", spec.output)
    assert said.code == 1
    lines = said.out.splitlines()
    assert [line for line in lines if line.startswith("damaged: ")] == lines[1:-1]
    assert f"{file.parents[3]}, {file.relative_to(file.parents[3])}: " in lines[1]
    assert lines[-1] == f"mend it with: tileloom retry {spec.output}"


def test_a_damaged_coarser_input_is_found(tmp_path):
    spec = small_job(tmp_path)
    restore(spec)
    file = Path(faults.state_of(spec).root) / "inputs-1" / "y" / "c" / "0" / "0" / "0"
    faults.flip(file)
    [found] = verified(spec).damage
    assert Path(found.array) / found.chunk == file
    assert found.tile is None


@pytest.mark.parametrize("name", ["ledger/00000001.json", "survey"])
def test_damaged_books_are_found(tmp_path, name):
    spec = small_job(tmp_path, "sr")
    restore(spec)
    path = Path(faults.state_of(spec).root) / name
    path.write_bytes(b"\x00")
    [found] = verified(spec).damage
    assert str(path) in found.problem


def test_without_its_working_arrays_only_the_result_is_verified(tmp_path):
    spec = small_job(tmp_path, keep_scratch=False)
    restore(spec)
    before = files_in(tmp_path)
    found = verified(spec)
    assert (found.tiles, found.damage) == (0, ())
    assert found.shards > 0
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("text", ["{}", '{"input": "a"}'])
def test_a_stored_job_that_is_none_is_refused(tmp_path, text):
    spec = small_job(tmp_path, "sr")
    restore(spec)
    path = Path(spec.output) / ".tileloom" / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "spec": json.loads(text)}))
    with pytest.raises(InputError, match=r"job\.json is damaged"):
        status_of(spec)


# --- simulate ---

PRICES = {"A100": 1.8, "T4": 0.4}
CLUSTER = ["--workers", 2, "--slots", 3, "--call-seconds", 0.5]


def test_a_simulation_is_of_the_jobs_own_tiles(finished, tmp_path, capfd):
    spec, summary = finished
    calls = compile_job(spec).calls_per_tile
    told = tileloom(capfd, "simulate", spec.output, *CLUSTER, "--json").json
    assert told["work"] == sum(summary.bill.solve) * calls * 0.5
    assert told["slots"] == 6
    assert told["bound"] <= told["makespan"] <= told["work"]
    # Before the run, what its coarser levels hold is not known yet.
    planned = tileloom(capfd, "simulate", faults.job_file(small_job(tmp_path, "small hole")), *CLUSTER, "--json").json
    assert planned["work"] >= told["work"]


def test_a_simulation_takes_what_the_simulator_takes(finished, capfd, tmp_path):
    spec, _ = finished
    options = ["--images", 12, "--mtbf", 2, "--autoscale", "1:4", "--startup", 2]
    priced = spec.model_copy(update={"cluster": ClusterSpec(idle=7, prices=PRICES)})
    told = tileloom(capfd, "simulate", faults.job_file(priced), *CLUSTER, *options, "--json").json
    compiled = compile_job(spec)
    plan, bits = compiled.image.plan, survey_image(compiled, Silent())
    finest = slice(plan.tiles(0).start, plan.tiles(0).stop)
    np.testing.assert_array_equal(bits[finest], faults.state_of(spec).bits()[finest])
    # Survey bits OWNS 1, KEEPS 2 as the frontier's TODO 0, RELAY 1, BORN 2.
    states = np.array([2, 0, 1, 0], np.uint8)[bits]
    expected = simulate(
        [plan] * 12,
        workers=2,
        slots=3,
        call_seconds=0.5,
        calls_per_tile=3,
        states=[states] * 12,
        mtbf=2,
        autoscale=Autoscale(1, 4, 2, 7),
    )
    assert told["makespan"] == expected.makespan
    assert told["redone"] == expected.redone > 0
    assert told["worker_seconds"] == expected.worker_seconds
    assert told["node_seconds"] == expected.worker_seconds
    assert told["idle_share"] == expected.idle
    assert told["cost"] == {
        kind: pytest.approx(price * expected.worker_seconds / 3600) for kind, price in PRICES.items()
    }


def test_a_startup_delay_alone_counts_for_lost_workers(finished, capfd):
    spec, _ = finished
    words = ["simulate", spec.output, *CLUSTER, "--mtbf", 4, "--images", 12, "--json"]
    assert tileloom(capfd, *words, "--startup", 100).json["makespan"] > tileloom(capfd, *words).json["makespan"]


def test_a_simulation_can_be_seen(finished, capfd, tmp_path):
    spec, _ = finished
    picture = tmp_path / "weave.png"
    said = tileloom(capfd, "simulate", spec.output, *CLUSTER, "--picture", picture)
    assert said.code == 0
    assert said.out.splitlines()[0].startswith("makespan: ")
    assert imagecodecs.png_decode(picture.read_bytes()).ndim == 3
