"""From settings to policies and agents, and back from saved weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from palaestra.agents.shield import Forbid, Grammar
from palaestra.agents.solo import Solo
from palaestra.envs.small import Compare, KeyDoor
from palaestra.train import build
from palaestra.train.checkpoint import CheckpointError
from palaestra.train.config import Config, ConfigError

MakeConfig = Callable[..., Config]


def test_a_wrong_argument_is_refused_before_anything_is_made() -> None:
    with pytest.raises(ConfigError, match=r"unknown key .env\.roms"):
        build.env_maker("palaestra/KeyDoor-v0", {"roms": 3})


def test_weights_depend_on_the_seed_alone(small_config: MakeConfig) -> None:
    one, same, other = (build.policy(small_config(seed=seed), KeyDoor()) for seed in (1, 1, 2))
    pairs = list(zip(one.parameters(), same.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(
        not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("dtype", "weights"),
    [("float32", torch.float32), ("float64", torch.float64), ("bfloat16", torch.float32)],
)
def test_the_precision_of_the_settings_is_that_of_the_policy(
    small_config: MakeConfig, dtype: str, weights: torch.dtype
) -> None:
    policy = build.policy(small_config(train__dtype=dtype), KeyDoor())
    assert all(one.dtype == weights for one in policy.parameters())
    assert policy.dtype == (torch.bfloat16 if dtype == "bfloat16" else None)


def test_without_a_value_loss_there_is_no_value_head(small_config: MakeConfig) -> None:
    assert build.policy(small_config(algo__value_coef=0.0), KeyDoor()).heads == ()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saved_weights_come_back_heads_included(
    small_config: MakeConfig, tmp_path: Path, dtype: str
) -> None:
    config = small_config(train__dtype=dtype)
    one, other = build.policy(config, KeyDoor()), build.policy(config, KeyDoor())
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.1)
    one.save(tmp_path)
    build.restore(config, other, tmp_path, version=7)
    assert other.version == 7
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_weights_of_another_shape_are_refused(small_config: MakeConfig, tmp_path: Path) -> None:
    build.policy(small_config(policy__preset="tiny"), KeyDoor()).save(tmp_path)
    policy = build.policy(small_config(), KeyDoor())
    with pytest.raises(CheckpointError, match="does not hold this policy's weights"):
        build.restore(small_config(), policy, tmp_path)
    with pytest.raises(CheckpointError, match="does not hold"):
        build.restore(small_config(), policy, tmp_path / "nowhere")


def test_shields_follow_the_environment(small_config: MakeConfig) -> None:
    env = KeyDoor()
    policy = build.policy(small_config(), env)
    whole = build.shield("grammar", env, policy.tokenizer)
    assert whole is not None
    assert isinstance(whole.tokens[0], Grammar)
    some = build.shield("tokens", env, policy.tokenizer)
    assert some is not None
    assert isinstance(some.tokens[0], Forbid)
    assert build.shield("none", env, policy.tokenizer) is None


def test_an_environment_without_grammar_has_no_shield(small_config: MakeConfig) -> None:
    class Open(Compare):
        """Anything may be said."""

        grammar = None

        def menu(self) -> Any:
            return None

    assert (
        build.shield("grammar", Open(), build.policy(small_config(), KeyDoor()).tokenizer) is None
    )


def test_the_agent_takes_its_limits_from_the_settings(small_config: MakeConfig) -> None:
    config = small_config(rollout__temperature=0.7)
    policy = build.policy(config, KeyDoor())
    agent = build.agent(config, policy, KeyDoor())
    assert isinstance(agent, Solo)
    assert agent.max_tokens == 12
    assert agent.decoding is not None
    assert agent.decoding.temperature == 0.7


def test_the_first_line_of_a_run_says_what_learns_where(small_config: MakeConfig) -> None:
    config = small_config(seed=4)
    line = build.describe(config, build.policy(config, KeyDoor()))
    assert line.startswith("palaestra/KeyDoor-v0, seed 4: ")
    assert line.endswith(" weights on cpu, float32")
