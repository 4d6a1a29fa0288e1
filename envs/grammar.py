"""An environment's action grammar as an automaton over token ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from .tokenizers import Tokenizer

__all__ = ["Automaton", "Grammar"]

ILLEGAL = -1


@dataclass(frozen=True, slots=True, eq=False)
class Automaton:
    """A deterministic automaton over token ids, as dense tables.

    Attributes:
        next: State after each token, int32 `[S, V]`; -1 where the token is illegal.
        legal: Whether a token is legal, bool `[S, V]`; one row is the mask of one position.
        start: State before the first token.
        end_of_turn: Id that ends a message; the state after it has no legal token.
        degree: Number of legal tokens, int32 `[S]`.
    """

    next: NDArray[np.int32]
    legal: NDArray[np.bool_]
    start: int
    end_of_turn: int
    degree: NDArray[np.int32]

    @property
    def states(self) -> int:
        """Number of states, the one after the end included."""
        return self.next.shape[0]

    @overload
    def forced(self, state: int) -> bool: ...
    @overload
    def forced(self, state: NDArray[np.integer]) -> NDArray[np.bool_]: ...
    def forced(self, state: int | NDArray[np.integer]) -> bool | NDArray[np.bool_]:
        """Whether exactly one token is legal in `state` (one state, or an array of them)."""
        forced = self.degree[state] == 1
        return bool(forced) if isinstance(state, int) else np.asarray(forced)

    def walk(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int32]:
        """Return the states along `ids`, int32 `[T + 1]`.

        Entry t is the state in which token t is chosen, so `walk(ids)[:-1]` are the rows of the
        mask; from the first illegal token on the state is -1.
        """
        states = np.full(len(ids) + 1, ILLEGAL, np.int32)
        states[0] = state = self.start
        for t, token in enumerate(ids):
            state = int(self.next[state, token])
            if state == ILLEGAL:
                break
            states[t + 1] = state
        return states

    def accepts(self, ids: Sequence[int] | NDArray[np.integer]) -> bool:
        """Whether `ids`, the end-of-turn id included, are one whole action."""
        return bool(len(ids) and ids[-1] == self.end_of_turn and self.walk(ids)[-1] != ILLEGAL)


class Grammar:
    """What an action may look like: alternatives, each a list of sets of fragments.

    >>> from .tokenizers import FragmentTokenizer
    >>> words = FragmentTokenizer(["sum(", "max(", "x", "x[1:]", ")"])
    >>> code = Grammar([[{"sum(", "max("}, {"x", "x[1:]"}, {")"}]]).automaton(words)
    >>> code.states, code.accepts([*words.encode("max(x[1:])"), words.end_of_turn])
    (5, True)
    """

    def __init__(self, alternatives: Sequence[Sequence[Collection[str]]], joiner: str = "") -> None:
        """Fix the alternatives.

        Args:
            alternatives: Templates; a template has one set of fragments a position. The empty
                fragment makes its position optional.
            joiner: Text between two fragments, written here only for tokenizers whose decoding
                does not put it there by itself.
        """
        self.alternatives = tuple(
            tuple(tuple(dict.fromkeys(choices)) for choices in template)
            for template in alternatives
        )
        self.joiner = joiner
        if not self.alternatives or any(not c for t in self.alternatives for c in t):
            raise ValueError(
                "a grammar holds no alternative, or a position without a fragment; give at least "
                "one template, and at least one fragment for each of its positions"
            )

    @classmethod
    def of_menu(cls, items: Sequence[str]) -> Grammar:
        """Make the grammar whose actions are exactly `items`, the rendered menu."""
        return cls([[(item,)] for item in dict.fromkeys(items)])

    @property
    def fragments(self) -> tuple[str, ...]:
        """Every fragment that occurs in an action, in order of first mention."""
        every = (f for template in self.alternatives for choices in template for f in choices)
        return tuple(dict.fromkeys(every))

    def automaton(self, tokenizer: Tokenizer) -> Automaton:
        """Compile to a minimal deterministic automaton over the ids of `tokenizer`."""
        end = tokenizer.end_of_turn
        arcs = _minimal(_subsets(self._arcs(tokenizer)))
        following = np.full((len(arcs), tokenizer.size), ILLEGAL, np.int32)
        for state, targets in enumerate(arcs):
            following[state, list(targets)] = list(targets.values())
        legal = following != ILLEGAL
        degree = legal.sum(1, dtype=np.int32)
        for table in (following, legal, degree):
            table.setflags(write=False)
        return Automaton(following, legal, 0, end, degree)

    def _arcs(self, tokenizer: Tokenizer) -> list[dict[int, set[int]]]:
        """Return the nondeterministic automaton: node -> token -> nodes; node 0 is the start."""
        joiner = "" if getattr(tokenizer, "joiner", "") == self.joiner else self.joiner
        arcs: list[dict[int, set[int]]] = [{}, {}]  # node 1: after the end of the turn
        for template in self.alternatives:
            here = {0}
            for position, choices in enumerate(template):
                goal = _node(arcs)
                reached = {goal}
                for fragment in choices:
                    if not fragment:
                        reached |= here
                        continue
                    ids = tokenizer.encode((joiner if position else "") + fragment)
                    _spell(arcs, here, ids, goal)
                here = reached
            for node in here:
                arcs[node].setdefault(tokenizer.end_of_turn, set()).add(1)
        return arcs


def _node(arcs: list[dict[int, set[int]]]) -> int:
    arcs.append({})
    return len(arcs) - 1


def _spell(arcs: list[dict[int, set[int]]], here: set[int], ids: list[int], goal: int) -> None:
    """Lead from every node of `here` over `ids` to `goal`."""
    chain = [_node(arcs) for _ in ids[1:]] + [goal]
    for node in here:
        arcs[node].setdefault(ids[0], set()).add(chain[0])
    for node, token, target in zip(chain[:-1], ids[1:], chain[1:], strict=True):
        arcs[node].setdefault(token, set()).add(target)


def _subsets(arcs: list[dict[int, set[int]]]) -> list[dict[int, int]]:
    """Return the subset construction: state -> token -> state, state 0 the start."""
    start: frozenset[int] = frozenset((0,))
    numbers = {start: 0}
    queue, out = [start], list[dict[int, int]]()
    for subset in queue:  # grows while it is walked: breadth first
        reached: dict[int, set[int]] = {}
        for node in subset:
            for token, targets in arcs[node].items():
                reached.setdefault(token, set()).update(targets)
        row: dict[int, int] = {}
        for token in sorted(reached):
            target = frozenset(reached[token])
            if target not in numbers:
                numbers[target] = len(numbers)
                queue.append(target)
            row[token] = numbers[target]
        out.append(row)
    return out


def _minimal(arcs: list[dict[int, int]]) -> list[dict[int, int]]:
    """Merge states with equal futures; every path ends, so one pass from the leaves is enough."""
    order, done = list[int](), set[int]()
    stack = [(0, False)]
    while stack:  # states after their targets
        state, left = stack.pop()
        if left:
            order.append(state)
        elif state not in done:
            done.add(state)
            stack.append((state, True))
            stack.extend((target, False) for target in arcs[state].values() if target not in done)
    names: dict[tuple[tuple[int, int], ...], int] = {}
    same: dict[int, int] = {}
    for state in order:
        future = tuple((token, same[target]) for token, target in arcs[state].items())
        same[state] = names.setdefault(future, state)
    kept = sorted(set(same.values()) - {0})
    number = {state: i for i, state in enumerate([0, *kept])}
    return [
        {token: number[same[target]] for token, target in arcs[state].items()} for state in number
    ]
