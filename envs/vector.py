"""Many environments side by side: one step of all, or each at its own pace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from . import registry, turn
from .core import Env
from .crew import Crew
from .exchange import EnvError, Pending, Step
from .messages import Message, ToolResult
from .outside import run
from .text_space import TextSpace

if TYPE_CHECKING:
    from .view import View

__all__ = ["TextVectorEnv", "WorkerVectorEnv", "build"]

FIVE = tuple[Any, float, bool, bool, dict[str, Any]]
Batch = tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class TextVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Environments in one process; what must be run outside is run for all rows together.

    Attributes:
        envs: the rows: environments (turn view), or views of them.
        info_keys: keys of `info` that are collected; each costs time in every step.
    """

    def __init__(
        self,
        envs: Sequence[Env | View],
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        info_keys: Iterable[str] = (),
    ) -> None:
        """Makes a vector of environments of one kind.

        Args:
            envs: the rows.
            autoreset_mode: NEXT_STEP (the step after an end begins the next episode and ignores the
                action), SAME_STEP (`final_obs` and `final_info` in infos), or DISABLED (the caller
                resets with `options={"reset_mask": ...}`).
            info_keys: keys of `info` to collect.
        """
        if not envs:
            raise ValueError("a vector of no environments; give at least one")
        self.envs = list(envs)
        self.num_envs = len(self.envs)
        self.info_keys = tuple(info_keys)
        self.mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.envs[0].metadata, "autoreset_mode": self.mode}
        self.render_mode = self.envs[0].render_mode
        self.single_action_space = self.envs[0].action_space
        self.single_observation_space = self.envs[0].observation_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._seen: list[Any] = [None] * self.num_envs
        self._ended = [False] * self.num_envs
        self._is_text = isinstance(self.single_observation_space, TextSpace)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begins episodes.

        Args:
            seed: of row 0 (row i gets seed + i), one a row, or None: each row's next episode.
            options: of `Env.start` for every row; "reset_mask" names the rows that begin.
        """
        seeds = spread(seed, self.num_envs)
        given = dict(options or {})
        rows = masked_rows(given.pop("reset_mask", None), self.num_envs)
        infos: dict[str, Any] = {}
        for i in rows:
            self._seen[i], info = self.envs[i].reset(seed=seeds[i], options=given)
            infos = self._collect(infos, info, i)
            self._ended[i] = False
        return self._stack(), infos

    def step(self, actions: Any) -> Batch:
        """Sends one action a row; rows whose episode ended begin the next one (NEXT_STEP)."""
        if isinstance(actions, list | tuple):
            sent = list(cast(Sequence[Any], actions))
        else:
            sent = list(iterate(self.action_space, actions))
        if len(sent) != self.num_envs:
            raise ValueError(f"{len(sent)} actions for {self.num_envs} rows; give one a row")
        if self.mode is AutoresetMode.DISABLED and any(self._ended):
            rows = [i for i, ended in enumerate(self._ended) if ended]
            raise EnvError(f'rows {rows} have ended; reset them with options={{"reset_mask": ...}}')
        over = self._ended if self.mode is AutoresetMode.NEXT_STEP else [False] * self.num_envs
        came = self._advance([i for i, ended in enumerate(over) if not ended], sent)
        fives = [came[i] if i in came else self._begin(i) for i in range(self.num_envs)]
        infos: dict[str, Any] = {}
        for i, (seen, _, terminated, truncated, info) in enumerate(fives):
            self._seen[i] = seen
            if (terminated or truncated) and self.mode is AutoresetMode.SAME_STEP:
                infos = self._add_info(infos, {"final_obs": seen, "final_info": info}, i)
                self._seen[i], info = self.envs[i].reset()
            if self.info_keys:
                infos = self._collect(infos, info, i)
        rewards = np.array([five[1] for five in fives], np.float64)
        terminations = np.array([five[2] for five in fives], np.bool_)
        truncations = np.array([five[3] for five in fives], np.bool_)
        self._ended = [five[2] or five[3] for five in fives]
        return self._stack(), rewards, terminations, truncations, infos

    def _begin(self, i: int) -> FIVE:
        seen, info = self.envs[i].reset()
        return seen, 0.0, False, False, info

    def _advance(self, rows: Sequence[int], actions: Sequence[Any]) -> dict[int, FIVE]:
        """Returns Gymnasium's five for each row."""
        out: dict[int, Any] = {}
        waiting: dict[int, Pending] = {}
        for i in rows:
            env = self.envs[i]
            if not isinstance(env, Env):
                out[i] = env.step(actions[i])
                continue
            state = env.propose(actions[i])
            if not state.requests:
                state = env.settle(state)
            if isinstance(state, Step):
                out[i] = self._five(i, step=state)
            else:
                waiting[i] = state
        while waiting:
            for (i, pending), answers in zip(
                list(waiting.items()), run(list(waiting.values())), strict=True
            ):
                state = self._env(i).settle(pending, answers)
                if isinstance(state, Step):
                    del waiting[i]
                    out[i] = self._five(i, step=state)
                else:
                    waiting[i] = state
        return out

    def _five(self, i: int, step: Step) -> FIVE:
        env = self._env(i)
        seen = turn.observe(env, step.messages)
        final = step.ended and self.mode is AutoresetMode.SAME_STEP
        info = turn.step_info(env, step) if self.info_keys or final else {}
        return seen, step.reward, step.terminated, step.truncated, info

    def _env(self, i: int) -> Env:
        env = self.envs[i]
        return env if isinstance(env, Env) else env.env

    def _collect(self, infos: dict[str, Any], info: dict[str, Any], i: int) -> dict[str, Any]:
        wanted = {key: info[key] for key in self.info_keys if key in info}
        return self._add_info(infos, wanted, i) if wanted else infos

    def _stack(self) -> Any:
        if self._is_text:
            return tuple(self._seen)
        space = cast(gymnasium.Space[Any], self.single_observation_space)
        return concatenate(space, self._seen, create_empty_array(space, self.num_envs))

    def render(self) -> tuple[Any, ...] | None:
        """Returns the transcript of each row."""
        return tuple(env.render() for env in self.envs)

    def close_extras(self, **options: Any) -> None:
        """Ends the sandbox sessions of all rows."""
        for env in self.envs:
            env.close()


