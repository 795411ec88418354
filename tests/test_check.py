"""The contract test: every denoiser there is passes it, and each way to break the protocol is named."""

from dataclasses import replace

import pytest
import torch

from tests.commandline import tileloom
from tests.diffused import diffused
from tests.foreign import Pixels, PixelsOfClasses, Pooled, Whole, WithVariance, exported, install, script
from tests.nets import CLASSIFIER, WITH_CLASSES, weights
from tileloom.models.adapted import Adapted
from tileloom.models.build import denoiser_of
from tileloom.models.check import BrokenDenoiser, check_denoiser
from tileloom.models.contract import Contract
from tileloom.models.denoiser import Condition, Pull
from tileloom.models.guidance import Guided
from tileloom.models.networks import load_classifier
from tileloom.models.prediction import Prediction

# --- what passes ---


def loaded(name, **options):
    return denoiser_of({"name": name, **options}, trusted=True)


def guided(folder):
    denoiser = loaded(weights(folder), image_size=16)
    return Guided(denoiser, load_classifier(weights(folder, CLASSIFIER, name="classifier.pt")))


# Networks of random weights have learned nothing.
UNTRAINED = {
    "ADM": lambda folder: loaded(weights(folder), image_size=16),
    "ADM in halves": lambda folder: loaded(weights(folder), image_size=16, precision="bf16"),
    "ADM of classes": lambda folder: loaded(weights(folder, WITH_CLASSES), label=1, image_size=16),
    "diffusers": lambda folder: loaded(diffused(folder)),
    "diffusers, a group a channel": lambda folder: loaded(diffused(folder, network={"norm_num_groups": 8})),
    "diffusers of classes": lambda folder: loaded(diffused(folder, network={"num_class_embeds": 4}), label=1),
    "diffusers, v": lambda folder: loaded(diffused(folder, prediction_type="v_prediction")),
    "diffusers, x0": lambda folder: loaded(diffused(folder, prediction_type="sample", scheduler="DDIM")),
    "diffusers, variance": lambda folder: loaded(
        diffused(folder, network={"out_channels": 6}, variance_type="learned_range")
    ),
}
EXACT = {
    "gaussian": lambda folder: loaded("gaussian"),
    "TorchScript": lambda folder: loaded(script(folder)),
    "TorchScript, v": lambda folder: loaded(script(folder, predicts="v"), predicts="v"),
    "TorchScript, x0": lambda folder: loaded(script(folder, predicts="x0"), predicts="x0"),
    "TorchScript, variance": lambda folder: loaded(script(folder, WithVariance)),
    "exported": lambda folder: loaded(exported(folder, Pooled)),
    "exported for a batch": lambda folder: loaded(exported(folder, batch=4, size=16)),
    "exported, x0": lambda folder: loaded(exported(folder, predicts="x0"), predicts="x0"),
    "exported of classes": lambda folder: loaded(exported(folder, PixelsOfClasses), classes=3, label=1),
}


@pytest.mark.parametrize("make", UNTRAINED.values(), ids=UNTRAINED)
def test_a_network_keeps_what_a_denoiser_promises(tmp_path, make):
    check_denoiser(make(tmp_path), trained=False)


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
def test_an_exact_denoiser_predicts_the_noise_too(tmp_path, make):
    check_denoiser(make(tmp_path))


def test_a_guided_network_keeps_it_with_a_pull_and_without(tmp_path):
    for pull in (None, Pull(2, 3.0)):
        check_denoiser(guided(tmp_path), told=Condition(pull=pull), trained=False)


def test_a_plugin_keeps_it(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path / "models")
    check_denoiser(loaded("acme"))


def test_threads_are_as_they_were():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        check_denoiser(Exact())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- what does not ---


class Exact:
    """A denoiser without a fault, for others to spoil."""

    contract = Contract("exact", bands=3, smallest_tile=4, native_tile=8, conditions=("level",), classes=3)
    numerics = {"precision": "fp32"}  # noqa: RUF012
    _network = Pixels()

    def predict(self, x_BCHW, t_B, conditions):
        told = self._network(x_BCHW, t_B)
        for row, condition in enumerate(conditions):
            told[row] += 0.01 * condition.level + 0.02 * condition.label
        return told

    def memory(self, batch_shape):
        batch, bands, height, width = batch_shape
        return 0, 4 * batch * bands * height * width


def spoilt(spoil):
    """The exact denoiser with its answer changed; ``spoil`` gets it, then what it was asked."""

    class Spoilt(Exact):
        def predict(self, x_BCHW, t_B, conditions):
            return spoil(super().predict(x_BCHW, t_B, conditions), x_BCHW, t_B, conditions)

    return Spoilt()


def in_place(eps, x, t, conditions):
    x += 1
    return eps


def told_off(eps, x, t, conditions):
    conditions.append(Condition(label=0))
    return eps


def of_last_row(eps, x, t, conditions):
    return eps + 1e-3 * x[-1] * (len(conditions) < len(x))


def by_first_label(eps, x, t, conditions):
    return eps + 1e-3 * conditions[0].label


def never_the_same(eps, x, t, conditions, draws=torch.Generator().manual_seed(0)):  # noqa: B008
    return eps + 1e-3 * torch.randn((1, 1, 1, 1), generator=draws)


