"""One agent, one environment, one episode: the loop to read first."""

from __future__ import annotations

from ..agents.core import Agent, Ask, Key, Seat
from ..agents.shield import machine_of
from ..envs.core import Env, Step, run
from .record import Record
from .serving import distinct, serve
from .trajectory import Trajectory


def play(agent: Agent, env: Env, *, seed: int, attempt: int = 0, run_seed: int = 0) -> Trajectory:
    """Play one episode in process; equal to the engine's, bit for bit (AG-CORE3).

    Args:
        agent: who plays.
        env: where; it is restarted.
        seed: of the environment's streams.
        attempt: which attempt at the task.
        run_seed: seed of the run, part of the random key.
    """
    news = env.start(seed, {"attempt": attempt})
    key = Key(run_seed, seed, 0, attempt)
    seat = Seat(
        key,
        env.env_id,
        tools=tuple(env.tools.schemas()),
        limits=env.limits,
        images=env.limits.images > 0,
    )
    memory = agent.start(seat)
    record = Record(seat, 0, news, env)
    while True:
        road = agent.turn(memory, news)
        try:
            wish = next(road)
            while True:
                single = isinstance(wish, Ask)
                asks = [wish] if isinstance(wish, Ask) else wish
                distinct(asks)
                asks = seat.counters.begin(asks)
                for ask in asks:
                    record.asked(ask)
                actions = serve(asks)
                seat.counters.finish(asks, actions)
                for ask, action in zip(asks, actions, strict=True):
                    record.drew(ask, action, machine_of(ask))
                wish = road.send(actions[0] if single else actions)
        except StopIteration as end:
            message = end.value
        if record.empty:
            return record.trajectory(None, env)
        pending = env.propose(message)
        record.said(message, pending)
        while not isinstance(out := env.settle(pending, run([pending])[0]), Step):
            pending = out
        record.settled(out)
        if out.terminated or out.truncated or out.excluded:
            return record.trajectory(out, env)
        if record.full:
            return record.trajectory(None, env)
        news = out.messages
