"""Policy and Agent: who acts, what is asked of them, what they answer.

A *policy* turns contexts into tokens; it is batched and has weights. An *agent* turns
messages into a message; it holds policies and asks them by yielding `Ask`, never by calling
them, so that whoever drives it may batch the asks of many episodes. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..envs.messages import Message
from .errors import AgentError
from .rows import (
    Bools,
    Decoding,
    Ints,
    Longs,
    Machine,
    Part,
    Rows,
    Scores,
    Support,
    Transform,
    Want,
)

if TYPE_CHECKING:
    from torch.nn import Parameter

    from ..envs.core import Env, Limits
    from ..envs.tokenizers import Tokenizer
    from .chat import Chat
    from .heads import Head
    from .shield import Shield

Reals = NDArray[np.float32] | NDArray[np.float64]  # float64 where the model is
Memory = Any  # any picklable object: what an agent keeps for one episode
Stop = Literal["end", "stop", "length", "context", "budget", "shield"]

__all__ = [
    "Action",
    "Agent",
    "Ask",
    "Bools",
    "Counters",
    "Decoding",
    "Event",
    "Ints",
    "Key",
    "Longs",
    "Machine",
    "Memory",
    "Part",
    "Policy",
    "Reals",
    "Rows",
    "Scores",
    "Seat",
    "Stop",
    "Support",
    "Transform",
    "Turn",
    "View",
    "Want",
    "answer",
    "drive",
    "splitmix",
    "uniforms",
]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


# --- random numbers -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    """Who draws. Equal keys draw equal numbers on any machine, in any batch, in any order.

    >>> Key(run=0, seed=7, episode=3).uniform(0) == Key(0, 7, 3).uniform(0)
    True
    """

    run: int
    seed: int
    episode: int
    attempt: int = 0
    stream: str = "act"  # "act", "plan", "check", "judge", "skill:NAME"

    @property
    def seed64(self) -> int:
        """The 64 bit seed of this key's sequence."""
        return _seed64(self.run, self.seed, self.episode, self.attempt, self.stream)

    def uniform(self, n: int) -> float:
        """The n-th number of the sequence, float64 in [0, 1)."""
        seeds, counters = np.array([self.seed64], np.uint64), np.array([n], np.uint64)
        return float(uniforms(seeds, counters)[0])


