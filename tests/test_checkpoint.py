"""Weights files: read without running anything, loaded strictly, and what of them decides a job's bytes."""

import argparse
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.nets import CLASSIFIER, UNET, WITH_CLASSES, images, network, weights
from tests.pipeline import job, restore, result, scene
from tileloom.jobs.run import Redo
from tileloom.models.build import denoiser_of
from tileloom.models.checkpoint import blank, convert, load_tensors, with_weights
from tileloom.models.contract import label_of
from tileloom.models.kinds import contract_of, identity_of
from tileloom.models.networks import load_classifier, load_denoiser
from tileloom.models.signatures import Told
from tileloom.models.weights import is_path, read_weights, shapes_of, weights_digest
from tileloom.tiling.errors import InputError, JobChanged, StoreError

KINDS = ["net.safetensors", "net.pt", "net.pth", "net.ckpt", "net.bin"]


def state_dict(config=UNET):
    return network(config).state_dict()


# --- reading ---


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_tells_its_shapes_and_its_tensors(tmp_path, name):
    path = weights(tmp_path, name=name)
    expected = state_dict()
    assert shapes_of(path) == {key: tuple(tensor.shape) for key, tensor in expected.items()}
    loaded = load_tensors(path)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_old_torch_files_and_state_dicts_beside_other_things_are_read(tmp_path):
    torch.save(state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state_dict(), "epoch": 3, "loss": [0.1]}, tmp_path / "beside.pt")
    torch.save({key: torch.nn.Parameter(tensor) for key, tensor in state_dict().items()}, tmp_path / "learned.pt")
    for name in ("old.pt", "beside.pt", "learned.pt"):
        assert read_weights(str(tmp_path / name), Told(heads=4)).config == UNET
        assert not any(tensor.requires_grad for tensor in load_tensors(str(tmp_path / name)).values())


class Touch:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, zipped):
    ran = tmp_path / "ran"
    torch.save({**state_dict(), "extra": Touch(ran)}, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    for reader in (shapes_of, load_tensors):
        with pytest.raises(InputError, match=r"net\.pt holds code beside its weights \(\w+\.system\) and is refused"):
            reader(str(tmp_path / "net.pt"))
    assert not ran.exists()


@pytest.mark.parametrize("content", [network(), {"hyper": argparse.Namespace(a=1), **state_dict()}])
def test_pickled_objects_are_code_too(tmp_path, content):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"holds code beside its weights \([\w.]+\) and is refused.*state dict alone"):
        shapes_of(str(tmp_path / "net.pt"))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_program_is_no_weights_file(tmp_path):
    traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    traced.save(tmp_path / "net.pt")
    with pytest.raises(InputError, match="is a program, which is code"):
        shapes_of(str(tmp_path / "net.pt"))


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut short"])
def test_a_damaged_file_is_refused_by_name(tmp_path, name, damage):
    path = tmp_path / name
    whole = weights(tmp_path, name="whole" + path.suffix)
    with open(whole, "rb") as opened:
        start = opened.read(5000)
    path.write_bytes({"empty": b"", "text": b"these are no weights at all", "cut short": start}[damage])
    for reader in (shapes_of, load_tensors):
        with pytest.raises(InputError, match=rf"^{path} is .*: copy or download it again$"):
            reader(str(path))


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 1}, torch.zeros(3)])
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(InputError, match="holds no tensors by name"):
        shapes_of(str(tmp_path / "net.pt"))


def test_what_is_no_weights_file_is_refused_by_its_name(tmp_path):
    (tmp_path / "net.txt").touch()
    (tmp_path / "folder.pt").mkdir()
    for reader in (shapes_of, load_tensors, weights_digest):
        with pytest.raises(InputError, match=r"missing\.pt: does not exist"):
            reader(str(tmp_path / "missing.pt"))
        for name in ("net.txt", "folder.pt"):
            with pytest.raises(InputError, match=r"is no weights file: give one of the kinds \.safetensors, \.pt"):
                reader(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "is_file"),
    [
        ("gaussian", False),
        ("net.pt", True),
        ("a/net.safetensors", True),
        ("./folder", True),
        ("terra.v2", False),
        ("a.ts", True),
        ("a.pt2", True),
    ],
)
def test_a_models_name_is_a_path_by_its_look(name, is_file):
    assert is_path(name) == is_file


# --- loading ---


def test_a_loaded_network_is_the_one_that_was_saved(tmp_path):
    x, t = images()
    for name in ("net.safetensors", "net.pt"):
        denoiser = load_denoiser({"name": weights(tmp_path, name=name), "heads": 4})
        assert torch.equal(denoiser.network(x, t), network()(x, t))
        assert not denoiser.network.training


