"""The laws every environment keeps, by code; here those of spaces, hostile text and ends."""

from __future__ import annotations

import gc
import time
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gymnasium.utils.env_checker import check_env

from ..envs.core import EnvError, EpisodeOver, Step
from ..envs.outside import run
from ..envs.text_space import TextSpace
from ..envs.views import ToolCallView, view
from . import strategies
from .trials import InapplicableError, Trial, ViolationError, described, play

SLOW = 0.1  # seconds of processor time a message may take in this process
Check = Callable[[Trial], None]


@dataclass(frozen=True, slots=True)
class Invariant:
    """One law.

    Attributes:
        code: its name in the design and in reports.
        group: the group it belongs to.
        says: the law in words.
        check: raises `ViolationError` where it does not hold.
    """

    code: str
    group: str
    says: str
    check: Check


INVARIANTS: list[Invariant] = []


def invariant(code: str, group: str) -> Callable[[Check], Check]:
    """Declares a law: the function's first line says it, its body looks for what breaks it."""

    def declare(check: Check) -> Check:
        says = (check.__doc__ or "").partition(".\n")[0].rstrip(".")
        INVARIANTS.append(Invariant(code, group, says, check))
        return check

    return declare


@invariant("ENV-GYM1", "spaces")
def passes_gymnasium(trial: Trial) -> None:
    """Each view passes Gymnasium's check_env, warnings as errors."""
    for name in trial.views:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                check_env(view(trial.make(), name), skip_render_check=True)
        except Exception as error:
            raise ViolationError(f"{name} view: {described(error)}") from error


@invariant("ENV-SPACE1", "spaces")
def observations_fit(trial: Trial) -> None:
    """Every observation is in its space, and within its limit."""

    def in_turns(seed: int, several: list[str]) -> None:
        env = trial.make()
        space: Any = env.observation_space
        seen, _ = env.reset(seed=seed)
        require_member("turn", space, seen)
        for text in several:
            if env.episode.over:
                break
            before = len(env.messages)
            require_member("turn", space, env.step(text)[0])
            news = env.messages[before + 1 :]
            total = sum(len(message.content) for message in news)
            if total > env.limits.observation_chars:
                raise ViolationError(
                    f"a step says {total:,} characters; observation_chars is "
                    f"{env.limits.observation_chars:,}: keep results within the limits"
                )
        env.close()

    if "turn" in trial.views:
        trial.over(in_turns)
    for name in trial.views:
        if name != "turn":
            trial.over(lambda seed, several, name=name: steps_fit(trial, name, seed, len(several)))


def steps_fit(trial: Trial, name: str, seed: int, count: int) -> None:
    """Takes `count` sampled steps in a view; its observations must fit, its actions be taken."""
    made = view(trial.make(), name)
    made.action_space.seed(seed)
    seen, _ = made.reset(seed=seed)
    require_member(name, made.observation_space, seen)
    for _ in range(count):
        seen, _, terminated, truncated, _ = made.step(made.action_space.sample())
        require_member(name, made.observation_space, seen)
        if terminated or truncated:
            break
    made.close()


def require_member(name: str, space: Any, seen: Any) -> None:
    """Complains of an observation outside its space."""
    if seen not in space:
        text = repr(seen)
        raise ViolationError(f"{name} view: {text[:120]} is outside its space {str(space)[:120]}")


@invariant("ENV-SPACE2", "spaces")
def calls_survive(trial: Trial) -> None:
    """Encode and decode of a call are inverse."""
    if not trial.env.tools:
        raise InapplicableError("no tools")
    made = ToolCallView(trial.env)

    def back(seed: int, several: list[Any]) -> None:
        for call in several:
            action = made.encode(call)
            if action not in made.action_space:
                raise ViolationError(f"encode({call}) is {action!r}, outside the action space")
            again: Any = made.decode(action)
            if (again.name, again.arguments) != (call.name, call.arguments):
                raise ViolationError(f"decode(encode({call})) is {again}")

    trial.over(back, strategies.calls(trial.env.tools))


@invariant("ENV-SPACE3", "spaces")
def members_are_taken(trial: Trial) -> None:
    """Every member of an action space is taken."""
    for name in trial.views:
        drawn = strategies.actions(trial.env, name)
        trial.over(lambda seed, several, name=name: members(trial, name, seed, several), drawn)


def members(trial: Trial, name: str, seed: int, several: list[Any]) -> None:
    """Sends actions in a view."""
    made = view(trial.make(), name)
    made.reset(seed=seed)
    for action in several:
        if isinstance(made.action_space, TextSpace) and action not in made.action_space:
            continue
        _, _, terminated, truncated, _ = made.step(action)
        if terminated or truncated:
            break
    made.close()


