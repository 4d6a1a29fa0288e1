"""Programs that try to get out, and what must become of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from ...tool_sandbox import Sandbox
from . import (
    graders,
    hanging,
    kernel,
    killings,
    lifecycle,
    network,
    outcomes,
    persistence,
    resources,
    secrets_and_files,
    sessions,
    strangers,
)
from .attack import HELPERS, SMALL, Attack, Outside, outside

__all__ = ["ATTACKS", "Attack", "Finding", "Outside", "attempt", "check_sandbox", "outside"]

ATTACKS: tuple[Attack, ...] = (
    *resources.ATTACKS,
    *hanging.ATTACKS,
    *strangers.ATTACKS,
    *secrets_and_files.ATTACKS,
    *kernel.ATTACKS,
    *network.ATTACKS,
    *persistence.ATTACKS,
    *outcomes.ATTACKS,
    *graders.ATTACKS,
    *sessions.ATTACKS,
    *lifecycle.ATTACKS,
    *killings.ATTACKS,
)

_LATE = 0.5  # seconds that a packet may take within the machine
# Run before the first and after each: what it shows must never change.
_PROBE = (
    HELPERS
    + r"""
import random, resource, threading
print(sorted(os.listdir(".")), sorted(os.environ), os.getuid() == os.geteuid(), os.umask(0o022))
print(os.path.basename(os.getcwd()), os.stat(".").st_mode)
print(random.random(), threading.active_count(), resource.getrlimit(resource.RLIMIT_NPROC))
print(sys.path[1:])
print(len(os.listdir("/proc/self/fd")), os.nice(0), sorted(os.sched_getaffinity(0)), 3 + 4)
"""
)


class Finding(NamedTuple):
    """What became of one case."""

    name: str
    family: str
    outcome: Literal["held", "broken", "not tried"]
    detail: str = ""


def attempt(sandbox: Sandbox, attack: Attack, targets: Outside, probe: str) -> None:
    """Run one case, then the probe.

    Args:
        sandbox: What is attacked.
        attack: The case; one that harms is refused where nothing is isolated.
        targets: From `outside()`.
        probe: What `probe_of` said before the first case.

    Raises:
        AssertionError: Something did not hold.
        ValueError: The case must not be tried on this sandbox.
    """
    if attack.harms and sandbox.isolation.level == "none":
        raise ValueError(f"{attack.name!r} harms the machine where nothing is isolated")
    held = False
    try:
        attack.run(sandbox, targets)
        held = True
    finally:  # what is still on its way is not the next one's doing
        left = targets.settle(0.0 if held else _LATE)
    if left:
        raise AssertionError("; ".join(left))
    if (now := probe_of(sandbox)) != probe:
        raise AssertionError(f"the next execution differs: {now!r}; at first {probe!r}")


def probe_of(sandbox: Sandbox) -> str:
    """What an execution sees of its surroundings."""
    result = sandbox.execute(_PROBE, limits=SMALL)
    return f"{result.reason} {result.stdout} {result.stderr[-300:]}"


def suitable(sandbox: Sandbox, attack: Attack) -> bool:
    """Whether a case may be tried on this sandbox, and means something there."""
    seen = sandbox.isolation
    held = seen.level != "none" or not attack.harms
    return held and (not attack.only or seen.backend in attack.only)


def check_sandbox(
    sandbox: Sandbox, *, attacks: Iterable[Attack] = ATTACKS, strict: bool = True
) -> tuple[Finding, ...]:
    """Attack a sandbox with every named case.

    Cases that would harm the machine where they are not held are not tried on a sandbox whose
    isolation level is "none".

    Args:
        sandbox: What is attacked; one worker is enough.
        attacks: The cases.
        strict: Raise when a case does not hold.

    Returns:
        One finding a case, in their order.

    Raises:
        AssertionError: With the cases that did not hold, if `strict`.
    """
    findings: list[Finding] = []
    with outside() as targets:
        probe = probe_of(sandbox)
        for attack in attacks:
            if not suitable(sandbox, attack):
                findings.append(Finding(attack.name, attack.family, "not tried"))
                continue
            try:
                attempt(sandbox, attack, targets, probe)
            except AssertionError as problem:
                findings.append(Finding(attack.name, attack.family, "broken", str(problem)))
            else:
                findings.append(Finding(attack.name, attack.family, "held"))
    broken = [f"{found.family}: {found.name}: {found.detail}" for found in findings if found.detail]
    if broken and strict:
        raise AssertionError(f"{len(broken)} cases did not hold:\n  " + "\n  ".join(broken))
    return tuple(findings)
