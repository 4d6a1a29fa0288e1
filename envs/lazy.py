"""Sequences of tasks that are made or looked up when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from .curricula import keyed
from .messages import JSON
from .rows import Task, TaskError

__all__ = ["ENDLESS", "Chosen", "Generated", "Kept", "Mapped", "Tasks"]

ENDLESS = 1 << 62  # what `len` says of a set without end


class Tasks(Protocol):
    """Tasks by number."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Task: ...


class Generated(NamedTuple):
    """Tasks made on demand: task i depends on (id, i) only."""

    make: Callable[[np.random.Generator], Mapping[str, JSON]]
    id: str
    size: int | None

    def __len__(self) -> int:
        return ENDLESS if self.size is None else self.size

    def __getitem__(self, index: int) -> Task:  # pyright: ignore[reportIncompatibleMethodOverride]
        row = self.make(keyed(f"{self.id}|{index}"))
        return Task({"id": f"{self.id}-{index}", **row})


class Mapped:
    """Tasks with a function applied when they are asked for."""

    def __init__(self, tasks: Tasks, change: Callable[[Task], Task]) -> None:
        self._tasks, self._change = tasks, change

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int, /) -> Task:
        return self._change(self._tasks[index])


class Chosen:
    """Some tasks of a set, by number."""

    def __init__(self, tasks: Tasks, numbers: Sequence[int]) -> None:
        self._tasks, self._numbers = tasks, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int, /) -> Task:
        return self._tasks[self._numbers[index]]


class Kept:
    """The tasks of a set without end that pass a filter: each number looks on from its own."""

    def __init__(self, tasks: Tasks, keep: Callable[[Task], bool]) -> None:
        self._tasks, self._keep = tasks, keep

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int, /) -> Task:
        for attempt in range(10_000):
            task = self._tasks[(index * 10_007 + attempt) % ENDLESS]
            if self._keep(task):
                return task
        raise TaskError("filter: 10,000 generated tasks in a row were refused; widen the filter")
