"""Workers of several numeric classes: each image is one class's alone, and its bytes are those of that class."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from tests.archives import archive
from tests.crews import EVEN, ODD, crew_of
from tests.pipeline import assert_same_bytes, beside, job, measure, scene
from tileloom.cluster import ray_executor
from tileloom.cluster.agenda import Agenda, Berth
from tileloom.cluster.berths import Berths
from tileloom.cluster.classes import Description
from tileloom.cluster.executor import CrewSpec
from tileloom.cluster.loom import Share
from tileloom.cluster.ray_executor import RayExecutor
from tileloom.jobs.look import job_status
from tileloom.jobs.progress import Silent
from tileloom.jobs.run import Redo, run_job
from tileloom.jobs.state import JobState
from tileloom.jobs.why import why
from tileloom.tiling.errors import JobChanged, TileloomError
from tileloom.tiling.frontier import Frontier
from tileloom.tiling.place import place

WORKERS = {"workers": 2, "cpus": 1, "classes": "any"}
QUICK, PATIENT = {**WORKERS, "class_wait": 0.02}, {**WORKERS, "class_wait": 1000}
ONE = {**WORKERS, "classes": "one"}
ROWS = [f"{letter}{number}" for number in range(3) for letter in "abc"]


class Listening(Silent):
    """Keeps what was said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def class_of(spec):
    return JobState.load(spec.output).numeric_class["kind"]


