"""Closed-form small worlds: few words, few turns, an optimum one can compute."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from .core import Env, Limits, Reply
from .grammar import Grammar
from .messages import Credit, Message, ToolCall, ToolResult
from .parsing import render
from .randomization import Choice, Domain, IntUniform, Uniform
from .rewards import Outcome, Penalty, Progress, Rewards
from .tasks import Task, TaskSet
from .tokenizers import FragmentTokenizer, WordTokenizer
from .tools import Field, ToolError, tool

DIGITS: Final = tuple("0123456789")
LETTERS: Final = tuple("abcdefgh")
LONGEST_COPY: Final = 12  # letters
LONGEST_SUM: Final = 4  # digits of each number
OTHER: Final = "<overflow>"  # a stretch of text outside the vocabulary: what a problem says


def opening(name: str, argument: str) -> str:
    """Returns the text of a call up to the value of its only argument."""
    return f'<tool_call>{{"name": "{name}", "arguments": {{"{argument}": '


CLOSING: Final = "}}</tool_call>"


class Compare(Env):
    """Find a hidden number by asking for comparisons."""

    tasks = TaskSet.generate(lambda r: {"u": float(r.random())}, id="compare")
    rewards = Rewards(success=Outcome(1.0), narrowing=Progress(0.3), format=Penalty(-0.05, cap=0.2))
    domain = Domain(
        high=Choice([50, 100, 200], nominal=100),
        lie=Uniform(0.0, 0.1, nominal=0.0, held_out=(0.1, 0.4)),
    )
    limits = Limits(turns=12)
    tokenizer = FragmentTokenizer(
        [
            "I think of a number from 1 to ",
            ". Use compare(n), then say the number.",
            "higher",
            "not higher",
            opening("compare", "n"),
            CLOSING,
            *DIGITS,
            OTHER,
        ]
    )

    def begin(self, task: Task) -> str:
        """Thinks of a number."""
        high = self.params["high"]
        self.state = {"low": 1, "high": high, "target": 1 + int(task["u"] * high)}
        return f"I think of a number from 1 to {high}. Use compare(n), then say the number."

    @tool
    def compare(self, n: Annotated[int, Field(ge=1, le=200)]) -> str:
        """Is the hidden number higher than n?"""
        higher = self.state["target"] > n
        if higher:
            self.state["low"] = max(self.state["low"], n + 1)
        else:
            self.state["high"] = min(self.state["high"], n)
        lie = self.stream("noise").random() < self.params["lie"]
        return "higher" if higher != lie else "not higher"

    def potentials(self) -> dict[str, float]:
        """How far the interval that holds the number has shrunk."""
        return {"narrowing": 1 - (self.state["high"] - self.state["low"]) / self.params["high"]}

    def score(self, answer: str) -> float:
        """1 for the number."""
        return float(answer.strip() == str(self.state["target"]))

    def menu(self) -> list[ToolCall | str]:
        """All comparisons and all numbers."""
        asked: list[ToolCall | str] = [
            ToolCall("", "compare", {"n": n}, (0, 0)) for n in range(1, 201)
        ]
        return asked + [str(n) for n in range(1, 201)]

    def solution(self, task: Task) -> list[str]:
        """Halves the interval, then says the number."""
        low, high = 1, self.params["high"]
        target = 1 + int(task["u"] * high)
        messages: list[str] = []
        while low < high:
            middle = (low + high) // 2
            messages.append(f"{opening('compare', 'n')}{middle}{CLOSING}")
            low, high = (middle + 1, high) if target > middle else (low, middle)
        return [*messages, str(target)]


class Copy(Env):
    """Say the letters again: credit by token, and longer texts than those trained on."""

    tasks = TaskSet.generate(
        lambda r: {"letters": r.choice(LETTERS, size=LONGEST_COPY).tolist()}, id="copy"
    )
    rewards = Rewards(correct=Outcome(1.0), prefix=Progress(0.3))
    domain = Domain(length=IntUniform(1, 6, nominal=4, held_out=(7, LONGEST_COPY)))
    limits = Limits(turns=1)
    tokenizer = WordTokenizer(["copy", *LETTERS, OTHER])
    grammar = Grammar([[LETTERS] * length for length in range(1, LONGEST_COPY + 1)], joiner=" ")

    def begin(self, task: Task) -> str:
        """Shows the letters."""
        wanted = task["letters"][: self.params["length"]]
        self.state = {"wanted": wanted, "prefix": 0.0}
        return "copy " + " ".join(wanted)

    def score(self, answer: str) -> float:
        """1 for the same letters; marks how many are right before the first that is not."""
        wanted, said = self.state["wanted"], answer.split()
        right = 0
        for mine, theirs in zip(wanted, said, strict=False):
            if mine != theirs:
                break
            right += 1
        self.state["prefix"] = right / len(wanted)
        return float(said == wanted)

    def potentials(self) -> dict[str, float]:
        """Share of the letters said right before the first wrong one."""
        return {"prefix": self.state["prefix"]}

    def solution(self, task: Task) -> list[str]:
        """The letters."""
        return [" ".join(task["letters"][: self.params["length"]])]


class Sum(Env):
    """Add two numbers, in the head or with a tool that costs a message."""

    tasks = TaskSet.generate(lambda r: {"u": r.random(2).tolist()}, id="sum")
    rewards = Rewards(success=Outcome(1.0), digits=Progress(0.3), step=Penalty(-0.01, cap=0.05))
    domain = Domain(digits=IntUniform(1, 3, nominal=2, held_out=(4, LONGEST_SUM)))
    limits = Limits(turns=4)
    tokenizer = FragmentTokenizer(
        [
            "What is ",
            "+",
            "?",
            opening("calculate", "expression") + '"',
            f'"{CLOSING}',
            *DIGITS,
            OTHER,
        ]
    )
    grammar = Grammar(
        [
            [
                [opening("calculate", "expression") + '"'],
                DIGITS,
                *[("", *DIGITS)] * (LONGEST_SUM - 1),
                ["+"],
                DIGITS,
                *[("", *DIGITS)] * (LONGEST_SUM - 1),
                [f'"{CLOSING}'],
            ],
            [DIGITS, *[("", *DIGITS)] * LONGEST_SUM],
        ]
    )

    def begin(self, task: Task) -> str:
        """Asks for the sum of two numbers of `digits` digits."""
        a, b = self._terms(task)
        self.state = {"total": str(a + b), "right": 0.0}
        return f"What is {a}+{b}?"

    def _terms(self, task: Task) -> tuple[int, int]:
        span = 10 ** self.params["digits"]
        a, b = (int(u * span) for u in task["u"])
        return a, b

    @tool
    def calculate(self, expression: Annotated[str, Field(max_length=40)]) -> str:
        """Add two numbers.

        Args:
            expression: such as 12+34
        """
        found = re.fullmatch(r"\s*(\d{1,9})\s*\+\s*(\d{1,9})\s*", expression, re.ASCII)
        if found is None:
            raise ToolError(f"{expression!r} is no sum of two numbers; write it like 12+34")
        return str(int(found[1]) + int(found[2]))

    def score(self, answer: str) -> float:
        """1 for the sum; marks how many of its digits are right, counted from the last one."""
        wanted, said = self.state["total"], answer.strip()
        right = 0
        for mine, theirs in zip(reversed(wanted), reversed(said), strict=False):
            if mine != theirs:
                break
            right += 1
        self.state["right"] = right / len(wanted) if len(said) <= len(wanted) else 0.0
        return float(said == wanted)

    def potentials(self) -> dict[str, float]:
        """Share of the digits said right."""
        return {"digits": self.state["right"]}

    def solution(self, task: Task) -> list[str]:
        """The sum."""
        return [str(sum(self._terms(task)))]


class KeyDoor(Env):
    """Fetch the key, carry it to the door, open it: the reward comes rooms after its cause."""

    tasks = TaskSet.generate(lambda r: {"u": r.random(3).tolist()}, id="keydoor")
    rewards = Rewards(success=Outcome(1.0), stage=Progress(0.2), step=Penalty(-0.01, cap=0.2))
    domain = Domain(rooms=IntUniform(2, 5, nominal=4, held_out=(6, 9)))
    limits = Limits(turns=20)
    calls: Final = (
        ToolCall("", "move", {"to": "left"}, (0, 0)),
        ToolCall("", "move", {"to": "right"}, (0, 0)),
        ToolCall("", "take", {}, (0, 0)),
        ToolCall("", "use", {}, (0, 0)),
    )
    tokenizer = FragmentTokenizer(
        [
            *(f'{opening("move", "to")}"{to}"{CLOSING}' for to in ("left", "right")),
            *(
                f'<tool_call>{{"name": "{name}", "arguments": {{{CLOSING}'
                for name in ("take", "use")
            ),
            " rooms in a row. You are in room ",
            ", the key in ",
            ", the key with you",
            ", the door in ",
            ".",
            "There is no room on that side.",
            "There is nothing to take here.",
            "The door is not here.",
            "The door is locked; you have no key.",
            "The door is open.",
            "Move, take or use.",
            *DIGITS[1:],
            OTHER,
        ]
    )

    def begin(self, task: Task) -> str:
        """Puts the agent, the key and the door somewhere."""
        rooms = self.params["rooms"]
        you, key, door = (1 + int(u * rooms) for u in task["u"])
        self.state = {"rooms": rooms, "you": you, "key": key, "door": door, "open": False}
        return self._sight()

    def _sight(self) -> str:
        state = self.state
        key = f"in {state['key']}" if state["key"] else "with you"  # room 0: the agent's pocket
        return (
            f"{state['rooms']} rooms in a row. You are in room {state['you']}, the key {key}, "
            f"the door in {state['door']}."
        )

    @tool
    def move(self, to: Literal["left", "right"]) -> str:
        """Go to the next room."""
        room = self.state["you"] + (1 if to == "right" else -1)
        if not 1 <= room <= self.state["rooms"]:
            return "There is no room on that side."
        self.state["you"] = room
        return self._sight()

    @tool
    def take(self) -> str:
        """Take the key that lies in this room."""
        if self.state["key"] != self.state["you"]:
            return "There is nothing to take here."
        self.state["key"] = 0
        return self._sight()

    @tool
    def use(self) -> str:
        """Open the door of this room with the key."""
        if self.state["door"] != self.state["you"]:
            return "The door is not here."
        if self.state["key"]:
            return "The door is locked; you have no key."
        self.state["open"] = True
        return "The door is open."

    def after(self, results: Sequence[ToolResult]) -> Reply | None:
        """Ends behind the open door."""
        if not self.state["open"]:
            return None
        return Reply(credits=(Credit("success", 1.0),), end="goal", success=True)

    def respond(self, message: Message) -> Reply:
        """Words open no door."""
        return Reply(messages=(Message("user", "Move, take or use."),))

    def potentials(self) -> dict[str, float]:
        """A half for the key, a half for the door."""
        return {"stage": 0.5 * (self.state["key"] == 0) + 0.5 * self.state["open"]}

    def menu(self) -> list[ToolCall | str]:
        """The four calls."""
        return list(self.calls)

    def solution(self, task: Task) -> list[str]:
        """The shortest way: to the key, then to the door."""
        you, key, door = (1 + int(u * self.params["rooms"]) for u in task["u"])
        left, right, take, use = (render([call]) for call in self.calls)
        fetch = [right if key > you else left] * abs(key - you)
        carry = [right if door > key else left] * abs(door - key)
        return [*fetch, take, *carry, use]