def test_stored_in_half_precision_it_is_computed_in_float32(tmp_path):
    halves = {key: tensor.half() for key, tensor in state_dict().items()}
    loaded = with_weights(UNET, halves)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert all(torch.equal(loaded.state_dict()[key], halves[key].float()) for key in halves)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
def test_a_file_that_changes_later_changes_no_loaded_network(tmp_path, name):
    path, (x, t) = weights(tmp_path, name=name), images()
    denoiser = load_denoiser(path)
    before = denoiser.network(x, t)
    with open(path, "r+b") as opened:
        opened.seek(0, os.SEEK_END)
        size = opened.tell()
        opened.seek(size // 2)
        opened.write(b"\x3f" * (size // 4))
    assert torch.equal(denoiser.network(x, t), before)


def test_keys_too_few_too_many_or_of_another_shape_are_named(tmp_path):
    key = "output_blocks.0.0.in_layers.2.bias"
    for changed, says in (
        ({key: None}, rf"net\.pt looks like an ADM U-Net, but 1 key is missing \({key}\)"),
        ({"out.3.weight": torch.zeros(2)}, r"but 1 key is unexpected \(out\.3\.weight\)"),
        ({key: torch.zeros(7)}, rf"but 1 key is of another shape \({key}\)"),
        ({key: None, "extra": torch.zeros(2)}, r"looks like an ADM U-Net.*1 key is unexpected \(extra\)"),
    ):
        with pytest.raises(InputError, match=says):
            load_denoiser(weights(tmp_path, name="net.pt", **changed))


def test_a_blank_network_takes_no_memory():
    assert {parameter.device.type for parameter in blank(UNET).parameters()} == {"meta"}


def test_a_classifier_guides_and_denoises_not(tmp_path):
    path = weights(tmp_path, CLASSIFIER)
    x, t = images()
    assert torch.equal(load_classifier(path, Told(heads=4))(x, t), network(CLASSIFIER)(x, t))
    with pytest.raises(InputError, match="an ADM classifier, which guides a model but is none"):
        contract_of(path)
    other = weights(tmp_path, name="other.pt")
    with pytest.raises(InputError, match=r"other\.pt is an ADM U-Net, which cannot guide"):
        load_classifier(other)
    assert load_classifier(path, Told(heads=2)).config.num_heads == 2


# --- contract and options ---


def test_a_contract_follows_from_the_file(tmp_path):
    found = contract_of({"name": weights(tmp_path), "betas": "cosine", "image_size": 32})
    assert (found.name, found.bands, found.size_multiple, found.native_tile) == ("net.safetensors", 3, 2, 32)
    assert (found.betas, found.timesteps, found.value_range, found.smallest_tile) == ("cosine", 1000, (-1.0, 1.0), 4)


@pytest.mark.parametrize(
    ("config", "options", "says"),
    [
        (UNET, {"label": 3}, r"model.label is 3, but .*net\.pt knows no classes: leave the label out"),
        (WITH_CLASSES, {}, r"model.label is missing; give the class that .*net\.pt draws, 0 to 4"),
        (WITH_CLASSES, {"label": 5}, "model.label is 5; give the class"),
        (WITH_CLASSES, {"label": "cat"}, "model.label is 'cat'; give the number of a class"),
        (UNET, {"precision": "fp8"}, "model.precision is 'fp8'; choose one of fp32, bf16, fp16"),
        (UNET, {"length": 8}, r"model.length is no option of .*net\.pt; a network's options are precision, label"),
        (UNET, {"heads": 5}, "does not split into heads"),
        (replace(UNET, out_channels=4), {}, "turns 3 channels into 4, so that it needs more than the noisy image"),
    ],
)
def test_options_that_do_not_suit_the_network_are_refused(tmp_path, config, options, says):
    path = weights(tmp_path, config, name="net.pt")
    with pytest.raises(InputError, match=says):
        contract_of({"name": path, **options})


def test_options_reach_the_network(tmp_path):
    path = weights(tmp_path, WITH_CLASSES)
    options = {"label": 2, "precision": "bf16", "attention_order": "new", "head_channels": 16}
    denoiser = denoiser_of({"name": path, **options})
    assert label_of({"name": path, **options}) == 2
    assert denoiser.network.torso_dtype is torch.bfloat16
    assert denoiser.numerics["precision"] == "bf16"
    assert denoiser.network.config.use_new_attention_order
    assert denoiser.network.config.num_head_channels == 16


def test_an_unknown_name_says_that_a_path_would_do():
    with pytest.raises(InputError, match="or give the path of a weights file"):
        contract_of("terra-9")


# --- converting ---


def test_converted_weights_are_the_same_to_the_bit(tmp_path):
    mixed = {**state_dict(), "out.2.bias": torch.zeros(6, dtype=torch.bfloat16)}
    mixed["out.0.bias"] = mixed["out.0.weight"]
    torch.save(mixed, tmp_path / "net.pt")
    target = tmp_path / "net.safetensors"
    assert convert(str(tmp_path / "net.pt"), str(target)) == len(mixed)
    found = load_file(target)
    assert found.keys() == mixed.keys()
    assert all(torch.equal(found[key], mixed[key]) and found[key].dtype is mixed[key].dtype for key in mixed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pt", "net.safetensors"]


def test_nothing_is_overwritten_and_nothing_left_half_written(tmp_path):
    source = weights(tmp_path, name="net.pt")
    with pytest.raises(InputError, match="exists: choose another name"):
        convert(source, weights(tmp_path))
    with pytest.raises(InputError, match=r"only \.safetensors files are written"):
        convert(source, str(tmp_path / "other.pt"))
    with pytest.raises(StoreError, match="cannot write"):
        convert(source, str(tmp_path / "no folder" / "net.safetensors"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pt", "net.safetensors"]


# --- jobs ---


def test_the_digest_is_that_of_the_bytes(tmp_path):
    first = weights(tmp_path, name="a.safetensors")
    same, other = weights(tmp_path, name="b.safetensors"), weights(tmp_path, name="c.safetensors", seed=1)
    assert weights_digest(first) == weights_digest(same) != weights_digest(other)


@pytest.fixture
def started(tmp_path):
    """A finished job on a network, and the job."""
    spec = job(
        tmp_path,
        scene(3, 20, 24),
        task="sr:2",
        model={"name": weights(tmp_path), "image_size": 16},
        steps=2,
        levels=1,
    )
    restore(spec)
    return spec


def test_a_network_restores_and_the_measurement_holds(started):
    found = result(started).astype(np.float64)
    pooled = found.reshape(3, 20, 2, 24, 2).mean(axis=(2, 4))
    assert np.abs(pooled - scene(3, 20, 24)).max() < 1e-5


def test_weights_that_moved_are_the_same_job_and_others_are_not(started, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = weights(tmp_path / "elsewhere", name="renamed.safetensors")
    spec = started.model_copy(update={"model": {**started.model, "name": moved}})
    assert restore(spec).calls == 0
    weights(tmp_path / "elsewhere", name="renamed.safetensors", seed=1)
    with pytest.raises(JobChanged, match=r"weights: ([0-9a-f]{8})\.\.\. -> (?!\1)[0-9a-f]{8}\.\.\."):
        restore(spec)
    before = result(spec)
    restore(spec, redo=Redo.STALE)
    assert not np.array_equal(result(spec), before)
    other_options = spec.model_copy(update={"model": {**spec.model, "precision": "bf16"}})
    with pytest.raises(JobChanged, match=r"model\.precision: none -> bf16"):
        restore(other_options)


DEFAULTS = {
    **{"precision": "fp32", "channels_last": False, "compile": False},
    **{"head_channels": 64, "attention_order": "legacy", "betas": "linear", "image_size": 64},
}


def test_an_option_written_at_its_default_is_the_same_job(started):
    written = {**DEFAULTS, **started.model}
    assert restore(started.model_copy(update={"model": written})).calls == 0


def test_options_count_where_they_make_a_difference(tmp_path):
    bare = {"name": weights(tmp_path)}
    assert identity_of(bare)["model"] == identity_of({**bare, **DEFAULTS})["model"] == {"name": "weights"}
    half = identity_of({**bare, "precision": "bf16"})
    assert half["model"] == {"name": "weights", "precision": "bf16"}
    assert identity_of({**bare, "precision": "bf16", "channels_last": True}) == half
    for told in (
        {"precision": "bf16", "channels_last": False},
        *({"channels_last": True}, {"compile": True}, {"heads": 8}, {"head_channels": 16}),
        *({"attention_order": "new"}, {"betas": "cosine"}, {"image_size": 16}),
    ):
        assert identity_of({**bare, **told})["model"] == {"name": "weights", **told}
    drawing = {"name": weights(tmp_path, WITH_CLASSES, name="classes.safetensors"), "label": 0}
    assert identity_of(drawing)["model"] == {"name": "weights", "label": 0}


def test_a_network_is_refused_for_images_it_cannot_take(tmp_path):
    spec = job(tmp_path, scene(1, 8, 8), task="sr:2", model={"name": weights(tmp_path)}, tile=16)
    with pytest.raises(InputError, match=r"net\.safetensors works on 3 bands, the image has 1"):
        restore(spec)
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "foreign.safetensors")
    spec = spec.model_copy(update={"model": {"name": str(tmp_path / "foreign.safetensors")}})
    with pytest.raises(InputError, match=r"foreign\.safetensors looks like no network that is known here"):
        restore(spec)
