"""Bytes, words and fragments to ids and back."""

from __future__ import annotations

import doctest
import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.envs import tokenizers
from palaestra.envs.tokenizers import (
    ByteTokenizer,
    FragmentTokenizer,
    Tokenizer,
    WordTokenizer,
    from_json,
)

FRAGMENTS = ("sum(", "max(", "x", "x[:2]", "[v for v in x if v%2]", ")", ";", "<overflow>", " of ")
ANY = st.one_of(st.text(), st.text(st.characters(categories=("Cs", "Lo", "Cc"))))


def every() -> list[Tokenizer]:
    return [ByteTokenizer(), FragmentTokenizer(FRAGMENTS), WordTokenizer(("go", "left", "?"))]


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(tokenizers).failed == 0


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_bytes_carry_any_text(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.pieces(ids)) == text.encode()
    assert all(i < 256 for i in ids)


@given(ANY)
def test_bytes_accept_lone_surrogates(text: str) -> None:
    ByteTokenizer().encode(text)


@given(st.lists(st.integers(0, 258)))
def test_any_ids_of_bytes_are_a_text(ids: list[int]) -> None:
    text = ByteTokenizer().decode(ids)
    assert b"".join(ByteTokenizer().pieces(ids)).decode("utf-8", "replace") == text


@pytest.mark.parametrize("tokenizer", every(), ids=lambda t: t.name)
def test_control_ids_are_silent_and_distinct(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([tokenizer.pad, tokenizer.end_of_turn]) == ""
    assert tokenizer.pad != tokenizer.end_of_turn
    assert max(tokenizer.pad, tokenizer.end_of_turn, tokenizer.image or 0) < tokenizer.size


@pytest.mark.parametrize("name", ["<end>", "<obs>", "<act>", "<pad>", "<image>"])
def test_control_words_in_a_text_never_become_control_ids(name: str) -> None:
    fragments = FragmentTokenizer(FRAGMENTS)
    assert not {0, 1, 2, 3} & set(fragments.encode(name))
    assert not {256, 257, 258} & set(ByteTokenizer().encode(name))


def test_the_specials_of_a_drill_have_the_first_ids() -> None:
    tokenizer = FragmentTokenizer(FRAGMENTS)
    assert (tokenizer.pad, tokenizer.obs, tokenizer.act, tokenizer.end_of_turn) == (0, 1, 2, 3)
    assert tokenizer.encode("sum(") == [4]
    assert tokenizer.size == 4 + len(FRAGMENTS)
    assert tokenizer.id("max(") == 5


def test_the_longest_fragment_wins() -> None:
    tokenizer = FragmentTokenizer(FRAGMENTS)
    assert [tokenizer.decode([i]) for i in tokenizer.encode("x[:2]x")] == ["x[:2]", "x"]


@given(st.lists(st.sampled_from(FRAGMENTS[:-2])))
def test_texts_of_fragments_come_back(parts: list[str]) -> None:
    tokenizer = FragmentTokenizer(FRAGMENTS)
    text = "".join(parts)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.pieces(ids)) == text.encode()


@given(st.lists(st.sampled_from(("go", "left", "right", "?", "don't"))))
def test_texts_of_words_come_back(parts: list[str]) -> None:
    tokenizer = WordTokenizer(("go", "left", "right", "?", "don't"))
    text = " ".join(parts)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.pieces([*ids, 3])) == text.encode()


def test_words_match_whole_words_only() -> None:
    tokenizer = WordTokenizer(("go", "good", "<overflow>"))
    assert tokenizer.decode(tokenizer.encode("good  go\ngone")) == "good go <overflow>"


@given(ANY)
def test_a_stretch_outside_the_vocabulary_becomes_one_overflow(text: str) -> None:
    tokenizer = FragmentTokenizer(FRAGMENTS)
    ids = tokenizer.encode(text)
    overflow = tokenizer.id("<overflow>")
    assert all((a, b) != (overflow, overflow) for a, b in pairwise(ids))


def test_text_outside_a_vocabulary_without_overflow_is_refused_with_its_place() -> None:
    tokenizer = FragmentTokenizer(("a", "b"))
    with pytest.raises(ValueError, match=r"'c' at character 2 of 'abc' .* vocabulary of fragments"):
        tokenizer.encode("abc")


@pytest.mark.parametrize("fragments", [("a", "a"), ("a", "")])
def test_a_fragment_that_is_empty_or_comes_twice_is_refused(fragments: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="give each fragment once"):
        FragmentTokenizer(fragments)


def test_a_word_with_a_blank_is_refused() -> None:
    with pytest.raises(ValueError, match="give single words"):
        WordTokenizer(("two words",))


@pytest.mark.parametrize("tokenizer", every(), ids=lambda t: t.name)
def test_a_tokenizer_comes_back_from_json_and_pickle(tokenizer: ByteTokenizer) -> None:
    assert from_json(tokenizer.to_json()) == tokenizer
    assert type(from_json(tokenizer.to_json())) is type(tokenizer)
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer
    assert type(tokenizer).from_json(tokenizer.to_json()) == tokenizer


def test_json_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'bytes' tokenizer, wanted 'words'"):
        WordTokenizer.from_json(ByteTokenizer().to_json())
    with pytest.raises(ValueError, match="known kinds: bytes, fragments, words"):
        from_json({"kind": "pieces"})
