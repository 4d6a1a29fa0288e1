"""What callers ask for, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from . import wire
from .cell import Request
from .errors import BadRequest
from .limits import Job, Limits, MiB

_PATHS = 64  # in one call
_PATH_BYTES = 4096
_MOST = 15 * MiB  # of one request
_LANGUAGES = wire.LANGUAGES


def encode(text: str) -> bytes:
    """Any text as bytes, lone surrogates too."""
    return text.encode("utf-8", "surrogatepass")


def encode_input(data: object) -> bytes:
    """Text or bytes as bytes.

    Raises:
        BadRequest: Neither.
    """
    if isinstance(data, str):
        return encode(data)
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    raise BadRequest(f"got {type(data).__name__} as content; give str or bytes")


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
    check_code(job.code, "code")
    if job.language not in _LANGUAGES:
        raise BadRequest(f"language is {job.language!r}; give one of {', '.join(_LANGUAGES)}")
    if job.seed is not None and (isinstance(job.seed, bool) or not _is_int(job.seed)):
        raise BadRequest(f"seed is {job.seed!r}; give an int or None")
    if job.seed is not None and job.seed.bit_length() > 4096:
        raise BadRequest("seed has over 4096 bits; give a smaller int")
    files = check_files(job.files)
    stdin = encode_input(job.stdin)
    _check_size(len(encode(job.code)) + len(stdin) + sum(map(len, files.values())))
    limits = check_limits(default if job.limits is None else job.limits)
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


def _check_size(size: int) -> None:
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
    _check_size(len(encode(code)) + beside)
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
    return {check_path(path): encode_input(data) for path, data in files.items()}


def check_fetch(paths: Sequence[str]) -> tuple[str, ...]:
    """Paths to bring back.

    Raises:
        BadRequest: Too many, or a bad path.
    """
    if isinstance(paths, str):
        raise BadRequest(f"fetch is the str {paths!r}; give a sequence of paths")
    if len(paths) > _PATHS:
        raise BadRequest(f"{len(paths)} paths to fetch; at most {_PATHS} in one call")
    return tuple(dict.fromkeys(check_path(path) for path in paths))


def check_machine(limits: Limits) -> None:
    """Refuses what this machine does not have.

    Raises:
        BadRequest: More memory than is built in.
    """
    built_in = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory", "disk"):
        value = getattr(limits, name)
        if value > built_in:
            raise BadRequest(
                f"Limits.{name} is {value} bytes; this machine has {built_in}: give less"
            )
