"""What callers ask for, checked before anything runs."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Any

from . import wire
from .cell import Request
from .errors import BadRequest
from .limits import Job, Limits, MiB, show

_PATHS = 64  # in one call
_PATH_BYTES = 4096
_MOST = 15 * MiB  # of one request
BRANCHES = 2  # inodes of a session's place for its branches (guest/park.py)
_WORKERS = 4096  # at the same time, of one sandbox
_LANGUAGES = wire.LANGUAGES
_PAGE = 4096  # bytes; a file takes whole ones
_BUILT_IN = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes


def encode(text: str) -> bytes:
    """Any text as bytes, lone surrogates too."""
    return text.encode("utf-8", "surrogatepass")


def encode_input(data: object, what: str = "content") -> bytes:
    """Text or bytes as bytes.

    Args:
        data: What the caller gave.
        what: Its name, for him.

    Raises:
        BadRequest: Neither.
    """
    if isinstance(data, str):
        return encode(data)
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    raise BadRequest(f"got {type(data).__name__} as {what}; give str or bytes")


def check_path(path: object) -> str:
    """A path inside the work directory.

    Raises:
        BadRequest: Absolute, not normal, or leaving the directory.

    >>> check_path("a/b.txt")
    'a/b.txt'
    """
    if not isinstance(path, str):
        raise BadRequest(f"path {path!r} is {type(path).__name__}; give a str")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise BadRequest(f"path {path!r} holds a lone surrogate; give valid text") from None
    parts = path.split("/")
    if not path or "\0" in path or size > _PATH_BYTES or path.startswith("/"):
        raise BadRequest(f"path {path[:80]!r}: give a relative path of 1 to {_PATH_BYTES} bytes")
    if any(part in ("", ".", "..") for part in parts):
        raise BadRequest(f"path {path[:80]!r} is not normal; leave out '.', '..' and empty parts")
    if any(len(part.encode()) > 255 for part in parts):
        raise BadRequest(f"path {path[:80]!r} has a part of over 255 bytes; shorten it")
    return path


def request_of(job: Job, default: Limits) -> Request:
    """A job as a request.

    Args:
        job: What the caller wants.
        default: Limits where the job names none.

    Raises:
        BadRequest: Something in it cannot be.
    """
    if not isinstance(job.code, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadRequest(f"code is {type(job.code).__name__}; give a str")
    if job.language not in _LANGUAGES:
        raise BadRequest(f"language is {job.language!r}; give one of {', '.join(_LANGUAGES)}")
    if job.seed is not None and (isinstance(job.seed, bool) or not _is_int(job.seed)):
        raise BadRequest(f"seed is {job.seed!r}; give an int or None")
    if job.seed is not None and job.seed.bit_length() > 4096:
        raise BadRequest("seed has over 4096 bits; give a smaller int")
    files = check_files(job.files)
    stdin = encode_input(job.stdin, "stdin")
    check_size(len(encode(job.code)) + len(stdin) + sum(map(len, files.values())))
    limits = check_limits(default if job.limits is None else job.limits)
    if files or stdin:
        check_room(files, stdin, limits)
    return Request(
        job.code,
        stdin,
        files,
        check_fetch(job.fetch),
        limits,
        job.language,
        job.seed,
        job.want_value,
    )


def check_room(
    files: Mapping[str, bytes], stdin: bytes, limits: Limits, *, beside: int = 0
) -> None:
    """Refuses what could not be put into the work directory: a guest is not to blame for it.

    Args:
        files: To put there.
        stdin: Which takes room there, too.
        limits: Of the program.
        beside: Inodes that are ours.

    Raises:
        BadRequest: It is more than the limits allow.
    """
    sizes = [(len(stdin), "stdin"), *((len(data), f"files[{at!r}]") for at, data in files.items())]
    largest, name = max(sizes)
    if largest > limits.file_size:
        raise BadRequest(f"{name} has {largest} bytes; Limits.file_size is {limits.file_size}")
    total = sum(-(-size // _PAGE) * _PAGE for size, _ in sizes)
    if total > -(-limits.disk // _PAGE) * _PAGE:
        raise BadRequest(
            f"files and stdin take {total} bytes, in pages of {_PAGE}; Limits.disk is {limits.disk}"
        )
    folders = {path[:at] for path in files for at, sign in enumerate(path) if sign == "/"}
    for path in sorted(folders & files.keys()):
        raise BadRequest(f"files holds {path!r} and paths below it; it can be one of the two")
    count = len(files) + len(folders) + bool(stdin) + beside
    if count > limits.inodes:
        raise BadRequest(f"files need {count} inodes; Limits.inodes is {limits.inodes}")


def check_size(size: int) -> None:
    """Refuses what is too long for one frame.

    Raises:
        BadRequest: It is.
    """
    if size > _MOST:
        raise BadRequest(f"the request has {size} bytes; at most {_MOST} travel at once")


def check_limits(limits: object) -> Limits:
    """Limits, whatever the caller gave as such.

    Raises:
        BadRequest: They are something else.
    """
    if not isinstance(limits, Limits):
        raise BadRequest(f"limits is {type(limits).__name__}; give a Limits")
    return limits


def check_code(code: object, what: str, beside: int = 0) -> str:
    """A program's text that can travel, with so many bytes of other things.

    Raises:
        BadRequest: No text, or too much of it.
    """
    if not isinstance(code, str):
        raise BadRequest(f"{what} is {type(code).__name__}; give a str")
    check_size(len(encode(code)) + beside)
    return code


def _is_int(value: object) -> bool:
    return isinstance(value, int)


def check_files(files: Mapping[str, bytes | str]) -> dict[str, bytes]:
    """Files to put into the work directory.

    Raises:
        BadRequest: Too many, a bad path, or no content.
    """
    if not isinstance(files, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadRequest(f"files is {type(files).__name__}; give a mapping of paths to contents")
    if len(files) > _PATHS:
        raise BadRequest(f"{len(files)} files; at most {_PATHS} in one call")
    return {
        check_path(path): encode_input(data, f"files[{path!r}]") for path, data in files.items()
    }


def check_fetch(paths: Sequence[str]) -> tuple[str, ...]:
    """Paths to bring back.

    Raises:
        BadRequest: Too many, or a bad path.
    """
    if not paths and isinstance(paths, tuple):
        return ()
    if isinstance(paths, str) or not isinstance(paths, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadRequest(f"fetch is {paths!r}; give a sequence of paths")
    asked = tuple(paths)
    if len(asked) > _PATHS:
        raise BadRequest(f"{len(asked)} paths to fetch; at most {_PATHS} in one call")
    return tuple(dict.fromkeys(map(check_path, asked)))


def check_machine(limits: Limits) -> None:
    """Refuses what this machine does not have.

    Raises:
        BadRequest: More memory than is built in.
    """
    for name, value in (("memory", limits.memory), ("disk", limits.disk)):
        if value > _BUILT_IN:
            raise BadRequest(
                f"Limits.{name} is {value} bytes; this machine has {_BUILT_IN}: give less"
            )


def check_options(
    limits: object,
    workers: object,
    python: object,
    preload: Sequence[str],
    readable: Sequence[str | os.PathLike[str]],
    image: object,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a sandbox is made with.

    Returns:
        `preload`, and `readable` as absolute paths without links.

    Raises:
        BadRequest: Something in it cannot be.
    """
    check_limits(limits)
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int)):
        raise BadRequest(f"workers is {workers!r}; give a whole number, or None for all cores")
    if workers is not None and not 1 <= workers <= _WORKERS:
        raise BadRequest(f"workers is {show(workers)}; give 1 to {_WORKERS}, or None for all cores")
    for name, value in (("python", python), ("image", image)):
        if value is not None and (not isinstance(value, str) or not value or "\0" in value):
            raise BadRequest(f"{name} is {value!r}; give a str, or None")
    for name, values in (("preload", preload), ("readable", readable)):
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadRequest(f"{name} is {values!r}; give a sequence, such as [{values!r}]")
    modules = tuple(preload)
    for module in modules:
        if not isinstance(module, str) or not module.replace(".", "_").isidentifier():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadRequest(f"preload holds {module!r}; give names of modules")
    return modules, tuple(map(_check_readable, readable))


def _check_readable(path: str | os.PathLike[str]) -> str:
    try:
        found = os.path.realpath(path)
        exists = os.path.exists(found)
    except (TypeError, ValueError):
        found, exists = "", False
    if not exists:
        raise BadRequest(f"readable holds {path!r}; give paths that exist")
    return found


def check_many(name: str, items: Any, what: str, kind: type | UnionType) -> None:
    """Refuses what does not hold many of something; a text would be taken letter by letter.

    Raises:
        BadRequest: It does not.
    """
    given = _kind(items)
    if issubclass(given, str | bytes | Mapping) or not issubclass(given, kind):
        raise BadRequest(f"{name} is {given.__name__}; give a sequence of {what}")


def _kind(value: object) -> type:
    return type(value)


def check_pair(item: Any) -> tuple[Any, Any]:
    """A candidate and its tests.

    Raises:
        BadRequest: It is no pair.
    """
    given = _kind(item)
    if issubclass(given, str | bytes) or not issubclass(given, Sequence) or len(item) != 2:
        raise BadRequest(f"pairs holds {reprlib.repr(item)}; give pairs (candidate, tests)")
    return item[0], item[1]
