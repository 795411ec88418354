"""Damage to anything a job wrote is found by verify and by the run that reads it, named, and mended by retry."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from tests import faults, pipeline
from tileloom.jobs.compile import compile_job
from tileloom.jobs.look import verify_output
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import Redo
from tileloom.tiling.box import TileKey
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.canvas import Canvas
from tileloom.tiling.errors import CorruptChunk
from tileloom.tiling.ledger import Ledger, Status, salvage
from tileloom.tiling.pyramid import Pyramid

HEIGHT, WIDTH = 48, 64
BASE = {
    **{"task": "inpaint", "range": [-1, 1], "steps": 2, "batch": 2, "publish": {"chunk": 16, "shard": 32}},
    **{"tile": 16, "stride": 10, "guard": 2, "levels": 2},
}
# In a run stopped after so many tiles, INNER is done and its south-east neighbour is not.
HALFWAY, INNER, COARSE = 16, TileKey(0, 1, 1), TileKey(1, 1, 1)
WHAT = [INNER, COARSE]


def mask():
    found = np.zeros((HEIGHT, WIDTH), bool)
    found[2:46, 2:60] = True
    return found


def begun(folder, *, stop=None):
    """(job, what became of its tiles) of a run that was stopped, or that came to its end."""
    spec = pipeline.job(folder, pipeline.scene(2, HEIGHT, WIDTH), mask=mask(), **BASE)
    return spec, faults.run(spec, stop=stop)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return begun(tmp_path_factory.mktemp("clean"))[0]


def plan_of(spec):
    return compile_job(spec).image.plan


def damage_in(spec):
    """What verify finds: (array, chunk), paths of arrays below the output."""
    found = verify_output(faults.state_of(spec), Silent()).damage
    return {(piece.array.removeprefix(f"{spec.output}/"), piece.chunk) for piece in found}


def assert_equal(spec, clean):
    for level in range(compile_job(spec).image.result.levels):
        np.testing.assert_array_equal(pipeline.result(spec, level), pipeline.result(clean, level))
    for pixels, expected in zip(faults.canvases(spec), faults.canvases(clean), strict=True):
        np.testing.assert_array_equal(pixels, expected)
    assert damage_in(spec) == set()


def named(spec, path):
    """(array, chunk) as messages name a stored file."""
    array, _, chunk = str(path).partition("/c/")
    return array.removeprefix(f"{spec.output}/"), f"c/{chunk}"


@pytest.mark.parametrize("key", WHAT, ids=str)
@pytest.mark.parametrize("damage", faults.DAMAGES)
def test_a_damaged_tile_is_found_by_verify_and_mended_by_retry(tmp_path, clean, damage, key):
    spec, _ = begun(tmp_path)
    path = faults.chunk_of(spec, key)
    damage(path)
    assert damage_in(spec) == {named(spec, path)}
    assert faults.redone(faults.run(spec, redo=Redo.FAILED)) == {key}
    assert_equal(spec, clean)


@pytest.mark.parametrize("key", WHAT, ids=str)
@pytest.mark.parametrize("damage", faults.DAMAGES)
def test_a_damaged_tile_is_found_by_the_run_that_reads_it(tmp_path, clean, damage, key, capsys):
    spec, first = begun(tmp_path, stop=("restore", HALFWAY))
    assert key in faults.redone(first)
    path = faults.chunk_of(spec, key)
    damage(path)
    array, chunk = named(spec, path)
    with pytest.raises(CorruptChunk) as error:
        pipeline.restore(spec)
    assert array in str(error.value)
    assert chunk in str(error.value)
    assert not (tmp_path / "out.zarr" / "0").exists(), "something was published all the same"
    assert faults.command("resume", spec.output) == 1
    said = capsys.readouterr().err
    assert f"tileloom retry {spec.output}" in said
    assert array in said
    second = faults.run(spec, redo=Redo.FAILED)
    assert faults.redone(first) & faults.redone(second) == {key}
    assert_equal(spec, clean)


@pytest.mark.parametrize("damage", faults.DAMAGES)
def test_a_damaged_tile_that_no_other_reads_is_found_at_publishing(tmp_path, clean, damage):
    spec, _ = begun(tmp_path, stop=("publish", 0))
    plan = plan_of(spec)
    last = max(t for t in plan if plan.key(t).level == 0 and mask()[plan.owns(t).slices].any())
    damage(faults.chunk_of(spec, plan.key(last)))
    with pytest.raises(CorruptChunk, match="canvas-0"):
        pipeline.restore(spec)
    assert faults.redone(faults.run(spec, redo=Redo.FAILED)) == {plan.key(last)}
    assert_equal(spec, clean)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("damage", faults.DAMAGES)
def test_a_damaged_shard_is_found_by_verify_and_mended_by_retry(tmp_path, clean, damage, level, capsys):
    spec, _ = begun(tmp_path)
    path = tmp_path / "out.zarr" / str(level) / "c" / "0" / "0" / "0"
    damage(path)
    assert damage_in(spec) == {named(spec, path)}
    assert faults.command("verify", spec.output) == 1
    assert f"{level}" in capsys.readouterr().out
    assert faults.redone(faults.run(spec, redo=Redo.FAILED)) == set()
    assert_equal(spec, clean)


@pytest.mark.parametrize("damage", faults.DAMAGES)
def test_a_damaged_shard_is_found_by_the_run_that_reads_it(tmp_path, clean, damage, capsys):
    spec, _ = begun(tmp_path, stop=("publish", 4))
    path = tmp_path / "out.zarr" / "0" / "c" / "0" / "1" / "0"
    damage(path)
    with pytest.raises(CorruptChunk, match=r"level 0 of .*out\.zarr: .*shard \(1, 0\)"):
        pipeline.restore(spec)
    assert faults.command("resume", spec.output) == 1
    assert f"tileloom retry {spec.output}" in capsys.readouterr().err
    assert faults.redone(faults.run(spec, redo=Redo.FAILED)) == set()
    assert_equal(spec, clean)


@pytest.mark.parametrize("name", ["y", "flags"])
@pytest.mark.parametrize("damage", faults.DAMAGES)
def test_a_damaged_coarser_input_is_found_and_made_again(tmp_path, clean, damage, name):
    spec, _ = begun(tmp_path, stop=("restore", 3))
    path = Path(faults.state_of(spec).root) / "inputs-1" / name / "c" / "0" / "0" / "0"
    damage(path)
    assert damage_in(spec) == {named(spec, path)}
    with pytest.raises(CorruptChunk, match=rf"inputs-1/{name}"):
        pipeline.restore(spec)
    pipeline.restore(spec, redo=Redo.FAILED)
    assert_equal(spec, clean)


@pytest.mark.parametrize("place", np.linspace(0, 0.999, 9))
def test_any_bit_of_the_ledger_counts(tmp_path, clean, place):
    """A flipped bit could turn one tile's number into another's, and still be JSON."""
    spec, first = begun(tmp_path, stop=("restore", HALFWAY))
    segment = sorted((Path(faults.state_of(spec).root) / "ledger").glob("*.json"))[3]
    lost = {tuple(tile) for tile in _keys(spec, segment)}
    faults.flip(segment, at=place)
    with pytest.raises(CorruptChunk, match=str(segment)):
        pipeline.restore(spec)
    second = faults.run(spec, redo=Redo.FAILED)
    assert faults.redone(first) & faults.redone(second) == lost > set()
    assert_equal(spec, clean)


def _keys(spec, segment):
    """The tiles that one segment alone holds."""
    kept = segment.parent.parent / "other"
    kept.mkdir()
    (kept / segment.name).write_bytes(segment.read_bytes())
    keys = [plan_of(spec).key(entry.tile) for entry in salvage(kept) if entry.status is Status.DONE]
    (kept / segment.name).unlink()
    kept.rmdir()
    return keys


def test_a_damaged_survey_is_found_and_made_again(tmp_path, clean):
    spec, _ = begun(tmp_path, stop=("restore", HALFWAY))
    faults.truncate(Path(faults.state_of(spec).root) / "survey")
    with pytest.raises(CorruptChunk, match="survey"):
        pipeline.restore(spec)
    pipeline.restore(spec, redo=Redo.FAILED)
    assert_equal(spec, clean)


@pytest.mark.parametrize("damage", [faults.truncate, faults.empty])
def test_a_working_array_with_a_damaged_description_is_found(tmp_path, clean, damage):
    spec, _ = begun(tmp_path, stop=("restore", HALFWAY))
    damage(Path(faults.state_of(spec).root) / "canvas-0" / "zarr.json")
    with pytest.raises(CorruptChunk, match="canvas-0"):
        pipeline.restore(spec)
    pipeline.restore(spec, redo=Redo.FAILED)
    assert_equal(spec, clean)


def test_a_working_array_that_lost_its_description_is_described_again(tmp_path, clean):
    spec, first = begun(tmp_path, stop=("restore", HALFWAY))
    faults.remove(Path(faults.state_of(spec).root) / "canvas-0" / "zarr.json")
    assert not set(first) & set(faults.run(spec))
    assert_equal(spec, clean)


def test_every_bit_of_a_tile_is_watched(tmp_path):
    spec, _ = begun(tmp_path, stop=("restore", HALFWAY))
    plan, path = plan_of(spec), faults.chunk_of(spec, INNER)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in [0, len(whole) - 1, *rng.integers(0, len(whole), 30)]:
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        canvas = Canvas(path.parents[3], plan.levels[0], bands=2, cache=ChunkCache(2**20))
        with pytest.raises(CorruptChunk, match="canvas-0"):
            canvas.read(plan.owns(plan.index(INNER)))


def test_every_bit_of_a_published_shard_is_watched(tmp_path):
    spec, _ = begun(tmp_path)
    path = tmp_path / "out.zarr" / "0" / "c" / "0" / "0" / "0"
    whole, pyramid = path.read_bytes(), Pyramid.open(spec.output, mode="r")
    rng = np.random.default_rng(0)
    for at in [0, len(whole) - 1, *rng.integers(0, len(whole), 30)]:
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(CorruptChunk, match=r"shard \(0, 0\)"):
            pyramid.check(0, (0, 0))


def test_a_whole_chunk_with_other_pixels_is_not_taken_over(tmp_path, clean):
    """Checksums tell nothing of a chunk that was swapped for another; the hash in the ledger does."""
    spec, _ = begun(tmp_path)
    stranger = faults.chunk_of(spec, TileKey(0, 2, 2)).read_bytes()
    faults.chunk_of(spec, INNER).write_bytes(stranger)
    assert damage_in(spec) == {named(spec, faults.chunk_of(spec, INNER))}
    assert faults.redone(faults.run(spec, redo=Redo.FAILED)) == {INNER}
    assert_equal(spec, clean)


def test_damage_to_the_input_is_not_promised_a_mend(tmp_path, capsys):
    spec, _ = begun(tmp_path, stop=("survey", 1))
    whole = zarr.open_array(spec.input, mode="r")[...]
    assert whole.shape == (2, HEIGHT, WIDTH)
    path = next(path for path in sorted((tmp_path / "input.zarr" / "c").rglob("*")) if path.is_file())
    faults.flip(path)
    other = spec.model_copy(update={"output": str(tmp_path / "other.zarr")})
    assert faults.command("run", faults.job_file(other)) == 1
    said = capsys.readouterr().err
    assert "input.zarr" in said
    assert "retry" not in said


def test_segments_that_are_whole_are_salvaged(tmp_path):
    spec, first = begun(tmp_path, stop=("restore", HALFWAY))
    folder, plan = Path(faults.state_of(spec).root) / "ledger", plan_of(spec)
    assert [entry.tile for entry in salvage(folder)] == [entry.tile for entry in Ledger(folder).entries()]
    faults.remove(sorted(folder.glob("*.json"))[0])
    faults.truncate(sorted(folder.glob("*.json"))[0])
    left = {plan.key(entry.tile) for entry in salvage(folder)}
    assert set() < left < set(first)
