"""What every benchmark shares: its command line, its printed form, and its limits.

A benchmark module defines ``measure(smoke) -> figures`` and ends with::

    BENCHMARK = Benchmark("name", measure, {"figure": ("<=", 6.0)})

    if __name__ == "__main__":
        sys.exit(BENCHMARK.main())
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from operator import ge, le
from typing import Any, Literal

from tileloom.tiling.errors import InputError

Figures = Mapping[str, float]
Limit = tuple[Literal["<=", ">="], float]

SMOKE_AGAIN = 2
"""How often a small run that misses a limit is made again: it is short, and a busy neighbour can spoil it."""

_HOLDS = {"<=": le, ">=": ge}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A named measurement and the limits its figures must keep, at full and at smoke size alike.

    ``measure`` takes whether to run at the small size that CI uses; a figure without a limit is only told. ``targets``
    are limits of the full size alone. ``options`` are flags by name with what argparse is told of each; ``measure``
    gets them by their names.
    """

    name: str
    measure: Callable[..., Figures]
    limits: Mapping[str, Limit]
    targets: Mapping[str, Limit] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Measure and print; 1 if a limit was missed, else 0."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{self.name}")
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        parser.add_argument("--smoke", action="store_true", help="run at a small size")
        for name, told in self.options.items():
            parser.add_argument(f"--{name}", **told)
        given = vars(parser.parse_args(arguments))
        smoke, machine = given.pop("smoke"), given.pop("json")
        judge = self if smoke else replace(self, limits={**self.limits, **self.targets})
        try:
            figures = self.measure(smoke, **given)
        except InputError as error:
            parser.error(str(error))
        for _ in range(SMOKE_AGAIN if smoke else 0):
            if not judge.missed(figures):
                break
            figures = self.measure(smoke, **given)
        print(judge.as_json(figures, smoke=smoke, given=given) if machine else judge.as_table(figures))
        return 1 if judge.missed(figures) else 0

    def missed(self, figures: Figures) -> list[str]:
        """The figures that miss their limit; one that was not measured, or is not a finite number, does."""
        return [name for name in self.limits if not self._keeps(name, figures)]

    def as_json(self, figures: Figures, *, smoke: bool, given: Mapping[str, Any]) -> str:
        """One JSON object: name, command, figures, limits."""
        said = [f" --{name} {value}" for name, value in given.items() if value != self.options[name].get("default")]
        command = f"python -m benchmarks.{self.name} --json" + (" --smoke" if smoke else "") + "".join(said)
        return json.dumps(
            {"name": self.name, "command": command, "figures": dict(figures), "limits": dict(self.limits)}
        )

    def as_table(self, figures: Figures) -> str:
        """A line a figure: its name, its value, its limit, and whether the limit was missed."""
        names = dict.fromkeys([*figures, *self.limits])
        width = max(24, *(len(name) + 2 for name in names))
        lines = [f"{self.name:<{width}}{'figure':>12}   limit"]
        for name in names:
            value = f"{figures[name]:.4g}" if name in figures else "not measured"
            sense, bound = self.limits.get(name, ("", ""))
            mark = "  MISSED" if name in self.limits and not self._keeps(name, figures) else ""
            lines.append(f"{name:<{width}}{value:>12}   {sense} {bound}{mark}".rstrip())
        return "\n".join(lines)

    def _keeps(self, name: str, figures: Figures) -> bool:
        sense, bound = self.limits[name]
        value = figures.get(name)
        return value is not None and isfinite(value) and bool(_HOLDS[sense](value, bound))
