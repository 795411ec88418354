"""Models that are code run only where the command line says so, and looking at a result runs nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.commandline import files_in, tileloom, written
from tests.foreign import PLUGIN, exported, install, script
from tests.images import noise, write_zarr
from tests.nets import CLASSIFIER, weights
from tests.pipeline import job, restore, result, scene
from tileloom.jobs.spec import JobSpec, load_job
from tileloom.models.build import EngineFactory, denoiser_of
from tileloom.models.kinds import contract_of, identity_of, model_kind
from tileloom.tiling.errors import InputError, TileloomError

QUICK = ("--tile", "16", "--steps", "2", "--lanes", "1", "--levels", "1")
KINDS = ("TorchScript", "exported", "plug-in")
WORDS = {
    "TorchScript": "a TorchScript program",
    "exported": "an exported program",
    "plug-in": "a plug-in of acme-restore",
}


@pytest.fixture(params=KINDS)
def code(request, tmp_path, monkeypatch):
    """(the model's name, whether anything of it was run, its kind in words)."""
    (tmp_path / "models").mkdir()
    if request.param == "plug-in":
        imported = install(monkeypatch, tmp_path / "models")
        return "acme", imported.exists, WORDS[request.param]
    runs = []
    for module, name in ((torch.jit, "load"), (torch.export, "load")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *told, real=real, **more: (runs.append(told), real(*told, **more))[1])
    make = script if request.param == "TorchScript" else exported
    # As weights are named: it is the contents that tell.
    name = make(tmp_path / "models", name="net.pt" if request.param == "TorchScript" else "net.pt2")
    return name, lambda: bool(runs), WORDS[request.param]


@pytest.fixture
def image(tmp_path):
    return write_zarr(tmp_path / "in.zarr", noise(3))


def refused(said, words):
    assert (said.code, said.out, len(said.errors)) == (2, "", 1)
    assert f" is {words}" in said.errors[0]
    assert said.errors[0].endswith(
        "which is code and may do whatever you may: give --trust-model if you trust whoever made it"
    )


def test_every_command_that_would_run_it_refuses(tmp_path, capfd, image, code):
    name, ran, words = code
    job = written(tmp_path, input="in.zarr", output="out.zarr", task="sr:2", model=name)
    cluster = ["--workers", 1, "--slots", 1, "--call-seconds", 1]
    restore = ["restore", image, tmp_path / "out.zarr", "--task", "sr:2", "--model", name]
    before = files_in(tmp_path)
    for command in (
        restore,
        [*restore, "--dry-run"],
        ["plan", job],
        ["run", job],
        ["simulate", job, *cluster],
        ["models", "inspect", name],
        ["models", "check", name],
    ):
        refused(tileloom(capfd, *command), words)
    assert files_in(tmp_path) == before
    assert not ran()
    assert tileloom(capfd, "models", "list").code == 0
    assert not ran()


def test_trusted_it_runs_and_what_looks_at_the_result_needs_no_trust(tmp_path, capfd, image, code, monkeypatch):
    name, ran, words = code
    job = written(tmp_path, input="in.zarr", output="out.zarr", task="sr:2", model=name, tile=16, steps=2, levels=1)
    assert tileloom(capfd, "plan", job, "--trust-model").code == 0
    said = tileloom(capfd, "run", job, "--trust-model")
    assert (said.code, said.errors) == (0, [])
    assert ran()
    out = tmp_path / "out.zarr"
    for command in (["resume", out], ["retry", out], ["resume", job]):
        refused(tileloom(capfd, *command), words)
        assert tileloom(capfd, *command, "--trust-model").code == 0
    # Whatever would load the model fails from here on.
    monkeypatch.setattr("tileloom.models.kinds.model_kind", None)
    assert "done" in tileloom(capfd, "status", out).out
    assert tileloom(capfd, "verify", out).code == 0
    assert tileloom(capfd, "simulate", out, "--workers", 1, "--slots", 1, "--call-seconds", 1).code == 0


def test_the_result_does_not_depend_on_how_trust_was_reached(tmp_path, capfd, image, code):
    name, _, _ = code
    pixels = []
    for output in ("a.zarr", "b.zarr"):
        words = ["restore", image, tmp_path / output, "--task", "sr:2", "--model", name, *QUICK, "--trust-model"]
        assert tileloom(capfd, *words).code == 0
        pixels.append(result(JobSpec.model_construct(output=str(tmp_path / output))))
    np.testing.assert_array_equal(*pixels)


def test_what_looks_at_a_result_needs_neither_model_nor_classifier(tmp_path, capfd):
    model = weights(tmp_path, name="net.safetensors")
    guidance = {"classifier": weights(tmp_path, CLASSIFIER, name="classifier.safetensors"), "label": 1}
    image = write_zarr(tmp_path / "in.zarr", scene(3, 8, 8), names=["c", "y", "x"])
    shared = {"task": "sr:2", "model": model, "steps": 1, "levels": 1, "tile": 16, "range": [-1, 1]}
    spec = job(tmp_path, image, **shared, guidance=guidance)
    restore(spec)
    for file in (model, guidance["classifier"]):
        Path(file).unlink()
    assert "done" in tileloom(capfd, "status", spec.output).out
    assert tileloom(capfd, "verify", spec.output).code == 0
    words = ("--workers", 1, "--slots", 1, "--call-seconds", 1)
    assert tileloom(capfd, "simulate", spec.output, *words).code == 0
    assert "does not exist" in tileloom(capfd, "resume", spec.output).errors[0]


def test_no_job_file_can_give_trust(tmp_path, image):
    assert not any("trust" in key for key in JobSpec.model_fields)
    shared = {"input": "in.zarr", "output": "out.zarr", "task": "sr:2"}
    for key in ("trust_model", "trust-model", "trusted"):
        with pytest.raises(InputError, match=rf"job\.yaml: {key} is no key of a job"):
            load_job(written(tmp_path, **shared, **{key: True}))


@pytest.mark.parametrize("use", [contract_of, denoiser_of])
def test_nothing_below_the_command_line_trusts_by_default(code, use):
    name, ran, words = code
    with pytest.raises(InputError, match=words):
        use(name)
    with pytest.raises(InputError, match=words):
        EngineFactory(model={"name": name})()
    assert not ran()
    use(name, trusted=True)


def test_a_file_that_becomes_a_program_later_is_refused_then(tmp_path):
    file = exported(tmp_path)
    factory = EngineFactory(model={"name": file}, tile=16, batch=1)
    with pytest.raises(InputError, match="is an exported program"):
        factory()


# --- plug-ins ---


def test_plugins_are_listed_and_not_imported(tmp_path, monkeypatch, capfd):
    imported = install(monkeypatch, tmp_path / "models")
    assert "acme: a plug-in of acme-restore 1.2, needs --trust-model\n" in tileloom(capfd, "models", "list").out
    assert tileloom(capfd, "models", "list", "--json").json["plugins"] == {"acme": "acme-restore 1.2"}
    with pytest.raises(
        InputError, match=r"no model is called 'acmf'; there are gaussian, (\S+, )*acme, or give the path"
    ):
        model_kind("acmf")
    assert not imported.exists()


def test_a_plugin_names_what_is_wrong_with_its_options(tmp_path, monkeypatch, capfd):
    install(monkeypatch, tmp_path / "models")
    said = tileloom(capfd, "models", "check", "acme", "--trust-model", "--model-option", "weight=a")
    assert (said.code, said.errors) == (2, ["error: model.weights is the only option of acme"])
    assert tileloom(capfd, "models", "check", "acme", "--trust-model").out.startswith("acme: keeps all")


def test_a_plugin_is_its_version_and_its_files(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path / "models")
    assert identity_of({"name": "acme"})["weights"] == "acme-restore 1.2"
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    model = {"name": "acme", "weights": str(file)}
    before = identity_of(model)
    assert before["model"] == model
    assert before["weights"].startswith("acme-restore 1.2 ")
    file.write_bytes(b"2")
    assert identity_of(model)["weights"] != before["weights"]


def test_two_plugins_of_one_name_are_refused(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path / "one")
    install(monkeypatch, tmp_path / "two", project="other-restore")
    with pytest.raises(
        InputError, match="model acme is brought by acme-restore and other-restore: uninstall all but one"
    ):
        contract_of("acme", trusted=True)


def test_a_plugin_cannot_take_a_built_in_name(tmp_path, monkeypatch):
    imported = install(monkeypatch, tmp_path / "models", name="gaussian")
    assert contract_of("gaussian").name == "gaussian"
    assert not imported.exists()


def test_a_plugin_without_a_contract_is_refused(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path / "models", code=PLUGIN + "\ndef contract(options):\n    return {}\n")
    with pytest.raises(InputError, match=r"plug-in acme \(acme-restore 1\.2\) gives no contract"):
        contract_of("acme", trusted=True)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def contract(:\n", r"cannot be imported \(SyntaxError: invalid syntax \(acme_restore\.py, line 1\)\)"),
        ("1 / 0\n", r"cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("def load(options, device):\n    return None\n", "has no function contract"),
        (PLUGIN + "\ncontract = 3\n", "has no function contract"),
        (PLUGIN + "\ndef contract(options):\n    return {}['key']\n", r"fails in contract \(KeyError: 'key'\)"),
        (PLUGIN + "\ndef contract():\n    return None\n", r"fails in contract \(TypeError: contract\(\) takes 0 "),
    ],
)
def test_a_plugin_whose_terms_cannot_be_had_is_one_sentence(tmp_path, monkeypatch, code, says):
    install(monkeypatch, tmp_path / "models", code=code)
    with pytest.raises(InputError, match=rf"^plug-in acme \(acme-restore 1\.2\) {says}.*: report it to its authors$"):
        contract_of("acme", trusted=True)


@pytest.mark.parametrize(
    ("load", "says"),
    [
        ("load = None", "has no function load"),
        ("def load(options, device):\n    raise OSError('first\\nsecond')", r"fails in load \(OSError: first\)"),
        ("def load(options, device):\n    return None", r"loads NoneType, which is no denoiser \(it has no contract, "),
        (
            "class Half:\n    contract, numerics = Contract('half'), {}\n    def predict(self): ...\n"
            "def load(options, device):\n    return Half()",
            r"loads Half, which is no denoiser \(it has no memory\)",
        ),
        (
            "class Lazy:\n    contract = property(lambda self: 1 / 0)\ndef load(options, device):\n    return Lazy()",
            r"fails after load \(ZeroDivisionError: division by zero\)",
        ),
    ],
)
def test_a_plugin_that_loads_no_denoiser_is_one_sentence(tmp_path, monkeypatch, load, says):
    install(monkeypatch, tmp_path / "models", code=f"{PLUGIN}\n{load}\n")
    with pytest.raises(InputError, match=rf"^plug-in acme \(acme-restore 1\.2\) {says}.*: report it to its authors$"):
        denoiser_of("acme", trusted=True)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ("files = []", "has no function files: report"),
        ("def files(options):\n    raise RuntimeError", r"fails in files \(RuntimeError\): report"),
        ("def files(options):\n    return 'net.bin'", "gives no list of files for its options: report"),
        ("def files(options):\n    return [3]", "gives no list of files for its options: report"),
        ("def files(options):\n    return ['/no/net.bin']", "needs /no/net.bin, which is no file: check its options"),
    ],
)
def test_a_plugin_whose_files_cannot_be_had_is_one_sentence(tmp_path, monkeypatch, files, says):
    install(monkeypatch, tmp_path / "models", code=f"{PLUGIN}\n{files}\n")
    with pytest.raises(InputError, match=rf"^plug-in acme \(acme-restore 1\.2\) {says}"):
        identity_of({"name": "acme"})


