"""An environment of your own; `python my_env.py --train.iterations 20` checks and trains it."""

import sys
from typing import Literal

from palaestra.envs import Env, Outcome, Penalty, Rewards, TaskSet, ToolCall, register, tool


class Boxes(Env):
    """One of three boxes holds a coin: look into one, or say where it is."""

    tasks = TaskSet.generate(lambda stream: {"coin": "abc"[stream.integers(3)]}, id="boxes")
    rewards = Rewards(success=Outcome(1.0), step=Penalty(-0.02, cap=0.1))

    def begin(self, task):
        self.state = {"coin": task["coin"]}
        return "Which box holds the coin: a, b or c?"

    @tool
    def look(self, box: Literal["a", "b", "c"]) -> str:
        """Look into a box."""
        return "a coin" if box == self.state["coin"] else "nothing"

    def score(self, answer):
        return float(answer.strip() == self.state["coin"])

    def menu(self):  # lets the smallest policies play: they choose among these messages
        return [*(ToolCall("", "look", {"box": box}, (0, 0)) for box in "abc"), *"abc"]

    def solution(self, task):
        return [task["coin"]]


register("my/Env-v0", Boxes, summary="Find the coin in one of three boxes.")
if __name__ == "__main__":
    from palaestra.cli.main import main
    from palaestra.testing import check_environment

    print(check_environment(Boxes, quick=True))
    main(["train", "--env.id", "my/Env-v0", *sys.argv[1:]])
