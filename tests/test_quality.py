"""The quality benchmark's own parts: what damages, what restores without a network, what marks, what is remembered."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from benchmarks._classical import fill, methods
from benchmarks._damage import BANDS, SEEDS, TASKS, Damaged
from benchmarks._marks import Marks, psnr, ssim, texture
from benchmarks._quality_page import page
from benchmarks._study import FEATHERED, NAIVE, OURS, PUBLISHED, Record, Size, Study
from benchmarks._verdict import TARGETS, means_of, misfit, standing
from benchmarks._weaving import feathered, usual_axis, woven
from benchmarks.denoising import LEARNED_FROM, Field
from examples import demo
from tests.house import ROOT
from tests.test_shipped import CONFIG, trained
from tileloom.jobs.task import parse_task
from tileloom.models.operators import Operator
from tileloom.tiling.box import Box
from tileloom.tiling.seam import borders
from tileloom.tiling.terra.scene import Terra

SIDE = 64
EVERYWHERE = np.ones((SIDE, SIDE), bool)
FIELD = {"name": "gaussian", "length": 6.0}
GAUSSIAN = {"model": FIELD, "range": [0, 1], "steps": 2, "batch": 1, "lanes": 1, "levels": 1}


@pytest.fixture(scope="module")
def picture():
    return Terra(120, BANDS, "float32").look(Box(40, 40, 40 + SIDE, 40 + SIDE))[0]


def smoothed(image):
    """Every 3 x 3 pixels averaged, ends wrapped."""
    return sum(np.roll(image, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9


def test_no_scene_was_learned_from():
    learned = (ROOT / "examples" / "terra" / "train.yaml").read_text()
    assert f"for seed in {' '.join(map(str, LEARNED_FROM))};" in learned
    assert not {*SEEDS, *demo.SEEDS.values()} & set(LEARNED_FROM)


@pytest.mark.parametrize("name", TASKS)
def test_what_is_measured_is_what_the_job_takes_it_for(name):
    scene, task = Damaged.of(TASKS[name], 120, SIDE), TASKS[name]
    seen = None if scene.hidden is None else torch.from_numpy(~scene.hidden)
    masks = {"measured": seen} if task.exact else {"visible": seen}
    measurement = parse_task(task.job, noise=0).measurement
    operator = Operator(measurement, bands=BANDS, shape=(SIDE, SIDE), **masks)
    theirs = (operator.A(torch.from_numpy(2 * scene.truth - 1)).numpy() + 1) / 2
    np.testing.assert_allclose(scene.measured, theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["stripes", "clouds", "scattered"])
def test_holes_leave_most_of_a_scene(name):
    scene = Damaged.of(TASKS[name], 120, 256)
    assert 0.1 < scene.unknown.mean() < 0.36
    np.testing.assert_array_equal(scene.measured[:, ~scene.unknown], scene.truth[:, ~scene.unknown])


def test_every_damage_of_the_truth_scores_worse_than_the_truth(picture):
    noisy = picture + np.random.default_rng(0).normal(0, 0.03, picture.shape)
    for mark, best in ((psnr, float("inf")), (ssim, 1.0), (texture, 0.0)):
        assert mark(picture, picture, EVERYWHERE) == pytest.approx(best)
        for damaged in (smoothed(picture), noisy):
            assert abs(mark(damaged, picture, EVERYWHERE) - best) > 0.01


def test_texture_costs_more_the_more_is_smoothed_or_added(picture):
    rng = np.random.default_rng(0)
    once = smoothed(picture)
    assert texture(smoothed(once), picture, EVERYWHERE) > texture(once, picture, EVERYWHERE)
    faint, strong = (picture + rng.normal(0, sigma, picture.shape) for sigma in (0.02, 0.06))
    assert texture(strong, picture, EVERYWHERE) > texture(faint, picture, EVERYWHERE)


def test_texture_prefers_other_leaves_to_none_and_blocks_to_nothing():
    rng = np.random.default_rng(0)
    leaves, others = (smoothed(rng.normal(0.5, 0.2, (1, SIDE, SIDE))) for _ in range(2))
    blocks = leaves.reshape(1, SIDE // 4, 4, SIDE // 4, 4).mean(axis=(2, 4)).repeat(4, 1).repeat(4, 2)
    drawn, blurred, coarse = (texture(one, leaves, EVERYWHERE) for one in (others, smoothed(smoothed(leaves)), blocks))
    assert drawn < blurred < coarse
    assert psnr(others, leaves, EVERYWHERE) < psnr(blocks, leaves, EVERYWHERE)


def test_texture_looks_only_where_it_is_asked(picture):
    left = EVERYWHERE.copy()
    left[:, SIDE // 2 :] = False
    wrong = picture.copy()
    wrong[:, :, SIDE // 2 + 8 :] = 0
    assert texture(wrong, picture, left) < 0.1 * texture(wrong, picture, ~left)


def test_a_membrane_bends_a_ramp_only_at_ends_and_a_plate_goes_on_with_a_curve():
    y, x = np.mgrid[:24, :24] / 24
    hidden = np.zeros((24, 24), bool)
    hidden[8:15, 9:17] = True
    ramp, curve = (3 * x - 2 * y)[None], (x**2 - y**2 + x * y * 3)[None]
    for truth, order in ((ramp, 1), (ramp, 2), (curve, 2)):
        found = fill(np.where(hidden, np.float32(7), truth.astype(np.float32)), hidden, order=order)
        np.testing.assert_allclose(found, truth, atol=2e-3)


def test_a_plate_fills_better_than_a_membrane_where_it_is_smooth():
    y, x = np.mgrid[:32, :32] / 32
    truth = np.sin(5 * x + 3 * y)[None].astype(np.float32)
    hidden = np.zeros((32, 32), bool)
    hidden[10:20, 8:22] = True
    membrane, plate = (fill(np.where(hidden, np.float32(0), truth), hidden, order=order) for order in (1, 2))
    assert psnr(plate, truth, hidden) > psnr(membrane, truth, hidden) + 6


@pytest.mark.parametrize("name", TASKS)
def test_classical_methods_restore_to_the_size_of_the_truth_and_keep_what_is_known(name):
    scene = Damaged.of(TASKS[name], 120, SIDE)
    for method in methods(scene).values():
        found = method(scene)
        assert found.shape == scene.truth.shape
        assert psnr(found, scene.truth, scene.unknown) > 12
        if scene.hidden is not None and scene.task.exact:
            np.testing.assert_array_equal(found[:, ~scene.hidden], scene.measured[:, ~scene.hidden])


def test_interpolation_comes_nearer_than_blocks_and_repeats_a_constant():
    scene = Damaged.of(TASKS["sr:4"], 120, SIDE)
    found = {name: psnr(method(scene), scene.truth, EVERYWHERE) for name, method in methods(scene).items()}
    assert found["A+ y"] < found["bicubic"] < found["Lanczos"] + 1
    flat = replace(scene, measured=np.full_like(scene.measured, 0.3))
    for method in methods(flat).values():
        np.testing.assert_allclose(method(flat), 0.3, atol=1e-6)


@pytest.mark.parametrize("name", ["sr:4", "stripes", "old-photo"])
def test_feathered_tiles_blend_what_naive_tiles_draw(name):
    """Of tiles that are all measured alike a blend is nearly one of them; known pixels stay as they are."""
    scene = Damaged.of(TASKS[name], 120, SIDE)
    [found] = feathered([scene], GAUSSIAN | {"tile": 16}, tile=16)
    [alone] = woven([scene], GAUSSIAN | {"tile": 16, "weave": "naive"})
    assert found.image.shape == alone.image.shape == scene.truth.shape
    assert found.calls > alone.calls > 0
    assert found.borders == (borders(usual_axis(SIDE, 16)),) * 2
    # Before its overlap begins, the first tile is alone; another picture gives it the same noise, by its place.
    np.testing.assert_allclose(found.image[:, :12, :12], alone.image[:, :12, :12], atol=1e-6)
    if scene.task.exact:
        np.testing.assert_array_equal(found.image[:, ~scene.hidden], scene.measured[:, ~scene.hidden])


def test_the_marks_of_a_job_tell_that_it_agrees_with_what_was_measured():
    scene = Damaged.of(TASKS["sr:4"], 120, SIDE)
    [found] = woven([scene], GAUSSIAN | {"tile": 16})
    marks = Marks.of(found.image, scene, found.borders)
    assert marks.misfit < 1e-5
    assert Marks.of(found.image + np.float32(0.01), scene, found.borders).misfit == pytest.approx(0.01, rel=0.01)


def test_a_model_that_learned_from_bytes_is_shown_what_they_mean(tmp_path):
    """Scenes have values from 0 to 1, and its file says that it knows those from 0 to 255."""
    model = trained(tmp_path, config=replace(CONFIG, in_channels=BANDS, out_channels=BANDS))
    scene = Damaged.of(TASKS["sr:4"], 120, SIDE)
    options = {"steps": 1, "batch": 1, "lanes": 1, "levels": 1, "tile": 32, "weave": "naive"}
    [found] = woven([scene], {"model": {"name": model}, **options})
    assert Marks.of(found.image, scene, found.borders).misfit < 1e-4


def test_pictures_without_a_network_are_there_for_every_model(tmp_path):
    one, other = (Study({"name": "gaussian", "length": length}, SMALL, tmp_path) for length in (4.0, 6.0))
    assert one.picture("sr:4", "truth") == other.picture("sr:4", "truth")
    assert one.picture("sr:4", "bicubic") == other.picture("sr:4", "bicubic")
    assert one.picture("sr:4", OURS) != other.picture("sr:4", OURS)


SMALL = Size(side=4, steps=1, tasks=("sr:4", "clouds"), seeds=(120, 104, 109), group=2, sweeps=False)
MARKS = Marks(psnr=30, ssim=0.9, texture=2.0, seam=0.1, edge=0.2, misfit=1e-7)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A study in which nothing is restored, but every cell is written down."""
    ran = []

    def note(self, cell):
        ran.append((cell.task, cell.way, cell.seeds))
        for seed in cell.seeds:
            calls = 10 if cell.options is not None else 0
            self._note(Record(self._key(cell, seed), cell.task, cell.way, seed, MARKS, calls))

    monkeypatch.setattr(Study, "_run", note)
    return lambda model="gaussian", size=SMALL: (Study({"name": model}, size, tmp_path), ran)


