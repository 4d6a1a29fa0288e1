"""A transcript for human eyes, and the report of an environment that broke."""

from __future__ import annotations

import html
import json
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gymnasium import logger

from .exchange import EnvError, EpisodeOver, RewardError
from .messages import Message

if TYPE_CHECKING:
    from .core import Env

__all__ = ["fault", "join", "over", "print_new", "render", "text", "to_html"]

COLOURS = {"system": "magenta", "user": "cyan", "assistant": "green", "tool": "yellow"}


def join(messages: Sequence[Message]) -> str:
    """Returns the contents of messages, one after another."""
    if len(messages) == 1:
        return messages[0][1]
    return "\n".join([message[1] for message in messages])


def spoken(message: Message) -> str:
    """Returns what a message says; calls that have no text are written out."""
    calls = [call for call in message.calls if call.span == (0, 0)]
    lines = [message.content] if message.content or not calls else []
    lines += [f"{c.name}({json.dumps(dict(c.arguments), ensure_ascii=False)})" for c in calls]
    return "\n".join(lines)


def text(messages: Sequence[Message]) -> str:
    """Returns a transcript as plain text, a line per role."""
    lines: list[str] = []
    for message in messages:
        name = f"{message.role} {message.call_id}" if message.call_id else message.role
        if message.reasoning:
            lines.append(f"[{name}, thinking] {message.reasoning}")
        lines.append(f"[{name}] {spoken(message)}")
        lines += [f"    (picture {image.shape})" for image in message.images]
    return "\n".join(lines)


def render(env: Env) -> str | None:
    """Returns the transcript and the terms of the last step, or warns that no mode was chosen."""
    if env.render_mode is None:
        logger.warn(
            "render() was called without a render mode; "
            f'make the environment with render_mode="ansi": {env.env_id}'
        )
        return None
    if env.render_mode == "human":
        return None  # printed as it grows
    episode = env.episode
    lines = [text(episode.messages)]
    if env.ledger.totals:
        lines.append("    " + ", ".join(f"{k} {v:+.3g}" for k, v in env.ledger.totals.items()))
    if episode.over and episode.reason:
        lines.append(f"    ended: {episode.reason}, success {episode.success}")
    return "\n".join(lines)


def print_new(env: Env) -> None:
    """Prints the messages since the last time, in colour where the terminal has it."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console()
    shown = env.shown if env.shown <= len(env.episode.messages) and env.episode.turn else 0
    for message in env.episode.messages[shown:]:
        body = Text(f"{message.reasoning}\n", style="dim") if message.reasoning else Text()
        body.append(spoken(message))
        style = COLOURS[message.role]
        console.print(Panel(body, title=message.role, title_align="left", border_style=style))
    env.shown = len(env.episode.messages)


def to_html(messages: Sequence[Message]) -> str:
    """Returns a transcript as one self-contained HTML fragment; thinking text is folded."""
    parts = ['<div style="font-family:monospace;white-space:pre-wrap">']
    for message in messages:
        colour = COLOURS[message.role]
        parts.append(f'<p style="border-left:4px solid {colour};padding-left:8px">')
        parts.append(f"<b>{message.role}</b> {html.escape(message.call_id or '')}<br>")
        if message.reasoning:
            thought = html.escape(message.reasoning)
            parts.append(f"<details><summary>thinking</summary>{thought}</details>")
        parts.append(f"{html.escape(spoken(message))}</p>")
    return "\n".join([*parts, "</div>"])


def where(env: Env) -> str:
    """Says how to come to this episode again."""
    episode = env.episode
    options = {"episode": episode.episode, "attempt": episode.attempt}
    return f"reset(seed={episode.seed}, options={options}), task {env.task.id!r}"


def over(env: Env) -> str:
    """Says why no message is read now."""
    if not env.episode.started:
        return f"{env.env_id}: no episode has begun; call reset() or start() first"
    reason = env.episode.reason
    return f"{env.env_id}: the episode has ended ({reason}); call reset() or start() first"


def stale(env: Env) -> str:
    """Says why a message cannot be settled here."""
    episode = env.episode
    stands = f"seed {episode.seed}, episode {episode.episode}, turn {episode.turn}"
    return f"{env.env_id} stands at {stands}; this message was read elsewhere: propose it here"


def fault(env: Env, error: Exception) -> EnvError:
    """Returns the error to raise for an exception of the environment's own code.

    It names the environment, the seed to reproduce it and the task, and holds the transcript and
    the traceback as attributes.
    """
    env.close_session()
    if isinstance(error, EpisodeOver):
        return error
    kind = RewardError if isinstance(error, RewardError) else EnvError
    what = str(error) if isinstance(error, EnvError) else f"{type(error).__name__}: {error}"
    said = text(env.episode.messages)
    report = kind(f"{env.env_id}: {what}\n  again with: {where(env)}\n  transcript:\n{said}")
    report.transcript = said
    report.traceback = "".join(traceback.format_exception(error))
    return report
