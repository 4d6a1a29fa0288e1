"""The suite again, as a user without privileges: what holds for root proves nothing for others.

The named attacks and the life of a sandbox are run so by test_conformance.py, test_docker.py and
test_lifecycle.py; here follow the files whose tests meet the kernel.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from palaestra.testing import plain_user

HERE = Path(__file__).parent
FILES = (
    *(
        "advice",
        "bad_input",
        "branches",
        "cell",
        "crowds",
        "doctor",
        "grading",
        "network",
        "process",
        "resources",
        "sandbox",
    ),
    *("script", "script_cheats", "script_peer", "script_questions", "session", "session_wear"),
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.linux,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="this suite runs as a plain user already"),
]


@pytest.mark.parametrize("name", FILES)
def test_a_plain_user_sees_the_same(name: str) -> None:
    arguments = ["-q", "-p", "no:cacheprovider", "-m", "not slow"]
    file = str(HERE / f"test_{name}.py")
    done = plain_user.run([sys.executable, "-m", "pytest", file, *arguments], timeout=880.0)
    closing = done.stdout.strip().splitlines()[-1:]
    assert done.returncode == 0, f"{closing}\n{done.stdout[-3000:]}{done.stderr[-1000:]}"
    assert "passed" in closing[0]
