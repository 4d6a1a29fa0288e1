"""Small functions to write, drawn without end: statement, reference and tests of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from string import Template as Text
from typing import Any, Final, cast

import numpy as np

Stream = np.random.Generator
Arguments = tuple[Any, ...]

VISIBLE: Final = 3
HIDDEN: Final = 6
WORDS: Final[tuple[str, ...]] = (
    "amber",
    "brook",
    "cedar",
    "ember",
    "fjord",
    "grove",
    "heath",
    "iris",
    "kelp",
    "oak",
)


def none(stream: Stream) -> int:
    """Draws nothing: for statements without a knob."""
    return 0


@dataclass(frozen=True, slots=True)
class Template:
    """One kind of task.

    Attributes:
        entry: name of the function to write.
        statement: what it does; `$k` stands for the knob.
        source: the reference, with the same `$k`.
        inputs: draws the arguments of one test.
        knob: draws `k`; tasks of one template differ in it and in their tests.
    """

    entry: str
    statement: str
    source: str
    inputs: Callable[[Stream], Arguments]
    knob: Callable[[Stream], int] = none


def whole(stream: Stream, low: int, high: int) -> int:
    """Draws an int from low to high, both included."""
    return int(stream.integers(low, high + 1))


def numbers(stream: Stream, low: int = -9, high: int = 20, least: int = 0) -> list[int]:
    """Draws a list of at most nine ints."""
    return [int(v) for v in stream.integers(low, high + 1, size=whole(stream, least, 9))]


def words(stream: Stream, least: int = 1) -> str:
    """Draws a line of at most six words; some come twice."""
    chosen = stream.integers(len(WORDS), size=whole(stream, least, 6))
    return " ".join(WORDS[int(i)] for i in chosen)


def letters(stream: Stream, alphabet: str, longest: int = 9) -> str:
    """Draws a text over an alphabet."""
    return "".join(
        alphabet[i] for i in stream.integers(len(alphabet), size=whole(stream, 0, longest))
    )


def knob(low: int, high: int) -> Callable[[Stream], int]:
    """Returns a rule that draws k from low to high."""
    return lambda stream: whole(stream, low, high)


def matrix(stream: Stream) -> list[list[int]]:
    """Draws one to four rows of equal length."""
    width = whole(stream, 1, 4)
    return [stream.integers(0, 10, size=width).tolist() for _ in range(whole(stream, 1, 4))]


def intervals(stream: Stream) -> list[list[int]]:
    """Draws up to six intervals [start, stop]."""
    starts = stream.integers(0, 20, size=whole(stream, 0, 6)).tolist()
    return [[start, start + whole(stream, 0, 6)] for start in starts]


def nested(stream: Stream, depth: int = 3) -> list[Any]:
    """Draws a list of ints and lists."""
    items: list[Any] = []
    for _ in range(whole(stream, 0 if depth < 3 else 2, 4)):
        deeper = depth > 0 and stream.random() < 0.4
        items.append(nested(stream, depth - 1) if deeper else whole(stream, 0, 9))
    return items


def brackets(stream: Stream) -> str:
    """Draws brackets that are balanced half of the time."""
    text = ""
    for _ in range(whole(stream, 1, 4)):
        left, right = ("()", "[]")[whole(stream, 0, 1)]
        text = (text + left + right, left + text + right)[whole(stream, 0, 1)]
    if stream.random() < 0.5:
        at = whole(stream, 0, len(text) - 1)
        text = text[:at] + "()[]"[whole(stream, 0, 3)] + text[at + 1 :]
    return text


def pairs(stream: Stream) -> str:
    """Draws settings such as "oak=3; reed=1"; names come twice, blanks vary."""
    names = [WORDS[int(i)] for i in stream.integers(0, 4, size=whole(stream, 1, 5))]
    gap = " " * whole(stream, 0, 2)
    return ";".join(f"{gap}{name}={whole(stream, 0, 9)}{gap}" for name in names)


TEMPLATES: Final[tuple[Template, ...]] = (
    Template(
        "count_above",
        "Return how many numbers of the list are greater than $k.",
        "def count_above(numbers):\n    return sum(1 for n in numbers if n > $k)\n",
        lambda s: (numbers(s),),
        knob(-2, 9),
    ),
    Template(
        "sum_multiples",
        "Return the sum of the numbers of the list that are divisible by $k.",
        "def sum_multiples(numbers):\n    return sum(n for n in numbers if n % $k == 0)\n",
        lambda s: (numbers(s, least=4),),
        knob(2, 5),
    ),
    Template(
        "long_words",
        "Return the words of the line that have at least $k letters, in their order, as a list.",
        "def long_words(line):\n    return [word for word in line.split() if len(word) >= $k]\n",
        lambda s: (words(s),),
        knob(4, 5),
    ),
    Template(
        "shift_letters",
        "Move each lower-case letter of the text $k places forward in the alphabet, from z on to "
        "a; keep every other character.",
        "def shift_letters(text):\n    out = []\n    for c in text:\n"
        '        if "a" <= c <= "z":\n            c = chr((ord(c) - 97 + $k) % 26 + 97)\n'
        '        out.append(c)\n    return "".join(out)\n',
        lambda s: (letters(s, "abcmnxyz XY-") + "zA",),
        knob(1, 12),
    ),
    Template(
        "rotate",
        "Return the list turned $k places to the left: the first $k items come last. "
        "A shorter list is turned as often as that says.",
        "def rotate(items):\n    if not items:\n        return []\n    k = $k % len(items)\n"
        "    return items[k:] + items[:k]\n",
        lambda s: (numbers(s, 0, 9),),
        knob(1, 4),
    ),
    Template(
        "chunks",
        "Cut the list into lists of $k items each; the last one may be shorter.",
        "def chunks(items):\n    return [items[i:i + $k] for i in range(0, len(items), $k)]\n",
        lambda s: (numbers(s, 0, 9),),
        knob(2, 4),
    ),
    Template(
        "run_lengths",
        "Return the runs of equal characters of the text as a list of [character, length].",
        "def run_lengths(text):\n    runs = []\n    for c in text:\n"
        "        if runs and runs[-1][0] == c:\n            runs[-1][1] += 1\n"
        "        else:\n            runs.append([c, 1])\n    return runs\n",
        lambda s: (letters(s, "ab"),),
    ),
    Template(
        "balanced",
        "Return True if every bracket of the text, one of ()[], is closed by its own kind in the "
        "right order, else False.",
        "def balanced(text):\n    stack = []\n    for c in text:\n"
        '        if c in "([":\n            stack.append(")" if c == "(" else "]")\n'
        "        elif not stack or stack.pop() != c:\n            return False\n"
        "    return not stack\n",
        lambda s: (brackets(s),),
    ),
    Template(
        "digit_sum",
        "Return the sum of the digits of the number n, which is at least 0, written in base $k.",
        "def digit_sum(n):\n    total = 0\n    while n:\n        total += n % $k\n"
        "        n //= $k\n    return total\n",
        lambda s: (whole(s, 0, 500),),
        knob(2, 9),
    ),
    Template(
        "second_largest",
        "Return the second largest of the different numbers of the list, or None if there is none.",
        "def second_largest(numbers):\n    different = sorted(set(numbers))\n"
        "    return different[-2] if len(different) > 1 else None\n",
        lambda s: (numbers(s, 0, 6),),
    ),
    Template(
        "merge_intervals",
        "Merge the intervals [start, stop] that overlap or touch; return them sorted by start.",
        "def merge_intervals(intervals):\n    merged = []\n"
        "    for start, stop in sorted(intervals):\n"
        "        if merged and start <= merged[-1][1]:\n"
        "            merged[-1][1] = max(merged[-1][1], stop)\n"
        "        else:\n            merged.append([start, stop])\n    return merged\n",
        lambda s: (intervals(s),),
    ),
    Template(
        "top_word",
        "Return the most frequent word of the line; of several, the first in the alphabet.",
        "def top_word(line):\n    words = line.split()\n"
        "    return min(words, key=lambda word: (-words.count(word), word))\n",
        lambda s: (words(s, 2) + " " + words(s, 2),),
    ),
    Template(
        "column_sums",
        "Return the sums of the columns of the matrix, a list of rows of equal length.",
        "def column_sums(rows):\n    return [sum(column) for column in zip(*rows)]\n",
        lambda s: (matrix(s),),
    ),
    Template(
        "read_settings",
        "Read settings such as 'oak=3; reed=1' into a dict of ints. Blanks around a name or a "
        "number do not count; of equal names the last one holds.",
        'def read_settings(text):\n    settings = {}\n    for part in text.split(";"):\n'
        '        name, value = part.split("=")\n'
        "        settings[name.strip()] = int(value)\n    return settings\n",
        lambda s: (pairs(s),),
    ),
    Template(
        "flatten",
        "Return the numbers of the nested lists as one flat list, in their order.",
        "def flatten(items):\n    flat = []\n    for item in items:\n"
        "        if isinstance(item, list):\n            flat.extend(flatten(item))\n"
        "        else:\n            flat.append(item)\n    return flat\n",
        lambda s: (nested(s),),
    ),
    Template(
        "steps_to_one",
        "Count the steps from n to 1, where a step halves an even number and turns an odd n "
        "into 3 * n + 1; if 1 is not reached after $k steps, return -1.",
        "def steps_to_one(n):\n    for step in range($k + 1):\n        if n == 1:\n"
        "            return step\n        n = n // 2 if n % 2 == 0 else 3 * n + 1\n"
        "    return -1\n",
        lambda s: (whole(s, 1, 40),),
        knob(10, 20),
    ),
)


def make(stream: Stream) -> dict[str, Any]:
    """Draws a task: prompt, entry point, visible and hidden tests, and the reference."""
    return fill(TEMPLATES[int(stream.integers(len(TEMPLATES)))], stream)


def fill(template: Template, stream: Stream) -> dict[str, Any]:
    """Draws a task of one template."""
    k = template.knob(stream)
    source = Text(template.source).substitute(k=k)
    reference = compiled(source, template.entry)
    tests: list[str] = []
    for _ in range(10):  # hidden tests that all ask for one answer would take a constant for right
        tests = [test(template, reference, arguments) for arguments in cases(template, stream)]
        if len({code.split(" == ")[1] for code in tests[VISIBLE:]}) > 1:
            break
    statement = Text(template.statement).substitute(k=k)
    head = source.split("\n", 1)[0]
    return {
        "prompt": f"{statement}\n\n{head}",
        "entry_point": template.entry,
        "tests": [{"code": code, "hidden": i >= VISIBLE} for i, code in enumerate(tests)],
        "solution": source,
        "family": template.entry,
    }


def cases(template: Template, stream: Stream) -> list[Arguments]:
    """Draws arguments until enough differ."""
    found: dict[str, Arguments] = {}
    for _ in range(200):
        arguments = template.inputs(stream)
        found.setdefault(repr(arguments), arguments)
        if len(found) == VISIBLE + HIDDEN:
            break
    return list(found.values())


def test(template: Template, reference: Callable[..., Any], arguments: Arguments) -> str:
    """Returns one test as text."""
    given = ", ".join(map(repr, arguments))
    return f"assert {template.entry}({given}) == {reference(*arguments)!r}"


def compiled(source: str, entry: str) -> Callable[..., Any]:
    """Runs a reference of this file, never an agent's text, and returns its function."""
    names: dict[str, Any] = {}
    exec(source, names)
    return cast(Callable[..., Any], names[entry])
