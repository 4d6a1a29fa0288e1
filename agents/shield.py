"""Rules over the tokens of a message: a grammar, forbidden ids, a choice."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..envs import grammar as grammars
from ..envs import parsing
from ..envs.grammar import Automaton
from .core import Ask, Bools, Ints, View
from .errors import AgentError

if TYPE_CHECKING:
    from ..envs.core import Env
    from ..envs.tokenizers import Tokenizer

UNKNOWN, ILLEGAL = -2, -1


class TokenRule(Protocol):
    """Which ids may follow. Its state is a function of the message's own ids alone.

    States are hashable, so that learner and sampler replay a message from its ids.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - a name is a name
    @property
    def size(self) -> int:
        """Number of ids."""
        ...

    def start(self, view: View | None) -> Any:
        """The state before the first id."""
        ...

    def step(self, state: Any, token: int) -> Any:
        """The state after a legal id."""
        ...

    def legal(self, state: Any) -> Bools:
        """Which ids may follow, [V]."""
        ...


@dataclass(frozen=True, eq=False)
class Grammar:
    """An environment's action grammar."""

    automaton: Automaton
    name: str = "grammar"

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.automaton.legal.shape[1]

    def start(self, view: View | None) -> int:
        """The automaton's first state."""
        return self.automaton.start

    def step(self, state: int, token: int) -> int:
        """The automaton's next state."""
        return int(self.automaton.next[state, token])

    def legal(self, state: int) -> Bools:
        """The automaton's row."""
        return self.automaton.legal[state]


class Forbid:
    """Ids that never occur.

    >>> Forbid([1], size=3).legal(0)
    array([ True, False,  True])
    """

    name = "forbid"

    def __init__(self, ids: Collection[int], size: int) -> None:
        self.size = size
        self._legal = np.ones(size, np.bool_)
        self._legal[list(ids)] = False
        self._legal.setflags(write=False)

    def start(self, view: View | None) -> int:
        """There is one state."""
        return 0

    def step(self, state: int, token: int) -> int:
        """There is one state."""
        return 0

    def legal(self, state: int) -> Bools:
        """All ids but the forbidden ones."""
        return self._legal


class Choice:
    """One of a few texts, then the end of the turn: a prefix tree over their ids.

    Raises:
        AgentError: two texts begin with the same id, or one is empty.
    """

    name = "choice"

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer) -> None:
        self.size, self.first = tokenizer.size, dict[str, int]()
        self._arcs: list[dict[int, int]] = [{}]
        seen: dict[int, str] = {}
        for text in texts:
            ids = [*tokenizer.encode(text), tokenizer.end_of_turn]
            if len(ids) < 2:
                raise AgentError(f"choice {text!r} has no token; give words of the vocabulary")
            if ids[0] in seen:
                raise AgentError(
                    f"choices {seen[ids[0]]!r} and {text!r} begin with the same token; rename one."
                )
            seen[ids[0]], self.first[text] = text, ids[0]
            state = 0
            for token in ids:
                self._arcs.append({})
                self._arcs[state][token] = len(self._arcs) - 1
                state = len(self._arcs) - 1

    def start(self, view: View | None) -> int:
        """The root."""
        return 0

    def step(self, state: int, token: int) -> int:
        """Down the tree."""
        return self._arcs[state][token]

    def legal(self, state: int) -> Bools:
        """The node's children."""
        row = np.zeros(self.size, np.bool_)
        row[list(self._arcs[state])] = True
        return row


