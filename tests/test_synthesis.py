"""The synthesis benchmark's own parts: what is drawn and kept, what reads it, what is found, what the page tells."""

from dataclasses import replace
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pytest
import torch

from benchmarks import _drawing, _segmenter, _synthesis_page
from benchmarks._damage import BANDS
from benchmarks._drawing import AGAIN, BASE, CLASSES, SHUFFLED, SWAPPED, Drawings, Drawn, Size, scenes
from benchmarks._findings import OTHERS, TRUE, Findings, Reading, Seam, changed, find, seam_of, standing, variety
from benchmarks._segmenter import Course, Segmenter, confusion, ious, learned, mean_iou, segmenter
from benchmarks._study import NAIVE, ONE_LEVEL, OURS, PUBLISHED
from benchmarks._synthesis_page import COLOURS, SCALED, painted, section, strips, write_page
from benchmarks.synthesis import BENCHMARK, COURSE, FULL, LIMITS, TARGETS, figures_of
from tests.nets import SEMANTIC, weights
from tileloom.models.schedule import beta_table
from tileloom.models.semantic_denoiser import SemanticDenoiser
from tileloom.tiling.errors import InputError
from tileloom.tiling.terra.land import Use

NET = replace(SEMANTIC, in_channels=BANDS, out_channels=BANDS, num_classes=CLASSES, edges=False, channel_mult=(1,))
SMALL = Size(side=2.0, large=(40, 48), steps=1, seeds=(102, 104))
TINY = Course(seeds=(2,), places=1, window=32, steps=3, batch=2, crop=16, width=4)


# --- how far readings agree ---


def test_iou_is_of_the_classes_that_maps_have_over_all_pictures_together():
    told = [np.array([[0, 0, 1, 1]]), np.array([[0, 2]])]
    read = [np.array([[0, 1, 1, 3]]), np.array([[0, 2]])]
    counts = confusion(read, told, classes=5)
    # Of class 0 two of three are found and nothing else is taken for it; what was read as 3 is missing in 1.
    assert ious(counts) == {0: pytest.approx(2 / 3), 1: pytest.approx(1 / 3), 2: 1.0}
    assert mean_iou(counts) == pytest.approx(2 / 3)
    assert mean_iou(confusion(told, told, classes=5)) == 1


def test_what_is_shuffled_shows_every_class_as_another():
    assert sorted(SWAPPED) == sorted(SWAPPED.values()) == list(range(CLASSES))
    assert all(number != other for number, other in SWAPPED.items())
    # As the page says.
    assert (SWAPPED[Use.WATER], SWAPPED[Use.CROP]) == (Use.WOOD, Use.ROOF)


# --- what reads ---


def test_the_segmenter_learns_the_same_every_time_whatever_was_drawn_by_chance_before():
    one = learned(TINY).state_dict()
    torch.rand(3)
    state = torch.random.get_rng_state()
    other = learned(TINY).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.random.get_rng_state(), state)
    longer = learned(replace(TINY, steps=4)).state_dict()
    assert not torch.equal(one["head.weight"], longer["head.weight"])


def test_the_segmenter_is_kept_for_its_course(tmp_path, monkeypatch):
    picture = scenes((102,), 24)[0][0]
    first = segmenter(TINY, tmp_path).read(picture)
    monkeypatch.setattr(_segmenter, "learned", lambda course: pytest.fail(f"{course} was learned again"))
    assert np.array_equal(segmenter(TINY, tmp_path).read(picture), first)
    with pytest.raises(pytest.fail.Exception, match="steps=9"):
        segmenter(replace(TINY, steps=9), tmp_path)


def test_a_picture_of_any_size_is_read_and_read_alike_wherever_it_ends():
    network = Segmenter(4)
    picture = np.random.default_rng(0).random((BANDS, 61, 75)).astype(np.float32)
    read = network.read(picture)
    assert (read.shape, read.dtype) == ((61, 75), np.uint8)
    assert np.array_equal(network.read(picture[:, :, :67])[:, :40], read[:, :40])


def test_it_learns_from_other_scenes_than_it_reads():
    assert not {*COURSE.seeds} & {*FULL.seeds}


# --- what is drawn ---


def drawings_in(folder):
    return Drawings({"name": weights(folder, NET), "image_size": 16}, SMALL, folder / "out")


@pytest.fixture
def drawings(tmp_path):
    """Of a network that has learned nothing; nothing drawn yet."""
    return drawings_in(tmp_path)


