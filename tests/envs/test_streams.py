"""Named random streams."""

import doctest
import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from palaestra.envs import streams
from palaestra.envs.streams import Streams, fresh_seed


def begun(seed: int = 7, episode: int = 0, attempt: int = 0) -> Streams:
    made = Streams()
    made.begin(seed, episode, attempt)
    return made


@given(st.permutations(["a", "b", "c", "a", "b"]))
def test_no_stream_depends_on_the_order_of_drawing(order: list[str]) -> None:
    alone = {name: begun().get(name) for name in "abc"}
    mixed = begun()
    for name in order:
        assert mixed.get(name).random() == alone[name].random()


def test_every_part_of_the_identity_changes_the_numbers() -> None:
    first = {
        (seed, episode, attempt, name): begun(seed, episode, attempt).get(name).random()
        for seed in (0, 1, 2**70)
        for episode in (0, 1)
        for attempt in (0, 1)
        for name in ("noise", "main")
    }
    assert len(set(first.values())) == len(first)


def test_a_group_shares_its_task_and_its_params() -> None:
    for name in ("task", "params"):
        assert begun(attempt=0).get(name).random() == begun(attempt=5).get(name).random()


def test_generators_are_reused_and_stand_at_the_start_of_each_episode() -> None:
    made = begun()
    first = made.get("main")
    number = first.random()
    made.begin(7, 0, 0)
    assert made.get("main") is first
    assert first.random() == number


def test_a_position_is_plain_data_and_continues() -> None:
    made = begun()
    made.get("a").integers(10, size=3)
    made.get("a").integers(0, 2**16, dtype=np.uint16)  # leaves half a word
    state = made.state()
    expected = made.get("a").integers(1000, size=5).tolist(), made.get("b").random()
    other = Streams()
    other.load(7, 0, 0, state)
    assert (other.get("a").integers(1000, size=5).tolist(), other.get("b").random()) == expected


def test_a_copy_goes_on_alone() -> None:
    made = begun()
    made.get("a").random()
    copy = made.copy()
    twice = made.copy().copy()
    expected = made.get("a").random()
    assert copy.get("a").random() == expected
    assert twice.get("a").random() == expected


def test_a_salt_re_keys_what_comes() -> None:
    plain, salted, twin = begun(), begun(), begun()
    salted.salted("1/0")
    twin.salted("1/0")
    assert salted.get("a").random() == twin.get("a").random() != plain.get("a").random()
    salted.begin(7, 0, 0)
    assert salted.salt == ""


def test_the_numbers_are_those_of_every_process_and_release() -> None:
    assert begun(7, 3, 1).get("noise").integers(10**6, size=3).tolist() == NUMBERS
    code = (
        "from palaestra.envs.streams import Streams; s = Streams(); s.begin(7, 3, 1);"
        "print(s.get('noise').integers(10**6, size=3).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(NUMBERS)


NUMBERS = [664374, 827925, 593219]


def test_fresh_seeds_are_safe_for_any_json_reader() -> None:
    seeds = {fresh_seed() for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**53 for seed in seeds)


def test_the_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(streams).failed == 0
