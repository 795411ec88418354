"""How good filled holes are, and for how few network calls: a network that fills them, denoisers, and a plate.

Holes of five kinds, small and large, and one that is wider than a tile. The command writes its part of
``docs/quality.md``; it may be stopped and run again, since what is done lies in ``--out``, and another model or setting
does only what that changes. Of changed code, or a model that changed under its name, it knows nothing: name another
``--out`` then. With ``--smoke`` tiny networks that know nothing fill tiny scenes, to see that everything runs; judged
is then only what holds for any network.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from benchmarks._damage import BANDS
from benchmarks._hole_cases import LAKE, cases
from benchmarks._hole_page import write_section
from benchmarks._hole_study import HoleStudy, Results
from benchmarks._hole_verdict import LIMITS, TARGETS, standing
from benchmarks._report import Benchmark, Figures
from benchmarks._study import model_of
from benchmarks.quality import small_net
from tests.fillers import HOLES, file_of

FULL = cases(256, 384, scenes=8)
SMALL = [case for case in cases(40, 48, scenes=1) if case.name in ("large strokes", LAKE)]


def figures_of(study: HoleStudy, results: Results) -> Figures:
    """What always holds, how it stands to what is aimed at, and all marks."""
    figures = {"changed outside": study.changed_outside(), "two seeds apart": study.seeds_apart()}
    figures |= standing(results)
    for (case, way), result in results.items():
        known = {name: value for name, value in asdict(result).items() if isfinite(value)}
        figures |= {f"{case} {way} {name}": value for name, value in known.items()}
    return figures


def measure(smoke: bool, *, model: str, out: Path, minutes: float) -> Figures:
    """Do what is left to do, as far as the time allows, and write the page; or the smallest of it, by random nets."""
    if smoke:
        with TemporaryDirectory() as name:
            folder = Path(name)
            filler = {"name": file_of(folder, made=replace(HOLES, in_channels=BANDS))}
            study = HoleStudy(filler, small_net(folder), SMALL, folder / "out", steps=2)
            study.run(until=float("inf"))
            return figures_of(study, study.results())
    study = HoleStudy({"name": model}, model_of("terra"), FULL, out)
    whole = study.run(until=monotonic() + 60 * minutes)
    results = study.results()
    if results:
        write_section(study, results, TARGETS, whole=whole)
    return figures_of(study, results)


BENCHMARK = Benchmark(
    "holes",
    measure,
    LIMITS,
    TARGETS,
    {
        "model": {"default": "terra-holes", "help": "a model that fills holes, by its name or file"},
        "out": {"type": Path, "default": Path("holes"), "help": "where what was done is kept, to go on with"},
        "minutes": {"type": float, "default": 60, "help": "how long it may take before it stops until next time"},
    },
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
