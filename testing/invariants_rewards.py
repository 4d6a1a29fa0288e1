"""The laws of rewards, views and tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ..envs import parsing
from ..envs.core import Env, Step
from ..envs.messages import ToolCall
from ..envs.outside import run
from ..envs.rewards import Event, Outcome, Potential, Progress
from ..envs.tasks import Task
from ..envs.tokenizers import ByteTokenizer
from ..envs.views import TokenView, ToolCallView
from . import strategies
from .invariants import invariant
from .trials import InapplicableError, Trace, Trial, ViolationError, difference, play

CLOSE = 1e-9  # what rounding may do to a sum of rewards


@invariant("ENV-REW1", "rewards")
def terms_add_up(trial: Trial) -> None:
    """A reward is the exact sum of declared, finite terms; episodes stay in their range."""
    low, high = trial.env.reward_range_of_episode

    def check(seed: int, several: list[str]) -> None:
        trace = play(trial.make(), several, seed)
        for step in trace.steps:
            if strange := set(step.terms) - set(trial.env.rewards.terms):
                raise ViolationError(f"undeclared terms {sorted(strange)}")
            if not all(math.isfinite(value) for value in step.terms.values()):
                raise ViolationError(f"a term is not finite: {step.terms}")
            if step.reward != math.fsum(step.terms.values()):
                raise ViolationError(f"reward {step.reward!r} is not the sum of {step.terms}")
        if not low - CLOSE <= trace.total <= high + CLOSE:
            raise ViolationError(f"the episode's sum {trace.total} is outside [{low}, {high}]")

    trial.over(check)


@invariant("ENV-REW2", "rewards")
def nothing_is_farmed(trial: Trial) -> None:
    """Coming back to a state pays nothing, and events are worth half an outcome at most."""
    terms = trial.env.rewards.terms
    events = [name for name, term in terms.items() if isinstance(term, Event)]
    best = sum(
        abs(term.weight) * max(map(abs, term.bounds))
        for term in terms.values()
        if isinstance(term, Outcome)
    )
    caps = sum(terms[name].cap for name in events if terms[name].weight)  # pyright: ignore
    if caps > best / 2 + CLOSE:
        raise ViolationError(
            f"events and penalties may pay {caps:g} together, the outcomes {best:g}; "
            "lower their caps to half of that"
        )

    def check(seed: int, several: list[str]) -> None:
        env = trial.make()
        env.start(seed)
        paid = 0.0
        been = {env.anchor(): 0.0}
        for text in several:
            step = env.advance(text)
            if step.ended:
                return
            paid += math.fsum(v for name, v in step.terms.items() if name not in events)
            if paid > been.setdefault(env.anchor(), paid) + CLOSE:
                raise ViolationError(
                    f"back in a former state with {paid:g} more; pay progress once"
                )
        env.close()

    trial.over(check)


@invariant("ENV-REW3", "rewards")
def progress_telescopes(trial: Trial) -> None:
    """The sum of a Progress or Potential is the difference of its ends."""
    tracked = {
        name: term
        for name, term in trial.env.rewards.terms.items()
        if isinstance(term, Progress | Potential) and term.fn is None
    }
    if not tracked:
        raise InapplicableError("no Progress and no Potential")

    def check(seed: int, several: list[str]) -> None:
        env = trial.make()
        env.start(seed)
        first = dict(env.potentials())
        trace = Trace((), tuple(advance_all(env, several)), "", b"")
        last = dict(env.potentials())
        ended = bool(trace.steps) and trace.steps[-1].terminated
        for name, term in tracked.items():
            gamma = term.gamma if isinstance(term, Potential) else 1.0
            if gamma != 1.0 or any(step.excluded for step in trace.steps):
                continue
            got = math.fsum(step.terms.get(name, 0.0) for step in trace.steps)
            end = 0.0 if ended and isinstance(term, Potential) else last[name]
            wanted = term.weight * (end - first[name])
            if abs(got - wanted) > CLOSE:
                raise ViolationError(
                    f"term {name!r} paid {got:g}; its potential moved by {wanted:g}"
                )
        env.close()

    trial.over(check)


def advance_all(env: Env, several: list[str]) -> Iterator[Step]:
    """Yields the steps of messages, as far as the episode goes."""
    for text in several:
        if env.episode.over:
            return
        yield env.advance(text)


@invariant("ENV-REW5", "rewards")
def the_reference_dominates(trial: Trial) -> None:
    """The reference's mean return is at least that of every baseline."""
    require_solution(trial)
    seeds = trial.each_seed(32)
    stream = np.random.default_rng(0)
    examples: tuple[str, ...] = getattr(trial.env.action_space, "examples", ()) or ("x",)
    baselines: dict[str, Callable[[Env], list[str]]] = {
        "silent": lambda env: [""] * env.limits.turns,
        "random": lambda env: [str(stream.choice(examples)) for _ in range(env.limits.turns)],
        "spam": lambda env: [examples[0]] * env.limits.turns,
        "copy_prompt": lambda env: [env.messages[-1].content] * env.limits.turns,
        "give_up": lambda env: ["I do not know."] * env.limits.turns,
    }

    def mean(policy: Callable[[Env], list[str]]) -> float:
        env = trial.make()
        totals: list[float] = []
        for seed in seeds:
            env.start(seed)
            texts = policy(env)
            totals.append(play(env, texts, seed).total)
        return float(np.mean(totals))

    reference = mean(lambda env: env.solution(env.task))
    for name, policy in baselines.items():
        if (got := mean(policy)) > reference + CLOSE:
            raise ViolationError(
                f"the baseline {name!r} earns {got:g}, the reference {reference:g}"
            )


