"""Many episodes at once: decoding is batched across them, tools travel together."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ..agents.core import Action, Agent, Ask, Key, Memory, Policy, Seat, Turn
from ..agents.shield import machine_of
from ..envs import core
from ..envs.core import Env, Pending, Step
from ..envs.messages import Message, ToolResult
from .record import Record
from .serving import distinct, serve
from .trajectory import Trajectory

# Decode steps between sending a batch of tool calls and taking its results in. A fixed number:
# which rows share a forward then depends on tokens only, never on the clock.
DELAY = 2


@dataclass(frozen=True, slots=True)
class Start:
    """Which episode to play. Equal starts give equal episodes."""

    seed: int
    episode: int = 0
    attempt: int = 0
    group: int = 0
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Live:
    """One episode under way: its environment, the agent's memory, the turn being taken."""

    __slots__ = ("answers", "asks", "env", "index", "memory", "record", "road", "single")

    def __init__(self, index: int, env: Env, memory: Memory, record: Record) -> None:
        self.index = index
        self.env = env
        self.memory = memory
        self.record = record
        self.road: Turn | None = None
        self.asks: list[Ask] = []
        self.answers: dict[int, Action] = {}
        self.single = True


class Engine:
    """Plays episodes: asks of all episodes are sampled together, tools of all run together.

    Args:
        agent: who plays.
        make_env: makes one environment; environments are reused from one ``gather`` to the next.
        run: seed of the run, part of every random key.
        slots: episodes that run side by side; None: all of them.
    """

    def __init__(
        self, agent: Agent, make_env: Callable[[], Env], *, run: int = 0, slots: int | None = None
    ) -> None:
        self.agent = agent
        self.make_env = make_env
        self.run = run
        self.slots = slots
        self._idle: list[Env] = []
        self._tools = ThreadPoolExecutor(1, thread_name_prefix="palaestra-tools")

    def close(self) -> None:
        """Close the environments and the tool thread."""
        self._tools.shutdown(wait=True, cancel_futures=True)
        for env in self._idle:
            env.close()
        self._idle.clear()

    def gather(
        self, starts: Sequence[Start], *, stop: Callable[[], bool] = lambda: False
    ) -> list[Trajectory]:
        """Play all episodes to their ends.

        Args:
            starts: which episodes.
            stop: asked between decode steps; True drops everything begun.

        Returns:
            One trajectory a start, in their order; empty when stopped.
        """
        return _Gather(self, starts).play(stop)

    def take(self) -> Env:
        """An idle environment, or a new one."""
        return self._idle.pop() if self._idle else self.make_env()

    def give(self, env: Env) -> None:
        """Return an environment for the next episode."""
        self._idle.append(env)

    def send(self, pendings: list[Pending]) -> Future[list[list[ToolResult]]]:
        """Run the outside work of many sessions in the tool thread."""
        return self._tools.submit(core.run, pendings)


@dataclass(slots=True)
class _Sent:
    due: int
    lives: list[Live]
    pendings: list[Pending]
    future: Future[list[list[ToolResult]]]


