"""Attacks every backend with every named case, as root and as a plain user, and writes the table.

    python benchmarks/conformance.py [--write]

"held" is what was seen, not what is claimed. Cases that would harm the machine are "not tried" on
`process`, which isolates nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import warnings
from pathlib import Path

from palaestra.testing import plain_user
from palaestra.testing.attacks import ATTACKS, check_sandbox
from palaestra.testing.engine import NoEngine, docker_engine
from palaestra.tool_sandbox import Sandbox, SandboxUnavailable, image

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("cell", "docker", "process")
TABLE = ROOT / "benchmarks" / "results" / "conformance.md"


def findings(backend: str, name: str | None) -> dict[str, str]:
    """Outcome by name of case, for the present user."""
    minimum = "none" if backend == "process" else "full"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sandbox = Sandbox(backend, workers=1, minimum=minimum, image=name)
        with sandbox:
            return {one.name: one.outcome for one in check_sandbox(sandbox, strict=False)}
    except SandboxUnavailable:
        return {}


def as_plain_user(backend: str, host: str, name: str | None) -> dict[str, str]:
    """The same, in a process of a plain user."""
    groups = [os.stat(host.removeprefix("unix://")).st_gid] if host.startswith("unix://") else []
    command = [sys.executable, __file__, "--json", backend, *(["--image", name] if name else [])]
    env = {"DOCKER_HOST": host} if host else {}
    done = plain_user.run(command, env=env, groups=groups)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}


def table(columns: dict[str, dict[str, str]]) -> str:
    """All columns as Markdown."""
    tried = {name: column for name, column in columns.items() if column}
    lines = [
        "# What each backend holds",
        "",
        "Made by `python benchmarks/conformance.py --write`; the cases are those of "
        "`palaestra.testing.check_sandbox`.",
        "",
        *(f"Not run: {name}." for name in columns if name not in tried),
        "",
        f"| family | case | {' | '.join(tried)} |",
        f"|---|---|{'---|' * len(tried)}",
    ]
    for attack in ATTACKS:
        outcomes = " | ".join(column.get(attack.name, "") for column in tried.values())
        lines.append(f"| {attack.family} | {attack.name} | {outcomes} |")
    sums = [
        f"{sum(word == 'held' for word in column.values())} held, "
        f"{sum(word == 'broken' for word in column.values())} broken"
        for column in tried.values()
    ]
    return "\n".join([*lines, f"| | **sum** | {' | '.join(sums)} |", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="BACKEND", help="one backend, for the present user")
    parser.add_argument("--image", help="of the docker backend")
    parser.add_argument("--write", action="store_true", help="keep the table")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(findings(options.json, options.image)))
        return
    columns: dict[str, dict[str, str]] = {}
    with contextlib.ExitStack() as stack:
        host, name = "", options.image
        with contextlib.suppress(NoEngine):
            host = stack.enter_context(docker_engine())
            os.environ["DOCKER_HOST"] = host
            name = name or image.tag()  # as it was when the engine got it
        for backend in BACKENDS:
            if os.geteuid() == 0:
                columns[f"{backend}, root"] = findings(backend, name)
                columns[f"{backend}, plain user"] = as_plain_user(backend, host, name)
            else:
                columns[f"{backend}, plain user"] = findings(backend, name)
    text = table(columns)
    print(text)
    if options.write:
        TABLE.write_text(text)


if __name__ == "__main__":
    main()
