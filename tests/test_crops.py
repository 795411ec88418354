"""Crops of an archive: which may be taken, how likely each is, and that a number always means the same crop."""

import re
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.images import noise, write_tiff, write_zarr
from tileloom.tiling import crops as module
from tileloom.tiling.box import Box
from tileloom.tiling.cache import ChunkCache
from tileloom.tiling.crops import Crops, Cutting, Scene
from tileloom.tiling.errors import InputError
from tileloom.tiling.labels import LabelMaps, LabelPlan, same_numbers

AS_IS = ((0.0, 2.0), (0.0, 2.0))
"""A range by which model range is the pixel's value less 1."""


def places(height=40, width=50):
    """An image whose two bands say the row and the column of every pixel."""
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).astype(np.uint16)


def at(crop):
    """(row, column) of a crop's first pixel."""
    row, col = crop.pixels[:, 0, 0] + 1
    return int(row), int(col)


def taken(crops, count, use="train"):
    return [at(crops.take(use, number)) for number in range(count)]


@pytest.fixture
def image(tmp_path):
    return str(write_zarr(tmp_path / "a.zarr", places()))


def test_a_crop_is_what_lies_at_its_place(image):
    crop = Crops([Scene(image)], Cutting(8, spans=AS_IS)).take("train", 3)
    row, col = at(crop)
    np.testing.assert_array_equal(crop.pixels + 1, places()[:, row : row + 8, col : col + 8])
    assert crop.pixels.dtype == np.float32
    assert crop.where == f"{image} rows {row}:{row + 8}, columns {col}:{col + 8}"


def test_every_place_is_as_likely_as_any_other(tmp_path):
    small = str(write_zarr(tmp_path / "a.zarr", places(9, 10)))
    counts = Counter(taken(Crops([Scene(small)], Cutting(8, spans=AS_IS)), 3000))
    assert set(counts) == {(row, col) for row in range(2) for col in range(3)}
    assert min(counts.values()) > 400


def test_large_images_are_taken_from_more_often(tmp_path):
    scenes = [Scene(str(write_zarr(tmp_path / f"{width}.zarr", places(20, width)))) for width in (27, 87)]
    crops = Crops(scenes, Cutting(8, spans=AS_IS))
    counts = Counter(crops.take("train", number).where.split()[0] for number in range(1000))
    assert 0.75 < counts[scenes[1].image] / 1000 < 0.85


def test_a_number_means_one_crop_whatever_was_taken_before(image):
    cutting = Cutting(8, seed=4, flips=True, turns=True, spans=AS_IS)
    forth, back = Crops([Scene(image)], cutting), Crops([Scene(image)], cutting)
    first = [forth.take("train", number).pixels for number in range(20)]
    again = [back.take("train", number).pixels for number in reversed(range(20))]
    np.testing.assert_array_equal(first, again[::-1])
    other = Crops([Scene(image)], Cutting(8, seed=5, spans=AS_IS))
    assert taken(other, 20) != taken(Crops([Scene(image)], Cutting(8, seed=4, spans=AS_IS)), 20)


@settings(max_examples=20)
@given(st.integers(0, 2**16))
def test_no_pixel_is_taken_that_is_masked_or_holds_no_data(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("gaps")
    rng = np.random.default_rng(seed)
    pixels, mask = places() + 1, np.zeros((1, 40, 50), np.uint8)
    for gap in (pixels, mask):
        row, col = rng.integers(0, 35, 2)
        gap[:, row : row + 7, col : col + 9] = 0 if gap is pixels else 1
    scene = Scene(
        str(write_zarr(folder / "a.zarr", pixels, attributes={"nodata": 0})), str(write_zarr(folder / "m.zarr", mask))
    )
    crops = Crops([scene], Cutting(6, spans=AS_IS))
    for number in range(30):
        row, col = at(crops.take("train", number))
        part = np.s_[:, row - 1 : row + 5, col - 1 : col + 5]
        assert pixels[part].all()
        assert not mask[part].any()


def test_numbers_that_are_none_are_gaps_too(tmp_path):
    pixels = places().astype(np.float32)
    pixels[0, 5:38, 5:48] = np.nan
    crops = Crops([Scene(str(write_zarr(tmp_path / "a.zarr", pixels)))], Cutting(4, spans=AS_IS))
    assert all(np.isfinite(crops.take("train", number).pixels).all() for number in range(30))


def test_blocks_without_anything_valid_are_not_even_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 16)
    monkeypatch.setattr(module, "_TRIES", 400)
    mask = np.ones((1, 400, 400), np.uint8)
    mask[:, 352:372, 16:36] = 0
    scene = Scene(str(write_zarr(tmp_path / "a.zarr", places(400, 400))), str(write_zarr(tmp_path / "m.zarr", mask)))
    assert {row for row, _ in taken(Crops([scene], Cutting(16, spans=AS_IS)), 40)} <= set(range(352, 357))


