"""Write docs/environments.md, a card for each built-in environment, from what describes itself."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from palaestra.envs import registry

PAGE = Path(__file__).parent / "environments.md"
HEAD = """\
# Environments

One card for each id that ships with the package. `python docs/make_cards.py` writes this page from
what the environments say of themselves; a test keeps it in step. The same facts on a terminal:

```bash
palaestra envs list
palaestra envs describe palaestra/CodeDrill-v0
```

Every environment also takes `tasks`, `split`, `reward`, `domain`, `limits`, `parser`,
`render_mode`, `sandbox` and `seed`; see [Env](env.md). A message after the last turn is never
read: the episode ends truncated, reason `turns`.
"""
# why an episode ends, besides its limits: rules say it in code, so it is written down here
ENDS = {
    "palaestra/Code-v0": "`submitted` after submit() or a message without a call; `budget` after "
    "the last run of budget_runs; `answered` after an empty message. Success: all hidden tests "
    "pass.",
    "palaestra/CodeDrill-v0": "`goal` when every function passed its tests; `budget` when all are "
    "passed or out of tries. Success: every function passed.",
    "palaestra/Compare-v0": "`answered` after a message without a call. Success: it is the number.",
    "palaestra/Copy-v0": "`answered` after the one message. Success: the same letters.",
    "palaestra/KeyDoor-v0": "`goal` behind the open door. Words alone end nothing.",
    "palaestra/Sum-v0": "`answered` after a message without a call. Success: it is the sum.",
}


def page() -> str:
    """The whole page."""
    ids = [entry.id for entry in registry.entries() if entry.id.startswith("palaestra/")]
    return "\n".join([HEAD, *(line for id in ids for line in card(id))]).rstrip() + "\n"


def card(id: str) -> Iterator[str]:
    """The lines of one environment."""
    found = registry.describe(id)
    yield from (f"## {id}", "", found["doc"], "")
    yield from ("**Spaces**", "")
    for view, spaces in found["views"].items():
        yield f"- {view}: action `{spaces['action']}`, observation `{spaces['observation']}`"
    yield ""
    if found["tools"]:
        yield from ("**Tools**", "")
        yield from (f"- {tool_line(tool['function'])}" for tool in found["tools"])
        yield ""
    yield from ("**Reward terms**", "", "| term | kind | weight | bound |", "|---|---|---|---|")
    for name, term in found["terms"].items():
        yield f"| `{name}` | {term['kind']} | {term['weight']:g} | {bound(term)} |"
    low, high = found["reward_range"]
    costs = "".join(f" Costs, apart from the reward: {', '.join(map(code, found['costs']))}.")
    yield from ("", f"An episode's sum lies in [{low:g}, {high:g}].{costs * bool(found['costs'])}")
    yield from ("", f"**Ends**: {ENDS[id]} Turns: {found['limits']['turns']}.")
    if found["domain"]:
        yield from ("", "**Randomisation**", "")
        yield from (f"- `{name}`: `{how}`" for name, how in found["domain"].items())
    if own := list(arguments(id)):
        yield from ("", "**Arguments of its own**", "", *own)
    yield from ("", f"**Tasks**: `{found['tasks']}`", "")


def tool_line(tool: Mapping[str, Any]) -> str:
    """A tool as `name(arguments)` and what it tells the agent."""
    names = ", ".join(tool["parameters"]["properties"])
    return f"`{tool['name']}({names})`: {tool['description']}"


def bound(term: Mapping[str, Any]) -> str:
    """What limits a term's sum over an episode."""
    if "cap" in term:
        return f"at most ±{term['cap']:g} in all"
    if "bounds" in term:
        low, high = term["bounds"]
        return f"signal in [{low:g}, {high:g}]"
    return "difference of a potential in [0, 1]"


def arguments(id: str) -> Iterator[str]:
    """Keyword, default and meaning of what the constructor takes beside the common arguments."""
    made = registry.load(registry.find(id).entry).__init__
    told = dict(re.findall(r"^ {4}(\w+): ((?:.|\n {8})+)", inspect.getdoc(made) or "", re.M))
    common = {"tasks", "parser"}
    for name, parameter in inspect.signature(made).parameters.items():
        own = parameter.kind is parameter.KEYWORD_ONLY and name not in common
        if own and "__init__" in vars(registry.load(registry.find(id).entry)):
            meaning = re.sub(r"\s+", " ", told.get(name, "")).strip()
            yield f"- `{name}` = `{parameter.default!r}`: {meaning}"


def code(name: str) -> str:
    """A name set as code."""
    return f"`{name}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
