"""A candidate's values and words for human eyes: cut to size, in little time, all on one line."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from itertools import islice
from typing import Any

DETAIL = 200  # most characters of a verdict's detail
_WIDTH = 80  # characters of one text, or of anything without parts
_LEVELS = 3  # of containers within containers: six items at each of six levels are megabytes
_BITS = 4096  # of an int that is written out, which takes the square of its length
_SORTABLE = ({int}, {float}, {str}, {bytes})  # comparing any other kinds may take seconds


def short(value: object) -> str:
    """A plain value as Python would write it, cut to size.

    >>> short([{3, 1, 2}, "x" * 100, 1 << 5000])
    "[{1, 2, 3}, 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', \
<an int of 5001 bits>]"
    """
    return _SHORT.repr(value)


def detail(text: str) -> str:
    r"""Words of a verdict, some of them the candidate's: one line that no terminal obeys, cut.

    >>> detail("a\x1b[2J\n" + "b" * 500)[:12], len(detail("b" * 500))
    ('a\\x1b[2J\\nbb', 200)
    """
    text = text[:DETAIL]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text[:DETAIL]


class _Short(reprlib.Repr):
    """The standard library's, but for what a candidate could use against the host.

    That one sorts sets and dicts whatever they hold, leaves whole what it does not know, and shows
    the address in memory of what cannot be written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = _WIDTH
        self.maxlevel = _LEVELS

    def repr_int(self, x: int, level: int) -> str:
        bits = x.bit_length()
        return super().repr_int(x, level) if bits <= _BITS else f"<an int of {bits} bits>"

    def repr_set(self, x: Any, level: int) -> str:
        if not x:
            return "set()"
        items = sorted(x) if set(map(type, x)) in _SORTABLE else x
        first = islice(items, self.maxset if level > 0 else 0)
        return self._within("{}", (self.repr1(item, level - 1) for item in first), len(x))

    def repr_frozenset(self, x: Any, level: int) -> str:
        return f"frozenset({self.repr_set(x, level) if x else ''})"

    def repr_dict(self, x: Any, level: int) -> str:
        first = islice(x.items(), self.maxdict if level > 0 else 0)
        pairs = (f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}" for k, v in first)
        return self._within("{}", pairs, len(x))

    def _subclass_of_dict(self, x: Any, level: int) -> str:
        return f"{type(x).__name__}({self.repr_dict(x, level)})"

    repr_Counter = repr_OrderedDict = repr_defaultdict = _subclass_of_dict  # noqa: N815

    def repr_slice(self, x: Any, level: int) -> str:
        parts = (self.repr1(part, level - 1) for part in (x.start, x.stop, x.step))
        return self._within(("slice(", ")"), parts, 3)

    def repr_instance(self, x: object, level: int) -> str:
        try:
            text = repr(x)
        except ValueError:  # a Fraction or range with more digits than Python writes out
            return f"<a very long {type(x).__name__}>"
        if len(text) <= self.maxother:
            return text
        half = (self.maxother - 3) // 2
        return f"{text[:half]}...{text[-half:]}"

    def _within(self, ends: Any, shown: Iterable[str], count: int) -> str:
        """What is shown of so many items, between two brackets."""
        found = list(shown)
        return ends[0] + ", ".join([*found, "..."][: len(found) + (len(found) < count)]) + ends[1]


_SHORT = _Short()
