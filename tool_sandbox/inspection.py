"""What the kernel shows of a container's memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


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
