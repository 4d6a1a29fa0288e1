"""Draws the task of each episode by a curriculum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import curricula
from .messages import JSON
from .problems import nearest
from .rows import Task

__all__ = ["CURRICULA", "Sampler"]

CURRICULA: Mapping[str, Callable[..., curricula.Curriculum]] = {
    "uniform": curricula.Curriculum,
    "weighted": curricula.Weighted,
    "sequential": curricula.Sequential,
    "staged": curricula.Staged,
    "learning_progress": curricula.learning_progress,
    "learnable": curricula.learnable,
    "adversarial": curricula.adversarial,
    "replay": curricula.Replay,
    "streamed": curricula.Streamed,
}


class Sampler:
    """Draws tasks by a curriculum; where it has got to travels in checkpoints.

    Attributes:
        curriculum: the curriculum's name.
        stateful: whether the next task depends on more than the stream.
    """

    def __init__(
        self, tasks: curricula.Source, curriculum: str = "uniform", **options: Any
    ) -> None:
        """Choose a curriculum.

        Args:
            tasks: The set to draw from; not empty.
            curriculum: A key of `CURRICULA`.
            **options: What that curriculum takes.
        """
        if curriculum not in CURRICULA:
            like = nearest(curriculum, CURRICULA)
            asked = f"did you mean {like!r}? " if like else ""
            raise ValueError(
                f"curriculum {curriculum!r} is unknown; {asked}known are {', '.join(CURRICULA)}"
            )
        if tasks.size == 0:
            raise ValueError(f"the task set {tasks.id!r} is empty; there is nothing to draw")
        self.curriculum = curriculum
        self.stateful = curriculum not in ("uniform", "weighted")
        self._size = tasks.size
        try:
            self._rule = CURRICULA[curriculum](tasks, **options)
        except TypeError as error:
            raise ValueError(f"curriculum {curriculum!r}: {error}") from None

    def draw(self, stream: np.random.Generator) -> Task:
        """Return the next task.

        Args:
            stream: The environment's stream "task"; stateless curricula use nothing else.
        """
        return self._rule.draw(stream)

    def update(self, task_id: str, score: float) -> None:
        """Learn how an attempt ended.

        Args:
            task_id: The task.
            score: Success, from 0 to 1.
        """
        if not 0 <= score <= 1:
            raise ValueError(f"the score of task {task_id!r} is {score}; give a number in [0, 1]")
        self._rule.update(task_id, score)

    def state(self) -> dict[str, JSON]:
        """Return plain data from which `load` continues the same sequence."""
        return {"curriculum": self.curriculum, "size": self._size, **self._rule.state()}

    def load(self, state: Mapping[str, JSON]) -> None:
        """Continue where another sampler of the same tasks stood.

        Raises:
            ValueError: When the state is of another curriculum or another number of tasks.
        """
        for name, own in (("curriculum", self.curriculum), ("size", self._size)):
            if state[name] != own:
                raise ValueError(
                    f"the saved sampler has {name} {state[name]!r}, this one {own!r}; "
                    "resume with the same tasks and curriculum"
                )
        self._rule.load(state)