def test_all_ways_of_the_first_scenes_come_before_the_others(small):
    a_study, ran = small()
    assert a_study.run(until=float("inf"))
    first = [seeds == (120, 104) for _, _, seeds in ran]
    assert first == sorted(first, reverse=True)
    assert {task for task, _, seeds in ran if seeds == (109,)} == {"sr:4", "clouds"}


def test_what_is_done_is_not_done_again_unless_its_settings_change(small):
    a_study, ran = small()
    a_study.run(until=float("inf"))
    done = len(ran)
    again, _ = small()
    assert again.run(until=float("-inf"))
    assert again.records() == a_study.records()
    more, _ = small(size=replace(SMALL, steps=2))
    more.run(until=float("inf"))
    assert {way for _, way, _ in ran[done:]} == set(a_study.ways("sr:4")) | set(a_study.ways("clouds"))


def test_a_study_that_was_stopped_compares_the_scenes_that_all_ways_have(small):
    a_study, _ = small()
    cells = [cell for cell in a_study.cells() if 109 not in cell.seeds]
    for cell in cells[:-1]:
        a_study._run(cell)
    records = a_study.records()
    assert {task for task, _ in records} == {"sr:4"}
    assert {tuple(one.seed for one in found) for found in records.values()} == {(120, 104)}


