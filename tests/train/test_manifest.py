"""What made a run stands beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from palaestra.train import config, manifest


def test_a_new_run_writes_its_config_and_what_made_it(tmp_path: Path) -> None:
    settings = config.load(None, {"seed": "7"})
    manifest.open_run(
        tmp_path, settings, command=["palaestra", "train"], env_ids=["a/B-v0"], imports=["my_env"]
    )
    assert config.load_run(tmp_path) == settings
    facts = json.loads((tmp_path / "manifest.json").read_text())
    assert facts["seed"] == 7
    assert facts["env_ids"] == ["a/B-v0"]
    assert facts["imports"] == ["my_env"]
    assert facts["starts"][0]["command"] == ["palaestra", "train"]
    assert {"python", "torch", "palaestra", "installed_sha256"} <= set(facts["versions"])
    assert facts["host"]["cores"] >= 1
    assert len(facts["config_sha256"]) == 64


def test_a_resumed_run_remembers_each_start(tmp_path: Path) -> None:
    for words in (["first"], ["second"]):
        manifest.open_run(tmp_path, config.load(), command=words, env_ids=[])
    manifest.close_run(tmp_path, {"success": 0.98})
    facts = manifest.read(tmp_path)
    assert [start["command"] for start in facts["starts"]] == [["first"], ["second"]]
    assert facts["figures"] == {"success": 0.98}
    assert facts["peak_memory_bytes"] > 0


def test_the_files_an_environment_reads_are_summed(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("{}\n")
    settings = config.load(None, {"env.tasks": str(tasks)})
    assert list(manifest.data_sums(settings)) == [str(tasks)]


def test_a_run_without_a_manifest_has_an_empty_one(tmp_path: Path) -> None:
    assert manifest.read(tmp_path) == {}
    (tmp_path / "manifest.json").write_text("{ half")
    assert manifest.read(tmp_path) == {}


def test_outside_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("GIT_DIR", raising=False)  # set where a hook of git runs the tests
    assert manifest.commit(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert manifest.commit(tmp_path) is None
