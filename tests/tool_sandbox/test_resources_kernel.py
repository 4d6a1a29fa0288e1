"""Resource groups of v2, and sessions, on an older kernel: one that runs here as a program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNEL = shutil.which(os.environ.get("PALAESTRA_UML", "linux.uml"))
pytestmark = [
    pytest.mark.linux,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(KERNEL is None, reason="no linux.uml (apt: user-mode-linux)"),
]

# A machine with a user's slice that hands its controllers on, as systemd makes it.
INIT = """
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/ PYTHONPATH={paths}
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t cgroup2 none /sys/fs/cgroup
mount -t devtmpfs dev /dev; mkdir -p /dev/shm; mount -t tmpfs -o mode=1777 shm /dev/shm
echo 0 > /proc/sys/kernel/printk
cd /sys/fs/cgroup
echo "+memory +pids" > cgroup.subtree_control
mkdir app; echo "+memory +pids" > app/cgroup.subtree_control
mkdir app/trainer; echo $$ > app/trainer/cgroup.procs
cp {folder}/look.py /dev/shm; cp {folder}/main.py /dev/shm
export TMPDIR=/dev/shm  # /tmp may hold this checkout
cd /dev/shm
PYTHONDONTWRITEBYTECODE=1 {python} main.py
poweroff -f
"""
MAIN = """
import os, subprocess, sys
from palaestra.testing import plain_user
subprocess.run([sys.executable, "look.py", "root"])
number = plain_user.unused_id()
for folder, _, files in os.walk("/sys/fs/cgroup/app"):
    for name in (".", *files):
        os.chown(os.path.join(folder, name), number, number)
done = plain_user.run([sys.executable, "/dev/shm/look.py", "plain"])
print(done.stdout, done.stderr[-2000:], flush=True)
"""
LOOK = """
import json, os, signal, sys
from palaestra.testing.victims import children_of, gone, until, zygotes
from palaestra.tool_sandbox import *

def groups():
    return sum(name.startswith("palaestra-") for name in os.listdir("/sys/fs/cgroup/app"))

MEMORY = 96 * MiB
TREE = '''
import os, signal
for _ in range(6):
    if not os.fork():
        x = bytearray(40 << 20)
        signal.pause()
signal.pause()
'''
FORKS = '''
import os, time
n = 0
try:
    while True:
        if not os.fork(): time.sleep(60)
        n += 1
except OSError: print(n)
'''
seen = {}
sandbox = Sandbox("cell", workers=1, preload=("json",), limits=Limits(wall=600, memory=MEMORY))
seen["layers"] = sandbox.isolation.layers
seen["first"] = sandbox.execute("print(6 * 7)").stdout
seen["groups"] = groups()
for name, code in (("one", "x = []\\nwhile True: x.append(bytearray(1 << 20))"), ("tree", TREE)):
    result = sandbox.execute(code)
    seen[name] = result.reason, sandbox.execute("print(1)").stdout
seen["peak"] = sandbox.execute("1").memory_peak
seen["forks"] = int(sandbox.execute(FORKS, limits=Limits(wall=600, memory=MEMORY)).stdout)
session = sandbox.session()
session.execute("x = 20")
seen["state"] = session.execute("x + 1").stdout
seen["session"] = session.execute("x = []\\nwhile True: x.append(bytearray(1 << 20))").reason
seen["session alive"] = session.alive
session.close()
(zygote,) = zygotes()
firsts = [pid for launcher in children_of(zygote) for pid in children_of(launcher)]
for pid in firsts:
    os.kill(pid, signal.SIGSTOP)
seen["stopped"] = sandbox.execute("1", limits=Limits(wall=0.5, memory=MEMORY)).reason
seen["killed"] = until(lambda: all(map(gone, firsts)))
seen["next"] = sandbox.execute("print(3)").stdout
sandbox.close()
seen["left"] = groups()
print("SEEN", sys.argv[1], json.dumps(seen), flush=True)
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By user, what a sandbox did on that kernel; the machine's files are only read there."""
    assert KERNEL is not None
    folder = tmp_path_factory.mktemp("kernel")
    for name, text in (("main", MAIN), ("look", LOOK)):
        (folder / f"{name}.py").write_text(text)
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    init = INIT.format(folder=folder, python=sys.executable, paths=paths).lstrip()
    (folder / "init").write_text(init)
    (folder / "init").chmod(0o755)
    place = "rootfstype=hostfs rootflags=/ ro"
    command = [KERNEL, "mem=2048M", *place.split(), f"init={folder}/init", "con=null"]
    done = subprocess.run(
        [*command, "con0=fd:0,fd:1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=1700,
    )
    rows = [line.split(" ", 2) for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    found = {user: json.loads(data) for _, user, data in rows}
    assert set(found) == {"root", "plain"}, textwrap.shorten(done.stdout[-3000:], 3000)
    return found


@pytest.mark.parametrize("user", ["root", "plain"])
def test_the_kernel_counts_kills_and_leaves_nothing(
    seen: dict[str, dict[str, Any]], user: str
) -> None:
    told = seen[user]
    assert "memory:group" in told["layers"]
    assert told["first"] == "42\n"
    assert told["groups"] == 1
    for what in ("one", "tree"):
        assert told[what] == ["memory", "1\n"]
    assert told["peak"] is None or told["peak"] < 96 << 20  # None before Linux 6.12
    assert 1 <= told["forks"] <= 18
    assert told["state"] == "21\n"
    assert (told["session"], told["session alive"]) == ("memory", False)
    assert (told["stopped"], told["killed"], told["next"]) == ("lost", True, "3\n")
    assert told["left"] == 0
