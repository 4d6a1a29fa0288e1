"""`python=` may be any interpreter or virtual environment, wherever it lies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from palaestra.tool_sandbox import Limits, Sandbox

pytestmark = pytest.mark.linux
LONG = Limits(wall=60)  # where nothing is compiled yet
LIBRARY = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(params=["/tmp", "/var/tmp"])  # a cell has a /tmp of its own
def home(request: pytest.FixtureRequest) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=request.param) as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.parametrize("base", [sys.executable, "/usr/bin/python3"])
def test_packages_of_a_virtual_environment_are_found(base: str, home: Path) -> None:
    if not os.access(base, os.X_OK):
        pytest.skip(f"there is no {base} here")
    make = [os.path.realpath(base), "-m", "venv", "--without-pip", str(home)]
    subprocess.run(make, check=True)
    (site,) = home.glob("lib/python3.*/site-packages")
    (site / "of_mine.py").write_text("x = 42\n")
    with Sandbox("cell", python=str(home / "bin/python"), workers=1, limits=LONG) as sandbox:
        assert sandbox.execute("import of_mine; print(of_mine.x)").stdout == "42\n"


def test_an_interpreter_shows_where_it_lies(home: Path) -> None:
    """On a copy of this one, without its packages."""
    base = Path(sys.base_prefix)
    unused = shutil.ignore_patterns("site-packages", "test", "__pycache__", "config-*", "idlelib")
    shutil.copytree(base / LIBRARY, home / LIBRARY, ignore=unused)
    (home / "bin").mkdir()
    python = shutil.copy(os.path.realpath(sys.executable), home / "bin/python3")
    with Sandbox("cell", python=str(python), workers=1, limits=LONG) as sandbox:
        result = sandbox.execute("import sys, http.client, sqlite3\nprint(http.client.__file__)")
        assert result.ok, result
        shown = sandbox.execute(f"print(open({result.stdout.strip()!r}).readline())")
        assert shown.ok, shown


def test_a_program_that_is_its_own_interpreter_does_not_start_itself_without_end(
    home: Path,
) -> None:
    starts = home / "starts"
    program = home / "trainer"  # as a frozen application is: whatever it is given, it trains
    program.write_text(
        f"#!{sys.executable}\n"
        f"with open({str(starts)!r}, 'a') as file: file.write('x')\n"
        "import sys\n"
        "sys.executable = sys.argv[0]\n"
        "from palaestra.tool_sandbox import Sandbox\n"
        "with Sandbox('cell', workers=1) as sandbox: sandbox.execute('1')\n"
    )
    program.chmod(0o755)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert "is no interpreter, but starts this program again" in done.stderr
    assert "give python= an interpreter" in done.stderr
    assert starts.read_text() == "xx"
