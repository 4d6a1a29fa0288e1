"""Stand-ins for what is slow or leaves the process: a sandbox, a network, with given answers."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..tool_sandbox import Fetch, Job, Limits, MissingFile, Report, Result, Tests
from ..tool_sandbox.cassette import Answer as Page
from ..tool_sandbox.network import Broker, Target

Answer = Callable[[Job], Result]
Judge = Callable[[str, Tests], Report]


def silent(job: Job) -> Result:
    """Answers every job with a clean end and no output."""
    return Result("ok", 0)


def pass_all(candidate: str, tests: Tests) -> Report:
    """Says of every candidate that it passed."""
    return Report(True, 1.0, (), Result("ok", 0))


class FakeSandbox:
    """A sandbox that runs nothing: given functions answer in its place.

    Attributes:
        jobs: every job that was asked for, in order.
        graded: every candidate that was judged, in order.

    >>> sandbox = FakeSandbox(lambda job: Result("ok", 0, stdout=job.code.upper()))
    >>> sandbox.execute("print(1)").stdout
    'PRINT(1)'
    """

    def __init__(self, answer: Answer = silent, judge: Judge = pass_all) -> None:
        """Fixes the answers.

        Args:
            answer: says what comes of a job.
            judge: says what comes of a candidate.
        """
        self._answer, self._judge = answer, judge
        self.jobs: list[Job] = []
        self.graded: list[str] = []

    def execute(self, code: str, **options: Any) -> Result:
        """Answers one job."""
        return self._run(Job(code, **options))

    def map(self, codes: Iterable[str | Job], **options: Any) -> Iterator[Result]:
        """Answers jobs in order."""
        for code in codes:
            yield self._run(code if isinstance(code, Job) else Job(code, **options))

    def grade(self, candidate: str, tests: Tests, *, limits: Limits | None = None) -> Report:
        """Judges one candidate."""
        self.graded.append(candidate)
        return self._judge(candidate, tests)

    def grade_many(self, pairs: Iterable[tuple[str, Tests]], **options: Any) -> Iterator[Report]:
        """Judges candidates in order."""
        for candidate, tests in pairs:
            yield self.grade(candidate, tests)

    def session(
        self, *, limits: Limits | None = None, files: Mapping[str, bytes | str] | None = None
    ) -> FakeSession:
        """Opens a session whose code is answered as any other, and whose files are a dict."""
        return FakeSession(self, files or {})

    def close(self) -> None:
        """Ends nothing."""

    def _run(self, job: Job) -> Result:
        self.jobs.append(job)
        return self._answer(job)


class FakeSession:
    """A session of a `FakeSandbox`.

    Attributes:
        files: what was written, by path.
        alive: False once closed.
    """

    def __init__(self, sandbox: FakeSandbox, files: Mapping[str, bytes | str]) -> None:
        self._sandbox = sandbox
        self.files = {path: _bytes(data) for path, data in files.items()}
        self.alive = True

    def execute(self, code: str, *, stdin: str | bytes = b"", wall: float | None = None) -> Result:
        """Answers code like the sandbox."""
        return self._sandbox.execute(code, stdin=stdin)

    def write(self, path: str, data: bytes | str) -> None:
        """Keeps a file."""
        self.files[path] = _bytes(data)

    def read(self, path: str, *, limit: int = 1 << 20) -> bytes:
        """Returns a file.

        Raises:
            MissingFile: there is none of this name.
        """
        if path not in self.files:
            raise MissingFile(f"there is no file {path!r}")
        return self.files[path][:limit]

    def close(self) -> None:
        """Ends the session."""
        self.alive = False


def _bytes(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data


def ask(broker: Broker, *questions: str | bytes) -> list[tuple[int, bytes]]:
    """What a guest hears from a broker that it asks over its line: status and body of each answer.

    Args:
        broker: of a sandbox, or made by `answering`.
        questions: URLs, or bytes to be sent as they are.
    """
    found: list[tuple[int, bytes]] = []
    with socket.socket(fileno=broker.open()) as line, line.makefile("rb") as answers:
        for question in questions:
            data = question if isinstance(question, bytes) else json.dumps(question).encode()
            line.sendall(data + b"\n")
            head = json.loads(answers.readline())
            found.append((head["status"], answers.read(head["length"])))
    return found


def answering(fetch: Fetch, answers: Mapping[str, Page]) -> Broker:
    """A broker whose network is a mapping of normal URLs to answers."""

    def carry(target: Target, address: str, most: int, wall: float) -> Page:
        return answers[target.url]

    return Broker(fetch, resolver=lambda host, port: "203.0.113.5", carrier=carry)