@lru_cache(maxsize=65_536)
def _seed64(run: int, seed: int, episode: int, attempt: int, stream: str) -> int:
    # json.dumps of such a list, spelled out: canonical JSON without a space
    quoted = stream.replace("\\", "\\\\").replace('"', '\\"')
    text = f'[{run},{seed},{episode},{attempt},"{quoted}"]'
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def splitmix(seeds: NDArray[np.uint64], counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The `counters`-th outputs of SplitMix64 started at `seeds`, [B] each.

    >>> [f"{splitmix(np.zeros(1, np.uint64), np.full(1, n, np.uint64))[0]:016x}" for n in (0, 1)]
    ['e220a8397b1dcdaf', '6e789e6aa1b965f4']
    """
    with np.errstate(over="ignore"):
        z = seeds + (counters + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX1
        z = (z ^ (z >> np.uint64(27))) * _MIX2
        return z ^ (z >> np.uint64(31))


def uniforms(seeds: NDArray[np.uint64], counters: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The numbers of many keys at once, float64 [B] in [0, 1); one multiplication apart."""
    return (splitmix(seeds, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Counters:
    """How many numbers each key of one episode has used; saved with the agent's memory.

    Asks advance the counter of their key in the order in which they are yielded. In a list
    each ask reserves its `max_tokens` numbers, so that the asks do not wait for each other.
    """

    def __init__(self, used: Mapping[Key, int] | None = None) -> None:
        self.used: dict[Key, int] = dict(used or {})

    def copy(self) -> Counters:
        """A copy to go back to when a turn is redone."""
        return Counters(self.used)

    def reset(self, other: Counters) -> None:
        """Take the state of `other`, in place."""
        self.used = dict(other.used)

    def begin(self, asks: Sequence[Ask]) -> list[Ask]:
        """The same asks with `key` and `first` filled in."""
        ahead = dict(self.used)
        out: list[Ask] = []
        for ask in asks:
            key = ask.key or ask.chat.seat.key_of(ask.role)
            first = ahead.get(key, 0)
            ahead[key] = first + (ask.max_tokens or ask.policy.context)
            out.append(replace(ask, key=key, first=first))
        return out

    def finish(self, asks: Sequence[Ask], actions: Sequence[Action]) -> None:
        """Count what the answers to `asks` (as `begin` returned them) have used."""
        for ask, action in zip(asks, actions, strict=True):
            assert ask.key is not None  # filled by begin
            end = ask.first + len(action.tokens)
            self.used[ask.key] = max(self.used.get(ask.key, 0), end)


# --- what is asked, what is answered ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seat:
    """What an agent is told when it sits down.

    `counters` belongs to the episode: whoever serves asks takes `ask.chat.seat.counters`.
    """

    key: Key
    env_id: str = ""
    role: str = "agent"
    tools: tuple[dict[str, Any], ...] = ()
    limits: Limits | None = None  # None: only the policy's context bounds a message
    family: str = ""
    images: bool = False
    fork: Callable[[int], Env] | None = None  # salt -> a copy of the running env
    counters: Counters = field(default_factory=Counters, compare=False)

    def key_of(self, role: str) -> Key:
        """The key of a role: the seat's own for the one who acts, else a stream of its name."""
        return self.key if role in ("agent", "executor") else replace(self.key, stream=role)


class View(NamedTuple):
    """What rules may see."""

    seat: Seat
    messages: tuple[Message, ...] = ()
    costs: Mapping[str, float] = {}
    budgets: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True)
class Ask:
    """A wish for one message."""

    policy: Policy
    chat: Chat
    role: str = "agent"
    key: Key | None = None  # None: the seat's, or its stream of the role's name
    max_tokens: int | None = None  # None: what limits and context leave
    stops: tuple[int, ...] = ()  # ids that end the message, besides the tokenizer's end_of_turn
    decoding: Decoding | None = None  # None: the policy's own
    shield: Shield | None = None
    guide: Any = None  # value guidance, not yet built: must be None
    choices: tuple[str, ...] | None = None  # one of these, then the end of the turn
    force: Ints | None = None  # score these tokens instead of drawing
    first: int = 0  # counter of the first random number; `Counters.begin` fills it


class Event(NamedTuple):
    """An intervention of a shield."""

    layer: str
    rule: str
    position: int
    kept: float  # probability of what was allowed
    action: Literal["masked", "refused", "replaced", "fallback"]


@dataclass(frozen=True, slots=True, eq=False)
class Action:
    """One drawn message of T tokens, the end-of-turn id included if it was drawn.

    Attributes:
        tokens: ids as drawn, [T].
        logprobs: under the distribution drawn from; the one ratios are made of, [T].
        logprobs_raw: of the model's own logits, temperature 1 and no mask, [T].
        entropy: of the distribution drawn from, in nats, [T].
        forced: where one id only was legal, [T].
        values: head name -> V(state before token t), from the forward of its logits, [T].
        choice: probability of each of the ask's `choices`, by their first tokens.
        hidden: final state before the first and after the last token, if asked.
        support: ids kept where a cut was on; None without a cut or above 64 ids.
        first: counter of the first random number used.
        version: of the weights that drew it.
    """

    tokens: Ints
    logprobs: Reals
    logprobs_raw: Reals
    entropy: Reals
    forced: Bools
    values: Mapping[str, Reals]
    stop: Stop
    first: int = 0
    version: int = 0
    choice: Mapping[str, float] | None = None
    hidden: Reals | None = None
    support: Support | None = None
    events: tuple[Event, ...] = ()


# --- who acts -----------------------------------------------------------------------------


class Policy(Protocol):
    """Contexts in, tokens out; batched; has weights."""

    @property
    def name(self) -> str: ...  # noqa: D102 - a name is a name
    @property
    def tokenizer(self) -> Tokenizer: ...  # noqa: D102
    @property
    def context(self) -> int:
        """Tokens that one context may hold."""
        ...

    @property
    def version(self) -> int:
        """Counter of published weights."""
        ...

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads on its trunk, in order."""
        ...

    @property
    def gives(self) -> frozenset[str]:
        """Of "ids", "raw", "effective", "values", "hidden", "hooks", "score", "train"."""
        ...

    def act(self, asks: Sequence[Ask]) -> list[Action]:
        """Answer all asks, in their order."""
        ...

    def score(self, rows: Rows, want: Want = ...) -> Scores:
        """Score given tokens under the transform of their sampling, with gradient."""
        ...

    def menu(self, chats: Sequence[Chat], items: Sequence[str]) -> list[NDArray[np.float64]]:
        """Log-probability of each item as a whole message, one array [M] a chat."""
        ...

    def parameters(self) -> Iterable[Parameter]:
        """What an optimiser may move."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights, configuration and tokenizer."""
        ...


Turn = Generator["Ask | list[Ask]", "Action | list[Action]", Message]


class Agent(Protocol):
    """Messages in, message out; asks its policies by yielding."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def policies(self) -> Mapping[str, Policy]:
        """Role -> policy; recipes name the roles they train."""
        ...

    def start(self, seat: Seat) -> Memory:
        """Open the memory of one episode."""
        ...

    def turn(self, memory: Memory, news: Sequence[Message]) -> Turn:
        """Answer the news with one message."""
        ...


def drive(agent: Agent, memory: Memory, news: Sequence[Message]) -> Message:
    """Run one turn in process, for tests and notebooks; equal to the engine's, bit for bit."""
    road = agent.turn(memory, news)
    try:
        wish = next(road)
        while True:
            actions = answer([wish] if isinstance(wish, Ask) else wish)
            wish = road.send(actions[0] if isinstance(wish, Ask) else actions)
    except StopIteration as end:
        return end.value


def answer(asks: Sequence[Ask]) -> list[Action]:
    """Serve the asks of one yield: numbers counted, grouped by policy, sampled once each."""
    if not asks:
        return []
    if len({id(ask.chat) for ask in asks}) < len(asks):
        raise AgentError("a list of asks holds one chat twice; give each ask its own chat.fork()")
    counters = asks[0].chat.seat.counters
    asks = counters.begin(asks)
    out: list[Action | None] = [None] * len(asks)
    for policy in {id(ask.policy): ask.policy for ask in asks}.values():
        mine = [i for i, ask in enumerate(asks) if ask.policy is policy]
        for i, action in zip(mine, policy.act([asks[i] for i in mine]), strict=True):
            out[i] = action
    actions = [action for action in out if action is not None]
    counters.finish(asks, actions)
    return actions
