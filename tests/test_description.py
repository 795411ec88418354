"""What a file of our own says of its network is taken at its word, kept when it is converted, and read strictly."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commandline import tileloom
from tests.fillers import HOLES
from tests.nets import UNET, network
from tests.trainings import CLASSIFIER
from tests.trainings import UNET as STEMMED
from tileloom.models.checkpoint import convert
from tileloom.models.signatures import DESCRIBED, OPTION, Description, Told
from tileloom.models.spatial_config import SpatialDescription
from tileloom.models.weights import DESCRIPTION, description_of, read_weights
from tileloom.tiling.errors import InputError

SAID = Description(STEMMED, 48, "cosine", "v", ((0.0, 255.0),) * 3, None, {"steps": 3})


def file_of(folder, said=SAID, *, name="own.safetensors", text=None):
    """A file of a network that describes itself."""
    path = str(folder / name)
    save_file(network(said.config).state_dict(), path, {DESCRIPTION: text or json.dumps(said.stored())})
    return path


@pytest.mark.parametrize("config", [STEMMED, replace(STEMMED, detail=8), CLASSIFIER, UNET])
def test_a_description_comes_back_as_it_was_written(tmp_path, config):
    said = Description(config, 16, "linear", "eps", ((0.0, 1.0), (-2.5, 3.0), (0.0, 9.0)), 7, {"data": "x"})
    assert description_of(file_of(tmp_path, said)) == said


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Description, SAID),
        (SpatialDescription, SpatialDescription(HOLES, 16, ((0.0, 1.0),) * HOLES.in_channels, None, {"steps": 0})),
    ],
)
def test_files_from_before_there_were_details_have_none(kind, said):
    stored = said.stored()
    del stored["config"]["detail"]
    assert kind.restored(json.loads(json.dumps(stored))) == said


def test_what_shapes_do_not_tell_is_known(tmp_path):
    reading = read_weights(file_of(tmp_path))
    assert (reading.config, reading.betas, reading.image_size) == (STEMMED, "cosine", 48)
    told = {name: known for name, _, known in reading.facts()}
    assert {told[name] for name in ("heads", "attention_order", "betas", "image_size", "stem")} == {DESCRIBED}


def test_an_option_says_it_better(tmp_path):
    reading = read_weights(file_of(tmp_path), Told(betas="linear", image_size=96))
    assert (reading.betas, reading.image_size, reading.config.stem) == ("linear", 96, 2)
    assert dict((name, known) for name, _, known in reading.facts())["betas"] == OPTION


def test_files_of_others_describe_nothing(tmp_path):
    save_file(network().state_dict(), tmp_path / "other.safetensors", {"format": "pt"})
    torch.save(network().state_dict(), tmp_path / "other.pt")
    for name in ("other.safetensors", "other.pt"):
        assert description_of(str(tmp_path / name)) is None


def test_a_converted_file_still_describes_itself(tmp_path):
    source, target = file_of(tmp_path), str(tmp_path / "copy.safetensors")
    convert(source, target)
    assert description_of(target) == SAID
    assert load_file(target).keys() == load_file(source).keys()


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "{}",
        json.dumps({**SAID.stored(), "kind": "an oracle"}),
        json.dumps({**SAID.stored(), "config": {"depth": 3}}),
        json.dumps({**SAID.stored(), "spans": 3}),
    ],
)
def test_words_that_mean_nothing_here_are_refused(tmp_path, text):
    with pytest.raises(InputError, match="describes its network in words unknown here"):
        read_weights(file_of(tmp_path, text=text))


def test_inspect_tells_it(tmp_path, capfd):
    path = file_of(tmp_path)
    lines = tileloom(capfd, "models", "inspect", path).out.splitlines()
    assert "stem: 2 (as its file says)" in lines
    assert "predicts: v (as its file says)" in lines
    assert "values that became -1 and 1: 0 and 255, 0 and 255, 0 and 255" in lines
    assert tileloom(capfd, "models", "inspect", path, "--json").json["description"] == json.loads(
        json.dumps(SAID.stored())
    )
