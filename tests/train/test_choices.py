"""What a config leaves open is chosen by the environment, the policy, the algorithm."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from palaestra.envs.grammar import Grammar
from palaestra.envs.messages import ToolCall
from palaestra.envs.parsing import Parser, hermes
from palaestra.envs.tokenizers import FragmentTokenizer, Tokenizer
from palaestra.train import choices, config
from palaestra.train.config import ConfigError

CODE = Grammar([[{"sum(", "max("}, {"x", "x[1:]"}, {")"}]])
LONG = Grammar([[{"sum("}, {"x"}, {")"}], [{"max("}, {"x"}, {")"}, {";"}, {"sum("}, {"x"}, {")"}]])
WORDS = FragmentTokenizer(["sum(", "max(", "x", "x[1:]", ")", ";"])


class World:
    """As much of an environment as the choices read."""

    def __init__(
        self,
        grammar: Grammar | None = None,
        tokenizer: Tokenizer | None = None,
        items: Sequence[str | ToolCall] | None = None,
    ) -> None:
        self.grammar, self.tokenizer, self.items = grammar, tokenizer, items
        self.parser: Parser = hermes

    def menu(self) -> Sequence[str | ToolCall] | None:
        """The items."""
        return self.items


DRILL = World(CODE, WORDS)


def test_the_preset_on_its_own_environment_leaves_the_context_only() -> None:
    settings, lines = choices.resolve(config.load(), DRILL)
    assert config.difference(config.load(), settings) == {"policy.context": (0, 160)}
    assert lines[0].startswith("policy.context = 160")


def test_a_config_resolved_once_is_not_changed_again() -> None:
    for overrides in ({}, {"env.id": "my/Env-v0"}, {"algo.name": "grpo"}, {"policy.model": "hf:x"}):
        first, _ = choices.resolve(config.load(None, overrides), World())
        second, lines = choices.resolve(first, World())
        assert (second, lines) == (first, [])


def test_another_environment_gets_the_measured_defaults() -> None:
    settings, lines = choices.resolve(config.load(None, {"env.id": "my/Env-v0"}), World())
    assert settings.rollout.shield == "none"
    assert settings.rollout.max_action_tokens == 64
    assert settings.policy.context == 1024
    assert (settings.rollout.batch, settings.algo.minibatch) == (32, 16)
    assert any(line.startswith("tokenizer = bytes") for line in lines)


@pytest.mark.parametrize("world", [World(CODE, WORDS), World(items=["a", "b"])])
def test_a_grammar_or_a_menu_becomes_the_shield(world: World) -> None:
    settings, _ = choices.resolve(config.load(None, {"env.id": "my/Env-v0"}), world)
    assert settings.rollout.shield == "grammar"


def test_a_given_key_wins_over_every_choice() -> None:
    given = {
        "env.id": "my/Env-v0",
        "rollout.shield": "none",
        "rollout.batch": "8",
        "rollout.max_action_tokens": "5",
        "policy.context": "99",
    }
    settings, lines = choices.resolve(config.load(None, given), World(CODE, WORDS))
    assert settings.rollout.shield == "none"
    assert (settings.rollout.batch, settings.rollout.max_action_tokens) == (8, 5)
    assert settings.policy.context == 99
    assert settings.algo.minibatch == 8
    assert [line.split(" ")[0] for line in lines] == ["algo.minibatch", "tokenizer"]


def test_messages_longer_than_the_preset_allows_for_get_the_room_they_need() -> None:
    settings, _ = choices.resolve(config.load(), World(LONG, WORDS))
    assert settings.rollout.max_action_tokens == 8
    given = config.load(None, {"rollout.max_action_tokens": "4"})
    assert choices.resolve(given, World(LONG, WORDS))[0].rollout.max_action_tokens == 4


def test_the_longest_message_counts_its_end() -> None:
    assert choices.longest_message(World(CODE, WORDS)) == 4
    assert choices.longest_message(World(LONG, WORDS)) == 8
    assert choices.longest_message(World()) is None


def test_a_smaller_batch_takes_the_minibatch_with_it() -> None:
    settings, _ = choices.resolve(config.load(None, {"rollout.batch": "16"}), DRILL)
    assert settings.algo.minibatch == 16


def test_a_hugging_face_model_gets_its_own_values() -> None:
    settings, lines = choices.resolve(config.load(None, {"policy.model": "hf:some/model"}), DRILL)
    assert settings.optim.lr == 1e-5
    assert (settings.entropy.start, settings.entropy.end) == (0.0, 0.0)
    assert (settings.kl.mode, settings.kl.coef) == ("loss", 0.02)
    assert settings.rollout.shield == "none"
    assert settings.rollout.max_action_tokens == 48
    assert settings.policy.context == 2_048
    assert (settings.rollout.batch, settings.algo.minibatch) == (32, 16)
    assert len(lines) == 10


def test_a_hugging_face_model_keeps_the_values_given() -> None:
    given = {"policy.model": "hf:m", "optim.lr": "1e-4", "kl.mode": "none"}
    settings, _ = choices.resolve(config.load(None, given), DRILL)
    assert settings.policy.context == 2_048
    assert settings.optim.lr == 1e-4
    assert (settings.kl.mode, settings.kl.coef) == ("none", 0.0)


def test_a_group_baseline_brings_its_group_and_drops_the_critic() -> None:
    settings, _ = choices.resolve(config.load(None, {"algo.name": "grpo"}), DRILL)
    assert (settings.algo.estimator, settings.rollout.group_size) == ("group", 8)
    assert (settings.algo.value_coef, settings.algo.whiten) == (0.0, False)
    given = config.load(None, {"algo.name": "rloo", "rollout.group_size": "4"})
    settings, _ = choices.resolve(given, DRILL)
    assert (settings.rollout.group_size, settings.algo.epochs) == (4, 1)


def test_a_shield_that_cannot_be_is_refused() -> None:
    settings = config.load(None, {"rollout.shield": "grammar", "env.id": "my/Env-v0"})
    with pytest.raises(ConfigError, match=r"neither grammar nor menu"):
        choices.resolve(settings, World())
    settings = config.load(None, {"rollout.shield": "grammar", "policy.model": "hf:x"})
    with pytest.raises(ConfigError, match=r'give rollout\.shield "none"'):
        choices.resolve(settings, DRILL)


def test_the_calls_of_a_menu_fit_into_a_message() -> None:
    look = ToolCall("", "look", {"box": "the one on the left"}, (0, 0))
    world = World(items=[look, "left"])
    settings, _ = choices.resolve(config.load(None, {"env.id": "my/Env-v0"}), world)
    text = '<tool_call>{"name": "look", "arguments": {"box": "the one on the left"}}</tool_call>'
    assert settings.rollout.max_action_tokens == len(text) + 1  # bytes, and the end
