"""Agents without weights, and one that says again what was drawn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from palaestra.agents.core import Ask, Key, Seat, drive
from palaestra.agents.errors import AgentError, CapabilityError
from palaestra.agents.scripted import (
    Echo,
    Human,
    RandomAgent,
    RandomPolicy,
    Reference,
    Replayed,
    Scripted,
    Trivial,
)
from palaestra.agents.shield import Shield
from palaestra.agents.solo import Solo
from palaestra.envs.messages import Message
from palaestra.envs.small import Compare, Copy, KeyDoor, Sum
from palaestra.envs.tokenizers import ByteTokenizer

NEWS = [Message("user", "hello")]


def say(agent: Any, turns: int = 3, seat: Seat | None = None) -> list[str]:
    memory = agent.start(seat or Seat(Key(0, 0, 0)))
    return [drive(agent, memory, NEWS).content for _ in range(turns)]


def test_a_script_is_said_line_by_line_and_its_last_line_again() -> None:
    assert say(Scripted(["a", "b"])) == ["a", "b", "b"]
    assert say(Scripted(lambda heard: str(len(heard)))) == ["1", "3", "5"]
    with pytest.raises(AgentError, match="at least one text"):
        Scripted([])


def test_trivial_and_echo_say_what_they_must() -> None:
    assert say(Trivial(), 2) == ["", ""]
    assert say(Echo(), 2) == ["hello", "hello"]


def test_ag_script2_random_agents_draw_from_their_key_only() -> None:
    items = [f"item {i}" for i in range(50)]
    first, again = say(RandomAgent(items), 9), say(RandomAgent(items), 9)
    other = say(RandomAgent(items), 9, Seat(Key(0, 0, 1)))
    assert first == again != other
    assert len(set(first)) > 4


def test_a_random_agent_says_the_items_of_a_menu() -> None:
    env = Compare()
    agent = RandomAgent.for_(env)
    assert len(agent.items) == len(env.menu())
    memory = agent.start(Seat(Key(0, 0, 0)))
    news = env.start(3)
    for _ in range(4):
        step = env.advance(drive(agent, memory, news))
        assert step.terms.get("format", 0) == 0
        if step.terminated or step.truncated:
            break
        news = step.messages


def test_a_random_agent_needs_items() -> None:
    with pytest.raises(AgentError, match="at least one text"):
        RandomAgent([])
    with pytest.raises(AgentError, match=r"has no menu"):
        RandomAgent.for_(Sum())


def test_ag_script2_a_random_policy_is_uniform_under_the_grammar(
    words: Any, grammar: Shield, talk: Any, texts: Any
) -> None:
    policy = RandomPolicy(words)
    agent = Solo(policy, shield=grammar, max_tokens=6)
    for drawn in talk(agent, texts(0)).drawn:
        action = drawn.action
        assert action.stop == "end"
        assert action.logprobs[0] == pytest.approx(-np.log(6))
        assert action.forced[-1]
    free = RandomPolicy(ByteTokenizer(), context=64)
    (drawn, *_) = talk(Solo(free, max_tokens=9), ["hi"]).drawn
    assert len(drawn.action.tokens) <= 9
    assert 257 not in drawn.action.tokens
    again = talk(Solo(free, max_tokens=9), ["hi"]).drawn[0]
    assert drawn.action.tokens.tolist() == again.action.tokens.tolist()


def test_a_random_policy_has_nothing_to_train(words: Any, tmp_path: Path) -> None:
    policy = RandomPolicy(words)
    assert policy.parameters() == ()
    for refused in (
        lambda: policy.save(tmp_path),
        lambda: policy.menu([], []),
        lambda: policy.score(None),  # type: ignore[arg-type]
    ):
        with pytest.raises(CapabilityError, match="has no parameters"):
            refused()


def test_a_human_reads_what_is_new_and_types_a_line() -> None:
    source, sink = io.StringIO("first\nsecond\n"), io.StringIO()
    assert say(Human(source, sink)) == ["first", "second", ""]
    assert sink.getvalue().count("user: hello") == 3


@pytest.mark.parametrize("make", [Compare, Copy, Sum, KeyDoor])
def test_the_reference_succeeds(make: Any) -> None:
    agent = Reference(make)
    env = make()
    for seed in range(5):
        news = env.start(seed)
        memory = agent.start(Seat(Key(0, seed, 0)))
        step = env.advance(drive(agent, memory, news))
        while not (step.terminated or step.truncated):
            step = env.advance(drive(agent, memory, step.messages))
        assert step.success


def test_ag_script1_a_replay_says_the_same_ids_with_the_present_log_probs(
    sampler: Any, talk: Any, texts: Any, same: Any
) -> None:
    policy = sampler(exact=True, slots=8)
    played = talk(Solo(policy, max_tokens=6), texts(0))

    class Columns:
        tokens = played.chat.tokens
        time = np.full(len(tokens), -1, np.int32)
        turn_id = played.chat.labels.turn_id

    count = 0
    for drawn in played.drawn:
        n = len(drawn.action.tokens)
        Columns.time[drawn.start : drawn.start + n] = np.arange(count, count + n)
        count += n
    replay = talk(Replayed.of(policy, Columns()), texts(0))
    assert replay.chat.tokens.tolist() == played.chat.tokens.tolist()
    assert replay.chat.messages == played.chat.messages
    for a, b in zip(played.drawn, replay.drawn, strict=True):
        assert a.action.logprobs.tobytes() == b.action.logprobs.tobytes()
        assert a.action.values["value"].tobytes() == b.action.values["value"].tobytes()


def test_a_replay_that_is_asked_for_more_says_so(sampler: Any, seat: Any) -> None:
    agent = Replayed(sampler(), [np.array([5, 3], np.int32)])
    memory = agent.start(seat())
    drive(agent, memory, [Message("user", "w1")])
    with pytest.raises(AgentError, match="turn 2 was asked for"):
        drive(agent, memory, [Message("user", "w1")])


def test_agents_without_a_policy_never_ask() -> None:
    road = Echo().turn(Echo().start(Seat(Key(0, 0, 0))), NEWS)
    with pytest.raises(StopIteration):
        next(road)
    assert not isinstance(road, Ask)