SPOILERS = {
    "shape": (lambda eps, *_: eps[:, :, :-1], "answers 1x3x3x4: as many channels as its input has"),
    "bands": (lambda eps, *_: eps[:, :2], "answers 1x2x4x4"),
    "rank": (lambda eps, *_: eps[0], "answers 3x4x4"),
    "parts": (lambda eps, *_: torch.cat([eps] * 4, dim=1), "answers 1x12x4x4"),
    "type": (lambda eps, *_: eps.double(), r"answers in torch\.float64, not float32"),
    "infinite": (lambda eps, *_: eps / 0, "answers with values that are not finite"),
    "changed input": (in_place, "changes the windows, timesteps or conditions that it is given"),
    "changed conditions": (told_off, "changes the windows, timesteps or conditions"),
    "restless": (never_the_same, "does not repeat itself"),
    "slot": (lambda eps, *_: eps * (1 + 1e-6 * torch.arange(len(eps)))[:, None, None, None], "another slot or company"),
    "average": (lambda eps, x, *_: eps - 1e-3 * x.mean(), "another slot or company"),
    "neighbour": (lambda eps, x, *_: eps + 1e-6 * x.roll(1, dims=0), "another slot or company"),
    "timesteps": (lambda eps, x, t, _: eps * (1 + t.amax() / 1e4), "another slot or company"),
    "labels": (by_first_label, "another slot or company"),
    "sign": (lambda eps, *_: -eps, "does not predict eps: of pure noise it returns .* correlates with it by -1.00"),
    "clean": (lambda eps, x, *_: x - eps, "does not predict eps"),
    "large": (lambda eps, *_: 3 * eps, "does not predict eps: of pure noise it returns what is 3.0. times as large"),
}


def test_the_exact_denoiser_passes_before_it_is_spoilt():
    check_denoiser(Exact())


@pytest.mark.parametrize(("spoil", "says"), SPOILERS.values(), ids=SPOILERS)
def test_each_breach_is_named_in_one_sentence(spoil, says):
    with pytest.raises(BrokenDenoiser, match=rf"^model exact, given windows of \d+x3x\d+x\d+, .*{says}") as broken:
        check_denoiser(spoilt(spoil))
    assert "\n" not in str(broken.value)


def test_padding_that_matters_is_named():
    # Rows that heed padding of another kind than none at all: zeros, as engines pad with, leave them alone.
    with pytest.raises(BrokenDenoiser, match="lets padding, the rows beyond its conditions, change the others"):
        check_denoiser(spoilt(lambda eps, x, t, told: eps + 1e-3 * (x[-1] == 3).all()))


def test_timesteps_that_are_rounded_are_named(tmp_path):
    with pytest.raises(BrokenDenoiser, match="rounds timesteps, which may be fractional"):
        check_denoiser(loaded(script(tmp_path, Whole)))


def test_a_failing_size_is_found():
    def only_small(eps, x, t, conditions):
        return eps if x.shape[-1] < 8 else eps[..., :-1]

    with pytest.raises(BrokenDenoiser, match="given windows of 1x3x8x8, answers 1x3x8x7"):
        check_denoiser(spoilt(only_small))


@pytest.mark.parametrize("told", [(0, 0), (-1, 10**6), (0.5, 10**6), (0, 10**6)])
def test_memory_that_makes_no_sense_is_named(told):
    class Forgetful(Exact):
        def memory(self, batch_shape):
            return told

    with pytest.raises(BrokenDenoiser, match=r"says to need .* bytes, twice the batch .*: give weights, then"):
        check_denoiser(Forgetful())


def test_numerics_that_say_nothing_are_named():
    class Silent(Exact):
        numerics = {"compiled": True}  # noqa: RUF012

    with pytest.raises(BrokenDenoiser, match=r"the numerics of exact are .*: name its precision"):
        check_denoiser(Silent())


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({"native_tile": 9, "size_multiple": 4}, "cannot be kept: tile 9 does not suit model exact"),
        ({"betas": "quadratic"}, "cannot be kept: schedule 'quadratic' is not known"),
        ({"betas": (0.1, 0.2)}, "has betas that are not 1000 numbers between 0 and 1"),
        ({"betas": (0.1, 1.2), "timesteps": 2}, "has betas that are not 2 numbers between 0 and 1"),
        ({"value_range": (1.0, -1.0)}, "has a value_range or batch_limits without anything inside"),
        ({"batch_limits": (4, 2)}, "has a value_range or batch_limits without"),
        (None, "its contract is NoneType: make it a"),
    ],
)
def test_a_contract_that_cannot_be_kept_is_named(terms, says):
    class Strange(Exact):
        contract = None if terms is None else replace(Exact.contract, **terms)

    with pytest.raises(BrokenDenoiser, match=says):
        check_denoiser(Strange())


def test_what_a_network_has_not_learned_is_not_asked_of_it():
    check_denoiser(spoilt(lambda eps, *_: -eps), trained=False)


# --- the command ---


def test_the_command_says_what_it_found(tmp_path, capfd):
    said = tileloom(capfd, "models", "check", "gaussian")
    assert (said.code, said.out, said.errors) == (0, "gaussian: keeps all that a denoiser promises\n", [])
    file = script(tmp_path, predicts="v")
    wrong = tileloom(capfd, "models", "check", file, "--trust-model")
    assert (wrong.code, wrong.out, len(wrong.errors)) == (1, "", 1)
    assert "does not predict eps" in wrong.errors[0]
    # Weights have no such option.
    assert "model.predicts" not in wrong.errors[0]
    mended = tileloom(capfd, "models", "check", file, "--trust-model", "--model-option", "predicts=v")
    assert mended.code == 0
    labelled = tileloom(capfd, "models", "check", exported(tmp_path, PixelsOfClasses), "--trust-model",
                        "--model-option", "classes=3", "--model-option", "label=1")  # fmt: skip
    assert (labelled.code, labelled.errors) == (0, [])


def test_a_network_that_is_adapted_bills_what_it_holds():
    found = Adapted(Exact.contract, Pixels(), Prediction("eps", (0.1,)), 40, 20)
    assert found.memory((2, 3, 8, 8)) == (40, 4 * 2 * 8 * 8 * 20)
    assert found.numerics == {"precision": "fp32"}
