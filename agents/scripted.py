"""Agents without weights: random, scripted, replayed, human, trivial, echo, reference."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from ..envs.core import Env
from ..envs.messages import Message
from ..envs.parsing import render
from ..envs.tokenizers import Tokenizer
from .chat import Chat
from .core import Action, Ask, Ints, Policy, Rows, Scores, Seat, Stop, Turn, Want, uniforms
from .errors import AgentError, CapabilityError
from .shield import Table, machine_of


class Wordless:
    """What agents without a policy share: they yield nothing."""

    policies: dict[str, Policy]
    name = "wordless"

    def __init__(self) -> None:
        self.policies = {}

    def say(self, memory: Heard) -> str:
        """The next message."""
        raise NotImplementedError

    def start(self, seat: Seat) -> Heard:
        """Remember the seat and what is heard."""
        return Heard(seat)

    def turn(self, memory: Heard, news: Sequence[Message]) -> Turn:
        """Speak without asking anybody."""
        memory.messages.extend(news)
        message = Message("assistant", self.say(memory))
        memory.messages.append(message)
        memory.turns += 1
        return message
        yield  # a generator that never yields


@dataclass(slots=True)
class Heard:
    """What an agent without a policy remembers."""

    seat: Seat
    messages: list[Message] = field(default_factory=list[Message])
    turns: int = 0
    script: list[str] = field(default_factory=list[str])


class RandomAgent(Wordless):
    """Says an item of a menu, all alike; draws from its seat's key only.

    Args:
        items: what it may say.
    """

    name = "random"

    def __init__(self, items: Sequence[str]) -> None:
        super().__init__()
        if not items:
            raise AgentError("a random agent was given no items; give at least one text")
        self.items = tuple(items)

    @classmethod
    def for_(cls, env: Env) -> RandomAgent:
        """The one that plays an environment's menu.

        Raises:
            AgentError: the environment has none.
        """
        items = env.menu()
        if items is None:
            raise AgentError(
                f"{env.env_id} has no menu(); give RandomAgent its items, or take RandomPolicy"
            )
        return cls([i if isinstance(i, str) else render([i], env.parser) for i in items])

    def say(self, memory: Heard) -> str:
        """One item."""
        u = memory.seat.key.uniform(memory.turns)
        return self.items[int(u * len(self.items))]


class Scripted(Wordless):
    """Says what a list, or a function of what was heard, tells it.

    Args:
        script: texts by turn (the last is repeated), or a function of the messages so far.
    """

    name = "scripted"

    def __init__(
        self, script: Sequence[str] | Callable[[Sequence[Message]], str], name: str = "scripted"
    ) -> None:
        super().__init__()
        self.name = name
        self.script = script
        if not callable(script) and not script:
            raise AgentError("the script is empty; give at least one text")

    def say(self, memory: Heard) -> str:
        """The next line."""
        if callable(self.script):
            return self.script(tuple(memory.messages))
        return self.script[min(memory.turns, len(self.script) - 1)]


class Trivial(Wordless):
    """Says nothing, ever."""

    name = "trivial"

    def say(self, memory: Heard) -> str:
        """An empty message."""
        return ""


class Echo(Wordless):
    """Says what it heard last."""

    name = "echo"

    def say(self, memory: Heard) -> str:
        """The last message of somebody else."""
        heard = [m.content for m in memory.messages if m.role != "assistant"]
        return heard[-1] if heard else ""


class Human(Wordless):
    """A person at a terminal.

    Args:
        source: where lines are read from; None: standard input.
        sink: where messages are written to; None: standard output.
    """

    name = "human"

    def __init__(self, source: TextIO | None = None, sink: TextIO | None = None) -> None:
        super().__init__()
        self.source, self.sink = source or sys.stdin, sink or sys.stdout
        self._shown = 0

    def say(self, memory: Heard) -> str:
        """Show what is new, read one line; an ended input says nothing."""
        begin = max(
            (i + 1 for i, m in enumerate(memory.messages) if m.role == "assistant"), default=0
        )
        for message in memory.messages[begin:]:
            self.sink.write(f"{message.role}: {message.content}\n")
        self.sink.write("> ")
        self.sink.flush()
        return self.source.readline().rstrip("\n")


class Reference(Wordless):
    """Plays `env.solution` of each task: the upper end of what an environment allows.

    Args:
        make: makes an environment equal to the one that is played; it is only read for the
            task of a seat's seed.
    """

    name = "reference"

    def __init__(self, make: Callable[[], Env]) -> None:
        super().__init__()
        self._make = make
        self._env: Env | None = None

    def start(self, seat: Seat) -> Heard:
        """Look up the solution of the seat's task."""
        if self._env is None:
            self._env = self._make()
        key = seat.key
        self._env.start(key.seed, {"episode": key.episode, "attempt": key.attempt})
        return Heard(seat, script=list(self._env.solution(self._env.task)))

    def say(self, memory: Heard) -> str:
        """The next message of the solution; nothing once it is through."""
        return memory.script[memory.turns] if memory.turns < len(memory.script) else ""


