"""The benchmark of filled holes: its holes, its distance, what it counts, what it remembers, and what its page says."""

import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks._damage import BANDS, Damaged, Task
from benchmarks._distance import distance, patches
from benchmarks._hole_cases import KINDS, LAKE, cases, depth
from benchmarks._hole_page import section
from benchmarks._hole_study import BIHARMONIC, DDNM, FILLED, ONE, REPAINT, WAYS, HoleStudy, Result, per_pixel
from benchmarks._hole_verdict import TARGETS, better, standing
from benchmarks._marks import Marks
from benchmarks._weaving import Woven
from benchmarks.holes import FULL, SMALL
from tests.test_quality import smoothed
from tileloom.tiling.box import Box
from tileloom.tiling.terra.scene import Terra

SIDE = 64
LOST = np.zeros((SIDE, SIDE), bool)
LOST[16:40, 8:44] = True


@pytest.fixture(scope="module")
def picture():
    return Terra(120, BANDS, "float32").look(Box(40, 40, 40 + SIDE, 40 + SIDE))[0]


def apart(image, truth):
    return distance([patches(image, LOST)], [patches(truth, LOST)])


# --- the distance ---


def test_equal_sets_are_not_apart_wherever_each_patch_lies(picture):
    assert apart(picture, picture) == 0
    one, other = patches(picture, LOST), patches(picture[:, ::-1], LOST)
    assert distance([one, other], [other, one]) == 0
    assert distance([one], [other]) > 0.01


def test_blur_and_noise_are_the_further_the_more_there_is_of_them(picture):
    once = smoothed(picture)
    assert apart(smoothed(once), picture) > apart(once, picture) > 0.01
    rng = np.random.default_rng(0)
    faint, strong = (picture + rng.normal(0, sigma, picture.shape) for sigma in (0.02, 0.06))
    assert apart(strong, picture) > apart(faint, picture) > 0.01


def test_other_leaves_are_nearer_than_none_though_by_the_pixel_they_are_further():
    rng = np.random.default_rng(0)
    leaves, others = (smoothed(rng.normal(0.5, 0.2, (1, SIDE, SIDE))) for _ in range(2))
    none = np.full_like(leaves, 0.5)
    assert apart(others, leaves) < 0.3 * apart(none, leaves)
    assert np.square(others - leaves).mean() > np.square(none - leaves).mean()


def test_what_is_far_from_a_hole_does_not_count(picture):
    wrong = picture.copy()
    wrong[:, 56:] = wrong[:, :, 60:] = 0
    assert apart(wrong, picture) == 0
    wrong[:, 20] = 0
    assert apart(wrong, picture) > 0


# --- holes ---


@pytest.mark.parametrize("case", FULL, ids=lambda case: case.name)
def test_holes_are_as_large_as_their_name_says(case):
    first = case.hides(case.seeds[0], Box(0, 0, case.side, case.side))
    if case.name == LAKE:
        assert min(first.any(axis=0).sum(), first.any(axis=1).sum()) > 128
        return
    size, kind = case.name.split()
    low, high = KINDS[kind][1 if size == "small" else 2]
    assert low <= first.mean() <= high


def test_a_scene_has_the_same_holes_every_time_and_others_have_others():
    one, box = FULL[-2], Box(0, 0, 64, 64)
    first, again, other = (one.hides(seed, box) for seed in (102, 102, 120))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_lost_pixels_lie_as_deep_as_steps_lead_to_a_known_one():
    lost = np.zeros((9, 9), bool)
    lost[2:5, 2:5] = True
    assert depth(lost) == pytest.approx((8 * 1 + 2) / 9)
    # Beyond the picture nothing is known.
    assert depth(np.arange(9)[:, None] * np.ones((1, 9), int) < 4) == pytest.approx(2.5)


def test_a_seam_is_no_number_where_hardly_a_border_lies_in_a_hole():
    scene = Damaged.of(Task("hole", lambda seed, box: LOST), 102, SIDE)
    image = np.where(LOST, scene.truth[::-1], scene.truth)
    assert np.isfinite(Marks.of(image, scene, ((24,), (16,)), phases=1).seam)
    assert np.isnan(Marks.of(image, scene, ((50,), (16,)), phases=1).seam)


def test_calls_are_told_for_filled_pixels_and_by_what_a_call_is_shown():
    assert per_pixel(calls=40, tile=128, filled=20_000) == (2.0, pytest.approx(32.77, abs=0.01))
    assert per_pixel(calls=0, tile=64, filled=10) == (0, 0)


