"""The small parts of sessions: how a turn travels, what a launcher becomes, where files wait."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.tool_sandbox import Limits, Sandbox, wire
from palaestra.tool_sandbox.embedded import Processes
from palaestra.tool_sandbox.guest import folders, layout, park, turns, waiter
from palaestra.tool_sandbox.guest.line import Branch
from palaestra.tool_sandbox.guest.turns import Question

pytestmark = pytest.mark.linux

NUMBERS = st.integers(0, 1 << 40)


@given(st.integers(0, 3), st.integers(0, 1 << 31), NUMBERS, st.binary(), st.binary())
def test_a_question_arrives_as_it_was_put(
    operation: int, branch: int, output: int, text: bytes, stdin: bytes
) -> None:
    question = Question(operation, branch, 1.5, output, output + 1, text, stdin)
    assert turns.unpack(turns.pack(question)) == question


@given(st.integers(-(1 << 31), (1 << 31) - 1), st.text())
def test_a_word_arrives_as_it_was_said(status: int, text: str) -> None:
    told = text.encode("utf-8", "replace").decode()
    assert turns.unpack_word(turns.pack_word(status, text)) == (status, told)


@given(st.binary(max_size=100))
def test_any_bytes_from_a_cell_are_a_frame_or_malformed(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        try:
            assert turns.read(ours).body == data[wire.HEAD.size :]
        except (wire.Malformed, wire.Hangup):
            assert data[:3] != b"PA\x01" or len(data) != wire.HEAD.size


def test_a_frame_in_pieces_is_put_together() -> None:
    class Slow:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def recv(self, count: int) -> bytes:
            piece, self.data = self.data[: min(5, count)], self.data[min(5, count) :]
            return piece

    frame = wire.pack(wire.ANSWER, 7, b"x" * 40)
    assert turns.read(Slow(frame)) == wire.Frame(wire.ANSWER, 7, b"x" * 40)
    with pytest.raises(wire.Hangup):
        turns.read(Slow(frame[:-1]))
    with pytest.raises(wire.Malformed, match="more than was asked for"):
        turns.complete(Slow(b""), frame + b"y")


@pytest.fixture
def branch() -> Iterator[tuple[Branch, socket.socket]]:
    """A branch whose interpreter is this test."""
    ours, theirs = socket.socketpair()
    fds = os.pidfd_open(os.getpid()), *os.pipe()
    with theirs:
        found = Branch(1, os.getpid(), fds, ours, ())
        yield found, theirs
        found.close()


def answer(asked: bytes, word: bytes) -> bytes:
    return wire.pack(wire.ANSWER, wire.head(asked[: wire.HEAD.size])[1], word)


@pytest.mark.parametrize(
    ("word", "status", "words"),
    [
        (turns.pack_word(0), 0, ""),
        (turns.pack_word(3), 3, ""),
        (turns.pack_word(1, "why"), 1, "why"),
        (turns.pack_word(1 << 20), None, ""),
        (b"", None, ""),
    ],
)
def test_an_answer_is_heard(
    branch: tuple[Branch, socket.socket], word: bytes, status: int | None, words: str
) -> None:
    held, guest = branch
    assert held.begin(b"question") == b""
    guest.sendall(answer(guest.recv(99), word))
    assert held.hear()
    assert (held.status, held.words) == (status, words)


def test_an_answer_to_another_question_is_none(branch: tuple[Branch, socket.socket]) -> None:
    held, guest = branch
    held.begin(b"first")
    late = answer(guest.recv(99), turns.pack_word(5))
    held.begin(b"second")
    guest.sendall(late)
    assert not held.hear()
    assert held.status is None
    guest.sendall(answer(guest.recv(99), turns.pack_word(6)))
    assert held.wait(30.0)
    assert held.status == 6


def test_who_talks_too_much_is_not_listened_to(branch: tuple[Branch, socket.socket]) -> None:
    held, guest = branch
    held.begin(b"question")
    guest.sendall(wire.HEAD.pack(wire.MAGIC, wire.VERSION, wire.ANSWER, 9, 1 << 20) + bytes(4096))
    while not held.hear():
        pass
    assert held.status is None


def test_a_question_longer_than_the_line_is_sent_in_two(
    branch: tuple[Branch, socket.socket],
) -> None:
    held, guest = branch
    rest = held.begin(b"x" * (1 << 20))
    assert rest
    assert held.go_on(rest, 0.01) == rest  # nobody reads
    size = len(guest.recv(1 << 20))
    more = held.go_on(rest, 30.0)
    assert more is not None
    assert len(rest) - size <= len(more) < len(rest)
    guest.close()
    assert held.go_on(more, 30.0) is None
    assert held.begin(b"y") is None


def test_a_launcher_buries_its_child_and_ends() -> None:
    code = (
        "import os, signal, sys\n"
        "from palaestra.tool_sandbox.guest import waiter\n"
        "if not os.fork():\n"
        "    sys.stdin.read()\n"
        "    os._exit(3)\n"
        "waiter.become()\n"
        "os._exit(77)\n"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        command = Path(f"/proc/{process.pid}/cmdline")
        while command.read_bytes() != b"palaestra-launcher\0":
            assert process.poll() is None
            time.sleep(0.001)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


def test_the_launchers_program_is_one_loaded_part_of_machine_code() -> None:
    for machine, number in (("x86_64", 62), ("aarch64", 183)):
        program = waiter.program(machine)
        assert program[:4] == b"\x7fELF"
        assert struct.unpack_from("<HHIQ", program, 16) == (2, number, 1, 0x400000 + 120)
        assert struct.unpack_from("<Q", program, 64 + 32)[0] == len(program)
    assert waiter.program("vax") == b""


def test_without_such_a_program_a_launcher_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiter, "MACHINE", "vax")
    waiter.become()
    monkeypatch.setattr(waiter, "MACHINE", "x86_64")
    monkeypatch.setattr(waiter, "program", lambda machine: b"no program")  # pyright: ignore
    waiter.become()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Folders as in a cell."""
    for name in folders.NAMES:
        (tmp_path / name).mkdir()
    before = layout.root()
    layout.settle(str(tmp_path))
    yield tmp_path
    layout.settle(before)


