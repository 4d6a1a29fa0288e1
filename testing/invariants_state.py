"""The laws of seeds, snapshots and state."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from typing import Any

import numpy as np

from ..envs import registry
from ..envs.core import Env
from ..envs.snapshot import Snapshot
from .invariants import invariant
from .trials import (
    InapplicableError,
    Trace,
    Trial,
    ViolationError,
    difference,
    global_luck,
    go_on,
    play,
)

# reads (modules, make, seed, actions, snapshot) and prints the digest of the episode
CHILD = """
import importlib, pickle, sys
modules, data = pickle.load(sys.stdin.buffer)
for module in modules:
    importlib.import_module(module)
make, seed, actions, saved = pickle.loads(data)
from {room}.envs.snapshot import Snapshot
from {room}.testing.trials import go_on, play
env = make()
if saved is None:
    trace = play(env, actions, seed)
else:
    env.restore(Snapshot.load(saved, env.state_types))
    trace = go_on(env, actions)
print(trace.digest)
"""


def elsewhere(trial: Trial, hash_seed: int, actions: list[str], saved: bytes | None = None) -> str:
    """Returns the digest of an episode that another process plays.

    Raises:
        InapplicableError: `make` cannot travel, or there is no time for processes.
    """
    if trial.quick:
        raise InapplicableError("left out by --quick")
    if trial.pickled() is None:
        raise InapplicableError("make cannot be pickled; give an id, or a class of a module")
    modules = [type(trial.env).__module__]
    if trial.env.env_id in registry._entries:  # pyright: ignore[reportPrivateUsage]
        modules.append(registry.find(trial.env.env_id).entry.partition(":")[0])
    if "__main__" in modules:
        raise InapplicableError("the environment is defined in __main__; move it to a module")
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": paths}
    job = pickle.dumps((modules, pickle.dumps((trial.make, 7, actions, saved))))
    room = __name__.partition(".")[0]
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(room=room)],
        input=job,
        env=environment,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1]
        if last.startswith("ModuleNotFoundError"):
            raise InapplicableError(f"in another process: {last}")
        raise ViolationError(f"the other process ended with {last}", 7, actions)
    return done.stdout.decode().strip()


def sample(trial: Trial, count: int = 6) -> list[str]:
    """Returns messages of which some do something, always the same."""
    if trial.solvable:
        env = trial.make()
        env.start(7)
        return env.solution(env.task)[:count]
    return ["x", "", "1"]


def require_equal(one: Trace, other: Trace, what: str) -> None:
    """Complains where two traces differ."""
    if found := difference(one, other):
        raise ViolationError(f"{what}: {found}")


@invariant("ENV-SEED1", "seed")
def seeds_rebuild_episodes(trial: Trial) -> None:
    """The same seed and actions give the same episode."""
    used = trial.make()

    def check(seed: int, several: list[str]) -> None:
        with global_luck(0):
            fresh = play(trial.make(), several, seed)
        with global_luck(0):
            again = play(used, several, seed)
        require_equal(fresh, again, "a used environment and a fresh one")

    trial.over(check)


@invariant("ENV-SEED2", "seed")
def environments_are_apart(trial: Trial) -> None:
    """Two environments taken in turns do not disturb each other."""

    def check(seed: int, several: list[str]) -> None:
        alone = play(trial.make(), several, seed)
        one, other = trial.make(), trial.make()
        first = one.start(seed)
        other.start(seed + 1)
        steps: list[Any] = []
        for text in several:
            if not one.episode.over:
                steps.append(one.advance(text))
            if not other.episode.over:
                other.advance(text)
        together = Trace(first, tuple(steps), repr(one.state), one.anchor())
        one.close()
        other.close()
        require_equal(alone, together, "alone and beside another")

    trial.over(check)


@invariant("ENV-SEED3", "seed")
def global_generators_are_left_alone(trial: Trial) -> None:
    """Global generators are neither used nor needed."""

    def check(seed: int, several: list[str]) -> None:
        traces: list[Trace] = []
        for luck in (1, 2):
            with global_luck(luck):
                before = global_state()
                traces.append(play(trial.make(), several, seed))
                if global_state() != before:
                    raise ViolationError(
                        "it draws from the global random or numpy.random; draw from self.stream()"
                    )
        require_equal(traces[0], traces[1], "under two global seeds")

    trial.over(check)


@invariant("ENV-SEED4", "seed")
def hashes_do_not_matter(trial: Trial) -> None:
    """PYTHONHASHSEED changes nothing."""
    actions = sample(trial)
    one, other = elsewhere(trial, 0, actions), elsewhere(trial, 1, actions)
    if one != other:
        raise ViolationError(
            "PYTHONHASHSEED=0 and =1 give different episodes; sort sets, use no hash()", 7, actions
        )


@invariant("ENV-SEED5", "seed")
def episodes_have_numbers(trial: Trial) -> None:
    """Episode i of a seed is reached directly."""

    def check(seed: int, several: list[str]) -> None:
        env = trial.make()
        play(env, several, seed)
        second = play(env, several, None)
        direct = play(trial.make(), several, seed, {"episode": 1})
        require_equal(second, direct, "episode 1 after episode 0 and directly")

    trial.over(check)


def global_state() -> tuple[Any, ...]:
    """Returns where the global generators stand."""
    numpy: Any = np.random.get_state()
    return random.getstate(), numpy[1].tobytes(), numpy[2:]


def halves(trial: Trial, seed: int, several: list[str]) -> tuple[Env, list[str]]:
    """Returns an environment after half of the messages, and the rest of them."""
    env = trial.make()
    env.start(seed)
    middle = len(several) // 2
    for text in several[:middle]:
        if not env.episode.over:
            env.advance(text)
    return env, several[middle:]


@invariant("ENV-SNAP1", "state")
def snapshots_hold_everything(trial: Trial) -> None:
    """After restore(snapshot()) all goes on as without it."""

    def check(seed: int, several: list[str]) -> None:
        env, rest = halves(trial, seed, several)
        saved = env.snapshot()
        plain = go_on(env, rest)
        env.restore(saved)
        require_equal(plain, go_on(env, rest), "before and after restore")
        other = trial.make()
        other.restore(Snapshot.load(bytes(saved), other.state_types))
        require_equal(plain, go_on(other, rest), "here and restored from bytes elsewhere")

    trial.over(check)


@invariant("ENV-SNAP2", "state")
def forks_are_apart(trial: Trial) -> None:
    """Forks do not influence each other."""

    def check(seed: int, several: list[str]) -> None:
        env, rest = halves(trial, seed, several)
        one, other = env.fork(2)
        go_on(other, list(reversed(rest)))
        go_on(other, rest)
        require_equal(go_on(one, rest), go_on(env, rest), "a fork and its trunk")

    trial.over(check)


@invariant("ENV-SNAP3", "state")
def snapshots_travel(trial: Trial) -> None:
    """A snapshot is restored in another process."""
    actions = sample(trial)
    env = trial.make()
    env.start(7)
    if actions:
        env.advance(actions[0])
    if env.episode.over:
        raise InapplicableError("episodes of one message have no middle")
    saved = bytes(env.snapshot())
    here = go_on(env, actions[1:]).digest
    if elsewhere(trial, 0, actions[1:], saved) != here:
        raise ViolationError("restored in another process it goes on differently", 7, actions)


@invariant("ENV-SNAP4", "state")
def episodes_replay(trial: Trial) -> None:
    """Seed, options and actions replay an episode."""

    def check(seed: int, several: list[str]) -> None:
        env = trial.make()
        _, info = env.reset(seed=seed, options={"attempt": 2})
        trace = go_on(env, several)
        options = {name: info[name] for name in ("episode", "attempt", "task")}
        other = trial.make()
        other.reset(seed=info["seed"], options=options)
        require_equal(trace, go_on(other, several), "played and replayed")

    trial.over(check)


@invariant("ENV-STATE1", "state")
def attributes_stay(trial: Trial) -> None:
    """A step changes no attribute but the declared ones."""

    def check(seed: int, several: list[str]) -> None:
        env = trial.make()
        env.start(seed)
        before = prints_of(env)
        for text in several:
            if env.episode.over:
                break
            env.advance(text)
            for name, seen in prints_of(env).items():
                if seen != before.get(name):
                    raise ViolationError(f"attribute {name!r} changes; keep it in self.state")
        env.close()

    trial.over(check)


SHARED = ("tasks", "tools", "tokenizer", "grammar", "sampler", "randomizer", "spec")


def prints_of(env: Env) -> dict[str, bytes]:
    """Returns a fingerprint of each attribute that must stay as it is within an episode."""
    skipped = {*env.changing, *SHARED, "action_space", "observation_space"}
    return {name: mark(value) for name, value in vars(env).items() if name not in skipped}


def mark(value: Any) -> bytes:
    """Returns bytes that change when a value does."""
    try:
        return pickle.dumps(value)
    except Exception:
        return repr(value).encode("utf-8", "replace")


@invariant("ENV-STATE2", "state")
def classes_stay(trial: Trial) -> None:
    """Class attributes never change."""
    kinds = [kind for kind in type(trial.env).__mro__ if kind.__module__ != "builtins"]

    def look() -> dict[str, bytes]:
        return {
            f"{kind.__name__}.{name}": mark(value)
            for kind in kinds
            for name, value in vars(kind).items()
            if isinstance(value, (list, dict, set, np.ndarray, int, float, str, tuple))
        }

    before = look()

    def check(seed: int, several: list[str]) -> None:
        play(trial.make(), several, seed)
        for name, seen in look().items():
            if seen != before.get(name):
                raise ViolationError(f"{name} changes; keep it in self.state")

    trial.over(check, examples=max(3, trial.examples // 3))
