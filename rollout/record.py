"""What an episode leaves behind while it runs, and the trajectory made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..agents.chat import Chat, Context
from ..agents.core import Action, Ask, Seat
from ..agents.rows import Machine
from ..envs.core import Env, Pending, Step
from ..envs.messages import Message
from .columns import Columns, Said, Served
from .trajectory import Identity, Outcome, Placed, Trajectory


class Record:
    """Collects what happens in one episode.

    Args:
        seat: the agent's seat; its key names the episode.
        group: which episodes share a task.
        news: the environment's first messages.
        env: the environment, already started.
    """

    def __init__(self, seat: Seat, group: int, news: Sequence[Message], env: Env) -> None:
        self.seat = seat
        self.group = group
        self.messages: list[Message] = list(news)
        self.task = str(env.task.id)
        self.params = dict(env.params)
        self.served: list[Served] = []
        self.credits: list[Placed] = []
        self.costs: list[tuple[int, Mapping[str, float]]] = []
        self.spoken: list[Said] = []  # by turn
        self.total = 0.0
        self.problems: dict[str, int] = {}
        self.seconds = 0.0
        self.full = False  # the context has no room for another message
        self.chat: Chat | None = None  # where the agent speaks to the environment
        self._places: dict[int, tuple[Context, int]] = {}
        self._begun = 0  # how many asks were served before this turn

    # --- while it runs -----------------------------------------------------------------------

    def asked(self, ask: Ask) -> None:
        """Remember where the answer will stand."""
        context = ask.chat.context
        self._places[id(ask)] = (context, len(context.ids))

    def drew(self, ask: Ask, action: Action, machine: Machine | None) -> None:
        """An ask was answered."""
        context, start = self._places.pop(id(ask))
        self.served.append(Served(context, start, ask, action, machine))
        self.full = self.full or action.stop == "context"

    @property
    def empty(self) -> bool:
        """Whether the last ask found no room for a single token."""
        return self.full and not len(self.served[-1].action.tokens)

    def said(self, message: Message, pending: Pending) -> None:
        """The agent's message reached the environment.

        Args:
            message: as the agent gave it.
            pending: as the environment read it.
        """
        self.messages.append(pending.message)
        last = len(self.served) - 1 if self.served else None
        author = self._author(message)
        offset = None
        if author is not None:
            self.chat = self.served[author].ask.chat
            self.chat.mark(pending)
            # Asked again after it was drawn (a check, a vote): what was drawn then decided that
            # it was said, so what it earns is paid behind that, to the last one drawn.
            offset = self.chat.context.drawn[-1].offset if author == last else None
        elif self.chat is None and self.served:
            self.chat = self.served[-1].ask.chat
        self.spoken.append(Said(pending, last, offset))
        self._begun = len(self.served)

    def _author(self, message: Message) -> int | None:
        """Which ask of this turn drew the message, if it stands in its chat as it was drawn."""
        for index in range(len(self.served) - 1, self._begun - 1, -1):
            one = self.served[index]
            chat = one.ask.chat
            if chat.context is not one.context or not one.context.drawn or not chat.messages:
                continue
            kept = chat.messages[-1]
            if (
                one.context.drawn[-1].start == one.start
                and kept.role == message.role
                and (kept is message or kept.content == message.content)
            ):
                return index
        return None

    def settled(self, step: Step) -> None:
        """The environment answered."""
        turn = len(self.spoken) - 1
        self.messages.extend(step.messages)
        self.credits.extend(Placed(turn, credit) for credit in step.credits)
        if step.costs:
            self.costs.append((turn, step.costs))
        self.total += step.reward
        for code, count in step.info.get("problems", {}).items():
            self.problems[code] = self.problems.get(code, 0) + count
        self.seconds += float(step.info.get("simulated_seconds", 0.0))

    # --- at the end --------------------------------------------------------------------------

    def trajectory(self, step: Step | None, env: Env) -> Trajectory:
        """The whole episode as columns. ``step`` None: our context was full (truncated)."""
        outcome = Outcome(
            terminated=step is not None and step.terminated,
            truncated=step is None or step.truncated,
            reason="context" if step is None else step.reason,
            success=False if step is None else step.success,
            excluded=step is not None and step.excluded,
            total=self.total,
            potentials=dict(env.potentials()),
            problems=self.problems,
            seconds=self.seconds,
        )
        key = self.seat.key
        identity = Identity(
            self.seat.env_id,
            key.seed,
            key.episode,
            key.attempt,
            self.task,
            self.params,
            self.group,
        )
        end = self._open(step) if outcome.truncated else None
        columns = Columns(self.served, self.spoken, end)
        return Trajectory(
            identity=identity,
            outcome=outcome,
            messages=tuple(self.messages),
            credits=tuple(self.credits),
            **columns.fields(self.credits, self.costs),
        )

    def _open(self, step: Step | None) -> tuple[Context, int] | None:
        """The context at whose end the next message would begin, and how far it counts.

        The value there is the bootstrap of a truncated episode, so it must be a state the critic
        knows: one before the first token of a message.
        """
        if not self.served:
            return None
        last = self.served[-1]
        chat = last.ask.chat if self.chat is None else self.chat
        if step is not None and step.messages:
            chat.add(step.messages)
        context = chat.context
        if step is None and self.empty and last.context is context:
            return context, last.start  # the end-of-turn id behind it was not drawn
        return context, last.ask.policy.context  # more than that no model reads
