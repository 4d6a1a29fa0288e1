"""The token view: one step is one token, and a message is sent when it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces as gym
from numpy.typing import NDArray

from . import rendering, turn
from .tokenizers import ByteTokenizer
from .view import View

if TYPE_CHECKING:
    from .core import Env
    from .messages import Message
    from .tokenizers import Tokenizer

__all__ = ["Shield", "TokenView"]

Shield = Callable[[Sequence[int]], NDArray[np.bool_]]  # ids of the message so far -> legal tokens
IDS = NDArray[np.int64]


class TokenView(View):
    """Actions are token ids; the environment advances at the end of a message.

    What was seen and written is one row of ids that only grows: a prompt is encoded once, and
    written ids are never encoded again.

    Attributes:
        tokenizer: ids <-> text.
        context: ids that an observation shows.
        max_tokens: ids of a message; the last one sends it.
    """

    def __init__(
        self,
        env: Env,
        *,
        context: int = 512,
        max_tokens: int | None = None,
        shield: Shield | None = None,
        mask: bool = False,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """Makes the view.

        Args:
            env: the environment; its grammar, if it has one, masks tokens.
            context: ids that an observation shows, the newest.
            max_tokens: ids of one message; None: as many as characters are read of one.
            shield: ids of the message so far -> which tokens are legal.
            mask: put the mask of legal tokens into every `info`.
            tokenizer: instead of the environment's own, or bytes.
        """
        super().__init__(env)
        if context < 1 or (max_tokens is not None and max_tokens < 1):
            raise ValueError(f"context {context}, max_tokens {max_tokens}: give at least 1")
        self.tokenizer = tokenizer or env.tokenizer or ByteTokenizer()
        self.context = context
        self.max_tokens = max_tokens or env.limits.action_chars
        self.shield = shield
        self.mask = mask
        grammar = env.grammar
        self._automaton = None if grammar is None else grammar.automaton(self.tokenizer)
        self._state = 0
        self._size = self.tokenizer.size
        self._end_of_turn = self.tokenizer.end_of_turn
        # ids are written behind one another; when the buffer is full, its last part moves to its
        # front, so that a step costs the same however long the episode is
        self._buffer: IDS = np.zeros(4 * context, np.int64)
        self._blank: IDS = np.full(context, self._size, np.int64)
        self._stop = 0
        self._message: list[int] = []
        self.action_space = gym.Discrete(self._size)
        parts: dict[str, gymnasium.Space[Any]] = {
            "tokens": gym.Box(0, self._size, (context,), np.int64),
            "length": gym.Discrete(context + 1),
        }
        if env.image_shape is not None:
            parts["image"] = turn.image_space(env)
        self.observation_space = gym.Dict(parts)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode; see `Env.start`."""
        said = self.env.start(seed, options)
        self._stop = 0
        self._open(said)
        return self._observe(), self._masked(turn.reset_info(self.env))

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Writes one token; the message is sent at its end."""
        token = int(action)
        if not 0 <= token < self._size:
            raise ValueError(f"token {token} is outside [0, {self._size})")
        message = self._message
        if self._stop == len(self._buffer):
            self._shift()
        self._buffer[self._stop] = token
        self._stop += 1
        if token != self._end_of_turn:
            message.append(token)
            if self._automaton is not None and self._state >= 0:
                self._state = int(self._automaton.next[self._state, token])
            if len(message) < self.max_tokens:
                info = self._masked({"inside": True}) if self.mask else {"inside": True}
                return self._observe(), 0.0, False, False, info
        step = self.env.advance(self.tokenizer.decode(message))
        self._open(step.messages)
        info = self._masked(turn.step_info(self.env, step))
        return self._observe(), step.reward, step.terminated, step.truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which tokens are legal now, by grammar and shield: the name that sb3-contrib reads."""
        if self._automaton is None:
            mask = np.ones(self._size, np.bool_)
        elif self._state < 0:  # an agent left the grammar: its message can only end
            mask = np.zeros(self._size, np.bool_)
            mask[self._end_of_turn] = True
        else:
            mask = np.array(self._automaton.legal[self._state], np.bool_)
        return mask if self.shield is None else mask & self.shield(tuple(self._message))

    def _open(self, news: Sequence[Message]) -> None:
        """Appends what the environment said, and opens a message of the agent."""
        if self.env.render_mode == "human":
            rendering.print_new(self.env)
        for token in self._encoded(news):
            if self._stop == len(self._buffer):
                self._shift()
            self._buffer[self._stop] = token
            self._stop += 1
        self._message = []
        self._state = 0 if self._automaton is None else self._automaton.start

    def _encoded(self, news: Sequence[Message]) -> list[int]:
        encode = self.tokenizer.encode
        opening: int | None = getattr(self.tokenizer, "obs", None)
        answer: int | None = getattr(self.tokenizer, "act", None)
        if opening is None or answer is None:
            return [*encode(rendering.join(news)), self._end_of_turn]
        # a closed vocabulary has no word for what stands between two messages
        return [opening, *(token for message in news for token in encode(message[1])), answer]

    def _shift(self) -> None:
        kept = self._buffer[self._stop - self.context : self._stop].copy()
        self._buffer[: self.context] = kept
        self._stop = self.context

    def _observe(self) -> dict[str, Any]:
        stop, context = self._stop, self.context
        if stop >= context:
            tokens, length = self._buffer[stop - context : stop].copy(), context
        else:
            tokens, length = self._blank.copy(), stop
            tokens[:stop] = self._buffer[:stop]
        if self.env.image_shape is None:
            return {"tokens": tokens, "length": length}
        return {"tokens": tokens, "length": length, "image": turn.picture(self.env)}

    def _masked(self, info: dict[str, Any]) -> dict[str, Any]:
        if self.mask:
            info["action_mask"] = self.action_masks().astype(np.int8)
        return info
