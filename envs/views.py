"""The tool view and the token view: other actions, the same environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces as gym
from numpy.typing import NDArray

from . import rendering, turn
from .actions import ACTIONS, Actions, Item
from .messages import Message, ToolCall
from .reading import fit
from .text_space import TextSpace
from .token_view import TokenView
from .view import View

if TYPE_CHECKING:
    from .core import Env

__all__ = ["OPTIONS", "TokenView", "ToolCallView", "View", "view"]

OPTIONS = {
    "turn": ("observe", "reasoning"),
    "tool": ("actions", "observe"),
    "token": ("context", "max_tokens", "shield", "mask", "tokenizer"),
}
TRIGRAMS = 256  # cells of a hashed text
Forms = Literal["structured", "menu", "factored", "json"]


class ToolCallView(View):
    """One step is one call, or the final answer.

    Attributes:
        actions: how calls are written as actions.
    """

    def __init__(self, env: Env, *, actions: Forms = "structured", observe: str = "text") -> None:
        """Makes the view.

        Args:
            env: the environment.
            actions: "structured", "menu", "factored" or "json".
            observe: "text", or "features" for agents that read none.

        Raises:
            ValueError: an unknown form, or one that this environment does not have.
        """
        super().__init__(env)
        if actions not in ACTIONS:
            raise ValueError(f"actions is {actions!r}; give one of {', '.join(ACTIONS)}")
        if observe not in ("text", "features"):
            raise ValueError(f"observe is {observe!r}; the tool view has text and features")
        self.actions: Actions = ACTIONS[actions](env)
        self.action_space = self.actions.space()
        self.by_features = observe == "features"
        self.observation_space = self._space()

    def _space(self) -> gymnasium.Space[Any]:
        env = self.env
        if self.by_features:
            parts: dict[str, gymnasium.Space[Any]] = {"features": features_space(env)}
        else:
            parts = {
                "text": TextSpace(env.limits.observation_chars),
                "turn": gym.Discrete(env.limits.turns + 1),
                "ok": gym.Discrete(2),
                "budget": gym.Box(0, 1, (3,), np.float32),
            }
        if env.image_shape is not None:
            parts["image"] = turn.image_space(env)
        return parts["features"] if list(parts) == ["features"] else gym.Dict(parts)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; see `Env.start`."""
        said = self.env.start(seed, options)
        return self._observe(said, True), self._masked(turn.reset_info(self.env))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Sends one call, or the answer."""
        step = self.env.advance(as_message(self.actions.decode(action)))
        news = self._observe(step.messages, not step.info["problems"])
        info = self._masked(turn.step_info(self.env, step))
        return news, step.reward, step.terminated, step.truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which items of the menu are legal now: the name that sb3-contrib reads.

        Raises:
            ValueError: the form of the actions has no mask.
        """
        mask = self.actions.mask()
        if mask is None:
            raise ValueError('only actions="menu" has a mask')
        return mask

    def encode(self, item: Item) -> Any:
        """Returns the action that stands for a call or an answer."""
        return self.actions.encode(item)

    def decode(self, action: Any) -> Item:
        """Returns the call or the answer that an action stands for."""
        return self.actions.decode(action)

    def _masked(self, info: dict[str, Any]) -> dict[str, Any]:
        mask = self.actions.mask()
        if mask is not None:
            info["action_mask"] = mask.astype(np.int8)
        return info

    def _observe(self, news: tuple[Message, ...], ok: bool) -> Any:
        env = self.env
        if env.render_mode == "human":
            rendering.print_new(env)
        text = fit(rendering.join(news), env.limits.observation_chars)
        if self.by_features:
            seen = features(env, text)
            return (
                seen if env.image_shape is None else {"features": seen, "image": turn.picture(env)}
            )
        parts: dict[str, Any] = {
            "text": text,
            "turn": min(env.episode.turn, env.limits.turns),
            "ok": int(ok),
            "budget": budget(env),
        }
        if env.image_shape is not None:
            parts["image"] = turn.picture(env)
        return parts


def as_message(item: Item) -> Message:
    """Returns the message that is a call, or an answer."""
    if isinstance(item, ToolCall):
        return Message("assistant", "", (item,))
    return Message("assistant", item)


def budget(env: Env) -> NDArray[np.float32]:
    """Returns what is left of turns, tokens and seconds, as shares; 1 where there is no limit."""
    used, limits = env.episode, env.limits
    pairs = (
        (used.turn, limits.turns),
        (used.tokens, limits.tokens),
        (used.seconds, limits.seconds),
    )
    left = [1.0 if most is None else max(0.0, 1.0 - n / max(most, 1e-9)) for n, most in pairs]
    return np.array(left, np.float32)


def features_space(env: Env) -> gymnasium.Space[Any]:
    """The space of `features`; its shape is learned from one episode, if the env has its own."""
    if type(env).features is base_features(env):
        return gym.Box(0, 1, (TRIGRAMS,), np.float32)
    if not env.episode.started:
        env.start(0)
        env.episode.started, env.episode.over = False, True  # as if it had not been
    vector = np.asarray(env.features(), np.float32)
    most = float(np.finfo(np.float32).max)
    return gym.Box(-most, most, vector.shape, np.float32)


def base_features(env: Env) -> Any:
    """Returns the base class's own `features`, which has none to give."""
    return next(vars(k)["features"] for k in reversed(type(env).__mro__) if "features" in vars(k))


def features(env: Env, text: str) -> NDArray[np.float32]:
    """Returns the environment's own features, or those of the text it showed last."""
    own = env.features()
    return trigrams(text) if own is None else np.array(own, np.float32)


def trigrams(text: str) -> NDArray[np.float32]:
    """Returns byte trigrams hashed into 256 cells, their counts scaled to length 1."""
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.uint32)
    cells = np.zeros(TRIGRAMS, np.float32)
    if len(codes) >= 3:
        hashed = (codes[:-2] * 961 + codes[1:-1] * 31 + codes[2:]) * np.uint32(2_654_435_761)
        np.add.at(cells, hashed >> np.uint32(24), 1.0)
        cells /= np.float32(np.sqrt(np.square(cells).sum()))
    return np.minimum(cells, np.float32(1.0))


def view(env: Env, name: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """Returns one of the three views of an environment.

    Args:
        env: the environment; it is the turn view itself.
        name: "turn", "tool" or "token".
        **options: those of the view (`OPTIONS`).

    Raises:
        ValueError: an option has a value that does not exist.
    """
    if name == "tool":
        return ToolCallView(env, **options)
    if name == "token":
        return TokenView(env, **options)
    observe, reasoning = options.get("observe", "text"), options.get("reasoning", "drop")
    if observe not in turn.OBSERVING:
        raise ValueError(f"observe is {observe!r}; give one of {', '.join(turn.OBSERVING)}")
    if reasoning not in turn.REASONING:
        raise ValueError(f"reasoning is {reasoning!r}; give one of {', '.join(turn.REASONING)}")
    env.observe, env.reasoning = observe, reasoning
    return env