class WorkerVectorEnv(TextVectorEnv):
    """Rows that go on at their own pace, while their tools run elsewhere.

    Rules and inline tools run in the thread that calls; only the work of sandbox and network tools
    leaves it. `submit` and `ready` have no barrier; `step` is Gymnasium's face, with one.
    """

    def __init__(
        self,
        envs: Sequence[Env],
        *,
        workers: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        info_keys: Iterable[str] = (),
    ) -> None:
        """Makes a vector of environments whose outside work overlaps.

        Args:
            envs: the rows.
            workers: batches of sandbox work under way at one time; None: two.
            autoreset_mode: of `step`.
            info_keys: of `step`.
        """
        super().__init__(envs, autoreset_mode=autoreset_mode, info_keys=info_keys)
        self._crew = Crew(workers or 2, threads=min(64, self.num_envs))
        self._pending: dict[int, Pending] = {}  # rows whose work is under way
        self._done: dict[int, Step | Pending] = {}

    def start(
        self, i: int, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Message, ...]:
        """Begins an episode of row i; see `Env.start`."""
        if i in self._pending:
            raise EnvError(f"row {i} has work under way; take it with ready(ids=[{i}]) first")
        self._done.pop(i, None)
        return self._env(i).start(seed, options)

    def submit(
        self, i: int, action: str | Message | Pending, answers: Sequence[ToolResult] = ()
    ) -> None:
        """Sends a message of row i; its step comes out of `ready`.

        Args:
            i: the row.
            action: a message, or what `propose` returned for it.
            answers: for a Pending that asked a model: the model's answers.
        """
        if i in self._pending or i in self._done:
            raise EnvError(f"row {i} has a message under way; take it with ready(ids=[{i}]) first")
        env = self._env(i)
        pending = action if isinstance(action, Pending) else env.propose(action)
        if answers or not pending.requests:
            self._place(i, env.settle(pending, answers))
        else:
            self._place(i, pending)

    def ready(
        self, timeout: float | None = None, ids: Sequence[int] | None = None
    ) -> list[tuple[int, Step | Pending]]:
        """Returns what has come.

        Args:
            timeout: seconds to wait for the first; None: until there is one.
            ids: wait for exactly these rows, and return them in this order; whoever asks so has a
                schedule that does not depend on the clock.

        Returns:
            (row, Step), or (row, Pending) where a model must be asked.
        """
        if ids is not None:
            for i in ids:
                if i not in self._pending and i not in self._done:
                    raise EnvError(f"row {i} has nothing under way; submit a message first")
                while i not in self._done:
                    self._receive(None)
            return [(i, self._done.pop(i)) for i in ids]
        while not self._done and self._pending:
            if not self._receive(timeout):
                break
        while self._pending and self._receive(0.0):
            pass
        came = list(self._done.items())
        self._done.clear()
        return came

    def _place(self, i: int, out: Step | Pending) -> None:
        asks = isinstance(out, Pending) and any(r.kind == "need" for r in out.requests)
        if isinstance(out, Step) or asks:
            self._done[i] = out
        elif out.requests:
            self._pending[i] = out
            self._crew.take(i, out)
        else:
            self._place(i, self._env(i).settle(out))

    def _receive(self, timeout: float | None) -> bool:
        came = self._crew.come(timeout)
        if came is None:
            return False
        i, answers = came
        self._place(i, self._env(i).settle(self._pending.pop(i), answers))
        return True

    def _advance(self, rows: Sequence[int], actions: Sequence[Any]) -> dict[int, FIVE]:
        for i in rows:
            self.submit(i, actions[i])
        out: dict[int, FIVE] = {}
        for i, step in self.ready(ids=rows):
            if not isinstance(step, Step):
                raise EnvError(f"row {i} asks a model; use submit and ready, which return the Need")
            out[i] = self._five(i, step)
        return out

    def close_extras(self, **options: Any) -> None:
        """Stops the crew and ends the sandbox sessions."""
        self._crew.close()
        super().close_extras(**options)


