"""Where tasks come from, and which comes next."""

from __future__ import annotations

import doctest
import gzip
import hashlib
import json
import math
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.envs import curricula, lazy, rows, sampler, tasks
from palaestra.envs.tasks import CURRICULA, MissingFieldError, Sampler, Task, TaskError, TaskSet
from palaestra.envs.tools import TaskSchema

Row = dict[str, Any]
ROWS: list[Row] = [
    {"id": f"t{i}", "question": f"{i} + 1?", "difficulty": i / 10, "weight": i + 1}
    for i in range(10)
]
ids = st.lists(st.text("abc", min_size=1), unique=True, min_size=1, max_size=30)


def write(path: Path, given_: list[Row]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in given_)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


def stream(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def draws(of: Sampler, n: int, seed: int = 0) -> list[str]:
    generator = stream(seed)
    return [of.draw(generator).id for _ in range(n)]


@pytest.mark.parametrize(
    "module", [tasks, rows, curricula, sampler, lazy], ids=lambda m: m.__name__.rpartition(".")[2]
)
def test_the_examples_in_the_docstrings_hold(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


# one task


def test_a_task_is_a_frozen_row_with_names() -> None:
    task = Task({"id": 7, "prompt": "p", "answer": 4, "meta": {"a": 1}, "more": [1]})
    assert (task.id, task["id"], task.prompt, task.answer, task["more"]) == ("7", "7", "p", 4, [1])
    assert (task.meta, task.split, task.weight, task.difficulty, task.family) == (
        {"a": 1}, "", 1.0, 0.0, "",
    )  # fmt: skip
    assert "more" in task
    assert "x" not in task
    assert task.get("x") is None
    assert dict(task.replace(more=2)) == {**task, "more": 2}
    with pytest.raises(TypeError):
        task["more"] = 3  # type: ignore[index]


def test_a_task_without_an_id_gets_one_from_its_content() -> None:
    assert Task({"a": 1, "b": 2}).id == Task({"b": 2, "a": 1}).id
    assert Task({"a": 1}).id != Task({"a": 2}).id


def test_tasks_are_equal_by_value_and_pickle() -> None:
    task = Task({"id": "a", "n": [1]}, origin="f:1")
    again: Task = pickle.loads(pickle.dumps(task))
    assert again == task
    assert (again.id, again.origin) == ("a", "f:1")


def test_a_field_that_is_not_there_is_named_with_its_place() -> None:
    task = Task({"id": "a", "question": 1}, origin="x.jsonl:3")
    words = r"x.jsonl:3: field 'answer' is missing \(the row has: id, question\)"
    with pytest.raises(MissingFieldError, match=words):
        task["answer"]
    with pytest.raises(KeyError, match="task b: field 'answer' is missing"):
        Task({"id": "b"})["answer"]


# reading


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_lines_of_json_are_read(tmp_path: Path, name: str) -> None:
    loaded = TaskSet.load(write(tmp_path / name, ROWS))
    assert [dict(task) for task in loaded] == ROWS
    assert loaded.id == "a"
    assert loaded[3].origin == f"{tmp_path / name}:4"
    assert loaded.size == len(loaded) == 10


def test_a_list_of_rows_and_a_json_file_are_read(tmp_path: Path) -> None:
    assert [dict(task) for task in TaskSet.load(ROWS)] == ROWS
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS))
    assert [dict(task) for task in TaskSet.load(str(path))] == ROWS


def test_parquet_is_read(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.Table.from_pylist(ROWS), path)
    assert [dict(task) for task in TaskSet.load(path)] == ROWS
    path.write_bytes(b"PAR0")
    with pytest.raises(TaskError, match=r"a\.parquet: not a Parquet file"):
        TaskSet.load(path)


def test_a_folder_is_read_by_name_and_its_files_may_be_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS[:6])
    write(tmp_path / "test.jsonl.gz", ROWS[6:])
    (tmp_path / "README.md").write_text("no tasks")
    names = [f"t{i}" for i in (6, 7, 8, 9, *range(6))]
    assert [task.id for task in TaskSet.load(tmp_path)] == names
    assert [task.id for task in TaskSet.load(tmp_path, split="test")] == ["t6", "t7", "t8", "t9"]


