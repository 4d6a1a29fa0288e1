"""What an episode leaves behind while it runs, and the trajectory made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..agents.chat import Chat, Context, Drawn, Kind, Labels
from ..agents.core import Action, Ask, Seat
from ..agents.labels import label
from ..agents.rows import Decoding, Machine, Part
from ..envs.core import Env, Pending, Step
from ..envs.messages import Credit, Message
from .trajectory import Column, Identity, Outcome, Placed, Trajectory


class Served(NamedTuple):
    """One answered ask: where its tokens stand and how they were drawn."""

    context: Context
    start: int
    ask: Ask
    action: Action
    machine: Machine | None


@dataclass(slots=True)
class Block:
    """Consecutive rows of one context in the trajectory, with the messages drawn into it."""

    ids: Sequence[int]
    labels: Labels
    base: int


class Record:
    """Collects what happens in one episode.

    Args:
        seat: the agent's seat; its key names the episode.
        group: which episodes share a task.
        news: the environment's first messages.
        env: the environment, already started.
    """

    def __init__(self, seat: Seat, group: int, news: Sequence[Message], env: Env) -> None:
        self.seat = seat
        self.group = group
        self.messages: list[Message] = list(news)
        self.task = str(env.task.id)
        self.params = dict(env.params)
        self.served: list[Served] = []
        self.credits: list[Placed] = []
        self.costs: list[tuple[int, Mapping[str, float]]] = []
        self.spoken: list[int | None] = []  # turn -> which served action was its message
        self.pendings: list[Pending] = []
        self.total = 0.0
        self.problems: dict[str, int] = {}
        self.seconds = 0.0
        self.full = False  # the context has no room for another message
        self._places: dict[int, tuple[Context, int]] = {}

    # --- while it runs -----------------------------------------------------------------------

    def asked(self, ask: Ask) -> None:
        """Remember where the answer will stand."""
        context = ask.chat.context
        self._places[id(ask)] = (context, len(context.ids))

    def drew(self, ask: Ask, action: Action, machine: Machine | None) -> None:
        """An ask was answered."""
        context, start = self._places.pop(id(ask))
        self.served.append(Served(context, start, ask, action, machine))
        self.full = self.full or action.stop == "context"

    @property
    def empty(self) -> bool:
        """Whether the last ask found no room for a single token."""
        return self.full and not len(self.served[-1].action.tokens)

    @property
    def chat(self) -> Chat | None:
        """The chat in which the agent spoke last."""
        return self.served[-1].ask.chat if self.served else None

    def said(self, pending: Pending) -> None:
        """The agent's message reached the environment."""
        self.messages.append(pending.message)
        self.spoken.append(len(self.served) - 1 if self.served else None)
        self.pendings.append(pending)
        if self.served and self.chat is not None and self.chat.context.drawn:
            self.chat.mark(pending)

    def settled(self, step: Step) -> None:
        """The environment answered."""
        turn = len(self.spoken) - 1
        self.messages.extend(step.messages)
        self.credits.extend(Placed(turn, credit) for credit in step.credits)
        if step.costs:
            self.costs.append((turn, step.costs))
        self.total += step.reward
        for code, count in step.info.get("problems", {}).items():
            self.problems[code] = self.problems.get(code, 0) + count
        self.seconds += float(step.info.get("simulated_seconds", 0.0))

    # --- at the end --------------------------------------------------------------------------

    def trajectory(self, step: Step | None, env: Env) -> Trajectory:
        """The whole episode as columns. ``step`` None: our context was full (truncated)."""
        if step is not None and step.truncated and self.chat is not None:
            self.chat.add(step.messages, reply=False)  # the value after these is the bootstrap
        outcome = Outcome(
            terminated=step is not None and step.terminated,
            truncated=step is None or step.truncated,
            reason="context" if step is None else step.reason,
            success=False if step is None else step.success,
            excluded=step is not None and step.excluded,
            total=self.total,
            potentials=dict(env.potentials()),
            problems=self.problems,
            seconds=self.seconds,
        )
        key = self.seat.key
        identity = Identity(
            self.seat.env_id,
            key.seed,
            key.episode,
            key.attempt,
            self.task,
            self.params,
            self.group,
        )
        columns = Columns(self)
        return Trajectory(
            identity=identity,
            outcome=outcome,
            messages=tuple(self.messages),
            credits=tuple(self.credits),
            **columns.fields(),
        )