def scratch(spec):
    """The folders of an output's generations."""
    return [folder for folder in (place(spec.output) / ".tileloom").children() if folder.is_folder()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the images of all archives are."""
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def alone(folder):
    """An archive that had workers of one class alone, for each class."""
    found = {}
    for kind in (EVEN, ODD):
        found[kind] = archive(folder, name=kind, rows=ROWS, cluster=ONE)
        with crew_of(kind, kind):
            assert found[kind].run().whole
    assert class_of(found[ODD].spec("a0")) == ODD
    with pytest.raises(AssertionError):
        assert_same_bytes(found[ODD].spec("a0"), found[EVEN].spec("a0"))
    return found


def assert_each_is_one_classes(place, alone, rows=ROWS):
    """Every image has the bytes of a job of its class; which class that is, by image."""
    classes = {row: class_of(place.spec(row)) for row in rows}
    for row, kind in classes.items():
        assert_same_bytes(place.spec(row), alone[kind].spec(row))
    return classes


def test_images_are_shared_out_among_classes_that_all_stay_busy(folder, alone):
    there = archive(folder, name="shared", rows=ROWS, cluster=PATIENT)
    with crew_of(EVEN, ODD) as crews:
        summary = there.run()
    assert summary.whole
    assert summary.anew == []
    classes = list(assert_each_is_one_classes(there, alone).values())
    assert min(classes.count(EVEN), classes.count(ODD)) >= 2
    assert all(shift.usage.tiles for shift in crews[0].timesheet.shifts)
    assert list(there.state()["batches"].values()) == [2]


def test_other_classes_are_refused_where_one_is_asked_for(folder):
    there = archive(folder, name="refused", rows=ROWS, cluster=ONE)
    with (
        crew_of(EVEN, ODD),
        pytest.raises(TileloomError, match=r"computes otherwise than the others \(kind: odd in place of even\)"),
    ):
        there.run()


def test_images_whose_class_died_out_begin_anew_under_another(folder, alone):
    there, watcher = archive(folder, name="anew", rows=ROWS, cluster=QUICK), Listening()
    seen = []

    def strike(reports):
        seen.extend(reports)
        if len(seen) > 20:
            crews[0].kill(ODD)

    with crew_of(EVEN, ODD) as crews:
        summary = there.run(watcher, on_reports=strike)
    assert summary.whole
    assert summary.anew
    classes = assert_each_is_one_classes(there, alone)
    assert {classes[row] for row in summary.anew} == {EVEN}
    for row in summary.anew:
        spec = there.spec(row)
        state = JobState.load(spec.output)
        assert state.generation == 1
        assert [folder.name for folder in scratch(spec)] == [state.root.name]
        assert job_status(state).anew == ("no worker of the numeric class before was there: kind: odd -> even",)
        assert there.report()[row]["reason"] == state.anew[0]
    assert any("no worker of the numeric class with kind: odd for 0.02 s" in line for line in watcher.said)
    assert json.loads((there.output / ".tileloom" / "report.json").read_text())["begun_anew"] == summary.anew


def test_of_an_image_that_was_begun_anew_many_times_the_report_tells_the_last(folder):
    there = archive(folder, name="often", rows=["a0"], cluster=ONE)

    def stop(reports):
        if reports:
            raise KeyboardInterrupt

    with crew_of(EVEN), pytest.raises(KeyboardInterrupt):
        there.run(on_reports=stop)
    replace(JobState.load(there.spec("a0").output), anew=("first", "second", "third")).save()
    with crew_of(EVEN):
        assert there.run().anew == ["a0"]
    assert there.report()["a0"]["reason"] == "third (begun anew 3 times)"


def test_a_class_that_comes_back_in_time_goes_on_with_its_images(folder, alone):
    """The dead worker's successor is of the same class; no image begins anew."""
    there, seen = archive(folder, name="back", rows=ROWS, cluster=PATIENT), []

    def strike(reports):
        seen.extend(reports)
        if len(seen) > 20 and len(crews[0].timesheet.lost) == 0:
            crews[0].timesheet.lost["struck"] += 1
            crews[0].kill(ODD)

    with crew_of(EVEN, ODD, ODD) as crews:
        summary = there.run(on_reports=strike)
    assert (summary.whole, summary.anew) == (True, [])
    assert ODD in assert_each_is_one_classes(there, alone).values()


def test_what_images_wait_for_is_said(folder, monkeypatch):
    there, seen, waits = archive(folder, name="waits", rows=ROWS, cluster=PATIENT), [], []

    class Enough(Exception):
        pass

    def strike(reports):
        seen.extend(reports)
        if len(seen) > 20:
            crews[0].kill(ODD)
            waits.extend(why(there.archive.output).now.waits)
            if any("numeric class" in line for line in waits):
                raise Enough

    monkeypatch.setattr("tileloom.jobs.lookout.EVERY_SECONDS", 0.0)
    monkeypatch.setattr("tileloom.jobs.lookout._LOOK", 0.0)
    with crew_of(EVEN, ODD) as crews, pytest.raises(Enough):
        there.run(on_reports=strike)
    [line] = {line.partition(" waiting")[2] for line in waits if "numeric class" in line}
    assert line.startswith(" for a worker of the numeric class begun with (kind: odd), of which there was none for 0 s")
    assert line.endswith("after 1000 s begun anew under another")


@pytest.fixture
def begun(tmp_path):
    """A job of one image that an odd worker began, and the tiles that it has done."""
    y = measure(scene(3, 64, 80), "sr:4").astype(np.float32)
    spec = job(tmp_path, y, task="sr:4", range=[-1, 1], stride=8, guard=4, batch=2, levels=2, cluster=PATIENT)
    done = []

    def stop(reports):
        done.extend(reports)
        if len(done) > 6:
            raise KeyboardInterrupt

    with crew_of(ODD), pytest.raises(KeyboardInterrupt):
        run_job(spec, Silent(), on_reports=stop)
    return spec, len(done)


def waiting(spec, seconds):
    return spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"class_wait": seconds})})


def whole(spec, folder, kind):
    other = beside(spec, folder / kind).model_copy(
        update={"cluster": spec.cluster.model_copy(update={"classes": "one"})}
    )
    with crew_of(kind):
        run_job(other, Silent())
    return other


def test_a_resumed_image_goes_on_with_the_class_that_its_ledger_names(begun, tmp_path):
    spec, done = begun
    with crew_of(EVEN, ODD):
        summary = run_job(spec, Silent())
    assert 0 < summary.report.done <= sum(summary.bill.solve) - done
    assert (summary.anew, class_of(spec)) == ((), ODD)
    assert_same_bytes(spec, whole(spec, tmp_path, ODD))


