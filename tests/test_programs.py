"""Programs as denoisers: what they tell themselves, what a job says of them, and what is refused."""

import zipfile

import numpy as np
import pytest
import torch

from tests.foreign import (
    PerhapsOfClasses,
    Pixels,
    PixelsOfClasses,
    Pooled,
    Two,
    WithVariance,
    examples,
    exported,
    script,
)
from tests.nets import weights
from tests.pipeline import job, restore, result, scene
from tileloom.jobs.compile import compile_job
from tileloom.models.build import denoiser_of
from tileloom.models.denoiser import Condition
from tileloom.models.kinds import Kind, contract_of, model_kind
from tileloom.models.prediction import Prediction
from tileloom.models.schedule import betas, schedule
from tileloom.models.weights import program_in
from tileloom.tiling.errors import InputError

MAKERS = {"TorchScript": script, "exported": exported}


def loaded(name, **options):
    return denoiser_of({"name": name, **options}, trusted=True)


def terms(name, **options):
    return contract_of({"name": name, **options}, trusted=True)


# --- what is what ---


def test_a_program_is_known_by_its_contents(tmp_path):
    for name in ("net.ts", "net.pt", "net.pth"):
        assert model_kind(script(tmp_path, name=name)) is Kind.TORCHSCRIPT
    assert model_kind(exported(tmp_path)) is Kind.EXPORTED
    for name in ("net.safetensors", "weights.pt"):
        assert model_kind(weights(tmp_path, name=name)) is Kind.WEIGHTS
    (tmp_path / "folder").mkdir()
    assert model_kind(str(tmp_path / "folder")) is Kind.FOLDER
    assert model_kind("gaussian") is Kind.BUILT_IN


