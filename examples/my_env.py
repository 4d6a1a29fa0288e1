"""An environment of your own; `python my_env.py --train.iterations 30` checks and trains it."""

import sys
from typing import Literal

from palaestra.envs import Env, Outcome, Penalty, Rewards, TaskSet, ToolCall, register, tool

DRINKS = ("tea", "milk", "juice")


class Drinks(Env):
    """A guest wants a drink: pour it, then say that it is served."""

    tasks = TaskSet.generate(lambda stream: {"drink": DRINKS[stream.integers(3)]}, id="drinks")
    rewards = Rewards(success=Outcome(1.0), step=Penalty(-0.02, cap=0.2))

    def begin(self, task):
        self.state = {"glass": "nothing"}
        return f"The guest wants {task['drink']}."

    @tool
    def pour(self, drink: Literal[DRINKS]) -> str:
        """Fill the glass, whatever was in it."""
        self.state["glass"] = drink
        return f"The glass holds {drink}."

    def score(self, answer):
        return float(answer == "served" and self.state["glass"] == self.task["drink"])

    def menu(self):  # lets the smallest policies play: they choose among these messages
        return [*(ToolCall("", "pour", {"drink": drink}, (0, 0)) for drink in DRINKS), "served"]


register("my/Env-v0", Drinks, summary="Pour what the guest wants.")
if __name__ == "__main__":
    from palaestra.cli.main import main
    from palaestra.testing import check_environment

    print(check_environment(Drinks, quick=True))
    main(["train", "--env.id", "my/Env-v0", *sys.argv[1:]])
