"""`tileloom train` from a job file: what it says, refuses, goes on with, and that a job takes its model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from docs.generate import training
from tests.commandline import QUICK, files_in, tileloom, written
from tests.house import ROOT
from tests.images import noise, write_tiff, write_zarr
from tests.trainings import archive
from tileloom.jobs.train import TRAINING
from tileloom.jobs.train_spec import NetworkSpec, TrainSpec, load_training
from tileloom.models.adm_config import AdmConfig, ClassifierConfig
from tileloom.models.checkpoint import parameters_of
from tileloom.models.patchdm_config import PatchConfig
from tileloom.models.training.loop import LOG, MODEL
from tileloom.models.weights import shipped
from tileloom.tiling.errors import InputError

TINY = {"width": 32, "levels": [1, 1], "blocks": 1, "attention": [], "stem": 2}
PATCHES = {**TINY, "kind": "patches", "patch": 16}
KEYS = {
    "data": "scene.zarr",
    "output": "prior",
    "crop": 16,
    "network": TINY,
    "steps": 4,
    "batch": 2,
    "held_out": 0.3,
    "rate": 0.001,
    "log": 1,
    "checkpoint": 2,
    "check": 2,
    "sheet": 4,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a scene from the air lies."""
    monkeypatch.chdir(tmp_path)
    archive(tmp_path)
    return tmp_path


def job(folder, **keys):
    """A job file; a key that is None is left out."""
    told = {key: value for key, value in {**KEYS, **keys}.items() if value is not None}
    return written(folder, "train.yaml", **told)


def losses(folder, output="prior"):
    lines = [json.loads(line) for line in (folder / output / LOG).read_text().splitlines()]
    return [line for line in lines if "loss" in line]


# --- runs ---


def test_it_says_what_it_will_do_and_does_it(folder, capfd):
    said = tileloom(capfd, "train", job(folder))
    assert (said.code, said.errors) == (0, [])
    lines = said.out.splitlines()
    assert lines[0] == "data: 1 image, 0.0369 million pixels of 3 bands"
    assert lines[1] == "range: 0 to 255"
    assert lines[2].startswith("network: unet, ")
    assert lines[3] == "training: 4 steps of 2 crops of 16 pixels a side, in fp32 on cpu"
    assert lines[-2].startswith("trained from step 0 to 4 in ")
    assert lines[-1] == f"model: {folder}/prior/{MODEL}"
    assert len(losses(folder)) == 4


def test_a_dry_run_writes_nothing(folder, capfd):
    path = job(folder)
    before = files_in(folder)
    said = tileloom(capfd, "train", path, "--dry-run")
    assert (said.code, said.out.splitlines()[-1]) == (0, f"output: {folder}/prior")
    assert files_in(folder) == before


def test_json_is_one_object(folder, capfd):
    told = tileloom(capfd, "train", job(folder), "--json").json
    assert (told["began"], told["steps"], told["model"]) == (0, 4, f"{folder}/prior/{MODEL}")
    assert 0 < told["loss"] < 2
    assert 0 < told["held_out"] < 2


