"""What a config leaves to the environment, the policy and the algorithm."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from ..envs.grammar import Automaton, Grammar
from ..envs.parsing import Parser, render
from ..envs.tokenizers import ByteTokenizer, Tokenizer
from .combinations import GROUPED, is_grouped, multiple
from .config import DEFAULT_PRESET, Config, ConfigError, load, replaced, value

CONTEXT = {"nano": 96, "tiny": 160, "small": 512}  # learning.md 2
CONTEXT_ELSEWHERE = 1_024
TOKENS_ELSEWHERE = 64
HF_CONTEXT = 2_048
HF_TOKENS_PER_CALL = 48
TOKENS_OF_A_DRILL_CALL = 4  # three fragments and the one that ends the call
GROUP = 8
ELSEWHERE = "the preset was measured on another environment"


class Speaker(Protocol):
    """What this module reads of an environment."""

    @property
    def grammar(self) -> Grammar | None:
        """Its action grammar, or None."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Its own tokenizer, or None for bytes."""
        ...

    @property
    def parser(self) -> Parser:
        """How its calls are written."""
        ...

    def menu(self) -> Any:
        """Every call and answer, or None."""
        ...


class Choice(NamedTuple):
    """One key that was chosen, and why."""

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value} ({self.reason})"


def resolve(config: Config, env: Speaker) -> tuple[Config, list[str]]:
    """Fill what the config leaves open; keys that were given always win (learning.md 5).

    Args:
        config: as ``config.load`` made it.
        env: the environment of ``config.env``.

    Returns:
        The effective config, and one line for each key that was chosen.

    Raises:
        ConfigError: a given shield that the environment or the policy cannot have.
    """
    _refuse_shield(config, env)
    chosen = [
        *_of_the_algorithm(config),
        *(_of_a_model(config, env) if config.policy.model else ()),
    ]
    config = _with(config, chosen)
    rest = _of_the_env(config, env)
    config = _with(config, rest)
    last = _of_the_batch(config)
    lines = [str(choice) for choice in (*chosen, *rest, *last)]
    if lines and not config.policy.model:
        lines.append(f"tokenizer = {_tokenizer(env)}")
    return _with(config, last), lines


def action_grammar(env: Speaker) -> Grammar | None:
    """What the agent may write: the env's grammar, else the items of its menu; None: anything."""
    if env.grammar is not None or (items := env.menu()) is None:
        return env.grammar
    texts = [item if isinstance(item, str) else render([item], env.parser) for item in items]
    return Grammar.of_menu(texts)


def longest_message(env: Speaker) -> int | None:
    """Most tokens that a legal message has, its end included; None where anything is legal."""
    grammar = action_grammar(env)
    return (
        None if grammar is None else _longest(grammar.automaton(env.tokenizer or ByteTokenizer()))
    )


def _tokenizer(env: Speaker) -> str:
    if env.tokenizer is None:
        return "bytes (the environment brings none)"
    return f"{env.tokenizer.name}, {env.tokenizer.size} tokens (the environment's)"


def _longest(automaton: Automaton) -> int:
    """Longest way through the automaton, which has no circle."""
    following = [np.unique(row[row >= 0]) for row in automaton.next]
    front, steps = {automaton.start}, 0
    while front := {int(state) for here in front for state in following[here]}:
        steps += 1
    return steps


def _with(config: Config, choices: list[Choice]) -> Config:
    return replaced(config, {choice.key: choice.value for choice in choices})


def _refuse_shield(config: Config, env: Speaker) -> None:
    if config.rollout.shield != "grammar" or "rollout.shield" not in config.given:
        return
    if config.policy.model:
        raise ConfigError(
            'rollout.shield is "grammar" with a Hugging Face model; the automaton is over the '
            'environment\'s own fragments: give rollout.shield "none".'
        )
    if env.grammar is None and env.menu() is None:
        raise ConfigError(
            f'rollout.shield is "grammar", but {config.env.id} has neither grammar nor menu(); '
            'give rollout.shield "none", or an environment with one of them.'
        )