@pytest.mark.parametrize("name", ["net.ts", "net.pt2"])
def test_what_only_looks_like_a_program_is_refused_by_name(tmp_path, name):
    with pytest.raises(InputError, match=rf"{name}: does not exist"):
        model_kind(str(tmp_path / name))
    (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(InputError, match=rf"{name} is no whole program of the kind"):
        model_kind(str(tmp_path / name))
    other = (exported if name == "net.ts" else script)(tmp_path, name=name)
    with pytest.raises(InputError, match="is no whole program"):
        model_kind(other)


@pytest.mark.parametrize(("make", "kept"), [(script, "constants.pkl"), (exported, "archive_format")])
def test_a_program_that_is_not_whole_is_refused_in_one_sentence(tmp_path, make, kept):
    whole = make(tmp_path)
    cut = tmp_path / f"cut{whole[-4:].lstrip('t')}"
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(cut, "w") as short:
        (name,) = (name for name in archive.namelist() if name.endswith(f"/{kept}"))
        short.writestr(name, archive.read(name))
    assert program_in(str(cut)) == program_in(whole)
    with pytest.raises(InputError, match=r"cut\.\w+ is no whole (TorchScript|exported) program \(") as refusal:
        loaded(str(cut))
    assert "\n" not in str(refusal.value)


# --- what it means ---


@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_whatever_a_program_predicts_becomes_the_same_eps(tmp_path, make, predicts):
    found = loaded(make(tmp_path, predicts=predicts), predicts=predicts)
    x, _ = examples(Pixels())
    for timestep in (0.0, 20.0, 499.5, 998.0):
        t = torch.full((2,), timestep)
        eps = found.predict(x, t, [Condition()] * 2)
        torch.testing.assert_close(eps, Pixels()(x, t), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_classes_are_told_row_by_row(tmp_path, make):
    found = loaded(make(tmp_path, PixelsOfClasses), classes=3, label=1)
    assert found.contract.classes == 3
    x, t, _ = examples(PixelsOfClasses())
    told = found.predict(x, t, [Condition(label=2)])
    assert torch.equal(told, PixelsOfClasses()(x, t, torch.tensor([2, 0])))


def test_a_script_may_do_without_classes(tmp_path):
    file, (x, t, y) = script(tmp_path, PerhapsOfClasses), examples(PixelsOfClasses())
    assert torch.equal(loaded(file).predict(x, t, []), Pixels()(x, t))
    of_classes = loaded(file, classes=3, label=1)
    assert torch.equal(of_classes.predict(x, t, [Condition(label=1)] * 2), PixelsOfClasses()(x, t, y))


def test_an_exported_program_is_not_loaded_again_to_look_at_it(tmp_path, monkeypatch):
    file, real, loads = exported(tmp_path), torch.export.load, []
    monkeypatch.setattr(torch.export, "load", lambda *told: (loads.append(told), real(*told))[1])
    assert terms(file) == terms(file, predicts="v")
    assert len(loads) == 1
    exported(tmp_path, batch=4, size=24)
    assert terms(file).native_tile == 24


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_variance_follows_what_is_predicted(tmp_path, make):
    x, t = examples(Pixels())
    told = loaded(make(tmp_path, WithVariance)).predict(x, t, [Condition()] * 2)
    torch.testing.assert_close(told, torch.cat([Pixels()(x, t), torch.tanh(x)], dim=1))


def test_a_variance_in_itself_becomes_its_place_between_the_bounds():
    steps = schedule("cosine", steps=50, total=50)
    prediction = Prediction("eps", tuple(betas("cosine", 50)), "learned")
    x = torch.zeros((3, 1, 1, 1))
    t = torch.tensor([0.0, 7.0, 30.0])
    for table, place in ((np.exp(steps.posterior_log_variance_clipped), -1.0), (steps.betas, 1.0)):
        variance = torch.tensor(table[[0, 7, 30]], dtype=torch.float32)[:, None, None, None]
        told = prediction.answer(torch.cat([x, variance], dim=1), x, t)[:, 1]
        torch.testing.assert_close(told, torch.full_like(told, place), rtol=1e-3, atol=1e-3)


def test_a_program_runs_the_same_however_often(tmp_path):
    found = loaded(script(tmp_path))
    x, t = examples(Pixels())
    first = found.predict(x, t, [])
    assert all(torch.equal(found.predict(x, t, []), first) for _ in range(5))


# --- terms ---


def test_a_torchscript_programs_terms_are_those_of_the_job(tmp_path):
    file = script(tmp_path)
    usual = terms(file)
    assert (usual.name, usual.bands, usual.size_multiple, usual.native_tile) == ("net.ts", 3, 8, 64)
    assert (usual.value_range, usual.timesteps, usual.classes, usual.batch_limits) == ((-1, 1), 1000, None, (1, None))
    np.testing.assert_array_equal(usual.betas, betas("linear"))
    told = terms(file, bands=4, image_size=96, size_multiple=32, betas="scaled_linear", beta_start=0.00085,
                 beta_end=0.012, timesteps=500, clip="none")  # fmt: skip
    assert (told.bands, told.native_tile, told.size_multiple, told.smallest_tile) == (4, 96, 32, 32)
    assert (told.value_range, told.timesteps) == (None, 500)
    np.testing.assert_allclose(told.betas[::499], [0.00085, 0.012])
    assert terms(file, betas=[0.1, 0.2, 0.3], clip=2).betas == (0.1, 0.2, 0.3)
    assert terms(file, betas=[0.1, 0.2, 0.3], clip=2).value_range == (-2, 2)


def test_an_exported_program_tells_its_shapes(tmp_path):
    free = terms(exported(tmp_path, Pooled))
    assert (free.bands, free.size_multiple, free.largest_tile, free.batch_limits) == (3, 4, None, (1, None))
    assert free.native_tile == 64
    assert terms(exported(tmp_path, Pooled), size_multiple=6).size_multiple == 12
    fixed = terms(exported(tmp_path, batch=4, size=24))
    assert (fixed.native_tile, fixed.smallest_tile, fixed.largest_tile, fixed.batch_limits) == (24, 24, 24, (4, 4))
    assert terms(exported(tmp_path, batch=(1, 8))).batch_limits == (1, 8)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"band": 3}, r"model\.band is no option of .*net\.ts; its options are bands, image_size"),
        ({"trust_model": True}, r"model\.trust_model is no option"),
        ({"bands": 0}, r"model\.bands is 0; give a whole number from 1 up"),
        ({"bands": True}, r"model\.bands is True; give a whole number"),
        ({"predicts": "noise"}, r"model\.predicts is 'noise'; give one of eps, v, x0"),
        ({"betas": "quadratic"}, r"model\.betas is 'quadratic'; give one of linear, scaled_linear, cosine, sigmoid"),
        ({"betas": [0.1, "x"]}, r"model\.betas is .*; give a list of numbers"),
        ({"betas": [0.1, 1.5]}, r"model\.betas is .*; give what makes all betas lie above 0 and below 1"),
        ({"betas": [0.1, 0.2], "timesteps": 3}, r"model\.timesteps is 3; give 2, as many as there are betas"),
        ({"beta_end": 2}, r"model\.beta_end is 2; give what makes all betas lie"),
        ({"beta_end": float("nan")}, r"model\.beta_end is nan; give a number"),
        ({"clip": -1}, r"model\.clip is -1; give a number above 0, or none"),
        ({"clip": "all"}, r"model\.clip is 'all'; give a number"),
        ({"label": 3}, r"model\.label is 3, but .*net\.ts knows no classes"),
        ({"classes": 5}, r"model\.label is missing; give the class that .*net\.ts draws, 0 to 4"),
        ({"image_size": 60}, r"model\.image_size is 60, but tile 60 does not suit model net\.ts"),
    ],
)
def test_options_that_mean_nothing_are_refused_by_name(tmp_path, options, says):
    with pytest.raises(InputError, match=says):
        terms(script(tmp_path), **options)


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (Pixels, {"classes": 4, "label": 1}, r"takes 2 inputs, but should take \(x, t, y\), as model\.classes says"),
        (PixelsOfClasses, {}, r"takes a third input, the class: say how many there are with model\.classes"),
        (Two, {}, "returns no tensor of floats but tuple: save it to return one alone"),
    ],
)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_program_that_does_not_suit_what_is_said_of_it_is_refused(tmp_path, make, kind, options, says):
    with pytest.raises(InputError, match=says):
        loaded(make(tmp_path, kind), **options)


