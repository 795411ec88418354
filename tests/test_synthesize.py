"""An image is drawn from a map of labels: at any size, woven in any way, beside whatever else is known of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
import zarr

from tests.commandline import tileloom, written
from tests.nets import SEMANTIC, UNET, weights
from tests.pipeline import assert_same_bytes, beside, committed, job, measure, restore, result, root_of
from tests.test_labels import blocks
from tileloom.jobs import run
from tileloom.jobs.compile import compile_job
from tileloom.jobs.course import Redo
from tileloom.jobs.spec import from_options
from tileloom.models.schedule import beta_table
from tileloom.models.semantic import SpadeNorm
from tileloom.models.semantic_denoiser import SemanticDenoiser
from tileloom.tiling.access import ImageAccess
from tileloom.tiling.box import Box
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.errors import InputError
from tileloom.tiling.labels import PRESETS

HEIGHT, WIDTH, CLASSES = 32, 44, 5


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A network of five classes and edges, and maps for it."""
    folder = tmp_path_factory.mktemp("files")
    paths = {"labels": blocks(HEIGHT, WIDTH, values=CLASSES), "instances": blocks(HEIGHT, WIDTH, values=9, seed=3)}
    for name, ids in paths.items():
        tifffile.imwrite(folder / f"{name}.tif", ids.astype("uint8"))
    told = {name: str(folder / f"{name}.tif") for name in paths}
    return {**told, "model": {"name": weights(folder, SEMANTIC), "edges": True}, "ids": paths["labels"]}


def drawn(folder, files, *, input=f"blank:{WIDTH}x{HEIGHT}", task="generate", **options):
    """A quick job of labels, not run yet."""
    told = {"labels": files["labels"], "model": files["model"], "steps": 2, "levels": 1, "batch": 2, **options}
    return job(folder, input, task=task, **told)


# --- what comes out ---


def test_the_result_is_as_large_as_its_labels_and_shows_them(tmp_path, files):
    spec = drawn(tmp_path, files)
    restore(spec)
    image = result(spec)
    assert (image.shape, image.dtype) == ((3, HEIGHT, WIDTH), np.uint8)
    other = tmp_path / "other.tif"
    tifffile.imwrite(other, ((files["ids"] + 1) % CLASSES).astype("uint8"))
    restored = drawn(tmp_path, files, labels=str(other), output="other.zarr")
    restore(restored)
    assert not np.array_equal(image, result(restored))


def test_the_command_does_what_the_job_file_does(tmp_path, files, capfd):
    spec = drawn(tmp_path, files)
    restore(spec)
    words = ["--tile", "16", "--steps", "2", "--levels", "1", "--batch", "2", "--lanes", "1"]
    words += ["--publish-chunk", "32", "--publish-shard", "64", "--model-option", "edges=true"]
    words += ["--model", files["model"]["name"]]
    assert tileloom(capfd, "synthesize", files["labels"], tmp_path / "cli.zarr", *words).code == 0
    again = spec.model_copy(update={"output": str(tmp_path / "cli.zarr")})
    assert np.array_equal(result(spec), result(again))


def test_the_result_lies_where_its_labels_do_and_takes_over_nothing_else_of_them(tmp_path, files):
    tags = [(33550, "d", 3, (2.0, 2.0, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 7.0, 9.0, 0.0), True)]
    told = tmp_path / "told.tif"
    tifffile.imwrite(told, files["ids"].astype("uint8"), extratags=[*tags, (42113, "s", 0, "0", True)], iccprofile=b"x")
    metadata = compile_job(drawn(tmp_path, files, labels=str(told))).source.metadata
    assert sorted(metadata) == ["geotiff_tags", "transform"]
    assert metadata["transform"] == [2.0, 0.0, 7.0, 0.0, -2.0, 9.0]
    assert sorted(metadata["geotiff_tags"]) == ["33550", "33922"]


def test_edges_come_from_instances_where_there_are_any(tmp_path, files):
    plain, edged = drawn(tmp_path, files), drawn(tmp_path, files, instances=files["instances"], output="edged.zarr")
    for spec in (plain, edged):
        restore(spec)
    assert not np.array_equal(result(plain), result(edged))


