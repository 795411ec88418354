"""Scenes that never were: any box alone has the bits of the whole, and what they hold is what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.commandline import files_in, tileloom
from tileloom.tiling.box import Box
from tileloom.tiling.errors import InputError
from tileloom.tiling.source import open_mask, open_source
from tileloom.tiling.terra import write
from tileloom.tiling.terra.land import Use
from tileloom.tiling.terra.scene import Cover, Terra
from tileloom.tiling.terra.write import write_scene

WHOLE = Box(300, 200, 492, 408)
SCENE = Terra(seed=5)


@pytest.fixture(scope="module")
def whole():
    return SCENE.look(WHOLE)


boxes = st.builds(
    lambda top, left, height, width: Box(top, left, min(top + height, 492), min(left + width, 408)),
    st.integers(300, 491),
    st.integers(200, 407),
    st.integers(1, 70),
    st.integers(1, 70),
)


@given(boxes)
def test_any_box_alone_is_that_part_of_the_whole(whole, box):
    picture, labels = SCENE.look(box)
    part = box.within(WHOLE)
    np.testing.assert_array_equal(picture, whole[0][:, *part])
    np.testing.assert_array_equal(labels, whole[1][part])


@given(boxes)
def test_any_box_of_a_cover_is_that_part_of_the_whole(whole, box):
    cover = Cover(5, clouds=0.4, stripes=0.2)
    part = box.within(WHOLE)
    for alone, all_of_it in zip(cover.hide(whole[0][:, *part], box), cover.hide(whole[0], WHOLE), strict=True):
        np.testing.assert_array_equal(alone, all_of_it[..., *part])


def test_far_away_too_and_before_the_origin():
    for top, left in ((-40, -60), (10**6, 3 * 10**6)):
        large = Box(top, left, top + 60, left + 60)
        small = Box(top + 31, left + 7, top + 50, left + 40)
        np.testing.assert_array_equal(SCENE.look(small)[0], SCENE.look(large)[0][:, *small.within(large)])


def test_one_seed_is_one_scene_and_another_is_another():
    box = Box(0, 0, 40, 40)
    np.testing.assert_array_equal(Terra(3).look(box)[0], Terra(3).look(box)[0])
    assert (Terra(3).look(box)[0] != Terra(4).look(box)[0]).mean() > 0.5


def test_bands_are_of_one_scene(whole):
    part = Box(300, 200, 350, 250)
    pictures = {bands: Terra(5, bands).look(part) for bands in (1, 2, 3, 4)}
    assert {bands: picture.shape for bands, (picture, _) in pictures.items()} == {b: (b, 50, 50) for b in (1, 2, 3, 4)}
    np.testing.assert_array_equal(pictures[3][0], pictures[4][0][:3])
    np.testing.assert_array_equal(pictures[2][0][1], pictures[4][0][3])
    np.testing.assert_allclose(pictures[1][0][0], pictures[3][0].mean(axis=0), atol=1)
    for _, labels in pictures.values():
        np.testing.assert_array_equal(labels, pictures[4][1])


def test_floats_are_the_same_scene_from_0_to_1(whole):
    picture, _ = Terra(5, dtype="float32").look(WHOLE)
    assert picture.dtype == np.float32
    np.testing.assert_allclose(picture * 255, whole[0], atol=0.501)


def test_a_landscape_has_every_class():
    seen = np.zeros(len(Use), int)
    for seed in (2, 3, 5):
        seen += np.bincount(Terra(seed).look(Box(0, 0, 512, 512))[1].ravel(), minlength=len(Use))
    assert len(seen) == len(Use)
    assert (seen > 100).all(), seen


def test_classes_look_like_what_they_are():
    picture, labels = Terra(5).look(Box(0, 0, 512, 512))
    red, _, blue, infrared = (
        {use: picture[band][labels == use].mean() for use in Use if (labels == use).any()} for band in range(4)
    )
    assert infrared[Use.WATER] < 40
    assert red[Use.ROOF] > blue[Use.ROOF]
    for green in (Use.MEADOW, Use.CROP, Use.GARDEN):
        assert infrared[green] > 1.2 * red[green]


def test_edges_are_sharper_than_any_gaussian_field_has_them(whole):
    """Steps between neighbours have heavy tails: that is what a learned prior knows and a Gaussian one cannot."""
    steps = np.diff(whole[0][:3].astype(float), axis=2).ravel()
    assert np.mean((steps / steps.std()) ** 4) > 6


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_clouds_cover_their_share(share):
    box = Box(0, 0, 1024, 1024)
    blank = np.zeros((1, *box.shape), np.uint8)
    covered = [Cover(seed, clouds=share).hide(blank, box)[1].mean() for seed in range(6)]
    assert abs(np.mean(covered) - share) < 0.12


def test_stripes_cover_their_share_and_hold_nothing(whole):
    hidden, mask = Cover(1, stripes=0.25).hide(whole[0], WHOLE)
    assert abs(mask.mean() - 0.25) < 0.05
    assert not hidden[:, mask].any()
    np.testing.assert_array_equal(hidden[:, ~mask], whole[0][:, ~mask])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Terra(bands=5), "bands is 5"),
        (lambda: Terra(dtype="uint16"), "dtype is uint16"),
        (lambda: Cover(clouds=1.5), "clouds is 1.5"),
        (lambda: Cover(stripes=-0.1), "stripes is -0.1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()


# --- written ---


def test_a_written_scene_opens_as_itself_with_its_labels_and_mask(tmp_path, capfd):
    said = tileloom(capfd, "terra", tmp_path / "s.zarr", "--size", "70x90", "--seed", "5", "--clouds", "0.5")
    assert (said.code, said.out) == (0, f"scene: {tmp_path}/s.zarr\n")
    box = Box(0, 0, 70, 90)
    picture, labels = SCENE.look(box)
    source = open_source(tmp_path / "s.zarr")
    np.testing.assert_array_equal(source.read(box), picture)
    assert source.metadata["bands"] == ["red", "green", "blue", "near infrared"]
    np.testing.assert_array_equal(open_source(tmp_path / "s.zarr" / "labels").read(box)[0], labels)
    hidden, mask = Cover(5, clouds=0.5).hide(picture, box)
    np.testing.assert_array_equal(open_source(tmp_path / "s.zarr" / "covered").read(box), hidden)
    np.testing.assert_array_equal(open_mask(tmp_path / "s.zarr" / "mask").read(box)[0], mask)


def test_it_is_drawn_window_by_window(tmp_path, monkeypatch):
    seen = []

    class Watched(Terra):
        def look(self, box):
            seen.append(box)
            return super().look(box)

    monkeypatch.setattr(write, "_WINDOW", 64)
    monkeypatch.setattr(write, "CHUNK", 32)
    done = []
    write_scene(Watched(1, 1), tmp_path / "s.zarr", (100, 150), cover=None, advance=done.append)
    assert max(box.area for box in seen) <= 64 * 64
    assert sum(done) == 100 * 150
    np.testing.assert_array_equal(
        open_source(tmp_path / "s.zarr").read(Box(0, 0, 100, 150)), Terra(1, 1).look(Box(0, 0, 100, 150))[0]
    )


def test_nothing_half_drawn_is_left(tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scene(SCENE, tmp_path / "s.zarr", (20, 20), cover=None, advance=stop)
    assert not files_in(tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--size", "big"], "--size must be pixels a side"),
        (["--size", "0"], "--size must be pixels a side"),
        (["--bands", "5"], "--bands"),
        (["--clouds", "2"], "clouds is 2.0; give a share from 0 to 0.9"),
        (["--dtype", "int8"], "--dtype"),
    ],
)
def test_a_scene_that_cannot_be_is_refused(tmp_path, capfd, words, says):
    said = tileloom(capfd, "terra", tmp_path / "s.zarr", *words)
    assert (said.code, len(said.errors)) == (2, 1)
    assert says in said.errors[0]
    assert not files_in(tmp_path)


def test_nothing_is_overwritten(tmp_path, capfd):
    (tmp_path / "s.zarr").mkdir()
    said = tileloom(capfd, "terra", tmp_path / "s.zarr", "--size", "8")
    assert said.code == 2
    assert "exists: choose another name" in said.errors[0]
