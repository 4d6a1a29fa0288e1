"""Tokenizers that need no download: bytes, words, and the fragments of a drill."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, cast

__all__ = ["ByteTokenizer", "FragmentTokenizer", "Tokenizer", "WordTokenizer", "from_json"]


class Tokenizer(Protocol):
    """Text to ids and back; what the token view, the chat and the tiny policy ask of it."""

    @property
    def name(self) -> str:
        """Name that is written into manifests and checkpoints."""
        ...

    @property
    def size(self) -> int:
        """Number of ids."""
        ...

    @property
    def end_of_turn(self) -> int:
        """Id that ends a message."""
        ...

    @property
    def pad(self) -> int:
        """Id that fills what is left of a row."""
        ...

    @property
    def image(self) -> int | None:
        """Id that stands for a patch of a picture, or None."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; control ids are never among them."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; total on ids in [0, size)."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes each id contributes; joined they are the bytes of the text."""
        ...


class ByteTokenizer:
    """The 256 bytes of UTF-8 and three control ids: end, pad, image.

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode("hé"), tokenizer.decode([104, 195, 169, tokenizer.end_of_turn])
    ([104, 195, 169], 'hé')
    """

    name = "bytes"
    size = 259
    end_of_turn = 256
    pad = 257
    image: int | None = 258

    def encode(self, text: str) -> list[int]:
        """Return the UTF-8 bytes of `text`; a lone surrogate becomes `?`."""
        return list(text.encode("utf-8", "replace"))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the bytes among `ids`; bad UTF-8 becomes U+FFFD."""
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return one byte per id, and nothing for a control id."""
        return [bytes((i,)) if i < 256 else b"" for i in ids]

    def to_json(self) -> str:
        """Return the text from which `from_json` makes an equal tokenizer."""
        return json.dumps({"kind": "bytes"})

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> Self:
        """Make the tokenizer that `to_json` wrote."""
        _fields(text, "bytes")
        return cls()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByteTokenizer)

    def __hash__(self) -> int:
        return hash(self.name)


class FragmentTokenizer:
    """A closed vocabulary: four control ids, then a fixed list of fragments.

    Encoding takes the longest fragment at each place; decoding puts the fragments in a row, with
    `joiner` between them. With a joiner, white space between fragments is skipped and a fragment
    matches whole words only.

    >>> tokenizer = FragmentTokenizer(["max(", "[v for v in x if v%2]", ")"])
    >>> tokenizer.encode("max([v for v in x if v%2])")
    [4, 5, 6]
    >>> tokenizer.decode([4, 5, 6, tokenizer.end_of_turn])
    'max([v for v in x if v%2])'
    """

    kind = "fragments"
    specials = ("<pad>", "<obs>", "<act>", "<end>")
    pad, obs, act, end_of_turn = 0, 1, 2, 3
    image: int | None = None

    def __init__(
        self,
        fragments: Sequence[str],
        joiner: str = "",
        *,
        unknown: str | None = "<overflow>",
        name: str | None = None,
    ) -> None:
        """Fix the vocabulary.

        Args:
            fragments: The texts of ids 4, 5, ...; none empty, none twice.
            joiner: What decoding writes between two fragments.
            unknown: The fragment that stands for a stretch outside the vocabulary. Where it is
                not among `fragments`, such text is refused with a ValueError.
            name: Name for manifests; the kind of tokenizer when absent.
        """
        if "" in fragments or len(set(fragments)) != len(fragments):
            doubles = sorted({f for f in fragments if fragments.count(f) > 1 or not f})
            raise ValueError(
                f"fragments holds {doubles[:5]} twice or empty; give each fragment once, none empty"
            )
        self.fragments = tuple(fragments)
        self.joiner = joiner
        self.name = name or self.kind
        self.unknown = unknown if unknown in fragments else None
        self.size = len(self.specials) + len(self.fragments)
        self._ids = {f: i for i, f in enumerate(self.fragments, len(self.specials))}
        self._texts = ("",) * len(self.specials) + self.fragments
        self._lengths: dict[str, list[int]] = {}  # by first character, longest first
        for first in {f[0] for f in self.fragments}:
            lengths = {len(f) for f in self.fragments if f[0] == first}
            self._lengths[first] = sorted(lengths, reverse=True)

    def id(self, fragment: str) -> int:
        """Return the id of one fragment; KeyError where the vocabulary lacks it."""
        return self._ids[fragment]

    def encode(self, text: str) -> list[int]:
        """Return the ids of the longest fragments from left to right.

        Raises:
            ValueError: At text outside the vocabulary, when there is no `unknown` fragment.
        """
        ids: list[int] = []
        at, strange, end = 0, False, len(text)
        while at < end:
            if self.joiner and text[at].isspace():
                at += 1
                continue
            fragment = self._longest(text, at)
            if fragment is None:
                if not strange:
                    ids.append(self._stranger(text, at))
                strange, at = True, at + 1
            else:
                ids.append(self._ids[fragment])
                strange, at = False, at + len(fragment)
        return ids

    def _longest(self, text: str, at: int) -> str | None:
        if self.joiner and at and text[at].isalnum() and text[at - 1].isalnum():
            return None
        for length in self._lengths.get(text[at], ()):
            fragment = text[at : at + length]
            if fragment in self._ids and not (self.joiner and self._cuts(text, at + length)):
                return fragment
        return None

    @staticmethod
    def _cuts(text: str, at: int) -> bool:
        return at < len(text) and text[at].isalnum() and text[at - 1].isalnum()

    def _stranger(self, text: str, at: int) -> int:
        if self.unknown is None:
            raise ValueError(
                f"{text[at : at + 20]!r} at character {at} of {text[:60]!r} is not in the "
                f"vocabulary of {self.name} ({len(self.fragments)} fragments); add it, or give "
                "unknown= a fragment that stands for such text"
            )
        return self._ids[self.unknown]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the fragments of `ids`, joined; control ids are silent."""
        texts = self._texts
        return self.joiner.join([texts[i] for i in ids if i > 3])

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of each fragment, a joiner before all but the first."""
        out: list[bytes] = []
        begun = False
        for i in ids:
            text = (self.joiner if begun else "") + self._texts[i] if i > 3 else ""
            begun = begun or i > 3
            out.append(text.encode("utf-8", "replace"))
        return out

    def to_json(self) -> str:
        """Return the text from which `from_json` makes an equal tokenizer."""
        fields = {
            "kind": self.kind,
            "name": self.name,
            "fragments": list(self.fragments),
            "joiner": self.joiner,
            "unknown": self.unknown,
        }
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> FragmentTokenizer:
        """Make the tokenizer that `to_json` wrote."""
        fields = _fields(text, cls.kind)
        return FragmentTokenizer(
            fields["fragments"],
            fields["joiner"],
            unknown=fields["unknown"],
            name=fields["name"],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FragmentTokenizer) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.name, self.fragments, self.joiner))


