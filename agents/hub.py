"""A Hugging Face tokenizer and its chat template, in the words of this room."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ..envs.messages import Message, ToolCall
from .errors import TemplateError
from .templates import Tools

Row = dict[str, Any]


class HubTokenizer:
    """A `PreTrainedTokenizer` as our `Tokenizer`.

    Args:
        inner: the tokenizer.
        size: ids of the model's embedding; may exceed the tokenizer's own.
        name: in manifests.
        end_of_turn: id that ends a message; None: found from the chat template.
    """

    image: int | None = None

    def __init__(self, inner: Any, size: int, name: str, end_of_turn: int | None = None) -> None:
        self.inner, self.size, self.name = inner, size, name
        self._control = frozenset(int(i) for i in inner.all_special_ids)
        self._known = len(inner)
        self.end_of_turn = _end(inner) if end_of_turn is None else end_of_turn
        pad = inner.pad_token_id
        self.pad = self.end_of_turn if pad is None else int(pad)
        self._letters: dict[str, int] | None = _letters() if _byte_level(inner) else None
        self._added = {int(i): str(t) for i, t in inner.added_tokens_decoder.items()}

    def encode(self, text: str) -> list[int]:
        """The ids of plain text; control tokens written in it stay text."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        return list(self.inner.encode(text, add_special_tokens=False, split_special_tokens=True))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; control ids, and ids beyond the tokenizer's, are silent."""
        plain = [int(i) for i in ids if i < self._known and i not in self._control]
        return self.inner.decode(plain, clean_up_tokenization_spaces=False)

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each id; joined they are the bytes of the text."""
        if self._letters is None:
            return self._differences(ids)
        out: list[bytes] = []
        for i in map(int, ids):
            if i >= self._known or i in self._control:
                out.append(b"")
            elif i in self._added:
                out.append(self._added[i].encode())
            else:
                token = str(self.inner.convert_ids_to_tokens(i))
                out.append(bytes(self._letters[letter] for letter in token))
        return out

    def _differences(self, ids: Sequence[int]) -> list[bytes]:
        """Bytes by decoding ever longer beginnings: right for any kind of tokenizer, slower.

        A letter that is not yet whole decodes to U+FFFD; its bytes go to the id that ends it.
        """
        out: list[bytes] = []
        done = ""
        for n in range(1, len(ids) + 1):
            text = self.decode(ids[:n])
            whole = text.rstrip("\ufffd") if n < len(ids) else text
            whole = whole if whole.startswith(done) else done
            out.append(whole[len(done) :].encode("utf-8", "replace"))
            done = whole
        return out

    def save(self, folder: Path) -> None:
        """Write the tokenizer's own files."""
        self.inner.save_pretrained(folder)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HubTokenizer) and self.inner is other.inner

    def __hash__(self) -> int:
        return id(self.inner)


def _end(inner: Any) -> int:
    """The id behind an assistant's message: the template's, else the tokenizer's own end."""
    if inner.chat_template:
        rows: list[Row] = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
        ]
        ids = _apply(inner, rows, (), reply=False)
        special = {*map(int, inner.all_special_ids), *map(int, inner.added_tokens_decoder)}
        for token in reversed(ids):
            if token in special:
                return token
    end = inner.eos_token_id
    if end is None:
        raise TemplateError(
            "the tokenizer has neither a chat template nor an eos_token; "
            "set eos_token in its tokenizer_config.json"
        )
    return int(end)


def _byte_level(inner: Any) -> bool:
    backend = getattr(inner, "backend_tokenizer", None)
    if backend is None:
        return False
    described = cast(dict[str, Any], json.loads(backend.to_str()))
    decoder = cast(dict[str, Any], described.get("decoder") or {})
    steps = cast(list[dict[str, Any]], decoder.get("decoders", [decoder]))
    return any(step.get("type") == "ByteLevel" for step in steps)


