"""Sessions whose program used up or broke what it stands on: they say so, and can be restored."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from palaestra.tool_sandbox import Sandbox, Session

pytestmark = pytest.mark.linux


@pytest.fixture
def session(cells: Sandbox) -> Iterator[Session]:
    with cells.session(files={"given.txt": "here"}) as session:
        session.execute("keep = 1")
        yield session


USED_UP = {
    "disk": "for n in range(30): open(f'b{n}', 'wb').write(bytes(15 << 20))",
    "inodes": "for n in range(10_000): open(f'n{n}', 'w').close()",
    "processes": (
        "import os, time\ntry:\n    while True:\n        if not os.fork(): time.sleep(1000)\n"
        "except OSError:\n    pass"
    ),
    "threads": (
        "import threading, time\ntry:\n    while True:\n"
        "        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
        "except RuntimeError:\n    pass"
    ),
}


@pytest.mark.parametrize("end", ["", "import os; os._exit(0)"], ids=["alive", "ended"])
@pytest.mark.parametrize("code", USED_UP.values(), ids=USED_UP)
def test_what_is_used_up_does_not_stand_in_the_way_of_restore(
    session: Session, code: str, end: str
) -> None:
    snapshot = session.snapshot()
    session.execute(code)
    if end:
        session.execute(end)
    for _ in range(2):
        session.restore(snapshot)
        assert session.execute("keep, open('given.txt').read()").stdout == "(1, 'here')\n"
    snapshot.close()


@pytest.mark.parametrize("closed", ["0, 1, 2", "1,", "2,", "0, 2"])
def test_a_branch_has_output_although_its_parent_closed_its_own(
    session: Session, closed: str
) -> None:
    assert session.execute(f"import os\nfor fd in ({closed}): os.close(fd)").reason == "ok"
    session.execute("print('early')")
    branch = session.fork()
    result = branch.execute("import sys; sys.stderr.write('word\\n'); keep")
    assert result.stdout.endswith("1\n")
    assert result.stderr == "word\n"
    branch.close()


def test_prints_that_go_nowhere_are_told(session: Session) -> None:
    assert session.execute("with open(1, 'w') as file: _ = file.write('x')").stdout == "x"
    result = session.execute("print('lost')")
    assert (result.reason, result.exit_code) == ("error", 120)
    assert "sys.stdout: Bad file descriptor" in result.stderr
    assert session.execute("1 / 0").exit_code == 1  # which says more


def test_a_session_without_streams_goes_on(session: Session) -> None:
    assert session.execute("import sys; del sys.stdout, sys.stderr").reason == "ok"
    assert session.execute("open('kept', 'w').close()").reason == "ok"
    assert session.read("kept") == b""


@pytest.mark.parametrize(
    "handler",
    ["signal.SIG_IGN", "lambda *_: os.waitpid(-1, os.WNOHANG)"],
    ids=["ignored", "reaped"],
)
def test_a_shell_has_its_exit_code_whatever_the_program_does_with_children(
    session: Session, handler: str
) -> None:
    session.execute(f"import os, signal; mine = {handler}; signal.signal(signal.SIGCHLD, mine)")
    result = session.shell("echo hi; exit 3")
    assert (result.exit_code, result.stdout, result.stderr) == (3, "hi\n", "")
    assert session.execute("signal.getsignal(signal.SIGCHLD) == mine").stdout == "True\n"


def test_the_traceback_of_a_time_out_ends_in_the_program(session: Session) -> None:
    result = session.execute("def f():\n    while True: pass\nf()", wall=1.0)
    assert result.stderr.endswith("    while True: pass\nKeyboardInterrupt\n")
    chained = "import time\ntry:\n    time.sleep(60)\nfinally:\n    1 / 0"
    result = session.execute(chained, wall=1.0)
    assert "ZeroDivisionError" in result.stderr
    assert "KeyboardInterrupt" in result.stderr
    assert "repl.py" not in result.stderr
