"""The style of a Patch-DM image: a row of the table, a draw, what an encoder sees in an image, or a code."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.images import write_png
from tests.nets import LATENT, PATCHES, STYLE_ENCODER, network, weights
from tileloom.jobs.spec import load_job
from tileloom.models.build import denoiser_of
from tileloom.models.kinds import contract_of, identity_of
from tileloom.models.latent import style_schedule, walk_styles
from tileloom.models.patchdm_style import style_of
from tileloom.models.style import Style, seen_side
from tileloom.tiling.errors import InputError

TOLD = {"patch": PATCHES.patch, "heads": 1}
DRAWING = replace(PATCHES, latent=LATENT)
SEEING = replace(PATCHES, codes=None, encoder=STYLE_ENCODER)


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("row:3", Style("row", 3)),
        ("sample", Style("sample", 0)),
        ("sample:12", Style("sample", 12)),
    ],
)
def test_a_style_is_read_from_its_words(text, style):
    assert Style.parse(text) == style


def test_a_row_is_that_of_the_table():
    net = network(PATCHES)
    assert torch.equal(style_of(net, Style("row", 3)), net.encoder.semantic_enc.weight[3])


def test_a_draw_belongs_to_its_seed():
    net = network(DRAWING)
    first, again, other = (style_of(net, Style("sample", seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert first.shape == (PATCHES.style_channels,)
    # Undone step by step it must have begun in noise of variance one, not in zeros.
    *_, (_, from_nothing) = walk_styles(net.latent_net, torch.zeros(1, PATCHES.style_channels), style_schedule())
    assert not torch.allclose(first, from_nothing[0])


def test_an_image_is_seen_at_the_size_that_the_encoder_was_made_for(tmp_path):
    net = network(SEEING)
    side = seen_side(STYLE_ENCODER)
    assert side == 32
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2 * side, 3 * side), np.uint8)
    file = tmp_path / "style.png"
    write_png(file, pixels)
    seen = F.interpolate(torch.tensor(pixels / 127.5 - 1)[None].float(), size=(side, side), mode="area")
    torch.testing.assert_close(style_of(net, Style.parse(str(file))), net.encoder(seen)[0], atol=1e-5, rtol=0)


def test_a_code_is_taken_as_it_is(tmp_path):
    np.save(tmp_path / "code.npy", np.arange(PATCHES.style_channels))
    style = Style.parse(str(tmp_path / "code.npy"))
    assert style_of(network(PATCHES), style).tolist() == list(range(PATCHES.style_channels))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros(7), r"holds 7 values of float64, and the network's style is 6 numbers"),
        (np.array(["a"] * 6), "holds 6 values of <U1"),
    ],
)
def test_a_code_of_another_width_is_refused_before_anything_is_loaded(tmp_path, values, says):
    np.save(tmp_path / "code.npy", values)
    with pytest.raises(InputError, match=says):
        contract_of({"name": weights(tmp_path, PATCHES), **TOLD, "style": str(tmp_path / "code.npy")})


def test_an_image_that_is_none_or_of_other_bands_is_refused(tmp_path):
    seeing = {"name": weights(tmp_path, SEEING), **TOLD}
    gray = tmp_path / "gray.png"
    write_png(gray, np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(InputError, match="has 1 bands, and styles are seen in images of 3"):
        contract_of({**seeing, "style": str(gray)})
    (tmp_path / "broken.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match="is no array of numbers"):
        contract_of({**seeing, "style": str(tmp_path / "broken.npy")})
    blind = {"name": weights(tmp_path, PATCHES, name="blind.safetensors"), **TOLD}
    with pytest.raises(InputError, match="holds no network that sees a style in an image"):
        contract_of({**blind, "style": str(gray)})


def test_a_style_counts_by_what_it_is_wherever_it_lies(tmp_path):
    model = {"name": weights(tmp_path, PATCHES), **TOLD}
    files = []
    for folder, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "code.npy", np.full(PATCHES.style_channels, value))
        files.append(identity_of({**model, "style": str(tmp_path / folder / "code.npy")}))
    assert files[0] == files[1] != files[2]
    assert denoiser_of({**model, "style": str(tmp_path / "c" / "code.npy")}).style.tolist() == [2.0] * 6


def test_a_job_file_names_a_style_beside_itself(tmp_path):
    np.save(tmp_path / "code.npy", np.zeros(6))
    (tmp_path / "job.yaml").write_text(
        "input: scene.tif\noutput: out.zarr\ntask: sr:4\nmodel: {name: net.safetensors, style: code.npy}\n"
    )
    assert load_job(tmp_path / "job.yaml").model["style"] == str(tmp_path / "code.npy")
