"""What `execute` is measured against: interpreters, bubblewrap, a hardened docker container."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from _turns import Call
from palaestra.testing.engine import NoEngine, address, docker_engine
from palaestra.tool_sandbox import Sandbox, image

PYTHON = os.path.realpath(sys.executable)
SMALL = "print(6 * 7)"
FLAGS = (
    *("--rm", "--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges:true"),
    *("--read-only", "--user=1600000001:1600000001", "--pids-limit=20", "--memory=512m"),
    *("--memory-swap=512m", "--cpus=1", "--ipc=private", "--shm-size=1m", "--log-driver=none"),
    *("--tmpfs=/mnt:rw,exec,nosuid,nodev,size=32m", "--ulimit=core=0"),
)
REPL = """
import contextlib, io, json, sys
space = {}
for line in sys.stdin:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(json.loads(line), 'input', 'exec'), space)
    print(json.dumps({'alive': True, 'stdout': out.getvalue()}), flush=True)
"""


def bare(code: str, *flags: str) -> Call:
    def call() -> None:
        subprocess.run([PYTHON, "-I", *flags, "-c", code], capture_output=True, check=True)

    return call


def bubblewrap(code: str) -> Call:
    words = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    words += ["--unshare-all", "--die-with-parent", "--new-session", PYTHON, "-I", "-c", code]
    return lambda: subprocess.run(words, capture_output=True, check=True)


class Engine(NamedTuple):
    """Peers that need a docker engine."""

    run: Call
    exec: Call
    backend: Sandbox


@contextlib.contextmanager
def engine() -> Iterator[Engine | str]:
    """The docker peers, or why there are none."""
    program = shutil.which("docker")
    if program is None:
        yield "no docker command here"
        return
    with contextlib.ExitStack() as stack:
        try:
            host = stack.enter_context(docker_engine())
        except NoEngine as problem:
            yield str(problem)[:200]
            return
        stack.enter_context(address(host))
        name = image.tag()
        template = f'{{{{index .Config.Labels "{image.PYTHON}"}}}}'
        inspect = [program, "inspect", "--format", template, name]
        python = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.strip()
        start = [program, "run", "-d", *FLAGS, name, python, "-c", "import time; time.sleep(900)"]
        idle = subprocess.run(start, capture_output=True, text=True, check=True).stdout.strip()
        quiet = {"capture_output": True, "check": False}
        stack.callback(subprocess.run, [program, "kill", idle], **quiet)
        words = [python, "-I", "-c", SMALL]
        backend = stack.enter_context(Sandbox("docker", workers=1))
        yield Engine(
            lambda: subprocess.run(
                [program, "run", *FLAGS, name, *words],
                capture_output=True,
                check=True,
            ),
            lambda: subprocess.run(
                [program, "exec", idle, *words], capture_output=True, check=True
            ),
            backend,
        )


@contextlib.contextmanager
def pipe_repl() -> Iterator[Call]:
    """An interpreter behind a pipe, as anybody would write it."""
    words = [PYTHON, "-I", "-u", "-c", REPL]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        into, out = process.stdin, process.stdout

        def turn() -> None:
            into.write(json.dumps("x = 1").encode() + b"\n")
            into.flush()
            json.loads(out.readline())

        yield turn
        into.close()
