"""What each token of a context is: turn, call and step it belongs to, and its kind."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .rows import Bools, Ints

if TYPE_CHECKING:
    from ..envs.tokenizers import Tokenizer

_END = re.compile(r"[.!?]+[\"')\]]*\s+|\n+")
_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


class Kind(IntEnum):
    """What a token is."""

    PROMPT = 0
    OBSERVATION = 1
    ACTION = 2
    REASONING = 3
    CALL = 4
    EXECUTED = 5


class Drawn(NamedTuple):
    """One message drawn into a row."""

    start: int  # its first token in the row
    length: int  # tokens drawn
    turn: int  # number of the message within its chat
    offset: int = 0  # characters of reasoning before its content
    spans: tuple[tuple[int, int], ...] = ()  # its calls, in characters of the drawn text


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Columns of a row, [T] each; ids are -1 except at drawn tokens, and count within the chat.

    `call_id` is the tool-level unit: text before a call belongs to it, text after the last call
    is its own unit. `step_id` is a sentence, a line, or a call. Units tile the drawn tokens and
    are nested: step < call < turn. An end-of-turn id belongs to the unit before it.
    """

    kind: NDArray[np.uint8]
    loss_mask: Bools
    turn_id: Ints
    call_id: Ints
    step_id: Ints
    plan_id: Ints


def label(
    ids: Sequence[int], kinds: Sequence[int], drawn: Sequence[Drawn], tokenizer: Tokenizer
) -> Labels:
    """Label a row from its ids and its messages' call spans alone.

    Args:
        ids: the row, [T].
        kinds: kind of each token before calls and reasoning are told apart, [T].
        drawn: the messages drawn into it, in order.
        tokenizer: whose `pieces` relate characters to tokens.
    """
    size = len(ids)
    kind = np.array(kinds, np.uint8)
    mask = np.zeros(size, np.bool_)
    turn, call, step = (np.full(size, -1, np.int32) for _ in range(3))
    calls = steps = 0
    for message in drawn:
        at = slice(message.start, message.start + message.length)
        mask[at], turn[at] = True, message.turn
        if not message.length:
            continue
        units = _units(ids[at], message, tokenizer)
        call[at] = [calls + unit for unit in units.call]
        step[at] = [steps + unit for unit in units.step]
        kind[at] = units.kind
        calls, steps = calls + units.call[-1] + 1, steps + units.step[-1] + 1
    plan = np.where(mask, 0, -1).astype(np.int32)
    return Labels(kind, mask, turn, call, step, plan)


class _Units(NamedTuple):
    call: list[int]
    step: list[int]
    kind: list[int]


def _units(ids: Sequence[int], message: Drawn, tokenizer: Tokenizer) -> _Units:
    pieces = tokenizer.pieces(ids)
    data = b"".join(pieces)
    text = data.decode("utf-8", "replace")
    size = len(ids)
    if not message.spans and not message.offset and len(text) < 2:
        return _Units([0] * size, [0] * size, [int(Kind.ACTION)] * size)
    first = _first_characters(pieces, data, text)
    spans = sorted(span for span in message.spans if span[0] < span[1])
    ends = _call_ends(text, spans)
    cuts = sorted({*ends, *_step_ends(text, spans)})
    kind = [int(Kind.REASONING if at < message.offset else Kind.ACTION) for at in first]
    for a, b in spans:
        for token in range(bisect_left(first, a), bisect_left(first, b)):
            kind[token] = int(Kind.CALL)
    return _Units(_numbered(first, ends), _numbered(first, cuts), kind)


def token_at(ids: Sequence[int] | Ints, character: int, tokenizer: Tokenizer) -> int:
    """The last token whose first byte lies at or before a character of the drawn text."""
    pieces = tokenizer.pieces([int(i) for i in ids])
    data = b"".join(pieces)
    first = _first_characters(pieces, data, data.decode("utf-8", "replace"))
    return max(0, bisect_right(first, character) - 1)


def _first_characters(pieces: Sequence[bytes], data: bytes, text: str) -> list[int]:
    """Character that holds the first byte of each token; of an empty one, the last before it."""
    begins: list[int] = []
    at = 0
    for piece in pieces:
        begins.append(at if piece else max(at - 1, 0))
        at += len(piece)
    if len(data) == len(text):  # one byte a character
        return begins
    edges = list(accumulate(_widths(data)))
    return [bisect_right(edges, begin) for begin in begins]


def _widths(data: bytes) -> list[int]:
    """Bytes of each character of ``data.decode("utf-8", "replace")``."""
    widths: list[int] = []
    while data:
        try:
            return widths + [len(character.encode()) for character in data.decode()]
        except UnicodeDecodeError as error:  # what cannot be read becomes one character
            widths += [len(character.encode()) for character in data[: error.start].decode()]
            widths.append(error.end - error.start)
            data = data[error.end :]
    return widths


def _numbered(first: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Number of the unit of each token; one that holds no token's first character has none."""
    out: list[int] = []
    unit, before = -1, -1
    for at in first:
        here = bisect_right(ends, at)
        if here != before:
            unit, before = unit + 1, here
        out.append(unit)
    return out


def _call_ends(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Where a call unit ends and another begins: behind each call but a last, bare one."""
    ends = [b for _, b in spans]
    if ends and not text[ends[-1] :].strip():
        ends.pop()
    return ends


def _step_ends(text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Ends of sentences and lines outside code and calls, and both ends of each call."""
    whole = [(m.start(), m.end()) for m in _FENCE.finditer(text)] + list(spans)
    cuts = [m.end() for m in _END.finditer(text)]
    cuts = [c for c in cuts if not any(a < c < b for a, b in whole)]
    return [c for c in [*cuts, *(edge for span in spans for edge in span)] if 0 < c < len(text)]
