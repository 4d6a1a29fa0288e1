"""Ids: registering, finding, describing."""

import pickle
import subprocess
import sys
from importlib import metadata
from typing import Any

import gymnasium
import pytest
from palaestra.envs import registry
from palaestra.envs.core import Env
from palaestra.envs.registry import (
    UnknownEnvError,
    describe,
    discover,
    entries,
    find,
    register,
    register_builtins,
)
from palaestra.envs.small import Compare

ID = "palaestra/Compare-v0"
register_builtins()


@pytest.fixture
def forget() -> Any:
    """Takes back what a test registers."""
    known, ours = dict(gymnasium.registry), dict(registry._entries)  # pyright: ignore[reportPrivateUsage]
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(known)
    registry._entries.clear()  # pyright: ignore[reportPrivateUsage]
    registry._entries.update(ours)  # pyright: ignore[reportPrivateUsage]


def test_the_built_in_ids_are_registered_without_importing_families() -> None:
    code = (
        "import sys, palaestra, gymnasium;"
        "heavy = ('torch', 'pydantic', 'palaestra.envs.small', 'palaestra.envs.code.env');"
        "print([i for i in gymnasium.registry if i.startswith('palaestra/')],"
        "[m for m in sys.modules if m in heavy])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("['palaestra/Compare-v0', 'palaestra/Copy-v0', ")
    assert done.stdout.strip().endswith("] []")


def test_registering_twice_is_quiet() -> None:
    registry.register_builtins()
    assert find(ID).entry.endswith("envs.small:Compare")


def test_an_own_environment_is_made_in_three_views(forget: Any) -> None:
    register("my/Compare-v3", Compare, summary="Mine.", limits={"turns": 2}, searchable=True)
    env = gymnasium.make("my/Compare-v3").unwrapped
    assert isinstance(env, Compare)
    assert (env.limits.turns, env.searchable, env.env_id) == (2, True, "my/Compare-v3")
    assert env.spec is not None
    assert pickle.loads(pickle.dumps(env.spec)) == env.spec
    for view in ("tool", "token"):
        gymnasium.make("my/Compare-v3", view=view).reset(seed=1)
    assert "my/Compare-v3" in [entry.id for entry in entries()]


@pytest.mark.parametrize("name", ["Compare", "my/Compare", "Compare-v0", "my/ Compare-v0"])
def test_ids_without_namespace_or_version_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="my/Name-v0"):
        register(name, Compare, summary="Mine.")


def test_a_class_that_nobody_can_import_is_refused() -> None:
    class Hidden(Env):
        """Local."""

    with pytest.raises(ValueError, match="move it to its module"):
        register("my/Hidden-v0", Hidden, summary="Hidden.")


@pytest.mark.parametrize(
    ("wrong", "near"), [("palaestra/Compere-v0", ID), ("Compare-v0", ID), ("compare-v0", ID)]
)
def test_an_unknown_id_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UnknownEnvError, match=f"did you mean '{near}'"):
        registry.make(wrong)


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'limits'"):
        registry.make(ID, limit={"turns": 3})
    with pytest.raises(ValueError, match="did you mean 'observe'"):
        gymnasium.make(ID, obsrve="text")
    with pytest.raises(ValueError, match="view is 'text'"):
        gymnasium.make(ID, view="text")


def test_make_gives_the_environment_itself() -> None:
    env = registry.make(ID, limits={"turns": 3})
    assert isinstance(env, Compare)
    assert env.env_id == ID


def test_a_description_names_spaces_tools_terms_and_limits() -> None:
    page = describe(ID)
    assert page["views"]["token"]["action"].startswith("Discrete(")
    assert page["terms"]["format"] == {"kind": "Penalty", "weight": -0.05, "cap": 0.2}
    assert page["tools"][0]["function"]["name"] == "compare"
    assert page["limits"]["turns"] == 12
    assert page["domain"]["lie"].startswith("Uniform(")
    assert page["reward_range"] == [pytest.approx(-0.5), pytest.approx(1.3)]


class Point:
    """An entry point."""

    value = "my_envs"

    def __init__(self, name: str, load: Any) -> None:
        self.name = name
        self.load = load


def test_plug_ins_are_found_and_a_broken_one_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, forget: Any
) -> None:
    def good() -> None:
        register("plug/Compare-v0", Compare, summary="From a plug-in.")

    def bad() -> None:
        raise ImportError("no module named nothing")

    points = [Point("good", good), Point("bad", bad)]

    def entry_points(group: str) -> list[Point]:
        return points if group == "palaestra.envs" else []

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    with pytest.warns(UserWarning, match=r"plug-in bad \(my_envs\) is broken: ImportError"):
        assert discover() == ["good"]
    assert find("plug/Compare-v0").plugin == "good"
    assert find(ID).plugin == ""
