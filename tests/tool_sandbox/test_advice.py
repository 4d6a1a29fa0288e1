"""Each failure of a machine is answered with what mends it there."""

from __future__ import annotations

import os
import sys

import pytest
from palaestra.tool_sandbox import Limits, Sandbox, SandboxUnavailable
from palaestra.tool_sandbox import backends as choices
from palaestra.tool_sandbox.advice import advise, explain
from palaestra.tool_sandbox.cell import StartFailed


class Refusing:
    """A backend on a machine that forbids something."""

    name = "cell"
    lacks = ""

    def __init__(self, step: str, code: int) -> None:
        self.failure = StartFailed(step, code, "no")

    def begin(self, limits: Limits) -> object:
        raise self.failure

    def close(self) -> None: ...
    def forget(self) -> None: ...


@pytest.mark.parametrize(
    ("step", "code", "words"),
    [
        ("unshare", 28, "user.max_user_namespaces"),
        ("unshare", 1, "--security-opt"),
        ("proc", 1, "systempaths=unconfined"),
        ("pivot_root", 1, "seccomp=unconfined"),
        ("seccomp", 22, "CONFIG_SECCOMP_FILTER"),
        ("self-test", 0, "report the words above"),
    ],
)
def test_a_machine_that_forbids_a_step_is_told_its_remedy(
    monkeypatch: pytest.MonkeyPatch, step: str, code: int, words: str
) -> None:
    monkeypatch.setattr(choices, "candidates", lambda _: [("cell", lambda: Refusing(step, code))])  # type: ignore[misc]  # pyright: ignore
    sandbox = Sandbox("cell")
    with pytest.raises(SandboxUnavailable, match=words.replace(".", r"\.")) as caught:
        sandbox.execute("1")
    assert step in str(caught.value)
    assert 'reaches "full"' in str(caught.value)


def test_other_failures_speak_for_themselves() -> None:
    assert advise(ValueError("x")) == ""
    assert "preload" in advise(StartFailed("preload", 0, "x"))


def none(name: str) -> str:
    return ""


def test_a_setting_that_forbids_namespaces_is_named_alone() -> None:
    failure = StartFailed("unshare", 28, "No space left on device")
    found = advise(failure, {"user.max_net_namespaces": "0"}.get)  # type: ignore[arg-type]  # pyright: ignore
    assert "sysctl -w user.max_net_namespaces=15000, or" in found
    assert "user.max_user_namespaces=15000" in advise(failure, none)


def test_a_distributions_switch_is_named_to_a_plain_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    failure = StartFailed("uid_map", 1, "Operation not permitted")
    for name, forbids, allows in (
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ):
        assert f"sysctl -w {name}={allows}" in advise(failure, {name: forbids}.get)  # type: ignore[arg-type]  # pyright: ignore
    everything = advise(failure, none)
    assert "--security-opt" in everything or "sysctl" in everything


@pytest.mark.parametrize(("user", "words"), [(0, "--cap-add SYS_ADMIN"), (7, "systempaths")])
def test_a_container_is_opened_as_its_user_needs(
    monkeypatch: pytest.MonkeyPatch, user: int, words: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/.dockerenv")  # pyright: ignore
    found = advise(StartFailed("unshare", 1, "Operation not permitted"), none)
    assert found.startswith("start this container with --security-opt seccomp=unconfined")
    assert words in found


@pytest.mark.parametrize(("code", "words"), [(13, "join the group"), (2, "start the engine")])
def test_an_engine_out_of_reach_is_mended_by_its_cause(code: int, words: str) -> None:
    found = advise(StartFailed("engine", code, "no"))
    assert words in found
    assert "DOCKER_HOST" in found
    assert "doctor" not in found


def test_an_absent_library_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "palaestra.tool_sandbox.docker", None)
    with pytest.raises(SandboxUnavailable, match="pip install docker"):
        Sandbox("docker").execute("1")


def test_auto_never_runs_an_interpreter_that_was_not_asked_for() -> None:
    wish = Sandbox("auto", python=sys.executable)._wish  # pyright: ignore[reportPrivateUsage]
    *_, (name, make) = choices.candidates(wish)
    assert name == "docker"
    with pytest.raises(StartFailed, match=r"not '.*python"):
        make()


def test_a_failure_that_brings_its_remedy_is_answered_with_it() -> None:
    failure = StartFailed("image", 0, "the engine lacks x:1", "palaestra sandbox build")
    assert explain(failure) == "image: the engine lacks x:1; palaestra sandbox build"
    assert explain(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (StartFailed("image", 0, "no"), "sandbox build --rootfs self"),
        (StartFailed("paths", 0, "no"), "readable="),
        (StartFailed("zygote", 0, "no"), "python="),
        (StartFailed("hidden paths", 0, "readable= holds '/tmp/x'"), "outside these"),
        (StartFailed("landlock", 0, "no"), "Linux 6.7"),
        (StartFailed("temporary folder", 28, "no"), "TMPDIR"),
        (StartFailed("self-test", 0, "identity: still root"), "as a plain user"),
        (StartFailed("self-test", 0, "readable: /root/x cannot be read"), "python="),
    ],
)
def test_every_step_has_its_remedy(failure: StartFailed, words: str) -> None:
    assert words in advise(failure, none)
