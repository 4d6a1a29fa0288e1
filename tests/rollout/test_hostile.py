"""Agent programs that loop, fork, fill memory or flood output: ended, and the episodes go on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest
from palaestra.agents.core import Policy, Seat, Turn
from palaestra.envs import Limits, Message, TaskSet
from palaestra.envs.code.env import Code
from palaestra.rollout.engine import Engine, Start

PROGRAMS = {
    "loop": "while True: pass",
    "fork": "import os\nwhile True: os.fork()",
    "memory": "x = bytearray(1 << 40)",
    "grow": "x = [0]\nwhile True: x += x",
    "flood": "while True: print('x' * 1000)",
    "exit": "import os\nos._exit(3)",
    "kill": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "deep": "def f(): return f()\nf()",
}


TASKS = TaskSet.load(
    [
        {
            "id": "add",
            "prompt": "Return the sum of a and b.",
            "entry_point": "add",
            "tests": [{"code": "assert add(1, 2) == 3", "hidden": True}],
            "limits": {"wall": 1.0, "memory": 128 << 20},
        }
    ]
)


def call(name: str, **arguments: str) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


class Vandal:
    """Runs one hostile program, then solves nothing."""

    name = "vandal"
    policies: Mapping[str, Policy] = {}

    def start(self, seat: Seat) -> list[str]:
        programs = list(PROGRAMS.values())
        return [call("run", code=programs[seat.key.seed % len(programs)]), call("submit")]

    def turn(self, memory: list[str], news: Sequence[Message]) -> Turn:
        yield from ()
        return Message("assistant", memory.pop(0) if memory else "")


@pytest.mark.linux
def test_hostile_programs_end_and_every_episode_comes_to_its_own_end() -> None:
    def make() -> Code:
        return Code(tasks=TASKS, limits=Limits(turns=4))

    engine = Engine(Vandal(), make)
    found = engine.gather([Start(seed) for seed in range(len(PROGRAMS))])
    again = engine.gather([Start(0)])  # and the engine goes on
    engine.close()
    assert len(found) == len(PROGRAMS)
    for one in (*found, *again):
        assert not one.outcome.excluded
        assert one.outcome.success is False
        said = [message.content for message in one.messages if message.role == "tool"]
        assert said
        assert all(len(text) < 20_000 for text in said)
