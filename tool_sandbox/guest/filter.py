"""Which system calls a guest may make, as a program for the kernel's packet filter."""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import NamedTuple

from .syscalls import TABLES, call

EPERM, ENOMEM, EINVAL, ENOSYS = 1, 12, 22, 38
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_LOAD, _JEQ, _JGE, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NR_AT, _ARCH_AT = 0, 4

NAMESPACES = 0x7E020080  # every CLONE_NEW* flag
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_IOCTLS = (0x5412, 0x541C, 0x40086602, 0x40046602, 0x401C5820)
#        TIOCSTI, TIOCLINUX, FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS, FS_IOC_FSSETXATTR

_REFUSED = """
unshare setns mount umount2 pivot_root chroot open_tree open_tree_attr move_mount fsopen fsconfig
fsmount fspick mount_setattr statmount listmount
bpf perf_event_open io_uring_setup io_uring_enter io_uring_register userfaultfd
keyctl add_key request_key kexec_load kexec_file_load
create_module init_module finit_module delete_module get_kernel_syms query_module memfd_secret
ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp
pidfd_getfd pidfd_send_signal
shmget shmat shmctl shmdt semget semop semtimedop semctl msgget msgsnd msgrcv msgctl
mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat
file_setattr
modify_ldt iopl ioperm acct quotactl quotactl_fd swapon swapoff reboot
settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname syslog
mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages
name_to_handle_at open_by_handle_at vhangup fanotify_init fanotify_mark
lookup_dcookie uselib _sysctl sysfs ustat nfsservctl vserver security tuxcall afs_syscall
getpmsg putpmsg lsm_set_self_attr
io_setup
"""
# What would wake a process that was stopped: any signal, from timers and from descriptors; and
# leases and notices on files, which reach whoever else opens them.
_FCNTLS = (10, 1024, 1026)  # F_SETSIG, F_SETLEASE, F_NOTIFY
_SIGCONT, _DEATH = 18, 1  # PR_SET_PDEATHSIG
# Locks on ranges of a file: a call makes one, nothing counts them, and their end takes as long.
_LOCKS = (6, 7, 37, 38)  # F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW
_HUGE_OFF = 41  # PR_SET_THP_DISABLE
_IPV6, _LABELS = 41, 32  # IPV6_FLOWLABEL_MGR: labels stay in the network namespace for a minute
_STREAM, _SEQPACKET = 1, 5
# Without a group these hold memory that looking at processes does not show.
_WITHOUT_GROUP = "memfd_create vmsplice"
# Pages in flight count by their bytes: one byte of each holds 4 KiB that no look shows.
_PAGES = "splice sendfile"
# A process of its own that is idle dies slowly, where the machine has other work.
_SCHEDULING = "sched_setparam sched_setscheduler sched_setattr"
# Nothing of a guest lies on a disk; the machine's disks are not its.
_WRITING_BACK = "sync syncfs fsync fdatasync sync_file_range msync"
_RULES = "landlock_create_ruleset"  # which workers without namespaces need themselves
_REDUCED = "setsid setpgid"
# In these calls the named argument is a process; 1 is the supervisor, which shares our uid.
_AIMED = {
    "kill": 0,
    "tkill": 0,
    "tgkill": 0,
    "rt_sigqueueinfo": 0,
    "rt_tgsigqueueinfo": 0,
    "pidfd_open": 0,
    "prlimit64": 0,
    "sched_setaffinity": 0,
}


_SHARED_ANONYMOUS, _PAGE = 0x21, 4096
_MAP_HUGE, _MEMFD_HUGE = 0x40000, 4  # pages of a pool that no limit on memory counts


class Shape(NamedTuple):
    """What the filter depends on."""

    group: bool = False  # a resource group counts memory that belongs to no mapping
    reduced: bool = False  # no namespaces: sockets and sessions are refused, too
    scoped: bool = False  # Landlock decides about signals (ABI 6)
    open: bool = False  # paths of the host show, which may hold sockets


class Instruction(NamedTuple):
    """One step of the program; the jumps are relative."""

    code: int
    jump_true: int
    jump_false: int
    k: int


