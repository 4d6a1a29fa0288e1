"""What a hostile branch of a session can do to the others: nothing that goes unnoticed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from palaestra.tool_sandbox import Limits, MiB, Sandbox, SandboxError, Session, SessionDead
from palaestra.tool_sandbox.resources import Groups

pytestmark = pytest.mark.linux

KEPT = "x = 1; open('f', 'w').write('kept'); import os; pid = os.getpid()"

# Wakes everybody, and waits until somebody has worked.
WAKE = """
import time
def used():
    total = 0.0
    for pid in range(2, 1000):
        if pid != os.getpid():
            try:
                total += time.clock_gettime((~pid << 3) | 2)
            except OSError:
                pass
    return total
before = used()
os.kill(-1, 18)
while used() < before + 0.05:
    time.sleep(0.01)
"""


@pytest.fixture
def session(cells: Sandbox) -> Iterator[Session]:
    with cells.session() as session:
        session.execute(KEPT)
        yield session


def holds(session: Session) -> bool:
    return session.execute("x, open('f').read()").stdout == "(1, 'kept')\n"


def test_a_branch_does_not_see_into_the_memory_of_another(session: Session) -> None:
    other = session.fork()
    for path in ("mem", "maps", "environ", "fd", "cwd", "task"):
        result = other.execute(f"import os; os.stat(f'/proc/{{pid}}/{path}'), pid")
        assert "FileNotFoundError" in result.stderr
    trunk = session.execute("import os; os.listdir(f'/proc/{os.getpid()}/task') != []")
    assert trunk.stdout == "True\n"  # its own it may see
    other.close()


def test_a_branch_killed_by_another_is_dead_and_not_wrong(session: Session) -> None:
    snapshot = session.snapshot()
    session.execute(
        "for one in range(2, 40):\n if one != os.getpid():\n  try: os.kill(one, 9)\n"
        "  except OSError: pass"
    )
    assert holds(session)
    with pytest.raises(SessionDead, match="another branch killed it"):
        session.restore(snapshot)
    assert holds(session)


def test_kill_all_spares_the_one_who_says_so_and_the_others_are_dead(session: Session) -> None:
    other = session.fork()
    session.execute("import os; os.kill(-1, 9)")
    with pytest.raises(SessionDead):
        other.execute("1")
    assert holds(session)


def test_killing_what_another_branch_left_running_is_noticed(session: Session) -> None:
    other = session.fork()
    other.shell("(sleep 60 > /dev/null 2>&1 & echo $! > pid)")
    assert other.execute("pid = int(open('pid').read()); os.kill(pid, 0)").reason == "ok"
    started = int(other.read("pid"))
    assert holds(session)
    assert session.execute(f"os.kill({started}, 9)").reason == "ok"
    with pytest.raises(SessionDead, match="killed it, or meddled"):
        other.execute("1")
    assert holds(session)


@pytest.mark.parametrize(
    "act",
    [
        "import resource; resource.prlimit({}, resource.RLIMIT_FSIZE, (1, 1))",
        "import os; os.kill({}, 10)",
    ],
)
def test_meddling_with_another_branch_is_noticed(session: Session, act: str) -> None:
    session.execute("import signal; signal.signal(signal.SIGUSR1, lambda *_: x.clear())")
    other = session.fork()
    assert other.execute("os.getpid()").reason == "ok"
    target = int(other.execute("os.getpid()").stdout)
    assert holds(session)
    assert session.execute(act.format(target)).stderr == ""
    with pytest.raises(SessionDead, match="meddled"):
        other.execute("1")
    assert holds(session)


def test_background_work_that_another_branch_woke_is_noticed(session: Session) -> None:
    other = session.fork()
    other.shell("(while true; do echo tick >> ticks; done) > /dev/null 2>&1 &")
    assert other.execute("import time\nwhile not os.path.exists('ticks'): time.sleep(0.01)").ok
    assert session.execute(WAKE).ok
    with pytest.raises(SessionDead, match="meddled"):
        other.execute("1")
    assert holds(session)


def test_without_room_branches_come_and_go(session: Session) -> None:
    other = session.fork()
    session.execute("for n in range(10_000): open(f'n{n}', 'w').close()")
    assert "No space left" in session.execute("open('one more', 'w')").stderr
    assert holds(other)
    assert holds(session)
    with pytest.raises(SandboxError, match="No space left"):
        session.fork()
    other.close()
    assert holds(session)


def test_background_work_waits_for_its_own_branch(session: Session) -> None:
    other = session.fork()
    other.shell("(while true; do echo tick >> ticks; done) > /dev/null 2>&1 &")
    other.execute("import time\nwhile not os.path.exists('ticks'): time.sleep(0.01)")
    assert holds(session)  # by now the other stands still: it may have had a write to end
    ticks = other.read("ticks")
    assert session.execute("import time; time.sleep(0.1)").reason == "ok"
    assert other.read("ticks") == ticks
    more = f"while os.path.getsize('ticks') <= {len(ticks)}: time.sleep(0.01)"
    assert other.execute(more).reason == "ok"


def test_who_opens_the_folders_of_others_ends_the_session(session: Session) -> None:
    other = session.fork()
    assert "PermissionError" in session.execute("os.listdir('/mnt/.park')").stderr
    assert holds(other)
    code = "os.chmod('/mnt/.park', 0o700); open('/mnt/.park/2/data/f', 'w').write('lie')"
    assert session.execute(code).reason == "killed"
    for branch in (session, other):
        assert not branch.alive or branch is other
        with pytest.raises(SessionDead):
            branch.execute("1")


@pytest.mark.parametrize(
    "act",
    [
        "os.rename('/mnt/.park', '/mnt/.aside'); os.rename('/mnt/.aside', '/mnt/.park')",
        "os.chmod('/mnt/.park', 0o700); os.chmod('/mnt/.park', 0)",
        "os.utime('/mnt/.park', ns=(0, os.stat('/mnt/.park').st_mtime_ns))",
    ],
)
def test_no_trace_can_be_removed(session: Session, act: str) -> None:
    snapshot = session.snapshot()
    assert session.execute(act).reason == "killed"
    with pytest.raises(SessionDead):
        session.restore(snapshot)


def test_an_open_file_becomes_the_branchs_own(session: Session) -> None:
    session.execute("log = open('log', 'w'); log.write('a'); log.flush()")
    other = session.fork()
    other.execute("log.write('branch'); log.flush()")
    session.execute("log.write('trunk'); log.flush()")
    assert (session.read("log"), other.read("log")) == (b"atrunk", b"abranch")
    other.close()


def test_a_place_in_a_file_is_not_shared(session: Session) -> None:
    session.execute("open('n', 'w').write('0123456789'); n = open('n', buffering=1)")
    session.execute("fd = os.open('n', os.O_RDONLY); one = os.read(fd, 2)")
    other = session.fork()
    assert session.execute("os.read(fd, 2)").stdout == "b'23'\n"
    assert other.execute("os.read(fd, 2)").stdout == "b'23'\n"
    other.close()


def test_a_file_without_a_name_is_copied(session: Session) -> None:
    session.execute("import tempfile; t = tempfile.TemporaryFile(); _ = t.write(b'ab'); t.flush()")
    other = session.fork()
    session.execute("_ = t.write(b'trunk'); t.flush()")
    other.execute("_ = t.write(b'c'); t.flush(); _ = t.seek(0)")
    assert other.execute("t.read()").stdout == "b'abc'\n"
    other.close()


def test_a_pipe_does_not_lead_from_branch_to_branch(session: Session) -> None:
    session.execute("r, w = os.pipe(); import socket; a, b = socket.socketpair()")
    other = session.fork()
    assert "Bad file descriptor" in other.execute("os.write(w, b'x')").stderr
    assert "Bad file descriptor" in other.execute("a.send(b'x')").stderr
    assert session.execute("os.write(w, b'y'), os.read(r, 9)").stdout == "(1, b'y')\n"
    other.close()


def test_a_folder_held_open_does_not_lead_to_another_branch(session: Session) -> None:
    session.execute("d = os.open('.', os.O_RDONLY)")
    other = session.fork()
    other.execute("os.close(os.open('g', os.O_CREAT | os.O_WRONLY, dir_fd=d))")
    assert [info.path for info in session.list()] == ["f"]
    assert [info.path for info in other.list()] == ["f", "g"]
    other.close()


def test_shared_memory_refuses_a_fork(session: Session) -> None:
    session.execute("import mmap; m = mmap.mmap(-1, 4096)")
    with pytest.raises(SandboxError, match="1 shared mappings of memory are open; close them"):
        session.fork()
    session.execute("m.close()")
    session.fork().close()


def test_a_branch_starts_where_the_other_stood(session: Session) -> None:
    session.execute("os.makedirs('a/b'); os.chdir('a/b')")
    other = session.fork()
    other.execute("open('g', 'w').close()")
    assert other.execute("os.getcwd()").stdout == "'/mnt/data/a/b'\n"
    assert (session.list("a/b"), [i.path for i in other.list("a/b")]) == ((), ["a/b/g"])
    other.close()


def test_folders_closed_to_their_owner_are_kept_as_they_are(session: Session) -> None:
    other = session.fork()
    session.execute("os.chmod('/mnt/data', 0)")
    assert holds(other)
    session.execute("os.chmod('/mnt/data', 0o700)")
    assert holds(session)
    other.close()


def test_a_work_directory_in_ruins_is_the_branchs_own_misfortune(session: Session) -> None:
    other = session.fork()
    session.execute("import shutil; os.chdir('/'); shutil.rmtree('/mnt/data')")
    assert holds(other)
    session.execute("os.mkdir('/mnt/data'); open('/mnt/data/new', 'w').close()")
    assert [info.path for info in session.list()] == ["new"]
    assert holds(other)
    other.close()


def test_a_time_out_in_one_branch_leaves_the_others_alone(session: Session) -> None:
    other = session.fork()
    assert session.execute("while True: pass", wall=1.0).reason == "timeout"
    assert holds(other)
    assert holds(session)
    other.close()


def test_the_heap_that_branches_share_is_counted_once(
    cells: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cells.isolation.level == "full"
    monkeypatch.setattr(Groups, "make", lambda self, limits: None)  # pyright: ignore
    polled = Sandbox("cell", workers=1, preload=(), limits=Limits(memory=128 * MiB))
    with polled, polled.session() as session:
        assert "memory:poll" in polled.isolation.layers
        session.execute("heap = b'x' * (64 << 20)")
        snapshots = [session.snapshot() for _ in range(4)]
        assert session.execute("import time; time.sleep(0.2); len(heap)").stdout == "67108864\n"
        session.restore(snapshots[0])
        assert session.execute("import time; time.sleep(0.2); len(heap)").stdout == "67108864\n"
        assert session.execute("more = b'y' * (80 << 20); time.sleep(5)").reason == "memory"
