"""A small vocabulary, a small policy, and a way to talk to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from palaestra.agents.chat import Chat
from palaestra.agents.core import (
    Action,
    Agent,
    Ask,
    Key,
    Part,
    Policy,
    Rows,
    Seat,
    Transform,
    answer,
)
from palaestra.agents.heads import Head
from palaestra.agents.sampling import Sampler
from palaestra.agents.shield import Grammar, Shield, machine_of
from palaestra.agents.tiny import Tiny
from palaestra.envs.grammar import Grammar as Templates
from palaestra.envs.messages import Message
from palaestra.envs.tokenizers import FragmentTokenizer

WORDS = [f"w{i}" for i in range(36)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def words() -> FragmentTokenizer:
    return FragmentTokenizer(WORDS, " ")


@pytest.fixture(scope="session")
def grammar(words: FragmentTokenizer) -> Shield:
    """Two free words, then one that is forced; the second may be left out."""
    first, second = set(WORDS[:6]), {*WORDS[6:12], ""}
    automaton = Templates([[first, second, {WORDS[12]}]], " ").automaton(words)
    return Shield((Grammar(automaton),))


@pytest.fixture
def sampler(words: FragmentTokenizer) -> Callable[..., Sampler]:
    """Makes a policy with random weights and a value head that says something."""

    def make(
        dtype: torch.dtype = torch.float32,
        *,
        seed: int = 0,
        heads: Sequence[Head] = (Head("value"),),
        context: int = 160,
        **options: Any,
    ) -> Sampler:
        model = Tiny("nano", words, heads, seed=seed, context=context)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for head in heads:
                model.heads.rows(head)[0].normal_(generator=generator)
            model.embed.mul_(1.5)  # less uniform than at the start of training
        return Sampler(model.to(dtype), **options)

    return make


@dataclass
class Drawn:
    """One message drawn in a conversation."""

    context: int
    start: int
    ask: Ask
    action: Action


@dataclass
class Played:
    """A conversation and what was drawn in it."""

    chat: Chat
    drawn: list[Drawn] = field(default_factory=list[Drawn])

    def rows(self) -> list[Rows]:
        """One packed batch for each context."""
        out: list[Rows] = []
        for number, context in enumerate(self.chat.contexts):
            mine = [d for d in self.drawn if d.context == number]
            places = [d.start + np.arange(len(d.action.tokens)) for d in mine]
            parts = [
                Part(
                    d.action.tokens,
                    machine_of(d.ask),
                    d.ask.decoding or d.ask.policy.decoding,  # pyright: ignore
                    d.action.support,
                )
                for d in mine
            ]
            offsets = np.array([0, len(context.ids)], np.int32)
            action = np.concatenate([np.zeros(0, np.int64), *places])
            out.append(Rows(context.tokens, offsets, action, Transform.of(parts)))
        return out


def pack(batch: Sequence[Rows], parts: Sequence[Part]) -> Rows:
    """Several rows as one."""
    lengths = [len(rows.tokens) for rows in batch]
    offsets = np.cumsum([0, *lengths])
    action = np.concatenate([r.action + o for r, o in zip(batch, offsets, strict=False)])
    return Rows(
        np.concatenate([r.tokens for r in batch]),
        offsets.astype(np.int32),
        action,
        Transform.of(parts),
    )


@pytest.fixture
def seat() -> Callable[..., Seat]:
    def make(episode: int = 0, **more: Any) -> Seat:
        return Seat(Key(run=0, seed=1, episode=episode), **more)

    return make


@pytest.fixture
def talk(seat: Callable[..., Seat]) -> Callable[..., Played]:
    """Lets an agent with one ask a turn answer some texts."""

    def play(
        agent: Agent,
        texts: Sequence[str],
        episode: int = 0,
        between: Callable[[Played], None] | None = None,
    ) -> Played:
        chat: Chat = agent.start(seat(episode))
        played = Played(chat)
        for text in texts:
            road = agent.turn(chat, [Message("user", text)])
            ask = next(road)
            assert isinstance(ask, Ask)
            where = len(chat.contexts) - 1, len(chat.tokens)
            action = answer([ask])[0]
            played.drawn.append(Drawn(*where, ask, action))
            with pytest.raises(StopIteration):
                road.send(action)
            if between is not None:
                between(played)
        return played

    return play


@pytest.fixture
def texts() -> Callable[[int], list[str]]:
    """Three observations of uneven length for an episode."""

    def make(episode: int) -> list[str]:
        return [
            " ".join(
                WORDS[(7 * episode + 3 * turn + j) % 36] for j in range(2 + (episode + turn) % 5)
            )
            for turn in range(3)
        ]

    return make


@pytest.fixture
def same() -> Callable[..., None]:
    """Asserts that two actions are equal, bit for bit or within a tolerance."""

    def check(a: Action, b: Action, tolerance: float | None = None) -> None:
        assert a.tokens.tolist() == b.tokens.tolist()
        columns = [
            (a.logprobs, b.logprobs),
            (a.logprobs_raw, b.logprobs_raw),
            (a.entropy, b.entropy),
            *((a.values[name], b.values[name]) for name in a.values),
        ]
        for left, right in columns:
            if tolerance is None:
                assert left.tobytes() == right.tobytes()
            else:
                np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)
        assert (a.stop, a.first) == (b.stop, b.first)

    return check


@pytest.fixture
def policy_of() -> Callable[[Agent], Policy]:
    return lambda agent: next(iter(agent.policies.values()))
