"""Where episodes come from: tasks, sets of tasks, and the sampler that draws them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, Self, cast, overload

import numpy as np

from . import lazy
from .curricula import keyed
from .lazy import Tasks
from .messages import JSON
from .problems import nearest
from .rows import (
    Lines,
    MissingFieldError,
    Row,
    Task,
    TaskError,
    checksum,
    files_of,
    missing,
    read,
    with_split,
)
from .sampler import CURRICULA, Sampler

__all__ = ["CURRICULA", "MissingFieldError", "Sampler", "Task", "TaskError", "TaskSet"]

Source = str | PathLike[str] | Iterable[Mapping[str, JSON]]


class Schema(Protocol):
    """What checks a row: `tools.TaskSchema`."""

    def faults(self, row: Mapping[str, JSON]) -> list[str]:
        """Return what is wrong with the row."""
        ...


class TaskSet(Sequence[Task]):
    """Tasks in a fixed order, in memory, on disk, or made on demand.

    Attributes:
        id: name of the set.
        left_out: ids of rows that were given and cannot be used here, in their order.

    >>> tasks = TaskSet.load([{"id": "a", "n": 1}, {"id": "b", "n": 2}])
    >>> [task["n"] for task in tasks.filter(lambda task: task["n"] > 1)]
    [2]
    """

    def __init__(
        self,
        tasks: Tasks,
        *,
        id: str = "tasks",
        curriculum: str = "uniform",
        left_out: Sequence[str] = (),
    ) -> None:
        self.id = id
        self.left_out = tuple(left_out)
        self._tasks = tasks
        self._curriculum = curriculum
        self._numbers: dict[str, int] | None = None

    @classmethod
    def load(
        cls,
        source: Source,
        *,
        split: str | None = None,
        fields: Mapping[str, str] | None = None,
        limit: int | None = None,
        stream: bool = False,
        sha256: str | None = None,
        schema: Schema | None = None,
    ) -> Self:
        """Read tasks.

        Args:
            source: A `.jsonl[.gz]`, `.json[.gz]` or `.parquet` file, a folder of them,
                "palaestra:NAME" for a set that ships here, or dicts.
            split: Keep only rows of this split; a file called `test.jsonl` holds split `test`.
            fields: New name -> name in the file, as `{"prompt": "question"}`.
            limit: Read no more rows than this.
            stream: Leave the rows on disk (one uncompressed JSONL file).
            sha256: The file's checksum; another content is refused.
            schema: The fields that are read, as a `tools.TaskSchema`; each row is checked.

        Raises:
            TaskError: With `file:line`, and what to do.
        """
        if not isinstance(source, (str, PathLike)):
            given = ((f"row {i}", row) for i, row in enumerate(source, 1))
            return cls(_collect(given, split, fields, limit, schema), id="rows")
        path = _located(source)
        files = files_of(path)
        if sha256 is not None:
            if len(files) != 1:
                raise TaskError(f"{path}: sha256 guards one file, the folder has {len(files)}")
            checksum(files[0], sha256)
        name = path.name.partition(".")[0]
        if stream:
            return cls(_lines(files, split, limit, fields, schema), id=name, curriculum="streamed")
        rows = (row for file in files for row in _rows(file))
        return cls(_collect(rows, split, fields, limit, schema), id=name)

    @classmethod
    def generate(
        cls,
        make: Callable[[np.random.Generator], Mapping[str, JSON]],
        *,
        id: str,
        size: int | None = None,
    ) -> Self:
        """Make tasks by a rule; task i depends on (id, i) only.

        Args:
            make: Draws the fields of one task from the generator it is given.
            id: Name of the set; part of each task's id.
            size: Number of tasks; None: as many as one likes.
        """
        return cls(lazy.Generated(make, id, size), id=id)

    @property
    def size(self) -> int | None:
        """Number of tasks; None: as many as one likes."""
        return None if (n := len(self._tasks)) == lazy.ENDLESS else n

    @property
    def lines(self) -> Lines | None:
        """The file behind a streamed set, else None."""
        return self._tasks if isinstance(self._tasks, Lines) else None

    def __len__(self) -> int:
        return len(self._tasks)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> TaskSet: ...
    def __getitem__(self, index: int | slice) -> Task | TaskSet:
        if isinstance(index, slice):
            return self._choose(range(*index.indices(len(self))))
        size = len(self._tasks)
        if not -size <= index < size:
            raise IndexError(f"task {index} of {size} in the set {self.id!r}")
        return self._tasks[index % size]

    def __iter__(self) -> Iterator[Task]:
        return (self._tasks[i] for i in range(len(self._tasks)))

    def __repr__(self) -> str:
        size = "without end" if self.size is None else f"{self.size:,} tasks"
        return f"TaskSet({self.id!r}, {size})"

    def find(self, key: str | int | Task) -> Task:
        """Return a task by id or number; a Task is returned as it is.

        Raises:
            TaskError: Where the set has no such task; the text names the nearest id.
        """
        if isinstance(key, Task):
            return key
        if not isinstance(key, str):
            return self[key]
        name, _, number = key.rpartition("-")
        if self.size is None and number.isdecimal() and name == self.id:
            return self[int(number)]
        if self._numbers is None and self.size is not None:
            self._numbers = {task.id: i for i, task in enumerate(self)}
        numbers = self._numbers or {}
        if key not in numbers:
            like = nearest(key, numbers)
            asked = f"did you mean {like!r}?" if like else "give an id or a number of this set"
            raise TaskError(f"the set {self.id!r} has no task {key!r}; {asked}")
        return self[numbers[key]]

    def split(self, **fractions: float) -> dict[str, TaskSet]:
        """Divide by the hash of the task id: adding rows moves nobody.

        Args:
            **fractions: Share of each part; together at most 1.
        """
        if any(f < 0 for f in fractions.values()) or sum(fractions.values()) > 1 + 1e-9:
            raise ValueError(f"fractions are {fractions}; give shares >= 0, together at most 1")
        if isinstance(self._tasks, lazy.Generated) and self.size is None:
            make = self._tasks.make  # no end to hash: each part is a set of its own
            parts = {p: TaskSet.generate(make, id=f"{self.id}/{p}") for p in fractions}
        else:
            ends = list(np.cumsum(list(fractions.values())))
            homes = [np.searchsorted(ends, share_of(task.id), "right") for task in self._all()]
            parts = {
                part: self._choose([i for i, home in enumerate(homes) if home == number])
                for number, part in enumerate(fractions)
            }
        return {name: part.map(_named(name)) for name, part in parts.items()}

    def shard(self, worker: int, workers: int) -> TaskSet:
        """Return what worker `worker` of `workers` sees: disjoint parts that cover the set."""
        if not 0 <= worker < workers:
            raise ValueError(f"worker is {worker} of {workers}; give 0 <= worker < workers")
        return self._choose(range(worker, len(self), workers))

    def filter(self, keep: Callable[[Task], bool]) -> TaskSet:
        """Return the tasks for which `keep` says yes."""
        if self.size is None:
            return self._new(lazy.Kept(self._tasks, keep))
        return self._choose([i for i, task in enumerate(self) if keep(task)])

    def map(self, change: Callable[[Task], Mapping[str, JSON]]) -> TaskSet:
        """Return the tasks as `change` makes them, when they are asked for."""

        def changed(task: Task) -> Task:
            row = change(task)
            return row if isinstance(row, Task) else Task({"id": task.id, **row})

        return self._new(lazy.Mapped(self._tasks, changed))

    def shuffle(self, seed: int) -> TaskSet:
        """Return the tasks in an order that `seed` decides."""
        order = keyed(f"shuffle|{seed}").permutation(len(self._all()))
        return self._choose(order.tolist())

    def take(self, n: int) -> TaskSet:
        """Return the first `n` tasks, or all there are."""
        return self._choose(range(min(n, len(self))))

    def concat(self, *others: TaskSet) -> TaskSet:
        """Return the tasks of this set, then those of the others.

        Raises:
            TaskError: When two tasks have one id.
        """
        tasks = [task for part in (self, *others) for task in part._all()]
        _unique(tasks)
        return self._new(tasks)

    def mix(self, *others: TaskSet, weights: Sequence[float]) -> TaskSet:
        """Return all tasks, drawn so that each set has its share.

        Args:
            *others: Further sets.
            weights: Share of this set, then of the others; their scale is free.
        """
        parts = (self, *others)
        if len(weights) != len(parts) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"weights are {list(weights)}; give {len(parts)} shares, none below 0")
        tasks: list[Task] = []
        for part, share in zip(parts, weights, strict=True):
            rows = part._all()
            total = sum(task.weight for task in rows)
            tasks += [task.replace(weight=share * task.weight / total) for task in rows]
        _unique(tasks)
        return TaskSet(tasks, id=self.id, curriculum="weighted", left_out=self.left_out)

    def sampler(self, curriculum: str | None = None, **options: Any) -> Sampler:
        """Return what draws tasks.

        Args:
            curriculum: A key of `CURRICULA`; None: `weighted` for a mix, `streamed` for a set on
                disk, else `uniform`.
            **options: What the curriculum takes.
        """
        return Sampler(self, curriculum or self._curriculum, **options)

    def _new(self, tasks: Tasks) -> TaskSet:
        own = self._curriculum if self._curriculum != "streamed" else "uniform"
        return TaskSet(tasks, id=self.id, curriculum=own, left_out=self.left_out)

    def _choose(self, numbers: Sequence[int]) -> TaskSet:
        return self._new(lazy.Chosen(self._tasks, numbers))

    def _all(self) -> list[Task]:
        if self.size is None:
            raise ValueError(f"the set {self.id!r} has no end; take some first: tasks.take(1000)")
        return list(self)


def share_of(task_id: str) -> float:
    """Return the number in [0, 1) that decides to which part of a split a task belongs."""
    digest = hashlib.blake2b(task_id.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def _named(split: str) -> Callable[[Task], Task]:
    return lambda task: task.replace(split=split)


def _located(source: str | PathLike[str]) -> Path:
    if isinstance(source, str) and source.startswith("palaestra:"):
        name = source.removeprefix("palaestra:")
        folder = Path(__file__).parent / "data"
        found = sorted(folder.glob(f"{name}.jsonl*"))
        if not found:
            ship = sorted({p.name.partition(".")[0] for p in folder.glob("*.jsonl*")})
            listed = ", ".join(ship) or "none"
            raise TaskError(f"{source}: no such set ships here; those that do: {listed}")
        return found[0]
    return Path(source)


def _rows(path: Path) -> Iterator[Row]:
    parquet = path.name.endswith(".parquet")
    return with_split(_read_parquet(path) if parquet else read(path), path)


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise TaskError(
            f"{path}: reading Parquet needs pyarrow; install it: pip install 'palaestra[data]'"
        ) from None
    number = 0
    try:
        for batch in cast(Any, pq).ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:row {number}", row
    except (OSError, ValueError) as error:
        raise TaskError(f"{path}: not a Parquet file that can be read ({error})") from None


def _collect(
    rows: Iterable[Row],
    split: str | None,
    fields: Mapping[str, str] | None,
    limit: int | None,
    schema: Schema | None,
) -> list[Task]:
    tasks: list[Task] = []
    seen: dict[str, int] = {}
    for origin, row in rows:
        if limit is not None and len(tasks) >= limit:
            break
        if split is not None and row.get("split") != split:
            continue
        task = _dress((origin, row), fields, schema)
        if row.get("id") is None and task.id in seen:  # equal content: told apart by number
            seen[task.id] += 1
            task = task.replace(id=f"{task.id}-{seen[task.id]}")
        seen.setdefault(task.id, 1)
        tasks.append(task)
    _unique(tasks)
    return tasks


def _dress(row: Row, fields: Mapping[str, str] | None, schema: Schema | None) -> Task:
    origin, values = row[0], dict(row[1])
    for new, old in (fields or {}).items():
        if old not in values:
            raise missing(old, values, origin)
        values[new] = values.pop(old)
    if schema is not None and (faults := schema.faults(values)):
        kind = MissingFieldError if " is missing (" in faults[0] else TaskError
        raise kind(f"{origin}: {'; '.join(faults)}")
    return Task(values, origin=origin)


def _lines(
    files: list[Path],
    split: str | None,
    limit: int | None,
    fields: Mapping[str, str] | None,
    schema: Schema | None,
) -> Lines:
    path = files[0]
    if len(files) != 1 or not path.name.endswith(".jsonl"):
        raise TaskError(f"{path}: stream=True reads one uncompressed .jsonl file; unpack it first")
    if split is not None or limit is not None:
        raise TaskError(f"{path}: split and limit need all rows; leave them out with stream=True")
    return Lines(path, lambda row: _dress(row, fields, schema))


def _unique(tasks: Sequence[Task]) -> None:
    first: dict[str, Task] = {}
    for task in tasks:
        other = first.setdefault(task.id, task)
        if other is not task:
            here, there = task.origin or "a task", other.origin or "another"
            raise TaskError(f"{here}: id {task.id!r} is also that of {there}; ids must be unique")
