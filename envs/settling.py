"""From a message and the answers to its requests to a step: tools, rules, reward, end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from .exchange import NOTHING, EnvError, Need, Pending, Reply, Request, Step
from .messages import Message, Problem, ToolCall, ToolResult
from .paying import grade, pay_repeat, pay_standard
from .reading import advance_generator, clean, fit, sandbox_request
from .tools import Luck, Tool
from .work import refused

if TYPE_CHECKING:
    from .core import Env

__all__ = ["settle"]

new = cast(Any, tuple.__new__)  # half the price of calling the class: these are the hot values
QUIET = Reply()  # a message whose tools have said all there is to say


def settle(env: Env, pending: Pending, answers: Sequence[ToolResult]) -> Step | Pending:
    """Runs what is left of a message; see `Env.settle`."""
    if pending.requests:
        if (failure := receive(pending, answers)) is not None:
            return fail(env, pending, failure)
        if pending.need is not None:
            return hear(env, pending)
    elif answers:
        known = [answer.call_id for answer in answers]
        raise EnvError(f"settle got answers to {known}, but nothing was asked; give ()")
    message = pending.message
    if calls := message[2]:
        if (later := run_calls(env, pending, calls)) is not None:
            return later
        results: list[ToolResult] = pending.results  # pyright: ignore[reportAssignmentType]
        for result in results:
            if result[7]:
                return fail(env, pending, result)
        reply = env.after(results) if env.has_after else QUIET
    elif pending.fault is not None:
        reply = Reply((new(Message, ("tool", pending.fault.text, (), None, (), "")),))
    elif message[5] or pending.answer is not message[1]:
        reply = env.respond(for_rules(env, pending))
    else:
        reply = env.respond(message)
    return conclude(env, pending, reply)


def receive(pending: Pending, answers: Sequence[ToolResult]) -> ToolResult | None:
    """Stores answers by key; returns the first that is a failure of ours.

    Raises:
        EnvError: an answer is missing, or nobody asked for it.
    """
    wanted = {request.key for request in pending.requests}
    given = {answer.call_id: answer for answer in answers}
    if given.keys() != wanted:
        raise EnvError(
            f"settle got answers to {sorted(given)}; it wants one for each of {sorted(wanted)}"
        )
    for request in pending.requests:
        if given[request.key].infrastructure:
            return given[request.key]
    pending.held = {**pending.held, **given}
    pending.requests = ()
    return None


def run_calls(env: Env, pending: Pending, calls: Sequence[ToolCall]) -> Pending | None:
    """Lets the calls take effect in order; returns what is still pending when one must wait."""
    results = pending.results
    episode = env.episode
    toolbox = env.tools
    for position in range(pending.settled, len(calls)):
        call = calls[position]
        result = results[position]
        if result is None:
            tool = toolbox[call[1]]
            episode.running = call[0]
            if episode.repeats is not None:
                pay_repeat(env, call)
            if tool.resource == "inline":
                result = run_inline(env, tool, call)
            else:
                result, again = run_outside(env, pending, tool, call)
                if result is None:
                    episode.running = None
                    pending.settled = position
                    return pending.then(again)
            results[position] = result
        if env.has_potentials:
            env.ledger.move(env.potentials(), call[0])
    episode.running = None
    return None


def run_inline(env: Env, tool: Tool, call: ToolCall) -> ToolResult:
    """Runs a tool in this thread; its own errors become its result, any other propagates."""
    if env.tools.faults:
        luck = draw_luck(env, tool)
        if luck.problem is not None:
            return refused(call.id, luck.problem)._replace(seconds=luck.seconds)
    else:
        luck = None
    try:
        value = tool.function(env, **call[2]) if tool.method else tool.function(**call[2])
        if type(value) is str:
            result = new(ToolResult, (call[0], value, True, None, value, 0.0, tool.price, False))
        else:
            result = tool.answer(call[0], value)
    except Exception as error:
        failed = tool.failure(call[0], error)
        if failed is None:
            if env.strict_tools:
                raise
            failed = ours(call.id, error)
        result = failed
    return result if luck is None else result._replace(seconds=result.seconds + luck.seconds)


def draw_luck(env: Env, tool: Tool) -> Luck:
    """Returns the simulated luck of the call that runs now."""
    fault = env.tools.faults.get(tool.name)
    if fault is None:
        return Luck()
    index = env.episode.drawn
    env.episode.drawn += 1
    return fault.luck(env.stream("tool"), index, tool.name, tool.timeout)


def ours(call_id: str, error: Exception) -> ToolResult:
    """The result of a tool with a bug, where such bugs are not to stop a run."""
    problem = Problem("infrastructure", f"{type(error).__name__}: {error}")
    return ToolResult(call_id, problem.text, False, problem, infrastructure=True)


def run_outside(
    env: Env, pending: Pending, tool: Tool, call: ToolCall
) -> tuple[ToolResult | None, tuple[Request, ...]]:
    """Continues a call whose answer has come; returns its result, or its next request."""
    answer = pending.held.pop(call.id)
    if tool.resource == "network":
        return network_result(env, tool, call, answer), ()
    work, result = advance_generator(env, pending, tool, call, answer.value)
    if result is not None:
        return result, ()
    return None, (sandbox_request(env, tool, call, work),)


def network_result(env: Env, tool: Tool, call: ToolCall, answer: ToolResult) -> ToolResult:
    """Returns what a network tool answers; an exception that is none of its answers is a bug."""
    if answer.problem is not None:
        return answer
    if not isinstance(answer.value, Exception):
        return tool.answer(call.id, answer.value)
    result = tool.failure(call.id, answer.value)
    if result is None:
        if env.strict_tools:
            raise answer.value
        result = ours(call.id, answer.value)
    return result


def for_rules(env: Env, pending: Pending) -> Message:
    """Returns the message as rules see it: the parsed answer, thinking text left out."""
    message = pending.message
    if pending.answer != message.content:
        message = message._replace(content=pending.answer)
    if message.reasoning and not env.reads_reasoning:
        message = message._replace(reasoning="")
    return message


def hear(env: Env, pending: Pending) -> Step | Pending:
    """Gives a model's answer to the rules that asked for it."""
    need = pending.need
    assert need is not None
    answer = pending.held.pop(need.key)
    pending.need = None
    if pending.reply is not None:  # the judge of a SelfEvaluation
        if answer.value is not None:
            for name in env.rewards.plan.beliefs:
                env.ledger.believe(name, answer.value)
        return finish(env, pending, pending.reply)
    return conclude(env, pending, env.resume(need, answer))


