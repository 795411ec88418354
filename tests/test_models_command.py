"""``tileloom models``, and plans of jobs whose model is a weights file."""

import json
import subprocess
import sys

import pytest
import torch

from tests.commandline import QUICK, tileloom, written
from tests.images import noise, write_zarr
from tests.nets import CLASSIFIER, UNET, shapes, weights
from tileloom.models.signatures import KNOWN, kind_of
from tileloom.models.weights import weights_digest

PLAN = """
import sys
from tileloom.jobs.cli import main
code = main(sys.argv[1:])
print("torch" in sys.modules, "ray" in sys.modules)
sys.exit(code)
"""


def published(folder, file):
    """A file with the shapes of a published checkpoint, and no weights to speak of: every tensor is one number."""
    known = next(known for known in KNOWN if file in known.files)
    one = torch.zeros(1)
    torch.save({name: one.expand(shape) for name, shape in shapes(known.config).items()}, folder / file)
    return folder / file


def test_the_list_has_what_is_built_in_and_every_published_checkpoint(capfd):
    said = tileloom(capfd, "models", "list")
    assert said.code == 0
    assert "gaussian: built in, needs no weights" in said.out
    for known in KNOWN:
        assert f"{', '.join(known.files)}: {kind_of(known.config)}, " in said.out
    assert "512x512_diffusion.pt: an ADM U-Net, 512 pixels, 1000 classes, 558,997,638 parameters" in said.out
    listed = tileloom(capfd, "models", "list", "--json").json
    assert listed["built_in"] == ["gaussian"]
    assert [checkpoint["parameters"] for checkpoint in listed["checkpoints"]] == [known.parameters for known in KNOWN]
    assert listed["checkpoints"][4]["betas"] == "cosine"


def test_a_published_checkpoint_is_recognised_from_its_file(tmp_path, capfd):
    file = published(tmp_path, "64x64_diffusion.pt")
    lines = tileloom(capfd, "models", "inspect", file).out.splitlines()
    assert lines[0] == f"{file}: an ADM U-Net, 295,904,454 parameters in 541 tensors"
    assert lines[1] == "known as: 64x64_diffusion.pt"
    assert "levels: 1, 2, 3, 4 (from the shapes)" in lines
    assert "attention_order: new (from the table of known checkpoints)" in lines
    assert "betas: cosine (from the table of known checkpoints)" in lines
    assert not any(line.startswith("assumed") for line in lines)


def test_what_is_assumed_is_marked_and_how_to_mend_it_is_said(tmp_path, capfd):
    file = weights(tmp_path)
    out = tileloom(capfd, "models", "inspect", file).out
    for fact in ("heads: 64 channels each", "attention_order: legacy", "betas: linear", "image_size: 64"):
        assert f"{fact} (assumed)\n" in out
    assert out.splitlines()[-1].startswith("assumed: heads, attention_order, betas, image_size; where that is wrong")
    found = tileloom(capfd, "models", "inspect", file, "--json").json
    assert found["known_as"] == []
    assert found["tensors"] == len(shapes(UNET))
    assert found["facts"]["betas"] == {"value": "linear", "known": "assumed"}
    assert found["facts"]["scale-shift norm"] == {"value": "yes", "known": "from the shapes"}
    assert found["digest"] == weights_digest(file)


def test_what_is_said_of_it_is_shown_as_said(tmp_path, capfd):
    file = weights(tmp_path)
    said = tileloom(capfd, "models", "inspect", file, "--model-option", "betas=cosine", "--model-option", "heads=2")
    assert {"betas: cosine (as asked)", "heads: 2 (as asked)"} <= set(said.out.splitlines())
    assert "assumed: attention_order, image_size;" in said.out
    wrong = tileloom(capfd, "models", "inspect", file, "--model-option", "beta=cosine")
    assert (wrong.code, len(wrong.errors)) == (2, 1)


def test_a_classifiers_size_is_in_its_shapes(tmp_path, capfd):
    found = tileloom(capfd, "models", "inspect", weights(tmp_path, CLASSIFIER, name="c.pt"), "--json").json
    assert found["kind"] == "an ADM classifier"
    assert found["facts"]["image_size"] == {"value": "16", "known": "from the shapes"}
    assert found["facts"]["classes"]["value"] == "5"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"middle_block.0.in_layers.2.bias": None}, "1 key is missing (middle_block.0.in_layers.2.bias)"),
        ({"conv_in.weight": torch.zeros(2)}, "1 key is unexpected (conv_in.weight)"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_in_one_sentence(tmp_path, capfd, changed, says):
    file = weights(tmp_path, **changed)
    said = tileloom(capfd, "models", "inspect", file)
    assert (said.code, said.out, len(said.errors)) == (2, "", 1)
    assert said.errors[0].startswith(f"error: {file} looks like an ADM U-Net")
    assert says in said.errors[0]


def test_converting_says_what_was_written(tmp_path, capfd):
    source, target = weights(tmp_path, name="net.pt"), tmp_path / "net.safetensors"
    said = tileloom(capfd, "models", "convert", source, target)
    assert (said.code, said.out) == (0, f"{target}: {len(shapes(UNET))} tensors\n")
    facts = [tileloom(capfd, "models", "inspect", file, "--json").json["facts"] for file in (source, target)]
    assert facts[0] == facts[1]
    again = tileloom(capfd, "models", "convert", source, target)
    assert (again.code, len(again.errors)) == (2, 1)


@pytest.mark.parametrize(("name", "loads_torch"), [("net.safetensors", "False"), ("net.pt", "True")])
def test_a_plan_reads_shapes_and_loads_torch_only_for_torchs_own_files(tmp_path, name, loads_torch):
    weights(tmp_path, name=name)
    write_zarr(tmp_path / "in.zarr", noise())
    # Relative to the job file's folder, as every path of a job.
    job = written(tmp_path, input="in.zarr", output="out.zarr", task="sr:2", model={"name": name, "image_size": 32})
    command = [sys.executable, "-c", PLAN, "plan", str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert not done.returncode, done.stderr
    assert f"model {tmp_path / name}" in done.stdout
    assert "tile 32, stride 24, guard 4" in done.stdout
    assert done.stdout.splitlines()[-1] == f"{loads_torch} False"


def test_a_network_restores_from_the_command_line(tmp_path, capfd, monkeypatch):
    weights(tmp_path)
    image = write_zarr(tmp_path / "in.zarr", noise())
    monkeypatch.chdir(tmp_path)
    quick = [word for word in QUICK if word not in ("--model-option", "length=4")]
    said = tileloom(capfd, "restore", image, "out.zarr", "--task", "sr:2", "--model", "net.safetensors", *quick)
    assert (said.code, said.errors) == (0, [])
    stored = json.loads((tmp_path / "out.zarr" / ".tileloom" / "job.json").read_text())
    assert stored["spec"]["model"] == {"name": str(tmp_path / "net.safetensors")}
    assert stored["parts"]["weights"] == weights_digest("net.safetensors")
    assert tileloom(capfd, "resume", "out.zarr").code == 0


def test_a_published_network_of_labels_is_recognised_with_its_edges(tmp_path, capfd):
    file = published(tmp_path, "ema_0.9999_best.pt of CelebAMask-HQ")
    said = tileloom(capfd, "models", "inspect", file.rename(tmp_path / "faces.pt"))
    assert said.out.startswith(f"{tmp_path}/faces.pt: a semantic diffusion U-Net (SPADE)")
    assert "653,062,918" in said.out
    assert "edges: yes (from the table of known checkpoints)" in said.out
    assert "classes: 19 " in said.out