class Columns:
    """The token columns of an episode, filled message by message in the order of drawing."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.blocks: dict[int, Block] = {}
        self.places: list[tuple[Block, int]] = [self._place(one) for one in record.served]
        self.size = sum(len(block.ids) for block in self.blocks.values())
        self.real = np.float32
        if record.served and record.served[0].action.logprobs.dtype == np.float64:
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
        drawn = calls = steps = 0
        for turn, (one, (block, start)) in enumerate(zip(record.served, self.places, strict=True)):
            length = len(one.action.tokens)
            at = slice(block.base + start, block.base + start + length)
            self.where.append(at)
            self._numbers(one, at)
            self.ids["time"][at] = np.arange(drawn, drawn + length)
            self.ids["turn_id"][at] = turn
            inside = slice(start, start + length)
            calls = self._units("call_id", block.labels.call_id[inside], at, calls)
            steps = self._units("step_id", block.labels.step_id[inside], at, steps)
            self.ids["plan_id"][at] = block.labels.plan_id[inside]
            drawn += length

    def fields(self) -> dict[str, Any]:
        """The columns by their names in ``Trajectory``."""
        blocks = list(self.blocks.values())
        ids = [token for block in blocks for token in block.ids]
        lengths = [len(block.ids) for block in blocks]
        kinds = [block.labels.kind for block in blocks]
        return {
            "tokens": np.array(ids, np.int32),
            "context_offsets": np.cumsum([0, *lengths]).astype(np.int64),
            "values": self.values,
            "rewards": self._rewards(),
            "costs": self._costs(),
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

    def _place(self, one: Served) -> tuple[Block, int]:
        """The block that holds a drawn message; one that was never committed gets its own."""
        length = len(one.action.tokens)
        committed = any(
            drawn.start == one.start and drawn.length == length for drawn in one.context.drawn
        )
        tokenizer = one.ask.policy.tokenizer
        if committed:
            key = id(one.context)
            if key not in self.blocks:
                labels = one.context.labels(tokenizer)
                self.blocks[key] = Block(one.context.ids, labels, self._end())
        else:
            key = id(one)
            ids = [*one.context.ids[: one.start], *map(int, one.action.tokens)]
            kinds = [int(Kind.OBSERVATION)] * one.start + [int(Kind.ACTION)] * length
            labels = label(ids, kinds, [Drawn(one.start, length, 0)], tokenizer)
            self.blocks[key] = Block(ids, labels, self._end())
        return self.blocks[key], one.start

    def _end(self) -> int:
        return sum(len(block.ids) for block in self.blocks.values())

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

    def _rewards(self) -> dict[str, Column]:
        out: dict[str, Column] = {}
        for placed in self.record.credits:
            at = self._earned_at(placed.turn, placed.credit)
            if at is None:
                continue
            if placed.credit.term not in out:
                out[placed.credit.term] = np.zeros(self.size, np.float64)
            out[placed.credit.term][at] += placed.credit.value
        return out

    def _costs(self) -> dict[str, Column]:
        out: dict[str, Column] = {}
        for turn, costs in self.record.costs:
            at = self._earned_at(turn, None)
            for name, value in costs.items():
                if at is not None:
                    out.setdefault(name, np.zeros(self.size, np.float64))[at] += value
        return out

    def _earned_at(self, turn: int, credit: Credit | None) -> int | None:
        """The token that a credit is paid to: the last one of the unit that earned it."""
        spoken = self.record.spoken[turn]
        if spoken is None:
            return None
        at = self.where[spoken]
        last = at.stop - 1
        if last < at.start:  # an empty message earns for the one before it
            return at.start - 1 if at.start else None
        if credit is None or (credit.call_id is None and credit.span is None):
            return last
        pending = self.record.pendings[turn]
        if credit.span is not None:
            end, column = credit.span[1], self.ids["step_id"]
        else:
            call = next((one for one in pending.message.calls if one.id == credit.call_id), None)
            if call is None or call.span[0] >= call.span[1]:
                return last
            end, column = call.span[1], self.ids["call_id"]
        inside = column[at]
        if inside[0] == inside[-1]:
            return last
        token = self._holds(spoken, pending.offset + end - 1)
        return at.start + int(np.flatnonzero(inside == inside[token])[-1])

    def _holds(self, spoken: int, character: int) -> int:
        """Index in a drawn message of the token that holds a character of its text."""
        one = self.record.served[spoken]
        pieces = one.ask.policy.tokenizer.pieces([int(token) for token in one.action.tokens])
        text = b"".join(pieces).decode("utf-8", "replace")
        byte = len(text[:character].encode("utf-8", "replace"))
        ends = np.cumsum([len(piece) for piece in pieces])
        return min(int(np.searchsorted(ends, byte, side="right")), len(pieces) - 1)