class WordTokenizer(FragmentTokenizer):
    """Whole words, one blank between them.

    >>> tokenizer = WordTokenizer(["are", "you", "sure", "?"])
    >>> tokenizer.encode("are you sure?"), tokenizer.decode([4, 5])
    ([4, 5, 6, 7], 'are you')
    """

    kind = "words"

    def __init__(
        self, words: Sequence[str], *, unknown: str | None = "<overflow>", name: str | None = None
    ) -> None:
        """Fix the words; arguments as in `FragmentTokenizer`, the joiner is one blank."""
        blank = [word for word in words if any(c.isspace() for c in word)]
        if blank:
            raise ValueError(
                f"{blank[:3]} hold white space; give single words, or take FragmentTokenizer"
            )
        super().__init__(words, " ", unknown=unknown, name=name)

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> WordTokenizer:
        """Make the tokenizer that `to_json` wrote."""
        fields = _fields(text, cls.kind)
        return cls(fields["fragments"], unknown=fields["unknown"], name=fields["name"])


def from_json(text: str | Mapping[str, Any]) -> ByteTokenizer | FragmentTokenizer:
    """Make the tokenizer of any kind that a `to_json` wrote."""
    kinds: dict[str, type[ByteTokenizer] | type[FragmentTokenizer]] = {
        "bytes": ByteTokenizer,
        "fragments": FragmentTokenizer,
        "words": WordTokenizer,
    }
    fields = _fields(text)
    kind = kinds.get(fields["kind"])
    if kind is None:
        raise ValueError(
            f"the tokenizer is of kind {fields['kind']!r}; known kinds: {', '.join(kinds)}"
        )
    return kind.from_json(fields)


def _fields(text: str | Mapping[str, Any], kind: str | None = None) -> Mapping[str, Any]:
    fields = cast(Mapping[str, Any], json.loads(text)) if isinstance(text, str) else text
    if kind is not None and fields.get("kind") != kind:
        raise ValueError(f"the text describes a {fields.get('kind')!r} tokenizer, wanted {kind!r}")
    return fields
