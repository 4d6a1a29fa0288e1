"""What the engine and the kernel show of a container."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def compare(container: Any, wanted: Mapping[str, Any]) -> list[str]:
    """The mandatory flags that a container does not show; empty when all hold."""
    container.reload()
    config: Mapping[str, Any] = container.attrs["Config"]
    host: Mapping[str, Any] = container.attrs["HostConfig"]
    seen = {
        "network_mode": host["NetworkMode"],
        "cap_drop": host["CapDrop"],
        "security_opt": host["SecurityOpt"],
        "read_only": host["ReadonlyRootfs"],
        "user": config["User"],
        "pids_limit": host["PidsLimit"],
        "mem_limit": host["Memory"],
        "memswap_limit": host["MemorySwap"],
        "nano_cpus": host["NanoCpus"],
        "ipc_mode": host["IpcMode"],
        "shm_size": host["ShmSize"],
        "tmpfs": host["Tmpfs"],
        "init": bool(host["Init"]),
    }
    wrong = [name for name, value in seen.items() if value != wanted[name]]
    if host["Privileged"]:
        wrong.append("privileged")
    if host["LogConfig"]["Type"] != "none":
        wrong.append("log_config")
    if any(mount["RW"] for mount in container.attrs["Mounts"] if mount["Type"] == "bind"):
        wrong.append("mounts")
    return wrong


def open_oom_count(pid: int) -> int:
    """A descriptor of the file in which a process' group counts kills for memory, or -1."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return -1
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for file in (f"memory{path}/memory.oom_control", f"{path.lstrip('/')}/memory.events"):
            if controllers in ("memory", ""):
                with contextlib.suppress(OSError):
                    return os.open(f"/sys/fs/cgroup/{file}", os.O_RDONLY | os.O_CLOEXEC)
    return -1


def read_oom_count(fd: int) -> int:
    """The count in such a file; 1 when the group itself is gone, which takes a kill."""
    try:
        words = os.pread(fd, 4096, 0).split()
    except OSError:
        return 0
    counts = dict(zip(words[::2], words[1::2], strict=False))
    return int(counts.get(b"oom_kill", b"0"))