def test_what_is_held_out_is_checked_on_and_never_trained_on(tmp_path):
    scene = Scene(str(write_zarr(tmp_path / "a.zarr", places(300, 300))))
    crops = Crops([scene], Cutting(10, held_out=0.2, spans=AS_IS))
    seen = {use: np.zeros((300, 300), bool) for use in ("train", "check")}
    for use, number in ((use, number) for use in seen for number in range(1500)):
        row, col = at(crops.take(use, number))
        seen[use][row : row + 10, col : col + 10] = True
    assert not (seen["train"] & seen["check"]).any()
    assert 0.05 < seen["check"].mean() < 0.4
    assert seen["train"].mean() > 0.5


def test_of_large_images_not_all_is_held_out(tmp_path):
    scene = Scene(str(write_zarr(tmp_path / "a.zarr", np.zeros((1, 1100, 1100), np.uint8), chunk=(256, 256))))
    crops = Crops([scene], Cutting(8, held_out=0.02))
    assert {use: crops.take(use, 0).pixels.shape for use in ("train", "check")} == dict.fromkeys(
        ("train", "check"), (1, 8, 8)
    )


def test_what_is_held_out_stays_so_when_the_archive_moves_or_grows(tmp_path):
    held = Cutting(10, held_out=0.2, spans=AS_IS)
    paths = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        paths.append(str(write_zarr(tmp_path / folder / "a.zarr", places(300, 300))))
    other = str(write_zarr(tmp_path / "b.zarr", places(300, 300)))
    alone, beside = Crops([Scene(paths[0])], held), Crops([Scene(other), Scene(paths[1])], held)
    rows, cols = np.arange(8)[:, None], np.arange(8)[None]
    np.testing.assert_array_equal(alone._draw(0, rows, cols), beside._draw(1, rows, cols))


def test_crops_are_turned_and_mirrored_only_where_that_is_allowed(tmp_path):
    image = str(write_zarr(tmp_path / "a.zarr", noise(1, 8, 8)))

    def looks(**allowed):
        crops = Crops([Scene(image)], Cutting(8, **allowed))
        return len({crops.take("train", number).pixels.tobytes() for number in range(200)})

    assert [looks(), looks(flips=True), looks(turns=True), looks(flips=True, turns=True)] == [1, 2, 4, 8]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", [1, 2, 4, 7])
def test_any_bands_and_type_come_out_in_model_range(tmp_path, dtype, bands):
    pixels = noise(bands, 20, 20, dtype=dtype) if dtype != "float32" else np.abs(noise(bands, 20, 20, dtype=dtype)) % 1
    crop = Crops([Scene(str(write_zarr(tmp_path / "a.zarr", pixels)))], Cutting(8)).take("train", 0)
    assert crop.pixels.shape == (bands, 8, 8)
    assert -1 <= crop.pixels.min() < crop.pixels.max() <= 1


def test_each_band_has_its_own_range(tmp_path):
    image = str(write_zarr(tmp_path / "a.zarr", np.stack([np.full((9, 9), 10), np.full((9, 9), 300)]).astype("uint16")))
    crops = Crops([Scene(image)], Cutting(8, spans=((0, 10), (300, 400))))
    assert crops.take("train", 0).pixels[:, 0, 0].tolist() == [1, -1]
    assert crops.spans == ((0, 10), (300, 400))


def test_ranges_are_measured_where_that_is_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    pixels = np.stack([rng.normal(1000, 100, (200, 200)), rng.normal(3000, 10, (200, 200))]).astype("uint16")
    crops = Crops([Scene(str(write_zarr(tmp_path / "a.zarr", pixels)))], Cutting(32, spans="measure"))
    (low, high), (low2, high2) = crops.spans
    assert 600 < low < 750
    assert 1250 < high < 1400
    assert 2960 < low2 < high2 < 3040