def test_fields_are_renamed_and_rows_limited(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    loaded = TaskSet.load(path, fields={"prompt": "question"}, limit=2)
    assert [task.prompt for task in loaded] == ["0 + 1?", "1 + 1?"]
    with pytest.raises(MissingFieldError, match=r"a\.jsonl:1: field 'reply' is missing"):
        TaskSet.load(path, fields={"answer": "reply"})


def test_rows_are_checked_against_the_fields_an_environment_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "a", "answer": "b"}, {"question": "c"}])
    schema = TaskSchema({"question": str, "answer": str})
    words = r"a\.jsonl:2: field 'answer' is missing \(the row has: question\)"
    with pytest.raises(MissingFieldError, match=words):
        TaskSet.load(path, schema=schema)
    write(path, [{"question": "a", "answer": 4}])
    with pytest.raises(TaskError, match=r"a\.jsonl:1: field: answer must be a string \(got 4\)"):
        TaskSet.load(path, schema=schema)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": 1}\n{"a": }\n', r"a\.jsonl:2: not valid JSON: Expecting value at character 7"),
        (b"\n[1]\n", r"a\.jsonl:2: the row is a list, wanted a JSON object"),
        (b'{"a": NaN}', r"a\.jsonl:1: not valid JSON: NaN is no JSON value"),
        (b'{"a": 1e999}', r"a\.jsonl:1: not valid JSON: the number 1e999 is too large"),
        (b'{"a": "\xff"}', r"a\.jsonl:1: byte 7 is not UTF-8"),
        (b"[" * 100_000, r"a\.jsonl:1: not valid JSON"),
        (b'{"id": 1}\n{"id": "1"}', r"a\.jsonl:2: id '1' is also that of .*a\.jsonl:1"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(text)
    with pytest.raises(TaskError, match=words):
        TaskSet.load(path)


def test_equal_rows_without_ids_are_told_apart() -> None:
    one, two, three = TaskSet.load([{"a": 1}] * 3)
    assert [two.id, three.id] == [f"{one.id}-2", f"{one.id}-3"]


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="there is no such file or folder; give a path"):
        TaskSet.load(tmp_path / "none.jsonl")
    with pytest.raises(TaskError, match="the folder holds no task file"):
        TaskSet.load(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(TaskError, match=r"unknown kind of file; known are \.jsonl"):
        TaskSet.load(tmp_path / "a.txt")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 99)[:-12])
    with pytest.raises(TaskError, match=r"a\.jsonl\.gz: cannot be read to its end"):
        TaskSet.load(tmp_path / "a.jsonl.gz")
    with pytest.raises(TaskError, match="no such set ships here; those that do"):
        TaskSet.load("palaestra:nowhere")


def test_a_checksum_guards_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    good = hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(TaskSet.load(path, sha256=good.upper())) == 10
    with pytest.raises(TaskError, match=f"its SHA-256 is {good}, wanted 00; the file has changed"):
        TaskSet.load(path, sha256="00")


# on disk


def test_a_streamed_set_reads_by_place(tmp_path: Path) -> None:
    loaded = TaskSet.load(write(tmp_path / "a.jsonl", ROWS), stream=True)
    assert [dict(task) for task in loaded] == ROWS
    assert loaded.find("t4")["difficulty"] == 0.4
    assert len(loaded.take(3)) == 3


def test_a_streamed_sampler_covers_each_epoch_and_resumes_at_a_byte(tmp_path: Path) -> None:
    loaded = TaskSet.load(write(tmp_path / "a.jsonl", ROWS), stream=True)
    of = loaded.sampler(buffer=4)
    generator = stream()
    first = [of.draw(generator).id for _ in range(10)]
    assert sorted(first) == sorted(task.id for task in loaded)
    assert first != [row["id"] for row in ROWS]
    state = json.loads(json.dumps(of.state()))
    place = generator.bit_generator.state
    rest = [of.draw(generator).id for _ in range(25)]
    other = loaded.sampler(buffer=4)
    other.load(state)
    generator.bit_generator.state = place
    assert [other.draw(generator).id for _ in range(25)] == rest


def test_a_bad_line_of_a_streamed_file_is_named_by_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a"}\n\n{"id": }\n')
    loaded = TaskSet.load(path, stream=True)
    assert loaded[0].id == "a"
    with pytest.raises(TaskError, match=r"a\.jsonl:3: not valid JSON: Expecting value"):
        loaded[1]


