"""Which task comes next: the rules a sampler may follow."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .messages import JSON
from .problems import nearest
from .rows import Lines, Task

__all__ = ["Curriculum", "Source", "keyed"]

Generator = np.random.Generator
State = dict[str, JSON]


class Source(Protocol):
    """What a sampler needs of a task set."""

    id: str

    @property
    def size(self) -> int | None:
        """Number of tasks; None: as many as one likes."""
        ...

    @property
    def lines(self) -> Lines | None:
        """The file behind a streamed set."""
        ...

    def __getitem__(self, index: int, /) -> Task: ...


class Curriculum:
    """Draws each task with the same probability; what other curricula change."""

    def __init__(self, tasks: Source) -> None:
        self.tasks = tasks

    def draw(self, stream: Generator) -> Task:
        """Return the next task."""
        size = self.tasks.size
        return self.tasks[int(stream.integers(1 << 62 if size is None else size))]

    def update(self, task_id: str, score: float) -> None:
        """Learn how an attempt at a task ended."""

    def state(self) -> State:
        """Return what changes, as plain data."""
        return {}

    def load(self, state: Mapping[str, JSON]) -> None:
        """Take over a state."""

    @property
    def count(self) -> int:
        """The number of tasks; ValueError where there is no end of them."""
        if self.tasks.size is None:
            raise ValueError(
                f"the set {self.tasks.id!r} has no end, and this curriculum needs a number of "
                "tasks; take some first: tasks.take(1000)"
            )
        return self.tasks.size

    def all(self) -> list[Task]:
        """Return every task."""
        return [self.tasks[i] for i in range(self.count)]


def _pick(weights: NDArray[np.float64], stream: Generator) -> int:
    """Draw an index in proportion to `weights`; with all zero, each alike."""
    total: NDArray[np.float64] = np.cumsum(weights if weights.any() else np.ones(len(weights)))
    place = np.searchsorted(total, stream.random() * float(total[-1]), "right")
    return min(int(place), len(total) - 1)


class Weighted(Curriculum):
    """Draws in proportion to `task.weight`."""

    def __init__(self, tasks: Source) -> None:
        super().__init__(tasks)
        self._weights = np.array([task.weight for task in self.all()])
        if not (self._weights >= 0).all() or not np.isfinite(self._weights).all():
            raise ValueError(f"a task of {tasks.id!r} has a negative or infinite weight; give >= 0")

    def draw(self, stream: Generator) -> Task:
        """Return a task, a likelier one where the weight is larger."""
        return self.tasks[_pick(self._weights, stream)]


class Sequential(Curriculum):
    """Gives each task once an epoch, in an order that is shuffled anew each epoch."""

    def __init__(
        self,
        tasks: Source,
        *,
        seed: int = 0,
        shuffle: bool = True,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        super().__init__(tasks)
        if not 0 <= worker < workers:
            raise ValueError(f"worker is {worker} of {workers}; give 0 <= worker < workers")
        self._seed, self._shuffle = seed, shuffle
        self._worker, self._workers = worker, workers
        self._epoch, self._position = 0, worker
        self._order = self._shuffled()

    def _shuffled(self) -> NDArray[np.int64]:
        if not self._shuffle:
            return np.arange(self.count)
        text = f"{self.tasks.id}|{self._seed}|{self._epoch}"
        order: NDArray[np.int64] = keyed(text).permutation(self.count)
        return order

    def draw(self, stream: Generator) -> Task:
        """Return the next task of the epoch; `stream` is not used."""
        if self._position >= self.count:
            self._epoch, self._position = self._epoch + 1, self._worker
            self._order = self._shuffled()
        task = self.tasks[int(self._order[self._position])]
        self._position += self._workers
        return task

    def state(self) -> State:
        """Return epoch and position."""
        return {"epoch": self._epoch, "position": self._position}

    def load(self, state: Mapping[str, JSON]) -> None:
        """Go on at an epoch and position."""
        self._epoch, self._position = state["epoch"], state["position"]
        self._order = self._shuffled()


class Replay(Sequential):
    """Gives the tasks with the ids one asked for, again and again, in that order."""

    def __init__(self, tasks: Source, *, ids: Sequence[str]) -> None:
        by_id: dict[str, Task] = {}
        if tasks.size is not None:
            by_id = {tasks[i].id: tasks[i] for i in range(tasks.size)}
        if strange := [name for name in ids if name not in by_id] or (not ids and ["(none)"]):
            like = nearest(strange[0], by_id)
            asked = f"; did you mean {like!r}?" if like else "; give ids of this set"
            raise ValueError(f"replay: the set {tasks.id!r} has no task {strange[0]!r}{asked}")
        super().__init__(_Chosen(tasks.id, [by_id[name] for name in ids]), shuffle=False)


class _Chosen:
    """A few tasks in a fixed order, as a source."""

    lines: Lines | None = None

    def __init__(self, name: str, tasks: Sequence[Task]) -> None:
        self.id, self._tasks, self.size = name, tasks, len(tasks)

    def __getitem__(self, index: int, /) -> Task:
        return self._tasks[index]


class Staged(Curriculum):
    """Draws tasks up to a difficulty that rises when the mean score reaches `promote`."""

    def __init__(
        self,
        tasks: Source,
        *,
        thresholds: Sequence[float],
        promote: float = 0.9,
        rate: float = 0.02,
        least: int = 64,
    ) -> None:
        """Fix the stages.

        Args:
            tasks: The set; each task with a `difficulty`.
            thresholds: Greatest difficulty of each stage, rising.
            promote: Mean score that opens the next stage.
            rate: Rate of the moving average of scores.
            least: Scores that a stage must have seen.
        """
        super().__init__(tasks)
        if list(thresholds) != sorted(thresholds) or not thresholds:
            raise ValueError(f"staged: thresholds are {list(thresholds)}; give rising numbers")
        difficulty = np.array([task.difficulty for task in self.all()])
        self._stages = [np.flatnonzero(difficulty <= limit) for limit in thresholds]
        if not len(self._stages[0]):
            raise ValueError(
                f"staged: no task has difficulty <= {thresholds[0]} (the easiest has "
                f"{difficulty.min():g}); raise the first threshold"
            )
        self._promote, self._rate, self._least = promote, rate, least
        self._stage, self._mean, self._seen = 0, 0.0, 0

    def draw(self, stream: Generator) -> Task:
        """Return a task of the stages that are open."""
        open_ = self._stages[self._stage]
        return self.tasks[int(open_[stream.integers(len(open_))])]

    def update(self, task_id: str, score: float) -> None:
        """Move the mean; open the next stage where it is high enough."""
        self._seen += 1
        self._mean += max(self._rate, 1 / self._seen) * (score - self._mean)
        ready = self._seen >= self._least and self._mean >= self._promote
        if ready and self._stage + 1 < len(self._stages):
            self._stage, self._mean, self._seen = self._stage + 1, 0.0, 0

    def state(self) -> State:
        """Return stage, mean score and number of scores."""
        return {"stage": self._stage, "mean": self._mean, "seen": self._seen}

    def load(self, state: Mapping[str, JSON]) -> None:
        """Go on at a stage."""
        self._stage, self._mean, self._seen = state["stage"], state["mean"], state["seen"]


class Scored(Curriculum):
    """Draws each task by a weight that its last scores decide."""

    def __init__(
        self,
        tasks: Source,
        value: Callable[[Sequence[float]], float],
        *,
        window: int,
        explore: float,
    ) -> None:
        """Begin with no scores.

        Args:
            tasks: The set.
            value: Weight of a task with these last scores; an empty sequence: not tried yet.
            window: Scores kept of each task.
            explore: Probability of any task alike.
        """
        super().__init__(tasks)
        if window < 2 or not 0 <= explore <= 1:
            raise ValueError(
                f"window is {window} and explore {explore}; give window >= 2, explore in [0, 1]"
            )
        self._value, self._window, self._explore = value, window, explore
        self._numbers = {task.id: i for i, task in enumerate(self.all())}
        self._recent: dict[int, list[float]] = {}
        self._values = np.full(self.count, value([]))

    def draw(self, stream: Generator) -> Task:
        """Return a task by its weight, or any task with probability `explore`."""
        values = self._values
        if values.any():
            values = (1 - self._explore) * values / values.sum() + self._explore / len(values)
        return self.tasks[_pick(values, stream)]

    def update(self, task_id: str, score: float) -> None:
        """Keep a score; ids of other sets are passed over."""
        number = self._numbers.get(task_id)
        if number is not None:
            scores = [*self._recent.get(number, ()), float(score)][-self._window :]
            self._recent[number] = scores
            self._values[number] = self._value(scores)

    def state(self) -> State:
        """Return the last scores by task id."""
        names = list(self._numbers)
        return {"scores": {names[i]: list(s) for i, s in sorted(self._recent.items())}}

    def load(self, state: Mapping[str, JSON]) -> None:
        """Take over the scores of tasks that are in this set."""
        scores: Mapping[str, list[float]] = state["scores"]
        self._recent = {self._numbers[n]: list(s) for n, s in scores.items() if n in self._numbers}
        self._values[:] = self._value([])
        for number, recent in self._recent.items():
            self._values[number] = self._value(recent)


def learning_progress(tasks: Source, *, window: int = 20, explore: float = 0.1) -> Scored:
    """Draw in proportion to |change of success|, with a tenth for all tasks alike."""

    def change(scores: Sequence[float]) -> float:
        half = len(scores) // 2
        if not half:
            return 0.0
        return abs(math.fsum(scores[-half:]) - math.fsum(scores[:half])) / half

    return Scored(tasks, change, window=window, explore=explore)


def learnable(tasks: Source, *, window: int = 16, explore: float = 0.0) -> Scored:
    """Draw in proportion to s(1 - s): what is all right or all wrong is passed over."""

    def spread(scores: Sequence[float]) -> float:
        s = mean(scores)
        return max(s * (1 - s), 0.0)

    return Scored(tasks, spread, window=window, explore=explore)


def adversarial(
    tasks: Source, *, eta: float = 0.3, window: int = 16, explore: float = 0.0
) -> Scored:
    """Draw in proportion to exp(fail rate / eta)."""
    if eta <= 0:
        raise ValueError(f"adversarial: eta is {eta}; give more than 0")

    def hardness(scores: Sequence[float]) -> float:
        return math.exp(-mean(scores) / eta)

    return Scored(tasks, hardness, window=window, explore=explore)


def mean(scores: Sequence[float]) -> float:
    """Return the mean of the scores; 1/2 for a task not tried yet."""
    return math.fsum(scores) / len(scores) if scores else 0.5


class Streamed(Curriculum):
    """Reads a file from front to back through a shuffle buffer; its place is a byte offset."""

    def __init__(self, tasks: Source, *, buffer: int = 1024) -> None:
        super().__init__(tasks)
        if tasks.lines is None:
            raise ValueError(f"streamed: {tasks.id!r} is in memory; load it with stream=True")
        self._lines, self._size = tasks.lines, buffer
        self._buffer: list[int] = []
        self._offset = self._epoch = 0

    def draw(self, stream: Generator) -> Task:
        """Return a task of the buffer, which the next line of the file replaces."""
        self._fill()
        if not self._buffer:
            self._epoch, self._offset = self._epoch + 1, 0
            self._fill()
        if not self._buffer:
            raise ValueError(f"{self._lines.path}: the file holds no task")
        place = int(stream.integers(len(self._buffer)))
        offset, self._buffer[place] = self._buffer[place], self._buffer[-1]
        self._buffer.pop()
        return self._lines.at(offset)

    def _fill(self) -> None:
        found, self._offset = self._lines.following(self._offset, self._size - len(self._buffer))
        self._buffer += found

    def state(self) -> State:
        """Return the place in the file and the offsets in the buffer."""
        return {"epoch": self._epoch, "offset": self._offset, "buffer": list(self._buffer)}

    def load(self, state: Mapping[str, JSON]) -> None:
        """Go on at a place, without reading what lies before it."""
        self._epoch, self._offset = state["epoch"], state["offset"]
        self._buffer = list(state["buffer"])


def keyed(text: str) -> Generator:
    """Return a generator that depends on `text` alone."""
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