def conclude(env: Env, pending: Pending, reply: Reply | Need | None) -> Step | Pending:
    """Ends the step with the rules' reply, or asks what the rules or the judge want to know."""
    if reply is None:
        reply = QUIET
    if isinstance(reply, Need):
        pending.need = reply
    elif env.plan.beliefs and reply.end is None and not reply.excluded:
        pending.reply = reply
        pending.need = belief(env, pending)
    else:
        return finish(env, pending, reply)
    return pending.then((Request(pending.need.key, "need", pending.need),))


def belief(env: Env, pending: Pending) -> Need:
    """Returns the question of a SelfEvaluation about the transcript so far."""
    name = env.rewards.plan.beliefs[0]
    question = getattr(env.rewards[name], "question", "")
    news, _, _, _ = spoken(env, pending, QUIET)
    bare = tuple(m._replace(reasoning="") for m in (*env.messages, pending.message, *news))
    episode = env.episode
    key = f"{episode.seed}/{episode.episode}/{episode.attempt}/{episode.turn}"
    return Need("judge", (*bare, Message("user", question)), key)


def finish(env: Env, pending: Pending, reply: Reply) -> Step:
    """Books the step and returns it."""
    episode, ledger = env.episode, env.ledger
    results = pending.results
    # nearly all messages: one call whose result needs nothing done to it
    if len(results) == 1 and reply is QUIET and (only := plain(env, results[0])) is not None:
        said, seconds, cost = only
        problems = pending.problems
    else:
        said, seconds, cost, problems = spoken(env, pending, reply)
    episode.messages += (pending.message, *said)
    calls = len(results)
    episode.step(calls, seconds, cost)
    if reply is not QUIET:
        book(env, reply)
        if reply.excluded:
            return end_excluded(env, said, reply.end or "excluded", problems, calls)
    if problems or env.pays_always:
        pay_standard(env, pending, problems, seconds, cost)
    success = reply.success
    if env.plan.graded:
        success = grade(env, pending, reply, success)
    potentials: Mapping[str, float] = NOTHING
    if env.has_potentials:
        potentials = env.potentials()
        ledger.move(potentials)
    end = reply.end
    reward, terms, credits, costs = ledger.close(end is not None)
    signals = ledger.signals
    if signals:
        ledger.signals = {}
    else:
        signals = NOTHING
    info: dict[str, Any] = {
        "turn": episode.turn,
        "calls": calls,
        "potentials": potentials,
        "problems": problems,
        "signals": signals,
        "simulated_seconds": seconds,
        "tool_cost": cost,
    }
    reason = end or episode.limit_reached(pending.raw)
    if reason is None:
        play = (False, False, None, None, False, info)
    else:
        play = (end is not None, end is None, reason, bool(success), False, info)
        episode.close(reason, bool(success), False)
        env.close_session()
    return new(Step, (said, reward, terms, credits, costs, *play))


