"""Grammars as automata over token ids."""

from __future__ import annotations

import doctest
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.envs import grammar
from palaestra.envs.grammar import Automaton, Grammar
from palaestra.envs.tokenizers import ByteTokenizer, FragmentTokenizer, WordTokenizer

FIN = ("sum(", "max(", "min(", "len(")
PRE = ("x", "x[:2]", "x[2:]")
CODE = FragmentTokenizer((*FIN, *PRE, ")", ";"))
ONE = [set(FIN), set(PRE), {")"}]

words = st.text("ab", max_size=3)
templates = st.lists(st.lists(st.sets(words, min_size=1, max_size=3), max_size=3), min_size=1)


def language(automaton: Automaton) -> set[tuple[int, ...]]:
    """Every whole action, by walking all paths."""
    found: set[tuple[int, ...]] = set()
    paths: list[tuple[int, tuple[int, ...]]] = [(automaton.start, ())]
    while paths:
        state, ids = paths.pop()
        for token in np.flatnonzero(automaton.legal[state]).tolist():
            if token == automaton.end_of_turn:
                found.add(ids)
            else:
                paths.append((int(automaton.next[state, token]), (*ids, token)))
    return found


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(grammar).failed == 0


def test_the_code_drill_has_five_states_and_nine_with_two_calls() -> None:
    assert Grammar([ONE]).automaton(CODE).states == 5
    assert Grammar([[*ONE, {";"}, *ONE]]).automaton(CODE).states == 9


def test_a_position_with_one_legal_token_is_forced() -> None:
    automaton = Grammar([ONE]).automaton(CODE)
    states = automaton.walk([*CODE.encode("sum(x)"), CODE.end_of_turn])
    assert automaton.forced(states[:-1]).tolist() == [False, False, True, True]
    assert automaton.forced(int(states[0])) is False


def test_a_walk_gives_the_state_of_each_choice_and_stops_at_an_illegal_token() -> None:
    automaton = Grammar([ONE]).automaton(CODE)
    good = automaton.walk(CODE.encode("sum(x)"))
    assert good.dtype == np.int32
    assert good.shape == (4,)
    assert good[0] == automaton.start
    bad = automaton.walk(np.array(CODE.encode("sum()x")))
    assert bad.tolist() == [good[0], good[1], -1, -1]


def test_nothing_is_legal_behind_the_end() -> None:
    automaton = Grammar([ONE]).automaton(CODE)
    last = automaton.walk([*CODE.encode("sum(x)"), CODE.end_of_turn])[-1]
    assert last >= 0
    assert not automaton.legal[last].any()


def test_the_tables_agree_and_cannot_be_written() -> None:
    automaton = Grammar([ONE]).automaton(CODE)
    assert ((automaton.next >= 0) == automaton.legal).all()
    assert (automaton.degree == automaton.legal.sum(1)).all()
    assert automaton.next.dtype == np.int32
    assert automaton.legal.dtype == np.bool_
    with pytest.raises(ValueError, match="read-only"):
        automaton.legal[0, 0] = True


@given(templates)
def test_the_automaton_accepts_exactly_the_grammar(alternatives: list[list[set[str]]]) -> None:
    tokenizer = ByteTokenizer()
    automaton = Grammar(alternatives).automaton(tokenizer)
    wanted = {"".join(parts) for t in alternatives for parts in itertools.product(*t)}
    assert {tokenizer.decode(ids) for ids in language(automaton)} == wanted


@given(templates)
def test_states_have_different_futures(alternatives: list[list[set[str]]]) -> None:
    automaton = Grammar(alternatives).automaton(ByteTokenizer())
    rows = {automaton.next[state].tobytes() for state in range(automaton.states)}
    assert len(rows) == automaton.states


@given(st.lists(st.text(max_size=6), min_size=1, max_size=8))
def test_a_menu_gives_exactly_its_items(items: list[str]) -> None:
    tokenizer = ByteTokenizer()
    automaton = Grammar.of_menu(items).automaton(tokenizer)
    assert language(automaton) == {tuple(tokenizer.encode(item)) for item in items}
    for item in items:
        ids = [*tokenizer.encode(item), tokenizer.end_of_turn]
        assert automaton.accepts(ids)
        assert not automaton.accepts(ids[:-1])


def test_the_empty_fragment_makes_a_position_optional() -> None:
    automaton = Grammar([[{"sum("}, {"x", ""}, {")"}]]).automaton(CODE)
    assert {CODE.decode(ids) for ids in language(automaton)} == {"sum(x)", "sum()"}


def test_a_joiner_is_written_only_where_the_tokenizer_does_not() -> None:
    ask = Grammar([[{"ask"}, {"food", "area"}]], joiner=" ")
    own = WordTokenizer(("ask", "food", "area"))
    for tokenizer in (own, ByteTokenizer()):
        texts = {tokenizer.decode(ids) for ids in language(ask.automaton(tokenizer))}
        assert texts == {"ask food", "ask area"}


def test_fragments_are_listed_once_in_order() -> None:
    assert Grammar([[["b"], ["a", "b"]], [["c"]]]).fragments == ("b", "a", "c")


@pytest.mark.parametrize("alternatives", [[], [[{"a"}, set[str]()]]])
def test_a_grammar_without_a_choice_is_refused(alternatives: list[list[set[str]]]) -> None:
    with pytest.raises(ValueError, match="at least one fragment"):
        Grammar(alternatives)


def test_the_same_grammar_gives_the_same_tables_and_pickles() -> None:
    one, two = Grammar([ONE]).automaton(CODE), Grammar([ONE]).automaton(CODE)
    three: Automaton = pickle.loads(pickle.dumps(one))
    assert (one.next == two.next).all()
    assert (one.next == three.next).all()
