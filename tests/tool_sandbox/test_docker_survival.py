"""The docker backend in the long run, and where its engine dies and comes back."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from palaestra.testing import engine as engines
from palaestra.testing.victims import carriers, children_of, containers, descriptors, gone, until
from palaestra.tool_sandbox import BackendFailed, Limits, MiB, Result, Sandbox

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]
LIMITS = Limits(wall=60.0, memory=256 * MiB)


class Daemon:
    """An engine that can be killed and started again."""

    def __init__(self, host: str) -> None:
        self.folder = Path(host.removeprefix("unix://")).parent
        self.host = host
        self.pid = int((self.folder / "pid").read_text())
        words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        self.command = [os.fsdecode(word) for word in words[:-1]]

    def kill(self) -> None:
        """As an accident would."""
        os.kill(self.pid, signal.SIGKILL)
        assert until(lambda: gone(self.pid))

    @contextlib.contextmanager
    def again(self) -> Generator[None]:
        """The same engine for a while, with what it left on its disk."""
        (self.folder / "pid").unlink(missing_ok=True)
        with open(self.folder / "log", "ab") as log:
            process = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
        try:
            assert until(lambda: engines.answers(self.host), 120.0), (
                self.folder / "log"
            ).read_text()[-1000:]
            yield
        finally:
            process.terminate()
            process.wait(120.0)


def belongings() -> tuple[set[str], list[int]]:
    """What this process holds open, and its children."""
    gc.collect()
    return descriptors(), children_of(os.getpid())


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    program = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None or os.geteuid() != 0:
        pytest.skip("only root can start an engine, and there must be a dockerd (apt: docker.io)")
    try:
        with engines.own_engine(program) as host, pytest.MonkeyPatch.context() as patch:
            engines.provide_image(host)
            patch.setenv("DOCKER_HOST", host)
            yield Daemon(host)
    except engines.NoEngine as problem:
        pytest.skip(str(problem))


def test_a_sandbox_outlives_its_engine_and_works_when_it_is_back(
    daemon: Daemon, marked: str
) -> None:
    before = belongings()
    code = f"import os; os.execv('/bin/sh', ['sh', '-c', 'sleep 6; echo done; : {marked}'])"
    found: list[Result] = []
    sandbox = Sandbox("docker", workers=1, limits=LIMITS)
    session = sandbox.session()

    def run(sandbox: Sandbox = sandbox) -> None:
        found.append(sandbox.execute(code))

    thread = threading.Thread(target=run)
    thread.start()
    assert until(lambda: bool(carriers(marked)))
    daemon.kill()
    with pytest.raises(BackendFailed, match="start the engine"):
        sandbox.session()
    thread.join()
    assert [(one.reason, one.stdout) for one in found] == [("ok", "done\n")]
    assert session.execute("1").stdout == "1\n"
    assert sandbox.execute("import os; os.makedirs('a/b')").ok  # its container must go
    with daemon.again():
        assert sandbox.execute("print(1)").stdout == "1\n"
        assert sandbox.session().execute("2").stdout == "2\n"
        sandbox.close()
        assert until(lambda: not containers(os.getpid()), 120.0)
    assert not session.alive
    del sandbox, session, run, thread
    assert until(lambda: belongings() == before)


@pytest.mark.timeout(1800)
def test_ten_thousand_executions_in_containers_leave_nothing(engine: str) -> None:
    codes = (
        "print(1)",
        "open('x', 'w')",
        "import os, time\nif not os.fork(): time.sleep(60)",
        "1 / 0",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine)
        before, others = belongings(), {*containers(os.getpid())}
        with Sandbox("docker", workers=2, limits=LIMITS) as sandbox:
            programs = (codes[0] if k % 20 else codes[k // 20 % 4] for k in range(9_990))
            reasons = Counter(result.reason for result in sandbox.map(programs))
            for _ in range(5):  # each of these costs its container
                assert sandbox.execute("import os; os.makedirs('a/b')").ok
                assert sandbox.execute("import os; os.kill(os.getpid(), 9)").reason == "killed"
            assert sum(reasons.values()) == 9_990
            assert set(reasons) == {"ok", "error"}
            assert {*containers(os.getpid())} - others
        assert until(lambda: {*containers(os.getpid())} <= others, 120.0)
        assert until(lambda: belongings() == before)