def test_a_resumed_image_whose_class_does_not_come_begins_anew(begun, tmp_path):
    spec, _ = begun
    watcher = Listening()
    with crew_of(EVEN, EVEN):
        summary = run_job(waiting(spec, 0.02), watcher)
    assert (summary.report.done, summary.report.inherited) == (sum(summary.bill.solve), 0)
    assert summary.anew == ("no worker of the numeric class before was there: kind: odd -> even",)
    assert summary.as_json()["begun_anew"] == list(summary.anew)
    assert len(scratch(spec)) == 1
    assert_same_bytes(spec, whole(spec, tmp_path, EVEN))
    assert any("images that were begun with it begin anew under another" in line for line in watcher.said)


def test_what_an_image_came_to_under_its_first_class_counts_when_that_comes_back(begun, tmp_path):
    """Odd, even, odd: in the third generation the tiles of the first are taken over, none of the second."""
    spec, done = begun

    def stop(reports):
        if reports:
            raise KeyboardInterrupt

    with crew_of(EVEN), pytest.raises(KeyboardInterrupt):
        run_job(waiting(spec, 0.02), Silent(), on_reports=stop)
    assert class_of(spec) == EVEN
    with crew_of(ODD):
        summary = run_job(waiting(spec, 0.02), Silent())
    assert summary.report.inherited >= done
    assert len(summary.anew) == 2
    assert_same_bytes(spec, whole(spec, tmp_path, ODD))


def test_a_finished_image_needs_no_worker_of_its_class(begun):
    spec, _ = begun
    with crew_of(ODD):
        run_job(spec, Silent())
    with crew_of(EVEN):
        summary = run_job(spec, Silent())
    assert (summary.calls, class_of(spec)) == (0, ODD)


def test_a_changed_job_is_refused_before_it_waits(begun):
    spec, _ = begun
    with crew_of(EVEN), pytest.raises(JobChanged, match=r"was begun by another job \(seed: 0 -> 5\)"):
        run_job(spec.model_copy(update={"seed": 5}), Silent())
    with crew_of(EVEN), pytest.raises(JobChanged, match="batch: 2 -> 3"):
        run_job(spec.model_copy(update={"batch": 3}), Silent())
    with crew_of(EVEN):
        summary = run_job(spec.model_copy(update={"batch": 3}), Silent(), redo=Redo.STALE)
    assert (summary.report.inherited, summary.anew) == (0, ())


def test_an_image_of_another_class_is_refused_as_ever_where_one_is_asked_for(begun):
    spec, _ = begun
    one = spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"classes": "one"})})
    with crew_of(EVEN), pytest.raises(JobChanged, match=r"numeric class\.kind: odd -> even"):
        run_job(one, Silent())
    # This process alone has no workers that one could wait for.
    here = spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"workers": None})})
    with pytest.raises(JobChanged, match=r"numeric class\.kind: odd -> none"):
        run_job(here, Silent())


@dataclass(frozen=True)
class Trying:
    """Makes works with the batch that they are told, or with the next one that a trial is said to find."""

    trials: Iterator

    def __call__(self, batches):
        device, batch = next(self.trials)
        batch = batches.get(device, batch)
        told = {"device": device, "batch_shape": str(batch)}
        return SimpleNamespace(numeric_class=told, batch_shape=(batch,), slots=batch, memory=int, device_memory=None)


def test_a_class_has_the_batch_that_its_first_worker_found():
    """The last two begin side by side on small devices; the later one loads again, with what the other found."""
    trials = iter([("large", 16), ("small", 2), ("small", 4)])
    with crew_of("a", "b") as crews, RayExecutor(Trying(trials), CrewSpec(3, classes="any")) as executor:
        crew = crews[0]
        crew.hire()
        assert executor.batches == {"large": 16, "small": 2}
        late = crew.hands[1]
        late.slots = 0
        other = Description({"device": "small", "batch_shape": "4", "kind": "b"}, 4, 4, 0, None)
        crew._loaded(late, other)
        assert (late.slots, late.under_way("load")) == (0, 1)
        assert list(crew.listen()) == []
        assert (late.slots, late.under_way("load")) == (2, 0)
        assert len(crew.classes) == 2


