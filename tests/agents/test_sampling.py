"""Sampling: who shares a batch changes nothing, and the learner computes what the sampler drew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from palaestra.agents.chat import Chat
from palaestra.agents.core import Action, Ask, Decoding, Key, Seat, Want, answer
from palaestra.agents.errors import AgentError, ContextFull
from palaestra.agents.heads import Head
from palaestra.agents.sampling import Sampler
from palaestra.agents.shield import Forbid, Shield
from palaestra.agents.solo import Solo
from palaestra.envs.core import Limits
from palaestra.envs.messages import Message

EXACT_AND_TYPE = [(torch.float64, 1e-12), (torch.float32, 1e-5)]


def asks_of(
    policy: Sampler, texts: Callable[[int], list[str]], count: int, **more: Any
) -> list[Ask]:
    """One ask of each of some fresh chats, each with two observations behind it."""
    out: list[Ask] = []
    for episode in range(count):
        seat = Seat(Key(0, 1, episode))
        chat = Chat.for_(policy, seat)
        for text in texts(episode)[:2]:
            chat.add([Message("user", text)])
        out.append(Ask(policy, chat, key=seat.key, max_tokens=3 + episode % 6, **more))
    return out


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ag_sample1_exact_rows_are_bit_equal_whatever_their_neighbours(
    sampler: Any, texts: Any, same: Any, grammar: Shield, dtype: torch.dtype
) -> None:
    policy = sampler(dtype, exact=True, slots=7)
    together = policy.act(asks_of(policy, texts, 11, shield=grammar))
    alone = [policy.act([ask])[0] for ask in asks_of(policy, texts, 11, shield=grammar)]
    for a, b in zip(together, alone, strict=True):
        same(a, b)


@pytest.mark.parametrize(("dtype", "tolerance"), EXACT_AND_TYPE)
def test_ag_sample1_fast_rows_are_equal_within_rounding(
    sampler: Any, texts: Any, same: Any, dtype: torch.dtype, tolerance: float
) -> None:
    policy = sampler(dtype)
    together = policy.act(asks_of(policy, texts, 13))
    for action, ask in zip(together, asks_of(policy, texts, 13), strict=True):
        same(action, policy.act([ask])[0], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), EXACT_AND_TYPE)
def test_ag_sample3_cached_equals_uncached(
    sampler: Any, talk: Any, texts: Any, same: Any, dtype: torch.dtype, tolerance: float
) -> None:
    policy = sampler(dtype)
    agent = Solo(policy, max_tokens=7)

    def forget(played: Any) -> None:
        played.chat.session.close()

    for episode in range(3):
        kept = talk(agent, texts(episode), episode)
        dropped = talk(agent, texts(episode), episode, forget)
        assert kept.chat.session.length == len(kept.chat.tokens) - 1 or kept.chat.session.length > 0
        for a, b in zip(kept.drawn, dropped.drawn, strict=True):
            same(a.action, b.action, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), EXACT_AND_TYPE)
def test_ag_sample3_a_shared_prefix_equals_an_own_prefill(
    sampler: Any, same: Any, dtype: torch.dtype, tolerance: float
) -> None:
    policy, lonely = sampler(dtype), sampler(dtype)
    prompt = " ".join(f"w{(i * 5) % 36}" for i in range(60))

    def group(owner: Sampler) -> list[Ask]:
        out: list[Ask] = []
        for attempt in range(6):
            seat = Seat(Key(0, 1, 0, attempt))
            chat = Chat.for_(owner, seat)
            chat.add([Message("user", prompt + f" w{attempt // 2}")])
            out.append(Ask(owner, chat, key=seat.key, max_tokens=6))
        return out

    counted: list[int] = []
    inner = policy.model.hidden

    def counting(tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        counted.append(len(tokens))
        return inner(tokens, *rest)

    policy.model.hidden = counting
    together = policy.act(group(policy))
    assert counted[0] < 70  # one prompt, not six
    for action, ask in zip(together, group(lonely), strict=True):
        alone = lonely.act([ask])[0]
        lonely.load({}, 0)  # forget every session
        same(action, alone, tolerance)


def test_ag_sample3_a_fork_shares_its_prefix(sampler: Any, same: Any, seat: Any) -> None:
    policy = sampler(torch.float64)
    chat = Chat.for_(policy, seat())
    chat.add([Message("user", " ".join(f"w{i % 36}" for i in range(50)))])
    action = answer([Ask(policy, chat, max_tokens=4)])[0]
    chat.commit(action)
    side = chat.fork()
    side.add([Message("user", "w1 w2")])
    fresh = Chat.for_(policy, seat())
    fresh.contexts[-1].append(side.context.ids, 0)  # type: ignore[arg-type]
    a = policy.act([Ask(policy, side, key=Key(0, 0, 0), max_tokens=5)])[0]
    b = policy.act([Ask(policy, fresh, key=Key(0, 0, 0), max_tokens=5)])[0]
    same(a, b, 1e-12)


def test_ag_sample3_sessions_that_were_evicted_are_filled_again(
    sampler: Any, talk: Any, texts: Any, same: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = sampler(torch.float64)
    tight = sampler(torch.float64, slots=2)
    monkeypatch.setattr("palaestra.agents.sessions.MEMORY", 0.0)

    def converse(policy: Sampler) -> list[Action]:
        agent = Solo(policy, max_tokens=5)
        chats = [agent.start(Seat(Key(0, 1, episode))) for episode in range(5)]
        out: list[Action] = []
        for turn in range(3):
            for episode, chat in enumerate(chats):
                chat.add([Message("user", texts(episode)[turn])])
                action = answer([Ask(policy, chat, max_tokens=5)])[0]
                chat.commit(action)
                out.append(action)
        return out

    for a, b in zip(converse(roomy), converse(tight), strict=True):
        same(a, b, 1e-12)


def test_ag_sample6_without_hooks_both_log_probs_are_the_same_bits(
    sampler: Any, talk: Any, texts: Any
) -> None:
    for drawn in talk(Solo(sampler(), max_tokens=8), texts(0)).drawn:
        assert drawn.action.logprobs.tobytes() == drawn.action.logprobs_raw.tobytes()


def test_ag_sample7_the_order_in_which_rows_finish_changes_nothing(
    sampler: Any, texts: Any, same: Any
) -> None:
    narrow, wide = (sampler(torch.float64, slots=slots) for slots in (3, 64))
    few = narrow.act(asks_of(narrow, texts, 12))
    many = wide.act(list(reversed(asks_of(wide, texts, 12))))
    for a, b in zip(few, reversed(many), strict=True):
        same(a, b, 1e-12)


def test_ag_sample7_answers_come_when_they_are_ready(sampler: Any, texts: Any) -> None:
    policy = sampler(slots=4)
    asks = asks_of(policy, texts, 6)
    numbers = [policy.submit(ask) for ask in asks]
    seen: list[int] = []
    while policy.busy:
        policy.step()
        seen += [number for number, _ in policy.ready()]
    assert sorted(seen) == numbers
    assert seen != numbers  # the short ones came first
    assert policy.ready() == []


def test_ag_sample8_nan_logits_raise_with_the_place(sampler: Any, texts: Any) -> None:
    policy = sampler()
    with torch.no_grad():
        policy.model.norm.fill_(float("nan"))
    policy.load({}, 41)
    with pytest.raises(AgentError, match=r"row 0 are NaN at position \d+ \(weights of version 41"):
        policy.act(asks_of(policy, texts, 1))


def test_new_weights_are_used_at_once_and_old_sessions_are_computed_again(
    sampler: Any, talk: Any, texts: Any, same: Any
) -> None:
    policy, fresh = sampler(torch.float64), sampler(torch.float64)
    state = {k: v.clone() for k, v in policy.model.state_dict().items()}
    agent = Solo(policy, max_tokens=6)
    chat = agent.start(Seat(Key(0, 1, 0)))
    chat.add([Message("user", texts(0)[0])])
    chat.commit(answer([Ask(policy, chat, max_tokens=6)])[0])
    moved = {k: v * 1.1 if v.is_floating_point() else v for k, v in state.items()}
    policy.load(moved, 1)
    fresh.load(moved, 1)
    chat.add([Message("user", texts(0)[1])])
    other = Chat.for_(fresh, chat.seat)
    other.contexts[-1].append(chat.context.ids, 0)  # type: ignore[arg-type]
    a = policy.act([Ask(policy, chat, key=chat.seat.key, max_tokens=6)])[0]
    b = fresh.act([Ask(fresh, other, key=chat.seat.key, max_tokens=6)])[0]
    same(a, b, 1e-12)
    assert a.version == 1


def test_forced_tokens_are_scored_not_drawn(sampler: Any, texts: Any, same: Any) -> None:
    policy = sampler(torch.float64)
    drawn = policy.act(asks_of(policy, texts, 4))
    plain = asks_of(policy, texts, 4)
    forced = [
        Ask(policy, ask.chat, key=ask.key, force=action.tokens)
        for ask, action in zip(plain, drawn, strict=True)
    ]
    for a, b in zip(drawn, policy.act(forced), strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, rtol=0, atol=1e-12)
        assert a.tokens.tolist() == b.tokens.tolist()


def test_a_choice_is_one_of_the_texts_and_its_odds_are_free(sampler: Any, seat: Any) -> None:
    policy = sampler()
    chat = Chat.for_(policy, seat())
    chat.add([Message("user", "w1")])
    action = answer([Ask(policy, chat, role="check", choices=("w3 w4", "w5"))])[0]
    assert chat.tokenizer.decode(action.tokens.tolist()) in ("w3 w4", "w5")
    assert action.stop == "end"
    assert action.choice is not None
    assert abs(sum(action.choice.values()) - 1) < 1e-6
    assert action.forced.tolist() == [False] + [True] * (len(action.tokens) - 1)
    assert all(action.logprobs[1:] == 0)
    first = np.exp(action.logprobs[0])
    said = chat.tokenizer.decode(action.tokens.tolist())
    assert abs(first - action.choice[said]) < 1e-6


def test_choices_that_begin_alike_are_refused(sampler: Any, seat: Any) -> None:
    policy = sampler()
    chat = Chat.for_(policy, seat())
    chat.add([Message("user", "w1")])
    with pytest.raises(AgentError, match="begin with the same token; rename one"):
        policy.act([Ask(policy, chat, choices=("w3 w4", "w3"))])


def test_stop_ids_end_a_message(sampler: Any, texts: Any) -> None:
    policy = sampler()
    asks = asks_of(policy, texts, 8, stops=tuple(range(4, 30)))
    actions = policy.act(asks)
    stopped = [action for action in actions if action.stop == "stop"]
    assert stopped
    assert all(action.tokens[-1] in asks[0].stops for action in stopped)
    for action in actions:
        before = action.tokens[:-1] if action.stop == "stop" else action.tokens
        assert not set(before.tolist()) & set(asks[0].stops)


def test_a_full_context_is_an_error_by_hand_and_a_stop_in_a_rollout(
    sampler: Any, seat: Any
) -> None:
    policy = sampler(context=32)
    chat = Chat.for_(policy, seat())
    chat.add([Message("user", " ".join(["w1"] * 40))])
    ask = Ask(policy, chat, max_tokens=64)
    with pytest.raises(ContextFull, match=r"no room: the context has 42 of 32 tokens"):
        policy.act([ask])
    number = policy.submit(ask)
    ((got, action),) = policy.ready()
    assert got == number
    assert (action.stop, len(action.tokens)) == ("context", 0)


def test_a_context_that_fills_up_stops_and_still_gets_its_end(sampler: Any, seat: Any) -> None:
    policy = sampler(context=32)
    never = Shield((Forbid([3], policy.tokenizer.size),))
    chat = Chat.for_(policy, seat())
    chat.add([Message("user", " ".join(["w1"] * 20))])
    action = answer([Ask(policy, chat, shield=never)])[0]
    assert action.stop == "context"
    chat.commit(action)
    assert len(chat.tokens) == 32
    assert chat.tokens[-1] == policy.tokenizer.end_of_turn
    assert not chat.labels.loss_mask[-1]


def test_the_budget_of_tokens_is_spent_over_the_episode(sampler: Any) -> None:
    policy = sampler()
    never = Shield((Forbid([3], policy.tokenizer.size),))
    seat = Seat(Key(0, 0, 0), limits=Limits(tokens=7))
    chat = Chat.for_(policy, seat)
    stops: list[tuple[str, int]] = []
    for _ in range(3):
        chat.add([Message("user", "w1")])
        number = policy.submit(Ask(policy, chat, key=seat.key, max_tokens=5, shield=never))
        while policy.busy:
            policy.step()
        ((got, action),) = policy.ready()
        assert got == number
        chat.commit(action)
        stops.append((action.stop, len(action.tokens)))
    assert stops == [("length", 5), ("budget", 2), ("budget", 0)]


def test_a_policy_without_heads_gives_no_values(sampler: Any, talk: Any, texts: Any) -> None:
    policy = sampler(heads=())
    played = talk(Solo(policy, max_tokens=4), texts(0))
    assert played.drawn[0].action.values == {}
    (rows,) = played.rows()
    assert policy.score(rows, Want()).values == {}


def test_heads_of_several_numbers_are_recorded_whole(sampler: Any, talk: Any, texts: Any) -> None:
    heads = (Head("value"), Head("spread", kind="quantile", size=4))
    policy = sampler(heads=heads)
    (drawn, *_) = talk(Solo(policy, max_tokens=4), texts(0)).drawn
    assert drawn.action.values["spread"].shape == (len(drawn.action.tokens), 4)


def test_greedy_takes_the_most_probable_id(sampler: Any, talk: Any, texts: Any) -> None:
    policy = sampler(torch.float64)
    played = talk(Solo(policy, Decoding(temperature=0), max_tokens=5), texts(1))
    again = talk(Solo(policy, Decoding(temperature=0), max_tokens=5), texts(1), 1)
    for a, b in zip(played.drawn, again.drawn, strict=True):
        assert a.action.tokens.tolist() == b.action.tokens.tolist()
        assert a.action.logprobs.tolist() == [0.0] * len(a.action.tokens)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, inside its compiler
def test_compiled_layers_draw_what_plain_ones_draw(sampler: Any, texts: Any, same: Any) -> None:
    plain, compiled = sampler(), sampler(compiled=True)
    pairs = zip(plain.act(asks_of(plain, texts, 5)), compiled.act(asks_of(compiled, texts, 5)),
                strict=True)  # fmt: skip
    for a, b in pairs:
        same(a, b, 1e-5)
