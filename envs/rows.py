"""One task, and the files that tasks are read from."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from .messages import JSON

__all__ = [
    "MissingFieldError",
    "Row",
    "Task",
    "TaskError",
    "checksum",
    "files_of",
    "read",
    "with_split",
]

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
SPLITS = ("train", "valid", "validation", "dev", "test")


class TaskError(ValueError):
    """A task file that cannot be used; the text begins with file and line.

    The tree of this file: TaskError > MissingFieldError.
    """


class MissingFieldError(TaskError, KeyError):
    """A field that is read, and that the row does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


class Task(Mapping[str, JSON]):
    """One problem: a frozen row, with names for the fields every family knows.

    >>> task = Task({"id": "a", "prompt": "1 + 1 = ?", "answer": "2"})
    >>> task.prompt, task["answer"], task.weight
    ('1 + 1 = ?', '2', 1.0)
    """

    __slots__ = ("_row", "id", "origin")

    def __init__(self, row: Mapping[str, JSON], *, origin: str = "") -> None:
        """Freeze a row.

        Args:
            row: The fields; an absent `id` is made from their content.
            origin: Where the row comes from (`file:line`), for messages.
        """
        given = row.get("id")
        self.id: str = content_id(row) if given is None else str(given)
        self.origin = origin
        self._row: Mapping[str, JSON] = {**row, "id": self.id}

    def __getitem__(self, name: str) -> JSON:
        try:
            return self._row[name]
        except KeyError:
            raise missing(name, self._row, self.origin or f"task {self.id}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._row

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def __repr__(self) -> str:
        return f"Task({self.id!r})"

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (dict(self._row), self.origin)

    @property
    def prompt(self) -> JSON:
        """What the agent is told: text, or chat messages; empty when absent."""
        return self._row.get("prompt", "")

    @property
    def answer(self) -> JSON:
        """The reference answer; None when absent."""
        return self._row.get("answer")

    @property
    def meta(self) -> Mapping[str, JSON]:
        """What else is known about the task."""
        return self._row.get("meta") or {}

    @property
    def split(self) -> str:
        """The part of the data it belongs to; empty when absent."""
        return self._row.get("split") or ""

    @property
    def weight(self) -> float:
        """How often the curriculum `weighted` draws it, relative to others."""
        return float(self._row.get("weight", 1.0))

    @property
    def difficulty(self) -> float:
        """What the curriculum `staged` compares with its thresholds."""
        return float(self._row.get("difficulty", 0.0))

    @property
    def family(self) -> str:
        """The kind of task within its set; empty when absent."""
        return self._row.get("family") or ""

    def replace(self, **fields: JSON) -> Task:
        """Return a task with some fields changed; the id stays unless it is given."""
        return Task({**self._row, **fields}, origin=self.origin)


def _restore(row: Mapping[str, JSON], origin: str) -> Task:
    return Task(row, origin=origin)


def missing(name: str, row: Mapping[str, JSON], origin: str) -> MissingFieldError:
    """Return the error for a field that a row lacks."""
    has = ", ".join(list(row)[:20]) or "nothing"
    return MissingFieldError(f"{origin}: field {name!r} is missing (the row has: {has})")


def content_id(row: Mapping[str, JSON]) -> str:
    """Return an id made of what the row says: 16 hexadecimal digits."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


Row = tuple[str, Mapping[str, JSON]]  # origin, fields


def files_of(source: Path) -> list[Path]:
    """Return the task files that a path means: itself, or those of the folder, by name.

    Raises:
        TaskError: Where there is no such file, or none of a known kind.
    """
    known = ", ".join(SUFFIXES)
    if source.is_dir():
        files = sorted(p for p in source.iterdir() if p.name.endswith(SUFFIXES))
        if not files:
            raise TaskError(f"{source}: the folder holds no task file; known are {known}")
        return files
    if not source.exists():
        raise TaskError(f"{source}: there is no such file or folder; give a path to {known}")
    if not source.name.endswith(SUFFIXES):
        raise TaskError(f"{source}: unknown kind of file; known are {known}, or a folder of them")
    return [source]


def read(path: Path) -> Iterator[Row]:
    """Read the rows of one JSON or JSONL file.

    Raises:
        TaskError: At a row that is no JSON object, with `file:line`.
    """
    if path.name.endswith((".json", ".json.gz")):
        return _read_json(path)
    return _read_lines(path)


def with_split(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """Give rows without a split that of their file, where it is called `train`, `test`, ..."""
    part = path.name.partition(".")[0]
    for origin, row in rows:
        named = part in SPLITS and "split" not in row
        yield origin, {**row, "split": part} if named else row


def _read_lines(path: Path) -> Iterator[Row]:
    with _opened(path) as lines:
        for number, line in enumerate(_guarded(lines, path), 1):
            if line.strip():
                yield f"{path}:{number}", parse_line(line, f"{path}:{number}")


def _guarded(lines: Iterable[bytes], path: Path) -> Iterator[bytes]:
    try:
        yield from lines
    except (OSError, EOFError) as error:  # a gzip file that is cut or is none
        raise TaskError(f"{path}: cannot be read to its end ({error})") from None


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def parse_line(line: bytes, origin: str) -> Mapping[str, JSON]:
    """Read one line of JSONL.

    Raises:
        TaskError: Where it is no JSON object.
    """
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_no_constant, parse_float=finite)
    except UnicodeDecodeError as error:
        raise TaskError(f"{origin}: byte {error.start} is not UTF-8; save the file so") from None
    except json.JSONDecodeError as error:
        at = f"{error.msg} at character {error.pos + 1}"
        raise TaskError(f"{origin}: not valid JSON: {at}; give one object a line") from None
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{origin}: not valid JSON: {error}; give one object a line") from None
    return _object(row, origin)


def finite(text: str) -> float:
    """Return a float; ValueError where it is too large to be one."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


def _object(row: object, origin: str) -> Mapping[str, JSON]:
    if not isinstance(row, dict):
        raise TaskError(f"{origin}: the row is a {type(row).__name__}, wanted a JSON object")
    return cast(Mapping[str, JSON], row)


def _read_json(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        text: bytes = b"".join(_guarded(file, path))
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise TaskError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(rows, list):
        raise TaskError(f"{path}: holds a {type(rows).__name__}, wanted a list of objects")
    for number, row in enumerate(cast(list[object], rows), 1):
        yield f"{path}:row {number}", _object(row, f"{path}:row {number}")


def checksum(path: Path, wanted: str) -> None:
    """Compare a file's SHA-256 with the one that was asked for.

    Raises:
        TaskError: Where they differ.
    """
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != wanted.lower():
        raise TaskError(f"{path}: its SHA-256 is {got}, wanted {wanted}; the file has changed")


class Lines:
    """The tasks of a JSONL file that stays on disk, by byte offset or by number."""

    def __init__(self, path: Path, dress: Callable[[Row], Task]) -> None:
        """Open nothing yet.

        Args:
            path: An uncompressed JSONL file.
            dress: Makes a checked task of a row.
        """
        self.path = path
        self._dress = dress
        self._offsets: list[int] | None = None

    def at(self, offset: int) -> Task:
        """Return the task whose line begins at `offset`."""
        with self.path.open("rb") as file:
            file.seek(offset)
            line = file.readline()
            try:
                return self._dress((f"{self.path}:byte {offset}", parse_line(line, "")))
            except TaskError as error:
                file.seek(0)
                number = file.read(offset).count(b"\n") + 1
                text = str(error).removeprefix(f"{self.path}:byte {offset}").removeprefix(": ")
                raise type(error)(f"{self.path}:{number}: {text}") from None

    def following(self, offset: int, count: int) -> tuple[list[int], int]:
        """Return the offsets of up to `count` rows from `offset` on, and where to go on."""
        found: list[int] = []
        with self.path.open("rb") as file:
            file.seek(offset)
            while len(found) < count and (line := file.readline()):
                if line.strip():
                    found.append(offset)
                offset += len(line)
        return found, offset

    def _all(self) -> list[int]:
        if self._offsets is None:
            self._offsets, _ = self.following(0, 1 << 62)
        return self._offsets

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, index: int) -> Task:
        return self.at(self._all()[index])
