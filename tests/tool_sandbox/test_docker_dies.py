"""An engine that dies in the middle: what runs goes on, what needs it says so, nothing hangs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, os, signal, sys, threading
from palaestra.testing import engine
from palaestra.tool_sandbox import *

def said(action):
    try:
        return ["ok", action()]
    except SandboxError as problem:
        return [type(problem).__name__, str(problem)]

limits, other = Limits(wall=60, memory=256 * MiB), Limits(wall=60, memory=300 * MiB)
seen = {}
with engine.own_engine(sys.argv[1], ["--cgroup-parent=" + sys.argv[2]]) as host:
    engine.provide_image(host)
    os.environ["DOCKER_HOST"] = host
    sandbox = Sandbox("docker", workers=1, limits=limits)
    sandbox.execute("pass")
    session = sandbox.session()
    session.execute("x = 1")
    ends = []
    go_on = "import time\\nfor _ in range(200): time.sleep(0.01)\\nprint('end')"
    busy = threading.Thread(target=lambda: ends.append(sandbox.execute(go_on)))
    busy.start()
    while not sandbox._engine.pool._busy:
        pass
    with open(host.removeprefix("unix://").replace("docker.sock", "pid")) as file:
        os.kill(int(file.read()), signal.SIGKILL)
    busy.join()
    seen["busy"] = ends[0].reason, ends[0].stdout
    seen["idle"] = said(lambda: sandbox.execute("print(2)").stdout)
    seen["session"] = said(lambda: session.execute("x").stdout)
    seen["other"] = said(lambda: sandbox.execute("1", limits=other).reason)
    seen["open"] = said(lambda: sandbox.session() and "open")
    seen["unclean"] = said(lambda: sandbox.execute("import os; os.makedirs('a/b')").reason)
    seen["replaced"] = said(lambda: sandbox.execute("print(3)").stdout)
    calls = Calls("f", (Case((1,), expected=1),))
    seen["grade"] = said(lambda: sandbox.grade("f = abs", calls).passed)
    seen["close"] = said(sandbox.close)
    seen["new"] = said(lambda: Sandbox("docker", workers=1).isolation.level)
print(json.dumps(seen))
"""
pytestmark = [pytest.mark.slow, pytest.mark.docker, pytest.mark.linux, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What a trainer saw of it, in namespaces with which everything else of the engine ends."""
    program = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None or os.geteuid() != 0:
        pytest.skip("takes a dockerd of its own to kill, and root")
    group = f"palaestra-dies-{os.getpid()}"
    away = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        with tempfile.TemporaryDirectory() as folder:  # goes when nothing is mounted in it any more
            done = subprocess.run(
                [*away, sys.executable, "-c", PROGRAM, program, f"/{group}"],
                env={**os.environ, "TMPDIR": folder},
                capture_output=True,
                text=True,
                timeout=580,
            )
    finally:
        remove_groups(group)
    if "dockerd does not come up" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"no engine of its own here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def remove_groups(name: str) -> None:
    """What the engine could not remove any more."""
    for top in (*Path("/sys/fs/cgroup").glob(f"*/{name}"), Path("/sys/fs/cgroup", name)):
        folders = sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True)
        for folder in (*folders, top):
            with contextlib.suppress(OSError):
                folder.rmdir()


def test_what_runs_is_not_disturbed(seen: dict[str, Any]) -> None:
    assert seen["busy"] == ["ok", "end\n"]


def test_workers_and_sessions_that_live_go_on(seen: dict[str, Any]) -> None:
    assert seen["idle"] == ["ok", "2\n"]
    assert seen["session"] == ["ok", "1\n"]
    assert seen["unclean"] == ["ok", "ok"]


@pytest.mark.parametrize("what", ["other", "open", "replaced", "grade"])
def test_what_needs_a_new_container_says_that_the_engine_is_gone(
    seen: dict[str, Any], what: str
) -> None:
    kind, words = seen[what]
    assert kind == "BackendFailed"
    assert "does not answer" in words
    assert "start the engine" in words


def test_a_new_sandbox_is_unavailable_with_the_remedy(seen: dict[str, Any]) -> None:
    kind, words = seen["new"]
    assert kind == "SandboxUnavailable"
    assert "no docker engine answers" in words
    assert "start the engine" in words


def test_closing_is_quiet(seen: dict[str, Any]) -> None:
    assert seen["close"] == ["ok", None]
