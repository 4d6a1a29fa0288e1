"""Settings that are each possible but not together (algorithms.md INV-OO2)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .curriculum import StopRule
from .fields import ConfigError
from .settings import Config

GROUPED = ("rloo", "grpo")


def refuse(config: Config) -> None:
    """Raise for the first pair of settings that cannot be had together.

    A value nobody gave is no mistake: ``choices.resolve`` fits those to the ones that were.

    Raises:
        ConfigError: got, wanted, do.
    """
    StopRule.parse(config.train.stop_when)
    for checks in (_places, _kl, _algo, _batch, _stages):
        for text in checks(config):
            raise ConfigError(text)


def multiple(batch: int, group: int) -> int:
    """The largest multiple of ``group`` that is at most ``batch``, or ``group`` itself."""
    return max(group, batch // group * group)


def is_grouped(config: Config) -> bool:
    """Whether the advantage compares several attempts at one task."""
    return config.algo.estimator == "group" or config.algo.name in GROUPED


def _places(config: Config) -> Iterator[str]:
    model, device = config.policy.model, config.train.device
    if model and not re.fullmatch(r"hf:.+", model):
        yield (
            f'policy.model is "{model}"; training needs weights: give hf:PATH_OR_NAME, '
            "or leave it out for policy.preset."
        )
    if device not in ("auto", "cpu"):
        yield f'train.device is "{device}"; this version trains on the CPU: give auto or cpu.'


def _kl(config: Config) -> Iterator[str]:
    kl, batch = config.kl, config.rollout.batch
    if kl.mode == "none" and kl.coef > 0:
        yield f'kl.coef is {kl.coef:g} while kl.mode is "none"; give kl.mode "loss" or "reward".'
    if kl.target > 0 and batch * 0.2 >= kl.horizon:
        yield (
            f"kl.horizon is {kl.horizon}; give more than a fifth of rollout.batch ({batch}): "
            "a shorter one could make the weight negative."
        )


def _algo(config: Config) -> Iterator[str]:
    algo = config.algo
    if 0 < algo.dual_clip <= 1:
        yield f"algo.dual_clip is {algo.dual_clip:g}; give a number > 1 (3 is usual), or 0 for off."
    foreign = algo.estimator != "group" and "algo.estimator" in config.given
    if algo.name in GROUPED and foreign:
        yield (
            f'algo.estimator is "{algo.estimator}" with algo.name "{algo.name}", whose advantage '
            'is that of the group; give algo.estimator "group", or algo.name "ppo".'
        )
    if algo.name == "grpo" and algo.whiten and "algo.whiten" in config.given:
        yield (
            'algo.whiten is true with algo.name "grpo", which divides by the deviation already '
            "(double whitening); give algo.whiten false."
        )


def _batch(config: Config) -> Iterator[str]:
    rollout, algo = config.rollout, config.algo
    size = rollout.group_size
    if is_grouped(config) and size < 2 and "rollout.group_size" in config.given:
        yield (
            f"rollout.group_size is {size} with a group baseline; "
            "give at least 2 attempts a task (8 is usual)."
        )
    if rollout.batch % size != 0:
        yield (
            f"rollout.batch is {rollout.batch}, no multiple of rollout.group_size ({size}); "
            f"give {multiple(rollout.batch, size)}."
        )
    if "algo.minibatch" in config.given and 0 < rollout.batch < algo.minibatch:
        yield (
            f"algo.minibatch is {algo.minibatch}, more than rollout.batch ({rollout.batch}); "
            "give at most the batch."
        )


def _stages(config: Config) -> Iterator[str]:
    until = [stage.until_iteration for stage in config.curriculum.stage]
    if until != sorted(set(until)):
        yield f"curriculum.stage has until_iteration {until}; give rising numbers."
