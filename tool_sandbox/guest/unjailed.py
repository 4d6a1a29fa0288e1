"""Workers without namespaces: `reduced` (Landlock and seccomp), and the bare `process` backend."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from . import clean, landlock, layout, trees
from .jail import Jail, JailError
from .syscalls import call

_SUBREAPER = 36
_LEAST = 4  # Landlock versions below cannot refuse TCP
_DEPTH = 40
_REMOVE = 'chmod -R u+rwx -- "$1"; exec rm -rf -- "$1"'  # folders can be closed to their owner


class Scrubber(clean.Cleaner):
    """Gives every execution new folders, where no quota of the kernel counts what was left."""

    def __init__(self, owner: int) -> None:
        """Makes the first folders.

        Args:
            owner: Id that will own them; 0 leaves them ours.
        """
        _make()
        if owner:
            try:
                for path in layout.writable():
                    os.chown(path, owner, owner)
            except PermissionError as problem:  # a root without capabilities
                raise JailError("self-test", f"identity: {problem}") from None

    def clean(self) -> bool:
        """Removes all of it; False if something stays."""
        if not clean.in_a_fork(_renew):
            return False
        os.chdir(layout.work())
        return True


def _renew() -> bool:
    """Removes all of it and makes the folders anew; False if something stays."""
    for path in reversed(layout.writable()[1:]):
        _remove(path, _DEPTH)
    if any(os.path.lexists(path) for path in layout.writable()[1:]):
        return False
    for name in os.listdir(layout.root()):
        _remove(f"{layout.root()}/{name}", _DEPTH)
    if os.listdir(layout.root()):
        return False
    _make()
    return True


def _make() -> None:
    for path in layout.writable()[1:]:
        os.mkdir(path, 0o700)
    os.chdir(layout.work())


def _remove(path: str, depth: int) -> None:
    """Removes a tree as far as it is not deeper than anybody needs."""
    try:
        if os.path.islink(path) or not os.path.isdir(path):
            os.unlink(path)
            return
        if not depth:
            return
        os.chmod(path, 0o700)
        with os.scandir(path) as listing:
            names = [entry.path for entry in listing]
        for name in names:
            _remove(name, depth - 1)
        os.rmdir(path)
    except OSError:
        return  # the caller looks at what is left


def adopt() -> None:
    """Orphans come to us, so that walking our tree finds everybody."""
    call("prctl", _SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """Kills and reaps all that descend from this process."""
    crowd = trees.Descendants(trees.Proc(-1))
    while True:
        crowd.signal(signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def vanish(root: str) -> None:
    """Ends this process by removing the worker's folder: the host may be dead, too."""
    try:
        os.execv("/bin/sh", ["sh", "-c", _REMOVE, "sh", root])
    except OSError:
        return  # the next start of a sandbox removes it


def require() -> int:
    """The Landlock version, if it is enough to stand alone.

    Raises:
        JailError: It is not.
    """
    version = landlock.abi()
    if version < _LEAST:
        found = f"version {version}" if version else "none"
        raise JailError("landlock", f"found {found}; reduced needs version {_LEAST} (Linux 6.7)")
    return version


def rules(jail: Jail, version: int) -> list[landlock.Rule]:
    """What a guest may see of the machine's own file system."""
    from .mounts import DEVICES, system_paths

    readable = [*system_paths(), *(path for path, _ in jail.plan.prefixes), *jail.plan.readable]
    readable += ["/etc/passwd", "/etc/group", "/etc/hosts", "/etc/nsswitch.conf"]
    found = [landlock.Rule(path, landlock.READ) for path in readable]
    found.append(landlock.Rule(layout.root(), landlock.everything(version)))
    found += (landlock.Rule(f"/dev/{name}", landlock.OPEN) for name in DEVICES)
    return found


class Again:
    """A domain of its own for each execution: a scope does not separate equals, nor hide /proc."""

    def __init__(self, rules: Sequence[landlock.Rule], version: int) -> None:
        self._rules = rules
        self._version = version

    def __call__(self) -> None:
        """Restricts the calling process once more."""
        landlock.restrict(self._rules, self._version)
