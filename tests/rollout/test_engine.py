"""Many episodes at once equal one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from palaestra.agents.chat import Chat
from palaestra.agents.core import Ask, Policy, Seat, Turn
from palaestra.agents.errors import AgentError
from palaestra.agents.solo import Solo
from palaestra.envs import Env, Message, TaskSet, tool
from palaestra.envs.core import EnvError
from palaestra.envs.small import Compare, KeyDoor
from palaestra.rollout.engine import Engine, Start
from palaestra.rollout.episode import play
from palaestra.rollout.trajectory import Trajectory

MakeSolo = Callable[..., Solo]


def same(one: Trajectory, other: Trajectory) -> None:
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.logprobs, other.logprobs)
    np.testing.assert_array_equal(one.values["value"], other.values["value"])
    assert one.messages == other.messages
    assert one.outcome == other.outcome
    assert one.credits == other.credits


def test_one_episode_played_by_hand_equals_the_engines(make_solo: MakeSolo) -> None:
    solo = make_solo(exact=True)
    starts = [Start(7), Start(8), Start(9)]
    engine = Engine(solo, KeyDoor, run=3)
    together = engine.gather(starts)
    engine.close()
    for start, found in zip(starts, together, strict=True):
        same(play(solo, KeyDoor(), seed=start.seed, run_seed=3), found)


def test_the_number_of_slots_changes_nothing(make_solo: MakeSolo) -> None:
    starts = [Start(seed) for seed in range(6)]
    found: list[list[Trajectory]] = []
    for slots in (1, 4, None):
        engine = Engine(make_solo(exact=True), KeyDoor, slots=slots)
        found.append(engine.gather(starts))
        engine.close()
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            same(one, two)


def test_an_engine_gives_the_same_episodes_twice(make_solo: MakeSolo) -> None:
    engine = Engine(make_solo(), KeyDoor)
    starts = [Start(seed) for seed in range(6)]
    for one, two in zip(engine.gather(starts), engine.gather(starts), strict=True):
        same(one, two)
    engine.close()


def test_attempts_share_the_world_but_not_the_luck(played: list[Trajectory]) -> None:
    first, second = played[0], played[1]
    assert first.identity.task == second.identity.task
    assert first.messages[0] == second.messages[0]
    assert list(first.tokens) != list(second.tokens)


def test_a_full_context_truncates_the_episode(make_solo: MakeSolo) -> None:
    engine = Engine(make_solo(context=60), KeyDoor)
    found = engine.gather([Start(1)])[0]
    engine.close()
    assert found.outcome.truncated
    assert not found.outcome.terminated
    assert found.outcome.reason == "context"
    assert len(found.tokens) <= 60


def test_stopping_drops_the_episodes_begun(make_solo: MakeSolo) -> None:
    engine = Engine(make_solo(), KeyDoor)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 5

    assert engine.gather([Start(1), Start(2)], stop=stop) == []
    assert len(engine.gather([Start(1), Start(2)])) == 2  # and can go on afterwards
    engine.close()


class Speaker:
    """Says prepared lines; asks no policy."""

    name = "speaker"
    policies: Mapping[str, Policy] = {}

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines

    def start(self, seat: Seat) -> list[str]:
        return list(self.lines)

    def turn(self, memory: list[str], news: Sequence[Message]) -> Turn:
        yield from ()
        return Message("assistant", memory.pop(0) if memory else "")


def test_an_agent_without_a_policy_leaves_messages_and_credits() -> None:
    engine = Engine(Speaker(["1"]), Compare)
    found = engine.gather([Start(1)])[0]
    engine.close()
    assert len(found.tokens) == 0
    assert found.turns == 1
    assert found.outcome.terminated


class Outside(Env):
    """One tool that runs outside; the answer is its result."""

    tasks = TaskSet.generate(lambda r: {"n": int(r.integers(10))}, id="outside")

    def begin(self, task: Mapping[str, Any]) -> str:
        self.state = {"n": task["n"], "seen": 0}
        return "ask"

    @tool(resource="network")
    def ask(self) -> str:
        """Fetch the number."""
        return str(self.state["n"])

    def score(self, answer: str) -> float:
        return float(answer == str(self.state["n"]))


CALL = '<tool_call>{"name": "ask", "arguments": {}}</tool_call>'


def test_outside_work_of_all_sessions_travels_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from palaestra.rollout import engine as module

    sizes: list[int] = []
    original = module.core.run

    def spy(pendings: Any, **options: Any) -> Any:
        sizes.append(len(pendings))
        return original(pendings, **options)

    monkeypatch.setattr(module.core, "run", spy)
    engine = Engine(Speaker([CALL, "?"]), Outside)
    found = engine.gather([Start(seed) for seed in range(5)])
    engine.close()
    assert sizes == [5]
    assert all(one.outcome.terminated for one in found)


class Broken(Env):
    """Raises in its own rules."""

    def begin(self, task: Mapping[str, Any]) -> str:
        self.state = {}
        return "go"

    def score(self, answer: str) -> float:
        raise ZeroDivisionError("a bug of the environment")


def test_an_environment_that_raises_names_the_seed_and_shows_the_transcript() -> None:
    engine = Engine(Speaker(["hello"]), Broken)
    with pytest.raises(EnvError, match=r"(?s)ZeroDivisionError.*seed=41.*go"):
        engine.gather([Start(41)])
    engine.close()


class Closing(KeyDoor):
    """Counts the environments that were closed."""

    closed: ClassVar[list[int]] = []

    def close(self) -> None:
        self.closed.append(1)
        super().close()


class Raising(Closing):
    """Breaks when a message reaches it."""

    def respond(self, message: Message) -> Any:
        raise ZeroDivisionError("a bug of the environment")


def test_what_was_under_way_is_closed_when_an_environment_raises() -> None:
    Closing.closed.clear()
    engine = Engine(Speaker(["hello"]), Raising)
    with pytest.raises(EnvError, match="ZeroDivisionError"):
        engine.gather([Start(seed) for seed in range(3)])
    assert len(Closing.closed) == 3
    engine.close()
    assert len(Closing.closed) == 3


def test_what_was_under_way_is_closed_when_the_gathering_is_stopped(make_solo: MakeSolo) -> None:
    Closing.closed.clear()
    engine = Engine(make_solo(), Closing)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    assert engine.gather([Start(1), Start(2)], stop=stop) == []
    assert len(Closing.closed) == 2
    engine.close()


class Careful:
    """Yields what an agent may yield: nothing, a list, one."""

    name = "careful"

    def __init__(self, policy: Any, *, twice: bool = False) -> None:
        self.policies = {"agent": policy}
        self.twice = twice

    def start(self, seat: Seat) -> Chat:
        return Chat.for_(self.policies["agent"], seat)

    def turn(self, memory: Chat, news: Sequence[Message]) -> Turn:
        policy = self.policies["agent"]
        memory.add(news)
        nothing = yield []
        assert nothing == []
        other = memory if self.twice else memory.fork()
        both = yield [Ask(policy, memory, max_tokens=5), Ask(policy, other, max_tokens=5)]
        assert isinstance(both, list)
        return memory.commit(both[0])


def test_an_empty_list_of_asks_is_answered_by_an_empty_list(make_solo: MakeSolo) -> None:
    engine = Engine(Careful(make_solo().policy), KeyDoor)
    found = engine.gather([Start(1), Start(2)])
    engine.close()
    assert all(one.turns == 20 or one.outcome.terminated for one in found)


def test_one_chat_twice_in_a_list_is_refused(make_solo: MakeSolo) -> None:
    engine = Engine(Careful(make_solo().policy, twice=True), KeyDoor)
    with pytest.raises(AgentError, match="one chat twice"):
        engine.gather([Start(1)])
    engine.close()


class Plain:
    """A policy that knows ``act`` alone."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.sizes = inner, list[int]()

    def __getattr__(self, name: str) -> Any:
        if name == "submit" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.inner, name)

    def act(self, asks: Sequence[Ask]) -> Any:
        self.sizes.append(len(asks))
        return self.inner.act(asks)


def test_a_policy_that_only_acts_is_asked_for_all_episodes_at_once(make_solo: MakeSolo) -> None:
    solo = make_solo()
    plain = Plain(solo.policy)
    engine = Engine(replace(solo, policy=plain), KeyDoor)
    found = engine.gather([Start(seed) for seed in range(4)])
    engine.close()
    assert plain.sizes[0] == 4
    assert all(len(one.actions) for one in found)


def test_a_full_context_truncates_by_hand_and_by_act_alone_as_in_the_engine(
    make_solo: MakeSolo,
) -> None:
    solo = make_solo(context=60, exact=True)
    engine = Engine(solo, KeyDoor)
    wanted = engine.gather([Start(1)])[0]
    engine.agent = replace(solo, policy=Plain(solo.policy))
    plain = engine.gather([Start(1)])[0]
    engine.close()
    assert wanted.outcome.reason == "context"
    same(play(solo, KeyDoor(), seed=1), wanted)
    same(plain, wanted)
