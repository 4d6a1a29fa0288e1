"""Be the agent: read what the environment says, write what it shall hear."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..envs.core import Env, Step
    from ..envs.messages import Message
    from ..envs.snapshot import Snapshot

HELP = """type a message and Enter; \"\"\" begins and ends one of several lines
:undo  take the last message back      :fork  go on in a copy (:back returns)
:tools  the tools and their arguments   :why   what the last message earned
:quit   leave"""
BLOCK = '"""'


class Game:
    """One episode played by hand.

    Args:
        env: the environment.
        seed: of the episode; None: a fresh one.
        write: where lines go.
    """

    def __init__(self, env: Env, seed: int | None, write: Callable[[str], None]) -> None:
        self.env = env
        self.write = write
        self.before: list[tuple[Snapshot, float]] = []
        self.parents: list[tuple[Env, list[tuple[Snapshot, float]], float]] = []
        self.step: Step | None = None
        self.total = 0.0
        self.show(env.start(seed))

    @property
    def over(self) -> bool:
        """Whether the episode has ended."""
        return self.step is not None and (self.step.terminated or self.step.truncated)

    def show(self, messages: Iterable[Message]) -> None:
        """Print messages, each under its speaker."""
        for message in messages:
            speaker = {"user": "env", "system": "system", "tool": "tool"}.get(message.role, "agent")
            self.write(f"{speaker}: {message.content}")

    def say(self, text: str) -> None:
        """Send a message of the agent and print what comes back."""
        if self.over:
            self.write("the episode has ended: :undo goes back, :quit leaves")
            return
        self.before.append((self.env.snapshot(), self.total))
        self.step = self.env.advance(text)
        self.total += self.step.reward
        self.show(self.step.messages)
        self.write(f"[reward {self.step.reward:+.3g}, {self.total:+.3g} in all]")
        if self.over:
            word = {True: "success", False: "no success", None: "no verdict"}[self.step.success]
            self.write(f"[{self.step.reason}: {word}, return {self.total:.3g}]")

    def undo(self) -> None:
        """Take the last message back."""
        if not self.before:
            self.write("nothing to take back")
            return
        saved, self.total = self.before.pop()
        self.env.restore(saved)
        self.step = None
        self.write(f"[back: {len(self.before)} messages said]")

    def fork(self) -> None:
        """Go on in a copy of the environment."""
        self.parents.append((self.env, list(self.before), self.total))
        self.env = self.env.fork()[0]
        self.write(f"[in copy {len(self.parents)}; :back returns]")

    def back(self) -> None:
        """Leave the copy."""
        if not self.parents:
            self.write("this is no copy")
            return
        self.env.close()
        self.env, self.before, self.total = self.parents.pop()
        self.step = None
        self.show(self.env.messages[-1:])

    def tools(self) -> None:
        """Print the tools and their arguments."""
        for name, tool in self.env.tools.items():
            arguments = ", ".join(tool.parameters.get("properties", {}))
            self.write(f"{name}({arguments})  {tool.description}")

    def why(self) -> None:
        """Print what the last message earned, and by what."""
        if self.step is None:
            self.write("nothing was said yet")
            return
        for credit in self.step.credits:
            self.write(f"{credit.term} {credit.value:+.3g}  {credit.call_id or 'the message'}")
        if not self.step.credits:
            self.write("it earned nothing")


def play(env: Env, lines: Iterator[str], *, seed: int | None, write: Callable[[str], None]) -> Game:
    """Play until the lines end or ``:quit``.

    Args:
        env: the environment.
        lines: what is typed, without line ends.
        seed: of the episode.
        write: where the environment's words go.

    Returns:
        The game as it was left.
    """
    write(HELP)
    game = Game(env, seed, write)
    commands = {
        ":undo": game.undo,
        ":fork": game.fork,
        ":back": game.back,
        ":tools": game.tools,
        ":why": game.why,
        ":help": lambda: write(HELP),
    }
    for line in lines:
        word = line.strip()
        if word == ":quit":
            break
        if word in commands:
            commands[word]()
        elif word.startswith(":") and " " not in word:
            write(f"no command {word}; {', '.join(commands)}, :quit")
        elif word == BLOCK:
            game.say("\n".join(_block(lines)))
        else:
            game.say(line)
    return game


def _block(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if line.strip() == BLOCK:
            return
        yield line


def typed() -> Iterator[str]:
    """Lines of standard input, with a prompt on a terminal."""
    while True:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        yield line.rstrip("\n")