def book(env: Env, reply: Reply) -> None:
    """Books the credits and costs of a reply."""
    for term, value, call_id, span in reply.credits:
        env.ledger.pay(term, value, call_id, span)
    for name, value in reply.costs.items():
        env.ledger.charge(name, value)


def plain(env: Env, result: ToolResult | None) -> tuple[tuple[Message, ...], float, float] | None:
    """Returns what is said of a short, clean result, and its seconds and money; else None."""
    assert result is not None
    call_id, content, _, problem, _, seconds, cost, _ = result
    if problem is not None or len(content) > env.shortest or not content.isascii():
        return None
    return (new(Message, ("tool", content, (), call_id, (), "")),), seconds, cost


def spoken(
    env: Env, pending: Pending, reply: Reply
) -> tuple[tuple[Message, ...], float, float, dict[str, int]]:
    """Returns what is said to the agent, simulated seconds and money, and problems by code."""
    limits, problems = env.limits, pending.problems
    seconds = cost = 0.0
    size = 0
    said: list[Message] = []
    for position, result in enumerate(pending.results):
        assert result is not None
        content = result[1]
        if len(content) > limits.result_chars or not content.isascii():
            content = fit(content, limits.result_chars)
        size += len(content) + 1
        said.append(new(Message, ("tool", content, (), result[0], (), "")))
        seconds += result[5]
        cost += result[6]
        problem = result[3]
        # a problem that the call carries was counted when the message was read, or vetoed
        if problem is not None and problem is not pending.message[2][position][4]:
            problems = {**problems, problem.code: problems.get(problem.code, 0) + 1}
    if reply.messages:
        for message in reply.messages:
            said.append(
                message if message[1].isascii() else message._replace(content=clean(message[1]))
            )
            size += len(message[1]) + 1
    if size > limits.observation_chars:
        share = max(64, limits.observation_chars // len(said) - 1)
        said = [message._replace(content=fit(message[1], share)) for message in said]
    return tuple(said), seconds, cost, problems


def fail(env: Env, pending: Pending, failure: ToolResult) -> Step:
    """Ends the episode because something of ours broke: no reward, no blame."""
    for generator in pending.generators.values():
        generator.close()
    reason = failure.problem.text if failure.problem else failure.content
    content = fit(reason or "infrastructure", env.limits.result_chars)
    said = (Message("tool", content, (), failure.call_id),)
    env.episode.messages += [pending.message, *said]
    calls = len(pending.results)
    env.episode.step(calls, 0.0, 0.0)
    problems = {**pending.problems, "infrastructure": 1}
    return end_excluded(env, said, "infrastructure", problems, calls)


def end_excluded(
    env: Env, said: tuple[Message, ...], reason: str, problems: dict[str, int], calls: int
) -> Step:
    """Returns the last step of an episode that is no experience."""
    env.ledger.void()
    env.episode.running = None
    env.episode.close(reason, None, True)
    env.close_session()
    info: dict[str, Any] = {
        "turn": env.episode.turn,
        "calls": calls,
        "potentials": env.potentials() if env.has_potentials else NOTHING,
        "problems": problems,
        "signals": NOTHING,
        "simulated_seconds": 0.0,
        "tool_cost": 0.0,
    }
    return new(Step, (said, 0.0, NOTHING, (), NOTHING, False, True, reason, None, True, info))
