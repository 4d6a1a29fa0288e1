"""The message-level decision process, which is also the turn view of Gymnasium."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import gymnasium
import numpy as np

from . import opening, parsing, reading, rendering, settling, snapshot, turn
from .episode import Episode
from .exchange import (
    EnvError,
    EpisodeOver,
    Limits,
    Need,
    Pending,
    Reply,
    Request,
    RewardError,
    Step,
    Thinks,
)
from .ledger import Ledger
from .messages import JSON, Message, ToolResult
from .outside import Workbench, given, run, shared_sandbox
from .randomization import Domain, Randomizer
from .rules import Rules
from .snapshot import Snapshot
from .streams import Streams
from .tasks import Task, TaskSet
from .tools import Toolbox, methods

if TYPE_CHECKING:
    from ..tool_sandbox import Sandbox
    from .grammar import Grammar
    from .parsing import Parser
    from .tokenizers import Tokenizer

__all__ = [
    "Env",
    "EnvError",
    "EpisodeOver",
    "Limits",
    "Need",
    "Pending",
    "Reply",
    "Request",
    "RewardError",
    "Step",
    "Thinks",
    "run",
    "shared_sandbox",
]

STANDARD = ("format", "step", "valid_call", "latency", "price")  # terms the base class pays


class Env(Rules, gymnasium.Env[Any, Any]):
    """An environment of messages: the rules are written once, and three views translate actions.

    An author declares the class attributes below and writes `begin`, plus what the task needs of
    `respond`, `after`, `score`, `potentials` and methods marked `@tool`. What changes within an
    episode lives in `state` (plain data) and in the counters of this class, and nowhere else.

    Attributes:
        tasks: where episodes come from.
        tools: shared tools; every method marked `@tool` is added.
        rewards: named terms and costs.
        domain: what may be randomised.
        limits: what one episode may use.
        parser: text -> calls.
        tokenizer: of the token view; None: bytes.
        grammar: what the agent may write at all; None: anything.
        system: template of the system message; {tools} and {parameter} are filled in.
        thinks: how thinking text is marked; None: it is not split off.
        reads_reasoning: rules see thinking text.
        strict_tools: an unexpected exception of a tool stops the run; False: it ends the episode.
        searchable: a fork is exact, so that a search may use it.
        image_shape: (H, W, C) of the picture in every observation, if there is one.
        state_types: classes besides plain data that `state` may hold.
        changing: attributes that may change within an episode.
        state: the rules' own state.
        task: the task of this episode.
        params: the domain parameters of this episode.
        env_id: the registered id, or the class's name.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012
    tasks: TaskSet = TaskSet.generate(lambda stream: {}, id="empty")
    tools: Toolbox = Toolbox()
    domain: Domain = Domain()
    limits: Limits = Limits()
    parser: Parser = parsing.hermes
    tokenizer: Tokenizer | None = None
    grammar: Grammar | None = None
    system: str = ""
    thinks: Thinks | None = Thinks()
    reads_reasoning: bool = False
    strict_tools: bool = True
    searchable: bool = False
    image_shape: tuple[int, int, int] | None = None
    state_types: tuple[type, ...] = ()
    changing: ClassVar[frozenset[str]] = frozenset(
        ("state", "episode", "streams", "ledger", "task", "params", "session", "timing")
    )
    has_after: ClassVar[bool] = False
    has_potentials: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = methods(cls)
        shared = [tool for name, tool in cls.tools.items() if name not in own and not tool.method]
        cls.tools = Toolbox(*shared, *own.values(), faults=cls.tools.faults)
        if isinstance(cls.__dict__.get("parser"), FunctionType):
            cls.parser = staticmethod(cls.__dict__["parser"])  # a parser is no method
        cls.has_after = cls.after is not Rules.after
        cls.has_potentials = cls.potentials is not Rules.potentials
        cls.has_score = cls.score is not Rules.score
        cls.own_road = cls.propose is not Env.propose or cls.settle is not Env.settle

    def __init__(
        self,
        *,
        tasks: TaskSet | Any = None,
        split: str | None = None,
        reward: Mapping[str, float] | None = None,
        domain: str | Mapping[str, JSON] | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        parser: Parser | str | None = None,
        render_mode: str | None = None,
        sandbox: Sandbox | None = None,
        seed: int | None = None,
    ) -> None:
        """Makes an environment; every argument is optional.

        Args:
            tasks: a TaskSet, or what `TaskSet.load` reads.
            split: the part of the tasks to use.
            reward: other weights of terms.
            domain: a mode ("off", "uniform", "held_out"), or fixed values of parameters.
            limits: other limits, as `Limits` or by name.
            parser: another parser, or its name.
            render_mode: "ansi", "human", or None.
            sandbox: where untrusted code runs; None: one shared by the process.
            seed: the seed of the first episode when `reset` is given none.

        Raises:
            ValueError: an unknown term, parameter, limit, parser or mode, or an impossible value.
        """
        if tasks is not None or split is not None:
            self.tasks = self.read_tasks(self.tasks if tasks is None else tasks, split)
        if reward:
            self.rewards = self.rewards.weighted(reward)
        if limits is not None:
            self.limits = limits if isinstance(limits, Limits) else self.limits.changed(**limits)
        if parser is not None:
            self.parser = parsing.named(parser) if isinstance(parser, str) else parser
        if render_mode not in (None, *self.metadata["render_modes"]):
            modes = ", ".join(self.metadata["render_modes"])
            raise ValueError(f"render_mode is {render_mode!r}; give one of {modes}, or None")
        self.render_mode = render_mode
        self.randomizer = Randomizer.of(self.domain, domain)
        self.first_seed = seed
        # a callable, so that it can be handed on without opening anything
        self.sandbox_source = shared_sandbox if sandbox is None else partial(given, sandbox)
        self._prepare()

    def _prepare(self) -> None:
        rewards, limits = self.rewards, self.limits
        self.observe, self.reasoning = "text", "drop"
        self.sampler = self.tasks.sampler()
        self.plan = rewards.plan
        unpaid = [name for name in STANDARD if getattr(rewards.get(name), "fn", self) is None]
        self.standard = tuple(unpaid)
        self.pays_always = self.standard not in ((), ("format",))
        self.shortest = min(limits.result_chars, limits.observation_chars - 1)
        self.most_calls = limits.calls or sys.maxsize
        self.env_id = f"{type(self).__module__}:{type(self).__qualname__}"
        self.streams, self.ledger = Streams(), Ledger(rewards)
        self.episode = Episode(limits, self.tokenizer)
        self.timing: dict[str, float] = {"outside": 0.0}  # wall seconds; never in an observation
        self.state: Any = {}
        self.params: dict[str, JSON] = {}
        self.params_origin = "nominal"
        self.task: Task = Task({"id": "none"})
        self.session: Workbench | None = None
        self.shown = 0  # messages that render_mode "human" has printed

    # what an author may use

    def stream(self, name: str) -> np.random.Generator:
        """Returns a named random stream of this episode."""
        return self.streams.get(name)

    def credit(self, term: str, value: float = 1.0, span: tuple[int, int] | None = None) -> None:
        """Books a raw signal of a term: to the call whose tool runs now, or to the message."""
        call_id = None if span is not None else self.episode.running
        self.ledger.pay(term, value, call_id, span)

    def open_session(self, **options: Any) -> Workbench:
        """Returns this episode's sandbox session, opened when first used, closed at the end.

        Args:
            **options: `limits` and `files` of `Sandbox.session`.
        """
        if self.session is None:
            self.session = Workbench(self.sandbox_source, **options)
        return self.session

    def close_session(self) -> None:
        """Ends this episode's sandbox session, if there is one."""
        if self.session is not None:
            self.session.close()
            self.session = None

    # the native road

    def start(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Message, ...]:
        """Begins an episode.

        Args:
            seed: episode 0 of this seed; None: the next episode of the seed in use.
            options: "task" (id, index or Task), "episode", "attempt", "params" to force.

        Returns:
            The first messages.

        Raises:
            EnvError: the environment's own code raised.
            ValueError: an unknown option or parameter.
        """
        try:
            return opening.start(self, seed, options or {})
        except opening.BadOptionError as error:
            raise ValueError(str(error)) from None
        except Exception as error:
            raise rendering.fault(self, error) from error

    def propose(self, action: str | Message) -> Pending:
        """Reads a message of the agent: thinking split off, calls parsed and checked.

        Nothing changes outside what is returned. Whatever the agent writes is read.

        Raises:
            EpisodeOver: the episode has ended.
        """
        if self.episode.over:
            raise EpisodeOver(rendering.over(self))
        try:
            return reading.read(self, action)
        except Exception as error:
            raise rendering.fault(self, error) from error

    def settle(self, pending: Pending, results: Sequence[ToolResult] = ()) -> Step | Pending:
        """Lets a message take effect.

        Args:
            pending: what `propose` (or the last `settle`) returned.
            results: one answer for each of `pending.requests`, in any order.

        Returns:
            The step, or what is still pending: more work, or a question to a model.

        Raises:
            EnvError: the environment's own code raised, or answers do not fit the requests.
        """
        if pending.ticket is not self.episode.ticket:
            raise EnvError(rendering.stale(self))
        try:
            return settling.settle(self, pending, results)
        except Exception as error:
            raise rendering.fault(self, error) from error

    def advance(self, action: str | Message) -> Step:
        """Proposes, runs what must be run outside, and settles, until there is a step."""
        if self.own_road:
            return self._outside(self.propose(action))
        if self.episode.over:
            raise EpisodeOver(rendering.over(self))
        try:
            pending = reading.read(self, action)
            if not pending.requests:  # one road in one frame: the common case
                out = settling.settle(self, pending, ())
                if isinstance(out, Step):
                    return out
                pending = out
        except Exception as error:
            raise rendering.fault(self, error) from error
        return self._outside(pending)

    def _outside(self, out: Step | Pending) -> Step:
        while not isinstance(out, Step):
            out = self.settle(out, run((out,), timing=self.timing)[0] if out.requests else ())
        return out

    # Gymnasium: the turn view

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; see `start`. Returns the observation and `info`."""
        said = self.start(seed, options)
        observation = turn.observe(self, said)
        if self.render_mode == "human":
            rendering.print_new(self)
        return observation, turn.reset_info(self)

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Sends a message; see `advance`. Returns Gymnasium's five."""
        step = self.advance(action)
        observation = turn.observe(self, step.messages)
        if self.render_mode == "human":
            rendering.print_new(self)
        info = turn.step_info(self, step)
        return observation, step.reward, step.terminated, step.truncated, info

    def render(self) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns the transcript as text ("ansi"); "human" prints it as it grows."""
        return rendering.render(self)

    def to_html(self) -> str:
        """Returns the transcript as a self-contained HTML fragment."""
        return rendering.to_html(self.messages)

    def close(self) -> None:
        """Ends the sandbox session."""
        self.close_session()

    @cached_property
    def action_space(self) -> gymnasium.Space[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """All messages."""
        return turn.action_space(self)

    @cached_property
    def observation_space(self) -> gymnasium.Space[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What a turn may show."""
        return turn.observation_space(self)

    @property
    def np_random(self) -> np.random.Generator:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The stream "main"."""
        return self.stream("main")

    @property
    def _np_random(self) -> np.random.Generator:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.stream("main")

    @property
    def np_random_seed(self) -> int:
        """The seed in use."""
        return self.episode.seed

    # time travel

    def snapshot(self) -> Snapshot:
        """Returns where the episode stands; see `Snapshot`."""
        return snapshot.take(self)

    def restore(self, saved: Snapshot) -> None:
        """Goes back (or on) to where a snapshot was taken."""
        snapshot.restore(self, saved)

    def fork(self, n: int = 1, *, salt: int | None = None) -> list[Self]:
        """Returns n environments that go on from here, each on its own.

        Args:
            n: how many.
            salt: None: all share this one's future luck; else fork i draws anew by (salt, i).
        """
        return [snapshot.fork(self, None if salt is None else f"{salt}/{i}") for i in range(n)]

    def anchor(self) -> bytes:
        """Returns a hash of the state: equal states of one task have equal anchors."""
        return snapshot.anchor(self.state)

    # what it knows of itself

    @property
    def messages(self) -> tuple[Message, ...]:
        """The transcript."""
        return tuple(self.episode.messages)

    @property
    def success(self) -> bool | None:
        """Whether the task was solved; None before the end."""
        return self.episode.success

    @property
    def reward_range_of_episode(self) -> tuple[float, float]:
        """Bounds of an episode's total reward."""
        return self.rewards.range(self.limits.turns)

    @property
    def sandbox(self) -> Sandbox:
        """Where untrusted code runs: the one given, or one shared by the process."""
        return self.sandbox_source()
