"""Settings: presets, files, variables and flags, and what they refuse."""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.train import config, fields, toml
from palaestra.train.config import ConfigError


def test_the_default_run_is_the_preset_of_the_code_drill() -> None:
    settings = config.load()
    assert settings.env.id == "palaestra/CodeDrill-v0"
    assert settings.env.options == {"level": 2}
    assert settings.train.iterations == 300
    assert settings.algo.estimator == "segment"
    assert settings.optim.betas == (0.9, 0.98)
    assert [stage.until_iteration for stage in settings.curriculum.stage] == [60, 300]
    assert [stage.options for stage in settings.curriculum.stage] == [{"tries": 1}, {"tries": 2}]


def test_a_flag_wins_over_a_variable_over_a_file_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[optim]\nlr = 1\n[train]\niterations = 10\nsave_every = 7\n")
    settings = config.load(
        path,
        {"train.iterations": "12"},
        environ={"PALAESTRA_TRAIN_ITERATIONS": "11", "PALAESTRA_TRAIN_SAVE_EVERY": "8"},
    )
    assert (settings.optim.lr, settings.train.save_every, settings.train.iterations) == (1.0, 8, 12)
    assert settings.given == {"optim.lr", "train.iterations", "train.save_every"}


def test_a_whole_number_is_read_as_a_float_where_a_float_is_wanted() -> None:
    settings = config.load(None, {"optim.lr": "1", "env.reward.tests": "0"})
    assert isinstance(settings.optim.lr, float)
    assert settings.env.options["reward"] == {"tests": 0}


@pytest.mark.parametrize(
    ("key", "text", "wanted"),
    [
        ("train.iterationz", "3", '"train.iterations"'),
        ("iterations.train", "3", "unknown key"),
        ("train.iterations", "three", "a whole number >= 1"),
        ("train.iterations", "2.5", "a whole number >= 1"),
        ("train.iterations", "0", "train.iterations is 0"),
        ("train.iterations", "-4", "a whole number >= 1"),
        ("optim.lr", "nan", "a number >= 0"),
        ("optim.lr", "fast", "a number"),
        ("optim.betas", "0.9", "a list of 2 numbers"),
        ("optim.betas", "[0.9, 1.0]", "< 1"),
        ("algo.whiten", "maybe", "true or false"),
        ("algo.name", "pppo", '"ppo"'),
        ("algo.gamma", "1.01", "<= 1"),
        ("algo.dual_clip", "0.5", "> 1"),
        ("rollout.temperature", "0", "> 0"),
        ("curriculum.stage", "3", "a list of tables"),
        ("curriculum.stage", "[{tries = 1}]", "until_iteration is missing"),
        ("train.stop_when", "when it is good", "TAG SIGN NUMBER"),
        ("seed", "9" * 400, "< 9.22337e+18"),
        ("train.device", "cuda", "give auto or cpu"),
        ("policy.model", "gpt2", "hf:PATH_OR_NAME"),
    ],
)
def test_an_impossible_flag_is_refused_with_what_is_wanted(
    key: str, text: str, wanted: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(None, {key: text})
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "line"),
    [("seed = \n", 1), ("seed = 0\n[train\niterations = 3\n", 2), ('seed = 0\n\nname = "x', 3)],
)
def test_a_toml_that_does_not_parse_is_named_with_its_line(
    tmp_path: Path, body: str, line: int
) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(body)
    with pytest.raises(ConfigError, match=rf"broken\.toml:{line}: "):
        config.load(path)


def test_a_file_names_itself_when_a_key_or_a_type_in_it_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[optim]\nlrr = 1e-3\n")
    with pytest.raises(ConfigError, match=r'mine\.toml: unknown key "optim\.lrr".*"optim\.lr"'):
        config.load(path)
    path.write_text('[optim]\nlr = "fast"\n')
    with pytest.raises(ConfigError, match=r'mine\.toml: optim\.lr is "fast"; give a number'):
        config.load(path)
    path.write_text("[train]\niterations = true\n")
    with pytest.raises(ConfigError, match=r"train\.iterations is true"):
        config.load(path)