def refused(shape: Shape) -> frozenset[str]:
    """Names that answer EPERM whatever their arguments."""
    names = _REFUSED.split()
    if not shape.group:
        names += _WITHOUT_GROUP.split()
        names += [] if shape.reduced else [_RULES]
    if shape.reduced:
        names += [*_REDUCED.split(), "socket", "connect"]
    return frozenset(names)


def program(machine: str, shape: Shape) -> list[Instruction]:
    """The whole filter.

    Args:
        machine: "x86_64" or "aarch64".
        shape: What the cell has.
    """
    table = TABLES[machine]
    steps = [
        Instruction(_LOAD, 0, 0, _ARCH_AT),
        Instruction(_JEQ, 1, 0, _ARCH[machine]),
        Instruction(_RETURN, 0, 0, _KILL),
        Instruction(_LOAD, 0, 0, _NR_AT),
    ]
    if machine == "x86_64":
        steps += _when(_JGE, _X32, [_errno(ENOSYS)])
    for name, checks in _checked(shape).items():
        if name in table:
            steps += _when(_JEQ, table[name], checks)
    return steps + _search(_ranges(table, shape))


def _errno(code: int) -> Instruction:
    return Instruction(_RETURN, 0, 0, _ERRNO | code)


def _when(test: int, number: int, block: list[Instruction]) -> list[Instruction]:
    return [Instruction(test, 0, len(block), number), *block]


_PASS = Instruction(_RETURN, 0, 0, _ALLOW)
_DENY = _errno(EPERM)
_NOTHING = _errno(0)  # the call does nothing, and says that all is well


def _argument(index: int) -> Instruction:
    # Low half only: the kernel takes these arguments as 32-bit numbers.
    return Instruction(_LOAD, 0, 0, 16 + 8 * index)


def _when_one_of(
    index: int, values: tuple[int, ...], answer: Instruction, then: list[Instruction]
) -> list[Instruction]:
    """An answer when the argument is one of the values; else what follows decides."""
    last = len(values) - 1
    tests = [
        Instruction(_JEQ, last - i, 0 if i < last else 1, value & 0xFFFFFFFF)
        for i, value in enumerate(values)
    ]
    return [_argument(index), *tests, answer, *then]


def _unless(index: int, values: tuple[int, ...]) -> list[Instruction]:
    """Refused when the argument is one of the values."""
    return _when_one_of(index, values, _DENY, [_PASS])


def _only(index: int, values: tuple[int, ...]) -> list[Instruction]:
    """Allowed only when the argument is one of the values."""
    return _when_one_of(index, values, _PASS, [_DENY])


def _both(
    first: tuple[int, int], second: tuple[int, int], then: Instruction, otherwise: Instruction
) -> list[Instruction]:
    """One answer when two arguments, (index, value) each, have these values, another when not."""
    return [
        _argument(first[0]),
        Instruction(_JEQ, 0, 3, first[1]),
        _argument(second[0]),
        Instruction(_JEQ, 0, 1, second[1]),
        then,
        otherwise,
    ]


def _without(
    index: int, flag: int, error: Instruction, then: list[Instruction]
) -> list[Instruction]:
    """An error when the argument has this flag; else what follows decides."""
    return [
        _argument(index),
        Instruction(_AND, 0, 0, flag),
        Instruction(_JEQ, 1, 0, 0),
        error,
        *then,
    ]


def _small_or_private() -> list[Instruction]:
    """A mapping of its own, or one page: a shared one stays whole while one page of it is mapped.

    So a guest could unmap all but a page of each, and no look at its processes would show the rest.
    """
    return [
        _argument(3),
        Instruction(_AND, 0, 0, _SHARED_ANONYMOUS),
        Instruction(_JEQ, 0, 4, _SHARED_ANONYMOUS),
        Instruction(_LOAD, 0, 0, 16 + 8 + 4),  # upper half of the length
        Instruction(_JEQ, 0, 3, 0),
        _argument(1),
        Instruction(_JGE, 1, 0, _PAGE + 1),
        _PASS,
        _errno(ENOMEM),  # the truth, and what a program of the guest takes for it
    ]


def _mapping(shape: Shape) -> list[Instruction]:
    return [_PASS] if shape.group else _small_or_private()


