"""Peers take turns, round by round; a ratio is the median over rounds of the ratio of medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

Call = Callable[[], object]


class Row(NamedTuple):
    """One line of the table; `most` says that the floor is a ceiling."""

    what: str
    value: float | None
    unit: str
    floor: float | None
    aim: float | None
    note: str = ""
    most: bool = False

    def holds(self, bound: float | None) -> bool:
        if bound is None or self.value is None:
            return True
        return self.value <= bound if self.most else self.value >= bound

    @property
    def met(self) -> str:
        if self.value is None:
            return "not run"
        if not self.holds(self.floor):
            return "NO"
        if self.aim is not None and self.holds(self.aim):
            return "aim"
        return "yes" if self.floor is not None else "below the aim"

    def cells(self) -> tuple[str, ...]:
        sign = "<= " if self.most else ">= "
        bounds = ("" if b is None else f"{sign}{b:g}" for b in (self.floor, self.aim))
        shown = "" if self.value is None else f"{self.value:.3g} {self.unit}"
        return (self.what, shown, *bounds, self.met, self.note)


class Bench:
    """How often things are done."""

    def __init__(self, quick: bool) -> None:
        self.rounds = 2 if quick else 5
        self.share = 0.4 if quick else 1.0

    def times(self, call: Call, count: int, gap: float = 0.0) -> list[float]:
        found: list[float] = []
        for _ in range(max(1, int(count * self.share))):
            if gap:
                time.sleep(gap)
            began = time.perf_counter()
            call()
            found.append(time.perf_counter() - began)
        return found

    def turns(self, calls: dict[str, tuple[Call, int]], gap: float = 0.0) -> dict[str, list[float]]:
        """Medians by name, one a round; everyone takes turns."""
        for call, _ in calls.values():
            call()
        found: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(self.rounds):
            for name, (call, count) in calls.items():
                found[name].append(statistics.median(self.times(call, count, gap)))
        return found


def ratio(found: dict[str, list[float]], slow: str, fast: str) -> float:
    return statistics.median(a / b for a, b in zip(found[slow], found[fast], strict=True))


def milliseconds(found: dict[str, list[float]], *names: str) -> str:
    return " / ".join(f"{statistics.median(found[name]) * 1000:.2f}" for name in names) + " ms"
