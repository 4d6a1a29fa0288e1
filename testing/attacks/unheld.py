"""What the `process` backend does not hold, by user; the tests expect exactly this."""

from __future__ import annotations

_ANYBODY = frozenset(
    {
        "ptrace, process_vm_readv, pidfd_getfd, kcmp, process_madvise",
        "/proc of others",
        "world-readable canary",
        "writes outside",
        "set-uid file",
        "mounts",
        "namespaces",
        "open_by_handle_at",
        "capabilities",
        "bpf, perf, io_uring, userfaultfd",
        "clock and host name",
        "extended attributes",
        "queues that the whole machine shares",
        "signals that wake what was stopped",
        "leases and notices of files",
        "disks of the machine",
        "pages of a pool that no limit counts",
        "waking between calls",
        "TIOCSTI",
        "TCP",
        "UDP",
        "unix path",
        "unix abstract",
        "listening",
        "netlink, raw and exotic families",
        "files everywhere",
        "SysV and POSIX IPC",
        "fanotify, quotactl, acct, syslog, memfd_secret",
    }
)

UNHELD: dict[str, frozenset[str]] = {
    "plain": _ANYBODY,
    "root": _ANYBODY
    | {
        "shadow",
        "stdlib writes",
        "/proc/sys",
        "groups and identities",
        "modules and kexec",
    },
}

# Held or not by what the machine has: devices, kernel options, routes, file systems.
MACHINE = frozenset(
    {
        "home",
        "hard link as a result",
        "mknod",
        "devices",
        "keyrings",
        "int 0x80",
        "x32",
        "inotify",
        "internet",
        "metadata address",
        "DNS",
        "daemon sockets",
        "extended attributes and metadata of directories",
        "oom_score",
        "raising limits",
        "pending signals and timers",
    }
)
