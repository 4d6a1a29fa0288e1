"""What an attack is: a program, what must become of it, and a look from outside."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import tempfile
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...tool_sandbox import Limits, MiB, Reason, Result, Sandbox, UnsafeSandboxWarning
from ..victims import carriers, until

# The wall is none: what should end by itself does so on a machine that stands still for a while.
SMALL = Limits(wall=60.0, memory=128 * MiB, disk=8 * MiB, inodes=256, processes=12)

# Put before every program. A line that begins with BROKEN is the only thing that counts.
HELPERS = r"""
import errno, os, sys
def broken(what):
    print("BROKEN", what, flush=True)
def refused(what, call, *allowed):
    # The call must be refused; a complaint about its (useless) arguments means that it was not.
    try:
        answer = call()
    except OSError as problem:
        kinds = allowed or (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EROFS)
        if problem.errno not in kinds:
            broken(f"{what}: {errno.errorcode.get(problem.errno, problem.errno)}")
    else:
        broken(f"{what} gave {answer!r}")
def gone(what, call):
    refused(what, call, errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.ESRCH,
            errno.ENOSYS, errno.EROFS, errno.ENXIO)
"""


@dataclass(frozen=True, slots=True)
class Attack:
    """One named case.

    Attributes:
        name: Unique among all.
        family: The file it stands in.
        run: Raises AssertionError with what did not hold.
        harms: Where it is not held it harms the machine; never given to `process`.
        only: Backends it makes sense on; empty for all.
    """

    name: str
    family: str
    run: Callable[[Sandbox, Outside], None]
    harms: bool = False
    only: tuple[str, ...] = ()


class Outside:
    """What an attack aims at, and how its traces are found: made by the host for one round."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"palaestra-mark-{secrets.token_hex(8)}"
        self.secret = f"palaestra-secret-{secrets.token_hex(16)}"
        self.canary = folder / "canary.txt"
        self.canary.write_text(self.secret)
        self.canary.chmod(0o644)
        self.path = folder / "daemon.sock"
        self._doors: dict[str, socket.socket] = {}
        self.port: int = self._open(socket.AF_INET, ("127.0.0.1", 0)).getsockname()[1]
        self._box = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._box.bind(("127.0.0.1", 0))
        self._box.setblocking(False)
        self.datagrams: int = self._box.getsockname()[1]
        self._open(socket.AF_UNIX, str(self.path))
        self.path.chmod(0o777)
        self.abstract = self.mark
        self._open(socket.AF_UNIX, f"\0{self.abstract}")

    def _open(self, family: int, address: Any) -> socket.socket:
        server = self._doors[str(address)] = socket.socket(family, socket.SOCK_STREAM)
        server.bind(address)
        server.listen()  # the kernel takes connections in; `_visits` looks at them
        server.setblocking(False)
        return server

    def _visits(self) -> list[str]:
        """Who has come since the last look; looked at here, so that none is told of too late."""
        found: list[str] = []
        for name, server in self._doors.items():
            with suppress(OSError):  # there are no more
                while True:
                    server.accept()[0].close()
                    found.append(f"{name} was reached")
        with suppress(OSError):
            while True:
                self._box.recv(1)
                found.append("a datagram arrived")
        return found

    def fill(self, code: str) -> str:
        """The program with its targets in place of @NAMES@."""
        for name, value in (
            ("MARK", self.mark),
            ("CANARY", str(self.canary)),
            ("PORT", str(self.port)),
            ("DATAGRAMS", str(self.datagrams)),
            ("UNIX", str(self.path)),
            ("ABSTRACT", self.abstract),
            ("SELF", str(os.getpid())),
            ("HOME", os.path.expanduser("~")),
            ("SECRET_HEAD", self.secret[:17][::-1]),  # reversed, so that code holds no copy
        ):
            code = code.replace(f"@{name}@", value)
        return code

    def settle(self, patience: float = 0.0) -> list[str]:
        """What an attack has reached or left; it is ended here.

        Args:
            patience: Seconds that packets may still be on their way.
        """
        found: list[str] = []

        def visited() -> bool:
            found.extend(self._visits())
            return bool(found)

        until(visited, patience)
        if self.canary.read_text() != self.secret:
            found.append("the canary was changed")
            self.canary.write_text(self.secret)
        for pid in self.marked():
            found.append(f"process {pid} is left")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return found

    def marked(self) -> list[int]:
        """Processes that carry the mark in their arguments; none of a neighbour's can."""
        return carriers(self.mark)

    def close(self) -> None:
        """Close every door."""
        for server in (*self._doors.values(), self._box):
            server.close()


