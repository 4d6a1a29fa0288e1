"""A trajectory for human eyes: who said what, and what each call earned."""

from __future__ import annotations

from ..envs.messages import Credit, Message
from .trajectory import Trajectory

WIDTH = 2_000  # characters shown of one message

NAMES = {"system": "system", "user": "env", "assistant": "agent", "tool": "tool"}


def render(trajectory: Trajectory, *, width: int = WIDTH) -> str:
    """The transcript as text; each reward term stands behind the call that earned it.

    Args:
        trajectory: the episode.
        width: characters of a message that are shown; the rest is counted.
    """
    identity, outcome = trajectory.identity, trajectory.outcome
    lines = [
        f"{identity.env_id}  seed {identity.seed}  attempt {identity.attempt}"
        + (f"  task {identity.task}" if identity.task else "")
    ]
    credits: dict[int, list[Credit]] = {}
    for placed in trajectory.credits:
        credits.setdefault(placed.turn, []).append(placed.credit)
    turn = 0
    for message in trajectory.messages:
        lines.append(_said(message, width))
        if message.role == "assistant":
            lines += [f"{'':>8}  {_earned(credit, message)}" for credit in credits.get(turn, ())]
            turn += 1
    state = "success" if outcome.success else "no success"
    terms = ", ".join(f"{name} {value:+.3g}" for name, value in trajectory.terms().items())
    lines.append(f"{outcome.reason or 'cut'}: {state}, return {outcome.total:.3g} ({terms})")
    return "\n".join(lines)


def _said(message: Message, width: int) -> str:
    text = message.content
    if message.reasoning:
        text = f"({message.reasoning.strip()}) {text}"
    if len(text) > width:
        text = f"{text[:width]} … [{len(text) - width:,} characters more]"
    first, *rest = text.split("\n") or [""]
    indented = [f"{'':>8}  {line}" for line in rest]
    return "\n".join([f"{NAMES[message.role]:>8}  {first}", *indented])


def _earned(credit: Credit, message: Message) -> str:
    where = ""
    call = next((one for one in message.calls if one.id == credit.call_id), None)
    if call is not None and len(message.calls) > 1:
        where = f" for {message.content[slice(*call.span)].strip()}"
    return f"{credit.value:+.3g} {credit.term}{where}"