@pytest.fixture(scope="module")
def knowing(tmp_path_factory):
    """Of a network that knows that a pixel of class c has the value c / 10: what it drew, and what is found in it."""
    signal = (1 - torch.tensor(beta_table("linear", 1000), dtype=torch.float64)).cumprod(0)

    def predict(denoiser, x, t, conditions):
        eps = torch.zeros_like(x)
        for row, condition in enumerate(conditions):
            if condition.labels:
                kept = signal[int(t[row])]
                looks = 2 * torch.from_numpy(condition.labels.classes.astype("float64") / CLASSES) - 1
                eps[row] = (x[row] - kept.sqrt() * looks) / (1 - kept).sqrt()
        return eps

    drawings = drawings_in(tmp_path_factory.mktemp("knowing"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SemanticDenoiser, "predict", predict)
        found = find(drawings, SimpleNamespace(read=values_as_classes))
    return drawings, found


def values_as_classes(picture):
    return np.rint(CLASSES * picture[0]).astype(np.uint8).clip(0, CLASSES - 1)


def test_pictures_lie_as_their_maps_do_and_shuffled_ones_show_other_classes(knowing):
    drawings, maps = knowing[0], scenes(SMALL.seeds, 32)[1]
    told = {
        name: [values_as_classes(one) for one in drawings.drawn(drawings.ways()[name]).pictures]
        for name in (ONE_LEVEL, SHUFFLED)
    }
    assert np.array_equal(told[ONE_LEVEL], maps)
    assert np.mean(told[SHUFFLED] == np.vectorize(SWAPPED.get)(maps)) > 0.9


def test_what_is_drawn_is_kept_unless_another_way_or_another_network_is_asked_for(drawings, tmp_path, monkeypatch):
    base = drawings.ways()[BASE]
    first = drawings.drawn(base)
    monkeypatch.setattr(_drawing, "run_images", lambda rows, options: pytest.fail("it is drawn again"))
    kept = Drawings(drawings.model, SMALL, drawings.out).drawn(base)
    assert np.array_equal(kept.pictures, first.pictures)
    assert (kept.borders, kept.calls) == (first.borders, first.calls)
    assert kept.pictures.shape == (2, BANDS, 32, 32)
    for way in (drawings.ways()[AGAIN], drawings.ways()["scale 2"], replace(base, side=40)):
        with pytest.raises(pytest.fail.Exception):
            drawings.drawn(way)
    another = {"name": weights(tmp_path, NET, name="another.safetensors", seed=1), "image_size": 16}
    with pytest.raises(pytest.fail.Exception):
        Drawings(another, SMALL, drawings.out).drawn(base)


@pytest.mark.parametrize("change", [{"in_channels": 3, "out_channels": 3}, {"num_classes": CLASSES + 1}])
def test_a_model_of_other_pictures_is_refused(tmp_path, change):
    model = {"name": weights(tmp_path, replace(NET, **change))}
    with pytest.raises(InputError, match="name one that was trained on scenes"):
        Drawings(model, SMALL, tmp_path)


def test_a_model_that_is_told_no_labels_is_refused(tmp_path):
    with pytest.raises(InputError, match="4 bands of no classes"):
        Drawings({"name": "terra"}, SMALL, tmp_path)


# --- what is found ---


def test_a_picture_that_shows_its_map_is_read_so_and_one_from_shuffled_labels_is_not(knowing):
    found = knowing[1]
    assert found.readings[ONE_LEVEL].miou == 1
    # A coarser level knows less of the map, and has its way with a finer one.
    assert all(0.5 < found.readings[name].miou < 1 for name in (*SCALED, AGAIN))
    assert found.readings[SHUFFLED].miou < 0.1
    assert 0 < found.readings[OTHERS].miou < 0.5
    assert found.readings[TRUE].texture == 0 < found.readings[BASE].texture
    # Each class has one value but for rounding, and little hangs on the seed.
    assert found.readings[ONE_LEVEL].variety < 0.05
    assert found.reseeded < 0.1
    assert found.relabelled > 0.9
    assert {side: set(ways) for side, ways in found.weaves.items()} == {
        40: {NAIVE, PUBLISHED, OURS, ONE_LEVEL},
        48: {NAIVE, OURS},
    }
    assert set(LIMITS) | set(TARGETS) <= set(figures_of(found))


def test_a_seam_is_found_along_borders_and_not_beside_them():
    truth = scenes((102,), 128)[0]
    lines = tuple(range(32, 128, 32))
    apart = np.where(np.add.outer(np.arange(128) // 32, np.arange(128) // 32) % 2, 0.3, 0)
    seamless, seamed = (seam_of(Drawn(one, (lines, lines), 9), truth, 32) for one in (truth, truth + apart))
    assert seamless == Seam(0, 0, 9)
    assert seamed.seam > 1 > 10 * abs(seamed.chance)


def test_variety_is_how_far_the_values_of_each_class_spread():
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 3, (2, 32, 32)).astype(np.uint8)
    means = np.array([0.2, 0.5, 0.8])[maps][:, None].repeat(BANDS, axis=1)
    spread = rng.normal(0, 0.05, means.shape)
    truth = means + spread
    assert variety(truth, truth, maps) == 1
    assert variety(means + 0.1 + spread / 2, truth, maps) == pytest.approx(0.5)
    assert variety(means, truth, maps) == pytest.approx(0, abs=1e-6)


def test_a_pixel_counts_as_changed_if_any_of_its_bands_is_by_more_than_rounding():
    pictures = np.zeros((1, BANDS, 2, 2))
    others = pictures + 3 / 255
    others[0, :2, 0, 1] = 5 / 255
    assert changed(pictures, others) == 0.25


def reading(miou):
    """Of two classes, each found to such a share and else taken for a third."""
    found = round(1000 * miou)
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    counts[[0, 1], [0, 1]], counts[:2, 2] = found, 1000 - found
    return Reading(counts, 1.5, 0.9, 20)


WEAVES = ((NAIVE, 0.8, 64), (PUBLISHED, 0.2, 225), (OURS, -0.08, 155), (ONE_LEVEL, 0.1, 121))
FOUND = Findings(
    {
        **{
            TRUE: reading(0.9),
            OTHERS: reading(0.2),
            SHUFFLED: reading(0.1),
            AGAIN: reading(0.5),
            ONE_LEVEL: reading(0.6),
        },
        **{name: reading(0.5 + 0.1 * at) for at, name in enumerate(SCALED)},
    },
    {
        40: {name: Seam(seam, 0.01, calls) for name, seam, calls in WEAVES},
        48: {NAIVE: Seam(0.5, 0.02, 81), OURS: Seam(0.06, 0.01, 196)},
    },
    0.987,
    0.9,
)


@pytest.mark.parametrize("larger", ["512", "-64"])
def test_a_larger_scene_that_is_none_is_refused(larger, capsys):
    with pytest.raises(SystemExit) as ended:
        BENCHMARK.main(["--larger", larger])
    assert ended.value.code == 2
    assert f"larger is {larger}; give more than the 512 pixels" in capsys.readouterr().err


def test_how_it_stands_to_what_is_aimed_at():
    stands = dict(standing(FOUND))
    assert stands["share of the way from shuffled to true"] == pytest.approx(0.5)
    # The worst of any side.
    assert stands["seam of naive's"] == pytest.approx(0.12)
    torn = replace(FOUND, weaves=FOUND.weaves | {48: {NAIVE: Seam(0.0, 0.0, 81), OURS: Seam(0.06, 0.01, 196)}})
    assert np.isnan(dict(standing(torn))["seam of naive's"])
    assert stands["seam of published's"] == pytest.approx(0.4)
    assert stands["true scenes' mIoU over other maps'"] == pytest.approx(0.7)


# --- the page ---


def test_the_section_tells_all_that_was_found(drawings):
    text = section(drawings, FOUND, TARGETS)
    assert text.startswith("## Synthesis from a map of labels\n")
    assert "| seam of naive's | 0.12 | at most 0.2 |  |" in text
    for row in (
        "| true scenes | 0.900 | 1.50 | 0.90 | 20 |",
        "| scale 3 | 0.800 | 1.50 | 0.90 | 20 |",
        "| scale 1, one level | 0.600 | 1.50 | 0.90 | 20 |",
        "| scale 1, shuffled labels | 0.100 | 1.50 | 0.90 | 20 |",
        "| water | 0.90 | 0.50 | 0.60 | 0.70 | 0.80 | 0.10 |",
        "| **tileloom** | -0.080 | 0.10 | 0.010 | 155 |",
        "| published MSR | 0.200 | 0.25 | 0.010 | 225 |",
        "48 x 48 pixels:",
        "| **tileloom** | 0.060 | 0.12 | 0.010 | 196 |",
    ):
        assert f"{row}\n" in text
    assert "98.7% of the pixels differ by more than 4 of 255" in text
    assert "{" not in text


def test_the_page_takes_the_section_and_its_picture(knowing, tmp_path, monkeypatch):
    page, picture = tmp_path / "quality.md", tmp_path / "synthesis.jpg"
    page.write_text(_synthesis_page.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(_synthesis_page, "PAGE", page)
    monkeypatch.setattr(_synthesis_page, "PICTURE", picture)
    write_page(*knowing, TARGETS)
    text = page.read_text(encoding="utf-8")
    assert text.index("## Restoration") < text.index("## Synthesis from a map of labels")
    assert "(images/synthesis.jpg)" in text
    assert imagecodecs.jpeg8_decode(picture.read_bytes()).shape == strips(knowing[0]).shape


def test_the_picture_has_a_row_for_each_scene_from_its_map_to_its_truth(knowing):
    shown, (truth, maps) = strips(knowing[0]), scenes(SMALL.seeds, 32)
    assert (shown.shape, shown.dtype) == ((2 * 32, (len(SCALED) + 2) * 32, 3), np.uint8)
    assert np.array_equal(shown[:32, :32], painted(maps[0]))
    assert np.array_equal(shown[32:, -32:], np.rint(255 * truth[1, :3]).transpose(1, 2, 0))


def test_every_class_has_a_colour_of_its_own():
    assert len(set(COLOURS.values())) == len(COLOURS) == CLASSES
    assert painted(np.array([[Use.ROOF]])).tolist() == [[[0xC0, 0x39, 0x2B]]]
