"""Twelve ways to get an environment wrong, each with the law that `envs check` names."""

import json
import random
from typing import Annotated

import numpy as np
from palaestra.envs import (
    Cost,
    Credit,
    Env,
    Event,
    Limits,
    Message,
    Outcome,
    Progress,
    Reply,
    Rewards,
    Step,
    TaskSet,
    register,
    tool,
)
from palaestra.envs.parsing import hermes
from palaestra.envs.tools import Field

COLOURS = ("crimson", "emerald", "magenta", "turquoise", "vermilion")


class Honest(Env):
    """Guess the colour; every other environment here breaks one law of this one."""

    tasks = TaskSet.generate(lambda s: {"answer": COLOURS[s.integers(5)]}, id="colours")
    rewards = Rewards(success=Outcome(1.0), near=Progress(0.3), price=Cost((0.0, 10.0)))
    limits = Limits(turns=6)

    def begin(self, task):
        self.state = {"letters": 0}
        return "Which colour am I thinking of? Ask for its first letters, or say it."

    @tool
    def letters(self, count: Annotated[int, Field(ge=1, le=4)]) -> str:
        """Show the first letters of the colour."""
        self.state["letters"] = max(self.state["letters"], count)
        return self.task["answer"][:count]

    def after(self, results):
        return Reply(costs={"price": float(len(results))})

    def potentials(self):
        return {"near": self.state["letters"] / 4}

    def score(self, answer):
        return float(answer.strip() == self.task["answer"])

    def solution(self, task):
        call = '<tool_call>{"name": "letters", "arguments": {"count": 4}}</tool_call>'
        return [call, task["answer"]]


class GlobalRandom(Honest):
    """Draws from the generator that the whole process shares."""

    def begin(self, task):
        return super().begin(task) + f" Hint {random.randrange(1000)}."


class HiddenAttribute(Honest):
    """Counts in an attribute that no snapshot holds."""

    asked = 0

    def after(self, results):
        self.asked += 1
        return super().after(results)


class SpamPays(Honest):
    """Pays for every call, without an end that matters."""

    rewards = Rewards(success=Outcome(1.0), near=Progress(0.3), talk=Event(0.2, cap=5.0))

    def after(self, results):
        return Reply(credits=(Credit("talk", 1.0),))


class NoTelescope(Honest):
    """Pays progress by hand, on top of what its potential says."""

    def after(self, results):
        return Reply(credits=(Credit("near", 0.5),))


class CostInReward(Honest):
    """Subtracts a cost from the reward, so that the trainer cannot bound it."""

    def settle(self, pending, results=()):
        out = super().settle(pending, results)
        if isinstance(out, Step):
            out = out._replace(reward=out.reward - sum(out.costs.values()))
        return out


class Leak(Honest):
    """Tells the answer in the question."""

    def begin(self, task):
        return super().begin(task) + f" (not {task['answer']}?)"


class UnseededNoise(Honest):
    """Makes a generator of its own that nobody can set."""

    def begin(self, task):
        return super().begin(task) + f" Noise {np.random.default_rng().integers(10**6)}."


class UnboundedResult(Honest):
    """Says more than an observation may hold."""

    def settle(self, pending, results=()):
        out = super().settle(pending, results)
        if isinstance(out, Step):
            out = out._replace(messages=(*out.messages, Message("user", "x" * 100_000)))
            self.episode.messages.append(out.messages[-1])
        return out


class LostState(Honest):
    """Remembers beside its state what its answers depend on."""

    def begin(self, task):
        self.notes = []
        return super().begin(task)

    @tool
    def letters(self, count: Annotated[int, Field(ge=1, le=4)]) -> str:
        """Show the first letters of the colour."""
        self.notes.append(count)
        self.state["letters"] = max(self.notes)
        return self.task["answer"][: self.state["letters"]]


class TextOutside(Honest):
    """Returns an observation that is no text of its space."""

    def step(self, action):
        seen, *rest = super().step(action)
        return (seen + "\ud800", *rest)


class RaiseOnBadJson(Honest):
    """Lets what the agent wrote stop the run."""

    @staticmethod
    def parser(text):
        if text.startswith("<tool_call>"):
            json.loads(text.removeprefix("<tool_call>").partition("</tool_call>")[0])
        return hermes(text)


class BothEnds(Honest):
    """Says that the task and our patience ended at once."""

    def settle(self, pending, results=()):
        out = super().settle(pending, results)
        return out._replace(truncated=True) if isinstance(out, Step) and out.terminated else out


FAULTS = {
    GlobalRandom: "ENV-SEED3",
    HiddenAttribute: "ENV-STATE1",
    SpamPays: "ENV-REW2",
    NoTelescope: "ENV-REW3",
    CostInReward: "ENV-REW7",
    Leak: "ENV-TASK5",
    UnseededNoise: "ENV-SEED1",
    UnboundedResult: "ENV-SPACE1",
    LostState: "ENV-SNAP1",
    TextOutside: "ENV-SPACE1",
    RaiseOnBadJson: "ENV-TOTAL1",
    BothEnds: "ENV-END1",
}

register("broken/Honest-v0", Honest, summary=Honest.__doc__)
for kind, code in FAULTS.items():
    register(f"broken/{kind.__name__}-v0", kind, summary=f"{kind.__doc__} Breaks {code}.")