@pytest.mark.parametrize("where", ["", "def load(options, device):\n    "])
def test_a_sentence_of_the_plugins_own_is_passed_on(tmp_path, monkeypatch, where):
    raising = "raise TileloomError('ours alone')"
    code = f"from tileloom.tiling.errors import TileloomError\n{PLUGIN}\n{where}{raising}\n"
    install(monkeypatch, tmp_path / "models", code=code)
    with pytest.raises(TileloomError, match=r"^ours alone$"):
        denoiser_of("acme", trusted=True)


def test_a_plugin_that_lacks_something_says_what(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path / "models", code="import no_such_module_of_acme\n")
    with pytest.raises(InputError, match=r"acme \(acme-restore 1\.2\) cannot be imported \(No module named 'no_such_"):
        contract_of("acme", trusted=True)


def test_a_plugin_of_classes_needs_one(tmp_path, monkeypatch):
    of_classes = PLUGIN.replace('"weights"}', '"label"}').replace("tile=4", "tile=4, classes=3")
    install(monkeypatch, tmp_path / "models", code=of_classes)
    with pytest.raises(InputError, match=r"model\.label is missing; give the class that acme draws, 0 to 2"):
        contract_of("acme", trusted=True)
    assert contract_of({"name": "acme", "label": 1}, trusted=True).classes == 3


def test_an_output_keeps_the_terms_it_was_planned_with(tmp_path, capfd, image):
    name = exported(tmp_path, batch=2, size=16)
    words = ["--task", "sr:2", "--model", name, *QUICK, "--trust-model"]
    assert tileloom(capfd, "restore", image, tmp_path / "out.zarr", *words).code == 0
    stored = json.loads((tmp_path / "out.zarr" / ".tileloom" / "job.json").read_text())
    contract = contract_of(name, trusted=True)
    assert stored["contract"] == contract.stored()
    assert type(contract).restored(stored["contract"]) == contract
    assert stored["parts"]["batch"] == 2
