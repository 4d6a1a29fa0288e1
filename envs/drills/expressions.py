"""The expressions of CodeDrill: their words, their grammar, and how many are run at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import NoneType
from typing import Any, Final, NamedTuple, cast

import numpy as np

from ...tool_sandbox import Job, Limits, Result
from ..grammar import Grammar
from ..messages import ToolCall
from ..parsing import Parsed
from ..tokenizers import FragmentTokenizer

FIN: Final = {"total": "sum(", "largest": "max(", "smallest": "min(", "size": "len("}

ONE_READING: Final[dict[str, tuple[str, ...]]] = {
    "plain": ("x",),
    "head": ("x[:2]",),
    "tail": ("x[2:]",),
    "odd": ("[v for v in x if v%2]",),
    "bumped": ("[v+1 for v in x]",),
    "squared": ("[v*v for v in x]",),
}
PLAIN: Final[Mapping[str, tuple[str, ...]]] = ONE_READING | {
    "scaled": ("[v*2 for v in x]",),
    "big": ("[v for v in x if v>4]",),
}
AMBIGUOUS: Final[Mapping[str, tuple[str, ...]]] = ONE_READING | {
    "scaled": ("[v*2 for v in x]", "[v*3 for v in x]"),
    "cut": ("x[1:]", "x[:-1]"),
    "picked": ("[v for v in x if v>4]", "[v for v in x if v<5]"),
}
SIX: Final = ("plain", "tail", "odd", "bumped", "scaled", "cut")

CLOSE: Final = ")"
NEXT: Final = "; "
WORDS: Final = (" of ", NEXT, "pass", "fail", "error", "<overflow>")


class Level(NamedTuple):
    """One row of the table of levels: how much is asked, and in which words."""

    functions: int
    tries: int
    parallel: int
    words: tuple[str, ...]
    readings: Mapping[str, tuple[str, ...]]


LEVELS: Final = (
    Level(1, 1, 1, tuple(PLAIN), PLAIN),
    Level(4, 1, 1, tuple(PLAIN), PLAIN),
    Level(4, 2, 1, SIX, AMBIGUOUS),
    Level(4, 2, 1, tuple(AMBIGUOUS), AMBIGUOUS),
    Level(8, 1, 2, tuple(PLAIN), PLAIN),
    Level(12, 1, 4, tuple(PLAIN), PLAIN),
)

# One execution judges the expressions of many sessions. An int is its own outcome; anything else
# leaves as its type's name, an exception behind "!": a forged row still has to guess the ints.
# The work comes as JSON by standard input, for a compiler reads long literals slowly.
_PROGRAM: Final = """\
import json, sys

codes = {}

def outcome(code, x):
    try:
        value = eval(code, {"x": x})
    except BaseException as error:
        return "!" + type(error).__name__
    return value if type(value) is int else "?" + type(value).__name__

def row(source, inputs):
    if source not in codes:
        try:
            codes[source] = compile(source, "<agent>", "eval")
        except BaseException:
            codes[source] = None
    code = codes[source]
    return code and [outcome(code, list(x)) for x in inputs]