def _letters() -> dict[str, int]:
    """Byte of each printable letter that byte-level tokenizers write for it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = iter(range(256, 512))
    return {chr(b) if b in plain else chr(next(other)): b for b in range(256)}


def _apply(inner: Any, rows: Sequence[Row], tools: Tools, *, reply: bool) -> list[int]:
    return list(
        inner.apply_chat_template(
            list(rows),
            tools=list(tools) or None,
            add_generation_prompt=reply,
            sanitize_control_tokens=True,
            return_dict=False,
        )
    )


class ChatTemplate:
    """A tokenizer's own chat template; the ids of new messages are a difference.

    Args:
        tokenizer: its template is used.
        thinks: delimiters of reasoning; None: found in the template.
    """

    name = "chat"

    def __init__(self, tokenizer: HubTokenizer, thinks: tuple[str, str] | None = None) -> None:
        self.tokenizer = tokenizer
        text = str(tokenizer.inner.chat_template)
        marks = ("<think>", "</think>")
        self.thinks = thinks or (marks if marks[1] in text else None)
        self._verdicts: dict[str, str] = {}

    def head(self, tools: Tools, system: str | None) -> list[int]:
        """What stands before the first message: system prompt and tools."""
        rows: list[Row] = [] if system is None else [{"role": "system", "content": system}]
        if not rows and not tools:
            return []
        with_user = self._ids([*rows, {"role": "user", "content": "a"}], tools, reply=False)
        other = self._ids([*rows, {"role": "user", "content": "b"}], tools, reply=False)
        same = next(
            (i for i, (a, b) in enumerate(zip(with_user, other, strict=False)) if a != b), 0
        )
        lone = self._ids([{"role": "user", "content": "a"}], (), reply=False)
        return with_user[: max(0, min(same, len(with_user) - len(lone)))]

    def open(
        self, messages: Sequence[Message], tools: Tools, system: str | None, *, reply: bool
    ) -> list[int]:
        """The whole beginning, as the template writes it."""
        rows = [_row(message) for message in messages]
        if system is not None and not (rows and rows[0]["role"] == "system"):
            rows.insert(0, {"role": "system", "content": system})
        return self._ids(rows, tools, reply=reply)

    def render(self, messages: Sequence[Message], *, reply: bool) -> list[int]:
        """Later messages: what they add to a short fixed dialogue, behind its last end id.

        Raises:
            TemplateError: the template does not end an assistant's message with the end id.
        """
        if not messages and not reply:
            return []
        rows = [_row(message) for message in messages]
        called = [r["tool_call_id"] for r in rows if r["role"] == "tool" and "tool_call_id" in r]
        probe = _probe(called)
        before = self._ids(probe, (), reply=False)
        end = self.tokenizer.end_of_turn
        if end not in before:
            raise TemplateError(
                f"the template ends no message with id {end} of {self.tokenizer.name}; "
                "give another template"
            )
        cut = len(before) - before[::-1].index(end)
        whole = self._ids([*probe, *rows], (), reply=reply)
        if whole[:cut] != before[:cut]:
            raise TemplateError(
                "the template writes an answer differently once something follows it; "
                "give another template"
            )
        return whole[cut:]

    def _ids(self, rows: Sequence[Row], tools: Tools, *, reply: bool) -> list[int]:
        return _apply(self.tokenizer.inner, rows, tools, reply=reply)

    def verdict(self, tools: Tools) -> str:
        """Whether the template leaves earlier turns as they are; found once for each tools."""
        key = json.dumps(list(tools), sort_keys=True, default=str)
        if key not in self._verdicts:
            self._verdicts[key] = self._judged(tools)
        return self._verdicts[key]

    def _judged(self, tools: Tools) -> str:
        chain = self._first_change(_chain(), tools)
        if chain is not None:
            return f"no, because a turn is written anew within a chain of calls {chain}"
        turns = self._first_change(_turns(), tools)
        return "yes" if turns is None else f"until_user {turns}"

    def _first_change(self, rows: Sequence[Row], tools: Tools) -> str | None:
        """Where a longer dialogue is no continuation of a shorter one, as text and as ids.

        Only the dialogues that an agent would have seen are compared: those it answers next.
        """
        decode = self.tokenizer.inner.decode
        heard = [i for i in range(1, len(rows) + 1) if rows[i - 1]["role"] != "assistant"]
        told = [i for i in range(1, len(rows) + 1) if rows[i - 1]["role"] == "assistant"]
        ids = {i: self._ids(rows[:i], tools, reply=i in heard) for i in (*heard, *told)}
        end = self.tokenizer.end_of_turn
        for i in told:  # up to and including its end id: what follows belongs to the next piece
            ids[i] = ids[i][: len(ids[i]) - ids[i][::-1].index(end)] if end in ids[i] else ids[i]
        for i, j in [(i, j) for i in ids for j in heard if i < j]:
            if i in heard and rows[i]["role"] != "assistant":
                continue
            if ids[j][: len(ids[i])] != ids[i]:
                short, long = str(decode(ids[i])), str(decode(ids[j]))
                at = next(
                    (n for n, (a, b) in enumerate(zip(short, long, strict=False)) if a != b),
                    min(len(short), len(long)),
                )
                return f"(first difference at character {at}: {short[at : at + 24]!r})"
        return None


def _row(message: Message) -> Row:
    row = {k: v for k, v in message.to_openai().items() if k != "palaestra"}
    for call in row.get("tool_calls", ()):  # templates print arguments as JSON themselves
        arguments: object = call["function"]["arguments"]
        if isinstance(arguments, str):
            call["function"]["arguments"] = _parsed(arguments)
    if row.get("content") is None:
        row["content"] = ""
    return row


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _probe(called: Sequence[str]) -> list[Row]:
    said: Row = {"role": "assistant", "content": "b"}
    if called:
        said["tool_calls"] = [_call(identity) for identity in called]
    return [{"role": "user", "content": "a"}, said]


def _call(identity: str) -> Mapping[str, Any]:
    function = {"name": "f", "arguments": {"x": 1}}
    return {"id": identity, "type": "function", "function": function}


def _chain() -> list[Row]:
    """One question, two calls with reasoning, their results."""
    calls = (ToolCall("c00000001", "f", {"x": 1}, (0, 0)),)
    return [
        _row(Message("user", "first")),
        _row(Message("assistant", "", calls, reasoning="because")),
        _row(Message("tool", "one", call_id="c00000001")),
        _row(Message("assistant", "", calls, reasoning="again")),
        _row(Message("tool", "two", call_id="c00000001")),
    ]


def _turns() -> list[Row]:
    """Four turns, with and without reasoning."""
    rows: list[Row] = []
    for i, reasoning in enumerate(("because", "", "hence", "")):
        rows.append(_row(Message("user", f"question {i}")))
        rows.append(_row(Message("assistant", f"answer {i}", reasoning=reasoning)))
    return rows[:-1]
