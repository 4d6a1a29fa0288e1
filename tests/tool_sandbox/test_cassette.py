"""Answers on file: recorded, replayed, shared by processes, refused where they are none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from palaestra.testing.fakes import answering, ask
from palaestra.tool_sandbox import BadRequest, Fetch, Sandbox
from palaestra.tool_sandbox.cassette import Answer, Cassette
from palaestra.tool_sandbox.network import Broker

DOCS = "https://docs.example.org/3/"


PAGE = {"https://docs.example.org:443/3/a": Answer(200, b"page")}


def test_a_cassette_records_and_replays(tmp_path: Path) -> None:
    fetch = Fetch((DOCS,), cassette=tmp_path / "tape")
    assert ask(answering(fetch, PAGE), DOCS + "a") == [(200, b"page")]
    assert ask(answering(fetch, {}), DOCS + "a") == [(200, b"page")]


def test_what_was_recorded_first_counts_in_every_process(tmp_path: Path) -> None:
    first, second = Cassette(tmp_path / "tape"), Cassette(tmp_path / "tape")
    assert first.add("u", Answer(200, b"one")) == Answer(200, b"one")
    assert second.add("u", Answer(200, b"two")) == Answer(200, b"one")
    assert second.add("v", Answer(404, b"")) == Answer(404, b"")
    assert first.find("v") is None
    assert first.add("v", Answer(200, b"late")) == Answer(404, b"")
    assert Cassette(tmp_path / "tape").find("u") == Answer(200, b"one")


def test_two_processes_record_into_one_cassette(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from palaestra.tool_sandbox.cassette import Answer, Cassette\n"
        "tape = Cassette(sys.argv[1])\n"
        "for n in range(60):\n"
        "    tape.add(f'u{n}', Answer(200, sys.argv[2].encode() * 20_000))\n"
    )
    tape = str(tmp_path / "tape")
    processes = [subprocess.Popen([sys.executable, "-c", program, tape, letter]) for letter in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    lines = Path(tape).read_text().splitlines()
    assert sorted(json.loads(line)["url"] for line in lines) == sorted(f"u{n}" for n in range(60))
    found = [Cassette(tape).find(f"u{n}") for n in range(60)]
    assert {answer.body for answer in found if answer} <= {b"a" * 20_000, b"b" * 20_000}


def test_half_a_line_of_a_writer_that_died_is_written_over(tmp_path: Path) -> None:
    tape = tmp_path / "tape"
    Cassette(tape).add("u", Answer(200, b"one"))
    whole = tape.read_bytes()
    tape.write_bytes(whole + whole[:20])
    again = Cassette(tape)
    assert again.find("u") == Answer(200, b"one")
    again.add("v", Answer(200, b"two"))
    assert len(tape.read_text().splitlines()) == 2
    assert Cassette(tape).find("v") == Answer(200, b"two")


@pytest.mark.parametrize(
    "line",
    [
        *(b"nonsense", b"{}", b"[]", b'{"url": 1, "status": 200, "body": ""}', b"[" * 50_000),
        *(b'{"url": "u", "status": 200, "body": "%%%"}', b"\xff\xfe", b"1", b""),
    ],
)
def test_a_corrupt_cassette_is_refused_before_anything_runs(tmp_path: Path, line: bytes) -> None:
    tape = tmp_path / "tape"
    tape.write_bytes(line + b"\n")
    with pytest.raises(BadRequest, match="no recording"):
        Broker(Fetch((DOCS,), cassette=tape))
    with pytest.raises(BadRequest, match="no recording"):
        Sandbox("cell", network=Fetch((DOCS,), cassette=tape))


def test_a_cassette_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "tape", tmp_path):
        with pytest.raises(BadRequest, match="give a file in a folder"):
            Broker(Fetch((DOCS,), cassette=path))


def test_answers_of_the_moment_are_not_recorded(tmp_path: Path) -> None:
    fetch = Fetch((DOCS,), cassette=tmp_path / "tape")
    for status in (429, 500, 503):
        answers = {"https://docs.example.org:443/3/a": Answer(status, b"later")}
        assert ask(answering(fetch, answers), DOCS + "a") == [(status, b"later")]
    assert ask(answering(fetch, PAGE), DOCS + "a") == [(200, b"page")]
    assert ask(answering(fetch, {}), DOCS + "a") == [(200, b"page")]
