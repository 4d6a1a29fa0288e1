"""Rows for the learner: packed contexts, and the sampler's hooks to be replayed on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..envs.messages import Image
from .errors import AgentError

if TYPE_CHECKING:
    from torch import Tensor

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are drawn; the defaults draw from the model's own distribution.

    Temperature 0 takes the most probable id, the lowest of equals.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise AgentError(
                f"temperature is {self.temperature}; give 0 (the most probable id) or more"
            )
        if not 0 < self.top_p <= 1 or not 0 <= self.min_p < 1:
            raise AgentError(
                f"top_p={self.top_p}, min_p={self.min_p}; give top_p in (0, 1], min_p in [0, 1)"
            )
        if self.top_k < 0 or self.repetition <= 0:
            raise AgentError(
                f"top_k={self.top_k}, repetition={self.repetition}; "
                "give top_k >= 0 (0: no cut), repetition > 0 (1: none)"
            )

    @property
    def cuts(self) -> bool:
        """Whether ids are left out by probability (top-k, top-p or min-p)."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0


class Support(NamedTuple):
    """The ids kept at each position where top-k, top-p or min-p cut, ragged."""

    ids: Ints  # [K] ids of position t: ids[offsets[t]:offsets[t + 1]]
    offsets: Longs  # [T + 1]


class Want(NamedTuple):
    """What `Policy.score` is asked for besides the log-probs."""

    entropy: bool = True
    heads: bool = True
    ends: bool = False  # values after the last token of each row: bootstrap of truncated ones
    raw: bool = False  # log-probs without the transform, for a reference or a report
    hidden: bool = False


class Machine(Protocol):
    """Token rules as a table: state of a message -> legal ids. Grown in place, never cut."""

    @property
    def legal(self) -> Bools:
        """Which ids may follow in each state, [S, V]."""
        ...

    def states(self, tokens: Sequence[int] | Ints) -> Ints:
        """The state before each of the tokens of one message, [T]."""
        ...


class Part(NamedTuple):
    """How one drawn message was drawn; `Transform.of` joins them."""

    tokens: Ints  # the ids of the action tokens of the message, [T]
    machine: Machine | None = None  # `agents.shield.machine_of(ask)`
    decoding: Decoding = Decoding()
    support: Support | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """The sampler's hooks at P action positions, for the learner to replay.

    How an engine builds it: keep, for each drawn message, one `Part` with the action's ids,
    `machine = shield.machine_of(ask)` and the decoding in force. For a batch, list the parts
    in the order in which their tokens stand in `Rows.action`, and call `Transform.of(parts)`.
    A message that is only partly trained still contributes a whole part; take the positions
    that are left by `transform.take(index)`. Without hooks: `Transform.plain(P)`.

    Attributes:
        temperature: [P], float32.
        states: row of `legal` in force when the token was drawn, -1 where nothing is masked.
        legal: distinct mask rows of all machines, [S, V]; None when nothing is masked.
        repetition: penalty per position, [P]; None: 1 everywhere.
        support: kept ids per position; positions without a cut hold none.
    """

    temperature: NDArray[np.float32]
    states: Ints
    legal: Bools | None = None
    repetition: NDArray[np.float32] | None = None
    support: Support | None = None

    @classmethod
    def plain(cls, size: int) -> Transform:
        """No hook at `size` positions."""
        return cls(np.ones(size, np.float32), np.full(size, -1, np.int32))

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Transform:
        """Join the parts of all messages of a batch, in the order of `Rows.action`."""
        counts = np.array([len(part.tokens) for part in parts], np.int64)
        states, legal = _stack([(p.machine, p.tokens) for p in parts])
        heat = np.array([p.decoding.temperature for p in parts], np.float32)
        again = np.array([p.decoding.repetition for p in parts], np.float32)
        penalty = np.repeat(again, counts) if bool((again != 1).any()) else None
        cut = any(p.support is not None for p in parts)
        support = _join(parts) if cut else None
        return cls(np.repeat(heat, counts), states, legal, penalty, support)

    def take(self, index: Longs | Bools) -> Transform:
        """The transform of some of the positions."""
        index = np.flatnonzero(index) if index.dtype == np.bool_ else index
        again = None if self.repetition is None else self.repetition[index]
        support = self.support
        if support is not None:
            starts, ends = support.offsets[:-1][index], support.offsets[1:][index]
            pieces = [support.ids[a:b] for a, b in zip(starts, ends, strict=True)]
            support = _ragged(pieces)
        return Transform(self.temperature[index], self.states[index], self.legal, again, support)


def _stack(parts: Sequence[tuple[Machine | None, Ints]]) -> tuple[Ints, Bools | None]:
    bases: dict[int, int] = {}
    tables: list[Bools] = []
    columns: list[Ints] = []
    size = 0
    walked = [None if m is None else m.states(tokens) for m, tokens in parts]
    for (machine, tokens), states in zip(parts, walked, strict=True):
        if machine is None or states is None:
            columns.append(np.full(len(tokens), -1, np.int32))
            continue
        if id(machine) not in bases:
            bases[id(machine)] = size
            tables.append(machine.legal)  # after every walk: a machine may grow by walking
            size += len(machine.legal)
        columns.append((states + bases[id(machine)]).astype(np.int32))
    states = np.concatenate(columns) if columns else np.zeros(0, np.int32)
    if not tables:
        return states, None
    return states, tables[0] if len(tables) == 1 else np.concatenate(tables)


def _join(parts: Sequence[Part]) -> Support:
    pieces: list[Ints] = []
    for part in parts:
        kept = part.support
        for t in range(len(part.tokens)):
            none = np.zeros(0, np.int32)
            pieces.append(none if kept is None else kept.ids[kept.offsets[t] : kept.offsets[t + 1]])
    return _ragged(pieces)


def _ragged(pieces: Sequence[Ints]) -> Support:
    counts = np.array([0, *map(len, pieces)], np.int64)
    ids = np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
    return Support(ids, np.cumsum(counts))


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Contexts laid end to end: what a learner asks a policy to score.

    Attributes:
        tokens: ids of all contexts, [N].
        offsets: context r is `tokens[offsets[r]:offsets[r + 1]]`, [R + 1].
        action: positions in `tokens` of the action tokens to be scored, [P]; never the first
            of a context, which nothing precedes.
        transform: the hooks under which they were drawn, in the order of `action`.
    """

    tokens: Ints
    offsets: Ints
    action: Longs
    transform: Transform
    adapter: Ints | None = None
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a policy thinks of rows; tensors with gradient, in the order of `Rows.action`.

    Index p speaks of the decision that emitted the token at `action[p]`: log-prob and value
    come from the hidden state one position earlier. `values` and `ends` are per head, [P]
    and [R] (a further axis for heads of several numbers).
    """

    logprobs: Tensor
    entropy: Tensor | None = None
    values: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    ends: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    logprobs_raw: Tensor | None = None
    hidden: Tensor | None = None
