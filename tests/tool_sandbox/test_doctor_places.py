"""The doctor tells the truth where less is allowed: a plain user, no namespaces, a container."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from palaestra.testing import plain_user
from palaestra.tool_sandbox import image

ROOT = Path(__file__).resolve().parents[2]
# the doctor by itself: a container has no other library than Python's own
EXAMINE = """
import sys, types
sys.path.insert(0, {home!r})
package = types.ModuleType("palaestra")
package.__path__ = [{package!r}]
sys.modules["palaestra"] = package
from palaestra.tool_sandbox import doctor
plans = (("cell", "full"), ("cell", "reduced"), ("process", "none"))
found = doctor.examine(plans, runs=3)
print(doctor.to_json(found))
sys.exit(not doctor.reaches_full(found))
"""
# becomes root of 65,536 ids, as in an engine that remaps users; ids of the parent are written by it
REMAPPED = """
import ctypes, os, sys
ready, go = os.pipe(), os.pipe()
pid = os.fork()
if not pid:
    assert ctypes.CDLL(None).unshare(0x10000000) == 0
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    os.setgid(0)
    os.setuid(0)
    os.execv(sys.argv[1], sys.argv[1:])
os.read(ready[0], 1)
for kind in ("uid", "gid"):
    with open(f"/proc/{pid}/{kind}_map", "w") as file:
        file.write("0 0 1\\n1 100001 65535")
os.write(go[1], b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
WHO = """
from palaestra.tool_sandbox import Sandbox
with Sandbox("cell", workers=1) as sandbox:
    ids = sandbox.execute("print(open('/proc/self/uid_map').read())").stdout
    print(sandbox.isolation.level, ids)
"""
pytestmark = [
    pytest.mark.linux,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can go to these places"),
]
Rows = dict[tuple[str, str], dict[str, Any]]


def program(package: str = str(ROOT)) -> list[str]:
    return ["-P", "-c", EXAMINE.format(home="/", package=package)]


def told(done: subprocess.CompletedProcess[str]) -> tuple[bool, Rows]:
    """What the doctor printed, and by (backend, level asked for)."""
    assert done.returncode in (0, 1), done.stderr
    data = json.loads(done.stdout)
    assert data["full"] is (done.returncode == 0)
    return data["full"], {(row["backend"], row["asked"]): row for row in data["backends"]}


def test_a_plain_user_is_told_what_holds_for_a_plain_user() -> None:
    full, rows = told(plain_user.run([sys.executable, *program()]))
    cell = rows["cell", "full"]
    if not cell["usable"]:  # a machine that forbids user namespaces to others than root
        assert not full
        assert "namespaces" in cell["advice"] or "interpreter" in cell["advice"]
        return
    assert full
    assert {"user", "mount", "pid", "net", "ipc", "uts", "seccomp"} <= set(cell["layers"])
    assert "resource group" in cell["missing"] or any("group" in one for one in cell["layers"])
    assert cell["p50"] > 0


def test_the_command_says_the_same_to_a_plain_user() -> None:
    words = [sys.executable, "-m", "palaestra", "sandbox", "doctor", "--runs", "3", "--json"]
    full, rows = told(plain_user.run(words))
    assert full is rows["cell", "full"]["usable"]
    assert rows["process", "none"]["level"] == "none"


def test_where_no_namespace_may_be_made_the_advice_names_the_setting() -> None:
    script = (
        "for kind in user mnt pid net ipc uts; do echo 0 > /proc/sys/user/max_${kind}_namespaces;"
        ' done; exec "$@"'
    )
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]
    done = subprocess.run(
        [*inside, sys.executable, *program()], capture_output=True, text=True, timeout=400
    )
    if "Permission denied" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"no namespace to forbid others in: {done.stderr.strip()[-200:]}")
    full, rows = told(done)
    assert not full
    cell = rows["cell", "full"]
    assert (cell["usable"], cell["level"], cell["p50"]) == (False, "none", None)
    assert "sysctl -w user.max_user_namespaces=15000" in cell["advice"]
    assert "unshare" in cell["problem"]


