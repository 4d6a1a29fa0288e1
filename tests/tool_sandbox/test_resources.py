from __future__ import annotations

import os
from pathlib import Path

import pytest
from palaestra.tool_sandbox import Limits, MiB, owners, resources
from palaestra.tool_sandbox.resources import Groups


def unified(root: Path, handed: str = "cpu memory pids") -> tuple[str, str]:
    """A made-up tree of v2: the trainer in a leaf of a user's slice that hands controllers on."""
    leaf = root / "user.slice" / "app.slice" / "trainer.scope"
    leaf.mkdir(parents=True)
    for folder in (root, root / "user.slice", leaf.parent, leaf):
        (folder / "cgroup.procs").write_text("")
        (folder / "cgroup.subtree_control").write_text("")
    (leaf.parent / "cgroup.subtree_control").write_text(handed)
    own = "0::/user.slice/app.slice/trainer.scope\n"
    mounts = f"25 1 0:23 / {root} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    return own, mounts


def test_the_nearest_ancestor_that_hands_on_is_taken(tmp_path: Path) -> None:
    groups = Groups(*unified(tmp_path))
    assert groups.places is not None
    assert groups.places.version == 2
    assert groups.places.memory == tmp_path / "user.slice" / "app.slice"
    assert groups.lacks == ""


@pytest.mark.parametrize("handed", ["", "cpu", "memory", "pids io"])
def test_without_both_controllers_there_is_none(tmp_path: Path, handed: str) -> None:
    groups = Groups(*unified(tmp_path, handed))
    assert groups.places is None
    assert "no writable resource group" in groups.lacks
    assert groups.make(Limits()) is None


def legacy(root: Path) -> tuple[str, str]:
    for name in ("memory", "pids"):
        folder = root / name / "job"
        folder.mkdir(parents=True)
        (folder / "cgroup.procs").write_text("")
    own = "5:memory:/box/job\n3:pids:/box/job\n1:name=systemd:/x\n0::/\n"
    mounts = "".join(
        f"{n} 1 0:2{n} /box {root}/{name} rw - cgroup cgroup rw,{name}\n"
        for n, name in enumerate(("memory", "pids"))
    )
    return own, mounts


def test_a_mount_that_shows_a_part_is_understood(tmp_path: Path) -> None:
    groups = Groups(*legacy(tmp_path))
    assert groups.places is not None
    assert groups.places.version == 1
    assert groups.places.memory == tmp_path / "memory" / "job"
    assert groups.places.pids == tmp_path / "pids" / "job"


def test_nothing_mounted_is_an_honest_none() -> None:
    assert Groups("", "").places is None
    assert Groups("garbage\n0::", "no - mounts\n").places is None


def test_groups_of_dead_owners_are_swept_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    own, mounts = unified(tmp_path)
    place = tmp_path / "user.slice" / "app.slice"
    pid, start, space = owners.own_pid().split(":")
    living = place / f"palaestra-{pid}-{start}-{space}-0"
    dead = place / f"palaestra-{pid}-{start}1-{space}-0"
    elsewhere = place / f"palaestra-{pid}-{start}1-{space}1-0"  # of a container beside ours
    long_ago = place / f"palaestra-{pid}-{start}1-{space}1-1"
    long_ago.mkdir()
    os.utime(long_ago, (1.0, 1.0))
    others = (living, elsewhere, place / "palaestra-odd", place / "other-1-2-3-4")
    for folder in (dead, *others):
        folder.mkdir()
    Groups(own, mounts)
    assert not dead.exists()
    assert not long_ago.exists()  # it is empty: the kernel removes no other
    assert all(folder.exists() for folder in others)


def test_a_group_is_given_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = Groups(*unified(tmp_path))
    real = Path.mkdir

    def mkdir(self: Path) -> None:
        real(self)
        if self.name.startswith("palaestra-"):  # as the kernel would fill it
            for name in ("cgroup.procs", "cgroup.kill", "memory.peak", "memory.swap.max"):
                (self / name).write_text("")
            (self / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
            (self / "memory.current").write_text("5000\n")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    group = groups.make(Limits(memory=64 * MiB, processes=7))
    assert group is not None
    folder = next(groups.places.memory.glob("palaestra-*"))  # type: ignore[union-attr]  # pyright: ignore
    assert (folder / "pids.max").read_text() == "10"
    assert (folder / "memory.oom.group").read_text() == "1"
    group.settle()
    assert (folder / "memory.max").read_text() == str(64 * MiB + 5000)
    assert group.oom_kills() == 2
    found = group.descriptors()
    assert set(found) == {"procs0", "oom", "peak"}
    for descriptor in found.values():
        os.close(descriptor)
    group.kill()
    assert (folder / "cgroup.kill").read_text() == "1"
    group.forget()
    assert group.oom_kills() == 0


def test_a_place_that_refuses_is_not_asked_again(tmp_path: Path) -> None:
    groups = Groups(*unified(tmp_path))
    assert groups.make(Limits()) is None  # no kernel fills this folder
    assert "cannot be made" in groups.lacks
    assert groups.places is None


def test_there_is_at_least_one_core() -> None:
    assert 1 <= resources.usable_cores() <= (os.cpu_count() or 1)