def require_solution(trial: Trial) -> None:
    """Leaves an invariant out where there is no reference."""
    if not trial.solvable:
        raise InapplicableError("the environment has no solution(task)")


@invariant("ENV-REW6", "rewards")
def credits_are_the_terms(trial: Trial) -> None:
    """Credits sum to the terms, whatever the order in which answers arrive."""

    def check(seed: int, several: list[str]) -> None:
        for step in play(trial.make(), several, seed).steps:
            for name, value in step.terms.items():
                parts = [credit.value for credit in step.credits if credit.term == name]
                if math.fsum(parts) != value:
                    raise ViolationError(f"term {name!r} is {value!r}, its credits {parts}")
        if trial.outside:
            forth = partial(settled, trial, seed, several)
            if found := difference(forth(1), forth(-1)):
                raise ViolationError(f"answers in another order change the step: {found}")

    trial.over(check)


def settled(trial: Trial, seed: int, several: list[str], order: int) -> Trace:
    """Plays an episode whose answers arrive in order (1) or backwards (-1)."""
    env = trial.make()
    first = env.start(seed)
    steps: list[Step] = []
    for text in several:
        if env.episode.over:
            break
        out: Any = env.propose(text)
        while not isinstance(out, Step):
            answers = run((out,))[0] if out.requests else []
            out = env.settle(out, answers[::order])
        steps.append(out)
    env.close()
    return Trace(first, tuple(steps), repr(env.state), env.anchor())


@invariant("ENV-REW7", "rewards")
def costs_are_no_rewards(trial: Trial) -> None:
    """Costs are bounded, not negative, and no part of the reward."""
    costs = trial.env.rewards.costs
    if not costs:
        raise InapplicableError("no costs")

    def check(seed: int, several: list[str]) -> None:
        for step in play(trial.make(), several, seed).steps:
            for name, value in step.costs.items():
                low, high = costs[name].bounds
                if not (value >= 0 and low <= value <= high):
                    raise ViolationError(f"cost {name!r} is {value}, outside [{low}, {high}]")
            if step.costs and step.reward != math.fsum(step.terms.values()):
                raise ViolationError(
                    f"with costs {step.costs} the reward is {step.reward}, its terms "
                    f"{step.terms}; leave costs to the trainer"
                )

    trial.over(check)


@invariant("ENV-REW8", "rewards")
def the_reference_succeeds(trial: Trial) -> None:
    """The reference solves every task, and that of another task does not."""
    require_solution(trial)
    env = trial.make()
    tasks: list[Task] = []
    for seed in trial.each_seed(32):
        env.start(seed)
        texts = env.solution(env.task)
        play(env, texts, seed)
        tasks.append(env.task)
        if not env.success:
            raise ViolationError(f"the reference fails on task {env.task.id}", seed, texts)
    shuffled = 0
    for mine, other in zip(tasks, tasks[1:] + tasks[:1], strict=True):
        env.start(0, {"task": mine})
        play(env, env.solution(other), 0, {"task": mine})
        shuffled += bool(env.success)
    if shuffled == len(tasks) > 1:
        raise ViolationError("the reference of any task solves every other one")


