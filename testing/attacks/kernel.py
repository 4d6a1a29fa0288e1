"""Attacks on privilege and on the kernel's surface.

Every call has arguments with which it would fail harmlessly were it allowed: the error number tells
a call that was refused from one that was looked at.
"""

from __future__ import annotations

from .attack import SMALL, Attack, program
from .strangers import SYSCALLS


def _case(name: str, code: str, **more: object) -> Attack:
    return program("kernel", name, SYSCALLS + code, limits=SMALL, **more)  # type: ignore[arg-type]


def _calls(name: str, *lines: tuple[str, int, int, tuple[int, ...]]) -> Attack:
    code = "".join(
        f"refused({what!r}, lambda: call({intel}, {arm}, *{args!r}))\n"
        for what, intel, arm, args in lines
    )
    return _case(name, code)


ATTACKS: tuple[Attack, ...] = (
    _calls(
        "mounts",
        ("mount", 165, 40, (1, 1, 1, 0, 0)),
        ("umount2", 166, 39, (1, 0)),
        ("open_tree", 428, 428, (-1, 1, 0)),
        ("move_mount", 429, 429, (-1, 1, -1, 1, 0)),
        ("fsopen", 430, 430, (1, 0)),
        ("fsmount", 432, 432, (-1, 0, 0)),
        ("fspick", 433, 433, (-1, 1, 0)),
        ("mount_setattr", 442, 442, (-1, 1, 0, 1, 8)),
        ("pivot_root", 155, 41, (1, 1)),
        ("chroot", 161, 51, (1,)),
    ),
    _calls(
        "namespaces",
        ("unshare", 272, 97, (0x10000000 | 0x00000001,)),
        ("setns", 308, 268, (-1, 0)),
        ("clone with CLONE_NEWUSER", 56, 220, (0x10000000 | 0x00000200 | 17, 0, 0, 0, 0)),
        ("clone with CLONE_NEWNS", 56, 220, (0x00020000 | 0x00000200 | 17, 0, 0, 0, 0)),
        ("clone3", 435, 435, (1, 8)),
    ),
    _case(
        "mknod",
        r"""
import stat
refused("a device", lambda: os.mknod("zero", stat.S_IFCHR | 0o600, os.makedev(1, 5)))
if os.path.exists("zero"): os.unlink("zero")
""",
    ),
    _case(
        "devices",
        r"""
for name in ("mem", "kmem", "kmsg", "port", "fuse", "kvm", "net/tun", "vhost-vsock", "sda", "vda",
             "nvme0n1", "loop0", "loop-control", "mapper/control", "nvidia0", "nvidiactl", "tty1"):
    path = f"/dev/{name}"
    if os.path.exists(path): gone(path, lambda: os.open(path, os.O_RDONLY))
""",
    ),
    _case(
        "/proc/sys",
        r"""
for name in ("kernel/hostname", "kernel/core_pattern", "vm/overcommit_memory", "kernel/modprobe"):
    path = f"/proc/sys/{name}"
    gone(path, lambda: os.open(path, os.O_WRONLY))
gone("/proc/sysrq-trigger", lambda: os.open("/proc/sysrq-trigger", os.O_WRONLY))
""",
    ),
    _case(
        "groups and identities",
        r"""
refused("setgroups", lambda: os.setgroups([0]), errno.EPERM, errno.EINVAL)
refused("setuid", lambda: os.setresuid(0, 0, 0), errno.EPERM, errno.EINVAL)
refused("setgid", lambda: os.setresgid(0, 0, 0), errno.EPERM, errno.EINVAL)
if 0 in (os.getuid(), os.geteuid(), os.getgid()) or 0 in os.getgroups(): broken("runs as root")
""",
    ),
    _calls(
        "open_by_handle_at",
        ("open_by_handle_at", 304, 265, (-1, 1, 0)),
        ("name_to_handle_at", 303, 264, (-1, 1, 1, 1, 0)),
    ),
    _case(
        "capabilities",
        r"""
for line in open("/proc/self/status"):
    name, _, value = line.partition(":")
    if name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") and int(value, 16):
        broken(f"{name} is {value.strip()}")
    if name == "Seccomp" and value.strip() != "2": broken("no filter")
""",
    ),
    _calls(
        "bpf, perf, io_uring, userfaultfd",
        ("bpf", 321, 280, (9999, 1, 8)),
        ("perf_event_open", 298, 241, (1, 0, 0, -1, 0)),
        ("io_uring_setup", 425, 425, (0, 1)),
        ("io_uring_enter", 426, 426, (-1, 0, 0, 0, 0, 0)),
        ("io_uring_register", 427, 427, (-1, 0, 0, 0)),
        ("userfaultfd", 323, 282, (0x7FFFFFFF,)),
    ),
    _calls(
        "keyrings",
        ("keyctl", 250, 219, (9999, 0, 0, 0, 0)),
        ("add_key", 248, 217, (1, 1, 1, 1, 0)),
        ("request_key", 249, 218, (1, 1, 1, 0)),
    ),
    _calls(
        "modules and kexec",
        ("init_module", 175, 105, (1, 8, 1)),
        ("finit_module", 313, 273, (-1, 1, 0)),
        ("delete_module", 176, 106, (1, 0)),
        ("kexec_load", 246, 104, (0, 9999, 1, 0x7FFFFFFF)),
        ("kexec_file_load", 320, 294, (-1, -1, 1, 1, 0x7FFFFFFF)),
        ("reboot", 169, 142, (0, 0, 0, 0)),
        ("swapon", 167, 224, (1, 0)),
        ("swapoff", 168, 225, (1,)),
    ),
    _case(
        "ports of the machine",
        "if INTEL:\n"
        "    refused('iopl', lambda: call(172, 0, 99))\n"
        "    refused('ioperm', lambda: call(173, 0, 1 << 20, 1 << 20, 1))\n",
    ),
    _calls(
        "clock and host name",
        ("clock_settime", 227, 112, (9999, 1)),
        ("settimeofday", 164, 170, (1, 1)),
        ("clock_adjtime", 305, 266, (9999, 1)),
        ("sethostname", 170, 161, (1, -1)),
        ("setdomainname", 171, 162, (1, -1)),
    ),
    _calls(
        "fanotify, quotactl, acct, syslog, memfd_secret",
        ("fanotify_init", 300, 262, (0x7FFFFFFF, 0)),
        ("quotactl", 179, 60, (0, 1, 0, 0)),
        ("acct", 163, 89, (1,)),
        ("syslog", 103, 116, (9999, 1, -1)),
        ("memfd_secret", 447, 447, (0x7FFFFFFF,)),
        ("lookup_dcookie", 212, 18, (0, 1, 0)),
    ),
    _calls(
        "signals that wake what was stopped",
        ("timer_create", 222, 107, (9999, 1, 1)),
        ("F_SETSIG", 72, 25, (-1, 10, 18)),
        ("SIGCONT at a parent's death", 157, 167, (1, 18, 0, 0, 0)),
        ("clone with SIGCONT", 56, 220, (0x00000800 | 18, 0, 0, 0, 0)),
    ),
    _calls(
        "leases and notices of files",
        ("F_SETLEASE", 72, 25, (-1, 1024, 1)),
        ("F_NOTIFY", 72, 25, (-1, 1026, 1)),
    ),
    _case(
        "disks of the machine",
        r"""
try: answer = call(306, 267, -1)
except OSError: answer = -1
if answer: broken("syncfs reached the kernel")
""",
    ),
    _case(
        "pages of a pool that no limit counts",
        r"""
refused("MAP_HUGETLB", lambda: call(9, 222, 0, 4096, 3, 0x40002, -1, 0), errno.ENOMEM)
refused("MFD_HUGETLB", lambda: call(319, 279, 1, 4))
""",
    ),
    _calls("queues that the whole machine shares", ("io_setup", 206, 0, (0, 1))),
    _calls(
        "extended attributes",
        ("setxattr", 188, 5, (1, 1, 1, 0, 9999)),
        ("lsetxattr", 189, 6, (1, 1, 1, 0, 9999)),
        ("fsetxattr", 190, 7, (-1, 1, 1, 0, 9999)),
        ("removexattr", 197, 14, (1, 1)),
    ),
    _case(
        "int 0x80",
        r"""
import mmap
if INTEL:
    area = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    area.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    answer = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    if answer > 0: broken(f"int 0x80 gave {answer}")
""",
        wants=("ok", "killed"),
    ),
    _case(
        "x32",
        "if INTEL: refused('x32', lambda: call(0x40000000 | 39, 0), errno.ENOSYS)",
    ),
    _case(
        "TIOCSTI",
        r"""
import fcntl
read, write = os.pipe()
for fd in (0, read):
    refused("TIOCSTI", lambda: fcntl.ioctl(fd, 0x5412, b"x"))
    refused("TIOCLINUX", lambda: fcntl.ioctl(fd, 0x541C, b"x"))
""",
    ),
    _calls(
        "SysV and POSIX IPC",
        ("shmget", 29, 194, (0x7FFFFFF1, 0, 0)),
        ("semget", 64, 190, (0x7FFFFFF1, 0, 0)),
        ("msgget", 68, 186, (0x7FFFFFF1, 0)),
        ("mq_open", 240, 180, (1, 0, 0, 0)),
    ),
)
