from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from palaestra.testing.victims import carriers, until
from palaestra.tool_sandbox import Limits, MiB, Sandbox
from palaestra.tool_sandbox.cell import StartFailed
from palaestra.tool_sandbox.embedded import Embedded

PRELOAD = ("json", "math", "random", "re")
LIMITS = Limits(wall=30.0, memory=256 * MiB)  # a wall that no loaded machine needs


@pytest.fixture(scope="session")
def cells() -> Iterator[Sandbox]:
    """One embedded sandbox for all tests that leave it as they found it."""
    if sys.platform != "linux":
        pytest.skip("the embedded backend needs Linux")
    backend = Embedded(None, PRELOAD, ())
    try:
        cell = backend.begin(Limits())
        cell.wait_ready()
        cell.close()
    except StartFailed as problem:
        pytest.skip(f"this machine cannot isolate: {problem}")
    finally:
        backend.close()
    with Sandbox("cell", workers=2, limits=LIMITS, preload=PRELOAD) as sandbox:
        yield sandbox


@pytest.fixture
def marked() -> Iterator[str]:
    """A word no other process has in its command line; nobody may carry it afterwards."""
    word = f"palaestra_mark_{os.getpid()}_{os.urandom(4).hex()}"
    yield word
    assert until(lambda: not carriers(word)), "a process of the guest is left"


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """DOCKER_HOST of an engine that has the guest's image; skips with the reason where none is."""
    from palaestra.testing.engine import NoEngine, docker_engine

    found = docker_engine()
    try:
        host = found.__enter__()
    except NoEngine as problem:
        pytest.skip(str(problem))
    yield host
    found.__exit__(None, None, None)