def _of_the_algorithm(config: Config) -> list[Choice]:
    algo, reason = config.algo, f'algo.name "{config.algo.name}"'
    wishes: list[Choice] = []
    if algo.name in GROUPED:
        wishes.append(Choice("algo.estimator", "group", reason))
    if algo.name in ("rloo", "reinforce"):
        wishes.append(Choice("algo.epochs", 1, f"{reason} has no ratio to reuse a batch with"))
    group = is_grouped(config)
    if group:
        wishes.append(Choice("algo.value_coef", 0.0, "a group baseline needs no critic"))
    if group and config.rollout.group_size < 2:
        wishes.append(Choice("rollout.group_size", GROUP, "a group baseline compares attempts"))
    if algo.name == "grpo":
        wishes.append(Choice("algo.whiten", False, "grpo divides by the deviation already"))
    return _open(config, wishes)


def _of_a_model(config: Config, env: Speaker) -> list[Choice]:
    reason = "a Hugging Face model"
    calls = max(1, (longest_message(env) or 0) // TOKENS_OF_A_DRILL_CALL)
    tokens = HF_TOKENS_PER_CALL * calls if _at_home(config) else TOKENS_ELSEWHERE
    wishes = [
        Choice("optim.lr", 1e-5, reason),
        Choice("entropy.start", 0.0, reason),
        Choice("entropy.end", 0.0, reason),
        Choice("rollout.shield", "none", f"{reason} has tokens of its own"),
        Choice("rollout.max_action_tokens", tokens, reason),
        Choice("policy.context", HF_CONTEXT, f"{reason}; less where it reads less"),
        Choice("rollout.batch", 32, reason),
        Choice("algo.minibatch", 16, reason),
    ]
    if not {"kl.mode", "kl.coef"} & config.given:
        wishes += [Choice("kl.mode", "loss", reason), Choice("kl.coef", 0.02, reason)]
    return _open(config, wishes)


def _of_the_env(config: Config, env: Speaker) -> list[Choice]:
    """The keys that are 0 or auto, and messages longer than the preset allows for."""
    chosen: list[Choice] = []
    rollout = config.rollout
    shield = rollout.shield
    if shield == "auto":
        has = "a grammar" if env.grammar is not None else "a menu()" if _has_menu(env) else ""
        shield = "grammar" if has else "none"
        reason = f"the environment has {has or 'neither grammar nor menu()'}"
        chosen.append(Choice("rollout.shield", shield, reason))
    if "rollout.max_action_tokens" not in config.given or rollout.max_action_tokens == 0:
        most = rollout.max_action_tokens or TOKENS_ELSEWHERE
        longest = (longest_message(env) or 0) if shield == "grammar" else 0
        if longest > most:
            reason = "the longest message of the grammar or menu"
            chosen.append(Choice("rollout.max_action_tokens", longest, reason))
        elif rollout.max_action_tokens == 0:
            chosen.append(Choice("rollout.max_action_tokens", most, ELSEWHERE))
    if config.policy.context == 0:
        home = _at_home(config)
        context = CONTEXT[config.policy.preset] if home else CONTEXT_ELSEWHERE
        reason = f'policy.preset "{config.policy.preset}"' if home else ELSEWHERE
        chosen.append(Choice("policy.context", context, reason))
    return chosen


def _at_home(config: Config) -> bool:
    """Whether the run's environment is the one its preset was measured on."""
    return config.env.id == load(preset=config.preset or DEFAULT_PRESET).env.id


def _has_menu(env: Speaker) -> bool:
    return env.menu() is not None


def _of_the_batch(config: Config) -> list[Choice]:
    group, batch = config.rollout.group_size, config.rollout.batch
    chosen: list[Choice] = []
    if batch == 0:
        batch = multiple(32, group)
        chosen.append(Choice("rollout.batch", batch, ELSEWHERE))
    minibatch = config.algo.minibatch
    if minibatch == 0:
        chosen.append(Choice("algo.minibatch", min(16, batch), ELSEWHERE))
    elif minibatch > batch:
        chosen.append(Choice("algo.minibatch", batch, "no more than the batch"))
    return chosen


def _open(config: Config, wishes: list[Choice]) -> list[Choice]:
    """The wishes whose key nobody gave and whose value is not there already."""
    flat = {wish.key: value(config, wish.key) for wish in wishes}
    return [
        wish for wish in wishes if wish.key not in config.given and flat[wish.key] != wish.value
    ]