[[row(*pair) for pair in pairs] for pairs in json.load(sys.stdin)]
"""

Inputs = Sequence[Sequence[int]]
Outcomes = list[int | str]
Rows = list[Outcomes | None]


class Kind(NamedTuple):
    """Whose code a job runs; jobs of different kinds never share an execution."""

    seed: int
    limits: Limits


# text that cannot loop is given time enough for the busiest machine
CONFINED: Final = Kind(0, Limits(wall=60.0))
REFERENCE: Final = Kind(1, Limits(wall=60.0))
FREE: Final = Kind(2, Limits(wall=2.0))


def job(pairs: Sequence[tuple[str, Inputs]], kind: Kind = CONFINED) -> Job:
    """Returns the execution that evaluates each source on each of its inputs.

    Args:
        pairs: (source of an expression of `x`, values of `x`).
        kind: whose sources they are.
    """
    work = json.dumps([pairs])
    return Job(_PROGRAM, work, seed=kind.seed, limits=kind.limits, want_value=True)


def merge(jobs: Sequence[Job]) -> Job:
    """Returns one job that does the work of many, all made by `job`."""
    bodies = [cast(str, each.stdin)[1:-1] for each in jobs]
    return replace(jobs[0], stdin=f"[{', '.join(bodies)}]")


def split(result: Result, count: int) -> list[Result]:
    """Undoes `merge` of `count` jobs."""
    tables = _tables(result)
    if len(tables) != count:
        return [result] * count
    return [replace(result, value=[table]) for table in tables]


def rows(result: Result) -> Rows:
    """Returns what one job brought: a row of outcomes a pair, None for what does not compile.

    A result without rows (too slow, too large) has none.
    """
    tables = _tables(result)
    return tables[0] if len(tables) == 1 else []


def _tables(result: Result) -> list[Rows]:
    """The tables of a result whose execution may have written anything in their place."""
    if not isinstance(result.value, list):
        return []
    told = cast(list[Any], result.value)
    kinds = (list, NoneType)
    whole = all(type(table) is list and all(type(row) in kinds for row in table) for table in told)
    return cast(list[Rows], told) if whole else []


class Parts:
    """The drill's parser: each part of a message between semicolons is one call of `run`.

    A message without a word is one empty call: it uses up a try like any other text.

    >>> [call.arguments["code"] for call in Parts()("max(x); len(x[1:])").calls]
    ['max(x)', 'len(x[1:])']
    """

    name = "parts"

    def __call__(self, text: str) -> Parsed:
        """Reads one message."""
        calls: list[ToolCall] = []
        start = 0
        for part in text.split(";"):
            source = part.strip()
            if source:
                at = start + part.index(source)
                calls.append(ToolCall("", "run", {"code": source}, (at, at + len(source))))
            start += len(part) + 1
        return Parsed(text, tuple(calls or [ToolCall("", "run", {"code": ""}, (0, len(text)))]))

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Writes calls so that reading them gives them again."""
        return NEXT.join(str(call.arguments.get("code", "")) for call in calls)


def draw(
    stream: np.random.Generator,
    *,
    level: Level,
    functions: int,
    tests: int,
    readings: Sequence[float],
    length: tuple[int, int],
    digits: tuple[int, int],
) -> dict[str, Any]:
    """Draws one task: words, the reading that is meant, and the inputs of the hidden tests."""
    names = list(FIN)
    ends = stream.integers(len(FIN), size=functions).tolist()
    words = stream.integers(len(level.words), size=functions).tolist()
    luck = stream.random(functions).tolist()
    sizes = stream.integers(length[0], length[1] + 1, size=functions * tests).tolist()
    values = iter(stream.integers(digits[0], digits[1] + 1, size=sum(sizes)).tolist())
    first = readings[0] / sum(readings)
    rows: list[dict[str, Any]] = []
    for end, word, u in zip(ends, words, luck, strict=True):
        pre = level.words[int(word)]
        meant = level.readings[pre][0 if u < first else -1]
        inputs = [[next(values) for _ in range(sizes.pop())] for _ in range(tests)]
        source = FIN[names[end]] + meant + CLOSE
        rows.append({"words": f"{names[end]} of {pre}", "code": source, "inputs": inputs})
    return {"prompt": rows[0]["words"], "functions": rows}


class Vocabulary(NamedTuple):
    """What a level is said in.

    Attributes:
        tokenizer: every fragment of its texts.
        codes: every expression of these fragments, in order.
    """

    tokenizer: FragmentTokenizer
    codes: Mapping[str, None]


@cache
def vocabulary(ambiguous: bool) -> Vocabulary:
    """Returns the words of the plain levels, or those of levels 2 and 3."""
    readings = AMBIGUOUS if ambiguous else PLAIN
    pres = tuple(code for codes in readings.values() for code in codes)
    fragments = [*FIN, *readings, *WORDS, *FIN.values(), *pres, CLOSE]
    codes = dict.fromkeys(fin + pre + CLOSE for fin in FIN.values() for pre in pres)
    return Vocabulary(FragmentTokenizer(fragments, name="codedrill"), codes)


@cache
def grammar(level: int, parallel: int) -> Grammar:
    """Returns the grammar of messages that hold `parallel` expressions in the words of a level."""
    row = LEVELS[level]
    pres = tuple(code for word in row.words for code in row.readings[word])
    one = [tuple(FIN.values()), pres, (CLOSE,)]
    more = [place for _ in range(parallel - 1) for place in [(NEXT,), *one]]
    return Grammar([one + more])