# --- the study ---


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study in which every way adds noise of its own to the truth's holes; and what it has run."""
    ran = []

    def noisy(self, way, scenes):
        ran.append((way, len(scenes)))
        rng = np.random.default_rng(len(ran))
        sigma = 0.01 * (1 + list(WAYS).index(way)) if way in WAYS else 0.05
        found = [np.where(one.unknown, one.truth + rng.normal(0, sigma, one.truth.shape), one.truth) for one in scenes]
        return [Woven(image.astype(np.float32), ((20,), (20,)), 0 if way == BIHARMONIC else 8) for image in found]

    monkeypatch.setattr(HoleStudy, "_filled", noisy)
    return lambda length=4.0: (
        HoleStudy({"name": "gaussian", "length": length}, {"name": "terra"}, SMALL, tmp_path),
        ran,
    )


def test_what_is_done_is_not_done_again_unless_the_model_changes(study):
    one, ran = study()
    assert not one.run(until=float("-inf"))
    assert one.results() == {}
    assert one.run(until=float("inf"))
    done = len(ran)
    again, _ = study()
    assert again.run(until=float("-inf"))
    assert again.results() == one.results()
    other, _ = study(length=5.0)
    other.run(until=float("inf"))
    assert {way for way, _ in ran[done:]} == {ONE, FILLED, "tileloom, another seed"}


def test_what_was_filled_is_read_back_into_its_scene(study):
    one, _ = study()
    one.run(until=float("inf"))
    scene, found = SMALL[0].scenes[0], one.filled(SMALL[0], ONE)[0]
    image = found.image(scene)
    np.testing.assert_array_equal(image[:, ~scene.unknown], scene.truth[:, ~scene.unknown])
    added = 0.01 * (1 + WAYS.index(ONE))
    assert np.std((image - scene.truth)[:, scene.unknown]) == pytest.approx(added, rel=0.1)
    assert one.changed_outside() == 0
    assert one.seeds_apart() == pytest.approx(0.07, abs=0.01)


def test_a_known_pixel_that_changed_is_noticed(study, monkeypatch):
    one, _ = study()
    noisy = HoleStudy._filled
    monkeypatch.setattr(
        HoleStudy, "_filled", lambda *told: [found._replace(image=found.image + 0.25) for found in noisy(*told)]
    )
    one.run(until=float("inf"))
    assert one.changed_outside() == pytest.approx(0.25, abs=1e-3)


RESULT = Result(psnr=30, ssim=0.9, seam=0.02, edge=0.1, distance=0.2, calls=40, thousand=2, seen=30, scenes=4)


def told(**changed):
    """Results of all cases that are alike but for what some ways have."""
    return {
        (case.name, way): replace(RESULT, **changed.get(way.replace(" ", "_"), {}))
        for case in cases(256, 384, scenes=4)
        for way in WAYS
    }


def test_every_target_stands_and_no_other():
    stands = dict(standing(told(one_iteration={"distance": 0.4}, DDNM={"seen": 150}, tileloom={"seam": 0.3})))
    assert set(stands) == set(TARGETS)
    assert stands["large stripes distance of one iteration's"] == 0.5
    assert stands["pixels seen of DDNM's"] == pytest.approx(0.2)
    assert stands["mean seam"] == pytest.approx(0.3)


def test_who_is_better_is_told_by_each_figure():
    results = told(DDNM={"distance": 0.1, "psnr": 29}, RePaint={"ssim": 0.91})
    assert len(better(results, DDNM, "by distance")) == 11
    assert better(results, DDNM, "by PSNR") == better(results, REPAINT, "by distance") == []
    assert len(better(results, REPAINT, "by SSIM")) == 11


def test_the_section_says_where_others_win_and_marks_what_is_missed(study):
    one, _ = study()
    one.run(until=float("inf"))
    text = section(one, one.results(), TARGETS, whole=True)
    # The more is added to the truth, the worse: tileloom has most of all.
    assert "- **DDNM** is better than tileloom by distance everywhere; by PSNR everywhere; by SSIM everywhere." in text
    missed = r"\| large strokes distance of one iteration's \| 1\.\d+ \| at most 1 \| missed \|"
    assert re.search(missed, text)
    assert "Known pixels change by 0 of the data range at most" in text
    for case in SMALL:
        assert f"### Holes: {case.name}" in text
    assert text.count("| **tileloom** |") == len(SMALL)
    assert "stopped" not in text
    results = one.results()
    some = {**results, (LAKE, DDNM): replace(results[LAKE, FILLED], distance=9.0)}
    assert "- **DDNM** is better than tileloom by distance for large strokes; by PSNR for large strokes;" in section(
        one, some, TARGETS, whole=False
    )
