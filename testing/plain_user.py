"""Runs a program as a user without privileges, where the suite itself is root.

A root's interpreter often lies in a home of mode 700, where no other user can read it. So the
program gets a mount namespace of its own, in which each such closed folder is covered by an empty
one that shows just what is needed. Nothing changes for anybody else.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_NEWNS, _BIND, _REC, _PRIVATE = 0x00020000, 4096, 16384, 1 << 18


class Mounts:
    """The three calls that Python does not offer."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def own(self) -> None:
        """Enter a mount namespace of this process' own."""
        self._check(self._libc.unshare(_NEWNS))
        self.mount("none", "/", None, _REC | _PRIVATE)

    def mount(
        self, source: str, target: str, kind: str | None, flags: int, data: str | None = None
    ) -> None:
        """Mount; raises OSError."""
        words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
        options = None if data is None else data.encode()
        self._check(self._libc.mount(*words, ctypes.c_ulong(flags), options))

    @staticmethod
    def _check(answer: int) -> None:
        if answer:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def hidden_below(path: Path) -> Path | None:
    """The topmost folder on the way to `path` that other users may not enter."""
    for folder in reversed((path, *path.parents)):
        if folder.is_dir() and not folder.stat().st_mode & 0o001:
            return folder
    return None


def needed() -> list[Path]:
    """What a Python program needs to run: interpreter, environment, this checkout."""
    here = Path(__file__).resolve().parents[1]
    places = (sys.base_prefix, sys.prefix, here, *(entry for entry in sys.path if entry))
    found = [Path(place).resolve() for place in places if Path(place).is_dir()]
    return [
        path
        for path in dict.fromkeys(found)
        if not any(path.is_relative_to(other) and path != other for other in found)
    ]


def uncover(mounts: Mounts, paths: Sequence[Path]) -> None:
    """Cover each closed folder on the way to these paths, and bind the paths into the cover."""
    closed: dict[Path, list[Path]] = {}
    for path in paths:
        top = hidden_below(path)
        if top is not None:
            closed.setdefault(top, []).append(path)
    for top, inside in closed.items():
        held = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in inside}
        mounts.mount("none", str(top), "tmpfs", 0, "mode=755,size=1m")
        for path, fd in held.items():
            path.mkdir(0o755, parents=True, exist_ok=True)
            mounts.mount(f"/proc/self/fd/{fd}", str(path), None, _BIND | _REC)
            os.close(fd)


def unused_id() -> int:
    """A user id that no account has, nor a neighbour that calls this: limits count by user."""
    import pwd

    taken = {entry.pw_uid for entry in pwd.getpwall()}
    places = range(61_234, 65_000)
    first = os.getpid() % len(places)
    return next(one for one in (*places[first:], *places[:first]) if one not in taken)


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    groups: Sequence[int] = (),
    timeout: float = 600.0,
) -> subprocess.CompletedProcess[str]:
    """Run a program as a plain user, in a folder of its own.

    Args:
        argv: The program; called from a root process.
        env: Further variables; PATH, HOME and TMPDIR are set.
        groups: Supplementary groups, such as the one that owns an engine's socket.
        timeout: Seconds.

    Returns:
        Its exit code and output.

    Raises:
        PermissionError: The caller is not root, or may not make a mount namespace.
    """
    if os.geteuid() != 0:
        raise PermissionError("only root can become a plain user; run the program directly")
    number = unused_id()
    # What a killed program has started may still be writing into the folder when it goes.
    prefix = "palaestra-user-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        os.chown(name, number, number)
        os.chmod(name, 0o755)
        plan = [name, str(number), ",".join(map(str, groups)), *argv]
        here = Path(__file__).resolve()
        return subprocess.run(
            [sys.executable, "-P", "-S", str(here), *plan],
            env={
                "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
                "HOME": name,
                "TMPDIR": name,
                "PYTHONDONTWRITEBYTECODE": "1",
                "PALAESTRA_SYS_PATH": os.pathsep.join(map(str, needed())),
                **(env or {}),
            },
            capture_output=True,
            text=True,
            timeout=timeout,
        )


def become(folder: str, number: int, groups: Sequence[int], argv: Sequence[str]) -> None:
    """In the child: cover, drop every privilege, and become the program."""
    mounts = Mounts()
    mounts.own()
    paths = [Path(entry) for entry in os.environ.pop("PALAESTRA_SYS_PATH").split(os.pathsep)]
    uncover(mounts, paths)
    os.setgroups(groups)
    os.setresgid(number, number, number)
    os.setresuid(number, number, number)
    os.chdir(folder)
    os.execvp(argv[0], list(argv))


if __name__ == "__main__":
    place, user, wanted, *command = sys.argv[1:]
    become(place, int(user), [int(part) for part in wanted.split(",") if part], command)