def test_classes_come_from_the_image_or_from_a_map(tmp_path):
    image, other = (str(write_zarr(tmp_path / f"{name}.zarr", places())) for name in "ab")
    zones = np.zeros((1, 40, 50), np.uint8)
    zones[:, 20:] = 3
    zones = str(write_zarr(tmp_path / "zones.zarr", zones))
    crops = Crops([Scene(image, label=7), Scene(other, classes=zones)], Cutting(6, spans=AS_IS, classes=8))
    for crop in (crops.take("train", number) for number in range(40)):
        row, _ = at(crop)
        assert crop.label == (7 if crop.where.startswith(image) else 3 if row > 17 else crop.label)
        assert crop.label in (0, 3, 7)


def test_tiffs_are_taken_from_too(tmp_path):
    image = str(write_tiff(tmp_path / "a.tif", places(), tile=(16, 16)))
    assert len(set(taken(Crops([Scene(image)], Cutting(8, spans=AS_IS)), 30))) > 20


def test_few_images_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_OPEN", 3)
    scenes = [Scene(str(write_zarr(tmp_path / f"{number}.zarr", places(10, 10)))) for number in range(6)]
    crops = Crops(scenes, Cutting(8, spans=AS_IS))
    assert len({crops.take("train", number).where.split()[0] for number in range(60)}) == 6
    assert len(crops._open) == 3


def test_the_digest_is_of_what_is_learned_from(tmp_path):
    images = [str(write_zarr(tmp_path / f"{seed}.zarr", noise(seed=seed))) for seed in (0, 1)]
    digests = {
        Crops([Scene(image)], cutting).digest for image in images for cutting in (Cutting(8), Cutting(8, flips=True))
    }
    assert len(digests) == 4
    assert Crops([Scene(images[0])], Cutting(8)).digest in digests


SCENES = {
    "no image": (lambda at: [], "there is no image"),
    "other bands": (lambda at: [at(noise(3)), at(noise(2))], "has 2 bands and"),
    "other type": (lambda at: [at(noise()), at(noise(dtype="uint16"))], "set range"),
    "too small": (lambda at: [at(noise(3, 7, 40))], "smaller than a crop of 8"),
    "all masked": (lambda at: [at(noise(1), mask=at(np.ones((1, 40, 50), np.uint8)).image)], "none of"),
    "mask of another size": (lambda at: [at(noise(1), mask=at(np.ones((1, 40, 51), np.uint8)).image)], "one size"),
    "classes in two bands": (lambda at: [at(noise(1), classes=at(noise(2)).image)], "no map of classes"),
}


@pytest.mark.parametrize("kind", SCENES)
def test_what_cannot_be_learned_from_is_refused(tmp_path, kind):
    make, says = SCENES[kind]
    count = iter(range(9))

    def scene(pixels, **beside):
        return Scene(str(write_zarr(tmp_path / f"{next(count)}.zarr", pixels)), **beside)

    with pytest.raises(InputError, match=says):
        Crops(make(scene), Cutting(8)).take("train", 0)


def test_a_class_that_is_missing_or_too_high_is_refused(image):
    for scene, says in ((Scene(image), "has no class"), (Scene(image, label=4), "has class 4")):
        with pytest.raises(InputError, match=says):
            Crops([scene], Cutting(8, spans=AS_IS, classes=4)).take("train", 0)


