"""Jobs of a network that fills holes, larger ones than a tile too: same bytes in any order, and what is refused."""

import numpy as np
import pytest

from tests.archives import archive
from tests.commandline import files_in, tileloom
from tests.fillers import HOLES, file_of
from tests.images import write_zarr
from tests.pipeline import assert_same_bytes, beside, committed, job, restore, result, scene
from tileloom.cluster.executor import CrewSpec
from tileloom.jobs import phases, run
from tileloom.jobs.compile import compile_job
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import run_job
from tileloom.jobs.spec import ClusterSpec
from tileloom.tiling.errors import InputError

BANDS, HEIGHT, WIDTH = HOLES.in_channels, 52, 46
IMAGE = scene(BANDS, HEIGHT, WIDTH, seed=3)
# Larger than a tile of 16 pixels either way, and at the image's corner, where a tile has nothing known in view.
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[:40, :30] = True
MASK[45, 5:40] = True


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return file_of(tmp_path_factory.mktemp("net"))


def filling(folder, network, *, mask=MASK, image=IMAGE, task="inpaint", **options):
    folder.mkdir(exist_ok=True)
    model = {"name": network, **options.pop("model", {})}
    keys = {"range": [-1, 1], "steps": 3, "batch": 3, "levels": 2, **options}
    return job(folder, image, task=task, mask=mask, model=model, **keys)


@pytest.fixture(scope="module")
def reference(network, tmp_path_factory):
    """A job of two levels that has been run as the command line would."""
    spec = filling(tmp_path_factory.mktemp("reference") / "job", network)
    restore(spec)
    return spec


def test_a_hole_larger_than_a_tile_is_filled_and_the_rest_comes_back(reference):
    plan = compile_job(reference).image.plan
    assert len(plan.levels) == 2
    # Tiles without a hole are copied.
    owned = [tile for tile in plan.tiles(0) if MASK[plan.owns(tile).slices].any()]
    assert len(owned) == len(set(committed(reference)) & set(plan.tiles(0))) < plan.levels[0].count
    found = result(reference)
    np.testing.assert_array_equal(found[:, ~MASK], IMAGE[:, ~MASK])
    assert (np.abs(found[:, MASK]) > 0).mean() > 0.99
    assert compile_job(reference).calls_per_tile == 3


@pytest.mark.parametrize("order", ["raster", "wavefront", "random"])
def test_any_order_of_tiles_gives_the_same_bytes(reference, tmp_path, monkeypatch, order):
    plan, rng = compile_job(reference).image.plan, np.random.default_rng(1)
    place = {"raster": lambda tile: tile, "wavefront": plan.depth, "random": lambda tile: int(rng.integers(1 << 20))}
    monkeypatch.setitem(phases.POLICIES, "critical-path", lambda image, rank, tile: place[order](tile))
    spec = beside(reference, tmp_path)
    restore(spec)
    assert sorted(committed(spec)) == sorted(committed(reference))
    assert_same_bytes(spec, reference)


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(reference, tmp_path):
    spec, seen = beside(reference, tmp_path), []

    def stop(reports):
        seen.extend(reports)
        if len(seen) > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(spec, Silent(), on_reports=stop)
    assert 0 < len(committed(spec)) < len(committed(reference))
    restore(spec)
    assert_same_bytes(spec, reference)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_on_ray_give_the_same_bytes(reference, tmp_path, workers):
    cluster = ClusterSpec(workers=workers, cpus=1.0)
    spec = beside(reference, tmp_path).model_copy(update={"cluster": cluster})
    assert isinstance(spec.crew, CrewSpec)
    restore(spec)
    assert_same_bytes(spec, reference)


def test_another_seed_schedule_or_share_of_noise_fills_the_hole_otherwise(reference, network, tmp_path):
    found = [result(reference)]
    for number, told in enumerate(
        ({"seed": 5}, {"model": {"picking": "sqrt"}}, {"model": {"alpha": 0.5}}, {"steps": 2}, {"levels": 1})
    ):
        spec = filling(tmp_path / str(number), network, **told)
        restore(spec)
        found.append(result(spec))
    for one in found[1:]:
        np.testing.assert_array_equal(one[:, ~MASK], found[0][:, ~MASK])
        # A network that has learned nothing draws many values that are clipped.
        assert (one != found[0])[:, MASK].any(axis=0).mean() > 0.5


def test_steps_are_three_unless_a_job_says_otherwise(network, tmp_path):
    spec = filling(tmp_path, network, steps="auto")
    assert compile_job(spec).calls_per_tile == 3
    assert compile_job(job(tmp_path, spec.input, task="sr:2", steps="auto")).calls_per_tile == 50


def test_an_image_smaller_than_the_total_stride_is_filled_all_the_same(network, tmp_path):
    image, mask = IMAGE[:, :3, :2], np.array([[1, 0], [0, 0], [0, 0]], bool)
    assert max(mask.shape) < HOLES.size_multiple
    spec = filling(tmp_path, network, image=image, mask=mask)
    restore(spec)
    found = result(spec)
    np.testing.assert_array_equal(found[:, ~mask], image[:, ~mask])
    assert (found[:, 0, 0] != 0).all()