def test_a_missing_file_or_one_that_is_no_text_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.load(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        config.load(tmp_path / "bytes.toml")


def test_an_unknown_preset_answers_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="drill-code"):
        config.load(preset="dril-code")
    with pytest.raises(ConfigError, match="There are: drill-code"):
        config.load(preset="xyz")


def test_the_quick_version_is_level_one_without_stages() -> None:
    settings = config.load(quick=True)
    assert settings.env.options == {"level": 1}
    assert settings.train.iterations == 80
    assert settings.curriculum.stage == ()
    assert config.load(None, {"train.iterations": "3"}, quick=True).train.iterations == 3


def test_a_preset_says_nothing_about_another_environment() -> None:
    settings = config.load(None, {"env.id": "my/Env-v0", "env.size": "3"})
    assert settings.env.options == {"size": 3}
    assert settings.curriculum.stage == ()
    assert settings.train.stop_when == ""
    assert settings.rollout.shield == "auto"
    assert (settings.rollout.batch, settings.algo.minibatch) == (0, 0)
    assert (settings.rollout.max_action_tokens, settings.policy.context) == (0, 0)
    assert settings.optim.lr == 3e-3


def test_the_same_id_given_again_keeps_the_preset_whole() -> None:
    assert config.load(None, {"env.id": "palaestra/CodeDrill-v0"}) == config.load()


def test_a_file_that_names_another_environment_wins_with_its_own_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[env]\nid = "my/Env-v0"\n[rollout]\nbatch = 48\n[algo]\nminibatch = 24\n')
    settings = config.load(path)
    assert (settings.rollout.batch, settings.algo.minibatch) == (48, 24)


def test_open_tables_take_nested_values_from_every_layer(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[env.limits]\nturns = 3\n[env.reward]\ntests = 0.5\n")
    settings = config.load(
        path, {"env.limits.calls": "9", "env.reward.step": "-0.1", "env.tasks": "../a/b.jsonl"}
    )
    assert settings.env.options == {
        "level": 2,
        "limits": {"turns": 3, "calls": 9},
        "reward": {"tests": 0.5, "step": -0.1},
        "tasks": "../a/b.jsonl",
    }


def test_a_key_that_is_a_value_and_a_table_at_once_is_refused() -> None:
    with pytest.raises(ConfigError, match="value of its own"):
        config.load(None, {"env.level": "3", "env.level.deep": "1"})


def test_variables_of_the_section_are_checked_and_others_left_alone() -> None:
    with pytest.raises(ConfigError, match=r'PALAESTRA_TRAIN_ITERATION.*"train\.iterations"'):
        config.load(environ={"PALAESTRA_TRAIN_ITERATION": "3"})
    environ = {"PALAESTRA_VENV": "/x", "PALAESTRA_SEED": "4", "PALAESTRA_ENV_REWARD_TESTS": "0.5"}
    settings = config.load(environ={**environ, "PALAESTRA_ENV_LEVEL": "3", "OTHER": "x"})
    assert settings.seed == 4
    assert settings.env.options == {"level": 3, "reward": {"tests": 0.5}}


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({"algo.name": "grpo", "algo.whiten": "true"}, "double whitening"),
        ({"algo.name": "rloo", "algo.estimator": "segment"}, 'algo.estimator "group"'),
        ({"algo.estimator": "group", "rollout.group_size": "1"}, "at least 2 attempts"),
        ({"rollout.group_size": "5"}, "give 125"),
        ({"rollout.batch": "32", "algo.minibatch": "64"}, "at most the batch"),
        ({"kl.coef": "0.1"}, 'kl.mode "loss" or "reward"'),
        ({"kl.mode": "loss", "kl.target": "6", "kl.horizon": "20"}, "kl.horizon"),
        (
            {"curriculum.stage": "[{until_iteration = 9}, {until_iteration = 9}]"},
            "rising numbers",
        ),
    ],
)
def test_settings_that_cannot_be_had_together_are_refused(
    overrides: dict[str, str], word: str
) -> None:
    with pytest.raises(ConfigError, match=word.replace("(", r"\(")):
        config.load(None, overrides)


