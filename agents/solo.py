"""The flat agent: one policy, one chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from ..envs.messages import Message
from .chat import Chat
from .core import Action, Ask, Decoding, Policy, Seat, Turn
from .shield import Shield


@dataclass(frozen=True, eq=False)
class Solo:
    """Reads, speaks, reads.

    Attributes:
        policy: who speaks.
        decoding: how; None: the policy's own way.
        shield: rules over its tokens.
        max_tokens: of one message; None: what limits and context leave.
        system: system prompt, where the environment brings none.
        name: in reports.
    """

    policy: Policy
    decoding: Decoding | None = None
    shield: Shield | None = None
    max_tokens: int | None = None
    system: str | None = None
    name: str = "solo"

    @property
    def policies(self) -> dict[str, Policy]:
        """One role: agent."""
        return {"agent": self.policy}

    def start(self, seat: Seat) -> Chat:
        """Open the chat of an episode."""
        return Chat.for_(self.policy, seat, self.system)

    def turn(self, memory: Chat, news: Sequence[Message]) -> Turn:
        """Add the news, draw one message, append it."""
        memory.add(news)
        action = yield Ask(
            self.policy,
            memory,
            max_tokens=self.max_tokens,
            decoding=self.decoding,
            shield=self.shield,
        )
        action = cast(Action, action)
        said = memory.commit(action)
        if action.stop == "shield" and self.shield is not None:
            said = Message("assistant", self.shield.fallback)
            memory.replace(said)
        return said