def test_progress_as_json_tells_loss_and_pace(folder):
    """A process of its own, since steps this small are through before a line is due."""
    done = subprocess.run(
        [sys.executable, "-m", "tileloom.jobs.cli", "train", str(job(folder)), "--log-json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    last = [json.loads(line) for line in done.stderr.splitlines()][-1]
    assert (last["event"], last["count"], last["total"]) == ("progress", 4, 4)
    assert {"loss", "held_out", "crops_per_second", "seconds_left"} <= last.keys()


def test_a_job_restores_with_what_was_trained(folder, capfd):
    assert tileloom(capfd, "train", job(folder)).code == 0
    write_zarr(folder / "small.zarr", noise(3, 20, 24))
    options = [*QUICK[:-6], "--publish-chunk", "32", "--publish-shard", "64"]
    said = tileloom(capfd, "restore", "small.zarr", "out.zarr", "--task", "sr:2", "--model", f"prior/{MODEL}", *options)
    assert (said.code, said.errors) == (0, [])


def test_a_network_of_patches_draws_larger_images_than_it_learned_from(folder, capfd):
    said = tileloom(capfd, "train", job(folder, network={**PATCHES, "style": "table"}, crop=32, steps=2))
    assert (said.code, said.errors) == (0, [])
    assert said.out.splitlines()[2].startswith("network: patches, ")
    model = ["--model", f"prior/{MODEL}", "--steps", "2", "--batch", "4", "--sampler", "ddim"]
    assert tileloom(capfd, "generate", "50x40", "drawn.zarr", *model, "--style", "row:0").code == 0
    said = tileloom(capfd, "generate", "50x40", "other.zarr", *model, "--style", "row:1")
    assert said.code == 2
    assert "holds a table of rows 0 to 0" in said.errors[0]


# --- going on ---


def test_more_steps_go_on_with_what_was_trained(folder, capfd):
    assert tileloom(capfd, "train", job(folder)).code == 0
    said = tileloom(capfd, "train", job(folder, steps=6))
    assert (said.code, said.out.splitlines()[-2][:26]) == (0, "trained from step 4 to 6 i")
    assert tileloom(capfd, "train", job(folder, steps=6, output="whole")).code == 0
    assert losses(folder) == losses(folder, "whole")
    assert (folder / "prior" / MODEL).read_bytes() == (folder / "whole" / MODEL).read_bytes()


def test_a_finished_training_says_so(folder, capfd):
    assert tileloom(capfd, "train", job(folder)).code == 0
    said = tileloom(capfd, "train", job(folder))
    assert said.code == 0
    assert "trained for 4 steps already: give more to go on" in said.out


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_keeps_what_was_reached(folder, capfd):
    path = job(folder, steps=100_000)
    command = [sys.executable, "-m", "tileloom.jobs.cli", "train", str(path)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not (folder / "prior" / MODEL).exists():
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGINT)
    _, errors = child.communicate()
    assert child.returncode == 130
    assert errors.splitlines()[-1] == f"stopped; all checkpoints are kept, go on with: tileloom train {path}"
    reached = len(losses(folder))
    assert reached >= 2
    assert tileloom(capfd, "train", job(folder, steps=reached + 100_000), "--dry-run").code == 0


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"rate": 0.002}, "rate: 0.001 -> 0.002"),
        ({"network": {**TINY, "blocks": 2}}, "network.blocks: 1 -> 2"),
        ({"flips": True}, "flips: False -> True"),
        ({"data": "other.zarr"}, "data: its images are others, or in another order"),
        ({"steps": 3}, "was trained for 4 steps already, and steps is 3"),
    ],
)
def test_what_would_not_go_on_as_it_began_is_refused_by_name(folder, capfd, changed, says):
    write_zarr(folder / "other.zarr", noise(3, 192, 192))
    assert tileloom(capfd, "train", job(folder)).code == 0
    before = files_in(folder / "prior")
    said = tileloom(capfd, "train", job(folder, **changed))
    assert said.code == 2
    assert says in said.errors[-1]
    assert files_in(folder / "prior") == before


def test_it_begins_with_the_weights_of_a_model(folder, capfd):
    assert tileloom(capfd, "train", job(folder)).code == 0
    assert tileloom(capfd, "train", job(folder, output="anew", steps=2)).code == 0
    (folder / "kept").mkdir()
    shutil.copy(folder / "prior" / MODEL, folder / "kept" / MODEL)
    further = {"start": f"kept/{MODEL}", "output": "further", "steps": 2, "rate": 1e-5}
    assert tileloom(capfd, "train", job(folder, **further)).code == 0
    weights = {name: load_file(folder / name / MODEL) for name in ("prior", "anew", "further")}

    def apart(one, other):
        return sum(float((weights[one][key] - weights[other][key]).abs().sum()) for key in weights[one])

    assert 0 < apart("further", "prior") < apart("anew", "prior") / 10
    # Other weights in the same place are another training.
    shutil.copy(folder / "anew" / MODEL, folder / "kept" / MODEL)
    said = tileloom(capfd, "train", job(folder, **{**further, "steps": 3}))
    assert said.code == 2
    assert "start: " in said.errors[-1]


def test_a_model_that_comes_with_tileloom_is_begun_with_by_its_name(folder):
    assert load_training(job(folder, start="terra")).subject(4, images=1).start == shipped()["terra"]
    assert load_training(job(folder, start="terra.safetensors")).start == str(folder / "terra.safetensors")