class _Gather:
    """One call of ``gather``: who is decoding, who waits for tools."""

    def __init__(self, engine: Engine, starts: Sequence[Start]) -> None:
        self.engine = engine
        self.queue = deque(enumerate(starts))
        self.done: list[Trajectory | None] = [None] * len(starts)
        self.live: dict[int, Live] = {}
        self.clock = 0
        self.sent: deque[_Sent] = deque()
        self.outbox: list[tuple[Live, Pending]] = []
        # (policy, number of the ask there) -> episode, position among its asks
        self.asked: dict[tuple[int, int], tuple[Live, int]] = {}
        self.policies: dict[int, Policy] = {}
        self.immediate: list[tuple[Live, int]] = []
        self.news: deque[tuple[Live, Sequence[Message]]] = deque()

    def play(self, stop: Callable[[], bool]) -> list[Trajectory]:
        slots = self.engine.slots or len(self.queue)
        try:
            while self.queue or self.live:
                if stop():
                    self.done = []
                    break
                while self.queue and len(self.live) < slots:
                    self.begin(*self.queue.popleft())
                while self.news:
                    self.turn(*self.news.popleft())
                self.decode()
                self.dispatch()
                self.collect()
        except Exception:
            with contextlib.suppress(Exception):  # what went wrong first is what is told
                self.drain()
            raise
        else:
            self.drain()
        finally:  # on KeyboardInterrupt nothing is waited for
            for live in self.live.values():
                live.env.close()
        return [one for one in self.done if one is not None]

    def drain(self) -> None:
        """Leave nothing under way: messages half drawn are drawn to their ends and dropped."""
        for sent in self.sent:
            sent.future.exception()
        for policy in self.policies.values():
            sampler: Any = policy
            while sampler.busy:
                sampler.step()
            sampler.ready()

    # --- one episode ---------------------------------------------------------------------

    def begin(self, index: int, start: Start) -> None:
        env = self.engine.take()
        options = {"episode": start.episode, "attempt": start.attempt, **start.options}
        news = env.start(start.seed, options)
        key = Key(self.engine.run, start.seed, start.episode, start.attempt)
        seat = Seat(
            key=key,
            env_id=env.env_id,
            tools=tuple(env.tools.schemas()),
            limits=env.limits,
            images=env.limits.images > 0,
        )
        record = Record(seat, start.group, news, env)
        live = Live(index, env, self.engine.agent.start(seat), record)
        self.live[index] = live
        self.news.append((live, news))

    def turn(self, live: Live, news: Sequence[Message]) -> None:
        live.road = self.engine.agent.turn(live.memory, news)
        self.advance(live, None)

    def advance(self, live: Live, reply: Action | list[Action] | None) -> None:
        assert live.road is not None  # set by turn
        try:
            wish = next(live.road) if reply is None else live.road.send(reply)
        except StopIteration as end:
            self.said(live, end.value)
            return
        live.single = isinstance(wish, Ask)
        asks = [wish] if isinstance(wish, Ask) else wish
        distinct(asks)
        live.asks = live.record.seat.counters.begin(asks)
        live.answers = {}
        for position, ask in enumerate(live.asks):
            live.record.asked(ask)
            submit = getattr(ask.policy, "submit", None)
            if submit is None:
                self.immediate.append((live, position))
                continue
            self.policies[id(ask.policy)] = ask.policy
            self.asked[id(ask.policy), submit(ask)] = live, position
        if not asks:  # an empty list is answered by one
            self.advance(live, [])

    def answered(self, live: Live, position: int, action: Action) -> None:
        live.answers[position] = action
        if len(live.answers) < len(live.asks):
            return
        actions = [live.answers[at] for at in range(len(live.asks))]
        live.record.seat.counters.finish(live.asks, actions)
        for ask, one in zip(live.asks, actions, strict=True):
            live.record.drew(ask, one, machine_of(ask))
        self.advance(live, actions[0] if live.single else actions)

    def said(self, live: Live, message: Message) -> None:
        if live.record.empty:
            self.finish(live, None)
            return
        pending = live.env.propose(message)
        live.record.said(message, pending)
        if pending.requests:
            self.outbox.append((live, pending))
        else:
            self.settle(live, pending, [])

    def settle(self, live: Live, pending: Pending, answers: Sequence[ToolResult]) -> None:
        out = live.env.settle(pending, answers)
        if not isinstance(out, Step):
            if out.requests:
                self.outbox.append((live, out))
            else:
                self.settle(live, out, [])
            return
        live.record.settled(out)
        if out.terminated or out.truncated or out.excluded:
            self.finish(live, out)
        elif live.record.full:
            self.finish(live, None)
        else:
            self.news.append((live, out.messages))

    def finish(self, live: Live, step: Step | None) -> None:
        self.done[live.index] = live.record.trajectory(step, live.env)
        self.engine.give(self.live.pop(live.index).env)

    # --- all episodes ----------------------------------------------------------------------

    def decode(self) -> None:
        """One token for every row that is being drawn; finished messages go on."""
        if self.immediate:
            waiting, self.immediate = self.immediate, []
            asks = [live.asks[position] for live, position in waiting]
            for (live, position), action in zip(waiting, serve(asks), strict=True):
                self.answered(live, position, action)
        if not self.asked:
            return
        self.clock += 1
        for identity, policy in list(self.policies.items()):
            sampler: Any = policy
            sampler.step()
            for number, action in sampler.ready():
                live, position = self.asked.pop((identity, number))
                self.answered(live, position, action)

    def dispatch(self) -> None:
        """Send the tool calls of all sessions that spoke in this step as one batch."""
        if not self.outbox:
            return
        lives = [live for live, _ in self.outbox]
        pendings = [pending for _, pending in self.outbox]
        self.outbox = []
        due = self.clock + DELAY
        self.sent.append(_Sent(due, lives, pendings, self.engine.send(pendings)))

    @property
    def busy(self) -> bool:
        """Whether any episode can go on without the tools."""
        return bool(self.asked or self.immediate or self.news)

    def collect(self) -> None:
        """Take in the results that are due; when nothing decodes, the next ones are due."""
        while self.sent and (self.sent[0].due <= self.clock or not self.busy):
            sent = self.sent.popleft()
            for live, pending, answers in zip(
                sent.lives, sent.pendings, sent.future.result(), strict=True
            ):
                self.settle(live, pending, answers)
