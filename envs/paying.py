"""What the base class pays: the standard terms, and terms that are plain functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .exchange import Pending, Reply
from .ledger import number
from .messages import JSON, ToolCall

if TYPE_CHECKING:
    from .core import Env

__all__ = ["facts", "grade", "pay_repeat", "pay_standard"]

# what a message that is not in form is penalised for, once a message, under the term `format`
FORM = ("malformed", "unknown_tool", "bad_arguments", "too_long", "too_many_calls")


def pay_standard(
    env: Env, pending: Pending, problems: Mapping[str, int], seconds: float, cost: float
) -> None:
    """Books the terms that every environment may declare and the base class pays."""
    ledger = env.ledger
    for name in env.standard:
        if name == "format":
            if problems and any(code in problems for code in FORM):
                ledger.pay("format", 1.0)
        elif name == "step":
            ledger.pay("step", 1.0)
        elif name == "valid_call":
            for call in pending.message.calls:
                if call.problem is None:
                    ledger.pay("valid_call", 1.0, call.id)
        elif name == "latency":
            ledger.pay("latency", seconds)
        elif name == "price":
            ledger.pay("price", cost)


def pay_repeat(env: Env, call: ToolCall) -> None:
    """Books the same call with the same arguments on an unchanged state."""
    repeats = env.episode.repeats
    assert repeats is not None
    mark = f"{call.name}{sorted(call.arguments.items())}{env.anchor().hex()}"
    if mark in repeats:
        env.ledger.pay("repeat", 1.0, call.id)
    repeats.add(mark)


def grade(env: Env, pending: Pending, reply: Reply, success: bool | None) -> bool | None:
    """Evaluates the functions of terms: potentials and events now, outcomes at the end."""
    known = facts(env, pending)
    outcomes = env.rewards.plan.outcomes
    for name, fn, reads, when in env.rewards.plan.graded:
        if when == "end" and reply.end is None:
            continue
        value = number(f"reward term {name!r}", fn(**{key: known[key] for key in reads}))
        if when == "phi":
            env.ledger.believe(name, value)
            continue
        env.ledger.pay(name, value)
        if success is None and name in outcomes and reply.end is not None:
            success = value >= env.rewards.plan.bounds[name][1]
    return success


def facts(env: Env, pending: Pending | None) -> dict[str, JSON]:
    """Returns what the function of a term may read, by name."""
    message = pending.message if pending else None
    spoken = pending is not None and not pending.message.calls and pending.fault is None
    return {
        "task": env.task,
        "answer": pending.answer if pending and spoken else "",
        "messages": env.messages,
        "calls": message.calls if message else (),
        "results": tuple(pending.results) if pending else (),
        "state": env.state,
        "params": env.params,
        "step": env.episode.turn,
    }
