"""The named attacks, on every backend, as root and as a plain user."""

import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from palaestra.testing import plain_user
from palaestra.testing.attacks import (
    ATTACKS,
    Attack,
    Outside,
    attempt,
    check_sandbox,
    outside,
    probe_of,
    suitable,
)
from palaestra.testing.attacks.unheld import MACHINE, UNHELD
from palaestra.tool_sandbox import Sandbox, SandboxUnavailable, UnsafeSandboxWarning

USER = "root" if os.geteuid() == 0 else "plain"
Target = tuple[Sandbox, Outside, str]
TITLES = [f"{attack.family}: {attack.name}" for attack in ATTACKS]


def target(backend: Any) -> Iterator[Target]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnsafeSandboxWarning)
            minimum = "none" if backend == "process" else "full"
            sandbox = Sandbox(backend, workers=1, minimum=minimum)
        assert sandbox.isolation.level == minimum
    except SandboxUnavailable as problem:
        pytest.skip(f"{backend} does not run here: {str(problem)[-300:]}")
    with sandbox, outside() as targets:
        yield sandbox, targets, probe_of(sandbox)


@pytest.fixture(scope="module")
def cell() -> Iterator[Target]:
    yield from target("cell")


@pytest.fixture(scope="module")
def process() -> Iterator[Target]:
    yield from target("process")


@pytest.fixture(scope="module")
def docker(engine: str) -> Iterator[Target]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine)
        yield from target("docker")


def tried_on(backend: str) -> Iterator[Any]:
    for attack, title in zip(ATTACKS, TITLES, strict=True):
        if not attack.only or backend in attack.only:
            yield pytest.param(attack, id=title)


@pytest.mark.linux
@pytest.mark.parametrize("attack", list(tried_on("cell")))
def test_the_cell_holds(cell: Target, attack: Attack) -> None:
    sandbox, targets, probe = cell
    attempt(sandbox, attack, targets, probe)


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.parametrize("attack", list(tried_on("docker")))
def test_docker_holds(docker: Target, attack: Attack) -> None:
    sandbox, targets, probe = docker
    attempt(sandbox, attack, targets, probe)


def tried_on_process() -> Iterator[Any]:
    for attack, title in zip(ATTACKS, TITLES, strict=True):
        marks: list[pytest.MarkDecorator] = []
        if attack.name in MACHINE:
            marks.append(pytest.mark.xfail(strict=False, reason="held or not by the machine"))
        elif attack.name in UNHELD[USER]:
            marks.append(pytest.mark.xfail(strict=True, reason="process isolates nothing"))
        yield pytest.param(attack, id=title, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize("attack", list(tried_on_process()))
def test_process_holds_what_its_list_does_not_name(process: Target, attack: Attack) -> None:
    sandbox, targets, probe = process
    if not suitable(sandbox, attack):
        pytest.skip("not tried: it would harm the machine, or means nothing here")
    attempt(sandbox, attack, targets, probe)


@pytest.mark.slow
@pytest.mark.timeout(1500)  # every named attack, one after another
@pytest.mark.skipif(USER != "root", reason="this suite runs as a plain user already")
@pytest.mark.parametrize("which", ["the_cell_holds", "process_holds"])
def test_a_plain_user_sees_the_same(which: str) -> None:
    arguments = ["-p", "no:cacheprovider", "-q", "-m", "slow or not slow", "-k", which]
    done = plain_user.run([sys.executable, "-m", "pytest", __file__, *arguments], timeout=1480.0)
    closing = done.stdout.strip().splitlines()[-1:]
    assert done.returncode == 0, f"{closing}\n{done.stdout[-3000:]}{done.stderr[-1000:]}"
    assert "passed" in closing[0]


def test_a_case_that_harms_is_refused_where_nothing_is_isolated(process: Target) -> None:
    sandbox, targets, probe = process
    harmful = next(attack for attack in ATTACKS if attack.harms)
    with pytest.raises(ValueError, match="harms the machine"):
        attempt(sandbox, harmful, targets, probe)


def test_every_name_is_unique_and_the_lists_name_what_exists() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)
    assert UNHELD["root"] | UNHELD["plain"] | MACHINE <= set(names)
    harmful = {attack.name for attack in ATTACKS if attack.harms}
    assert not harmful & (UNHELD["root"] | UNHELD["plain"])
    families = {attack.family for attack in ATTACKS}
    assert families == {
        *("resources", "time", "crash", "processes", "secrets", "kernel", "network"),
        *("persistence", "results", "grading", "sessions", "lifecycle"),
    }


def test_check_sandbox_names_what_did_not_hold(process: Target, cell: Target) -> None:
    chosen = [attack for attack in ATTACKS if attack.name in ("TCP", "exit 77", "fork bomb")]
    found = check_sandbox(process[0], attacks=chosen, strict=False)
    assert [(one.name, one.outcome) for one in found] == [
        ("fork bomb", "not tried"),
        ("TCP", "broken"),
        ("exit 77", "held"),
    ]
    with pytest.raises(AssertionError, match="TCP"):
        check_sandbox(process[0], attacks=chosen)
    assert {one.outcome for one in check_sandbox(cell[0], attacks=chosen)} == {"held"}
