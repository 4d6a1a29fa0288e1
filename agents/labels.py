"""What each token of a context is: turn, call and step it belongs to, and its kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
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
        call[at], step[at] = calls + units.call, steps + units.step
        kind[at] = units.kind
        calls, steps = int(call[at].max()) + 1, int(step[at].max()) + 1
    plan = np.where(mask, 0, -1).astype(np.int32)
    return Labels(kind, mask, turn, call, step, plan)


class _Units(NamedTuple):
    call: Ints
    step: Ints
    kind: NDArray[np.uint8]


def _units(ids: Sequence[int], message: Drawn, tokenizer: Tokenizer) -> _Units:
    pieces = tokenizer.pieces(ids)
    text = b"".join(pieces).decode("utf-8", "replace")
    if not message.spans and not message.offset and len(text) < 2:
        zero = np.zeros(len(ids), np.int32)
        return _Units(zero, zero, np.full(len(ids), Kind.ACTION, np.uint8))
    first = _first_characters(pieces, text)
    spans = sorted(span for span in message.spans if span[0] < span[1])
    ends = _call_ends(text, spans)
    call = np.searchsorted(np.array(ends), first, side="right").astype(np.int32)
    cuts = np.array(sorted({*ends, *_step_ends(text, spans)}), np.int64)
    step = np.searchsorted(cuts, first, side="right").astype(np.int32)
    kind = np.full(len(ids), Kind.ACTION, np.uint8)
    kind[first < message.offset] = Kind.REASONING
    for a, b in spans:
        kind[(first >= a) & (first < b)] = Kind.CALL
    # a unit that holds the first character of no token has no number
    return _Units(_dense(call), _dense(step), kind)


def _first_characters(pieces: Sequence[bytes], text: str) -> NDArray[np.int64]:
    """Character that holds the first byte of each token; of an empty one, the last before it."""
    sizes = np.array([len(piece) for piece in pieces], np.int64)
    begins = np.cumsum(sizes) - sizes
    total = int(sizes.sum())
    begins = np.where(sizes == 0, np.maximum(begins - 1, 0), begins)
    if total == len(text) or not total:  # one byte a character
        return begins
    widths = np.array([len(c.encode("utf-8", "replace")) for c in text], np.int64)
    edges = np.cumsum(widths)
    return np.searchsorted(edges, begins, side="right").astype(np.int64)


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


def _dense(units: Ints) -> Ints:
    return np.unique(units, return_inverse=True)[1].astype(np.int32).reshape(-1)
