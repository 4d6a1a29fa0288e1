"""From an agent's text to a message whose calls are checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from .exchange import Limits, Pending, Request, Thinks
from .messages import Message, Problem, ToolCall, ToolResult
from .tools import Tool
from .work import refused

if TYPE_CHECKING:
    from .core import Env

__all__ = ["clean", "fit", "read", "split_thinking"]

new = cast(Any, tuple.__new__)  # half the price of calling the class: these are the hot values


def read(env: Env, action: str | Message) -> Pending:
    """Reads one message of the agent, and starts what its sandbox tools ask for.

    Args:
        env: the environment; nothing in it changes.
        action: text, or a message whose thinking is already split off. Calls that it carries are
            taken as they are; where it carries none, its content is parsed.
    """
    if not isinstance(action, str):
        if action.calls:
            return take(env, action, env.episode.ticket)
        content = action.content if action.content.isascii() else clean(action.content)
        return parse(env, content, content, action.reasoning, 0, None)
    raw = action if action.isascii() else clean(action)
    thinks = env.thinks
    # nearly all texts have no thinking block, and two cheap tests say so
    if thinks is not None and (thinks.inside or raw.lstrip().startswith(thinks.opening)):
        return parse(env, raw, *split_thinking(raw, thinks))
    return parse(env, raw, raw, "", 0, None)


def parse(
    env: Env, raw: str, content: str, reasoning: str, offset: int, fault: Problem | None
) -> Pending:
    """Parses and checks a message whose thinking is split off."""
    limits, ticket = env.limits, env.episode.ticket
    if len(content) > limits.action_chars:
        fault = too_long(len(content), limits.action_chars)
        content = content[: limits.action_chars]
    message = new(Message, ("assistant", content, (), None, (), ""))
    if fault is not None:
        pending = Pending(message, raw, offset, content, ticket)
        pending.fault = fault
        pending.count(fault)
    else:
        said, calls, problems = env.parser(content)
        pending = Pending(message, raw, offset, content if said == content else said, ticket)
        if problems:
            for problem in problems:
                pending.count(problem)
            if not calls:
                stop_unread(pending, problems)
        if calls:
            check_calls(env, pending, calls)
    if reasoning:
        keep_reasoning(pending, reasoning, limits)
    return pending


def take(env: Env, message: Message, ticket: object) -> Pending:
    """Takes a message that brings its calls."""
    content = message.content
    pending = Pending(message, content, 0, content, ticket)
    if len(content) > env.limits.action_chars:
        pending.message = message._replace(content=content[: env.limits.action_chars], calls=())
        pending.fault = too_long(len(content), env.limits.action_chars)
        pending.count(pending.fault)
    else:
        check_calls(env, pending, message.calls)
    return pending


def check_calls(env: Env, pending: Pending, wishes: Sequence[ToolCall]) -> None:
    """Numbers and checks calls; those that cannot run get their result at once."""
    toolbox, results, number = env.tools, pending.results, env.episode.calls
    if len(wishes) == 1:  # nearly all messages: nothing to tell apart, nothing to collect
        call_id, name, _, span, _ = wishes[0]
        arguments, problem = toolbox.check(wishes[0])
        if problem is None and arguments is not None:
            calls = (new(ToolCall, (call_id or f"c{number}", name, arguments, span, None)),)
            old = pending.message
            pending.message = new(Message, (old[0], old[1], calls, None, old[4], old[5]))
            results.append(None)
            if toolbox[name].resource != "inline":
                start_outside(env, pending)
            return
    check_several(env, pending, wishes)


def check_several(env: Env, pending: Pending, wishes: Sequence[ToolCall]) -> None:
    """Numbers and checks calls of which some may be wrong, too many, or of one id."""
    toolbox, results, number = env.tools, pending.results, env.episode.calls
    calls: list[ToolCall] = []
    taken: set[str] = set()
    outside = False
    for position, wish in enumerate(wishes):
        call_id, name, given, span, _ = wish
        if not call_id or call_id in taken:
            call_id = f"c{number + position}"
            while call_id in taken:
                call_id += "'"
        taken.add(call_id)
        arguments, problem = toolbox.check(wish)
        if position >= env.most_calls:
            arguments, problem = None, too_many(len(wishes), env.most_calls)
        if problem is not None:
            pending.count(problem)
        if arguments is None:
            fault = problem or Problem("malformed", "This call cannot be read.")
            calls.append(new(ToolCall, (call_id, name, given, span, fault)))
            results.append(refused(call_id, fault))
        else:
            calls.append(new(ToolCall, (call_id, name, arguments, span, None)))
            results.append(None)
            outside = outside or toolbox[name].resource != "inline"
    old = pending.message
    pending.message = new(Message, (old[0], old[1], tuple(calls), None, old[4], old[5]))
    if outside:
        start_outside(env, pending)


def start_outside(env: Env, pending: Pending) -> None:
    """Asks for the work of every call that does not run in this thread."""
    requests: list[Request] = []
    pending.generators = {}
    pending.held = {}
    pending.sandbox = env.sandbox_source
    for position, call in enumerate(pending.message.calls):
        if pending.results[position] is not None:
            continue
        tool = env.tools[call.name]
        if tool.resource == "sandbox":
            work, result = advance_generator(env, pending, tool, call, None)
            pending.results[position] = result
            if result is None:
                requests.append(sandbox_request(env, tool, call, work))
        elif tool.resource == "network":
            requests.append(Request(call.id, "network", network_work(env, tool, call), tool))
    pending.requests = tuple(requests)


def sandbox_request(env: Env, tool: Tool, call: ToolCall, work: Any) -> Request:
    """Returns the request of a sandbox tool; jobs that may share an execution name their tool."""
    shared = tool if tool.merge is not None and env.mergeable(call) else None
    return Request(call.id, "sandbox", work, shared)


def network_work(env: Env, tool: Tool, call: ToolCall) -> Callable[[], Any]:
    """Returns a callable that runs a network tool; it gives a value, or a coroutine."""
    return partial(tool.call, call.arguments, env)


def advance_generator(
    env: Env, pending: Pending, tool: Tool, call: ToolCall, answer: Any
) -> tuple[Any, ToolResult | None]:
    """Runs a sandbox tool to its next wish, or to its end.

    Args:
        env: the owner of tools that are methods.
        pending: holds the generator.
        tool: the tool.
        call: the call it serves.
        answer: what its last wish brought; None at the start.

    Returns:
        The work it asks for and None, or None and the call's result.
    """
    generator = pending.generators.get(call.id)
    if generator is None:
        generator = pending.generators[call.id] = tool.call(call.arguments, env)
    try:
        if isinstance(answer, Exception):
            return generator.throw(answer), None
        return generator.send(answer), None
    except StopIteration as stop:
        result = tool.answer(call.id, stop.value)
    except Exception as error:
        failed = tool.failure(call.id, error)
        if failed is None:
            raise
        result = failed
    del pending.generators[call.id]
    return None, result


def stop_unread(pending: Pending, problems: Sequence[Problem]) -> None:
    """Makes the first problem that stops a message without calls its observation."""
    for problem in problems:
        if problem.code not in ("coerced", "repaired"):
            pending.fault = problem
            return


def keep_reasoning(pending: Pending, reasoning: str, limits: Limits) -> None:
    """Stores thinking text; what passes its limit is cut and counted."""
    if len(reasoning) > limits.reasoning_chars:
        pending.count(too_long(len(reasoning), limits.reasoning_chars))
        reasoning = reasoning[: limits.reasoning_chars]
    pending.message = pending.message._replace(reasoning=reasoning)


def split_thinking(raw: str, thinks: Thinks) -> tuple[str, str, int, Problem | None]:
    """Splits off a block of thinking text that begins a message.

    Returns:
        Content, reasoning, characters before the content, and a problem if the block never closes.

    Example:
        >>> split_thinking("<think>add</think> 4", Thinks())[:3]
        ('4', 'add', 19)
    """
    start = len(raw) - len(raw.lstrip())
    if raw.startswith(thinks.opening, start):
        start += len(thinks.opening)
    elif thinks.inside:
        start = 0
    else:
        return raw, "", 0, None
    stop = raw.find(thinks.closing, start)
    if stop < 0:
        detail = f"The thinking block never closes; write {thinks.closing} before the message."
        return "", raw[start:], len(raw), Problem("too_long", detail)
    after = stop + len(thinks.closing)
    offset = len(raw) - len(raw[after:].lstrip())
    return raw[offset:], raw[start:stop], offset, None


def too_long(size: int, limit: int) -> Problem:
    """The problem of a text that is longer than what is read of it."""
    detail = f"The message has {size:,} characters; at most {limit:,} are read."
    return Problem("too_long", detail)


def too_many(count: int, limit: int) -> Problem:
    """The problem of a call behind the last one that is run."""
    detail = f"The message has {count:,} calls; at most {limit:,} are run."
    return Problem("too_many_calls", detail)


def clean(text: str) -> str:
    """Returns the text with lone surrogates replaced: they have no place in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def fit(text: str, limit: int) -> str:
    """Shortens a text to `limit` characters: its head, a note, its tail.

    Example:
        >>> fit("a" * 100, 64)
        'aaaaaaaaaaaaaaaaaa… [65 characters left out] …aaaaaaaaaaaaaaaaa'
    """
    if not text.isascii():
        text = clean(text)
    if len(text) <= limit:
        return text
    room = limit - len(f"… [{len(text):,} characters left out] …")
    head, tail = (room + 1) // 2, room // 2
    left = len(text) - head - tail
    return f"{text[:head]}… [{left:,} characters left out] …{text[len(text) - tail :]}"