def test_a_program_that_fails_says_on_which_windows(tmp_path):
    with pytest.raises(InputError, match=r"net\.ts fails on windows of 1x3x66x66 \(.*see that bands, image_size"):
        loaded(script(tmp_path, Pooled), size_multiple=2, image_size=66)
    with pytest.raises(InputError, match=r"model\.bands is 4, but .*net\.pt2 takes 3 bands: leave it out"):
        terms(exported(tmp_path), bands=4)


class Narrow(Pixels):
    """Forgets a band."""

    def forward(self, x, t):
        return x[:, :2] * 1.0


class Timesteps(Pixels):
    """Counts timesteps in whole numbers."""

    def forward(self, x, t):
        return x * self.log_abar[t][:, None, None, None]


def test_answers_of_another_shape_and_timesteps_of_another_type_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"returns 1x2x64x64 for windows of 1x3x64x64: it should return as many"):
        loaded(script(tmp_path, Narrow))
    file = tmp_path / "whole.pt2"
    told = torch.zeros(2, 3, 16, 16), torch.zeros(2, dtype=torch.int64)
    torch.export.save(torch.export.export(Timesteps(), told), file)
    with pytest.raises(InputError, match=r"timesteps of torch\.int64, and is given both as float32"):
        terms(str(file))


class Bare(torch.nn.Module):
    """Whatever shapes it is given."""

    def forward(self, x, t):
        return x * t.mean()


@pytest.mark.parametrize(
    ("shape", "t", "dims", "says"),
    [
        ((2, 3, 16, 24), (2,), None, "takes no square windows, which tiles are: export it for those"),
        (
            (2, 3, 17, 17),
            (2,),
            {2: 2 * torch.export.Dim("h") + 1},
            r"takes lengths .*, which is no multiple: export it",
        ),
        ((2, 3, 16), (2,), None, r"does not take windows \(batch, band, row, column\) of so many bands"),
        ((2, 3, 16, 16), (), None, "and a timestep for each: export it with such examples"),
        ((2, 3, 16, 16), (2,), {1: torch.export.Dim("c")}, "of so many bands"),
    ],
)
def test_an_exported_program_of_other_shapes_is_refused(tmp_path, shape, t, dims, says):
    file = tmp_path / "net.pt2"
    told = torch.zeros(shape), torch.zeros(t)
    torch.export.save(torch.export.export(Bare(), told, dynamic_shapes=(dims, None)), file)
    with pytest.raises(InputError, match=says):
        terms(str(file))


def test_tiles_outside_a_programs_sizes_are_refused(tmp_path):
    fixed = terms(exported(tmp_path, batch=4, size=24))
    with pytest.raises(InputError, match=r"net\.pt2: it takes multiples of 24 from 24 to 24; the nearest is 24"):
        fixed.check((48, 48), 3)


# --- jobs ---


def foreign_job(folder, name, **options):
    model = {"name": name, **options.pop("model", {})}
    image = str(folder / "input.zarr") if (folder / "input.zarr").exists() else scene(3, 20, 24)
    return job(folder, image, task="sr:2", levels=1, **{"steps": 2, "model": model, **options})


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_program_restores_and_the_measurement_holds(tmp_path, make):
    spec = foreign_job(tmp_path, make(tmp_path))
    restore(spec, trusted=True)
    pooled = result(spec).astype(np.float64).reshape(3, 20, 2, 24, 2).mean(axis=(2, 4))
    assert np.abs(pooled - scene(3, 20, 24)).max() < 1e-5
    assert restore(spec, trusted=True).calls == 0


def test_a_fixed_batch_is_the_jobs_own_or_refused_before_any_call(tmp_path):
    file = exported(tmp_path, batch=4, size=16)
    with pytest.raises(
        InputError,
        match=r"batch is 2, but one call of model net.pt2 takes exactly 4 windows: set batch to 4, or to auto",
    ):
        compile_job(foreign_job(tmp_path, file, batch=2), trusted=True)
    for name, batch in (("auto.zarr", "auto"), ("four.zarr", 4)):
        spec = foreign_job(tmp_path, file, batch=batch, output=name)
        assert restore(spec, trusted=True).report.done > 0
    np.testing.assert_array_equal(result(spec), result(foreign_job(tmp_path, file, output="auto.zarr")))
    bounded = exported(tmp_path, batch=(1, 3), name="bounded.pt2")
    with pytest.raises(InputError, match="takes 1 to 3 windows"):
        compile_job(foreign_job(tmp_path, bounded, batch=4), trusted=True)


def test_a_batch_that_is_found_stays_within_the_limits(tmp_path):
    file = exported(tmp_path, batch=(1, 2))
    spec = foreign_job(tmp_path, file, batch="auto", lanes=1)
    assert restore(spec, trusted=True).report.done > 0


def test_another_program_is_another_job(tmp_path):
    spec = foreign_job(tmp_path, script(tmp_path))
    restore(spec, trusted=True)
    script(tmp_path, Pooled)
    with pytest.raises(InputError, match=r"weights: \w{8}\.\.\. -> \w{8}\.\.\."):
        restore(spec, trusted=True)
