"""What every view is: a Gymnasium environment around an `Env`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

if TYPE_CHECKING:
    from .core import Env

__all__ = ["View"]


class View(gymnasium.Env[Any, Any]):
    """A Gymnasium environment that translates actions for an `Env` and holds no rules.

    Attributes:
        env: the environment.
    """

    def __init__(self, env: Env) -> None:
        self.env = env
        self.metadata = env.metadata
        self.render_mode = env.render_mode

    @property
    def np_random(self) -> np.random.Generator:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The environment's stream "main"."""
        return self.env.np_random

    @property
    def _np_random(self) -> np.random.Generator:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.env.np_random

    @property
    def np_random_seed(self) -> int:
        """The seed in use."""
        return self.env.np_random_seed

    def render(self) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns the transcript; see `Env.render`."""
        return self.env.render()

    def close(self) -> None:
        """Ends the sandbox session."""
        self.env.close()

    def __str__(self) -> str:
        return f"<{type(self).__name__} of {self.env.env_id}>"
