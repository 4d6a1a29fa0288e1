"""What an environment and its caller hand each other, message by message."""

import difflib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .messages import Credit, Message, Problem, ToolResult

if TYPE_CHECKING:
    from .tools import Tool

__all__ = [
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
]

# empties of the native road: shared by all, never written
NOTHING: dict[str, float] = {}
NO_PROBLEMS: dict[str, int] = {}
NO_GENERATORS: dict[str, Generator[Any, Any, Any]] = {}
NO_ANSWERS: dict[str, ToolResult] = {}


class EnvError(Exception):
    """The environment itself is at fault, or is used against its rules.

    The tree of this room: EnvError > EpisodeOver | RewardError.

    Attributes:
        transcript: what was said until then, as text; empty where no episode was under way.
        traceback: the traceback of the environment's own code, as text.
    """

    transcript: str = ""
    traceback: str = ""


class EpisodeOver(EnvError):
    """The episode has ended (or none has begun): call `start` or `reset` first."""


class RewardError(EnvError):
    """A reward is no finite number inside its bounds; the text names the term and the task."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one episode may use; `None` means no limit.

    Attributes:
        turns: messages of the agent; one more is never read (truncated, reason "turns").
        calls: calls in one message; those beyond get the problem `too_many_calls`.
        action_chars: characters of a message that are read, thinking text left out.
        observation_chars: characters of one observation.
        result_chars: characters of one tool's result; head and tail are kept.
        tokens: tokens of all the agent's messages, thinking included, by `env.tokenizer`.
        seconds: simulated seconds.
        images: pictures of an observation that a view shows.
        reasoning_chars: characters of thinking text that are kept.
    """

    turns: int = 10
    calls: int | None = None
    action_chars: int = 8_192
    observation_chars: int = 16_384
    result_chars: int = 4_096
    tokens: int | None = None
    seconds: float | None = None
    images: int = 0
    reasoning_chars: int = 32_768

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            least = 0 if name in ("images", "reasoning_chars") else 1
            least = 64 if name in ("observation_chars", "result_chars") else least
            if name == "seconds":
                least = 0
            if value is not None and not value >= least:
                raise ValueError(f"Limits.{name} is {value!r}; give at least {least}")

    def changed(self, **changes: Any) -> "Limits":
        """Returns limits with some changed.

        Raises:
            ValueError: an unknown limit, with the nearest name, or an impossible value.
        """
        for name in changes:
            if name not in self.__slots__:
                near = difflib.get_close_matches(name, self.__slots__, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"limits: {self.__slots__}"
                raise ValueError(f"there is no limit {name!r}; {hint}")
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Thinks:
    """How a message marks its thinking text.

    Attributes:
        opening: delimiter that opens the block.
        closing: delimiter that closes it.
        inside: the prompt already opens the block, so a message begins inside it.
    """

    opening: str = "<think>"
    closing: str = "</think>"
    inside: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """A wish of a rule for what only a model can say; the caller answers it in the next `settle`.

    Attributes:
        kind: which model: a simulated user, a judge, or the target of a prompt.
        messages: what it is shown.
        key: names the answer in recordings; unique within the episode.
    """

    kind: Literal["user", "judge", "target"]
    messages: tuple[Message, ...]
    key: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What the rules answer to a message of the agent.

    Attributes:
        messages: what is said to the agent.
        credits: raw signals of reward terms.
        costs: non-negative cost signals by name.
        end: the reason, if this ends the episode (`terminated`).
        success: whether the task was solved; None: from the outcome credited at the end.
        excluded: this episode is no experience (our failure); it ends truncated.
    """

    messages: tuple[Message, ...] = ()
    credits: tuple[Credit, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict[str, float])
    end: str | None = None
    success: bool | None = None
    excluded: bool = False


class Step(NamedTuple):
    """What came of one message of the agent.

    Attributes:
        messages: the new messages, the agent's own left out.
        reward: `fsum(terms.values())`.
        terms: weighted reward by term; only terms that occurred.
        credits: the parts of the terms, weighted, and what earned them.
        costs: non-negative costs by name; never part of the reward.
        terminated: the task's own end.
        truncated: a limit the agent cannot see, or a failure of ours.
        reason: why it ended; None before.
        success: whether the task was solved; None before the end.
        excluded: our failure: drop the transition.
        info: turn, calls, potentials, problems, signals, simulated_seconds, tool_cost.
    """

    messages: tuple[Message, ...]
    reward: float
    terms: dict[str, float]
    credits: tuple[Credit, ...]
    costs: dict[str, float]
    terminated: bool
    truncated: bool
    reason: str | None
    success: bool | None
    excluded: bool
    info: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether this is the episode's last step."""
        return self.terminated or self.truncated


Work = Any  # Job | SessionCall | GradeCall | Callable[[], JSON] | Need: their rooms name them


class Request(NamedTuple):
    """Work to be run outside the environment before `settle`.

    Attributes:
        key: call id, or a Need's key; the answer's `call_id`.
        kind: who can run it.
        work: the Job, SessionCall, GradeCall, callable or Need.
        tool: a tool whose jobs may share one execution (`merge`, `split`), else None.
    """

    key: str
    kind: Literal["sandbox", "network", "need"]
    work: Work
    tool: "Tool | None" = None


class Pending:
    """A message that was read and waits to be settled.

    Attributes:
        message: the parsed message; each call is valid, or carries its problem.
        raw: the text as the agent sent it.
        offset: characters of `raw` before `message.content`.
        requests: what must be run outside before `settle`; empty if nothing.
        results: one a call of the message: the ready result of a call that cannot run, else None.
        sandbox: gives the sandbox that sandbox requests are for.
        answer: the text the rules see when there is no call.
        fault: why the whole message was not read, if it was not.
        problems: count of problems by code.
        ticket: where the message was read: it is settled there or nowhere.
        settled: calls whose effects have happened.
        generators: sandbox tools that were started, by call id.
        held: answers that arrived and wait for earlier calls to finish.
        need: what the rules have asked a model.
        reply: what the rules have said, while a judge is asked.
    """

    # defaults of what most messages never need, so that making a Pending costs little
    requests: tuple[Request, ...] = ()
    sandbox: Callable[[], Any] | None = None
    fault: Problem | None = None
    problems: dict[str, int] = NO_PROBLEMS
    generators: dict[str, Generator[Any, Any, Any]] = NO_GENERATORS
    held: dict[str, ToolResult] = NO_ANSWERS
    need: Need | None = None
    reply: Reply | None = None
    settled = 0

    def __init__(
        self, message: Message, raw: str, offset: int, answer: str, ticket: object
    ) -> None:
        self.message = message
        self.raw = raw
        self.offset = offset
        self.answer = answer
        self.ticket = ticket
        self.results: list[ToolResult | None] = []

    def refuse(self, call_id: str, problem: Problem) -> None:
        """Vetoes a call: it does not run, and its result is the problem's text.

        Args:
            call_id: a call of `message`.
            problem: why; a shield uses code `blocked`.

        Raises:
            KeyError: the message has no such call.
        """
        ids = [call.id for call in self.message.calls]
        if call_id not in ids:
            raise KeyError(f"no call {call_id!r} in this message; its calls: {ids}")
        at = ids.index(call_id)
        calls = list(self.message.calls)
        calls[at] = calls[at]._replace(problem=problem)
        self.message = self.message._replace(calls=tuple(calls))
        self.results[at] = ToolResult(call_id, problem.text, False, problem)
        self.count(problem)
        if call_id in self.generators:
            self.generators.pop(call_id).close()
        self.requests = tuple(r for r in self.requests if r.key != call_id)

    def count(self, problem: Problem) -> None:
        """Adds a problem to the message's count."""
        self.problems = {**self.problems, problem.code: self.problems.get(problem.code, 0) + 1}

    def then(self, requests: tuple[Request, ...]) -> "Pending":
        """Returns what is still pending after a round of answers."""
        later = Pending(self.message, self.raw, self.offset, self.answer, self.ticket)
        later.__dict__.update(self.__dict__)
        later.requests = requests
        return later

    def __repr__(self) -> str:
        wanted = ", ".join(request.key for request in self.requests) or "nothing"
        return f"Pending({len(self.message.calls)} calls, waits for {wanted})"
