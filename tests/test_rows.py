"""Layers whose kernels heed a row's slot run in parts, all others on whole batches."""

import pytest
import torch
from torch import nn

from tests import nets
from tests.tiles import run, tile
from tileloom.models.contract import Contract
from tileloom.models.engine import DependentRows, Engine
from tileloom.models.networks import AdmDenoiser
from tileloom.models.noise import PositionNoise
from tileloom.models.rows import dependent_row, layers_in_parts, run_in_parts, run_together
from tileloom.models.schedule import schedule
from tileloom.models.solvers import Ddnm
from tileloom.tiling.box import Box
from tileloom.tiling.errors import TileloomError
from tileloom.tiling.measurement import Measurement

SIZE = 16
CONTRACT = Contract("net", bands=3, size_multiple=2, native_tile=SIZE, smallest_tile=2)


@pytest.fixture(autouse=True)
def _one_thread():
    """As an engine's lanes run: with more, bits depend on how sums are split among them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def by_slot(forward):
    """What a layer returns, with a trace of the slot in it, as kernels leave it that share out sums by slot."""
    return lambda self, x: forward(self, x) * (1 + 1e-4 * torch.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1)))


class SlottedConv(nn.Conv2d):
    forward = by_slot(nn.Conv2d.forward)


class SlottedLinear(nn.Linear):
    forward = by_slot(nn.Linear.forward)


def spoilt():
    """A network two of whose layers heed the slot."""
    net = nets.network()
    net.middle_block[0].in_layers[2].__class__ = SlottedConv
    net.time_embed[2].__class__ = SlottedLinear
    return net


def padded(net, x, t):
    """Rows in any order, in a batch of one size."""

    def forward(order):
        rows = list(order)
        given, at = torch.zeros_like(x), torch.zeros_like(t)
        given[: len(rows)], at[: len(rows)] = x[rows], t[rows]
        return net(given, at)

    return forward


def engine(net, batch=3):
    solver = Ddnm(schedule(steps=4), PositionNoise(1), 3, (-1.0, 1.0))
    return Engine(AdmDenoiser(net, CONTRACT), solver, tile=(SIZE, SIZE), bands=3, batch=batch)


def result(work):
    inputs = tile(3, box=Box(0, 0, SIZE, SIZE), measurement=Measurement(2), context=None, context_mask=None)
    return work.finish(run(work, work.begin(_filled(inputs)), work.calls_per_tile))


def _filled(inputs):
    y = torch.linspace(-1, 1, 3 * 64).reshape(3, 8, 8).numpy()
    return type(inputs)(inputs.image, inputs.key, inputs.box, inputs.measurement, y, y < 9)


def test_only_layers_that_heed_the_slot_run_in_parts():
    net = spoilt()
    x, t = nets.images(4)
    run_in_parts(net, lambda: net(x, t))
    assert layers_in_parts(net) == [1, 1]
    assert "forward" in vars(net.middle_block[0].in_layers[2])
    assert "forward" in vars(net.time_embed[2])
    assert dependent_row(padded(net, x, t), 4) is None
    torch.testing.assert_close(net(x, t), nets.network()(x, t))
    run_together(net)
    assert layers_in_parts(net) == []
    assert dependent_row(padded(net, x, t), 4) is not None


class Halved(nn.Conv2d):
    """Heeds the slot in batches of more than two."""

    def forward(self, x):
        told = super().forward(x)
        return by_slot(nn.Conv2d.forward)(self, x) if len(x) > 2 else told


@pytest.mark.parametrize(("batch", "rows"), [(6, 2), (4, 2), (5, 1)])
def test_parts_are_as_large_as_they_may_be_and_of_one_size(batch, rows):
    net = nets.network()
    net.middle_block[0].in_layers[2].__class__ = Halved
    x, t = nets.images(batch)
    run_in_parts(net, lambda: net(x, t))
    assert layers_in_parts(net) == [rows]
    assert dependent_row(padded(net, x, t), batch) is None


def test_an_engine_sees_to_it_and_says_so():
    clean, work = engine(nets.network()), engine(spoilt())
    assert work.numeric_class["layers in parts"] == "2 of 1 row"
    assert work.numeric_class != clean.numeric_class
    assert "layers in parts" not in clean.numeric_class
    torch.testing.assert_close(torch.from_numpy(result(work)), torch.from_numpy(result(clean)))


def test_every_batch_is_judged_anew():
    net = spoilt()
    engine(net)
    assert layers_in_parts(net) == [1, 1]
    engine(net, batch=1)
    assert layers_in_parts(net) == []


def test_what_heeds_its_company_all_the_same_is_refused():
    class Mixing(nn.SiLU):
        def forward(self, x):
            return super().forward(x) + 1e-4 * x.mean()

    net = nets.network()
    net.middle_block[0].in_layers[1] = Mixing()
    with pytest.raises(DependentRows, match="gives a tile other values in another slot or company"):
        engine(net)


def test_parameters_keep_their_names():
    net = spoilt()
    names = list(net.state_dict())
    x, t = nets.images(4)
    run_in_parts(net, lambda: net(x, t))
    assert list(net.state_dict()) == names


def test_an_engine_whose_network_was_settled_for_another_says_so():
    net = spoilt()
    first = engine(net)
    engine(net, batch=1)
    with pytest.raises(TileloomError, match="settled for another engine's batches since: load it once for each engine"):
        result(first)
