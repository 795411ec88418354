"""The bill before a job: what it counts is what the run then writes, and limits are those of the process."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests import faults, nets
from tests.pipeline import holes, job, restore, scene
from tileloom.jobs.bill import (
    BASE_BYTES,
    _available_memory,
    coarser_bytes,
    make_bill,
    planned_bytes,
    refuse_unaffordable,
)
from tileloom.jobs.compile import compile_job
from tileloom.jobs.forecast import forecast, survey_image, worker_bytes
from tileloom.jobs.progress import Silent
from tileloom.jobs.spec import ClusterSpec
from tileloom.models.contract import Contract
from tileloom.models.kinds import contract_of
from tileloom.models.networks import load_denoiser
from tileloom.tiling.errors import InputError
from tileloom.tiling.inputs import CHUNK

MIB = 2**20


def bill(compiled, **options):
    plan = compiled.image.plan
    counts = tuple(grid.count for grid in plan.levels)
    options = {"work_bytes": MIB, **options}
    return make_bill(plan, compiled.image.result, solve=counts, calls_per_tile=3, **options)


def compiled_job(folder, task="sr:2", size=40, **options):
    mask = holes(size, size) if task == "inpaint" else None
    return compile_job(job(folder, scene(2, size, size), task=task, mask=mask, range=[-1, 1], **options))


def test_coarser_inputs_are_counted_as_they_lie_on_disk(tmp_path):
    spec = job(
        tmp_path, scene(2, 40, 300), task="inpaint", mask=holes(40, 300), range=[-1, 1], steps=1, levels=3, tile=32
    )
    compiled = compile_job(spec)
    restore(spec)
    root = Path(faults.state_of(spec).root)
    written = [file for file in root.glob("inputs-*/*/c/0/*/*") if file.is_file()]
    assert len(compiled.image.lifts) == len(list(root.glob("inputs-*"))) == 2
    # Each chunk ends with a checksum of four bytes.
    stored = sum(file.stat().st_size - 4 for file in written)
    assert coarser_bytes(compiled.image) == stored == 2 * CHUNK**2 * (4 * 2 + 1)


def test_a_level_that_reads_the_finer_ones_input_costs_no_disk(tmp_path):
    compiled = compiled_job(tmp_path, "sr:4", levels=2)
    assert [lift.identity for lift in compiled.image.lifts] == [True]
    assert coarser_bytes(compiled.image) == 0


def test_a_plans_scratch_holds_the_coarser_inputs(tmp_path):
    compiled = compiled_job(tmp_path, "inpaint", levels=2, tile=16)
    extra = coarser_bytes(compiled.image)
    assert extra == CHUNK**2 * 9
    found = forecast(compiled, survey_image(compiled, Silent())).bill
    owned = [
        count * grid.stride**2 * 2 * 4 for count, grid in zip(found.solve, compiled.image.plan.levels, strict=True)
    ]
    assert found.scratch_bytes == sum(owned) + extra
    assert bill(compiled, inputs_bytes=7).scratch_bytes == bill(compiled).scratch_bytes + 7


def test_what_the_work_needs_is_counted(tmp_path):
    compiled = compiled_job(tmp_path)
    none, some = bill(compiled, work_bytes=0), bill(compiled, work_bytes=5 * MIB)
    assert some.memory_bytes - none.memory_bytes == 5 * MIB
    assert bill(compiled).memory_bytes > none.memory_bytes > BASE_BYTES


def test_a_plan_counts_the_model_and_the_tiles_in_flight(tmp_path):
    small = {"in_flight": 2, "tile": 16, "bands": 3}
    bare = Contract("net")
    one = planned_bytes(bare, **small)
    assert planned_bytes(bare, **small | {"in_flight": 4}) == 2 * one
    assert planned_bytes(replace(bare, weight_bytes=MIB), **small) == one + MIB
    assert planned_bytes(replace(bare, live_channels=10), **small) == one + 4 * 2 * 16 * 16 * 10
    # A window that has planes beside its bands is as large as it is.
    assert planned_bytes(replace(bare, holes=True), **small) == planned_bytes(bare, **small | {"bands": 6})
    path = nets.weights(tmp_path)
    terms = contract_of(path)
    needs = load_denoiser(path).memory((1, 3, 16, 16))
    assert 1 <= terms.weight_bytes / needs[0] < 1.1
    assert terms.live_channels * 4 * 16 * 16 == needs[1]


def machine(root, available, *, v2=None, v1=None):
    """The files of a machine with so many MiB available and these limits."""
    texts = {"proc/meminfo": None if available is None else f"MemTotal: 9 kB\nMemAvailable: {available * 1024} kB\n"}
    texts |= {"sys/fs/cgroup/memory.max": v2, "sys/fs/cgroup/memory/memory.limit_in_bytes": v1}
    for name, text in texts.items():
        if text is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 900),
        ({"v2": "max\n"}, 900),
        ({"v2": f"{100 * MIB}\n"}, 100),
        ({"v2": f"{2000 * MIB}\n"}, 900),
        ({"v1": f"{300 * MIB}\n"}, 300),
        ({"v1": "9223372036854771712\n"}, 900),
        ({"v2": f"{100 * MIB}\n", "v1": f"{50 * MIB}\n"}, 50),
    ],
)
def test_available_memory_is_no_more_than_the_control_group_allows(tmp_path, limits, expected):
    assert _available_memory(machine(tmp_path, 900, **limits)) == expected * MIB


def test_a_limit_counts_where_the_machine_says_nothing(tmp_path):
    assert _available_memory(machine(tmp_path, None, v2="4096\n")) == 4096


def test_too_little_memory_or_disk_is_refused(tmp_path, monkeypatch):
    compiled = compiled_job(tmp_path)
    cheap = bill(compiled, work_bytes=0)
    refuse_unaffordable(cheap, Path(tmp_path), max_memory=cheap.memory_bytes)
    with pytest.raises(InputError, match=r"max_memory allows .*lower batch, lanes or tile"):
        refuse_unaffordable(cheap, Path(tmp_path), max_memory=cheap.memory_bytes - 1)
    huge = bill(compiled, inputs_bytes=2**62)
    with pytest.raises(InputError, match="choose another output or free some space"):
        refuse_unaffordable(huge, Path(tmp_path), max_memory=2**62)


def test_a_worker_on_a_cluster_takes_what_its_tiles_in_flight_do(tmp_path):
    """On its own cores, as many lanes as it has of these; with an accelerator they are in that one's memory."""

    compiled = compiled_job(tmp_path, batch=3, lanes="auto")

    def asked(**told):
        cluster = ClusterSpec(workers=2, **told)
        return worker_bytes(replace(compiled, spec=compiled.spec.model_copy(update={"cluster": cluster})))

    contract = contract_of({"name": "gaussian", "length": 4.0})
    four = planned_bytes(contract, in_flight=3 * 4, tile=16, bands=2)
    nothing = asked(address="auto", gpus=1)
    assert nothing > BASE_BYTES
    assert asked(address="auto", cpus=4) - nothing == four - contract.weight_bytes
    assert asked(address="auto") - nothing == (four - contract.weight_bytes) / 4