def test_of_a_small_archive_one_square_is_held_out(tmp_path):
    scene = Scene(str(write_zarr(tmp_path / "a.zarr", places(64, 64))))
    crops = Crops([scene], Cutting(8, held_out=1e-5, spans=AS_IS))
    assert len({(row // 32, col // 32) for row, col in taken(crops, 40, "check")}) == 1
    assert not {(row // 32, col // 32) for row, col in taken(crops, 40)} & {
        (row // 32, col // 32) for row, col in taken(crops, 40, "check")
    }


def test_an_archive_too_small_to_hold_something_out_is_refused(tmp_path):
    image = str(write_zarr(tmp_path / "a.zarr", places(30, 30)))
    with pytest.raises(InputError, match=r"held_out is 0.1, which leaves nothing to train on"):
        Crops([Scene(image)], Cutting(8, held_out=0.1))


def test_ranges_for_other_bands_are_refused(image):
    with pytest.raises(InputError, match="range has 3 pairs for 2 bands"):
        Crops([Scene(image)], Cutting(8, spans=((0, 1),) * 3))


def test_the_type_of_the_values_is_that_of_all_images(tmp_path):
    images = [Scene(str(write_zarr(tmp_path / f"{kind}.zarr", noise(2, dtype=kind)))) for kind in ("uint8", "uint16")]
    assert Crops(images[:1], Cutting(8)).dtype == "uint8"
    assert Crops(images, Cutting(8, spans=AS_IS)).dtype is None


# --- from further away ---


def test_a_share_of_the_crops_is_seen_from_further_away(tmp_path):
    picture = places(160, 200)
    crops = Crops([Scene(str(write_zarr(tmp_path / "a.zarr", picture)))], Cutting(8, spans=AS_IS, coarse=0.5))
    found = [crops.take("train", number) for number in range(400)]
    factors = Counter(int(crop.pixels[0, 1, 0] - crop.pixels[0, 0, 0]) for crop in found)
    assert set(factors) == {1, 2, 4, 8}
    assert factors[1] == pytest.approx(200, abs=50)
    assert factors[2] == pytest.approx(100, abs=40)
    for crop in found:
        factor = int(crop.pixels[0, 1, 0] - crop.pixels[0, 0, 0])
        row, col = (round(float(first) + 1 - (factor - 1) / 2) for first in crop.pixels[:, 0, 0])
        assert not row % factor
        assert not col % factor
        covered = picture[:, row : row + 8 * factor, col : col + 8 * factor].astype(np.float64)
        means = covered.reshape(2, 8, factor, 8, factor).mean(axis=(2, 4))
        np.testing.assert_allclose(crop.pixels + 1, means, rtol=1e-6)
        assert f"rows {row}:{row + 8 * factor}," in crop.where


def test_small_images_are_seen_from_as_far_as_they_go(tmp_path):
    crops = Crops([Scene(str(write_zarr(tmp_path / "a.zarr", places(16, 40))))], Cutting(8, spans=AS_IS, coarse=0.9))
    found = [crops.take("train", number) for number in range(100)]
    assert {int(crop.pixels[0, 1, 0] - crop.pixels[0, 0, 0]) for crop in found} == {1, 2}


def test_what_is_held_out_is_seen_as_it_is_and_never_from_further_away(tmp_path):
    cutting = Cutting(10, held_out=0.2, spans=AS_IS, coarse=0.5)
    crops = Crops([Scene(str(write_zarr(tmp_path / "a.zarr", places(200, 200))))], cutting)
    held = {(row // 40, col // 40) for row, col in taken(crops, 200, "check")}
    for number in range(200):
        rows, cols = re.findall(r"(\d+):(\d+)", crops.take("train", number).where)
        squares = product(*(range(int(low) // 40, (int(high) - 1) // 40 + 1) for low, high in (rows, cols)))
        assert held.isdisjoint(squares)


def test_labels_of_a_crop_from_further_away_are_those_of_the_nearest_pixels(tmp_path):
    picture, classes = places(64, 64), np.random.default_rng(0).integers(0, 5, (1, 64, 64)).astype(np.uint8)
    image, zones = (str(write_zarr(tmp_path / f"{len(one)}.zarr", one)) for one in (picture, classes))
    scene = Scene(image, classes=zones)
    crops = Crops([scene], Cutting(8, spans=AS_IS, classes=5, mapped=True, coarse=0.9))
    levels = LabelMaps(LabelPlan(scene.classes, 5, same_numbers(5)), cache=ChunkCache(2**20))
    seen = set()
    for number in range(20):
        crop = crops.take("train", number)
        rows, cols = ([int(end) for end in ends] for ends in re.findall(r"(\d+):(\d+)", crop.where))
        factor = (rows[1] - rows[0]) // 8
        box = Box(rows[0] // factor, cols[0] // factor, rows[1] // factor, cols[1] // factor)
        expected = levels.window(factor.bit_length() - 1, box)
        np.testing.assert_array_equal(crop.labels.classes, expected.classes)
        seen.add(factor)
    assert len(seen) > 2
