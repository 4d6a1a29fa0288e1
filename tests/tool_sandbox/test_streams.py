"""`Streams`: a program is run once a case, and what it printed is compared."""

from collections.abc import Iterator
from typing import Any

import pytest
from palaestra.tool_sandbox import (
    BadRequest,
    Limits,
    Sandbox,
    Streams,
)
from palaestra.tool_sandbox.showing import DETAIL

from .test_grading import outcomes


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("cell", limits=Limits(wall=20.0), workers=1) as found:
        yield found


def _any(value: Any) -> Any:
    """What the type checker would not let through."""
    return value


def test_streams_compare_what_was_printed(sandbox: Sandbox) -> None:
    code = "n = int(input())\nprint(n * 2, ' ')\n"
    assert sandbox.grade(code, Streams((("3\n", "6"), ("4", "8\n")))).passed
    report = sandbox.grade(code, Streams((("3\n", "6"), ("4", "9"), ("x", "0"))))
    assert outcomes(report) == ["pass", "wrong", "raised"]
    assert "9" not in report.verdicts[1].detail
    exact = Streams((("3", "6\n"),), "exact")
    assert not sandbox.grade(code, exact).passed
    assert sandbox.grade("print(int(input()) * 2)", exact).passed


def test_streams_need_a_program_that_ends_well(sandbox: Sandbox) -> None:
    asked = Streams((("", "6"),))
    for code in ("print(6)\nraise SystemExit(1)", "print(6, flush=True)\nwhile True: pass"):
        report = sandbox.grade(code, asked, limits=Limits(wall=0.3))
        assert not report.passed


def test_input_for_which_there_is_no_room_is_refused(sandbox: Sandbox) -> None:
    tests = Streams((("x" * 5000, "5000"),))
    code = "print(len(input()))"
    assert sandbox.grade(code, tests).passed
    with pytest.raises(BadRequest, match="file_size"):
        sandbox.grade(code, tests, limits=Limits(file_size=4096))


def test_only_what_was_written_to_stdout_counts(sandbox: Sandbox) -> None:
    noisy = "import sys\nprint('x' * 100_000, file=sys.stderr)\nprint(3)"
    assert sandbox.grade(noisy, Streams((("", "3"),))).passed
    assert sandbox.grade("\ufeffprint(3)", Streams((("", "3"),))).passed
    for match in ("exact", "tokens"):
        undecodable = "import sys\nsys.stdout.buffer.write(b'\\xff')"
        assert not sandbox.grade(undecodable, Streams((("", "\ufffd"),), _any(match))).passed


def test_a_stream_longer_than_the_output_limit_is_still_compared(sandbox: Sandbox) -> None:
    expected = "x" * 5000
    report = sandbox.grade(
        "print('x' * 5000)", Streams((("", expected),)), limits=Limits(output=10)
    )
    assert report.passed


def test_odd_streams_are_refused_by_name(cells: Sandbox) -> None:
    odd: list[Any] = [None, 5, (1,), "ab", (("a", "b", "c"),), ((b"a", b"b"),), ((None, "b"),)]
    odd += [(("a", "\ud800"),), (("\ud800", "a"),), iter([("a", "b")]), (("", "x" * (2 << 20)),)]
    for pairs in odd:
        with pytest.raises(BadRequest, match=r"Streams|stdout"):
            cells.grade("print(1)", Streams(pairs))


def test_the_length_of_an_expected_output_stays_on_the_host(sandbox: Sandbox) -> None:
    code = """import sys
frame = sys._getframe()
while frame:
    order = frame.f_locals.get("order")
    if order:
        print(order.output)
        break
    frame = frame.f_back
"""
    seen = {
        sandbox.grade(code, Streams((("", "x" * length),))).result.stdout
        for length in (40_000, 50_000, 1_000_000)
    }
    assert len(seen) == 1


def test_a_program_that_failed_is_told_with_its_last_words(sandbox: Sandbox) -> None:
    tests = Streams((("", "1"),))
    told = "the program ended with error, exit code"
    for code, words in {
        "raise ValueError('no\\x1b[2J')": f"{told} 1: ValueError: no\\x1b[2J",
        "import sys\nsys.exit('enough')": f"{told} 1: enough",
        "raise SystemExit(3)": f"{told} 3",
        f"raise ValueError('x' * {9 * DETAIL})": f"{told} 1: ValueError: {'x' * DETAIL}"[:DETAIL],
    }.items():
        (verdict,) = sandbox.grade(code, tests).verdicts
        assert (verdict.outcome, verdict.detail) == ("raised", words)


def test_words_whose_end_was_cut_off_are_no_last_words(sandbox: Sandbox) -> None:
    code = "import sys\nsys.stderr.write('begins\\n' * 9)\nraise ValueError"
    (verdict,) = sandbox.grade(code, Streams((("", ""),)), limits=Limits(output=20)).verdicts
    assert verdict.detail == "the program ended with error, exit code 1"
