"""What the author of an environment writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from numpy.typing import NDArray

from .exchange import Need, Reply
from .ledger import number
from .messages import Credit, Message, ToolCall, ToolResult
from .rewards import Outcome, Rewards
from .tasks import Task, TaskSet

__all__ = ["Rules"]


class Rules:
    """The hooks of an environment, each with what happens where the author writes none."""

    rewards: Rewards = Rewards(success=Outcome(1.0))
    has_score: ClassVar[bool] = False
    own_road: ClassVar[bool] = False  # propose or settle are overridden

    def begin(self, task: Task) -> str | Message | Sequence[Message]:
        """Sets `self.state` for a task and returns the first words to the agent."""
        raise NotImplementedError(f"{type(self).__name__} has no begin(task); write it")

    def after(self, results: Sequence[ToolResult]) -> Reply | Need | None:
        """Speaks after the tools of one message have run; by default nothing."""
        return None

    def resume(self, need: Need, answer: ToolResult) -> Reply | Need:
        """Goes on with the answer to a `Need` that `respond` or `after` returned."""
        raise NotImplementedError(
            f"{type(self).__name__} returns a Need but has no resume(); write it"
        )

    def score(self, answer: str) -> float:
        """Grades a final answer, within the bounds of the outcome it is paid under."""
        raise NotImplementedError(f"{type(self).__name__} has no score(answer); write it")

    def potentials(self) -> Mapping[str, float]:
        """Returns progress measures in [0, 1] of the present state."""
        return {}

    def menu(self) -> Sequence[ToolCall | str] | None:
        """Returns all calls and answers, the same in every episode; None: no such list."""
        return None

    def legal(self) -> Sequence[bool] | None:
        """Says which items of the menu are legal now; None: all."""
        return None

    def features(self) -> NDArray[Any] | None:
        """Returns a vector of fixed length for agents that read no text; None: text is hashed."""
        return None

    def solution(self, task: Task) -> list[str]:
        """Returns messages that solve the task when sent in a fresh episode of it."""
        raise NotImplementedError(f"{type(self).__name__} has no solution(task); write it")

    def mergeable(self, call: ToolCall) -> bool:
        """Whether this call's job may share an execution: only for text that a grammar confines."""
        return False

    def respond(self, message: Message) -> Reply | Need:
        """Answers a message without calls; by default it is the final answer."""
        return self.submit(message.content, reason="answered")

    def read_tasks(self, source: TaskSet | Any, split: str | None) -> TaskSet:
        """Reads what was given as `tasks=`."""
        if isinstance(source, TaskSet):
            return source if split is None else source.filter(lambda task: task.split == split)
        return TaskSet.load(source, split=split)

    def submit(self, answer: str, *, reason: str = "submitted") -> Reply:
        """Grades an answer with `score` and ends the episode."""
        if not self.has_score:
            return Reply(end=reason)
        outcomes = self.rewards.plan.outcomes
        term = "success" if "success" in outcomes else outcomes[0]
        value = number(f"reward term {term!r}", self.score(answer))
        success = value >= self.rewards.plan.bounds[term][1]
        return Reply(credits=(Credit(term, value),), end=reason, success=success)