@invariant("ENV-VIEW1", "views")
def views_agree(trial: Trial) -> None:
    """The same text in the turn, tool and token view earns the same and leads to the same."""

    def check(seed: int, several: list[str]) -> None:
        texts = [text for text in several if text.encode("utf-8", "replace").decode() == text]
        plain = play(trial.make(), texts, seed)
        tokens = TokenView(trial.make(), tokenizer=ByteTokenizer(), max_tokens=1_000_000)
        tokens.reset(seed=seed)
        totals = [spelled(tokens, text) for text in texts if not tokens.env.episode.over]
        compare("token", plain, tokens.env, totals)
        tokens.close()
        if all(is_one_call(trial.env, text) for text in texts):
            tool = ToolCallView(trial.make())
            tool.reset(seed=seed)
            totals = [called(tool, text) for text in texts if not tool.env.episode.over]
            compare("tool", plain, tool.env, totals)
            tool.close()

    trial.over(check, longest=4)


def spelled(made: TokenView, text: str) -> float:
    """Sends a text byte by byte; returns the reward."""
    total = 0.0
    for token in [*made.tokenizer.encode(text), made.tokenizer.end_of_turn]:
        total += made.step(token)[1]
    return total


def is_one_call(env: Env, text: str) -> bool:
    """Whether a text is one call that fits its tool, and nothing else."""
    found = env.parser(text).calls
    return (
        len(found) == 1
        and found[0].span == (0, len(text))
        and not found[0].problem
        and env.tools.check(found[0]).problem is None
    )


def called(made: ToolCallView, text: str) -> float:
    """Sends the one call of a text as an action; returns the reward."""
    return made.step(made.encode(made.env.parser(text).calls[0]))[1]


def compare(name: str, plain: Trace, env: Env, totals: list[float]) -> None:
    """Complains where a view's episode is not the turn view's."""
    rewards = [step.reward for step in plain.steps]
    if rewards != totals:
        raise ViolationError(f"the {name} view pays {totals}, the turn view {rewards}")
    if repr(env.state) != plain.state:
        raise ViolationError(f"the {name} view ends in {env.state}, the turn view in {plain.state}")
    over = bool(plain.steps) and plain.steps[-1].ended
    if env.episode.over != over:
        raise ViolationError(f"the {name} view is {'over' if not over else 'not over'}")


@invariant("ENV-VIEW2", "views")
def a_call_is_its_rendering(trial: Trial) -> None:
    """A call in the tool view does what its rendering does in the turn view."""
    if not trial.env.tools:
        raise InapplicableError("no tools")

    def check(seed: int, several: list[ToolCall]) -> None:
        tool, turn = ToolCallView(trial.make()), trial.make()
        tool.reset(seed=seed)
        turn.reset(seed=seed)
        for call in several:
            text = parsing.render([call], turn.parser)
            if turn.episode.over or not is_one_call(turn, text):
                break
            mine, theirs = tool.step(tool.encode(call)), turn.step(text)
            if mine[1:4] != theirs[1:4]:
                raise ViolationError(f"{call} gives {mine[1:4]}, its text {theirs[1:4]}")
            if mine[0]["text"] != theirs[0]:
                raise ViolationError(f"{call} shows {mine[0]['text']!r}, its text {theirs[0]!r}")
        tool.close()
        turn.close()

    trial.over(check, strategies.calls(trial.env.tools), longest=3)


@invariant("ENV-TASK5", "tasks")
def prompts_hold_no_answer(trial: Trial) -> None:
    """No observation of a silent episode holds the answer or a hidden test."""
    for seed in trial.each_seed(16):
        env = trial.make()
        seen = [message.content for message in env.start(seed)]
        texts = [""] * env.limits.turns
        for step in advance_all(env, texts):
            seen += [message.content for message in step.messages]
        for secret in secrets_of(env.task):
            if any(secret in text for text in seen):
                raise ViolationError(
                    f"an observation holds the secret {secret[:60]!r}", seed, texts
                )


def secrets_of(task: Task) -> list[str]:
    """Returns what a task must not tell: long enough not to be in a text by chance."""
    found = [task.answer, task.get("solution")]
    tests: Any = task.get("tests") or ()
    found += [test.get("code") for test in tests if isinstance(test, dict) and test.get("hidden")]  # pyright: ignore
    return [text for text in found if isinstance(text, str) and len(text) >= 5]
