"""What training makes small is what its names say."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from tests.trainings import CLASSIFIER, UNET, archive, crops_of, learner
from tileloom.models.training.diffusion import TIMESTEPS, Chain, Denoising, timesteps
from tileloom.models.training.objective import LOSS, Batch, Draws
from tileloom.tiling.errors import InputError

CHAIN = Chain("linear")


def pictures(count=3, *, seed=0, size=8):
    """Values that 8 bits can hold, in model range."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator) / 127.5 - 1


def normals(like, seed):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def test_noised_and_clean_undo_each_other():
    x, t = pictures(), torch.tensor([0, 500, 900])
    eps = normals(x, 1)
    torch.testing.assert_close(CHAIN.clean(CHAIN.noised(x, eps, t), eps, t), x, atol=2e-3, rtol=0)


@pytest.mark.parametrize("t", [1, 50, 999])
def test_the_bound_is_the_divergence_from_the_true_posterior(t):
    x, t_B = pictures(), torch.full((3,), t)
    noisy, guess, v = CHAIN.noised(x, normals(x, 1), t_B), normals(x, 2), normals(x, 3).clamp(-1, 1)
    tables = CHAIN.tables
    coef1, coef2 = tables.posterior_mean_coef1[t], tables.posterior_mean_coef2[t]
    guessed = CHAIN.clean(noisy, guess, t_B)
    variance = torch.exp(
        (v + 1) / 2 * math.log(tables.betas[t]) + (1 - v) / 2 * tables.posterior_log_variance_clipped[t]
    )
    true = Normal(coef1 * x + coef2 * noisy, math.sqrt(tables.posterior_variance[t]))
    learned = Normal(coef1 * guessed + coef2 * noisy, variance.sqrt())
    expected = kl_divergence(true, learned).mean(dim=(1, 2, 3)) / math.log(2)
    torch.testing.assert_close(CHAIN.bound(x, noisy, guess, v, t_B), expected, rtol=2e-3, atol=1e-5)


def test_at_the_first_timestep_the_chances_of_all_values_add_up_to_one():
    values = (torch.arange(256) / 127.5 - 1).reshape(256, 1, 1, 1)
    t_B = torch.zeros(256, dtype=torch.long)
    noisy, guess = torch.full_like(values, 0.31), torch.full_like(values, 0.4)
    bits = CHAIN.bound(values, noisy, guess, torch.full_like(values, 0.5), t_B)
    assert float((2.0**-bits).sum()) == pytest.approx(1, abs=1e-4)


