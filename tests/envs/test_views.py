"""The three views: other actions, the same environment."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from palaestra.envs.actions import key_of
from palaestra.envs.core import Env, Step
from palaestra.envs.grammar import Grammar
from palaestra.envs.messages import Image, Message, ToolCall
from palaestra.envs.parsing import render
from palaestra.envs.registry import register_builtins
from palaestra.envs.tokenizers import FragmentTokenizer
from palaestra.envs.tools import tool
from palaestra.envs.turn import observe
from palaestra.envs.views import TokenView, ToolCallView, trigrams, view

ID = "palaestra/Compare-v0"
register_builtins()
OPTIONS: list[dict[str, Any]] = [
    {"view": "turn"},
    {"view": "turn", "observe": "transcript", "reasoning": "keep"},
    {"view": "turn", "observe": "messages"},
    {"view": "tool"},
    {"view": "tool", "actions": "menu"},
    {"view": "tool", "actions": "menu", "observe": "features"},
    {"view": "tool", "actions": "factored"},
    {"view": "tool", "actions": "json"},
    {"view": "token"},
    {"view": "token", "mask": True, "context": 64},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_view_passes_gymnasiums_own_check(options: Any) -> None:
    check_env(gymnasium.make(ID, **options).unwrapped)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_random_agents_stay_inside_the_spaces_env_space1(options: Any) -> None:
    env = gymnasium.make(ID, disable_env_checker=True, **options)
    env.reset(seed=1)
    env.action_space.seed(2)
    for _ in range(60):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert observation in env.observation_space
        assert type(reward) is float
        if terminated or truncated:
            env.reset()


CALLS: Sequence[ToolCall | str] = [
    ToolCall("", "compare", {"n": 50}, (0, 0)),
    ToolCall("", "compare", {"n": 7}, (0, 0)),
    "42",
]


@pytest.mark.parametrize("actions", ["structured", "menu", "factored", "json"])
@pytest.mark.parametrize("item", CALLS, ids=str)
def test_encode_and_decode_are_inverse_env_space2(actions: Any, item: Any) -> None:
    made = gymnasium.make(ID, view="tool", actions=actions).unwrapped
    assert isinstance(made, ToolCallView)
    action = made.encode(item)
    assert action in made.action_space
    assert made.decode(action) == item


@pytest.mark.parametrize("actions", ["structured", "menu", "factored", "json"])
def test_decoding_never_fails_on_a_member_env_space3(actions: Any) -> None:
    made = gymnasium.make(ID, view="tool", actions=actions).unwrapped
    assert isinstance(made, ToolCallView)
    made.action_space.seed(5)
    for _ in range(100):
        assert isinstance(made.decode(made.action_space.sample()), ToolCall | str)


def outcome(steps: list[Any], env: Env) -> Any:
    """What ENV-VIEW1 compares."""
    total = sum(step[1] for step in steps)
    ends = [step[2:4] for step in steps if not step[4].get("inside")]
    terms = [step[4]["terms"] for step in steps if not step[4].get("inside")]
    return total, ends, terms, env.state, env.success


@settings(max_examples=60)
@given(st.lists(st.integers(0, 399), min_size=1, max_size=6), st.integers(0, 50))
def test_the_three_views_tell_one_truth_env_view1(places: list[int], seed: int) -> None:
    inner = [gymnasium.make(ID, view=v, disable_env_checker=True).unwrapped for v in VIEWS]
    turns, tools, tokens = inner
    assert isinstance(turns, Env)
    assert isinstance(tools, ToolCallView)
    assert isinstance(tokens, TokenView)
    menu = list(turns.menu() or ())
    for each in inner:
        each.reset(seed=seed)
    seen: list[list[Any]] = [[], [], []]
    for place in places:
        item = menu[place]
        text = item if isinstance(item, str) else render([item], turns.parser)
        seen[0].append(turns.step(text))
        seen[1].append(tools.step(tools.encode(item)))
        ids = [*tokens.tokenizer.encode(text), tokens.tokenizer.end_of_turn]
        seen[2] += [tokens.step(token) for token in ids]
        if turns.episode.over:
            break
    found = [outcome(seen[0], turns), outcome(seen[1], tools.env), outcome(seen[2], tokens.env)]
    assert found[0] == found[1] == found[2]


VIEWS = ("turn", "tool", "token")


# turn view


def test_the_turn_view_shows_new_text_the_transcript_or_messages(echo: Any, say: Any) -> None:
    env = view(echo(), "turn", observe="transcript", reasoning="drop")
    env.reset(seed=1)
    seen = env.step("<think>hm</think>" + say("echo", '{"text": "hi"}'))[0]
    assert "[tool c0] hi" in seen
    assert "hm" not in seen
    kept = view(echo(), "turn", observe="transcript", reasoning="last")
    kept.reset(seed=1)
    assert "[assistant, thinking] hm" in kept.step("<think>hm</think>x")[0]
    listed = view(echo(), "turn", observe="messages")
    [first] = listed.reset(seed=1)[0]
    assert (first["role"], first["text"][:3]) == (1, "Say")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("turn", {"observe": "pictures"}, "observe is 'pictures'"),
        ("turn", {"reasoning": "all"}, "reasoning is 'all'"),
        ("tool", {"actions": "text"}, "actions is 'text'"),
        ("tool", {"observe": "all"}, "observe is 'all'"),
        ("tool", {"actions": "factored"}, "too many values to list"),
        ("token", {"context": 0}, "give at least 1"),
    ],
)
def test_impossible_options_are_refused(echo: Any, name: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view(echo(), name, **options)


def test_info_has_every_key_in_every_step(echo: Any, say: Any) -> None:
    env = echo()
    _, first = env.reset(seed=1)
    infos = [env.step(say("clap"))[4], env.step("<tool_call>")[4]]
    last = env.step("done")[4]
    assert {"task", "seed", "episode", "attempt", "params", "params_origin", "tools"} < set(first)
    assert infos[0].keys() == infos[1].keys() == last.keys() - {"return_terms"}
    assert infos[0]["terms"].keys() == {"success", "said", "clap", "format"}
    assert infos[0]["costs"] == {"noise": 0.0}
    assert infos[0]["credits"] == [("clap", 0.1, "c0", None)]
    assert last["return_terms"]["format"] == -0.05
    assert (last["reason"], last["success"], last["excluded"]) == ("answered", True, False)


# tool view


def test_the_tool_view_reports_turn_ok_and_budget(echo: Any) -> None:
    made = ToolCallView(echo(), actions="json")
    first, _ = made.reset(seed=1)
    assert (first["turn"], first["ok"], first["budget"].tolist()) == (0, 1, [1.0, 1.0, 1.0])
    seen, *_ = made.step({"name": "echo", "arguments": "[]"})
    assert (seen["turn"], seen["ok"]) == (1, 0)
    assert seen["budget"][0] == pytest.approx(5 / 6)
    assert "not an object" in seen["text"]
    seen, *_ = made.step({"name": "echo", "arguments": "{oops"})
    assert "Not valid JSON" in seen["text"]


class Doors(Env):
    """A menu of two, of which one is locked at first."""

    image_shape: Any = (2, 2, 3)

    def begin(self, task: Any) -> Message:
        self.state = {"open": False}
        picture = Image.of(np.full((2, 2, 3), 7, np.uint8))
        return Message("user", "two doors", images=(picture,))

    @tool
    def knock(self) -> str:
        """Knock."""
        self.state["open"] = True
        return "it opens"

    def menu(self) -> Any:
        return [ToolCall("", "knock", {}, (0, 0)), "through"]

    def legal(self) -> Any:
        return [True, self.state["open"]]

    def features(self) -> Any:
        return [float(self.state["open"]), 2.0]

    def score(self, answer: str) -> float:
        return float(self.state["open"])


def test_a_menu_masks_what_is_not_legal_now() -> None:
    made = ToolCallView(Doors(), actions="menu", observe="features")
    seen, info = made.reset(seed=1)
    assert seen["features"].tolist() == [0.0, 2.0]
    assert info["action_mask"].tolist() == [1, 0]
    assert info["action_mask"].dtype == np.int8
    assert made.action_masks().tolist() == [True, False]
    seen, _, _, _, info = made.step(0)
    assert seen["features"].tolist() == [1.0, 2.0]
    assert info["action_mask"].tolist() == [1, 1]
    assert made.step(1)[2] is True


def test_a_wrong_mask_is_named() -> None:
    class Wrong(Doors):
        def legal(self) -> Any:
            return [True]

    with pytest.raises(ValueError, match="give one for each of the 2 items"):
        ToolCallView(Wrong(), actions="menu").reset(seed=1)


def test_without_a_menu_the_view_says_what_to_take(silent: Any) -> None:
    with pytest.raises(ValueError, match="has no menu"):
        ToolCallView(silent(), actions="menu")
    with pytest.raises(ValueError, match="not on the menu"):
        ToolCallView(Doors(), actions="menu").encode("window")
    with pytest.raises(ValueError, match="has a mask"):
        ToolCallView(Doors()).action_masks()


@pytest.mark.parametrize("name", ["turn", "tool", "token"])
def test_pictures_are_in_every_view_and_never_shared_env_img1(name: str) -> None:
    made = view(Doors(), name)
    first, _ = made.reset(seed=1)
    assert first["image"].tolist() == np.full((2, 2, 3), 7).tolist()
    assert first in made.observation_space
    again, _ = made.reset(seed=1)
    assert not np.shares_memory(first["image"], again["image"])


def test_text_is_hashed_to_features_of_length_one() -> None:
    assert trigrams("hello there").shape == (256,)
    assert np.linalg.norm(trigrams("hello there")) == pytest.approx(1)
    assert trigrams("").tolist() == [0.0] * 256
    assert (trigrams("abc") != trigrams("abd")).any()


def test_keys_tell_items_apart() -> None:
    assert key_of(CALLS[0]) != key_of(CALLS[1])


# token view


class Words(Env):
    """Says fragments under a grammar."""

    tokenizer = FragmentTokenizer(["say ", "yes", "no", " now", "again"])
    grammar = Grammar([[["yes", "no"], [" now"]]])

    def begin(self, task: Any) -> str:
        self.state = {}
        return "say yes now"

    def score(self, answer: str) -> float:
        return float(answer == "yes now")


def test_a_message_is_sent_by_the_token_that_ends_it() -> None:
    made = TokenView(Words(), context=16)
    names: Any = made.tokenizer
    first, _ = made.reset(seed=1)
    row: list[int] = [names.obs, *names.encode("say yes now"), names.act]
    assert first["length"] == len(row)
    assert first["tokens"][: len(row)].tolist() == row
    assert set(first["tokens"][len(row) :].tolist()) == {names.size}
    ids = [*names.encode("yes now"), names.end_of_turn]
    steps = [made.step(token) for token in ids]
    assert [step[4].get("inside", False) for step in steps] == [True] * (len(ids) - 1) + [False]
    assert [step[1] for step in steps] == [0.0] * (len(ids) - 1) + [1.0]
    assert steps[-1][2] is True


def test_the_grammar_masks_tokens_and_a_shield_adds_to_it() -> None:
    made = TokenView(Words(), mask=True)
    names = made.tokenizer
    _, info = made.reset(seed=1)
    yes, no = names.encode("yes")[0], names.encode("no")[0]
    assert np.flatnonzero(info["action_mask"]).tolist() == sorted([yes, no])
    info = made.step(yes)[4]
    assert np.flatnonzero(info["action_mask"]).tolist() == names.encode(" now")
    info = made.step(yes)[4]  # out of the grammar
    assert np.flatnonzero(made.action_masks()).tolist() == [names.end_of_turn]

    def shield(ids: Sequence[int]) -> Any:
        mask = np.ones(names.size, np.bool_)
        mask[no] = False
        return mask

    shielded = TokenView(Words(), shield=shield)
    shielded.reset(seed=1)
    assert np.flatnonzero(shielded.action_masks()).tolist() == [yes]


def test_a_message_of_too_many_tokens_is_sent_as_it_is(silent: Any) -> None:
    made = TokenView(silent(), max_tokens=3)
    made.reset(seed=1)
    steps = [made.step(token) for token in b"abc"]
    assert "inside" not in steps[-1][4]
    assert made.env.state["heard"] == [("abc", "")]
    with pytest.raises(ValueError, match=r"outside \[0, "):
        made.step(9999)


@settings(max_examples=30)
@given(st.integers(1, 9), st.lists(st.integers(0, 258), max_size=60))
def test_the_window_is_the_end_of_one_growing_row(
    silent: Any, context: int, tokens: list[int]
) -> None:
    made = TokenView(silent(limits={"turns": 1000}), context=context)
    made.reset(seed=1)
    names = made.tokenizer
    row = [*names.encode("Speak."), names.end_of_turn]
    for token in tokens:
        seen, *_ = made.step(token)
        row.append(token)
        if token == names.end_of_turn:
            row.append(names.end_of_turn)
        length = min(context, len(row))
        assert seen["length"] == length
        assert seen["tokens"][:length].tolist() == row[-length:]
        assert set(seen["tokens"][length:].tolist()) <= {names.size}


def test_an_observation_is_made_of_the_new_messages(echo: Any) -> None:
    env = echo()
    env.reset(seed=1)
    step = env.advance("<tool_call>")
    assert isinstance(step, Step)
    assert observe(env, step.messages) == step.messages[0].content
