"""An engine that shares no folder with the trainer: what works, and what says why it does not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.tool_sandbox import docker as backend
from palaestra.tool_sandbox import owners, relay
from palaestra.tool_sandbox.container import Container
from palaestra.tool_sandbox.guest.pipes import Pipes
from palaestra.tool_sandbox.waiting import readable

pytestmark = pytest.mark.timeout(600)
REASON = "shares no folder"
# The trainer's folder for temporary files is one that no engine sees.
HIDDEN = """
import json, tempfile
from palaestra.testing.plain_user import Mounts
mounts = Mounts()
mounts.own()
tempfile.tempdir = tempfile.mkdtemp()
mounts.mount("none", tempfile.tempdir, "tmpfs", 0, "mode=755,size=1m")
from palaestra.tool_sandbox import *
limits = Limits(wall=60.0, memory=256 * MiB)
"""
EVERYTHING = """
import asyncio
from palaestra.tool_sandbox import image

def refused(action):
    try:
        action()
    except SandboxError as problem:
        return str(problem)
    return ""

seen = {}
with Sandbox("docker", workers=1, limits=limits) as sandbox:
    seen["level"], seen["missing"] = sandbox.isolation.level, sandbox.isolation.missing
    result = sandbox.execute(
        "print(input() + open('in').read()); open('out', 'w').write('x' * 3_000_000); 6 * 7",
        stdin="a", files={"in": "b"}, fetch=("out",), want_value=True,
    )
    seen["run"] = result.stdout, len(result.files["out"]), result.value
    spin = Limits(wall=0.5, memory=256 * MiB)
    seen["timeout"] = sandbox.execute("while True: pass", limits=spin).reason
    seen["memory"] = sandbox.execute("x = bytearray(1 << 31)").reason
    seen["map"] = [one.stdout for one in sandbox.map([f"print({i})" for i in range(4)])]
    listing = sandbox.execute("import os; print(len(os.listdir('/proc/self/fd')))")
    seen["descriptors"] = listing.stdout
    code, calls = "def f(x): return 2 * x", Calls("f", (Case((2,), expected=4),))
    seen["calls"] = sandbox.grade(code, calls).passed, sandbox.grade("f = abs", calls).passed
    seen["script"] = refused(lambda: sandbox.grade(code, Script("assert f(2) == 4")))
    with sandbox.session(files={"f": "1"}) as session:
        session.execute("x = 1")
        session.write("d/g", "2")
        told = session.execute("x, open('f').read()")
        seen["session"] = told.stdout, session.shell("cat d/g").stdout
        seen["interrupt"] = session.execute("while True: pass", wall=0.3).reason
        seen["after"] = session.execute("x").stdout
        seen["fork"], seen["snapshot"] = refused(session.fork), refused(session.snapshot)

    async def cancelled():
        task = asyncio.create_task(sandbox.aexecute("import time; time.sleep(60)", limits=limits))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled(), (await sandbox.aexecute("print(5)")).stdout

    seen["cancel"] = asyncio.run(cancelled())
with Sandbox("docker", workers=1, network=Fetch(("https://docs.example.org/",))) as sandbox:
    seen["fetch"] = refused(lambda: sandbox.execute("1"))
name, image.digest = image.tag(), lambda: "another"
with Sandbox("docker", workers=1, image=name) as sandbox:
    seen["stale"] = refused(lambda: sandbox.isolation)
print(json.dumps(seen))
"""


class Proxy:
    """A port of this machine behind which an engine's socket stands."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._pairs: list[threading.Thread] = []
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._path)
                self._pairs.append(threading.Thread(target=self._pump, args=(near, far)))
                self._pairs[-1].start()

    @staticmethod
    def _pump(near: socket.socket, far: socket.socket) -> None:
        sides = {near.fileno(): (near, far), far.fileno(): (far, near)}
        with near, far, contextlib.suppress(OSError):
            while True:
                for fd in readable(list(sides)):
                    source, sink = sides[fd]
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    sink.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._thread, *self._pairs):
            thread.join()


