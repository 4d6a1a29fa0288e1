"""Where agents act."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core import (
        Env,
        EnvError,
        EpisodeOver,
        Limits,
        Need,
        Pending,
        Reply,
        Request,
        RewardError,
        Step,
        Thinks,
        run,
        shared_sandbox,
    )
    from .grammar import Grammar
    from .messages import Credit, Image, Message, Problem, ToolCall, ToolResult
    from .randomization import Bernoulli, Choice, Domain, Fixed, IntUniform, Uniform
    from .registry import describe, discover, entries, make, register
    from .rewards import (
        Cost,
        Event,
        Judge,
        Outcome,
        Penalty,
        Potential,
        Progress,
        Rewards,
        SelfEvaluation,
    )
    from .snapshot import Snapshot
    from .spaces import TextSpace
    from .tasks import Task, TaskSet
    from .tokenizers import ByteTokenizer, FragmentTokenizer, WordTokenizer
    from .tools import GradeCall, Job, SessionCall, Tool, Toolbox, ToolError, tool
    from .vector import TextVectorEnv, WorkerVectorEnv
    from .views import TokenView, ToolCallView

_HOMES = {
    "core": (
        "Env",
        "EnvError",
        "EpisodeOver",
        "Limits",
        "Need",
        "Pending",
        "Reply",
        "Request",
        "RewardError",
        "Step",
        "Thinks",
        "run",
        "shared_sandbox",
    ),
    "grammar": ("Grammar",),
    "messages": ("Credit", "Image", "Message", "Problem", "ToolCall", "ToolResult"),
    "randomization": ("Bernoulli", "Choice", "Domain", "Fixed", "IntUniform", "Uniform"),
    "registry": ("describe", "discover", "entries", "make", "register"),
    "rewards": (
        "Cost",
        "Event",
        "Judge",
        "Outcome",
        "Penalty",
        "Potential",
        "Progress",
        "Rewards",
        "SelfEvaluation",
    ),
    "snapshot": ("Snapshot",),
    "spaces": ("TextSpace",),
    "tasks": ("Task", "TaskSet"),
    "tokenizers": ("ByteTokenizer", "FragmentTokenizer", "WordTokenizer"),
    "tools": ("GradeCall", "Job", "SessionCall", "Tool", "ToolError", "Toolbox", "tool"),
    "vector": ("TextVectorEnv", "WorkerVectorEnv"),
    "views": ("TokenView", "ToolCallView"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Bernoulli",
    "ByteTokenizer",
    "Choice",
    "Cost",
    "Credit",
    "Domain",
    "Env",
    "EnvError",
    "EpisodeOver",
    "Event",
    "Fixed",
    "FragmentTokenizer",
    "GradeCall",
    "Grammar",
    "Image",
    "IntUniform",
    "Job",
    "Judge",
    "Limits",
    "Message",
    "Need",
    "Outcome",
    "Penalty",
    "Pending",
    "Potential",
    "Problem",
    "Progress",
    "Reply",
    "Request",
    "RewardError",
    "Rewards",
    "SelfEvaluation",
    "SessionCall",
    "Snapshot",
    "Step",
    "Task",
    "TaskSet",
    "TextSpace",
    "TextVectorEnv",
    "Thinks",
    "TokenView",
    "Tool",
    "ToolCall",
    "ToolCallView",
    "ToolError",
    "ToolResult",
    "Toolbox",
    "Uniform",
    "WordTokenizer",
    "WorkerVectorEnv",
    "describe",
    "discover",
    "entries",
    "make",
    "register",
    "run",
    "shared_sandbox",
    "tool",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