def test_rows_at_the_first_timestep_do_not_touch_the_others():
    x, t_B = pictures(4), torch.tensor([0, 40, 0, 700])
    noisy, guess, v = CHAIN.noised(x, normals(x, 1), t_B), normals(x, 2), normals(x, 3).clamp(-1, 1)
    together = CHAIN.bound(x, noisy, guess, v, t_B)
    alone = [CHAIN.bound(*(part[[row]] for part in (x, noisy, guess, v, t_B))) for row in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_the_mean_learns_nothing_from_the_bound():
    x, t_B = pictures(), torch.tensor([0, 10, 700])
    noisy = CHAIN.noised(x, normals(x, 1), t_B)
    guess, v = normals(x, 2).requires_grad_(), normals(x, 3).requires_grad_()
    CHAIN.bound(x, noisy, guess, v, t_B).mean().backward()
    assert guess.grad is None
    assert v.grad.abs().sum() > 0


class Oracle(torch.nn.Module):
    """Knows the picture, and so the noise; ``off`` is added to it."""

    def __init__(self, x, off=0.0, *, v=None):
        super().__init__()
        self.x, self.off, self.v = x, off, v

    def forward(self, noisy, t, y=None):
        a, s = (CHAIN.at(np.sqrt(part), t) for part in (CHAIN.tables.abar, 1 - CHAIN.tables.abar))
        eps = (noisy - a * self.x) / s + self.off
        return eps if self.v is None else torch.cat([eps, torch.full_like(eps, self.v)], dim=1)


def test_the_simple_loss_is_the_mean_square_of_the_noise_that_was_missed():
    x = pictures(8)
    loss = Denoising(Oracle(x, 0.3)).loss(Batch(x, None, ()), Draws(0, 0), 0)
    assert list(loss) == [LOSS]
    assert float(loss[LOSS]) == pytest.approx(0.09, rel=1e-3)


def test_a_network_that_predicts_v_is_held_to_that():
    class KnowsV(Oracle):
        def forward(self, noisy, t, y=None):
            return CHAIN.v(self.x, super().forward(noisy, t), t) + 0.3

    x = pictures(8)
    loss = Denoising(KnowsV(x), predicts="v").loss(Batch(x, None, ()), Draws(0, 0), 0)
    assert float(loss[LOSS]) == pytest.approx(0.09, rel=1e-3)


def test_what_predicts_v_right_knows_the_picture_at_any_noise():
    class KnowsV(Oracle):
        def forward(self, noisy, t, y=None):
            return CHAIN.v(self.x, super().forward(noisy, t), t)

    x, t_B = pictures(4), torch.tensor([0, 300, 700, 990])
    noisy = CHAIN.noised(x, normals(x, 1), t_B)
    torch.testing.assert_close(Denoising(KnowsV(x), predicts="v")._guess(noisy, t_B, None), x, atol=2e-3, rtol=0)


def test_with_a_learned_variance_the_bound_is_added():
    x = pictures(8)
    right, wrong = (Denoising(Oracle(x, 0.1, v=v)).loss(Batch(x, None, ()), Draws(0, 0), 0) for v in (-1.0, 1.0))
    assert float(right[LOSS]) == pytest.approx(float(right["simple"] + right["bound"]))
    assert float(right["simple"]) == pytest.approx(0.01, rel=1e-2)
    assert float(wrong["bound"]) != pytest.approx(float(right["bound"]), rel=1e-2)


def test_timesteps_are_uniform_and_spread():
    drawn = torch.cat([timesteps(Draws(0, step), 10) for step in range(400)]).reshape(400, 10)
    assert ((drawn // 100) == torch.arange(10)).all()
    assert drawn.min() < 5
    assert TIMESTEPS - 5 < drawn.max() < TIMESTEPS
    assert abs(drawn.float().mean() - 499.5) < 5


def test_draws_depend_on_seed_step_rank_and_purpose_alone():
    def draw(*which, purpose="a"):
        return Draws(*which).normal(purpose, (4,)).tolist()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({tuple(draw(*which)) for which in ((1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0), (1, -1, 0))}) == 5
    assert draw(1, 2, 3, purpose="b") != draw(1, 2, 3)


def test_a_share_of_the_crops_is_told_no_class():
    seen = []

    class Listening(torch.nn.Module):
        config = replace(UNET, num_classes=5)

        def forward(self, noisy, t, y):
            seen.append(y)
            return noisy

    x = pictures(8)
    objective = Denoising(Listening(), drop_label=0.25)
    for step in range(200):
        objective.loss(Batch(x, torch.full((8,), 2), ()), Draws(0, step), step)
    told = torch.cat(seen)
    assert set(told.tolist()) == {2, 4}
    assert 0.2 < (told == 4).float().mean() < 0.3


def test_a_classifier_learns_the_cross_entropy(tmp_path):
    crops = crops_of(archive(tmp_path), label=2, classes=4)
    small = learner(crops, CLASSIFIER)
    x = pictures(4, size=16)
    batch = Batch(x, torch.tensor([2, 2, 2, 2]), ())
    before = small.learn(batch, Draws(0, 0), 0)
    for step in range(1, 12):
        after = small.learn(batch, Draws(0, step), step)
    assert after[LOSS] < 0.5 * before[LOSS]
    assert after["right"] == 1
    with pytest.raises(InputError, match="learns from classes"):
        small.learn(Batch(x, None, ()), Draws(0, 0), 0)
