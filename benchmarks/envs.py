"""What the environment core costs beside a loop written by hand for one environment.

    python benchmarks/envs.py

The work: a session of nine calls of `echo` and an answer, with history. The loop knows only this
environment: no schema, no validation, no credits, no limits on text, no seeds, no snapshots. Both
are timed in turn in one process, in CPU time, and the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from palaestra.envs import Env, Limits, Outcome, Penalty, Rewards, TaskSet, tool
from palaestra.envs.vector import TextVectorEnv

RESULTS = Path(__file__).parent / "results" / "envs.md"
CALLS = 9
LINES = [
    f'<tool_call>{{"name": "echo", "arguments": {{"text": "{number}"}}}}</tool_call>'
    for number in range(CALLS)
] + ["done"]


class Echo(Env):
    """Say something nine times, then answer."""

    tasks = TaskSet.generate(lambda stream: {}, id="echo")
    rewards = Rewards(success=Outcome(1.0), format=Penalty(-0.05, cap=0.2))
    limits = Limits(turns=20)

    def begin(self, task: Mapping[str, Any]) -> str:
        self.state = {"said": 0}
        return "Say something."

    @tool
    def echo(self, text: str) -> str:
        """Say it again."""
        self.state["said"] += 1
        return text

    def score(self, answer: str) -> float:
        return float(answer == "done" and self.state["said"] == CALLS)


class Loop:
    """The same by hand, for this environment alone: messages, one tool, a history, an info."""

    def __init__(self) -> None:
        self.tools = {"echo": self.echo}

    def echo(self, text: str) -> str:
        self.said += 1
        return text

    def start(self, seed: int) -> list[dict[str, Any]]:
        self.said = self.turn = 0
        self.history: list[dict[str, Any]] = [{"role": "user", "content": "Say something."}]
        return self.history

    def advance(self, text: str) -> tuple[list[dict[str, Any]], float, bool, bool, dict[str, Any]]:
        self.turn += 1
        begin = text.find("<tool_call>")
        if begin < 0:
            self.history.append({"role": "assistant", "content": text})
            reward = float(text.strip() == "done" and self.said == CALLS)
            return [], reward, True, False, {"turn": self.turn, "terms": {"success": reward}}
        try:
            call = json.loads(text[begin + 11 : text.index("</tool_call>", begin)])
            answer = self.tools[call["name"]](**call["arguments"])
        except (ValueError, KeyError, TypeError) as error:
            answer = f"error: {error}"
        call_id = f"c{self.turn}"
        self.history.append({"role": "assistant", "content": text, "tool_calls": [call_id]})
        result = {"role": "tool", "content": str(answer), "tool_call_id": call_id}
        self.history.append(result)
        truncated = self.turn >= 20
        return [result], 0.0, False, truncated, {"turn": self.turn, "terms": {}}


def native(env: Any) -> Callable[[], None]:
    def session() -> None:
        env.start(1)
        for line in LINES:
            env.advance(line)

    return session


def turns(env: Echo) -> Callable[[], None]:
    def session() -> None:
        env.reset(seed=1)
        for line in LINES:
            env.step(line)

    return session


def vector(count: int) -> Callable[[], None]:
    envs = TextVectorEnv([Echo() for _ in range(count)])

    def session() -> None:
        envs.reset(seed=1)
        for line in LINES:
            envs.step([line] * count)

    return session


def loops(count: int) -> Callable[[], None]:
    sessions = [Loop() for _ in range(count)]

    def session() -> None:
        for one in sessions:
            one.start(1)
        for line in LINES:
            for one in sessions:
                one.advance(line)

    return session


def timed(session: Callable[[], None], repeats: int) -> float:
    began = time.process_time()
    for _ in range(repeats):
        session()
    return (time.process_time() - began) / repeats


def compare(
    name: str,
    ours: Callable[[], None],
    theirs: Callable[[], None],
    steps: int,
    aim: float,
    rounds: int,
) -> dict[str, Any]:
    repeats = max(1, 4_000 // steps)
    timed(ours, repeats), timed(theirs, repeats)
    pairs = [(timed(ours, repeats), timed(theirs, repeats)) for _ in range(rounds)]
    ratio = statistics.median(mine / hand for mine, hand in pairs)
    micro = statistics.median(mine for mine, _ in pairs) / steps * 1e6
    hand = statistics.median(hand for _, hand in pairs) / steps * 1e6
    return {"name": name, "us": micro, "loop": hand, "ratio": ratio, "aim": aim}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="write the results file")
    args = parser.parse_args()
    steps = len(LINES)
    rows = [
        compare(
            "1 session, native start/advance",
            native(Echo()),
            native(Loop()),
            steps,
            2.5,
            args.rounds,
        ),
        compare(
            "1 session, reset/step of the turn view",
            turns(Echo()),
            native(Loop()),
            steps,
            3.3,
            args.rounds,
        ),
        compare("64 sessions, TextVectorEnv", vector(64), loops(64), 64 * steps, 2.5, args.rounds),
    ]
    lines = ["| what | us a step | hand loop | ratio | aim | met |", "|---|---|---|---|---|---|"]
    for row in rows:
        met = "yes" if row["ratio"] <= row["aim"] else "no"
        lines.append(
            f"| {row['name']} | {row['us']:.2f} | {row['loop']:.2f} | {row['ratio']:.2f} x "
            f"| <= {row['aim']} x | {met} |"
        )
    table = "\n".join(lines)
    print(table)
    if args.write:
        RESULTS.write_text(
            "# Environment core against a hand-written loop\n\n`python benchmarks/envs.py`\n\n"
            f"CPU time, one core, median of {args.rounds} alternating rounds.\n\n{table}\n"
        )
    return 0 if all(row["ratio"] <= row["aim"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
