"""From settings to objects: the environment, the policy, the agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

from ..agents import storage
from ..agents.core import Agent, Decoding
from ..agents.heads import Head
from ..agents.sampling import Sampler
from ..agents.shield import Forbid, Grammar, Shield
from ..agents.solo import Solo
from ..agents.tiny import Tiny
from ..envs import registry
from ..envs.core import Env
from ..envs.tokenizers import ByteTokenizer, Tokenizer
from .checkpoint import CheckpointError
from .choices import action_grammar
from .config import check_options
from .settings import Config


def env_maker(env_id: str, options: Mapping[str, Any]) -> Callable[[], Env]:
    """A function that makes the environment; a wrong argument is refused now.

    Raises:
        ConfigError: unknown id or argument.
    """
    entry = registry.load(registry.find(env_id).entry)
    check_options(entry, options, "env")

    def make() -> Env:
        return registry.make(env_id, **options)

    return make


def policy(config: Config, env: Env) -> Sampler:
    """The policy of a run with its value head: a tiny one from scratch or a language model.

    Weights of the tiny one depend on ``config.seed`` only.
    """
    heads = (Head("value"),) if config.algo.value_coef > 0 else ()
    decoding = Decoding(temperature=config.rollout.temperature)
    if config.policy.model:
        return language_model(config, config.policy.model.removeprefix("hf:"), heads)
    tokenizer: Any = env.tokenizer or ByteTokenizer()  # saved with the weights: has to_json
    model = Tiny(
        config.policy.preset,
        tokenizer,
        heads,
        context=config.policy.context or None,
        seed=config.seed,
    )
    if config.train.dtype == "float64":
        model.double()
    half = torch.bfloat16 if config.train.dtype == "bfloat16" else None  # over float32 weights
    return Sampler(model, decoding=decoding, dtype=half)


def language_model(config: Config, path: str | Path, heads: tuple[Head, ...]) -> Sampler:
    """A Hugging Face model, from a folder or by name."""
    from ..agents.language_model import LanguageModel

    return LanguageModel.load(
        path,
        heads=heads,
        dtype=config.train.dtype,
        checkpointing=config.policy.checkpointing,
        context=config.policy.context or None,
    )


def restore(config: Config, policy: Sampler, folder: Path, version: int = 0) -> None:
    """Take over the weights, heads included, that ``policy.save`` wrote for the same shape.

    Raises:
        CheckpointError: a file is missing, or holds other shapes.
    """
    model: Any = policy.model
    try:
        if config.policy.model:
            saved: Any = language_model(config, folder, policy.heads).model
            model.load_state_dict(saved.state_dict())
        else:
            model.take(load_file(folder / "model.safetensors"))
            storage.load_heads(model.heads, folder)
    except (OSError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{folder} does not hold this policy's weights ({error}).") from error
    policy.load({}, version)


def agent(config: Config, policy: Sampler, env: Env, *, greedy: bool = False) -> Agent:
    """The agent that plays: one policy, the shield of the config, sampled or greedy."""
    temperature = 0.0 if greedy else config.rollout.temperature
    return Solo(
        policy,
        decoding=Decoding(temperature=temperature),
        shield=shield(config.rollout.shield, env, policy.tokenizer),
        max_tokens=config.rollout.max_action_tokens or None,
    )


def shield(kind: str, env: Env, tokenizer: Tokenizer) -> Shield | None:
    """The token rules of ``rollout.shield``: the env's grammar, its fragments, or none."""
    if kind == "none":
        return None
    grammar = action_grammar(env)
    if grammar is None:
        return None
    automaton = grammar.automaton(tokenizer)
    if kind == "grammar":
        return Shield((Grammar(automaton),))
    never = np.flatnonzero(~automaton.legal.any(0))
    return Shield((Forbid(never.tolist(), tokenizer.size),))


def describe(config: Config, policy: Sampler) -> str:
    """The first line of a run: what learns where, on what."""
    size = sum(parameter.numel() for parameter in policy.parameters())
    where = config.train.device if config.train.device != "auto" else "cpu"
    return f"{config.env.id}, seed {config.seed}: {size:,} weights on {where}, {config.train.dtype}"