@invariant("ENV-TOTAL1", "total")
def any_text_gives_a_step(trial: Trial) -> None:
    """Any text gives a step."""

    def check(seed: int, several: list[str]) -> None:
        env = trial.make()
        env.start(seed)
        for text in several:
            if env.episode.over:
                return
            kind = type(env.advance(text))
            if kind is not Step:
                raise ViolationError(f"advance returned a {kind.__name__}, wanted a Step")
        env.close()

    for text in (*strategies.HOSTILE, *strategies.HUGE):
        try:
            check(0, [text])
        except Exception as error:
            raise ViolationError(described(error), 0, [text]) from error
    trial.over(check, longest=4)


@invariant("ENV-TOTAL2", "total")
def messages_are_fast(trial: Trial) -> None:
    """A message takes at most a tenth of a second in this process."""
    for text in (*strategies.HUGE, "<tool_call>" * 9_000, "```\n" * 25_000, "<think>" * 10_000):
        times: list[float] = []
        for _ in range(3):  # the machine may be busy: the best of three
            env = trial.make()
            env.start(0)
            times.append(inside(env, text))
            env.close()
            if times[-1] <= SLOW:
                break
        if min(times) > SLOW:
            detail = f"a message of {len(text):,} characters takes {min(times):.2f} s here"
            raise ViolationError(detail, 0, [f"{text[:20]}... ({len(text):,} characters)"])


def inside(env: Any, text: str) -> float:
    """Returns the processor time of one message, work outside left out."""
    began = time.thread_time()
    out: Any = env.propose(text)
    spent = time.thread_time() - began
    while not isinstance(out, Step):
        answers = run((out,))[0] if out.requests else ()
        began = time.thread_time()
        out = env.settle(out, answers)
        spent += time.thread_time() - began
    return spent


@invariant("ENV-TOTAL3", "total")
def memory_is_flat(trial: Trial) -> None:
    """Memory stays flat over many episodes."""
    if trial.quick:
        raise InapplicableError("left out by --quick")
    env = trial.make()
    episodes = 40 if trial.outside else 400
    actions = ["x", "", "y"]

    def rounds(first: int) -> int:
        for seed in range(first, first + episodes):
            play(env, actions, seed)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    per_episode = 0.0
    tracemalloc.start()
    try:
        rounds(0)
        held = rounds(episodes)
        # a pool that fills up grows in some rounds, a leak in every one
        for number in range(2, 6):
            before, held = held, rounds(number * episodes)
            per_episode = (held - before) / episodes
            if per_episode <= 200:  # bytes; one kept message is more
                break
    finally:
        tracemalloc.stop()
    if per_episode > 200:
        raise ViolationError(f"each episode leaves {per_episode:.0f} bytes behind")


@invariant("ENV-END1", "end")
def one_end_at_a_time(trial: Trial) -> None:
    """Terminated and truncated are never both true."""

    def check(seed: int, several: list[str]) -> None:
        for step in play(trial.make(), several, seed).steps:
            if step.terminated and step.truncated:
                raise ViolationError(f"both are true, reason {step.reason!r}; one end is enough")

    trial.over(check)


@invariant("ENV-END2", "end")
def nothing_after_the_end(trial: Trial) -> None:
    """After the end a step raises EpisodeOver."""
    env = trial.make()
    texts = to_the_end(trial, 0)
    play(env, texts, 0)
    try:
        env.advance("x")
    except EpisodeOver:
        return
    except EnvError as error:
        raise ViolationError(f"it {described(error)}", 0, texts) from error
    raise ViolationError("a step after the end is taken; raise EpisodeOver", 0, texts)


@invariant("ENV-END3", "end")
def episodes_end(trial: Trial) -> None:
    """Every policy's episode ends within the limits."""

    def check(seed: int, several: list[str]) -> None:
        env = trial.make()
        env.start(seed)
        texts = [*several, ""]
        for number in range(env.limits.turns):
            if env.advance(texts[number % len(texts)]).ended:
                return
        raise ViolationError(f"no end after limits.turns = {env.limits.turns} messages")

    trial.over(check, examples=max(3, trial.examples // 3), longest=3)


@invariant("ENV-END4", "end")
def the_last_step_says_why(trial: Trial) -> None:
    """The last step has a reason and a success, the others have none."""

    def check(seed: int, several: list[str]) -> None:
        for step in play(trial.make(), several, seed).steps:
            ended = step.terminated or step.truncated
            if ended and not step.reason:
                raise ViolationError(f"the last step has reason {step.reason!r}")
            if not ended and (step.reason is not None or step.success is not None):
                raise ViolationError(
                    f"a step in the middle has reason {step.reason!r}, success {step.success!r}"
                )

    trial.over(check)


def to_the_end(trial: Trial, seed: int) -> list[str]:
    """Returns messages that end an episode."""
    env = trial.make()
    env.start(seed)
    texts = ["x"] * env.limits.turns
    play(env, texts, seed)
    return texts