def test_margins_are_filled_like_holes(network, tmp_path):
    spec = filling(tmp_path, network, task="outpaint:8,0,0,6", mask=None)
    restore(spec)
    found = result(spec)
    assert found.shape == (BANDS, HEIGHT + 6, WIDTH + 8)
    np.testing.assert_array_equal(found[:, :HEIGHT, 8:], IMAGE)
    assert (found[:, HEIGHT:] != 0).mean() > 0.99


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"sampler": "repaint"}, "sampler is repaint"),
        ({"travel": {"repeat": 2}}, "leave travel out"),
        ({"weave": "joint"}, "weave is joint"),
        ({"parity": {"carry": True}, "guard": 0}, "parity.carry is of samplers of noise"),
        ({"task": "sr:2", "mask": None}, "fills holes and does nothing else"),
        ({"task": "inpaint, sr:2"}, "fills holes and does nothing else"),
        ({"noise": 0.1}, "fills holes and does nothing else"),
        ({"eta": 0.5}, "eta is 0.5, and model holes"),
        ({"spacing": "fine"}, "spacing is fine, and model holes"),
        ({"tile": 2}, "tile is 2, which this task and model cannot take"),
        ({"model": {"picking": "best"}}, "model.picking is 'best'"),
    ],
)
def test_what_a_model_that_fills_holes_has_no_use_for_is_refused(network, tmp_path, told, says):
    mask = told.get("mask", MASK)
    if told.get("task") == "inpaint, sr:2":
        mask = np.repeat(np.repeat(MASK, 2, axis=0), 2, axis=1)
    spec = filling(tmp_path, network, **{**told, "mask": mask})
    with pytest.raises(InputError, match=says) as refused:
        compile_job(spec)
    assert "\n" not in str(refused.value)


def test_the_command_line_fills_a_hole_and_refuses_a_mask_without_one(network, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_zarr(tmp_path / "in.zarr", IMAGE, names=("c", "y", "x"))
    for name, mask in (("mask", MASK), ("none", np.zeros_like(MASK)), ("all", np.ones_like(MASK))):
        write_zarr(tmp_path / f"{name}.zarr", mask[None].astype(np.uint8), names=("c", "y", "x"))
    words = ["restore", "in.zarr", "out.zarr", "--task", "inpaint", "--model", network, "--range", "-1", "1"]
    for mask, more, says in (
        ("none", [], "marks nothing as missing"),
        ("all", [], "marks everything as missing"),
        ("mask", ["--tile", "2"], "tile is 2"),
    ):
        before = files_in(tmp_path)
        said = tileloom(capfd, *words, "--mask", f"{mask}.zarr", *more)
        assert (said.code, len(said.errors)) == (2, 1)
        assert says in said.errors[0]
        assert files_in(tmp_path) == before
        planned = tileloom(capfd, *words, "--mask", f"{mask}.zarr", *more, "--dry-run")
        assert planned.errors == said.errors
    ran = tileloom(capfd, *words, "--mask", "mask.zarr", "--batch", "2", "--json")
    assert ran.code == 0
    assert ran.json["calls_per_tile"] == 3
    shown = tileloom(capfd, "models", "inspect", network)
    assert shown.code == 0
    assert "a spatial diffusion network" in shown.out
    checked = tileloom(capfd, "models", "check", network)
    assert checked.code == 2
    assert "fills holes and tells no noise" in checked.errors[0]


def test_an_image_of_an_archive_that_cannot_be_filled_ends_alone(network, tmp_path, capfd):
    write_zarr(tmp_path / "in.zarr", IMAGE, names=("c", "y", "x"))
    for name, mask in (("mask", MASK), ("none", np.zeros_like(MASK)), ("all", np.ones_like(MASK)), ("small", MASK[:4])):
        write_zarr(tmp_path / f"{name}.zarr", mask[None].astype(np.uint8), names=("c", "y", "x"))
    said = {
        "larger": "fills holes and does nothing else",
        "none": "marks nothing as missing",
        "all": "marks everything as missing",
        "small": "this task needs one of 52x46",
    }
    place = archive(tmp_path, rows=[], model=network, task="inpaint", steps=3)
    # The first of them is not what workers are made for.
    place.rows(
        {"id": "larger", "input": "in.zarr", "task": "sr:2"},
        *({"id": name, "input": "in.zarr", "mask": f"{name}.zarr"} for name in ("mask", "none", "all", "small")),
    )
    planned = tileloom(capfd, "plan", place.job)
    assert planned.code == 1
    for image in ("larger", "small"):
        assert f"cannot be run: {image}: " in planned.out
    ran = tileloom(capfd, "run", place.job)
    assert (ran.code, "5 images: 1 done, 0 degraded, 4 failed" in ran.out) == (1, True)
    for image, reason in said.items():
        assert reason in place.report()[image]["reason"]
        assert not place.result(image).exists()
    np.testing.assert_array_equal(result(place.spec("mask"))[:, ~MASK], IMAGE[:, ~MASK])


def test_a_mask_is_looked_at_before_a_job_is_begun_and_never_again(reference, tmp_path, monkeypatch):
    spec, asked = beside(reference, tmp_path), []
    monkeypatch.setattr(run, "refuse_hopeless_mask", lambda *told: asked.append(told))
    restore(spec)
    restore(spec)
    assert len(asked) == 1
