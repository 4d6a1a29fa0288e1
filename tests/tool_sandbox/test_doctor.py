from __future__ import annotations

import json

import pytest
from palaestra.tool_sandbox import BackendFailed, Result, doctor
from palaestra.tool_sandbox.cell import Request
from palaestra.tool_sandbox.doctor import Finding
from palaestra.tool_sandbox.outcome import Outcome

FULL = Finding("cell", True, "full", ("pid",), (), "", 0.001)
BARE = Finding("process", True, "none", (), ("everything",), "", 0.001)
NONE = Finding("docker", False, "none", problem="engine: no docker engine", advice="start it")
REDUCED = Finding("cell", True, "reduced", asked="reduced")
DOCKER = Finding("docker", True, "full", ("container",), (), "", 0.002)


def test_only_a_full_backend_that_auto_takes_counts() -> None:
    assert doctor.reaches_full([NONE, FULL, BARE])
    assert not doctor.reaches_full([NONE, BARE])
    assert not doctor.reaches_full([])


def test_reduced_is_not_full_and_the_cell_comes_before_docker() -> None:
    assert doctor.chosen([REDUCED, BARE, NONE]) == ""
    assert doctor.chosen([DOCKER, FULL]) == "cell"
    assert doctor.chosen([REDUCED, DOCKER]) == "docker"


def test_the_report_begins_with_the_verdict() -> None:
    text = doctor.to_text([FULL, NONE, REDUCED, BARE])
    assert text.startswith('Sandbox("auto") would run code in cell, fully isolated.')
    assert "cell: full, 1.0 ms an execution" in text
    assert 'cell (only with minimum="reduced"): reduced' in text
    assert "process (only by its name): isolates nothing" in text
    assert doctor.to_text([NONE]).startswith('Sandbox("auto") would refuse')


def test_what_cannot_be_used_says_why_and_what_to_do() -> None:
    lines = doctor.to_text([NONE]).splitlines()
    assert "docker: cannot be used" in lines
    assert "  problem  engine: no docker engine" in lines
    assert "  do       start it" in lines


def test_no_line_is_too_long_for_a_terminal() -> None:
    long = Finding("cell", False, "none", problem="word " * 60, advice="word " * 60)
    assert max(map(len, doctor.to_text([FULL, long]).splitlines())) <= 100


def test_scripts_read_the_same() -> None:
    data = json.loads(doctor.to_json([FULL, NONE]))
    assert (data["full"], data["auto"]) == (True, "cell")
    assert [row["backend"] for row in data["backends"]] == ["cell", "docker"]
    assert set(data["backends"][0]) == {
        *("backend", "usable", "level", "layers", "missing", "problem", "advice", "p50", "asked")
    }
    assert json.loads(doctor.to_json([NONE]))["auto"] == ""


class Failing:
    """A worker that comes up, and then loses what it is given."""

    def execute(self, request: Request) -> Outcome:
        return Outcome(Result("lost"))


def test_a_worker_that_loses_executions_is_not_usable() -> None:
    with pytest.raises(BackendFailed, match="'lost'"):
        doctor._median(Failing(), 3)  # type: ignore[arg-type]  # pyright: ignore


@pytest.mark.linux
def test_it_starts_what_it_reports() -> None:
    cell, process = doctor.examine((("cell", "full"), ("process", "none")), runs=3)
    assert (process.usable, process.level) == (True, "none")
    assert process.p50 is not None
    assert cell.usable or cell.problem
    if cell.usable:
        assert "seccomp" in cell.layers


def test_where_no_engine_runs_the_advice_is_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    (docker,) = doctor.examine((("docker", "full"),), runs=1)
    assert not docker.usable
    assert "unix:///nowhere/docker.sock" in docker.problem
    for word in ("start the engine", "DOCKER_HOST", "palaestra sandbox build"):
        assert word in docker.advice
