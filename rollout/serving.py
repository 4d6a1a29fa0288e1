"""Asks answered at once, for policies and loops that know no slots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..agents.core import Action, Ask
from ..agents.errors import AgentError, ContextFull


def distinct(asks: Sequence[Ask]) -> None:
    """Check that no chat is asked twice at a time.

    Raises:
        AgentError: one is.
    """
    if len({id(ask.chat) for ask in asks}) < len(asks):
        raise AgentError("a list of asks holds one chat twice; give each ask its own chat.fork()")


def serve(asks: Sequence[Ask]) -> list[Action]:
    """Answer asks of many episodes, each policy asked once; a full context gets no token."""
    out: dict[int, Action] = {}
    for policy in {id(ask.policy): ask.policy for ask in asks}.values():
        mine = [at for at, ask in enumerate(asks) if ask.policy is policy]
        try:
            out |= zip(mine, policy.act([asks[at] for at in mine]), strict=True)
        except ContextFull:  # of one of them: the others have room
            out |= {at: _alone(asks[at]) for at in mine}
    return [out[at] for at in range(len(asks))]


def _alone(ask: Ask) -> Action:
    try:
        return ask.policy.act([ask])[0]
    except ContextFull:
        none, flags = np.zeros(0, np.float32), np.zeros(0, np.bool_)
        values = {head.name: none for head in ask.policy.heads}
        tokens, version = np.zeros(0, np.int32), ask.policy.version
        return Action(tokens, none, none, none, flags, values, "context", ask.first, version)
