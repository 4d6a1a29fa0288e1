"""The closed-form small worlds: solutions, vocabularies, optima, limits."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import pytest
from palaestra.envs.core import Env, Step
from palaestra.envs.parsing import render
from palaestra.envs.small import Compare, Copy, KeyDoor, Sum
from palaestra.envs.tokenizers import FragmentTokenizer

WORLDS = (Compare, Copy, Sum, KeyDoor)


def play(env: Env, messages: list[str]) -> list[Step]:
    return [env.advance(message) for message in messages]


def words(env: Env) -> FragmentTokenizer:
    assert isinstance(env.tokenizer, FragmentTokenizer)
    return env.tokenizer


def total(steps: list[Step]) -> float:
    return math.fsum(step.reward for step in steps)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("domain", ["off", "uniform", "held_out"])
def test_the_solution_succeeds_on_every_task(world: type[Env], domain: str) -> None:
    env = world(domain=domain)
    for seed in range(40):
        env.start(seed)
        steps = play(env, env.solution(env.task)[: env.limits.turns])
        assert steps[-1].success or steps[-1].truncated


@pytest.mark.parametrize("world", WORLDS)
def test_the_nominal_solution_ends_the_episode_by_its_own_rule(world: type[Env]) -> None:
    env = world()
    for seed in range(20):
        env.start(seed)
        last = play(env, env.solution(env.task))[-1]
        assert (last.terminated, last.success) == (True, True)
        assert last.reason == ("goal" if world is KeyDoor else "answered")


@pytest.mark.parametrize("world", WORLDS)
def test_the_vocabulary_is_closed_and_small(world: type[Env]) -> None:
    env = world()
    tokenizer = words(env)
    assert len(tokenizer.fragments) <= 100
    for seed in range(20):
        env.start(seed)
        play(env, env.solution(env.task))
        for message in env.messages:
            ids = tokenizer.encode(message.content)
            assert tokenizer.id("<overflow>") not in ids
            assert tokenizer.decode(ids) == message.content


@pytest.mark.parametrize("world", WORLDS)
def test_grammar_or_menu_accepts_the_solution(world: type[Env]) -> None:
    env = world()
    env.start(3)
    messages = env.solution(env.task)
    if env.grammar is not None:
        automaton = env.grammar.automaton(words(env))
        for message in messages:
            assert automaton.accepts([*words(env).encode(message), words(env).end_of_turn])
    else:
        items = env.menu()
        assert items is not None
        texts = [item if isinstance(item, str) else render([item]) for item in items]
        assert set(messages) <= set(texts)


@pytest.mark.parametrize("world", WORLDS)
def test_each_world_has_a_score_or_goal_one_progress_and_an_outcome_of_one(
    world: type[Env],
) -> None:
    kinds = [type(term).__name__ for term in world.rewards.values()]
    assert kinds.count("Progress") == 1
    assert kinds.count("Outcome") == 1
    assert next(t for t in world.rewards.values() if type(t).__name__ == "Outcome").weight == 1.0


# Compare


def call(n: int) -> str:
    return f'<tool_call>{{"name": "compare", "arguments": {{"n": {n}}}}}</tool_call>'


def test_compare_narrows_by_what_it_learns_and_pays_for_it() -> None:
    env = Compare()
    env.start(2)
    target = env.state["target"]
    step = env.advance(call(50))
    assert step.messages[0].content == ("higher" if target > 50 else "not higher")
    assert math.isclose(step.reward, 0.3 * 0.5, abs_tol=0.004)
    assert env.advance(call(50)).reward == 0.0  # the same question teaches nothing
    step = env.advance(str(target))
    assert (step.terms["success"], step.success) == (1.0, True)


def test_compare_takes_a_wrong_number_as_the_answer() -> None:
    env = Compare()
    env.start(2)
    step = env.advance(str(env.state["target"] + 1))
    assert (step.terminated, step.success, step.reward) == (True, False, 0.0)


def test_compare_tells_what_is_wrong_with_a_call() -> None:
    env = Compare()
    env.start(0)
    step = env.advance(call(201))
    assert "must be at most 200 (got 201)" in step.messages[0].content
    assert step.terms == {"format": -0.05}


def test_compare_is_truncated_after_twelve_messages() -> None:
    env = Compare()
    env.start(0)
    steps = play(env, [call(1)] * 12)
    assert [step.truncated for step in steps] == [False] * 11 + [True]
    assert steps[-1].reason == "turns"


def test_compare_lies_as_often_as_its_parameter_says() -> None:
    env = Compare(domain={"lie": 0.3})
    lies = 0
    for seed in range(1500):
        env.start(seed)
        said = env.advance(call(50)).messages[0].content
        lies += (said == "higher") != (env.state["target"] > 50)
    assert abs(lies / 1500 - 0.3) < 0.04


def test_compare_has_one_menu_item_for_each_question_and_each_number() -> None:
    items = Compare().menu()
    assert len(items) == 400
    assert items[0] == ("", "compare", {"n": 1}, (0, 0), None)
    assert items[-1] == "200"


# Copy


def test_copy_pays_for_the_letters_before_the_first_wrong_one() -> None:
    env = Copy()
    env.start(0)
    letters = env.state["wanted"]
    other = next(letter for letter in "abcdefgh" if letter != letters[2])
    step = env.advance(" ".join([*letters[:2], other, letters[3]]))
    assert (step.success, step.terminated) == (False, True)
    assert step.terms == {"prefix": 0.3 * 0.5}


@pytest.mark.parametrize("answer", ["", "a b c d e f g h a b", "é", "copy"])
def test_copy_gives_nothing_for_other_texts(answer: str) -> None:
    env = Copy()
    env.start(1)
    assert env.advance(answer).success is False


def test_copy_holds_out_longer_texts() -> None:
    env = Copy(domain="held_out")
    lengths = {len(env.start(seed)[0].content.split()) - 1 for seed in range(100)}
    assert lengths <= set(range(7, 13))
    assert len(lengths) > 3


# Sum


def test_sum_counts_right_digits_from_the_last_one() -> None:
    env = Sum()
    env.start(0)
    right = env.state["total"]
    flipped = str((int(right[0]) + 1) % 10 or 1) + right[1:]
    step = env.advance(flipped)
    share = (len(right) - 1) / len(right)
    assert math.isclose(step.terms["digits"], 0.3 * share)
    assert step.success is False


def test_sum_has_a_tool_that_costs_one_message() -> None:
    env = Sum()
    env.start(0)
    question = env.messages[0].content.removeprefix("What is ").rstrip("?")
    arguments = json.dumps({"expression": question})
    text = f'<tool_call>{{"name": "calculate", "arguments": {arguments}}}</tool_call>'
    first = env.advance(text)
    assert first.messages[0].content == env.state["total"]
    last = env.advance(first.messages[0].content)
    assert math.isclose(first.reward + last.reward, 1.3 - 0.02)


@pytest.mark.parametrize(
    "expression", ["2**9999", "1+", "__import__('os')", "1+1+1", "\u0661+\u0661", ""]
)
def test_sum_calculates_sums_of_two_numbers_only(expression: str) -> None:
    env = Sum()
    env.start(0)
    arguments = json.dumps({"expression": expression})
    text = f'<tool_call>{{"name": "calculate", "arguments": {arguments}}}</tool_call>'
    step = env.advance(text)
    assert "write it like 12+34" in step.messages[0].content
    assert step.info["problems"] == {"failed": 1}


# KeyDoor


def distance(rooms: int, you: int, key: int, door: int) -> int:
    """Length of the shortest way, by search over the calls."""
    seen = {(you, key)}
    level, depth = {(you, key)}, 0
    while level:
        depth += 1
        if any(at == door and have == 0 for at, have in level):
            return depth
        moves = {(at + d, have) for at, have in level for d in (-1, 1) if 1 <= at + d <= rooms}
        level = (moves | {(at, 0) for at, have in level if at == have}) - seen
        seen |= level
    raise AssertionError("no way")


def test_the_key_door_solution_is_the_shortest_way() -> None:
    env = KeyDoor()
    for u in product((0.1, 0.4, 0.9), repeat=3):
        env.start(0, {"task": env.tasks[0].replace(u=list(u))})
        state = env.state
        wanted = distance(state["rooms"], state["you"], state["key"], state["door"])
        assert len(env.solution(env.task)) == wanted


def test_the_door_opens_with_the_key_only() -> None:
    env = KeyDoor()
    env.start(0, {"task": env.tasks[0].replace(u=[0.9, 0.1, 0.9])})
    left, _, take, use = words(env).fragments[:4]
    said = [step.messages[0].content for step in play(env, [use, take, left])]
    assert said[:2] == ["The door is locked; you have no key.", "There is nothing to take here."]
    assert said[2].endswith("You are in room 3, the key in 1, the door in 4.")


def test_the_stages_pay_when_they_are_reached() -> None:
    env = KeyDoor()
    env.start(0, {"task": env.tasks[0].replace(u=[0.1, 0.1, 0.1])})
    first, second = play(env, env.solution(env.task))
    assert first.terms == {"stage": 0.1, "step": -0.01}
    assert second.terms == {"stage": 0.1, "success": 1.0, "step": -0.01}
    assert second.credits[0].call_id == "c1"


def test_words_open_no_door() -> None:
    env = KeyDoor()
    env.start(0)
    step = env.advance("Open sesame!")
    assert step.messages[0].content == "Move, take or use."
    assert not step.ended


def test_wandering_is_truncated_and_its_penalty_is_capped() -> None:
    env = KeyDoor()
    env.start(1)
    left = words(env).fragments[0]
    steps = play(env, [left] * 20)
    assert steps[-1].truncated
    assert math.isclose(total(steps), -0.2)


@pytest.mark.parametrize("world", [Compare, KeyDoor])
def test_random_menu_play_never_beats_the_solution(world: type[Env]) -> None:
    env = world()
    items = env.menu()
    assert items is not None
    stream = np.random.default_rng(0)
    for seed in range(10):
        env.start(seed)
        best = total(play(env, env.solution(env.task)))
        env.start(seed)
        got = 0.0
        while not env.episode.over:
            item = items[int(stream.integers(len(items)))]
            got += env.advance(item if isinstance(item, str) else render([item])).reward
        assert got <= best
