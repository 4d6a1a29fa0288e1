from __future__ import annotations

import math

import pytest
from palaestra.tool_sandbox import BadRequest, Job, Limits, MiB, Result
from palaestra.tool_sandbox.outcome import judge, reason_of
from palaestra.tool_sandbox.requests import request_of
from palaestra.tool_sandbox.wire import CAUSES, Ending


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, 1e9, "5", None, True])
def test_a_wall_limit_that_cannot_be_is_refused(value: object) -> None:
    with pytest.raises(BadRequest, match=r"Limits\.wall is"):
        Limits(wall=value)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "name",
    [
        "memory",
        "processes",
        "open_files",
        "file_size",
        "disk",
        "inodes",
        "output",
        "output_stop",
    ],
)
@pytest.mark.parametrize("value", [0, -5, 1.5, 1 << 70])
def test_a_whole_limit_that_cannot_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(BadRequest, match=name):
        Limits(**{name: value})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_refused_limit_says_what_to_give() -> None:
    with pytest.raises(BadRequest, match="memory is 0; give a value from"):
        Limits(memory=0)


def test_bad_requests_are_value_errors_too() -> None:
    with pytest.raises(ValueError, match="processes"):
        Limits(processes=0)


def test_processor_time_follows_the_wall_unless_said() -> None:
    assert Limits(wall=1.5).processor_seconds == 3
    assert Limits(wall=1.5, cpu=7).processor_seconds == 7


def test_a_result_is_truncated_when_less_was_kept_than_written() -> None:
    outcome = judge(Ending(0, 0, b"ab", b"", 5, 0), False, (), {}, 1.0)
    assert outcome.result.truncated
    assert not judge(Ending(0, 0, b"ab", b"", 2, 0), False, (), {}, 1.0).result.truncated


def test_an_unset_result_is_not_truncated() -> None:
    assert not Result("lost").truncated


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (Ending(0, 0), "ok"),
        (Ending(0, 3), "error"),
        (Ending(0, 137), "memory"),
        (Ending(0, -24, cpu=1.0), "cpu"),
        (Ending(0, -24, cpu=0.8), "cpu"),
        (Ending(0, -24, cpu=0.1), "killed"),
        (Ending(0, -9, cpu=2.0), "cpu"),
        (Ending(0, -9, cpu=0.5), "killed"),
        (Ending(0, -11), "killed"),
        (Ending(CAUSES.index("timeout"), -9), "timeout"),
        (Ending(CAUSES.index("output"), -9), "output"),
        (Ending(CAUSES.index("memory"), -9), "memory"),
        (Ending(CAUSES.index("hurried"), -9), "killed"),
    ],
)
def test_the_reason_follows_the_kernels_figures(ending: Ending, reason: str) -> None:
    assert reason_of(ending, 1.0) == reason


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    outcome = judge(Ending(0, 0, b"\xff\x00a", b"", 3, 0), False, (), {}, 1.0)
    assert outcome.result.stdout == "\ufffd\x00a"


def test_a_value_that_does_not_parse_is_none() -> None:
    ending = Ending(0, 0, rows=b"\xffgarbage")
    assert judge(ending, True, (), {}, 1.0).result.value is None


@pytest.mark.parametrize(
    ("files", "stdin", "words"),
    [
        ({"a": "1", "a/b": "2"}, "", "paths below it"),
        ({"a": "x" * (2 * MiB)}, "", "file_size"),
        ({}, "x" * (2 * MiB), "^stdin has"),
        ({f"f{k}": "x" * MiB for k in range(9)}, "", "disk"),
        ({f"d{k}/f": "" for k in range(9)}, "", "inodes"),
    ],
)
def test_what_cannot_be_put_into_the_folder_is_refused(
    files: dict[str, str], stdin: str, words: str
) -> None:
    small = Limits(file_size=MiB, disk=8 * MiB, inodes=16)
    with pytest.raises(BadRequest, match=words):
        request_of(Job("pass", stdin=stdin, files=files), small)


@pytest.mark.parametrize("name", ["memory", "disk", "file_size", "processes"])
def test_the_figures_of_a_refusal_are_themselves_accepted(name: str) -> None:
    with pytest.raises(BadRequest, match="give a value from") as problem:
        Limits(**{name: 0})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    low, _, high = str(problem.value).partition(" from ")[2].partition(" to ")
    for figure in (low, high):
        value = int(figure.replace(",", ""))
        assert getattr(Limits(**{name: value}), name) == value  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_number_too_long_to_write_down_is_refused_like_any_other() -> None:
    for name in ("memory", "wall"):
        with pytest.raises(BadRequest, match=f"{name} is a number of 16,610 bits; give a value"):
            Limits(**{name: 10**5000})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