class RandomPolicy:
    """A policy without weights: uniform over the legal ids, or over all but control ids.

    Args:
        tokenizer: whose ids.
        context: tokens a context may hold.
    """

    name = "random"
    version = 0
    heads: tuple[Any, ...] = ()
    gives = frozenset({"ids", "raw", "effective", "hooks"})

    def __init__(self, tokenizer: Tokenizer, context: int = 1024) -> None:
        self.tokenizer, self.context = tokenizer, context
        self._free = np.ones(tokenizer.size, np.bool_)
        specials = (tokenizer.pad, tokenizer.image, getattr(tokenizer, "obs", None),
                    getattr(tokenizer, "act", None))  # fmt: skip
        self._free[[i for i in specials if i is not None]] = False

    def act(self, asks: Sequence[Ask]) -> list[Action]:
        """Answer all asks, in their order."""
        return [self._one(ask) for ask in asks]

    def _one(self, ask: Ask) -> Action:
        table, end = machine_of(ask), self.tokenizer.end_of_turn
        room = self.context - len(ask.chat.tokens) - 1
        most, why = min((room, "context"), (ask.max_tokens or room, "length"))
        ids, logprobs, forced = list[int](), list[float](), list[bool]()
        stop = cast(Stop, why)
        state = -1 if table is None else table.start
        while len(ids) < most:
            legal = np.flatnonzero(self._free if table is None else table.legal[state])
            if not len(legal):
                stop = "shield"
                break
            token = self._pick(ask, len(ids), legal)
            ids.append(token)
            logprobs.append(-float(np.log(len(legal))))
            forced.append(len(legal) == 1)
            if token == end or token in ask.stops:
                stop = "end" if token == end else "stop"
                break
            state = _next(table, state, token)
        every = np.array(logprobs, np.float32)
        raw = np.full(len(ids), -np.log(self.tokenizer.size), np.float32)
        return Action(
            np.array(ids, np.int32), every, raw, -every, np.array(forced, np.bool_), {}, stop,
            first=ask.first,
        )  # fmt: skip

    def _pick(self, ask: Ask, drawn: int, legal: NDArray[np.int64]) -> int:
        if ask.force is not None:
            return int(ask.force[drawn])
        key = ask.key or ask.chat.seat.key_of(ask.role)
        seeds, counters = (
            np.array([key.seed64], np.uint64),
            np.array([ask.first + drawn], np.uint64),
        )
        return int(legal[int(uniforms(seeds, counters)[0] * len(legal))])

    def score(self, rows: Rows, want: Want = Want()) -> Scores:  # noqa: B008 - a constant
        """Refused: there is nothing to train."""
        self._refuse("score")

    def menu(self, chats: Sequence[Chat], items: Sequence[str]) -> list[NDArray[np.float64]]:
        """Refused: messages have no probability of interest."""
        self._refuse("menu")

    def parameters(self) -> tuple[()]:
        """None."""
        return ()

    def save(self, folder: Path) -> None:
        """Refused: there is nothing to write."""
        self._refuse("save")

    def _refuse(self, what: str) -> NoReturn:
        raise CapabilityError(
            f"policy 'random' was asked to {what}; it has no parameters. Train another policy."
        )


def _next(table: Table | None, state: int, token: int) -> int:
    if table is None:
        return -1
    return int(table.advance(np.array([state], np.int32), np.array([token], np.int32))[0])


class Drawing(Protocol):
    """The columns of a trajectory that tell what was drawn, [N] each."""

    @property
    def tokens(self) -> Ints: ...  # noqa: D102
    @property
    def time(self) -> Ints: ...  # noqa: D102
    @property
    def turn_id(self) -> Ints: ...  # noqa: D102


@dataclass(eq=False)
class Replayed:
    """Says again what was drawn once, id by id, with the log-probs of the present policy.

    Attributes:
        policy: who scores the ids.
        drawn: ids of each message, as drawn, in order.
    """

    policy: Policy
    drawn: Sequence[Ints]
    name: str = "replayed"

    @classmethod
    def of(cls, policy: Policy, trajectory: Drawing) -> Replayed:
        """Replay the messages of a trajectory."""
        order = np.argsort(trajectory.time, kind="stable")
        order = order[trajectory.time[order] >= 0]
        turns, tokens = trajectory.turn_id[order], trajectory.tokens[order]
        cuts = np.flatnonzero(np.diff(turns)) + 1
        return cls(policy, [np.asarray(part, np.int32) for part in np.split(tokens, cuts)])

    @property
    def policies(self) -> dict[str, Policy]:
        """One role: agent."""
        return {"agent": self.policy}

    def start(self, seat: Seat) -> Chat:
        """Open a chat."""
        return Chat.for_(self.policy, seat)

    def turn(self, memory: Chat, news: Sequence[Message]) -> Turn:
        """Force the next message.

        Raises:
            AgentError: there is no further message to say.
        """
        memory.add(news)
        turn = sum(len(context.drawn) for context in memory.contexts)
        if turn >= len(self.drawn):
            raise AgentError(
                f"the replay has {len(self.drawn)} messages, turn {turn + 1} was asked for; "
                "play the environment, seed and attempt it was recorded with"
            )
        action = yield Ask(self.policy, memory, force=self.drawn[turn])
        return memory.commit(cast(Action, action))
