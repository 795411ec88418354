"""What docs/models.md shows works as it stands there, and the page lists every option of a model."""

import re
import sys

import pytest
import torch

from tests.commandline import tileloom, written
from tests.foreign import install
from tests.house import ROOT
from tests.images import noise, write_zarr
from tileloom.jobs.spec import load_job
from tileloom.models.patchdm_denoiser import image_eps
from tileloom.models.patchdm_signatures import PatchReading
from tileloom.models.programs import OPTIONS, program_options
from tileloom.models.signatures import Reading, SemanticReading
from tileloom.models.spatial_config import SpatialReading

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The page's plug-in, installed."""
    (entry,) = blocks("toml")
    name, module = re.search(r'^(\w+) = "(\w+)"$', entry, flags=re.MULTILINE).groups()
    modules = {file[1]: block for block in blocks("python") if (file := re.match(r"# (\w+)\.py\n", block))}
    install(monkeypatch, tmp_path / "site", name=name, code=modules[module], project=module)
    for other in modules.keys() - {module}:
        (tmp_path / "site" / f"{other}.py").write_text(modules[other])
        monkeypatch.delitem(sys.modules, other, raising=False)
    return name, modules


def test_the_plugin_of_the_page_keeps_its_contract(plugin, capfd):
    name, modules = plugin
    exec(compile(modules["test_smooth"] + "\ntest_it_is_a_denoiser()\n", "test_smooth.py", "exec"), {})
    assert tileloom(capfd, "models", "check", name, "--trust-model").code == 0


def test_the_plugin_of_the_page_restores(plugin, tmp_path, capfd):
    write_zarr(tmp_path / "in.zarr", noise())
    model = {"name": plugin[0], "strength": 0.5}
    job = written(tmp_path, input="in.zarr", output="out.zarr", task="sr:2", model=model, steps=2, lanes=1)
    said = tileloom(capfd, "run", job, "--trust-model")
    assert (said.code, said.errors) == (0, [])


def listed(heading):
    """The options in the table of a section."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section, flags=re.MULTILINE)
    return [name for row in rows for name in re.findall(r"\w+", row)]


def test_the_patches_of_the_page_run():
    (shown,) = (block for block in blocks("python") if "PatchUNet" in block)
    names = {}
    exec(compile(shown, "patches.py", "exec"), names)
    whole = image_eps(
        names["network"], names["x"], torch.tensor([980.0]), torch.zeros(1, 6), torch.tensor([[True, False]])
    )
    torch.testing.assert_close(names["eps"], whole, rtol=0, atol=1e-5)


def test_the_page_lists_every_option_of_weights(tmp_path):
    assert sorted(listed("Weights")) == sorted(Reading.options)
    assert sorted(listed("Patch-DM")) == sorted(PatchReading.options)
    assert sorted(listed("Networks of labels")) == sorted(SemanticReading.options)
    assert sorted(listed("Spatial diffusion")) == sorted(SpatialReading.options)
    for example in blocks("yaml"):
        (tmp_path / "job.yaml").write_text(f"input: a\noutput: b\ntask: sr:2\n{example}")
        assert load_job(tmp_path / "job.yaml").model["name"].startswith(str(tmp_path))


def test_the_page_lists_every_option_of_a_program(tmp_path):
    assert listed("Programs") == list(OPTIONS)
    *_, example = blocks("yaml")
    (tmp_path / "job.yaml").write_text(f"input: a\noutput: b\ntask: sr:2\n{example}")
    options = dict(load_job(tmp_path / "job.yaml").model)
    program_options(options.pop("name"), options)