def spread(seed: int | Sequence[int | None] | None, rows: int) -> list[int | None]:
    """Returns one seed a row."""
    if seed is None:
        return [None] * rows
    if isinstance(seed, int | np.integer):
        return [int(seed) + i for i in range(rows)]
    if len(seed) != rows:
        raise ValueError(f"{len(seed)} seeds for {rows} rows; give one a row")
    return list(seed)


def masked_rows(mask: Any, rows: int) -> list[int]:
    """Returns the rows that a reset mask names; all without one."""
    if mask is None:
        return list(range(rows))
    chosen = np.asarray(mask)
    if chosen.shape != (rows,) or chosen.dtype != np.bool_ or not chosen.any():
        raise ValueError(
            f"reset_mask is {chosen.dtype}{list(chosen.shape)} with {int(chosen.sum())} true; "
            f"give {rows} truth values, at least one true"
        )
    return np.flatnonzero(chosen).tolist()


def build(
    num_envs: int,
    *,
    workers: int | None = None,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    info_keys: Iterable[str] = (),
    **kwargs: Any,
) -> TextVectorEnv:
    """Makes a vector of one view of a registered id: its vector entry point.

    Args:
        num_envs: rows.
        workers: overlap the outside work of rows (turn view only), in this many batches.
        autoreset_mode: see `TextVectorEnv`.
        info_keys: see `TextVectorEnv`.
        **kwargs: of the environment and its view.
    """
    envs = [registry.build(**kwargs) for _ in range(num_envs)]
    if workers is not None:
        return WorkerVectorEnv(
            envs, workers=workers, autoreset_mode=autoreset_mode, info_keys=info_keys
        )
    return TextVectorEnv(envs, autoreset_mode=autoreset_mode, info_keys=info_keys)
