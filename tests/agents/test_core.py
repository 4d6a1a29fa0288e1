"""Keys, counters, and turns that may be driven, pickled and redone."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from palaestra.agents.chat import Chat
from palaestra.agents.core import (
    Action,
    Ask,
    Counters,
    Decoding,
    Key,
    Seat,
    Turn,
    answer,
    drive,
    splitmix,
    uniforms,
)
from palaestra.agents.drawing import torch_uniforms
from palaestra.agents.errors import AgentError
from palaestra.agents.solo import Solo
from palaestra.envs.messages import Message


def test_ag_key1_the_sequence_is_the_reference_sequence_of_splitmix64() -> None:
    numbers = splitmix(np.zeros(3, np.uint64), np.arange(3, dtype=np.uint64))
    assert [f"{n:016x}" for n in numbers] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]


def test_ag_key1_a_number_is_the_upper_53_bits_of_the_output() -> None:
    u = uniforms(np.zeros(1, np.uint64), np.zeros(1, np.uint64))[0]
    assert u == (0xE220A8397B1DCDAF >> 11) / 2**53


def test_ag_key2_a_number_depends_on_its_key_and_place_only() -> None:
    keys = [Key(0, 3, e, a, s) for e in range(3) for a in range(2) for s in ("act", 'a "b" \\')]
    seeds = np.array([key.seed64 for key in keys], np.uint64)
    together = uniforms(seeds, np.full(len(keys), 5, np.uint64))
    alone = [key.uniform(5) for key in keys]
    assert together.tolist() == alone
    assert len(set(alone)) == len(alone)


def test_ag_key2_the_seed_is_the_hash_of_canonical_json() -> None:
    import hashlib
    import json

    key = Key(1, 2, 3, 4, 'skill:"x"\\')
    fields = [key.run, key.seed, key.episode, key.attempt, key.stream]
    text = json.dumps(fields, separators=(",", ":"))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    assert key.seed64 == int.from_bytes(digest, "little")


def test_ag_key3_torch_draws_the_numbers_that_numpy_draws() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    seeds = rng.integers(0, 2**64, 1000, dtype=np.uint64)
    counters = rng.integers(0, 2**40, 1000, dtype=np.uint64)
    ours = torch_uniforms(
        torch.from_numpy(seeds.view(np.int64)), torch.from_numpy(counters.view(np.int64))
    )
    assert ours.numpy().tobytes() == uniforms(seeds, counters).tobytes()


def test_numbers_are_spread_evenly() -> None:
    u = uniforms(np.full(100_000, 77, np.uint64), np.arange(100_000, dtype=np.uint64))
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    chi2 = ((counts - 5_000) ** 2 / 5_000).sum()
    assert chi2 < 19 + 6 * (2 * 19) ** 0.5


class Careful:
    """Drafts twice side by side, asks itself, answers."""

    name = "careful"

    def __init__(self, policy: Any) -> None:
        self.policies = {"agent": policy}

    def start(self, seat: Seat) -> Chat:
        return Chat.for_(self.policies["agent"], seat)

    def turn(self, memory: Chat, news: Sequence[Message]) -> Turn:
        policy = self.policies["agent"]
        memory.add(news)
        forks = [memory.fork(), memory.fork()]
        drafts = yield [Ask(policy, fork, max_tokens=3) for fork in forks]
        assert isinstance(drafts, list)
        for fork, draft in zip(forks, drafts, strict=True):
            fork.commit(draft)
        side = forks[0]
        side.add([Message("user", "w3 w4")])
        sure = yield Ask(policy, side, role="check", choices=("w1", "w2 w5"))
        assert isinstance(sure, Action)
        assert sure.choice is not None
        if sure.choice["w1"] < 0.5:
            memory.add([Message("user", "w9")])
        action = yield Ask(policy, memory, max_tokens=4)
        assert isinstance(action, Action)
        return memory.commit(action)


def test_asks_of_one_list_draw_different_numbers(sampler: Any, seat: Any) -> None:
    agent = Careful(sampler())
    memory = agent.start(seat())
    road = agent.turn(memory, [Message("user", "w1 w2")])
    asks = next(road)
    assert isinstance(asks, list)
    begun = memory.seat.counters.begin(asks)
    assert [ask.first for ask in begun] == [0, 3]
    first, second = answer(asks)
    assert first.tokens.tolist() != second.tokens.tolist()


def test_a_list_may_not_hold_one_chat_twice(sampler: Any, seat: Any) -> None:
    policy = sampler()
    chat = Chat.for_(policy, seat())
    chat.add([Message("user", "w1")])
    with pytest.raises(AgentError, match="one chat twice"):
        answer([Ask(policy, chat), Ask(policy, chat)])


def test_ag_core3_drive_equals_many_episodes_side_by_side(
    sampler: Any, seat: Any, same: Any
) -> None:
    policy = sampler(exact=True, slots=8)
    agent = Solo(policy, max_tokens=5)
    alone: list[list[str]] = []
    for episode in range(4):
        memory = agent.start(seat(episode))
        alone.append([drive(agent, memory, [Message("user", t)]).content for t in ("w1 w2", "w3")])
    memories = [agent.start(seat(episode)) for episode in range(4)]
    together: list[list[str]] = [[] for _ in range(4)]
    for text in ("w1 w2", "w3"):
        roads = [agent.turn(memory, [Message("user", text)]) for memory in memories]
        asks = [m.seat.counters.begin([next(r)])[0] for m, r in zip(memories, roads, strict=True)]  # type: ignore[list-item]
        actions = policy.act(asks)
        for i, (memory, road) in enumerate(zip(memories, roads, strict=True)):
            memory.seat.counters.finish([asks[i]], [actions[i]])
            with pytest.raises(StopIteration) as end:
                road.send(actions[i])
            together[i].append(end.value.value.content)
    assert alone == together


@pytest.mark.parametrize("kind", ["solo", "careful"])
def test_ag_core4_pickling_the_memory_between_turns_changes_nothing(
    sampler: Any, seat: Any, kind: str
) -> None:
    policy = sampler(exact=True, slots=4)
    agent = Solo(policy, max_tokens=5) if kind == "solo" else Careful(policy)
    kept, copied = agent.start(seat()), agent.start(seat())
    for text in ("w1 w2 w3", "w4", "w5 w6"):
        news = [Message("user", text)]
        said = drive(agent, kept, news)
        copied = pickle.loads(pickle.dumps(copied))
        assert drive(agent, copied, news) == said
    assert kept.tokens.tolist() == copied.tokens.tolist()
    assert kept.seat.counters.used == copied.seat.counters.used


def test_ag_core5_a_turn_that_is_redone_yields_the_same_actions(
    sampler: Any, seat: Any, same: Any
) -> None:
    policy = sampler(exact=True, slots=4)
    agent = Solo(policy, max_tokens=5)
    memory = agent.start(seat())
    drive(agent, memory, [Message("user", "w1")])
    before, used = pickle.dumps(memory), memory.seat.counters.copy()
    road = agent.turn(memory, [Message("user", "w2 w3")])
    first = answer([next(road)])[0]  # type: ignore[list-item]
    road.close()  # abandoned: the process stopped here
    again = pickle.loads(before)
    assert again.seat.counters.used == used.used
    road = agent.turn(again, [Message("user", "w2 w3")])
    same(first, answer([next(road)])[0])  # type: ignore[list-item]


def test_counters_go_back_where_they_were() -> None:
    counters = Counters({Key(0, 0, 0): 7})
    saved = counters.copy()
    counters.used[Key(0, 0, 0)] = 20
    counters.reset(saved)
    assert counters.used == {Key(0, 0, 0): 7}


def test_roles_draw_from_their_own_streams(seat: Any) -> None:
    mine = seat()
    assert mine.key_of("agent") == mine.key_of("executor") == mine.key
    assert mine.key_of("check") == replace(mine.key, stream="check")


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1}, {"top_p": 0.0}, {"min_p": 1.0}, {"top_k": -1}, {"repetition": 0.0}],
)
def test_decoding_refuses_impossible_numbers(options: dict[str, Any]) -> None:
    with pytest.raises(AgentError, match="give"):
        Decoding(**options)


@pytest.mark.parametrize("module", ["core", "chat", "scripted", "shield", "solo", "templates"])
def test_what_needs_no_weights_imports_no_torch(module: str) -> None:
    code = (
        f"import palaestra.agents.{module}, sys;"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_of_the_room_is_there() -> None:
    from palaestra import agents

    assert all(hasattr(agents, name) for name in agents.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nobody'"):
        _ = agents.Nobody
