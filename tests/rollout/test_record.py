"""What a message earns lies on the tokens that earned it, whatever the agent drew beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from palaestra.agents.chat import Chat
from palaestra.agents.core import Ask, Seat, Turn
from palaestra.agents.heads import Head
from palaestra.agents.rows import Want
from palaestra.agents.sampling import Sampler
from palaestra.agents.solo import Solo
from palaestra.agents.tiny import Tiny
from palaestra.envs import Env, Limits, Message, TaskSet, tool
from palaestra.envs.exchange import Reply
from palaestra.envs.messages import Credit, ToolResult
from palaestra.envs.rewards import Cost, Event, Outcome, Rewards
from palaestra.envs.tokenizers import ByteTokenizer
from palaestra.rollout.batch import Batch
from palaestra.rollout.engine import Engine, Start
from palaestra.rollout.trajectory import Trajectory

TEXT = ByteTokenizer()
GOOD = '<tool_call>{"name": "pay", "arguments": {"amount": 2}}</tool_call>'
LESS = '<tool_call>{"name": "pay", "arguments": {"amount": 1}}</tool_call>'


class Payer(Env):
    """Each call earns its amount; a word in a message can earn a credit of its own."""

    tasks = TaskSet.generate(lambda r: {"n": int(r.integers(10))}, id="payer")
    rewards = Rewards(
        success=Outcome(1.0), paid=Event(1.0, 99.0), style=Event(1.0, 99.0), spent=Cost((0.0, 9.0))
    )
    limits = Limits(turns=3)

    def begin(self, task: Mapping[str, Any]) -> str:
        self.state = {"paid": []}
        return "pay"

    @tool
    def pay(self, amount: int) -> str:
        """Earn.

        Args:
            amount: how much
        """
        self.state["paid"].append(amount)
        return "paid"

    def after(self, results: Sequence[ToolResult]) -> Reply | None:
        amounts, self.state["paid"] = self.state["paid"], []
        credits = tuple(
            Credit("paid", float(amount), call_id=result.call_id)
            for amount, result in zip(amounts, results, strict=True)
        )
        return Reply(credits=credits, costs={"spent": float(sum(amounts))})

    def respond(self, message: Message) -> Reply:
        at = message.content.find("fine")
        credits = (Credit("style", 3.0, span=(at, at + 4)),) if at >= 0 else ()
        whole = (Credit("style", 0.5),) if "whole" in message.content else ()
        return Reply((Message("user", "go on"),), credits=credits + whole)


def sampler(heads: tuple[Head, ...] = ()) -> Sampler:
    return Sampler(Tiny("nano", TEXT, heads, context=900, seed=3))


class Reciter:
    """Draws prepared texts: real asks whose ids are given."""

    name = "reciter"

    def __init__(self, texts: Sequence[str], policy: Sampler | None = None) -> None:
        self.texts = texts
        self.policies = {"agent": policy or sampler()}

    def ask(self, chat: Chat, text: str, role: str = "agent") -> Ask:
        ids = np.array([*TEXT.encode(text), TEXT.end_of_turn], np.int32)
        return Ask(self.policies["agent"], chat, role=role, force=ids)

    def start(self, seat: Seat) -> dict[str, Any]:
        return {"chat": Chat.for_(self.policies["agent"], seat), "texts": list(self.texts)}

    def turn(self, memory: dict[str, Any], news: Sequence[Message]) -> Turn:
        memory["chat"].add(news)
        text = memory["texts"].pop(0) if memory["texts"] else "..."
        action: Any = yield self.ask(memory["chat"], text)
        return memory["chat"].commit(action)


class Checked(Reciter):
    """Drafts, asks itself in a fork that is never seen again, and says the draft."""

    def turn(self, memory: dict[str, Any], news: Sequence[Message]) -> Turn:
        draft = yield from super().turn(memory, news)
        side = memory["chat"].fork()
        side.add([Message("user", "sure?")])
        yield self.ask(side, "yes", role="check")
        return draft


class BestOf(Reciter):
    """Draws two messages of one length at one place and says the second."""

    def turn(self, memory: dict[str, Any], news: Sequence[Message]) -> Turn:
        chat = memory["chat"]
        chat.add(news)
        yield self.ask(chat, "first", role="agent")
        action: Any = yield self.ask(chat, "other", role="agent")
        return chat.commit(action)


def play(agent: Any, make: Callable[[], Env] = Payer) -> Trajectory:
    torch.set_num_threads(1)
    engine = Engine(agent, make)
    try:
        return engine.gather([Start(5)])[0]
    finally:
        engine.close()


def paid(one: Trajectory, term: str) -> dict[str, float]:
    """Reward of a term by the drawn text up to and with the token that holds it."""
    column = one.rewards[term]
    drawn = [int(at) for at in one.actions]
    out: dict[str, float] = {}
    for at in np.flatnonzero(column):
        assert int(at) in drawn
        turn = one.turn_id[at]
        mine = [p for p in drawn if one.turn_id[p] == turn and p <= at]
        out[TEXT.decode([int(one.tokens[p]) for p in mine])] = float(column[at])
    return out


def test_two_calls_of_one_message_are_paid_each_on_its_own_last_token() -> None:
    one = play(Reciter(["so: " + GOOD + LESS, "x", "y"]))
    first, end = "so: " + GOOD, "so: " + GOOD + LESS
    assert paid(one, "paid") == {first: 2.0, end: 1.0}
    units = one.call_id[one.actions]
    assert list(np.unique(units)) == [0, 1, 2, 3]
    at = one.actions
    assert (units[: len(first)] == 0).all()
    # the end-of-turn id belongs to the last call, and is where that is paid
    assert one.rewards["paid"][at[len(end)]] == 1.0


def test_a_credit_with_a_span_is_paid_at_the_end_of_its_sentence() -> None:
    one = play(Reciter(["One. It is fine here. Three.", "x", "y"]))
    assert paid(one, "style") == {"One. It is fine here. ": 3.0}


def test_a_credit_of_the_whole_message_is_paid_on_its_last_token() -> None:
    text = "One. On the whole. Three."
    one = play(Reciter([text, "x", "y"]))
    assert one.rewards["style"][one.actions[len(text)]] == 0.5


def test_costs_lie_on_the_last_token_of_the_message_that_caused_them() -> None:
    text = GOOD + LESS
    one = play(Reciter(["x", text, "y"]))
    (at,) = np.flatnonzero(one.costs["spent"])
    assert one.costs["spent"][at] == 3.0
    assert at == one.actions[2 + len(text)]


def test_bytes_that_are_no_text_shift_no_reward() -> None:
    class Mumbling(Reciter):
        """Draws invalid UTF-8 before its call."""

        def ask(self, chat: Chat, text: str, role: str = "agent") -> Ask:
            ask = super().ask(chat, text, role)
            assert ask.force is not None
            noise = np.array([0xFF, 0xE2, 0x82, 0x20], np.int32)  # two characters and a space
            force = np.concatenate([noise, ask.force]).astype(np.int32)
            return Ask(ask.policy, chat, role=role, force=force)

    one = play(Mumbling([GOOD + LESS, "x", "y"]))
    calls = one.call_id[one.actions]
    (first, *_), (second, *_) = np.flatnonzero(calls == 1), np.flatnonzero(calls == 0)[::-1]
    assert one.rewards["paid"][one.actions[second]] == 2.0
    assert TEXT.decode([int(i) for i in one.tokens[one.actions[first:]]]).startswith(LESS)


def test_what_an_agent_asks_itself_is_drawn_too_and_shares_in_the_reward() -> None:
    one = play(Checked([GOOD, "x", "y"]))
    assert len(one.context_offsets) - 1 == 4  # the chat, and a fork a turn
    assert sorted(one.time[one.time >= 0]) == list(range(len(one.actions)))
    assert one.roles == ("agent", "check")
    # the check came after the draft and let it through: the reward lies behind both
    (at,) = np.flatnonzero(one.rewards["paid"])
    assert one.roles[one.role[at]] == "check"
    assert one.time[at] == len(GOOD) + 1 + 3
    # the draft's call is labelled all the same
    assert (one.kind[one.actions[: len(GOOD)]] == 4).all()


def test_two_draws_at_one_place_stand_in_contexts_of_their_own() -> None:
    one = play(BestOf([]))
    drawn = [int(i) for i in one.tokens[one.actions]]
    assert TEXT.decode(drawn[:12]) == "firstother"
    assert [len(part.tokens) for part in one.parts] == [6] * 6
    batch = Batch.of([one])
    assert int(batch.action_mask.sum()) == 36
    packed, _ = batch.pack([0])
    assert len(packed.action) == 36


class Stumbling(Reciter):
    """Has no tokens left for its second message."""

    def ask(self, chat: Chat, text: str, role: str = "agent") -> Ask:
        if text == "":
            return Ask(self.policies["agent"], chat, max_tokens=0)
        return super().ask(chat, text, role)


def test_what_an_empty_message_earns_goes_to_the_token_before_it() -> None:
    class Generous(Payer):
        """Pays for silence."""

        def respond(self, message: Message) -> Reply:
            return Reply((Message("user", "go on"),), credits=(Credit("style", 1.0),))

    one = play(Stumbling(["ab", "", "c"]), Generous)
    assert float(one.rewards["style"].sum()) == 3.0
    assert one.rewards["style"][one.actions[2]] == 2.0


def value_at(policy: Sampler, one: Trajectory) -> float:
    packed, _ = Batch.of([one]).pack([0])
    ends = policy.score(packed, Want(entropy=False, heads=True, ends=True)).ends
    return float(ends["value"][-1].detach())


@pytest.mark.parametrize("kind", [Reciter, Checked])
def test_the_last_context_ends_where_the_next_message_would_begin(kind: Any) -> None:
    policy = sampler((Head("value"),))
    one = play(kind(["x", "y", "z"], policy))
    assert one.outcome.truncated
    last = one.tokens[one.context_offsets[-2] :]
    text = TEXT.decode([int(i) for i in last])
    assert "pay" in text  # the chat, not a fork of it
    assert text.rstrip().endswith("assistant|>") or text.rstrip().endswith("assistant")
    assert np.isfinite(value_at(policy, one))


def test_a_full_context_ends_before_the_message_that_found_no_room() -> None:
    torch.set_num_threads(1)
    policy = Sampler(Tiny("nano", TEXT, (Head("value"),), context=60, seed=3))
    engine = Engine(Solo(policy), Payer)
    one = engine.gather([Start(5)])[0]
    engine.close()
    assert one.outcome.reason == "context"
    assert len(one.tokens) <= 61