@pytest.fixture(scope="module")
def host(engine: str) -> str:
    if os.geteuid() != 0:
        pytest.skip("only root can hide a folder from the engine")
    return engine


@pytest.fixture(scope="module")
def seen(host: str) -> dict[str, Any]:
    """What a trainer sees of an engine behind a port, which sees none of its folders."""
    proxy = Proxy(host.removeprefix("unix://"))
    try:
        done = trainer(HIDDEN + EVERYTHING, proxy.host)
    finally:
        proxy.close()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def trainer(program: str, host: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "DOCKER_HOST": host},
        capture_output=True,
        text=True,
        timeout=580,
    )


@pytest.mark.slow
@pytest.mark.docker
def test_it_is_as_closed_as_any_container_and_says_what_is_missing(seen: dict[str, Any]) -> None:
    assert seen["level"] == "full"
    assert seen["missing"] == ["shared folder"]


@pytest.mark.slow
@pytest.mark.docker
def test_programs_run_with_input_files_and_value(seen: dict[str, Any]) -> None:
    assert seen["run"] == ["ab\n", 3_000_000, 42]
    assert (seen["timeout"], seen["memory"]) == ("timeout", "memory")
    assert seen["map"] == ["0\n", "1\n", "2\n", "3\n"]
    assert seen["cancel"] == [True, "5\n"]


@pytest.mark.slow
@pytest.mark.docker
def test_a_program_does_not_hold_the_line(seen: dict[str, Any]) -> None:
    assert seen["descriptors"] == "4\n"  # three streams, and the folder it lists


@pytest.mark.slow
@pytest.mark.docker
def test_calls_are_graded_without_descriptors(seen: dict[str, Any]) -> None:
    assert seen["calls"] == [True, False]


@pytest.mark.slow
@pytest.mark.docker
def test_a_session_goes_on_there(seen: dict[str, Any]) -> None:
    assert seen["session"] == ["(1, '1')\n", "2"]
    assert (seen["interrupt"], seen["after"]) == ("timeout", "1\n")


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.parametrize("what", ["script", "fetch", "fork", "snapshot"])
def test_what_needs_a_descriptor_says_why_there_is_none(seen: dict[str, Any], what: str) -> None:
    assert REASON in seen[what]


@pytest.mark.slow
@pytest.mark.docker
def test_an_image_with_another_guest_is_not_taken(seen: dict[str, Any]) -> None:
    assert "another state of the guest" in seen["stale"]
    assert "sandbox build" in seen["stale"]


@pytest.mark.slow
@pytest.mark.docker
def test_a_port_of_this_machine_still_shares_its_folders(host: str) -> None:
    program = """
        from palaestra.tool_sandbox import Sandbox, Script
        with Sandbox("docker", workers=1) as sandbox:
            assert sandbox.isolation.missing == (), sandbox.isolation
            assert sandbox.grade("def f(x): return x", Script("assert f(2) == 2")).passed
    """
    proxy = Proxy(host.removeprefix("unix://"))
    try:
        done = trainer(textwrap.dedent(program), proxy.host)
    finally:
        proxy.close()
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.docker
def test_a_container_ends_with_its_trainer(host: str) -> None:
    program = (
        'sandbox = Sandbox("docker", workers=1)\nsandbox.execute("pass")\n'
        'print("ready", flush=True)\nsandbox.execute("import time; time.sleep(60)")'
    )
    process = subprocess.Popen(
        [sys.executable, "-c", HIDDEN + program],
        env={**os.environ, "DOCKER_HOST": host},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", host)
        client = backend.connect()
        try:
            assert process.stdout.readline() == b"ready\n"
            label = f"{process.pid}:{owners.start_time(process.pid)}:"
            own = [
                one
                for one in client.containers.list(filters={"label": owners.OWNER})
                if one.labels[owners.PID].startswith(label)
            ]
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert own
            for container in own:
                with contextlib.suppress(OSError):  # gone already
                    container.wait(condition="removed", timeout=120)
        finally:
            client.close()


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=20))), st.integers(1, 9))
def test_standard_output_is_put_together_however_it_was_cut(
    pieces: list[tuple[int, bytes]], step: int
) -> None:
    data = b"".join(relay._HEAD.pack(stream, len(text)) + text for stream, text in pieces)  # pyright: ignore[reportPrivateUsage]
    streams = relay.Streams()
    found = b"".join(streams.feed(data[at : at + step]) for at in range(0, len(data), step))
    assert found == b"".join(text for stream, text in pieces if stream == 1)