@pytest.mark.parametrize(
    "kept", ["-all", "-all,+sys_admin", "-all,+chown,+dac_override,+sys_admin"]
)
def test_a_root_without_capabilities_is_told_which_to_ask_for(kept: str) -> None:
    words = ["setpriv", "--bounding-set", kept, sys.executable, *program()]
    full, rows = told(subprocess.run(words, capture_output=True, text=True))
    assert not full
    for backend, asked in (("cell", "full"), ("cell", "reduced")):
        row = rows[backend, asked]
        assert "our mistake" not in row["advice"], row
        for name in ("SYS_ADMIN", "SETUID", "SETGID"):
            assert asked == "reduced" or f"--cap-add {name}" in row["advice"]


def test_cells_of_a_remapped_root_have_ids_of_their_own() -> None:
    words = [sys.executable, "-c", REMAPPED, sys.executable, "-c", WHO]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400)
    if "PermissionError" in done.stderr or "AssertionError" in done.stderr:
        pytest.skip(f"no remapped root can be made here: {done.stderr.strip()[-200:]}")
    level, inner, outer, count = done.stdout.split()
    assert (level, inner, count) == ("full", "1000", "1"), done.stderr
    assert 32_768 <= int(outer) < 60_000  # between accounts, and nobody with systemd's own


@pytest.mark.docker
@pytest.mark.parametrize("user", ["0:0", "12345:12345"])
def test_a_container_without_privileges_is_offered_what_it_can_have(engine: str, user: str) -> None:
    done = in_container(engine, user)
    full, rows = told(done)
    assert not full
    cell, reduced = rows["cell", "full"], rows["cell", "reduced"]
    assert not cell["usable"]
    assert "--security-opt" in cell["advice"]
    assert 'minimum="reduced"' in cell["advice"]
    assert reduced["usable"], reduced["problem"]
    assert reduced["level"] == "reduced"
    assert {"seccomp"} <= set(reduced["layers"])
    assert any(layer.startswith("landlock") for layer in reduced["layers"])
    assert not {"mount", "pid", "net"} & set(reduced["layers"])


@pytest.mark.docker
@pytest.mark.parametrize("user", ["0:0", "12345:12345"])
def test_a_container_started_as_the_advice_says_reaches_full(engine: str, user: str) -> None:
    _, rows = told(in_container(engine, user))
    words = rows["cell", "full"]["advice"].partition(", or ask")[0].split()
    found = words[words.index("--security-opt") :]
    options = dict.fromkeys(zip(found[::2], found[1::2], strict=True))
    full, rows = told(in_container(engine, user, [value for _, value in options]))
    assert full, rows["cell", "full"]["problem"]
    assert {"user", "mount", "pid", "net"} <= set(rows["cell", "full"]["layers"])


def in_container(
    engine: str, user: str, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """The doctor in a container, with the flags that an engine gives by itself and with others."""
    import docker

    client: Any = docker.DockerClient(base_url=engine)
    try:
        python = client.images.get(image.tag()).labels[image.PYTHON]
        shown = {str(ROOT / "tool_sandbox"): {"bind": "/opt/checkout/tool_sandbox", "mode": "ro"}}
        host = client.api.create_host_config(
            network_mode="none",
            tmpfs={"/mnt": "rw,exec,mode=1777", "/mnt/.tmp": "rw,exec,mode=1777"},
            binds=shown,
            security_opt=[one for one in options if "=" in one and "systempaths" not in one],
            cap_add=[one for one in options if "=" not in one],
        )
        if "systempaths=unconfined" in options:  # the command line's word for these two
            host["MaskedPaths"], host["ReadonlyPaths"] = [], []
        command = [python, *program("/opt/checkout")]
        made = client.api.create_container(image.tag(), command, user=user, host_config=host)
        box = client.containers.get(made["Id"])
        try:
            box.start()
            code = box.wait(timeout=400)["StatusCode"]
            out, err = (
                box.logs(stdout=wanted, stderr=not wanted).decode() for wanted in (True, False)
            )
        finally:
            box.remove(force=True)
    finally:
        client.close()
    return subprocess.CompletedProcess([], code, out, err)