def record(way, task="sr:4", calls=10, **marks):
    return {(task, way): [Record("", task, way, 1, replace(MARKS, **marks), calls)]}


def test_how_it_stands_to_what_is_aimed_at():
    found = means_of(
        record("bicubic", psnr=28, calls=0)
        | record(OURS, seam=-0.04, calls=6)
        | record(NAIVE, seam=0.4)
        | record(PUBLISHED, seam=0.08, psnr=29.5)
        | record(FEATHERED, misfit=0.1)
    )
    stands = dict(standing(found))
    assert stands["sr:4 dB over bicubic"] == 2
    assert stands["sr:4 seam of naive's"] == pytest.approx(0.1)
    assert stands["sr:4 seam of published's"] == pytest.approx(0.5)
    assert stands["sr:4 calls of published's"] == pytest.approx(0.6)
    assert misfit(found) == 1e-7
    unseen = found | means_of(record(OURS, seam=0.03))
    assert dict(standing(unseen))["sr:4 seam of published's"] == 0


def test_the_page_tells_every_target_and_marks_what_is_missed(small):
    a_study, _ = small()
    a_study.run(until=float("inf"))
    means = means_of(a_study.records())
    text = page(a_study, means, TARGETS, whole=True)
    stands = dict(standing(means))
    assert set(stands) <= set(TARGETS)
    for name in stands:
        assert f"| {name} | " in text
    assert "| sr:4 dB over bicubic | 0 | at least 1 | missed |" in text
    assert "| sr:4 dB over published | 0 | at least 0 |  |" in text


def test_records_are_plain_lines(small, tmp_path):
    a_study, _ = small()
    a_study.run(until=float("inf"))
    first, *_ = (tmp_path / "cells.jsonl").read_text().splitlines()
    assert json.loads(first)["marks"] == asdict(MARKS)


def test_the_field_denoises_what_it_was_fitted_to_better_than_any_one_gain():
    """Bands that go together, and waves of unlike strength: each alone would be told less of."""
    rng = np.random.default_rng(0)
    waves = smoothed(rng.normal(0, 1, (400, 1, 16, 16)).reshape(400, 16, 16))[:, None]
    crops = 0.3 + np.concatenate([waves, 0.9 * waves], axis=1)
    field = Field.of(crops)
    noisy = np.sqrt(0.5) * crops + np.sqrt(0.5) * rng.standard_normal(crops.shape)
    found = np.square(field.clean(noisy, 0.5) - crops).mean()
    variance = crops.var()
    one_gain = variance / (variance + 1)
    assert found < 0.7 * np.square(0.3 + one_gain * (noisy / np.sqrt(0.5) - 0.3) - crops).mean()


def test_the_field_knows_pure_noise_from_a_picture_and_leaves_a_clean_one():
    rng = np.random.default_rng(0)
    crops = 0.2 + rng.normal(0, 0.1, (50, 2, 8, 8))
    field = Field.of(crops)
    np.testing.assert_allclose(field.clean(crops * np.sqrt(1 - 1e-9), 1 - 1e-9), crops, atol=1e-4)
    np.testing.assert_allclose(field.clean(rng.standard_normal(crops.shape), 1e-6), field.mean + 0 * crops, atol=0.01)
