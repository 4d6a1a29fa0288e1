"""Answers of the network on file: recorded once, replayed ever after, so that training repeats."""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import threading
from os import PathLike
from typing import Any, NamedTuple, cast

from .errors import BadRequest

_PASSING = 429  # this status, and those from 500 on, are of the moment: they are not recorded


class Answer(NamedTuple):
    """What a server said."""

    status: int
    body: bytes
    location: str = ""


class Cassette:
    """One JSON object a line; several processes may record into one file.

    The first answer to a URL counts: who comes later, in whichever process, is given that one.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        """Reads what was recorded; a file that does not exist is made at the first record.

        Raises:
            BadRequest: It cannot be written, or holds something else.
        """
        self._path = os.fspath(path)
        self._lock = threading.Lock()
        self._known: dict[str, Answer] = {}
        self._read = 0  # bytes of the file that are known
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as problem:
            words = f"Fetch.cassette {self._path!r}: {problem.strerror}; give a file in a folder"
            raise BadRequest(f"{words} that exists and can be written") from None
        try:
            self._catch_up(fd)
        finally:
            os.close(fd)

    def find(self, url: str) -> Answer | None:
        """The recorded answer."""
        return self._known.get(url)

    def add(self, url: str, answer: Answer) -> Answer:
        """Records an answer, unless another process was first.

        Returns:
            The answer that counts.

        Raises:
            OSError: The file cannot be written any more.
        """
        if answer.status == _PASSING or answer.status >= 500:
            return answer
        body = base64.b64encode(answer.body).decode()
        row = {"url": url, "status": answer.status, "body": body}
        line = json.dumps(row).encode() + b"\n"
        with self._lock:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                self._catch_up(fd)
                if url not in self._known:
                    os.ftruncate(fd, self._read)  # what a writer that died left of a line
                    _write_all(fd, line, self._read)
                    self._read += len(line)
                    self._known[url] = Answer(answer.status, answer.body)
            finally:
                os.close(fd)
            return self._known[url]

    def _catch_up(self, fd: int) -> None:
        """Takes the whole lines that were added since the last look."""
        data = _read_all(fd, self._read)
        end = data.rfind(b"\n") + 1
        for line in data[:end].splitlines():
            url, answer = self._parse(line)
            self._known.setdefault(url, answer)
        self._read += end

    def _parse(self, line: bytes) -> tuple[str, Answer]:
        try:
            row = cast("dict[str, Any]", json.loads(line))
            url, status, body = row["url"], row["status"], row["body"]
            if not (isinstance(url, str) and isinstance(status, int) and isinstance(body, str)):
                raise TypeError
            return url, Answer(status, base64.b64decode(body, validate=True))
        except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
            words = line[:60].decode(errors="replace")
            raise BadRequest(
                f"Fetch.cassette {self._path!r} holds the line {words!r}; it is no recording: "
                "give another file, or remove the line"
            ) from None


def _read_all(fd: int, start: int) -> bytes:
    found = bytearray()
    while piece := os.pread(fd, 1 << 20, start + len(found)):
        found += piece
    return bytes(found)


def _write_all(fd: int, data: bytes, start: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, start)
        view, start = view[written:], start + written