@pytest.mark.parametrize("weave", ["msr", "joint"])
def test_every_window_is_told_the_labels_under_it_at_every_level(tmp_path, files, monkeypatch, weave):
    told, predict = [], SemanticDenoiser.predict
    monkeypatch.setattr(
        SemanticDenoiser, "predict", lambda self, x, t, shown: told.extend(shown) or predict(self, x, t, shown)
    )
    spec = drawn(tmp_path, files, weave=weave, levels=2, steps=1)
    restore(spec)
    image = compile_job(spec).image
    sees = [(image.plan.key(tile).level, image.plan.sees(tile)) for tile in range(image.plan.count)]
    if weave == "joint":
        grids = [lattice.windows for lattice in image.lattices]
        sees = [
            (level, grid.sees(row, col))
            for level, grid in enumerate(grids)
            for row, col in np.ndindex(grid.rows.count, grid.cols.count)
        ]
    # Whoever tries the network beforehand has no labels.
    windows = [condition for condition in told if condition.labels]
    assert sorted((one.level, one.labels.box) for one in windows) == sorted(sees)
    for one in windows:
        box, ids = one.labels.box, files["ids"][:: 2**one.level, :: 2**one.level]
        inside = box.intersect(Box(0, 0, *ids.shape))
        assert one.labels.classes.shape == (16, 16)
        assert np.array_equal(one.labels.classes[inside.within(box)], ids[inside.slices])


@pytest.mark.parametrize("weave", ["msr", "joint"])
def test_what_is_drawn_of_labels_lies_where_they_do(tmp_path, files, monkeypatch, weave):
    """By a network that knows at once what a class looks like, every pixel comes to be what its label says."""
    signal = (1 - torch.tensor(beta_table("linear", 1000), dtype=torch.float64)).cumprod(0)

    def predict(denoiser, x, t, conditions):
        eps = torch.zeros(len(x), 6, *x.shape[2:])
        for row, condition in enumerate(conditions):
            if condition.labels:
                kept = signal[int(t[row])]
                looks = torch.from_numpy(condition.labels.classes.astype("float64") / CLASSES)
                eps[row, :3] = (x[row] - kept.sqrt() * looks) / (1 - kept).sqrt()
        return eps

    monkeypatch.setattr(SemanticDenoiser, "predict", predict)
    spec = drawn(tmp_path, files, weave=weave, dtype="float32", range=(-1.0, 1.0), sampler="ddim")
    restore(spec)
    np.testing.assert_allclose(result(spec), np.stack([files["ids"] / CLASSES] * 3), atol=1e-3)


