"""What tells a dead trainer's things from those of a living one, or of a stranger."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from palaestra.testing import plain_user
from palaestra.tool_sandbox import owners

from .test_trainer_states import apart, trainer

pytestmark = pytest.mark.linux
STRANGER = 61_001
START = """
import sys, warnings
warnings.simplefilter("ignore")
from palaestra.tool_sandbox import Sandbox
with Sandbox("process", minimum="none", workers=1, preload=()) as sandbox:
    print(sandbox.execute("1").reason)
"""


def test_a_process_lives_although_nothing_of_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    own = owners.own_pid()
    pid, started, space = own.split(":")
    assert not owners.is_dead(own)
    assert owners.is_dead(f"{pid}:{started}1:{space}")
    monkeypatch.setattr(owners, "start_time", lambda _: "")  # type: ignore[misc]  # pyright: ignore
    assert not owners.is_dead(own)
    assert owners.is_dead(f"{(1 << 22) + 1}:{started}:{space}")


@pytest.mark.parametrize("owner", ["", "1", "x:1:1", "1:1:1", "1:1:1.1"])
def test_nobody_here_knows_of_those_that_are_counted_elsewhere(owner: str) -> None:
    assert not owners.is_dead(owner)
    assert owners.is_elsewhere(owner) == (owner.count(":") == 2 and owner[0] == "1")


@pytest.mark.usefixtures("cells")
def test_two_trainers_that_count_time_unlike_leave_each_other_alone() -> None:
    program = f"""
    import subprocess, sys
    from palaestra.tool_sandbox import owners
    folder = owners.make_folder(owners.ROOTS)
    other = [*{apart("--time", "--boottime", "1000")!r}, sys.executable, "-c", {START!r}]
    done = subprocess.run(other, capture_output=True, text=True)
    print(done.stdout or done.stderr, os.path.isdir(folder))
    os.rmdir(folder)
    """
    said = trainer(program)
    if "unshare:" in said:
        pytest.skip(f"no namespace of time can be made here: {said[-200:]}")
    assert said == "ok\n True\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_strangers_link_leads_nobody_to_what_is_his_own() -> None:
    with tempfile.TemporaryDirectory() as shared, tempfile.TemporaryDirectory() as home:
        os.chmod(shared, 0o1777)
        os.chmod(home, 0o755)
        key = Path(home, "key")
        key.write_text("k")
        key.chmod(0o400)
        for path in (home, key):
            os.chown(path, plain_user.unused_id(), -1)
        pid, started, space = owners.own_pid().split(":")
        link = Path(shared, f"{owners.ROOTS}{pid}-{started}1-{space}-x")
        link.symlink_to(home)
        os.lchown(link, STRANGER, STRANGER)
        done = plain_user.run([sys.executable, "-c", START], env={"TMPDIR": shared})
        assert done.stdout == "ok\n", done.stderr
        assert link.is_symlink()
        assert key.stat().st_mode & 0o777 == 0o400