def test_an_archive_may_move_and_the_job_file_be_another(folder, capfd):
    assert tileloom(capfd, "train", job(folder)).code == 0
    (folder / "elsewhere").mkdir()
    (folder / "scene.zarr").rename(folder / "elsewhere" / "scene.zarr")
    assert tileloom(capfd, "train", job(folder, data="elsewhere/scene.zarr", steps=5)).code == 0


# --- what is refused ---


def refused(capfd, folder, path, *says):
    before = files_in(folder)
    said = tileloom(capfd, "train", path)
    assert said.code == 2, said
    assert len(said.errors) == 1, said.errors
    assert all(text in said.errors[0] for text in says), said.errors[0]
    assert files_in(folder) == before


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"data": None}, "data is missing"),
        ({"output": None}, "output is missing"),
        ({"data": []}, "data must be"),
        ({"data": 3}, "data must be"),
        ({"data": "nowhere.zarr"}, "nowhere.zarr: does not exist"),
        ({"data": "*.tif"}, "names no image"),
        ({"data": {"image": "scene.zarr", "masque": "a"}}, "did you mean data.mask?"),
        (
            {"data": {"image": "scene.zarr", "label": 1}},
            "data: ",
        ),
        ({"crop": 15}, "crop: 15 is no multiple of 4 from 8 up"),
        ({"crop": 4}, "crop: 4 is no multiple of 4 from 8 up"),
        ({"crop": 500}, "smaller than a crop of 500"),
        ({"held_out": 1}, "held_out must be a number from 0 to below 1"),
        ({"range": [5, 5]}, "range: 5 is not below 5"),
        ({"range": [[0, 1], [0, 2]]}, "range has 2 pairs for 3 bands"),
        ({"range": "wide"}, "range must be two numbers"),
        ({"network": {**TINY, "wdith": 1}}, "did you mean network.width?"),
        ({"network": {**TINY, "width": 33}}, "network.levels: 1 times the width of 33 is 33 channels"),
        ({"network": {**TINY, "levels": []}}, "network.levels must be a list"),
        ({"network": {**TINY, "head_channels": 24}}, "network.head_channels: 24 does not divide"),
        ({"network": {**TINY, "kind": "classifier"}}, "network.classes: a classifier tells classes apart"),
        ({"network": {**TINY, "classes": 3}}, "has no label, and the network has classes"),
        ({"network": {**TINY, "patch": 16}}, "network.patch: means nothing to a network of kind unet: leave it out"),
        ({"network": {**PATCHES, "classes": 3}}, "network.classes: means nothing to a network of kind patches"),
        ({"network": {**PATCHES, "variance": "fixed"}}, "network.variance: means nothing to a network of kind patches"),
        ({"network": {**PATCHES, "patch": 12}}, "network.patch: 12 is no multiple of 8, which the network's levels"),
        ({"network": {**PATCHES, "style": "row"}}, "network.style must be none or table"),
        ({"network": PATCHES, "crop": 24}, "crop: 24 is no multiple of the 16 pixels of network.patch"),
        ({"network": PATCHES, "drop_label": 0.1}, "drop_label: only a U-Net of classes"),
        ({"drop_label": 0.1}, "drop_label: only a U-Net of classes"),
        ({"betas": "cubic"}, "betas must be linear or cosine"),
        ({"rate": 0}, "rate must be a number above 0"),
        ({"precision": "fp8"}, "precision must be fp32, bf16 or fp16"),
        ({"steps": "many"}, "steps must be a whole number from 1 up, not 'many'"),
        ({"learning_rate": 1}, "learning_rate is no key"),
        ({"start": "gone.safetensors"}, "gone.safetensors: does not exist"),
        ({"start": "scene.zarr"}, "scene.zarr is no weights file"),
        ({"start": "terra"}, "terra.safetensors holds another network than the one to be trained: "),
        (
            {"start": "terra", "network": {**TINY, "predicts": "eps"}},
            "with network.predicts v, and this training has eps",
        ),
        ({"alone": 5}, "alone: only a network of kind spatial has a critic"),
    ],
    ids=str,
)
def test_a_job_that_cannot_be_is_refused_by_its_key(folder, capfd, keys, says):
    path = job(folder, **keys)
    refused(capfd, folder, path, "error: ", says)