def _pairs(shape: Shape) -> list[Instruction]:
    """Unix pairs; where paths show, of the kinds that cannot be pointed at another socket."""
    kinds = [_argument(1), Instruction(_AND, 0, 0, 0xF)]
    kinds += [Instruction(_JEQ, 1, 0, _STREAM), Instruction(_JEQ, 0, 1, _SEQPACKET), _PASS, _DENY]
    shown = shape.reduced or shape.open
    return [_argument(0), Instruction(_JEQ, 1, 0, 1), _DENY, *(kinds if shown else [_PASS])]


def _checked(shape: Shape) -> dict[str, list[Instruction]]:
    not_waking = [  # the end of a child is told to its parent by the signal in the lowest byte
        _argument(0),
        Instruction(_AND, 0, 0, 0xFF),
        Instruction(_JEQ, 0, 1, _SIGCONT),
        _DENY,
        _PASS,
    ]
    blocks = {
        "clone": _without(0, NAMESPACES, _DENY, not_waking),
        "clone3": [_errno(ENOSYS)],  # its flags lie in memory, where a filter cannot look
        "socketpair": _pairs(shape),
        "setsockopt": _both((1, _IPV6), (2, _LABELS), _DENY, _PASS),
        "ioctl": _unless(1, _IOCTLS),
        "personality": _only(0, (0, 0xFFFFFFFF)),
        "setpriority": _both((0, 0), (1, 0), _NOTHING, _DENY),
        "ioprio_set": _both((0, 1), (1, 0), _PASS, _DENY),
        "fcntl": _when_one_of(1, _LOCKS, _NOTHING, _unless(1, _FCNTLS)),
        "prctl": _both((0, _DEATH), (1, _SIGCONT), _DENY, _PASS),
        "timer_create": [_errno(ENOSYS)],  # programs such as timeout(1) then fall back on alarm
        "mmap": _without(3, _MAP_HUGE, _errno(ENOMEM), _mapping(shape)),
    }
    for name in _SCHEDULING.split():
        blocks[name] = _when_one_of(0, (0,), _NOTHING, [_DENY])
    blocks |= {name: [_NOTHING] for name in _WRITING_BACK.split()}
    if shape.group:
        blocks["memfd_create"] = _without(1, _MEMFD_HUGE, _DENY, [_PASS])
    else:
        blocks |= {name: [_errno(EINVAL)] for name in _PAGES.split()}
        blocks["prctl"] = _when_one_of(0, (_HUGE_OFF,), _DENY, blocks["prctl"])
    if not shape.reduced:
        blocks["socket"] = _only(0, _FAMILIES[1:] if shape.open else _FAMILIES)
    for name, index in _AIMED.items():
        blocks[name] = _unless(index, (1,))
    if shape.reduced and not shape.scoped:
        blocks["kill"] = _only(0, (0,))
    return blocks


def _ranges(table: dict[str, int], shape: Shape) -> list[tuple[int, int]]:
    """(first number, action) of each run of equal actions, in order."""
    denied = {table[name] for name in refused(shape) if name in table}
    known = set(table.values())
    ranges: list[tuple[int, int]] = []
    for number in range(max(known) + 2):
        if number not in known:
            action = _ERRNO | ENOSYS
        else:
            action = _ERRNO | EPERM if number in denied else _ALLOW
        if not ranges or ranges[-1][1] != action:
            ranges.append((number, action))
    return ranges


def _search(ranges: list[tuple[int, int]]) -> list[Instruction]:
    """A balanced binary search over the ranges."""
    if len(ranges) == 1:
        return [Instruction(_RETURN, 0, 0, ranges[0][1])]
    middle = len(ranges) // 2
    low, high = _search(ranges[:middle]), _search(ranges[middle:])
    return [Instruction(_JGE, len(low), 0, ranges[middle][0]), *low, *high]


def encode(steps: list[Instruction]) -> bytes:
    """The program as the kernel wants it."""
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


@functools.cache
def compiled(machine: str, shape: Shape) -> tuple[int, bytes]:
    """Number of steps, and the program as the kernel wants it."""
    steps = program(machine, shape)
    return len(steps), encode(steps)


def install(machine: str, shape: Shape) -> None:
    """Puts the filter in force for this process and all it will start.

    Raises:
        OSError: The kernel refused it.
    """
    count, data = compiled(machine, shape)
    code = ctypes.create_string_buffer(data)
    head = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", count, ctypes.addressof(code)), 16)
    call("seccomp", 1, 0, head)  # SECCOMP_SET_MODE_FILTER