def test_a_config_written_as_toml_is_read_back_equal(tmp_path: Path) -> None:
    odd = 'a "quoted" \\ path\nwith a line, Ω and \x7f'
    settings = config.load(
        None, {"env.note": odd, "env.weights": "[1, 2.5]", "train.null": "shuffle"}
    )
    (tmp_path / "config.toml").write_text(config.to_toml(settings), encoding="utf-8")
    assert config.load_run(tmp_path) == settings
    for quick in (False, True):
        (tmp_path / "config.toml").write_text(config.to_toml(config.load(quick=quick)))
        assert config.load_run(tmp_path) == config.load(quick=quick)


def test_an_effective_config_given_as_a_file_is_the_same_run(tmp_path: Path) -> None:
    for settings in (config.load(quick=True), config.load(None, {"env.id": "my/Env-v0"})):
        path = tmp_path / "config.toml"
        path.write_text(config.to_toml(settings))
        assert config.load(path) == settings


def test_the_difference_names_each_key_with_both_values() -> None:
    a = config.load()
    b = config.load(None, {"optim.lr": "0.1", "env.extra": "1"})
    assert config.difference(a, b) == {"optim.lr": (0.003, 0.1), "env.extra": (None, 1)}
    assert config.difference(a, a) == {}


def test_a_run_without_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.toml"):
        config.load_run(tmp_path)


class Base:
    """An environment's base."""

    def __init__(self, *, limits: int = 0, seed: int | None = None) -> None:
        self.limits = limits


class Derived(Base):
    """Hands what it does not know to its base."""

    def __init__(self, level: int = 0, **rest: Any) -> None:
        super().__init__(**rest)


def anything(**rest: Any) -> None:
    """A constructor that takes every name."""


def test_an_argument_no_constructor_takes_is_refused_with_the_nearest() -> None:
    config.check_options(Derived, {"level": 1, "limits": 2}, "preset")
    with pytest.raises(ConfigError, match=r'unknown key "env\.levle".*"env\.level"'):
        config.check_options(Derived, {"levle": 1}, "preset")
    with pytest.raises(ConfigError, match=r"env\.limits"):
        config.check_options(Derived, {"limts": 1}, "preset")
    config.check_options(anything, {"anything": 1}, "preset")


def test_every_key_has_help_and_a_default_within_its_bounds() -> None:
    for key, leaf in config.keys().items():
        assert leaf.help, key
        default = fields.checked(leaf, leaf.default, "default")
        assert default == leaf.default, key


def test_a_value_replaced_by_its_key_changes_nothing_else() -> None:
    settings = config.replaced(config.load(), {"algo.whiten": False, "train.iterations": 3})
    assert config.difference(config.load(), settings) == {
        "algo.whiten": (True, False),
        "train.iterations": (300, 3),
    }
    with pytest.raises(ConfigError, match="unknown key"):
        config.replaced(settings, {"algo.whitened": False})


names = st.text("abcdefgh_-. \"'=#é", min_size=1, max_size=6)
scalars = (
    st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(names, values, max_size=4))
def test_any_plain_table_survives_its_toml_text(table: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dumps(table)) == table


@given(st.text(max_size=20))
def test_any_word_of_a_command_line_is_a_value_or_a_config_error(text: str) -> None:
    fields.literal(text)
    for key in ("seed", "optim.lr", "optim.betas", "algo.whiten", "curriculum.stage"):
        with contextlib.suppress(ConfigError):
            config.load(None, {key: text})


def test_a_table_has_no_word_for_none_and_refuses_objects() -> None:
    assert toml.dumps({"a": None, "b": 1}) == "b = 1\n"
    with pytest.raises(TypeError, match="no form in TOML"):
        toml.dumps({"a": object()})