def test_an_output_that_is_something_else_is_refused(folder, capfd):
    (folder / "prior").mkdir()
    (folder / "prior" / "notes.txt").write_text("mine")
    refused(capfd, folder, job(folder), f"{folder}/prior exists and is no training")
    refused(capfd, folder, job(folder, output="scene.zarr/zarr.json"), "zarr.json")


def test_a_job_file_that_is_none_is_refused(folder, capfd):
    (folder / "empty.yaml").write_text("")
    refused(capfd, folder, "empty.yaml", "empty.yaml is empty: a job needs at least data and output")
    refused(capfd, folder, "nowhere.yaml", "nowhere.yaml cannot be read")


# --- data ---


def scenes(folder, data, **keys):
    return load_training(job(folder, data=data, **keys)).scenes()


def test_images_are_named_in_every_way(folder):
    (folder / "scans").mkdir()
    for name in ("b.tif", "a.tif"):
        write_tiff(folder / "scans" / name, noise())
    (folder / "list.csv").write_text("input,mask\nscans/b.tif,m.tif\nscene.zarr,\n")
    one, two = (f"{folder}/scans/{name}.tif" for name in "ab")
    assert [scene.image for scene in scenes(folder, "scans")] == [one, two]
    assert [scene.image for scene in scenes(folder, "scans/b*.tif")] == [two]
    assert [scene.image for scene in scenes(folder, "scene.zarr")] == [f"{folder}/scene.zarr"]
    assert [(scene.image, scene.mask) for scene in scenes(folder, "list.csv")] == [
        (two, f"{folder}/m.tif"),
        (f"{folder}/scene.zarr", None),
    ]
    several = scenes(folder, ["scans", {"image": "scene.zarr", "mask": "m.tif"}])
    assert [scene.image for scene in several] == [one, two, f"{folder}/scene.zarr"]
    assert several[2].mask == f"{folder}/m.tif"


def test_classes_are_those_of_an_image_a_folder_or_a_map(folder):
    (folder / "woods").mkdir()
    write_tiff(folder / "woods" / "a.tif", noise())
    data = [{"image": "woods", "label": 2}, {"image": "scene.zarr", "classes": "map.tif"}]
    found = scenes(folder, data, network={**TINY, "classes": 3})
    assert [(scene.label, scene.classes) for scene in found] == [(2, None), (None, f"{folder}/map.tif")]


def test_a_mask_of_many_images_is_refused(folder):
    (folder / "scans").mkdir()
    with pytest.raises(InputError, match="names many images, and a mask or map is of one"):
        scenes(folder, {"image": "scans", "mask": "m.tif"})


def test_each_row_of_a_list_names_the_map_of_its_image(folder):
    (folder / "list.csv").write_text("id,input,labels,instances\na,a.tif,a-map.tif,\nb,b.tif,b-map.tif,b-houses.tif\n")
    network = {**TINY, "kind": "semantic", "classes": 3, "edges": True}
    data = str(folder / "list.csv")
    found = load_training(job(folder, network=network, data=data)).scenes()
    named = [[file and os.path.basename(file) for file in (one.classes, one.instances)] for one in found]
    assert named == [["a-map.tif", None], ["b-map.tif", "b-houses.tif"]]
    assert {one.classes for one in load_training(job(folder, data=data)).scenes()} == {None}
    (folder / "list.csv").write_text("id,input,labels\na,a.tif,a-map.tif\nb,b.tif,\n")
    with pytest.raises(InputError, match=r"b\.tif has no label, and the network has classes: give its row labels"):
        load_training(job(folder, network=network, data=data)).scenes()


# --- networks ---


@pytest.mark.parametrize(
    ("kind", "keys"),
    {
        "unet": {"edges", "pool", "patch", "positions", "style"},
        "classifier": {"variance", "predicts", "edges", "detail", "patch", "positions", "style"},
        "patches": {"variance", "classes", "edges", "pool"},
        "semantic": {"pool", "patch", "positions", "style"},
        "spatial": {"variance", "predicts", "classes", "edges", "pool", "patch", "positions", "style"},
    }.items(),
)
def test_a_key_that_means_nothing_to_a_kind_is_refused_and_no_part_of_what_it_is(folder, kind, keys):
    """Whatever is said of it: what it would be if it were left out is as wrong."""
    usual = NetworkSpec.model_fields
    for key in keys:
        with pytest.raises(InputError, match=f"network.{key}: means nothing to a network of kind {kind}"):
            load_training(job(folder, network={"kind": kind, key: usual[key].default}))
    known = {"kind": kind, "classes": 3} if "classes" not in keys else {"kind": kind}
    assert NetworkSpec(**known).foreign == keys


