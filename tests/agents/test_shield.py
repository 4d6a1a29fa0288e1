"""Token rules: exact masks, whatever their order, and a way out where nothing is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from palaestra.agents.core import Ask, answer
from palaestra.agents.errors import AgentError
from palaestra.agents.shield import (
    Choice,
    Forbid,
    Grammar,
    Shield,
    Table,
    machine_of,
    shield_for,
)
from palaestra.agents.solo import Solo
from palaestra.envs.grammar import Grammar as Templates
from palaestra.envs.small import Compare, KeyDoor

SIZE = 40


def test_ag_shield2_a_rule_that_forbids_nothing_changes_no_bit(
    sampler: Any, talk: Any, texts: Any, same: Any
) -> None:
    policy = sampler()
    bare = talk(Solo(policy, max_tokens=6), texts(0))
    idle = talk(Solo(policy, shield=Shield((Forbid([], SIZE),)), max_tokens=6), texts(0))
    for a, b in zip(bare.drawn, idle.drawn, strict=True):
        same(a.action, b.action)


def test_ag_shield3_the_order_of_rules_does_not_matter_and_each_shrinks_what_is_left(
    grammar: Shield,
) -> None:
    (format_,) = grammar.tokens
    first, second = Forbid([6, 7], SIZE), Forbid([8], SIZE)
    ids = np.array([5, 11, 16, 3], np.int32)
    one = Table([format_, first, second])
    other = Table([second, format_, first, second])  # in another order, and one of them twice
    rows, rows2 = one.states(ids), other.states(ids)
    assert bool((rows >= 0).all())
    np.testing.assert_array_equal(one.legal[rows], other.legal[rows2])
    fewer = Table([format_, first])
    rows3 = fewer.states(ids)
    assert bool((one.legal[rows] <= fewer.legal[rows3]).all())


def test_ag_shield4_where_nothing_is_legal_the_fallback_is_said(
    sampler: Any, talk: Any, texts: Any, grammar: Shield
) -> None:
    policy = sampler()
    closed = Shield((*grammar.tokens, Forbid([16], SIZE)), fallback="w0")
    played = talk(Solo(policy, shield=closed, max_tokens=6), texts(0))
    for drawn in played.drawn:
        action = drawn.action
        assert action.stop == "shield"
        assert action.events[0].action == "fallback"
        assert bool(np.isfinite(action.logprobs).all())
        assert 16 not in action.tokens
    said = [m.content for m in played.chat.messages if m.role == "assistant"]
    assert said == ["w0"] * 3
    assert len(played.chat.contexts) == 4  # each draft stays in the context it was drawn in


def test_what_is_almost_impossible_falls_back_too(sampler: Any, talk: Any, texts: Any) -> None:
    policy = sampler()
    rare = Shield((Forbid(range(1, SIZE), SIZE),), fallback="w0", z_min=0.99)
    (drawn, *_) = talk(Solo(policy, shield=rare, max_tokens=6), texts(0)).drawn
    assert (drawn.action.stop, len(drawn.action.tokens)) == ("shield", 0)


def test_a_grammar_is_a_format_and_never_falls_back(
    sampler: Any, talk: Any, texts: Any, grammar: Shield
) -> None:
    strict = Shield(grammar.tokens, z_min=1.0)
    for drawn in talk(Solo(sampler(), shield=strict, max_tokens=6), texts(0)).drawn:
        assert drawn.action.stop == "end"
        assert drawn.action.forced[-1]
        assert drawn.action.logprobs[drawn.action.forced].tolist() == [0.0] * int(
            drawn.action.forced.sum()
        )


def test_the_states_of_a_message_are_those_of_the_automaton(grammar: Shield) -> None:
    (rule,) = grammar.tokens
    assert isinstance(rule, Grammar)
    table = grammar.table()
    assert table is not None
    for ids in ([5, 11, 16, 3], [5, 16, 3]):
        walked = rule.automaton.walk(ids)[:-1]
        states = table.states(ids)
        np.testing.assert_array_equal(table.legal[states], rule.automaton.legal[walked])


def test_an_illegal_token_ends_the_walk(grammar: Shield) -> None:
    table = grammar.table()
    assert table is not None
    assert table.states([5, 39, 16]).tolist()[2] == -1
    after = table.advance(np.array([0, -1], np.int32), np.array([39, 5], np.int32))
    assert after.tolist() == [-1, -1]


def test_rules_over_different_vocabularies_are_refused() -> None:
    with pytest.raises(AgentError, match=r"\[4, 5\] ids"):
        Table([Forbid([], 4), Forbid([], 5)])


def test_a_choice_without_a_token_is_refused(words: Any) -> None:
    with pytest.raises(AgentError, match="no token"):
        Choice(["w1", ""], words)


def test_an_asks_choices_and_shield_are_one_machine(
    sampler: Any, seat: Any, grammar: Shield
) -> None:
    from palaestra.agents.chat import Chat
    from palaestra.envs.messages import Message

    policy = sampler()
    chat = Chat.for_(policy, seat())
    chat.add([Message("user", "w1")])
    shield = Shield((Forbid([5], SIZE),))
    ask = Ask(policy, chat, choices=("w1", "w2"), shield=shield)
    assert machine_of(ask) is machine_of(ask)
    assert answer([ask])[0].tokens.tolist() == [6, 3]
    assert machine_of(Ask(policy, chat)) is None
    assert machine_of(Ask(policy, chat, shield=grammar)) is grammar.table()


class Plain:
    """What `shield_for` reads of an environment."""

    env_id = "my/Plain-v0"
    parser = None

    def __init__(self, grammar: Templates | None = None, items: list[str] | None = None) -> None:
        self.grammar, self.items = grammar, items

    def menu(self) -> list[str] | None:
        return self.items


def test_an_environments_shield_is_its_grammar_or_its_menu(words: Any) -> None:
    spoken = Plain(Templates([[{"w1"}, {"w2", "w3"}]], " "))
    strict = shield_for("grammar", spoken, words)  # type: ignore[arg-type]
    loose = shield_for("tokens", spoken, words)  # type: ignore[arg-type]
    assert strict is not None
    assert loose is not None
    table, free = strict.table(), loose.table()
    assert table is not None
    assert free is not None
    assert np.flatnonzero(table.legal[0]).tolist() == [5]
    assert np.flatnonzero(free.legal[0]).tolist() == [3, 5, 6, 7]
    assert shield_for("none", spoken, words) is None  # type: ignore[arg-type]
    chosen = shield_for("grammar", Plain(items=["w1 w2", "w4"]), words)  # type: ignore[arg-type]
    assert chosen is not None
    assert np.flatnonzero(chosen.table().legal[0]).tolist() == [5, 8]  # type: ignore[union-attr]


def test_an_environments_menu_of_calls_is_rendered() -> None:
    env = Compare() if KeyDoor.grammar is not None else KeyDoor()
    assert env.tokenizer is not None
    shield = shield_for("grammar", env, env.tokenizer)
    assert shield is not None
    assert len(shield.tokens) == 1


@pytest.mark.parametrize(("mode", "word"), [("grammar", "neither"), ("sieve", "'sieve'")])
def test_a_shield_that_cannot_be_had_is_refused(words: Any, mode: str, word: str) -> None:
    with pytest.raises(AgentError, match=word):
        shield_for(mode, Plain(), words)  # type: ignore[arg-type]
