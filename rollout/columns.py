"""The token columns of an episode: who drew what, in which unit, and what it earned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from ..agents.chat import Context, Drawn, Kind, Labels
from ..agents.core import Action, Ask
from ..agents.labels import label, token_at
from ..agents.rows import Decoding, Machine, Part
from ..envs.exchange import Pending
from ..envs.messages import Credit
from .trajectory import Column, Placed


class Served(NamedTuple):
    """One answered ask: where its tokens stand and how they were drawn."""

    context: Context
    start: int
    ask: Ask
    action: Action
    machine: Machine | None


class Said(NamedTuple):
    """A message that reached the environment, and where it stands among what was drawn."""

    pending: Pending  # as the environment read it
    last: int | None  # the last ask served before it
    offset: int | None  # characters drawn before its content; None: it is not what `last` drew


@dataclass(slots=True)
class Block:
    """One context in the trajectory; ``base`` is the place of its first token."""

    ids: Sequence[int]
    labels: Labels
    base: int = 0


class Columns:
    """The token columns of an episode, filled message by message in the order of drawing.

    Args:
        served: the answered asks, in the order of drawing.
        spoken: the messages that reached the environment.
        end: the context that comes last, and how many of its tokens count: where the value after
            the episode is read. None: any order will do.
    """

    def __init__(
        self,
        served: Sequence[Served],
        spoken: Sequence[Said],
        end: tuple[Context, int] | None = None,
    ) -> None:
        self.served = served
        self.spoken = spoken
        self.blocks: dict[int, Block] = {}
        self._claimed: set[tuple[int, int]] = set()
        self.places = [self._place(one) for one in served]
        self.size = self._lay(end)
        self.real = np.float32
        if served and served[0].action.logprobs.dtype == np.float64:
            self.real = np.float64
        self.ids = {
            name: np.full(self.size, -1, np.int32)
            for name in ("time", "turn_id", "call_id", "step_id", "plan_id")
        }
        self.version = np.full(self.size, -1, np.int32)
        self.role = np.zeros(self.size, np.uint8)
        self.roles: list[str] = []
        self.numbers = {
            name: np.zeros(self.size, self.real) for name in ("logprobs", "logprobs_raw", "entropy")
        }
        self.values: dict[str, Column] = {}
        self.forced = np.zeros(self.size, np.bool_)
        self.loss_mask = np.zeros(self.size, np.bool_)
        self.parts: list[Part] = []
        self.where: list[slice] = []
        self._fill()

    def _lay(self, end: tuple[Context, int] | None) -> int:
        """Put the contexts one behind the other; returns their size together."""
        if end is not None:
            context, size = end
            block = self.blocks.pop(id(context), None)
            if block is None:  # the template wrote history anew
                tokenizer = self.served[-1].ask.policy.tokenizer
                block = Block(context.ids, context.labels(tokenizer))
            if size < len(block.ids):
                block = _cut(block, size)
            self.blocks[id(context)] = block
        size = 0
        for block in self.blocks.values():
            block.base, size = size, size + len(block.ids)
        return size

    def _fill(self) -> None:
        """Write what belongs to the drawn tokens, in the order of drawing."""
        drawn = calls = steps = 0
        for turn, (one, key) in enumerate(zip(self.served, self.places, strict=True)):
            length = len(one.action.tokens)
            if key is None:
                self.where.append(slice(0, 0))
                continue
            block = self.blocks[key]
            at = slice(block.base + one.start, block.base + one.start + length)
            self.where.append(at)
            self._numbers(one, at)
            self.ids["time"][at] = np.arange(drawn, drawn + length)
            self.ids["turn_id"][at] = turn
            inside = slice(one.start, one.start + length)
            calls = self._units("call_id", block.labels.call_id[inside], at, calls)
            steps = self._units("step_id", block.labels.step_id[inside], at, steps)
            self.ids["plan_id"][at] = block.labels.plan_id[inside]
            drawn += length

    def fields(
        self, credits: Sequence[Placed], costs: Sequence[tuple[int, Mapping[str, float]]]
    ) -> dict[str, Any]:
        """The columns by their names in ``Trajectory``, with what was earned and spent."""
        blocks = list(self.blocks.values())
        ids = [token for block in blocks for token in block.ids]
        lengths = [len(block.ids) for block in blocks]
        kinds = [block.labels.kind for block in blocks]
        return {
            "tokens": np.array(ids, np.int32),
            "context_offsets": np.cumsum([0, *lengths]).astype(np.int64),
            "values": self.values,
            "rewards": self._rewards(credits),
            "costs": self._costs(costs),
            "loss_mask": self.loss_mask,
            "forced": self.forced,
            "kind": np.concatenate(kinds) if kinds else np.zeros(0, np.uint8),
            "role": self.role,
            "policy_version": self.version,
            "parts": tuple(self.parts),
            "roles": tuple(self.roles) or ("agent",),
            **self.numbers,
            **self.ids,
        }

    def _place(self, one: Served) -> int | None:
        """The block that holds a drawn message; one that was never committed gets its own.

        Two asks at one place (best of n) share no block, even where they drew the same.
        """
        length = len(one.action.tokens)
        if not length:
            return None
        context, end = one.context, one.start + length
        place = (id(context), one.start)
        tokenizer = one.ask.policy.tokenizer
        tokens: list[int] = one.action.tokens.tolist()
        committed = place not in self._claimed and any(
            drawn.start == one.start and drawn.length == length for drawn in context.drawn
        )
        if committed and context.ids[one.start : end] == tokens:
            self._claimed.add(place)
            if id(context) not in self.blocks:
                self.blocks[id(context)] = Block(context.ids, context.labels(tokenizer))
            return id(context)
        ids = [*context.ids[: one.start], *tokens]
        kinds = [int(Kind.OBSERVATION)] * one.start + [int(Kind.ACTION)] * length
        labels = label(ids, kinds, [Drawn(one.start, length, 0)], tokenizer)
        self.blocks[id(one)] = Block(ids, labels)
        return id(one)

    def _numbers(self, one: Served, at: slice) -> None:
        action = one.action
        for name, column in self.numbers.items():
            column[at] = getattr(action, name)
        for head, values in action.values.items():
            if head not in self.values:
                self.values[head] = np.zeros((self.size, *values.shape[1:]), self.real)
            self.values[head][at] = values
        self.forced[at] = action.forced
        self.loss_mask[at] = True
        self.version[at] = action.version
        if one.ask.role not in self.roles:
            self.roles.append(one.ask.role)
        self.role[at] = self.roles.index(one.ask.role)
        decoding = one.ask.decoding or getattr(one.ask.policy, "decoding", Decoding())
        self.parts.append(Part(action.tokens, one.machine, decoding, action.support))

    def _units(self, name: str, local: Column, at: slice, base: int) -> int:
        """Number units through the whole episode; returns the next free number."""
        if not len(local):
            return base
        shifted = local - int(local.min()) + base
        self.ids[name][at] = shifted
        return int(shifted.max()) + 1

    # --- what was earned ---------------------------------------------------------------------

    def _rewards(self, credits: Sequence[Placed]) -> dict[str, Column]:
        out: dict[str, Column] = {}
        for placed in credits:
            at = self._earned_at(placed.turn, placed.credit)
            if at is None:
                continue
            if placed.credit.term not in out:
                out[placed.credit.term] = np.zeros(self.size, np.float64)
            out[placed.credit.term][at] += placed.credit.value
        return out

    def _costs(self, costs: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, Column]:
        out: dict[str, Column] = {}
        for turn, spent in costs:
            at = self._earned_at(turn, None)
            for name, value in spent.items():
                if at is not None:
                    out.setdefault(name, np.zeros(self.size, np.float64))[at] += value
        return out

    def _earned_at(self, turn: int, credit: Credit | None) -> int | None:
        """The token that a credit is paid to: the last one of the unit that earned it.

        What was earned where no token was drawn goes to the last one before; None: there is none.
        """
        said = self.spoken[turn]
        if said.last is None:
            return None
        at = self.where[said.last]
        if at.start == at.stop:
            before = [one for one in self.where[: said.last] if one.start < one.stop]
            return before[-1].stop - 1 if before else None
        last = at.stop - 1
        if credit is None or said.offset is None:
            return last
        if credit.span is not None:
            span, column = credit.span, self.ids["step_id"]
        elif credit.call_id is not None:
            calls = said.pending.message.calls
            span = next((one.span for one in calls if one.id == credit.call_id), (0, 0))
            column = self.ids["call_id"]
        else:
            return last
        inside = column[at]
        if span[0] >= span[1] or inside[0] == inside[-1]:
            return last
        one = self.served[said.last]
        token = token_at(one.action.tokens, said.offset + span[1] - 1, one.ask.policy.tokenizer)
        return at.start + int(np.flatnonzero(inside == inside[token])[-1])


def _cut(block: Block, size: int) -> Block:
    """The first tokens of a block; nothing behind them was drawn."""
    labels = block.labels
    columns = {one.name: getattr(labels, one.name)[:size] for one in fields(labels)}
    return Block(block.ids[:size], Labels(**columns))