def test_the_network_is_what_the_job_says(folder):
    config = load_training(job(folder)).subject(3, 1).config
    assert config == AdmConfig(
        model_channels=32,
        channel_mult=(1, 1),
        num_res_blocks=1,
        attention_resolutions=(),
        num_head_channels=32,
        stem=2,
    )
    labelled = {"data": {"image": "scene.zarr", "label": 1}, "drop_label": 0.2}
    drawn = load_training(job(folder, network={**TINY, "classes": 3, "variance": "fixed"}, **labelled)).subject(4, 1)
    assert drawn.predicts == "v"
    assert (drawn.config.num_classes, drawn.config.in_channels, drawn.config.out_channels) == (4, 4, 4)
    network = {**TINY, "classes": 3, "kind": "classifier"}
    guide = load_training(job(folder, network=network, data=labelled["data"])).subject(2, 1).config
    assert isinstance(guide, ClassifierConfig)
    assert (guide.out_channels, guide.image_size, guide.in_channels) == (3, 16, 2)


def test_ranges_are_one_for_all_bands_or_one_for_each(folder):
    assert load_training(job(folder, range=[0, 10])).cutting.spans == ((0, 10),)
    assert load_training(job(folder, range=[[0, 10], [5, 20.5]])).cutting.spans == ((0, 10), (5, 20.5))
    assert load_training(job(folder, range="measure")).cutting.spans == "measure"


def test_every_key_is_documented_and_the_page_is_up_to_date():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert page == training()
    for name, field in TrainSpec.model_fields.items():
        assert field.description, name
        assert f"| `{name}" in page, name


def test_the_examples_of_the_page_are_jobs(folder):
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)):
        told = {"data": "scans", "output": "prior"} | yaml.safe_load(block)
        assert load_training(written(folder, f"{number}.yaml", **told)).data, block


@pytest.mark.parametrize("recipe", ["train.yaml", "patches.yaml", "semantic.yaml"])
def test_the_recipes_of_shipped_models_are_jobs(recipe):
    spec = load_training(ROOT / "examples" / "terra" / recipe)
    assert spec.half
    config = spec.subject(4, 1).config
    assert config.stem > 1
    assert parameters_of(config) < 4_000_000


def test_a_network_of_patches_is_what_the_job_says(folder):
    subject = load_training(job(folder, network={**PATCHES, "style": "table", "predicts": "eps"})).subject(4, 7)
    assert subject.predicts == "eps"
    assert subject.config == PatchConfig(
        model_channels=32,
        channel_mult=(1, 1),
        num_res_blocks=1,
        attention_resolutions=(),
        in_channels=4,
        out_channels=4,
        num_head_channels=32,
        stem=2,
        patch=16,
        embed_channels=128,
        style_channels=128,
        codes=7,
    )
    plain = load_training(job(folder, network={**PATCHES, "positions": False})).subject(4, 7)
    assert (plain.config.style_channels, plain.config.codes, plain.config.positions) == (0, None, False)


def test_keys_of_other_kinds_of_networks_decide_nothing(folder):
    """So that a training goes on however many kinds there come to be."""
    plain, patches = (load_training(job(folder, network=network)).identity() for network in (TINY, PATCHES))
    assert not {"patch", "positions", "style"} & plain["network"].keys()
    assert not {"variance", "classes", "pool"} & patches["network"].keys()


def test_what_was_begun_is_written_down(folder, capfd):
    assert tileloom(capfd, "train", job(folder)).code == 0
    told = json.loads((folder / "prior" / TRAINING).read_text())
    assert told["identity"]["rate"] == 0.001
    assert {"identity", "data", "steps", "numerics", "version"} == told.keys()
    assert np.isfinite([line["loss"] for line in losses(folder)]).all()
    assert yaml.safe_load((folder / "train.yaml").read_text())["steps"] == 4