@pytest.mark.parametrize("kinds", [(EVEN, EVEN, EVEN), (ODD, EVEN, EVEN), (EVEN, ODD)])
def test_a_level_in_lockstep_is_shared_out_among_all_workers_of_its_class(tmp_path, monkeypatch, kinds):
    """Those of the first one's class, all of whom it waits for; no block of it is ever held by others."""
    shares = []

    def post(hand, mail):
        if isinstance(mail, Share):
            shares.append((hand.pool, hand.name, len(mail.blocks)))
        real(hand, mail)

    real = ray_executor._post
    monkeypatch.setattr(ray_executor, "_post", post)
    y = measure(scene(3, 32, 48), "sr:4").astype(np.float32)
    cluster = {"workers": len(kinds), "cpus": 1, "classes": "any"}
    options = {"stride": 8, "batch": 2, "levels": 1, "steps": 3, "weave": "joint", "lockstep": {"block": 16}}
    spec = job(tmp_path, y, task="sr:4", range=[-1, 1], cluster=cluster, **options)
    with crew_of(*kinds):
        assert run_job(spec, Silent()).whole
    [pool] = {pool for pool, _, _ in shares}
    assert f'"kind": "{class_of(spec)}"' in pool
    assert len({name for _, name, _ in shares}) == len(shares) == kinds.count(class_of(spec))
    assert sum(blocks for _, _, blocks in shares) == 6
    single = spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"workers": 1})})
    assert_same_bytes(spec, whole(single, tmp_path, class_of(spec)))


@pytest.fixture
def crew(monkeypatch):
    """A crew of up to nine workers of any class; ``hire`` adds one of the class ``a``, or of another one."""
    monkeypatch.setattr("tileloom.cluster.crew.ray.kill", lambda actor: None)
    trials = (("a", 1) for _ in range(99))
    with crew_of(*"aaaaaaaaa") as crews, RayExecutor(Trying(trials), CrewSpec(9, classes="any", least=0, idle=0)):
        [crew] = crews
        yield crew


def kinds_of(crew):
    return [json.loads(hand.pool)["kind"] for hand in crew.hands]


def hired(crew, kinds):
    """Have the crew be of these kinds; the pools of all."""
    crew.hands.clear()
    crew._kinds.clear()
    crew._kinds.extend(kinds)
    for _ in kinds:
        crew.hire()
    return {kind: hand.pool for kind, hand in zip(kinds, crew.hands, strict=True)}


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        ({"b": 4}, "b"),
        ({"a": 1, "b": 4}, "ab"),
        ({None: 1, "b": 1}, "ab"),
        ({None: 9}, "aaab"),
        ({"a": 2}, "aa"),
        ({}, ""),
    ],
)
def test_workers_at_rest_are_let_go_whose_own_class_has_nothing_for_them(crew, wanted, left):
    pools = hired(crew, "aaab")
    crew.wanted = {pools.get(kind): count for kind, count in wanted.items()}
    for hand in crew.hands:
        hand.used = 0
    assert {lost.alone for lost in crew._let_go()} <= {False}
    assert "".join(kinds_of(crew)) == left


def test_one_that_is_still_to_show_its_class_is_not_let_go_while_one_is_missing(crew):
    pools = hired(crew, "aab")
    crew.wanted = {pools["b"]: 2}
    crew.hands[1].pool = None
    for hand in crew.hands:
        hand.used = 0
    assert [lost.hand.name for lost in crew._let_go()] == ["worker 2"]


def test_as_many_are_kept_as_a_job_says_at_least(crew):
    pools, crew._least = hired(crew, "aaab"), 2
    crew.wanted = {pools["b"]: 4}
    for hand in crew.hands:
        hand.used = 0
    list(crew._let_go())
    assert kinds_of(crew) == ["a", "b"]


def test_an_image_that_waits_for_its_class_asks_for_one_worker_whoever_comes_instead(crew):
    def course():
        yield Berth({"kind": "b"})

    berths = Berths(crew, most=9, wait=1000, say=str, clock=count().__next__)
    with Agenda([course()], Frontier(), lambda reports: None) as agenda:
        for here, wanted in (("a", 2), ("aa", 2), ("aaa", 2)):
            hired(crew, here)
            berths.assign(agenda)
            assert agenda.waiting
            assert crew._wanted == wanted
        for hand in crew.hands:
            hand.used = 0
        assert len(list(crew._let_go())) == 3
        assert crew._wanted == 1
