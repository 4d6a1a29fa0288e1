from __future__ import annotations

import json

import pytest
from palaestra.tool_sandbox import doctor
from palaestra.tool_sandbox.doctor import Finding

FULL = Finding("cell", True, "full", ("pid",), (), "", 0.001)
BARE = Finding("process", True, "none", (), ("everything",), "", 0.001)
NONE = Finding("docker", False, "none", advice="no engine")


def test_only_a_full_backend_that_auto_takes_counts() -> None:
    assert doctor.reaches_full([NONE, FULL, BARE])
    assert not doctor.reaches_full([NONE, BARE])
    assert not doctor.reaches_full([])


def test_the_report_reads_both_ways() -> None:
    text = doctor.to_text([FULL, NONE])
    assert "cell: full, 1.00 ms an execution" in text
    assert "docker: not usable" in text
    assert "no engine" in text
    data = json.loads(doctor.to_json([FULL, NONE]))
    assert data["full"] is True
    assert [row["backend"] for row in data["backends"]] == ["cell", "docker"]
    assert "auto would refuse" in doctor.to_text([NONE])


@pytest.mark.linux
def test_it_starts_what_it_reports() -> None:
    cell, process = doctor.examine((("cell", "full"), ("process", "none")), runs=3)
    assert (process.usable, process.level) == (True, "none")
    assert process.p50 is not None
    assert cell.usable or cell.advice
    if cell.usable:
        assert "seccomp" in cell.layers