def test_files_go_into_the_park_and_come_back(place: Path) -> None:
    kept = park.Park()
    (place / "data" / "f").write_text("one")
    kept.copy(2)
    (place / "data" / "f").write_text("two")
    kept.put(1)
    kept.fetch(2)
    assert (place / "data" / "f").read_text() == "one"
    kept.put(2)
    kept.fetch(1)
    assert (place / "data" / "f").read_text() == "two"
    kept.remove(2)
    assert not kept.touched()
    assert (place / ".park").stat().st_mode & 0o777 == 0


def test_a_touched_park_gives_nothing_back(place: Path) -> None:
    kept = park.Park()
    kept.copy(2)
    (place / ".park").chmod(0o700)
    (place / ".park").chmod(0)
    assert kept.touched()
    for use in (kept.copy, kept.put, kept.fetch, kept.remove):
        with pytest.raises(PermissionError, match="other branches"):
            use(2)


def test_where_ticks_are_coarse_the_park_waits_for_the_next(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(park.Park, "_told_apart", lambda self: False)  # pyright: ignore
    slept: list[float] = []
    clock = iter([0, 0, 1 << 62])
    monkeypatch.setattr(time, "clock_gettime_ns", lambda which: next(clock))  # pyright: ignore
    monkeypatch.setattr(time, "sleep", slept.append)
    park.Park()
    assert len(slept) == 2


def test_an_idle_session_is_small(cells: Sandbox) -> None:
    with cells.session(limits=Limits(memory=256 << 20)) as session:
        session.execute("x = 1")
        keeper = session._shared.cell.keeper  # pyright: ignore[reportPrivateUsage]
        assert isinstance(keeper, Processes)
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[0]) for pid in keeper.pids]
    assert min(pages) < 100, "the launcher still has an interpreter's memory"
