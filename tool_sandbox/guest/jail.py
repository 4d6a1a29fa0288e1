"""Locks the calling process, and all it will start, into a jail; or raises, never half.

The order of the steps is normative: each needs what a later one takes away.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
from typing import Any, NamedTuple

from . import filter as calls
from . import landlock, layout, mounts
from .syscalls import MACHINE, call

USER, MOUNT, PID, NET = 0x10000000, 0x00020000, 0x20000000, 0x40000000
IPC, UTS, CGROUP = 0x08000000, 0x04000000, 0x02000000
_NAMES = {"user": USER, "mnt": MOUNT, "pid": PID, "net": NET, "ipc": IPC, "uts": UTS}
GUEST_ID = 1000
_WATCHES = {"max_inotify_instances": 8, "max_inotify_watches": 1024}  # of the cell's user namespace

_PR_DUMPABLE, _PR_CAPBSET_DROP, _PR_NO_NEW_PRIVS, _PR_AMBIENT = 4, 24, 38, 47
_PR_THP_DISABLE = 41


class JailError(Exception):
    """One step failed; the worker must not say ready."""

    def __init__(self, step: str, problem: OSError | str) -> None:
        self.step = step
        self.code = problem.errno or 0 if isinstance(problem, OSError) else 0
        self.text = str(problem)
        super().__init__(f"{step}: {problem}")


class Plan(NamedTuple):
    """What the host asked for, as it came over the wire."""

    memory: int
    processes: int
    file_size: int
    disk: int
    inodes: int
    prefixes: list[list[str]]  # [path, where it shows]
    readable: list[str]
    group: bool = False
    mode: str = "full"  # "full", "reduced", "bare" or "contained"
    root: str = ""  # where the writable folders are, outside a jail
    owner: int = 0  # root only: the id of this cell; 0 = the plain user's road

    @classmethod
    def load(cls, data: dict[str, Any]) -> Plan:
        """From the fields of a spawn frame."""
        return cls(**{name: data[name] for name in cls._fields if name in data})


class Jail:
    """The steps, in their order, and what they found."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.layers: list[str] = []
        self.missing: list[str] = []
        self.polling = -1  # descriptor of a proc that hides nobody
        self.before = _namespaces()

    def namespaces(self) -> None:
        """Step 3, in the launcher."""
        flags = MOUNT | PID | NET | IPC | UTS | CGROUP
        if not self.plan.owner:
            flags |= USER
        own = os.getuid(), os.getgid()
        _step("unshare", lambda: call("unshare", flags))
        if not self.plan.owner:
            _step("uid_map", lambda: _map(*own))
            _bound_watches()

    def files(self) -> None:
        """Steps 5 and 6, in pid 1."""
        plan = self.plan
        owner = plan.owner or GUEST_ID
        _step("private mounts", mounts.private)
        if covered := [path for path in plan.readable if mounts.hidden(path)]:
            raise JailError("hidden paths", f"readable= holds {covered[0]!r}")
        prefixes = [(path, place) for path, place in plan.prefixes]
        sources = _step("bind mounts", lambda: mounts.gather(prefixes, plan.readable, plan.group))
        self.polling = mounts.full_proc()
        stage = next(path for path in ("/tmp", "/mnt", "/usr") if os.path.isdir(path))
        _step(
            "root file system", lambda: mounts.build(stage, sources, plan.disk, plan.inodes, owner)
        )
        _step("proc", lambda: mounts.proc(stage))
        self._observe()
        _step("host name", lambda: call("sethostname", b"sandbox", 7))
        _step("pivot_root", lambda: mounts.pivot(stage))

    def identity(self) -> None:
        """Steps 7 and 8, in pid 1."""
        if self.plan.owner:
            self._become(self.plan.owner, inner=self.plan.mode == "full")
        for capability in range(64):
            try:
                _prctl(_PR_CAPBSET_DROP, capability)
            except OSError:
                break
        _prctl(_PR_AMBIENT, 4)  # PR_CAP_AMBIENT_CLEAR_ALL
        _step("capset", _drop_capabilities)
        _step("no_new_privs", lambda: _prctl(_PR_NO_NEW_PRIVS, 1))
        _prctl(_PR_DUMPABLE, 0)
        if not self.plan.group:  # a look sees what is mapped of a huge page; all of it is held
            _prctl(_PR_THP_DISABLE, 1)
        with contextlib.suppress(OSError):  # a container makes its first process a leader
            os.setsid()

    def _become(self, owner: int, inner: bool) -> None:
        _step("setgroups", lambda: os.setgroups([]))
        _step("setresgid", lambda: os.setresgid(owner, owner, owner))
        _step("setresuid", lambda: os.setresuid(owner, owner, owner))
        if not inner:
            return
        _prctl(_PR_DUMPABLE, 1)  # setresuid cleared it, and uid_map is root's until then
        try:
            call("unshare", USER | MOUNT)
        except OSError:
            self.missing.append("user")  # wanted here, not required: the id is nobody's already
            return
        _step("inner uid_map", lambda: _map(owner, owner))
        self.layers.insert(0, "user")

    def limits(self) -> None:
        """Step 9, in pid 1. Soft and hard are equal, so nobody can raise them again."""
        plan = self.plan
        # What the interpreter has mapped already is not the guest's.
        space = (plan.memory * 4 if plan.group else plan.memory) + _mapped()
        values = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: plan.file_size,
            resource.RLIMIT_STACK: 16 << 20,
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_MSGQUEUE: 0,
            resource.RLIMIT_RTPRIO: 0,
            resource.RLIMIT_NICE: 0,
            resource.RLIMIT_SIGPENDING: 256,
            resource.RLIMIT_AS: space,
        }
        if plan.mode in ("full", "contained"):  # elsewhere it would count strangers of our uid
            values[resource.RLIMIT_NPROC] = plan.processes + 3
        for kind, value in values.items():
            hard = resource.getrlimit(kind)[1]
            if hard != resource.RLIM_INFINITY:
                value = min(value, hard)
            _step("rlimits", lambda k=kind, v=value: resource.setrlimit(k, (v, v)))

    def rules(self, rules: list[landlock.Rule] | None = None) -> None:
        """Steps 10 and 11, in pid 1.

        Args:
            rules: Of Landlock, where they are not the jail's.
        """
        version = landlock.abi()
        if version:
            rules = rules or self._landlock_rules(version)
            _step("landlock", lambda: landlock.restrict(rules, version))
            self.layers.append(f"landlock:{version}")
        else:
            self.missing.append("landlock")
        shape = calls.Shape(
            self.plan.group, self.plan.mode == "reduced", version >= 6, bool(self.plan.readable)
        )
        _step("seccomp", lambda: calls.install(MACHINE, shape))
        self.layers.append("seccomp")
        self.layers.append("memory:group" if self.plan.group else "memory:poll")

    def _landlock_rules(self, version: int) -> list[landlock.Rule]:
        rules = [
            landlock.Rule("/", landlock.READ),
            landlock.Rule("/mnt", landlock.everything(version)),
            landlock.Rule("/proc", landlock.OPEN),
        ]
        rules += (landlock.Rule(f"/dev/{name}", landlock.OPEN) for name in mounts.DEVICES)
        rules += (landlock.Rule(path, landlock.everything(version)) for path in layout.extra())
        if self.polling >= 0:
            rules.append(landlock.Rule(self.polling, landlock.READ))
        return rules

    def _observe(self) -> None:
        after = _namespaces()
        for name, inode in self.before.items():
            if after[name] != inode:
                self.layers.append({"mnt": "mount"}.get(name, name))
            elif name != "user":
                raise JailError("namespaces", f"{name} is still the machine's")


def _step(name: str, action: Any) -> Any:
    try:
        return action()
    except OSError as problem:
        raise JailError(name, problem) from None


def _namespaces() -> dict[str, int]:
    names = (*_NAMES, "cgroup") if os.path.exists("/proc/self/ns/cgroup") else tuple(_NAMES)
    return {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in names}


def _map(uid: int, gid: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{GUEST_ID} {uid} 1"),
        ("gid_map", f"{GUEST_ID} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _bound_watches() -> None:
    """Leaves most of inotify to the user: what a cell opens counts against his own limits, too."""
    for name, value in _WATCHES.items():
        with contextlib.suppress(OSError), open(f"/proc/sys/user/{name}", "w") as file:
            file.write(str(value))


def _mapped() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _prctl(option: int, value: int) -> int:
    return call("prctl", option, value, 0, 0, 0)


def _drop_capabilities() -> None:
    head = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    call("capset", head, ctypes.create_string_buffer(24))
