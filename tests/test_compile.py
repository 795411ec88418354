"""Networks that torch compiles: for one shape, with bits of their own, or a sentence where it cannot."""

import os
import re
import subprocess
import sys

import pytest
import torch

from tests import nets
from tests.test_rows import SIZE, spoilt
from tests.tiles import run
from tileloom.models.build import EngineFactory
from tileloom.tiling.box import Box, TileKey
from tileloom.tiling.measurement import Measurement
from tileloom.tiling.work import TileInputs

# What torch's own compiler imports says this of itself.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def factory(tmp_path, **options):
    model = {"name": nets.weights(tmp_path), **options}
    return EngineFactory(model, steps=4, tile=SIZE, bands=3, batch=2)


def asked(image):
    y = torch.linspace(-1, 1, 3 * 64).reshape(3, 8, 8).numpy()
    return TileInputs(image, TileKey(0, 0, 0), Box(0, 0, SIZE, SIZE), Measurement(2), y, y < 9)


def result(work):
    return work.finish(run(work, work.begin(asked("a")), work.calls_per_tile))


def test_a_compiled_network_is_near_the_other_and_its_tiles_keep_their_bits(tmp_path):
    plain, work = factory(tmp_path)(), factory(tmp_path, compile=True)()
    assert (plain.numeric_class["compiled"], work.numeric_class["compiled"]) == ("no", "yes")
    alone = result(work)
    torch.testing.assert_close(torch.from_numpy(alone), torch.from_numpy(result(plain)), atol=1e-3, rtol=0)
    together = [work.begin(asked("b")), work.begin(asked("a"))]
    for _ in range(work.calls_per_tile):
        together = work.step(together)
    assert work.finish(together[1]).tobytes() == alone.tobytes()


def test_layers_that_heed_the_slot_are_found_before_they_are_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr("tileloom.models.networks.with_weights", lambda *_, **__: spoilt())
    work = factory(tmp_path, compile=True)()
    assert work.numeric_class["layers in parts"] == "2 of 1 row"
    assert work.numeric_class["compiled"] == "yes"


def built_without_a_compiler(tmp_path, where="nullcontext()"):
    """The engine's numeric class, or why there is none, in a process where no C++ compiler is found."""
    code = f"""
from contextlib import nullcontext
from tileloom.models.build import EngineFactory
from tileloom.models.device import uncompiled
from tileloom.tiling.errors import TileloomError
import torch._dynamo
model = {{"name": {nets.weights(tmp_path)!r}, "compile": True}}
try:
    with {where}:
        print(EngineFactory(model, steps=4, tile={SIZE}, bands=3, batch=2)().numeric_class)
except TileloomError as error:
    print("refused:", error)
"""
    environment = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    return line


def test_what_cannot_be_compiled_says_so_in_a_sentence(tmp_path):
    said = built_without_a_compiler(tmp_path)
    assert re.fullmatch(r"refused: net\.safetensors cannot be compiled here \(.*compiler.*\): leave compile out", said)
    assert "TORCHDYNAMO" not in said


def test_a_trial_does_not_compile(tmp_path):
    assert "'compiled': 'yes'" in built_without_a_compiler(tmp_path, where="uncompiled()")
