"""What the tools of Code-v0 do in their session, and how a run is told to the agent."""

from __future__ import annotations

import re
from typing import Any, Final

from ...tool_sandbox import Result
from ..outside import Workbench
from ..tools import SessionCall, ToolError
from .tasks import FILE


class Moves(SessionCall):
    """A method of the session, or a few with no other call of the message between them."""

    def run(self) -> Any:
        """Makes the moves."""
        move = {"edit": edit, "run_file": run_file}.get(self.method)
        return super().run() if move is None else move(self.session, **self.arguments)


def text_of(bench: Workbench, path: str) -> str:
    """Reads a file of a session as text."""
    return bench.read(path).decode("utf-8", "replace")


def edit(bench: Workbench, path: str, old: str, new: str) -> None:
    """Replaces a piece of a file that occurs in it once."""
    text = text_of(bench, path)
    found = text.count(old) if old else 0
    if found != 1:
        raise ToolError(f"old occurs {found} times in {path}; give a piece that occurs once")
    bench.write(path, text.replace(old, new))


def run_file(bench: Workbench, stdin: str) -> tuple[str, Result]:
    """Runs the answer; returns its text too."""
    source = text_of(bench, FILE)
    return source, bench.execute(source, stdin=stdin)


# how a refusal of the jail reads in the error text of a program
REFUSED: Final = re.compile(
    r"Operation not permitted|Permission denied|PermissionError|Network is unreachable"
)


def refused(result: Result) -> bool:
    """Whether a run tried what its jail forbids: a lower bound, since only texts tell."""
    return result.reason == "killed" or REFUSED.search(result.stderr) is not None


WORDS: Final = {
    "timeout": "stopped: it took too long",
    "cpu": "stopped: it used too much processor time",
    "memory": "stopped: it used too much memory",
    "output": "stopped: it wrote too much",
    "killed": "killed",
}


def shown(result: Result) -> str:
    """Returns what the agent reads of a run: output, errors, how it ended."""
    parts = [result.stdout.rstrip("\n"), result.stderr.rstrip("\n")]
    if result.reason in WORDS:
        parts.append(f"({WORDS[result.reason]})")
    elif not result.ok and not result.stderr:
        parts.append(f"(exit code {result.exit_code})")
    return plain("\n".join(part for part in parts if part)) or "(no output)"


# what differs between two runs of one program: addresses, temporary paths, durations
VOLATILE: Final = (
    (re.compile(r"\b0x[0-9a-fA-F]{4,}"), "0x..."),
    (re.compile(r"/tmp/[\w./-]+"), "/tmp/..."),
    (re.compile(r"\bin \d+\.\d+ ?s(econds)?\b"), "in ... s"),
)


def plain(text: str) -> str:
    """Returns a text without what differs between two runs of the same program."""
    for pattern, said in VOLATILE:
        text = pattern.sub(said, text)
    return text