@pytest.mark.parametrize("options", [{"split": "x"}, {"limit": 1}])
def test_what_needs_all_rows_is_refused_on_a_stream(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(TaskError, match="leave them out with stream=True"):
        TaskSet.load(path, stream=True, **options)
    with pytest.raises(TaskError, match="unpack it first"):
        TaskSet.load(write(tmp_path / "a.jsonl.gz", ROWS), stream=True)


# made on demand


def made(size: int | None = None) -> TaskSet:
    return TaskSet.generate(lambda r: {"u": float(r.random())}, id="made", size=size)


def test_a_generated_task_depends_on_the_set_and_its_number_only() -> None:
    assert made()[5] == made(10)[5]
    assert made()[5].id == "made-5"
    assert len({made()[i]["u"] for i in range(50)}) == 50
    assert (
        TaskSet.generate(lambda r: {"u": float(r.random())}, id="other")[5]["u"] != made()[5]["u"]
    )


def test_a_set_without_end_draws_finds_filters_and_splits() -> None:
    endless = made()
    assert endless.size is None
    assert len(set(draws(endless.sampler(), 50))) == 50
    assert endless.find("made-12") == endless[12]
    assert endless.find(endless.sampler().draw(stream()).id)["u"] < 1
    high = endless.filter(lambda task: task["u"] > 0.9)
    assert all(high[i]["u"] > 0.9 for i in range(20))
    parts = endless.split(train=0.9, test=0.1)
    assert parts["train"][0].split == "train"
    assert not {parts["train"][i].id for i in range(50)} & {parts["test"][i].id for i in range(50)}
    assert len(endless.take(7)) == 7
    assert repr(endless) == "TaskSet('made', without end)"


def test_what_needs_a_number_of_tasks_is_refused_on_a_set_without_end() -> None:
    for act in (lambda: made().shuffle(1), lambda: made().sampler("sequential")):
        with pytest.raises(ValueError, match=r"take some first: tasks\.take\(1000\)"):
            act()


def test_a_filter_that_lets_nothing_pass_says_so() -> None:
    with pytest.raises(TaskError, match="widen the filter"):
        made().filter(lambda task: False)[0]


# sets of sets


def test_sets_are_sequences() -> None:
    loaded = TaskSet.load(ROWS)
    assert [task.id for task in loaded[2:5]] == ["t2", "t3", "t4"]
    assert loaded[-1].id == "t9"
    assert [task.id for task in loaded.filter(lambda t: t["difficulty"] > 0.75)] == ["t8", "t9"]
    assert loaded.map(lambda t: {"n": 1})[3] == Task({"id": "t3", "n": 1})
    with pytest.raises(IndexError, match="task 10 of 10 in the set 'rows'"):
        loaded[10]


def test_a_task_is_found_by_id_number_or_itself() -> None:
    loaded = TaskSet.load(ROWS)
    assert loaded.find("t3") is loaded.find(3)
    assert loaded.find(loaded[3]) is loaded[3]
    with pytest.raises(TaskError, match="'rows' has no task 't33'; did you mean 't3'"):
        loaded.find("t33")


def test_shuffling_depends_on_the_seed_and_loses_nobody() -> None:
    loaded = TaskSet.load(ROWS)
    order = [task.id for task in loaded.shuffle(1)]
    assert order == [task.id for task in loaded.shuffle(1)]
    assert order != [task.id for task in loaded.shuffle(2)]
    assert sorted(order) == [task.id for task in loaded]


def test_sets_are_joined_when_their_ids_differ() -> None:
    loaded = TaskSet.load(ROWS)
    both = loaded.take(2).concat(loaded[5:7])
    assert [task.id for task in both] == ["t0", "t1", "t5", "t6"]
    with pytest.raises(TaskError, match="id 't0' is also that of"):
        loaded.concat(TaskSet.load(ROWS[:1]))


def test_a_mix_draws_each_set_by_its_share() -> None:
    loaded = TaskSet.load([{"id": f"a{i}"} for i in range(2)])
    other = TaskSet.load([{"id": f"b{i}"} for i in range(8)])
    mixed = loaded.mix(other, weights=[3, 1])
    counts = Counter(name[0] for name in draws(mixed.sampler(), 4000))
    assert abs(counts["a"] / 4000 - 0.75) < 0.03
    with pytest.raises(ValueError, match="give 2 shares"):
        loaded.mix(other, weights=[1])


# ENV-TASK1


@given(ids, st.randoms())
def test_splits_are_disjoint_and_move_nobody_when_rows_move(names: list[str], random: Any) -> None:
    parts = TaskSet.load([{"id": name} for name in names]).split(train=0.5, valid=0.2, test=0.3)
    homes = {task.id: part for part, members in parts.items() for task in members}
    assert len(homes) == sum(len(members) for members in parts.values()) == len(names)
    assert all(task.split == part for part, members in parts.items() for task in members)
    shuffled = [*names, "new one"]
    random.shuffle(shuffled)
    again = TaskSet.load([{"id": name} for name in shuffled]).split(train=0.5, valid=0.2, test=0.3)
    for part, members in again.items():
        assert all(task.id == "new one" or homes[task.id] == part for task in members)


def test_split_shares_are_about_right_and_may_leave_some_out() -> None:
    parts = TaskSet.load([{"id": str(i)} for i in range(2000)]).split(train=0.6, test=0.1)
    assert abs(len(parts["train"]) / 2000 - 0.6) < 0.04
    assert abs(len(parts["test"]) / 2000 - 0.1) < 0.03
    with pytest.raises(ValueError, match="together at most 1"):
        TaskSet.load(ROWS).split(a=0.9, b=0.2)


# ENV-TASK2


def chi2(counts: Counter[str], wanted: dict[str, float]) -> float:
    n, total = sum(counts.values()), sum(wanted.values())
    return sum(
        (counts[name] - n * w / total) ** 2 / (n * w / total) for name, w in wanted.items() if w
    )


SCORES = {"t0": [1.0] * 8, "t1": [0.0] * 8, "t2": [1.0, 0.0] * 4, "t3": [0.0] * 6 + [1.0] * 2}


def trained(curriculum: str, **options: Any) -> Sampler:
    of = TaskSet.load(ROWS[:5]).sampler(curriculum, **options)
    for name, scores in SCORES.items():
        for score in scores:
            of.update(name, score)
    of.update("a task of another set", 1.0)
    return of


@pytest.mark.parametrize(
    ("of", "weights"),
    [
        (TaskSet.load(ROWS[:5]).sampler(), [1, 1, 1, 1, 1]),
        (TaskSet.load(ROWS[:5]).sampler("weighted"), [1, 2, 3, 4, 5]),
        (trained("learnable"), [0, 0, 0.25, 0.1875, 0.25]),
        (trained("learnable", explore=0.5), [0.1, 0.1] + [0.1 + 0.5 * w / 11 for w in (4, 3, 4)]),
        (trained("adversarial"), [math.exp(-s / 0.3) for s in (1, 0, 0.5, 0.25, 0.5)]),
        (trained("learning_progress"), [0.02, 0.02, 0.02, 0.92, 0.02]),
        (TaskSet.load(ROWS[:5]).sampler("staged", thresholds=[0.2, 1]), [1, 1, 1, 0, 0]),
    ],
    ids=["uniform", "weighted", "learnable", "explore", "adversarial", "progress", "staged"],
)
def test_frequencies_match_the_weights(of: Sampler, weights: list[float]) -> None:
    counts = Counter(draws(of, 5000))
    wanted = {f"t{i}": w for i, w in enumerate(weights)}
    assert chi2(counts, wanted) < 20  # 4 degrees of freedom: p = 5e-4
    assert all(counts[name] == 0 for name, w in wanted.items() if not w)


def test_when_all_tasks_are_passed_over_each_is_as_likely() -> None:
    of = TaskSet.load(ROWS[:2]).sampler("learnable")
    for name in ("t0", "t1"):
        of.update(name, 1.0)
    assert set(draws(of, 50)) == {"t0", "t1"}


def test_stages_open_when_the_mean_score_is_high() -> None:
    of = TaskSet.load(ROWS).sampler("staged", thresholds=[0.15, 0.95], promote=0.9, least=10)
    assert set(draws(of, 50)) == {"t0", "t1"}
    for _ in range(9):
        of.update("t0", 1.0)
    assert set(draws(of, 50)) == {"t0", "t1"}
    of.update("t0", 1.0)
    assert len(set(draws(of, 200))) == 10


def test_a_sequence_gives_each_task_once_an_epoch_in_another_order() -> None:
    names = draws(TaskSet.load(ROWS).sampler("sequential"), 20)
    assert sorted(names[:10]) == sorted(names[10:]) == sorted(row["id"] for row in ROWS)
    assert names[:10] != names[10:]


def test_a_replay_gives_the_ids_in_order() -> None:
    loaded = TaskSet.load(ROWS)
    assert draws(loaded.sampler("replay", ids=["t3", "t1"]), 5) == ["t3", "t1", "t3", "t1", "t3"]
    with pytest.raises(ValueError, match="no task 't33'; did you mean 't3'"):
        loaded.sampler("replay", ids=["t33"])


# ENV-TASK3


@pytest.mark.parametrize("curriculum", sorted(set(CURRICULA) - {"streamed"}))
def test_a_state_continues_the_same_sequence(curriculum: str) -> None:
    options: dict[str, Any] = {
        "staged": {"thresholds": [0.3, 1.0], "least": 2},
        "replay": {"ids": ["t1", "t0"]},
    }.get(curriculum, {})
    loaded = TaskSet.load(ROWS)
    of, other = loaded.sampler(curriculum, **options), loaded.sampler(curriculum, **options)

    def step(which: Sampler, generator: np.random.Generator) -> str:
        name = which.draw(generator).id
        which.update(name, float(int(name[1:]) % 3 == 0))
        return name

    generator = stream()
    for _ in range(13):
        step(of, generator)
    state, place = json.loads(json.dumps(of.state())), generator.bit_generator.state
    rest = [step(of, generator) for _ in range(30)]
    other.load(state)
    generator.bit_generator.state = place
    assert [step(other, generator) for _ in range(30)] == rest
    assert other.state() == of.state()


def test_the_state_of_another_sampler_is_refused() -> None:
    loaded = TaskSet.load(ROWS)
    with pytest.raises(ValueError, match="has curriculum 'uniform', this one 'sequential'"):
        loaded.sampler("sequential").load(loaded.sampler().state())
    with pytest.raises(ValueError, match="has size 10, this one 5"):
        loaded.take(5).sampler().load(loaded.sampler().state())


# ENV-TASK4


@given(ids, st.integers(1, 5))
def test_workers_see_disjoint_parts_that_cover_the_set(names: list[str], workers: int) -> None:
    loaded = TaskSet.load([{"id": name} for name in names])
    parts = [[task.id for task in loaded.shard(k, workers)] for k in range(workers)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    sizes = [len(part) for part in parts]
    seen = [
        draws(loaded.sampler("sequential", worker=k, workers=workers), size)
        for k, size in enumerate(sizes)
        if size
    ]
    assert sorted(name for part in seen for name in part) == sorted(names)


# mistakes


def test_a_curriculum_that_does_not_exist_is_told_the_nearest() -> None:
    loaded = TaskSet.load(ROWS)
    with pytest.raises(ValueError, match="'lernable' is unknown; did you mean 'learnable'"):
        loaded.sampler("lernable")
    with pytest.raises(ValueError, match=r"curriculum 'uniform': .*'speed'"):
        loaded.sampler("uniform", speed=3)


@pytest.mark.parametrize(
    ("curriculum", "options", "words"),
    [
        ("staged", {"thresholds": [0.5, 0.1]}, "give rising numbers"),
        ("staged", {"thresholds": [-1.0]}, "no task has difficulty <= -1.0"),
        ("adversarial", {"eta": 0}, "give more than 0"),
        ("learnable", {"window": 0}, "give window >= 2"),
        ("sequential", {"worker": 2, "workers": 2}, "give 0 <= worker < workers"),
        ("streamed", {}, "load it with stream=True"),
        ("replay", {"ids": []}, "give ids of this set"),
    ],
)
def test_an_impossible_option_is_refused(
    curriculum: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        TaskSet.load(ROWS).sampler(curriculum, **options)


def test_an_empty_set_an_odd_weight_and_an_odd_score_are_refused() -> None:
    with pytest.raises(ValueError, match="is empty; there is nothing to draw"):
        TaskSet.load([]).sampler()
    with pytest.raises(ValueError, match="negative or infinite weight"):
        TaskSet.load([{"weight": -1}]).sampler("weighted")
    for score in (math.nan, 1.5):
        with pytest.raises(ValueError, match=r"give a number in \[0, 1\]"):
            TaskSet.load(ROWS).sampler().update("t1", score)
    with pytest.raises(ValueError, match="give 0 <= worker < workers"):
        TaskSet.load(ROWS).shard(3, 3)
