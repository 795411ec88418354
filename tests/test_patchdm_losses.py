"""What Patch-DM is trained on, against its own words in float64. Parity with the reference is in golden."""

from dataclasses import replace

import pytest
import torch

from tests.nets import LATENT, PATCHES, network, normal
from tileloom.models.collage import pad
from tileloom.models.latent import style_schedule
from tileloom.models.patchdm_losses import Draw, drops_of, noised, patch_losses, style_losses
from tileloom.models.schedule import schedule

CHAIN = schedule(steps=1000)
P, H = PATCHES.patch, PATCHES.half
ROWS, COLS = 2, 3


class Silent(torch.nn.Module):
    """A network that predicts no noise, and notes what it is given."""

    config = PATCHES

    def __init__(self):
        super().__init__()
        self.encoded, self.decoded = [], []

    def encode(self, *given):
        self.encoded.append(given)
        return [given[0], given[0]]

    def decode(self, features, *given):
        self.decoded.append((features, *given))
        return torch.zeros_like(features[0])


def drawn(corner, *, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn((count, 3, ROWS * P, COLS * P), generator=generator).clamp(-1, 1)
    noise = torch.randn((count, 3, 2 * P, 2 * P), generator=generator)
    style = torch.randn((count, PATCHES.style_channels), generator=generator)
    drops = torch.tensor([[True, False], [False, True]])[:count]
    return x0, style, Draw(noise, torch.tensor([100, 700])[:count], drops, corner)


def test_images_lose_their_style_below_a_tenth_and_their_position_below_a_half():
    u = torch.tensor([0.0, 0.09, 0.1, 0.49, 0.5, 0.9])
    style, position = drops_of(u, u).T.tolist()
    assert style == [True, True, False, False, False, False]
    assert position == [True, True, True, True, False, False]
    assert drops_of(u, u.flip(0))[0].tolist() == [True, False]


def test_noising_keeps_the_marginals_of_each_row():
    x0, noise, t = torch.ones(2, 3), torch.ones(2, 3) * 2, torch.tensor([0, 999])
    for row, time in enumerate(t.tolist()):
        abar = float(CHAIN.abar[time])
        expected = abar**0.5 + 2 * (1 - abar) ** 0.5
        assert noised(x0, noise, t, CHAIN)[row].tolist() == pytest.approx([expected] * 3, rel=1e-6)


def window_of(padded, corner):
    top, left = (at * P for at in corner)
    return padded[..., top : top + 2 * P, left : left + 2 * P].double()


@pytest.mark.parametrize("predicts", ["eps", "v"])
@pytest.mark.parametrize("corner", [(0, 0), (1, 1), (1, 2), (0, 2)])
def test_the_losses_are_those_of_two_decodings_of_one_window(corner, predicts):
    x0, style, draw = drawn(corner)
    net = Silent()
    moved, alone = patch_losses(net, x0, style, draw, CHAIN, predicts=predicts)
    wanted = draw.noise.double()
    if predicts == "v":
        abar = torch.from_numpy(CHAIN.abar)[draw.t][:, None, None, None]
        wanted = abar.sqrt() * wanted - (1 - abar).sqrt() * window_of(pad(x0, P), corner)
    seen = window_of(pad(torch.ones_like(x0), P), corner)
    assert float(moved) == pytest.approx(float((wanted[..., H:-H, H:-H] ** 2).mean()), rel=1e-6)
    assert float(alone) == pytest.approx(float((wanted**2 * seen).mean()), rel=1e-6)
    ((x, t, positions, styles, drops),) = net.encoded
    row, col = corner
    assert positions[:4].tolist() == [[row, col], [row, col + 1], [row + 1, col], [row + 1, col + 1]]
    assert t.tolist() == [100] * 4 + [700] * 4
    assert torch.equal(styles, style.repeat_interleave(4, dim=0))
    assert torch.equal(drops, draw.drops.repeat_interleave(4, dim=0))
    _, (shifted, times, middle, _, _) = net.decoded
    assert (times.tolist(), middle.tolist()) == ([100, 700], [[row + 0.5, col + 0.5]] * 2)
    # Outside the image the network sees nothing, as in sampling.
    if corner == (0, 0):
        assert not x[0, :, :H].any()
        assert x[0, :, H:, H:].all()
    assert shifted[0].shape == (2, 3, P, P)


def test_the_loss_teaches_every_parameter_of_the_network():
    net = network(replace(PATCHES, codes=None, model_channels=32)).requires_grad_(True)
    sum(patch_losses(net, *drawn((1, 1)), CHAIN)).backward()
    untaught = {name for name, parameter in net.named_parameters() if not parameter.grad.any()}
    assert untaught == set()


def test_styles_are_learned_by_the_mean_absolute_error_of_each():
    net, chain = network(LATENT), style_schedule(1000)
    x0, noise, t = normal(3, 6), normal(3, 6, seed=3), torch.tensor([5, 500, 999])
    losses = style_losses(net, x0, noise, t, chain)
    for row in range(3):
        abar = 0.992 ** (int(t[row]) + 1)
        x = abar**0.5 * x0[row] + (1 - abar) ** 0.5 * noise[row]
        expected = (net(x[None], t[row : row + 1]) - noise[row]).abs().mean()
        assert float(losses[row]) == pytest.approx(float(expected), rel=1e-4)