class Table:
    """Several token rules as one table of states, filled in as states are met.

    Attributes:
        legal: which ids may follow, [S, V]: all rules agree.
        degree: number of legal ids, [S].
        grammatical: whether every rule is a `Grammar` or a `Choice`: a format, not a danger.
    """

    def __init__(self, rules: Iterable[TokenRule]) -> None:
        self._rules = tuple(rules)
        sizes = {rule.size for rule in self._rules}
        if len(sizes) != 1:
            raise AgentError(f"token rules speak of {sorted(sizes)} ids; give rules of one size")
        self._size = sizes.pop()
        self.grammatical = all(isinstance(rule, Grammar | Choice) for rule in self._rules)
        self._legal = np.zeros((8, self._size), np.bool_)
        self._next = np.full((8, self._size), UNKNOWN, np.int32)
        self._degree = np.zeros(8, np.int32)
        self._known: dict[Hashable, int] = {}
        self._states: list[tuple[Any, ...]] = []
        self.start = self._number(tuple(rule.start(None) for rule in self._rules))

    @property
    def legal(self) -> Bools:
        """Mask rows of the states met so far, [S, V]."""
        return self._legal[: len(self._states)]

    @property
    def degree(self) -> Ints:
        """Number of legal ids of each state, [S]."""
        return self._degree[: len(self._states)]

    def _number(self, states: tuple[Any, ...]) -> int:
        if states in self._known:
            return self._known[states]
        number = len(self._states)
        if number == len(self._legal):
            more = np.full_like(self._next, UNKNOWN)
            self._next = np.concatenate([self._next, more])
            self._legal = np.concatenate([self._legal, np.zeros_like(self._legal)])
            self._degree = np.concatenate([self._degree, np.zeros_like(self._degree)])
        row = np.ones(self._size, np.bool_)
        for rule, state in zip(self._rules, states, strict=True):
            row &= rule.legal(state)
        self._legal[number], self._degree[number] = row, row.sum()
        self._known[states] = number
        self._states.append(states)
        return number

    def _step(self, state: int, token: int) -> int:
        if not self._legal[state, token]:
            self._next[state, token] = ILLEGAL
            return ILLEGAL
        pairs = zip(self._rules, self._states[state], strict=True)
        after = self._number(tuple(rule.step(at, token) for rule, at in pairs))
        self._next[state, token] = after
        return after

    def advance(self, states: Ints, tokens: Ints) -> Ints:
        """The states after one token each, [B]; -1 after an illegal one."""
        after = self._next[states, tokens]
        for i in np.flatnonzero(after == UNKNOWN):
            after[i] = self._step(int(states[i]), int(tokens[i]))
        return np.where(states < 0, np.int32(ILLEGAL), after)

    def states(self, tokens: Sequence[int] | Ints) -> Ints:
        """The state before each token of one message, [T]; -1 after an illegal token."""
        out = np.full(len(tokens), ILLEGAL, np.int32)
        state = self.start
        for t, token in enumerate(tokens):
            out[t] = state
            after = int(self._next[state, token])
            state = self._step(state, int(token)) if after == UNKNOWN else after
            if state == ILLEGAL:
                break
        return out


@dataclass(frozen=True, eq=False)
class Shield:
    """Layers of rules; so far those over tokens, which mask (mode A).

    Where nothing is legal, or where the legal ids hold less than `z_min` of the probability
    (a grammar alone is a format and is exempt), the message ends with `stop="shield"` and the
    agent puts `fallback` in its place.
    """

    tokens: tuple[TokenRule, ...] = ()
    fallback: str = "I cannot do that."
    z_min: float = 1e-6
    _tables: list[Table] = field(default_factory=list[Table], init=False, repr=False)

    def table(self) -> Table | None:
        """The token rules as one table; None without rules."""
        if self.tokens and not self._tables:
            self._tables.append(Table(self.tokens))
        return self._tables[0] if self._tables else None


_choices: dict[tuple[int, tuple[str, ...], int], tuple[Any, Any, Choice, Table]] = {}


def choice_of(ask: Ask) -> Choice | None:
    """The choice rule of an ask."""
    return None if ask.choices is None else _chosen(ask)[2]


def _chosen(ask: Ask) -> tuple[Any, Any, Choice, Table]:
    assert ask.choices is not None
    key = id(ask.policy.tokenizer), ask.choices, id(ask.shield)
    if key not in _choices:
        if len(_choices) > 256:
            _choices.clear()
        rule = Choice(ask.choices, ask.policy.tokenizer)
        rules = (rule, *(() if ask.shield is None else ask.shield.tokens))
        # tokenizer and shield are held, so that their identities stay theirs
        _choices[key] = ask.policy.tokenizer, ask.shield, rule, Table(rules)
    return _choices[key]


def machine_of(ask: Ask) -> Table | None:
    """The token rules in force for an ask: its choices and its shield's; None without any."""
    if ask.choices is not None:
        return _chosen(ask)[3]
    return None if ask.shield is None else ask.shield.table()


def shield_for(mode: str, env: Env, tokenizer: Tokenizer) -> Shield | None:
    """The shield that an environment gives itself.

    Args:
        mode: "grammar": its grammar, or the prefix tree of its menu; "tokens": without the ids
            that occur in no action; "none".
        env: whose grammar or menu it is.
        tokenizer: whose ids.

    Raises:
        AgentError: the mode is unknown, or the environment has neither grammar nor menu.
    """
    if mode == "none":
        return None
    if mode not in ("grammar", "tokens"):
        raise AgentError(f'shield is {mode!r}; give "grammar", "tokens" or "none"')
    grammar = env.grammar
    if grammar is None:
        items = env.menu()
        if items is None:
            raise AgentError(
                f"shield is {mode!r}, but {env.env_id} has neither a grammar nor a menu(); "
                'give "none"'
            )
        texts = [i if isinstance(i, str) else parsing.render([i], env.parser) for i in items]
        grammar = grammars.Grammar.of_menu(texts)
    automaton = grammar.automaton(tokenizer)
    if mode == "grammar":
        return Shield((Grammar(automaton),))
    never = np.flatnonzero(~automaton.legal.any(0))
    return Shield((Forbid([int(i) for i in never], tokenizer.size),))
