"""Where paths of the machine show, its sockets show, too: a guest must not speak to them."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from palaestra.testing import plain_user
from palaestra.tool_sandbox import Sandbox, backends
from palaestra.tool_sandbox.embedded import Embedded

pytestmark = pytest.mark.linux
PYTHON = "/usr/bin/python3"  # which everybody may read
REDUCED = Embedded(PYTHON, (), (), mode="reduced")
KNOCK = """
import socket
import sys
def tried(name, call):
    try: call()
    except OSError: return
    print(name)
for path in ({log!r}, b"\\0" + {log!r}.encode()):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        try: one, other = socket.socketpair(socket.AF_UNIX, kind)
        except OSError: continue
        try: one.sendto(b"hello", path)  # a packet of a pair goes to the other, whatever it says
        except OSError: pass
        tried("connect", lambda: one.connect(path))
        other.close()
        tried("connect when the other has gone", lambda: one.connect(path))
for path in ({log!r}, {server!r}):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        tried("a new socket", lambda: socket.socket(socket.AF_UNIX, kind).connect(path))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the machine with a server and a log, as below /run."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        with (
            socket.socket(socket.AF_UNIX) as server,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log,
        ):
            server.bind(str(place / "server"))
            server.listen()
            server.setblocking(False)
            log.bind(str(place / "log"))
            log.setblocking(False)
            for path in place.iterdir():
                path.chmod(0o777)
            yield place
            with pytest.raises(BlockingIOError):
                server.accept()
            with pytest.raises(BlockingIOError):
                log.recv(100)


def knock(folder: Path) -> str:
    return KNOCK.format(log=str(folder / "log"), server=str(folder / "server"))


def test_sockets_below_readable_paths_answer_nobody(folder: Path) -> None:
    with Sandbox("cell", readable=[folder], workers=1) as sandbox:
        result = sandbox.execute(knock(folder))
        assert (result.stdout, result.stderr) == ("", "")
        assert sandbox.execute("import asyncio; asyncio.run(asyncio.sleep(0)); print(1)").ok


@pytest.mark.skipif(not os.access(PYTHON, os.X_OK), reason=f"no {PYTHON} here")
def test_a_reduced_guest_reaches_no_socket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "candidates", lambda _: [("cell", lambda: REDUCED)])  # type: ignore[misc]  # pyright: ignore
    with Sandbox("cell", minimum="reduced", workers=1) as sandbox:
        assert sandbox.isolation.level == "reduced"
        result = sandbox.execute(knock(folder))
        assert (result.stdout, result.stderr) == ("", "")


COPIES = """
import ctypes, os, shutil, socket, subprocess
open("a", "w").write("x" * 100_000)
shutil.copyfile("a", "b")
subprocess.run(["cp", "a", "c"], check=True)
subprocess.run("cat a a | tail -c 100000 > d", shell=True, check=True)
print(all(open(name).read() == "x" * 100_000 for name in "bcd"))
one, other = socket.socketpair()
with open("a", "rb") as file:
    print(one.sendfile(file, count=1000), len(other.recv(1000)))
print(ctypes.CDLL(None).prctl(42, 0, 0, 0, 0))  # PR_GET_THP_DISABLE
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_without_a_group_files_are_copied_by_hand_and_no_page_is_huge() -> None:
    program = (
        "from palaestra.tool_sandbox import Limits, Sandbox\n"
        "with Sandbox('cell', workers=1) as sandbox:\n"
        f"    print(sandbox.execute({COPIES!r}, limits=Limits(wall=60.0)).stdout)\n"
    )
    done = plain_user.run([sys.executable, "-c", program])
    assert done.stdout.split() == ["True", "1000", "1000", "1"], done.stderr
