"""Models that come with the package, and what a job takes over from a model's file: the range of its values."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import save_file

from tests import nets
from tests.commandline import QUICK, tileloom
from tests.images import noise, write_zarr
from tileloom.jobs.compile import compile_job
from tileloom.jobs.spec import from_options
from tileloom.models.contract import Contract
from tileloom.models.kinds import Kind, contract_of, identity_of, model_kind
from tileloom.models.signatures import Description
from tileloom.models.weights import DESCRIPTION, SHIPPED, shipped, weights_digest
from tileloom.tiling.errors import InputError

CONFIG = replace(nets.UNET, in_channels=4, out_channels=8, stem=2)
WHOLE = ((0.0, 255.0),) * 4
APART = ((0.0, 100.0), (10.0, 90.0), (0.0, 50.0), (0.0, 255.0))
WORDS = [word for word in QUICK if word not in ("--model-option", "length=4")] + ["--batch", "1"]


def trained(folder, *, name="tiny", spans=WHOLE, dtype="uint8", config=CONFIG):
    """A weights file as training leaves it, as its path."""
    told = Description(config, 16, "linear", "v", spans, None, {"version": "test", "steps": 1}, dtype)
    tensors = {key: tensor.clone() for key, tensor in nets.network(config).state_dict().items()}
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, metadata={DESCRIPTION: json.dumps(told.stored())})
    return str(path)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A model that comes with the package, for once; where its file is."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr("tileloom.models.weights.SHIPPED", folder)
    return trained(folder)


def compiled(folder, model, pixels, **options):
    """A job that restores pixels with a model."""
    image = write_zarr(folder / f"{len(list(folder.iterdir()))}.zarr", pixels)
    job = {"input": str(image), "output": str(folder / "out.zarr"), "model": model, "task": "sr:2", "tile": 16}
    return compile_job(from_options({**job, **options}))


# --- by name ---


def test_terra_is_in_the_package():
    assert "terra" in shipped(), f"{SHIPPED}/terra.safetensors is missing: train examples/terra/train.yaml for it"
    contract = contract_of("terra")
    assert (contract.name, contract.bands, contract.spans) == ("terra", 4, ((0.0, 255.0),) * 4)
    for name, file in shipped().items():
        assert (SHIPPED / f"{name}.safetensors").stat().st_size <= 8e6, f"{file} is larger than 8 MB"


def test_every_file_of_the_package_is_a_model_of_its_name(tiny):
    assert shipped() == {"tiny": tiny}
    assert model_kind("tiny") is Kind.WEIGHTS
    assert contract_of("tiny") == replace(contract_of(tiny), name="tiny")
    assert identity_of({"name": "tiny"}) == {"model": {"name": "weights"}, "weights": weights_digest(tiny)}
    with pytest.raises(InputError, match="no model is called 'tony'; there are gaussian, tiny, or give the path"):
        model_kind("tony")


def test_it_is_listed_and_inspected_by_its_name(tiny, capfd):
    said = tileloom(capfd, "models", "list")
    parameters = sum(np.prod(shape) for shape in nets.shapes(CONFIG).values())
    assert f"tiny: built in, an ADM U-Net of 4 bands, {parameters:,} parameters\n" in said.out
    listed = tileloom(capfd, "models", "list", "--json").json["shipped"]["tiny"]
    assert listed == {"kind": "an ADM U-Net", "bands": 4, "parameters": parameters, "digest": weights_digest(tiny)}
    lines = tileloom(capfd, "models", "inspect", "tiny").out.splitlines()
    assert lines[0].startswith(f"tiny: an ADM U-Net, {parameters:,} parameters in ")
    assert "predicts: v (as its file says)" in lines
    assert tileloom(capfd, "models", "inspect", "tiny", "--json").json["digest"] == weights_digest(tiny)


def test_a_job_that_names_it_is_the_job_of_its_file(tiny, tmp_path, capfd):
    image = write_zarr(tmp_path / "in.zarr", noise(4, 12, 16))
    results = []
    for number, model in enumerate(("tiny", tiny)):
        output = tmp_path / f"{number}.zarr"
        said = tileloom(capfd, "restore", image, output, "--task", "sr:2", "--model", model, *WORDS)
        assert (said.code, said.errors) == (0, [])
        results.append(json.loads((output / ".tileloom" / "job.json").read_text()))
    named, by_path = results
    assert named["spec"]["model"] == {"name": "tiny"}
    assert named["parts"] == by_path["parts"]
    assert tileloom(capfd, "resume", tmp_path / "0.zarr").code == 0


def test_an_image_of_other_bands_is_refused_in_a_sentence(tiny, tmp_path, capfd):
    image = write_zarr(tmp_path / "in.zarr", noise(3))
    said = tileloom(capfd, "restore", image, tmp_path / "out.zarr", "--task", "sr:2", "--model", "tiny", *WORDS)
    assert said.code == 2
    assert said.errors == [
        "error: model tiny works on 4 bands, the image has 3: give it an image of 4 bands, or choose another model"
    ]


# --- the range of a model's values ---


def test_values_of_the_type_that_it_learned_from_keep_their_range(tmp_path):
    model = trained(tmp_path, spans=((0.0, 1000.0),) * 4, dtype="uint16")
    found = compiled(tmp_path, model, noise(4, dtype="uint16"))
    assert found.resolved["range"] == [0, 1000]
    assert (found.image.scaling.lo, found.image.scaling.hi) == (0, 1000)
    assert found.image.result_scaling == found.image.scaling


def test_every_uint8_maps_to_what_it_was_in_training(tiny, tmp_path):
    scaling = compiled(tmp_path, "tiny", noise(4)).image.scaling
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(scaling.to_model(values), (values.astype(np.float32)) * np.float32(2 / 255) - 1)


def test_bands_keep_ranges_of_their_own(tmp_path):
    found = compiled(tmp_path, trained(tmp_path, spans=APART), noise(4))
    assert found.resolved["range"] == [[0, 10, 0, 0], [100, 90, 50, 255]]
    assert Contract.restored(json.loads(json.dumps(found.contract.stored()))) == found.contract
    asked = compiled(tmp_path, trained(tmp_path, spans=APART), noise(4)[:, :8], range=[0, 50], task="sr:4")
    assert asked.resolved["range"] == [0, 50]


@pytest.mark.parametrize(
    ("dtype", "told", "says"),
    [
        ("uint16", "uint8", r"learned from uint8 values of 0 to 255, and \S+zarr has values of type uint16"),
        ("float32", "uint8", r"means the same, such as \[0, 1\]"),
        ("uint16", None, "learned from other values of 0 to 255"),
    ],
)
def test_values_of_another_type_need_a_range(tmp_path, dtype, told, says):
    model = trained(tmp_path, dtype=told)
    with pytest.raises(InputError, match="range is missing: .*" + says):
        compiled(tmp_path, model, noise(4, dtype=dtype))
    assert compiled(tmp_path, model, noise(4, 8, 8, dtype=dtype), range=[0, 9], task="sr:4").resolved["range"] == [0, 9]


def test_what_is_drawn_from_nothing_has_the_type_that_its_model_knows(tmp_path):
    drawn = {"input": "blank:16x16", "output": str(tmp_path / "out.zarr"), "task": "generate", "tile": 16}
    drawn["model"] = trained(tmp_path, spans=((0.0, 65535.0),) * 4, dtype="uint16")
    with pytest.raises(
        InputError, match=r"dtype is uint8, and model .* learned from uint16 values: set dtype to uint16"
    ):
        compile_job(from_options(drawn))
    assert compile_job(from_options({**drawn, "dtype": "uint16"})).resolved["range"] == [0, 65535]


def test_a_gray_image_has_no_range_for_each_band(tmp_path):
    with pytest.raises(InputError, match=r"range is missing: .*one for each band, and a gray image has one band"):
        compiled(tmp_path, trained(tmp_path, spans=APART), noise(1), task="colorize", bands=4)


def test_a_model_that_says_nothing_of_its_values_takes_those_of_the_type(tmp_path):
    found = compiled(tmp_path, nets.weights(tmp_path), noise(3, dtype="uint16"), tile=32)
    assert found.resolved["range"] == [0, 65535]
