"""A sandbox whose trainer runs out of descriptors, or may have few: told, and passing."""

from __future__ import annotations

import errno
import gc
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
from palaestra.tool_sandbox import (
    BackendFailed,
    Fetch,
    Limits,
    MiB,
    SandboxUnavailable,
    resources,
)
from palaestra.tool_sandbox.network import Broker

from .test_trainer_states import GOOD, SCRIPT, new_sandbox, trainer

pytestmark = pytest.mark.linux
OTHER = Limits(wall=30.0, memory=130 * MiB)


def refuse(code: int) -> Callable[..., Any]:
    def refusing(*_: object, **__: object) -> Any:
        raise OSError(code, os.strerror(code))

    return refusing


SHORT = {
    "the pair": (socket, "socketpair"),
    "the group": (resources.Group, "__init__"),
    "its files": (resources.Group, "descriptors"),
}


@pytest.mark.parametrize("what", SHORT)
@pytest.mark.usefixtures("cells")
def test_a_passing_shortage_of_descriptors_is_told_and_passes(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_sandbox() as sandbox:
        sandbox.execute("1")
        backend: Any = sandbox._engine._backend  # pyright: ignore[reportPrivateUsage]
        if what != "the pair" and backend._groups.places is None:
            pytest.skip("this machine makes no resource groups")
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        with monkeypatch.context() as patch:
            patch.setattr(*SHORT[what], refuse(errno.EMFILE))
            with pytest.raises(BackendFailed, match=r"Too many open files.*ulimit -n"):
                sandbox.execute("1", limits=OTHER)
            with pytest.raises(BackendFailed, match="Too many open files"):
                sandbox.session(limits=OTHER)
        assert len(os.listdir("/proc/self/fd")) == before
        assert sandbox.execute("print(1)", limits=OTHER).stdout == "1\n"
        assert sandbox.execute("print(2)").stdout == "2\n"


@pytest.mark.usefixtures("cells")
def test_a_shortage_at_the_first_start_is_told_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    with new_sandbox() as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(os, "memfd_create", refuse(errno.EMFILE))
            with pytest.raises(SandboxUnavailable, match=r"zygote: .*Too many open files.*ulimit"):
                sandbox.execute("1")
        assert sandbox.execute("print(1)").stdout == "1\n"


@pytest.mark.usefixtures("cells")
def test_a_script_without_a_descriptor_for_its_socket_fails_as_a_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_sandbox() as sandbox:
        assert sandbox.grade(GOOD, SCRIPT).passed
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socketpair", refuse(errno.EMFILE))
            with pytest.raises(BackendFailed, match="no line between candidate and judge"):
                sandbox.grade(GOOD, SCRIPT)
        assert sandbox.grade(GOOD, SCRIPT).passed


def test_a_broker_without_a_descriptor_fails_as_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(Fetch(allow=("https://example.invalid/",)))
    monkeypatch.setattr(socket, "socketpair", refuse(errno.EMFILE))
    with pytest.raises(BackendFailed, match="no line to the broker"):
        broker.open()
    with pytest.raises(BackendFailed, match="no line to the broker"), broker.lend():
        pass


@pytest.mark.usefixtures("cells")
def test_a_hard_limit_of_descriptors_that_is_too_small_is_named() -> None:
    program = """
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            sandbox.execute("1")
        except SandboxUnavailable as problem:
            print(problem)
        """
    said = trainer(program)
    assert "this process may open 64 files at most" in said
    assert "ulimit -n" in said


@pytest.mark.parametrize(("soft", "hard"), [(64, 4096), (128, 128)])
@pytest.mark.usefixtures("cells")
def test_a_small_limit_of_descriptors_fails_no_honest_candidate(soft: int, hard: int) -> None:
    program = f"""
        resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
        good = "def f(x): return x"
        print(sandbox.grade(good, Calls("f", (Case((1,), expected=1),))).passed)
        print(sandbox.grade(good, Script("assert f(1) == 1")).passed)
        print(sandbox.session().execute("open('/dev/null').name").stdout)
        sandbox.close()
        """
    assert trainer(program) == "True\nTrue\n'/dev/null'\n\n"


@pytest.mark.usefixtures("cells")
def test_an_interpreter_that_does_not_know_itself_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", None)
    with (
        new_sandbox() as sandbox,
        pytest.raises(SandboxUnavailable, match="where it lies itself; give python="),
    ):
        sandbox.execute("1")