@contextmanager
def outside() -> Generator[Outside]:
    """A fresh set of targets, in a folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="palaestra-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        found = Outside(folder)
        os.environ["PALAESTRA_CANARY"] = found.secret
        try:
            yield found
        finally:
            os.environ.pop("PALAESTRA_CANARY", None)
            found.close()


Check = Callable[[Result], str]


def program(
    family: str,
    name: str,
    code: str,
    *,
    wants: Sequence[Reason] = ("ok",),
    says: str = "",
    exits: int | None = None,
    limits: Limits | None = None,
    language: str = "python",
    fetch: tuple[str, ...] = (),
    after: str = "",
    check: Check | None = None,
    harms: bool = False,
    only: tuple[str, ...] = (),
) -> Attack:
    """An attack that is one program.

    Args:
        family: The file it stands in.
        name: What it tries.
        code: Python after `HELPERS`, or shell text; @NAMES@ stand for targets outside.
        wants: Reasons of the kernel that are acceptable.
        says: A pattern that the output must show.
        exits: The exit code it must have.
        limits: `SMALL` unless given.
        language: "python" or "shell".
        fetch: Files asked for.
        after: A second program that runs next and looks for what the first one left.
        check: Gives a complaint about the result, or nothing.
        harms: As in `Attack`.
        only: As in `Attack`.
    """

    def run(sandbox: Sandbox, targets: Outside) -> None:
        text = targets.fill(code if language == "shell" else HELPERS + code)
        result = sandbox.execute(
            text,
            limits=limits or SMALL,
            fetch=fetch,
            language="shell" if language == "shell" else "python",
        )
        complain(result, wants, says, exits, targets)
        if check is not None and (complaint := check(result)):
            raise AssertionError(complaint)
        if after:
            second = sandbox.execute(targets.fill(HELPERS + after), limits=limits or SMALL)
            complain(second, ("ok",), "", None, targets)

    return Attack(name, family, run, harms, only)


def complain(
    result: Result, wants: Sequence[Reason], says: str, exits: int | None, targets: Outside
) -> None:
    """Raise what an execution shows of a jail that did not hold."""
    told = [line for line in result.stdout.splitlines() if line.startswith("BROKEN")]
    told += targets.settle()
    if result.reason not in wants:
        told.append(f"ended with {result.reason!r} {result.exit_code}; wanted {', '.join(wants)}")
    if says and not re.search(says, result.stdout):
        told.append(f"did not say {says!r}")
    if exits is not None and result.exit_code != exits:
        told.append(f"exit code {result.exit_code}; wanted {exits}")
    if told:
        tail = result.stderr.strip()[-300:]
        raise AssertionError("; ".join(told)[:1000] + (f" [{tail}]" if tail else ""))


def wall(seconds: float) -> Limits:
    """`SMALL` with another wall limit."""
    return replace(SMALL, wall=seconds)


def must_run(sandbox: Sandbox, what: str) -> None:
    """Raise unless a plain execution does what it should."""
    result = sandbox.execute("print(6 * 7)", limits=SMALL)
    if result.stdout != "42\n":
        raise AssertionError(f"{what}: {result}")


def sibling(sandbox: Sandbox) -> Sandbox:
    """A fresh sandbox of the same arguments: pickling carries just these."""
    make, arguments = sandbox.__reduce__()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeSandboxWarning)  # said when the first was made
        return make(*arguments)
