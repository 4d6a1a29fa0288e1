"""Messages to tokens and back: one append-only row, and which of its tokens are the agent's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np

from ..envs.messages import Message
from .core import Action, Ints, Policy, Seat
from .errors import TemplateError
from .labels import Drawn, Kind, Labels, label
from .templates import PlainTemplate, Template, default_template

if TYPE_CHECKING:
    from ..envs.core import Pending
    from ..envs.tokenizers import Tokenizer

OnRewrite = Literal["rows", "keep", "refuse"]

__all__ = ["Chat", "Context", "Drawn", "Kind", "Labels", "OnRewrite", "PlainTemplate", "Session"]


class Session(Protocol):
    """Keys and values kept for the beginning of a context; owned by a sampler."""

    @property
    def length(self) -> int:
        """Tokens it holds."""
        ...

    @property
    def version(self) -> int:
        """Weights that computed them."""
        ...

    def fork(self) -> Session:
        """Another session that begins like this one."""
        ...

    def close(self) -> None:
        """Give its memory back."""
        ...


class Context:
    """One row of tokens, and the messages drawn into it. Ids once appended never change."""

    def __init__(self, tokens: Sequence[int] = (), kinds: Sequence[int] = ()) -> None:
        self.ids: list[int] = list(tokens)
        self.kinds: list[int] = list(kinds)
        self.drawn: list[Drawn] = []
        self._array: Ints | None = None

    def append(self, ids: Sequence[int], kind: Kind) -> None:
        """Append ids of one kind."""
        self.ids.extend(ids)
        self.kinds.extend([int(kind)] * len(ids))
        self._array = None

    @property
    def tokens(self) -> Ints:
        """The row, [T]."""
        if self._array is None:
            self._array = np.array(self.ids, np.int32)
        return self._array

    def labels(self, tokenizer: Tokenizer) -> Labels:
        """What each token of the row is, [T] a column."""
        return label(self.ids, self.kinds, self.drawn, tokenizer)


class Chat:
    """A conversation as one append-only row of tokens.

    Args:
        tokenizer: text to ids.
        template: what stands between messages.
        seat: who sits here.
        system: system prompt, if the environment's messages bring none.
        on_rewrite: where the template rewrites earlier turns: "rows" opens a new context,
            "keep" leaves history as it is, "refuse" raises.

    Raises:
        TemplateError: the template rewrites history and `on_rewrite` is "refuse".
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template,
        seat: Seat,
        *,
        system: str | None = None,
        on_rewrite: OnRewrite = "rows",
    ) -> None:
        self.tokenizer, self.template, self.seat = tokenizer, template, seat
        self.system = system
        self.on_rewrite: OnRewrite = on_rewrite
        self.messages: list[Message] = []
        self.contexts: list[Context] = [Context()]
        self.spent = 0  # tokens drawn in this chat
        self.session: Session | None = None
        self._inside = False  # the prompt has opened a reasoning block
        self._turns = 0
        verdict = template.verdict(seat.tools)
        if on_rewrite == "refuse" and verdict != "yes":
            raise TemplateError(
                f"the template rewrites earlier turns ({verdict}). "
                'on_rewrite="rows" (default), "keep", or another template.'
            )
        self._rewrites = on_rewrite == "rows" and verdict != "yes"

    @classmethod
    def for_(cls, policy: Policy, seat: Seat, system: str | None = None) -> Self:
        """A chat with the policy's own template and tokenizer."""
        template = getattr(policy, "template", None) or default_template(policy.tokenizer)
        on_rewrite: OnRewrite = getattr(policy, "on_rewrite", "rows")
        return cls(policy.tokenizer, template, seat, system=system, on_rewrite=on_rewrite)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"session": None}  # keys and values are recomputed

    @property
    def context(self) -> Context:
        """The row that grows now."""
        return self.contexts[-1]

    @property
    def tokens(self) -> Ints:
        """The ids of the present row, [T]."""
        return self.context.tokens

    @property
    def labels(self) -> Labels:
        """What each token of the present row is."""
        return self.context.labels(self.tokenizer)

    def add(self, messages: Sequence[Message], *, reply: bool = True) -> None:
        """Append messages that others said; only these are rendered.

        Args:
            messages: in order.
            reply: whether the agent speaks next. False for the last news of an episode.
        """
        tools, system = self.seat.tools, self.system
        if not self.messages:
            ids = self.template.open(messages, tools, system, reply=reply)
            self.context.append(ids, Kind.PROMPT)
        elif self._rewrites and (whole := self._rewritten(messages, reply)) is not None:
            self._new_context(whole, [Kind.OBSERVATION] * len(whole))
        else:
            self.context.append(self.template.render(messages, reply=reply), Kind.OBSERVATION)
        self.messages.extend(messages)
        self._inside = reply and self._opens_reasoning()

    def _rewritten(self, messages: Sequence[Message], reply: bool) -> list[int] | None:
        said = [*self.messages, *messages]
        whole = self.template.open(said, self.seat.tools, self.system, reply=reply)
        decode = self.tokenizer.decode
        same = decode(whole).startswith(decode(self.context.ids).rstrip())
        return None if same else whole

    def _new_context(self, ids: Sequence[int], kinds: Sequence[int]) -> None:
        self.contexts.append(Context(ids, kinds))

    def _opens_reasoning(self) -> bool:
        if self.template.thinks is None:
            return False
        tail = self.tokenizer.decode(self.context.ids[-16:])
        return tail.rstrip().endswith(self.template.thinks[0])

    def commit(self, action: Action, message: Message | None = None) -> Message:
        """Append the drawn ids as they are.

        Args:
            action: the answer to an ask of this chat.
            message: what it says, where the caller knows better than decoding.

        Returns:
            The message; reasoning is split off where the template has delimiters for it.
        """
        ids = [int(i) for i in action.tokens]
        start, end = len(self.context.ids), self.tokenizer.end_of_turn
        raw = self.tokenizer.decode(ids[:-1] if ids and ids[-1] == end else ids)
        reasoning, content, offset = _split(raw, self.template.thinks, self._inside)
        if message is None:
            message = Message("assistant", content, reasoning=reasoning)
        self.context.append(ids, Kind.ACTION)
        self.context.drawn.append(Drawn(start, len(ids), self._turns, offset))
        if not ids or ids[-1] != end:
            self.context.append([end], Kind.OBSERVATION)  # ours, not drawn
        self._turns += 1
        self.spent += len(ids)
        self.messages.append(message)
        return message

    def mark(self, pending: Pending) -> None:
        """Label the last message's tokens with the calls the environment found in it."""
        last = self.context.drawn[-1]
        offset = pending.offset or last.offset
        spans = tuple(
            (a + offset, b + offset) for a, b in (call.span for call in pending.message.calls)
        )
        self.context.drawn[-1] = last._replace(spans=spans, offset=offset)
        # with its calls parsed: a template that writes history anew writes them in its own way
        said = self.messages[-1]
        self.messages[-1] = pending.message._replace(
            reasoning=pending.message.reasoning or said.reasoning
        )

    def replace(self, executed: Message) -> None:
        """Put another message in the place of the last one, which stays the action.

        Opens a new context without the drawn ids; the executed text is an input there.
        """
        last = self.context.drawn[-1]
        before = self.context.ids[: last.start]
        self._new_context(before, [Kind.OBSERVATION] * len(before))
        ids = [*self.tokenizer.encode(executed.content), self.tokenizer.end_of_turn]
        self.context.append(ids, Kind.EXECUTED)
        self.messages[-1] = executed

    def fork(self) -> Chat:
        """A second chat that begins like this one and shares its keys and values.

        What was drawn before the fork is an input in the fork's row.
        """
        other = type(self)(
            self.tokenizer, self.template, self.seat, system=self.system, on_rewrite=self.on_rewrite
        )
        ids = self.context.ids
        other.contexts = [Context(ids, [Kind.OBSERVATION] * len(ids))]
        other.messages, other.spent = list(self.messages), self.spent
        other._inside, other._turns = self._inside, self._turns
        other.session = None if self.session is None else self.session.fork()
        return other


def _split(raw: str, thinks: tuple[str, str] | None, inside: bool) -> tuple[str, str, int]:
    """Reasoning, content, and the characters before the content."""
    if thinks is None:
        return "", raw, 0
    opening, closing = thinks
    begin = 0 if inside else len(raw) - len(raw.lstrip())
    if not inside:
        if not raw.startswith(opening, begin):
            return "", raw, 0
        begin += len(opening)
    stop = raw.find(closing, begin)
    if stop < 0:
        return raw[begin:].strip(), "", len(raw)
    content = raw[stop + len(closing) :].lstrip()
    return raw[begin:stop].strip(), content, len(raw) - len(content)
