"""All Unicode text of bounded length, as a Gymnasium space."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import read_from_shared_memory, write_to_shared_memory
from numpy.typing import NDArray

__all__ = ["LiveTexts", "TextSpace"]

PRINTABLE = "".join(chr(code) for code in range(32, 127)) + "\n"
SAMPLE = 64  # characters of a random text, at most


class Alphabet:
    """All code points, as the set and the list of characters that Gymnasium asks for.

    A real set of them would take 1.1 million entries in each space.
    """

    def __len__(self) -> int:
        return sys.maxunicode + 1

    def __contains__(self, char: object) -> bool:
        return isinstance(char, str) and len(char) == 1

    def __getitem__(self, code: int) -> str:
        return chr(code)

    def __iter__(self) -> Iterator[str]:
        return map(chr, range(sys.maxunicode + 1))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alphabet)

    def __hash__(self) -> int:
        return hash(Alphabet)


ALPHABET = Alphabet()


class TextSpace(gymnasium.spaces.Text):
    """Texts of at most `max_length` characters that UTF-8 can hold.

    It is a `gymnasium.spaces.Text`, so batching, flattening and shared memory work.

    Example:
        >>> "é" in TextSpace(4), "hello" in TextSpace(4), chr(0xD800) in TextSpace(4)
        (True, False, False)
    """

    def __init__(
        self,
        max_length: int,
        *,
        min_length: int = 0,
        examples: Sequence[str] = (),
        seed: int | np.random.Generator | None = None,
    ) -> None:
        """Makes a space.

        Args:
            max_length: characters at most.
            min_length: characters at least.
            examples: texts that `sample` draws half the time, so that random agents do real things.
            seed: of `sample`.
        """
        super().__init__(max_length, min_length=min_length, charset="a", seed=seed)
        self._char_set = ALPHABET  # pyright: ignore[reportAttributeAccessIssue]
        self._char_list = ALPHABET  # pyright: ignore[reportAttributeAccessIssue]
        self.examples = tuple(text for text in examples if self.contains(text))

    def contains(self, x: Any) -> bool:
        """Whether x is a text of allowed length without lone surrogates."""
        if not isinstance(x, str) or not self.min_length <= len(x) <= self.max_length:
            return False
        if x.isascii():
            return True
        try:
            x.encode()
        except UnicodeEncodeError:
            return False
        return True

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Draws an example, or printable text.

        Args:
            mask: a pair (length or None, None), as `gymnasium.spaces.Text` takes it; a mask of
                1.1 million characters is refused.
            probability: the same.
        """
        random = self.np_random
        wanted: int | None = None
        for given in (mask, probability):
            if given is not None:
                if given[1] is not None:
                    raise ValueError("TextSpace takes no mask of characters; give (length, None)")
                wanted = given[0]
        if wanted is None and self.examples and random.random() < 0.5:
            return self.examples[int(random.integers(len(self.examples)))]
        low, high = self.min_length, min(self.max_length, max(self.min_length, SAMPLE))
        length = int(random.integers(low, high + 1)) if wanted is None else int(wanted)
        return "".join([PRINTABLE[i] for i in random.integers(len(PRINTABLE), size=length)])

    def character_index(self, char: str) -> np.int32:
        """The character's code point."""
        return np.int32(ord(char))

    @property
    def characters(self) -> str:
        """Not listed: there are 1.1 million."""
        return "unicode"

    def __repr__(self) -> str:
        return f"TextSpace({self.min_length}, {self.max_length})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TextSpace)
            and self.min_length == other.min_length
            and self.max_length == other.max_length
        )

    def __hash__(self) -> int:
        return hash((self.min_length, self.max_length))

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._char_set = ALPHABET  # pyright: ignore[reportAttributeAccessIssue]
        self._char_list = ALPHABET  # pyright: ignore[reportAttributeAccessIssue]


class LiveTexts(Sequence[str]):
    """The texts that workers have written into shared memory, as they stand when read.

    Gymnasium reads an async vector's shared memory once, and copies what it read after each step.
    For arrays that works, since they are views; a tuple of texts would stay what it was first.
    """

    def __init__(self, rows: NDArray[np.int32]) -> None:
        self._rows = rows  # [N, max_length], code points; what is no code point ends nothing

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._rows[index]
        return row[row < len(ALPHABET)].astype("<u4").tobytes().decode("utf-32-le")

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)


@read_from_shared_memory.register(TextSpace)
def read_texts(space: TextSpace, shared_memory: Any, n: int = 1) -> Any:
    """Returns the `LiveTexts` of n workers."""
    buffer = np.frombuffer(shared_memory.get_obj(), dtype=np.int32)
    return LiveTexts(buffer.reshape((n, space.max_length)))


@write_to_shared_memory.register(TextSpace)
def write_text(space: TextSpace, index: int, values: str, shared_memory: Any) -> None:
    """Writes a worker's text, and marks the rest of its row as empty."""
    codes = np.frombuffer(values.encode("utf-32-le"), np.dtype("<i4"))
    buffer = np.frombuffer(shared_memory.get_obj(), dtype=np.int32)
    row = buffer.reshape((-1, space.max_length))[index]
    row[: len(codes)] = codes
    row[len(codes) :] = len(ALPHABET)
