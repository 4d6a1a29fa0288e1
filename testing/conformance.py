"""Does an environment keep the laws that every environment keeps?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..envs import registry
from ..envs.core import Env
from . import invariants_rewards, invariants_state
from .invariants import INVARIANTS, Invariant
from .trials import InapplicableError, Trial, ViolationError, described

__all__ = ["GROUPS", "Report", "Row", "check_environment"]

VIEWS = ("turn", "tool", "token")
GROUPS = ("spaces", "total", "seed", "state", "end", "rewards", "views", "tasks")
# their import declares their laws
assert invariants_rewards
assert invariants_state


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one law.

    Attributes:
        code: the law's name.
        group: its group.
        says: the law in words.
        outcome: whether it holds; "skipped" where it has nothing to say.
        detail: what broke it, or why it was skipped.
        seed: of the shortest episode found that breaks it.
        actions: the actions of that episode.
    """

    code: str
    group: str
    says: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str = ""
    seed: int | None = None
    actions: tuple[Any, ...] = ()

    def __str__(self) -> str:
        mark = {"passed": "ok  ", "failed": "FAIL", "skipped": "-   "}[self.outcome]
        lines = [f"{mark} {self.code:<11} {self.says}"]
        if self.outcome == "failed":
            lines.append(f"     {self.detail}")
            if self.seed is not None:
                sent = ", ".join(short(action) for action in self.actions) or "nothing"
                lines.append(f"     again with: reset(seed={self.seed}), then {sent}")
        elif self.detail:
            lines[0] += f" ({self.detail})"
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """What became of all laws; its text names the broken ones and how to see them break.

    Attributes:
        name: the environment.
        rows: one a law.
    """

    name: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether no law is broken."""
        return not self.failed

    ok = passed

    @property
    def failed(self) -> tuple[Row, ...]:
        """The broken laws."""
        return tuple(row for row in self.rows if row.outcome == "failed")

    def to_json(self) -> dict[str, Any]:
        """Returns the report as plain data."""
        rows = [
            {
                "code": row.code,
                "group": row.group,
                "says": row.says,
                "outcome": row.outcome,
                "detail": row.detail,
                "seed": row.seed,
                "actions": [repr(action) for action in row.actions],
            }
            for row in self.rows
        ]
        return {"env": self.name, "passed": self.passed, "rows": rows}

    def __str__(self) -> str:
        kept = sum(row.outcome == "passed" for row in self.rows)
        skipped = sum(row.outcome == "skipped" for row in self.rows)
        end = f"{self.name}: {kept} laws hold, {len(self.failed)} are broken, {skipped} left out"
        return "\n".join([*map(str, self.rows), end])

    # a failing `assert check_environment(...).passed` shows this in pytest
    __repr__ = __str__


def check_environment(
    make: str | Callable[[], Env],
    *,
    views: Iterable[str] = VIEWS,
    examples: int = 50,
    quick: bool = False,
    groups: Sequence[str] = GROUPS,
) -> Report:
    """Looks for an episode that breaks a law of environments; one line in a test.

    Args:
        make: a registered id, or what makes a fresh environment (a class will do).
        views: the views to check.
        examples: drawn episodes a law; fewer where tools leave the process.
        quick: a quarter of the examples, and nothing that needs other processes.
        groups: the groups of laws to check.

    Returns:
        One row a law. Seeds are fixed: the same environment gives the same report.

    Raises:
        ValueError: there is no such view or group.

    >>> from palaestra.envs.small import Copy
    >>> check_environment(Copy, quick=True, groups=["end"]).passed
    True
    """
    known(views := tuple(views), VIEWS, "view")
    known(groups, GROUPS, "group")
    maker = Named(make) if isinstance(make, str) else make
    trial = Trial(maker, views, examples, quick)
    wanted = sorted(
        (law for law in INVARIANTS if law.group in groups), key=lambda law: GROUPS.index(law.group)
    )
    return Report(trial.env.env_id, tuple(judged(law, trial) for law in wanted))


class Named:
    """Makes a registered environment; picklable, so that other processes can make it too."""

    def __init__(self, id: str) -> None:
        self.id = id

    def __call__(self) -> Env:
        """Makes one."""
        return registry.make(self.id)


def judged(law: Invariant, trial: Trial) -> Row:
    """Returns what became of one law."""
    try:
        law.check(trial)
    except InapplicableError as reason:
        return Row(law.code, law.group, law.says, "skipped", str(reason))
    except ViolationError as fault:
        actions = tuple(fault.actions or ())
        return Row(law.code, law.group, law.says, "failed", fault.detail, fault.seed, actions)
    except Exception as error:
        return Row(law.code, law.group, law.says, "failed", described(error))
    return Row(law.code, law.group, law.says, "passed")


def short(action: Any) -> str:
    """Returns an action as text of bounded length."""
    text = repr(action)
    return text if len(text) <= 300 else f"{text[:200]}... ({len(text):,} characters)"


def known(given: Iterable[str], names: Sequence[str], what: str) -> None:
    """Refuses a name that does not exist."""
    for name in given:
        if name not in names:
            raise ValueError(f"there is no {what} {name!r}; give {', '.join(names)}")