def test_known_pixels_stay_beside_labels(tmp_path, files):
    """This map and this image of low resolution."""
    low = np.random.default_rng(0).integers(0, 255, (3, HEIGHT // 4, WIDTH // 4), dtype="uint8")
    spec = drawn(tmp_path, files, input=low, task="sr:4", dtype="float32", range=(0.0, 255.0), levels=1)
    restore(spec)
    np.testing.assert_allclose(measure(result(spec), "sr:4"), low, atol=0.01)


@pytest.mark.parametrize("weave", ["joint", "msr"])
def test_coarse_levels_settle_what_is_far(tmp_path, files, weave):
    how = {"dtype": "float32", "range": (-1.0, 1.0), "keep_scratch": True}
    spec = drawn(tmp_path, files, weave=weave, levels=2, sampler="ddpm", **how)
    restore(spec)
    access = ImageAccess(replace(compile_job(spec).image, root=str(root_of(spec))), ChunkCache(2**20))
    coarse = access.canvas(1).read(Box(0, 0, HEIGHT // 2, WIDTH // 2))
    means = result(spec).reshape(3, HEIGHT // 2, 2, WIDTH // 2, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(means, coarse, atol=1e-5)
    assert coarse.std() > 0.05


@pytest.mark.parametrize(("weave", "sampler"), [("msr", "ddpm"), ("joint", "ddim")])
def test_gains_and_shifts_are_made_once_a_tile_of_as_many_as_are_in_a_batch(
    tmp_path, files, monkeypatch, weave, sampler
):
    made, make = [], SpadeNorm.modulation
    monkeypatch.setattr(SpadeNorm, "modulation", lambda norm, *given: made.append(norm) or make(norm, *given))
    spec = drawn(
        tmp_path, files, weave=weave, sampler=sampler, steps=3, model={**files["model"], "guidance_scale": 2.0}
    )
    summary = restore(spec)
    windows = summary.calls // 3
    # Blocks hold all of their windows from the first step to the last, tiles as many as the network is shown.
    again = 0 if weave == "msr" else 2 * (windows - 2)
    # Those of a tile that is told nothing are one more.
    assert len(made) == len(set(made)) * (windows + again + 1)


# --- same bytes ---


def test_lanes_and_a_second_run_make_no_difference_and_batches_none_that_is_seen(tmp_path, files):
    first = drawn(tmp_path, files, sampler="ddpm", model={**files["model"], "guidance_scale": 1.5})
    again = beside(first, tmp_path / "again").model_copy(update={"lanes": 2})
    other = beside(first, tmp_path / "other").model_copy(update={"batch": 3})
    for spec in (first, again, other):
        restore(spec)
    assert_same_bytes(first, again)
    assert np.abs(result(first).astype(int) - result(other)).max() <= 1


# --- a map that changed ---


def test_only_tiles_whose_labels_changed_and_what_hangs_on_them_run_again(tmp_path, files):
    path, ids = tmp_path / "map.tif", files["ids"].copy()
    tifffile.imwrite(path, ids.astype("uint8"))
    spec = drawn(tmp_path, files, labels=str(path))
    whole = restore(spec)
    ids[-4:, -4:] = (ids[-4:, -4:] + 1) % CLASSES
    tifffile.imwrite(path, ids.astype("uint8"))
    with pytest.raises(InputError, match=r"begun by another job.*labels: "):
        restore(spec)
    redone = restore(spec, redo=Redo.STALE)
    assert 0 < redone.report.done < whole.report.done / 2
    assert redone.report.done + redone.report.inherited == whole.report.done


# --- a region drawn anew ---


def region():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[14:22, 16:23] = True
    return mask


def picture():
    return np.random.default_rng(1).integers(0, 256, (3, HEIGHT, WIDTH), dtype="uint8")


@pytest.mark.parametrize("task", ["edit", "edit:2"])
@pytest.mark.parametrize("levels", [1, 2])
def test_outside_of_an_edited_region_every_bit_stays(tmp_path, files, task, levels):
    spec = drawn(tmp_path, files, input=picture(), task=task, mask=region(), levels=levels)
    restore(spec)
    changed = (result(spec) != picture()).any(axis=0)
    assert not changed[~region()].any()
    assert changed[region()].mean() > 0.9


def test_only_tiles_that_an_edited_region_touches_are_run(tmp_path, files):
    spec = drawn(tmp_path, files, input=picture(), task="edit:2", mask=region())
    summary = restore(spec)
    plan = compile_job(spec).image.plan
    touched = [
        tile for tile in range(plan.count) if region()[plan.owns(tile).intersect(Box(0, 0, HEIGHT, WIDTH)).slices].any()
    ]
    assert sorted(committed(spec)) == touched
    assert 0 < len(touched) < plan.count / 2
    assert summary.calls == 2 * len(touched)


def test_a_painted_region_is_what_a_map_would_say_that_has_the_class_there(tmp_path, files):
    path = tmp_path / "map.tif"
    tifffile.imwrite(path, np.where(region(), 2, files["ids"]).astype("uint8"))
    painted = drawn(tmp_path, files, input=picture(), task="edit:2", mask=region())
    (other := tmp_path / "told").mkdir()
    told = drawn(other, files, input=picture(), task="edit", mask=region(), labels=str(path))
    for spec in (painted, told):
        restore(spec)
    assert np.array_equal(result(painted), result(told))


# --- what is refused ---


def refused(capfd, *words):
    said = tileloom(capfd, *words)
    assert (said.code, said.out, len(said.errors)) == (2, "", 1), said.errors
    return said.errors[0]


def synthesize(files, *more):
    return ("synthesize", files["labels"], "out.zarr", "--model", files["model"]["name"], *more)


def test_a_label_that_the_network_does_not_know_is_told_before_its_first_call(tmp_path, files, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = files["ids"].copy()
    ids[9, 5:8] = 77
    tifffile.imwrite("odd.tif", ids.astype("uint8"))
    told = {**files, "labels": "odd.tif"}
    said = refused(capfd, *synthesize(told, "--model-option", "edges=true", "--tile", "16", "--steps", "2"))
    assert "odd.tif holds 77 at row 9, column 5, which stands for none of the network's 5 classes" in said
    assert "(nor do 2 more pixels)" in said
    assert not (tmp_path / "out.zarr").exists()


def test_before_anything_is_loaded_for_a_map_of_unknown_labels_it_is_refused(tmp_path, files, monkeypatch):
    path, ids = tmp_path / "odd.tif", files["ids"].copy()
    ids[-1, -1] = 200
    tifffile.imwrite(path, ids.astype("uint8"))
    spec = drawn(tmp_path, files, labels=str(path))
    with monkeypatch.context() as patched:
        patched.setattr(run, "executor_of", None)
        with pytest.raises(
            InputError, match=f"holds 200 at row {HEIGHT - 1}, column {WIDTH - 1}, which stands for none"
        ):
            restore(spec)
    # A map may also change later on, or belong to an archive.
    monkeypatch.setattr(run, "refuse_unknown_labels", lambda image: None)
    with pytest.raises(InputError, match="holds 200 at row"):
        restore(spec)
    assert not (tmp_path / "out.zarr").exists()


def test_maps_of_another_size_are_refused(tmp_path, files, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("small.tif", np.zeros((8, 9), "uint8"))
    said = refused(capfd, *synthesize(files, "--model-option", "edges=true", "--instances", "small.tif"))
    assert f"is 8x9 pixels, and the result has {HEIGHT}x{WIDTH}: give a map of that size" in said
    tifffile.imwrite("in.tif", np.zeros((16, 16, 3), "uint8"))
    words = ("--task", "sr:2", "--labels", "small.tif", "--model", files["model"]["name"])
    assert "is 8x9 pixels, and the result has 32x32" in refused(capfd, "restore", "in.tif", "out.zarr", *words)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            ("--classes", "ade20k"),
            "has 151 classes, and model net.safetensors is told 6: choose what it was trained with\n",
        ),
        (("--classes", "7=6"), "classes says that 7 stands for 6, and model net.safetensors has classes 0 to 5"),
        (("--classes", "water"), "--classes must be ade20k, celeba, cityscapes or coco, or a mapping"),
        (("--instances", "labels.tif"), "is told no edges of them"),
        (("--model-option", "label=3"), "model.label is no option"),
        (("--model-option", "edges=true", "--tile", "1"), "tile is 1, which this task and model cannot take"),
    ],
)
def test_what_does_not_suit_the_network_is_refused(tmp_path, files, capfd, monkeypatch, more, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capfd, *synthesize(files, *more)) + "\n"


def test_other_networks_are_told_no_labels(tmp_path, files):
    with pytest.raises(InputError, match=r"but model plain\.pt is told none"):
        compile_job(drawn(tmp_path, files, model=weights(tmp_path, UNET, name="plain.pt")))


@pytest.mark.parametrize(("classes", "paint"), [(None, CLASSES), ({0: 1, 21: 2}, 2)])
def test_what_a_region_is_painted_with_has_to_stand_for_a_class(tmp_path, files, classes, paint):
    spec = drawn(tmp_path, files, input=picture(), task=f"edit:{paint}", mask=region(), classes=classes)
    with pytest.raises(InputError, match=rf"^task edit:{paint} paints with {paint}, which stands for none of the 5"):
        compile_job(spec)


def test_a_network_of_labels_needs_some(tmp_path, files):
    with pytest.raises(InputError, match="draws what labels say: name the image of them"):
        compile_job(drawn(tmp_path, files, labels=None))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task": "edit", "mask": "m.tif"}, "--labels: the task has edit"),
        ({"task": "edit", "labels": "l.tif"}, "--mask: the task has edit, which needs the image of what is drawn anew"),
        ({"task": ["edit", "sr:2"], "labels": "l.tif", "mask": "m.tif"}, "give it alone"),
        ({"task": "edit:water", "labels": "l.tif", "mask": "m.tif"}, "such as edit:21, not 'water'"),
        ({"task": "sr:2", "instances": "i.tif"}, "--instances: there are no labels"),
        ({"task": "sr:2", "classes": "coco"}, "--classes: there are no labels"),
        ({"task": "sr:2", "labels": "l.tif", "classes": {}}, "--classes must be"),
        ({"task": "sr:2", "labels": "l.tif", "classes": {"water": 3}}, "--classes must be"),
        ({"task": "sr:2", "labels": "l.tif", "classes": "11=2;21=3"}, "--classes must be"),
        ({"task": "sr:2", "labels": "l.tif", "classes": "11=2,21"}, "--classes must be"),
        ({"task": "sr:2", "labels": "l.tif", "classes": "0=-1"}, "--classes must be"),
        ({"task": "sr:2", "labels": "l.tif", "classes": f"{2**63}=0"}, "--classes must be"),
        ({"task": "sr:2", "labels": "l.tif", "classes": "1=2,1=3"}, "--classes: 1 is there twice"),
        ({"task": "sr:2", "labels": "l.tif", "classes": {-1: 2, "-1": 3}}, "--classes: -1 is there twice"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(options, says):
    with pytest.raises(InputError) as failed:
        from_options({"input": "a.tif", "output": "b.zarr", **options})
    assert says in str(failed.value)


def test_classes_are_the_same_however_they_are_written(tmp_path, files):
    written = [drawn(tmp_path, files, classes=told) for told in ({0: 1, 1: 4}, "0=1,1=4", {"0": 1, "1": 4})]
    assert written[0] == written[1] == written[2]
    assert json.loads(json.dumps(written[0].identity(), sort_keys=True))["classes"] == {"0": 1, "1": 4}
    assert type(written[0]).model_validate_json(written[0].model_dump_json()) == written[0]


@pytest.mark.parametrize("told", [{-1: 4, 0: 0}, "-1=4,0=0", "-1=4, 0=0", {"-1": 4, "0": 0}])
def test_a_value_below_zero_may_stand_for_a_class_and_is_read_back_from_what_was_saved(tmp_path, files, told):
    spec = drawn(tmp_path, files, classes=told)
    assert spec.classes == {-1: 4, 0: 0}
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec
    assert type(spec).model_validate(json.loads(spec.model_dump_json())) == spec


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_table_of_a_network_of_its_classes(tmp_path, files, name, edges):
    preset = PRESETS[name]
    # Whether it is told edges as well is another matter: they are those of classes if need be.
    model = weights(tmp_path, replace(SEMANTIC, num_classes=preset.classes, edges=edges))
    told = compile_job(drawn(tmp_path, files, model={"name": model, "edges": edges}, classes=name)).image.labels
    assert (told.classes, told.edges, told.table) == (preset.classes, edges, preset.table)
    wrong = drawn(tmp_path, files, model={"name": model, "edges": not edges}, classes=name)
    with pytest.raises(InputError, match=f"or give the model the option edges={str(edges).lower()}"):
        compile_job(wrong)


# --- archives ---


def test_an_archive_has_a_map_for_each_image(tmp_path, files, capfd):
    size = f"blank:{WIDTH}x{HEIGHT}"
    rows = ["id,input,labels,instances", f"one,{size},{files['labels']},", f"two,{size},{files['labels']},"]
    (tmp_path / "list.csv").write_text("\n".join([*rows[:2], rows[2] + files["instances"]]) + "\n")
    keys = {"tile": 16, "steps": 1, "levels": 1, "batch": 2, "lanes": 1, "seed": 3, "model": files["model"]}
    keys |= {"task": "generate", "classes": {number: number for number in range(CLASSES)}}
    told = written(tmp_path, manifest="list.csv", output="all", **keys)
    assert tileloom(capfd, "run", told).code == 0
    alone = job(tmp_path, size, labels=files["labels"], id="one", **keys)
    restore(alone)
    one, two = (zarr.open_array(tmp_path / "all" / f"{name}.zarr" / "0", mode="r")[...] for name in ("one", "two"))
    assert np.array_equal(one, result(alone))
    assert not np.array_equal(one, two)
    (tmp_path / "list.csv").write_text("\n".join([*rows[:2], f"two,{size},gone.tif,"]) + "\n")
    said = tileloom(capfd, "run", told)
    assert said.code == 2
    assert "row 2: labels" in said.errors[0]
    assert "does not exist" in said.errors[0]