@pytest.fixture
def line() -> Iterator[tuple[relay.Relay, socket.socket]]:
    attached, engine_side = socket.socketpair()
    found = relay.Relay(attached)
    with found.ours, engine_side:
        yield found, engine_side
        found.close()


def test_a_relay_carries_both_ways_and_ends_with_either_side(
    line: tuple[relay.Relay, socket.socket],
) -> None:
    carried, engine_side = line
    carried.start()
    carried.ours.sendall(b"question")
    assert engine_side.recv(100) == b"question"
    engine_side.sendall(relay._HEAD.pack(2, 4) + b"noise"[:4] + relay._HEAD.pack(1, 6) + b"answer")  # pyright: ignore[reportPrivateUsage]
    assert carried.ours.recv(100) == b"answer"
    carried.ours.shutdown(socket.SHUT_RDWR)
    assert engine_side.recv(100) == b""


def test_a_lost_engine_hangs_up_on_the_worker(line: tuple[relay.Relay, socket.socket]) -> None:
    carried, engine_side = line
    carried.start()
    engine_side.close()
    assert carried.ours.recv(100) == b""


def test_a_forked_copy_lets_the_line_go_without_hanging_up(
    line: tuple[relay.Relay, socket.socket],
) -> None:
    carried, engine_side = line
    keep = os.dup(carried._line.fileno())  # pyright: ignore[reportPrivateUsage]
    carried.forget()
    with socket.socket(fileno=keep) as parents:
        parents.sendall(b"x")
        assert engine_side.recv(1) == b"x"


def test_two_pipes_stand_in_for_a_socket() -> None:
    source, sink = os.pipe()
    pipes = Pipes(source, sink)
    pipes.sendall(b"abc")
    assert pipes.recvmsg(2, 24) == (b"ab", [], 0, None)
    assert pipes.recv(9) == b"c"
    os.close(sink)
    assert pipes.recv(9) == b""
    assert pipes.fileno() == source
    os.close(source)


def test_every_container_gets_an_id_that_nobody_has() -> None:
    engine = backend.Docker.__new__(backend.Docker)
    engine._remapped = False  # pyright: ignore[reportPrivateUsage]
    found = [engine._user() for _ in range(1000)]  # pyright: ignore[reportPrivateUsage]
    assert len(set(found)) == 1000
    assert min(found) >= 1_600_000_000
    assert max(found) < 1 << 31
    engine._remapped = True  # pyright: ignore[reportPrivateUsage]
    found = [engine._user() for _ in range(1000)]  # pyright: ignore[reportPrivateUsage]
    assert len(set(found)) == 1000
    assert all(1000 < number < 65_536 for number in found)


@pytest.mark.parametrize("length", [1, 200])
def test_a_door_opens_in_a_folder_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    folder = tmp_path / ("x" * length)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    keeper = Container()
    with socket.socket(socket.AF_UNIX) as door, socket.socket(socket.AF_UNIX) as guest:
        path = keeper.open_door(door)
        here = os.open(path, os.O_RDONLY)
        guest.connect(f"/proc/self/fd/{here}/control")
        os.close(here)
        door.accept()[0].close()
    keeper.release()
    assert list(folder.iterdir()) == []
