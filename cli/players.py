"""Who may be evaluated or watched without weights: reference, random, silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..agents.core import Agent
    from ..envs.core import Env

NAMES = ("reference", "random", "silent")
MOST_TOKENS = 64  # of a random message where no grammar ends it


def player(name: str, make_env: Callable[[], Env]) -> Agent:
    """The agent of a name in ``NAMES``.

    ``reference`` says ``env.solution(task)``; ``random`` draws an item of ``menu()``, or tokens
    under the grammar, or bytes; ``silent`` says nothing.
    """
    from ..agents import scripted

    if name == "silent":
        return scripted.Trivial()
    if name == "reference":
        return scripted.Reference(make_env)
    env = make_env()
    return scripted.RandomAgent.for_(env) if env.menu() is not None else _under_grammar(env)


def _under_grammar(env: Env) -> Agent:
    from ..agents.scripted import RandomPolicy
    from ..agents.shield import shield_for
    from ..agents.solo import Solo
    from ..envs.tokenizers import ByteTokenizer

    policy = RandomPolicy(env.tokenizer or ByteTokenizer())
    mode = "none" if env.grammar is None else "grammar"
    shield = shield_for(mode, env, policy.tokenizer)
    return Solo(policy, shield=shield, max_tokens=MOST_TOKENS)
