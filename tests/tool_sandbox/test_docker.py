"""The docker backend on a real engine: hardened, warm, and nothing left."""

import asyncio
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from palaestra.testing import plain_user
from palaestra.testing.victims import until
from palaestra.tool_sandbox import (
    Calls,
    Case,
    Limits,
    MiB,
    Sandbox,
    SandboxUnavailable,
    Script,
    flags,
    image,
    owners,
)
from palaestra.tool_sandbox import docker as backend

CONFORMANCE = Path(__file__).with_name("test_conformance.py")
pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def host(engine: str) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine)
        yield engine


@pytest.fixture(scope="module")
def client(host: str) -> Iterator[Any]:
    found = backend.connect()
    yield found
    found.close()


@pytest.fixture(scope="module")
def sandbox(host: str) -> Iterator[Sandbox]:
    with Sandbox("docker", workers=1, limits=Limits(wall=60.0, memory=256 * MiB)) as found:
        yield found


def ours(client: Any) -> list[Any]:
    mark = f"{owners.PID}={owners.own_pid()}"
    return client.containers.list(all=True, filters={"label": mark}, ignore_removed=True)


def test_it_runs_code_inside_and_says_full(sandbox: Sandbox) -> None:
    assert sandbox.isolation.backend == "docker"
    assert sandbox.isolation.level == "full"
    assert {"container", "seccomp"} <= set(sandbox.isolation.layers)
    result = sandbox.execute("import os\nprint(6 * 7, os.getuid() > 1000, os.listdir('.'))")
    assert result.stdout == "42 True []\n"


def test_files_travel_and_nothing_stays(sandbox: Sandbox) -> None:
    code = "open('out', 'w').write(open('in').read() * 2)\nopen('/tmp/left', 'w').close()"
    result = sandbox.execute(code, files={"in": "ab"}, fetch=("out",))
    assert result.files == {"out": b"abab"}
    assert sandbox.execute("import os\nprint(os.listdir('/tmp'))").stdout == "[]\n"


def wanted_of(container: Any, limits: Limits) -> dict[str, Any]:
    user = int(container.attrs["Config"]["User"].split(":")[0])
    labels = container.attrs["Config"]["Labels"]
    wanted = flags.hardening(limits, user, Path("/x"), labels)
    size = container.attrs["HostConfig"]["Memory"]  # tightened when the guest was ready
    assert limits.memory < size < wanted["mem_limit"]
    return {**wanted, "mem_limit": size, "memswap_limit": size}


def test_a_container_shows_every_mandatory_flag(sandbox: Sandbox, client: Any) -> None:
    sandbox.execute("pass")
    container = ours(client)[0]
    wanted = wanted_of(container, Limits(wall=5.0, memory=256 * MiB))
    assert flags.compare(container.attrs, wanted) == []
    host = container.attrs["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] is None
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["PidMode"] == ""
    assert host["IpcMode"] == "private"
    assert host["Binds"] is None
    assert host["PidsLimit"] == 20
    assert host["Memory"] == host["MemorySwap"] >= 256 * MiB
    assert host["NanoCpus"] > 0
    assert host["ShmSize"] == MiB
    assert [(one["Name"], one["Soft"], one["Hard"]) for one in host["Ulimits"]] == [("core", 0, 0)]
    assert host["LogConfig"]["Type"] == "none"
    assert not host["Init"]
    assert host["AutoRemove"] is True
    config = container.attrs["Config"]
    assert int(config["User"].split(":")[0]) > 1_000_000_000
    assert {"exec", "nosuid", "nodev", "mode=700"} <= set(host["Tmpfs"]["/mnt"].split(","))
    assert {owners.OWNER, owners.PID, owners.BOOT} <= set(config["Labels"])
    assert config["Labels"][owners.PID] == owners.own_pid()
    inside = {mount["Destination"] for mount in container.attrs["Mounts"]}
    assert inside == {*image.guest_files().values(), image.DOOR}
    assert not any(mount["RW"] for mount in container.attrs["Mounts"])


def test_a_flag_the_engine_did_not_take_is_named(sandbox: Sandbox, client: Any) -> None:
    sandbox.execute("pass")
    container = ours(client)[0]
    wanted = {**flags.hardening(Limits(), 5, Path("/x"), {"a": "b"}), "cap_drop": ["NET_RAW"]}
    assert {"cap_drop", "user", "mem_limit", "labels"} <= set(
        flags.compare(container.attrs, wanted)
    )


@pytest.mark.parametrize(
    ("where", "name", "value", "complaint"),
    [
        ("HostConfig", "Ulimits", None, "ulimits"),
        ("HostConfig", "Ulimits", [{"Name": "core", "Soft": 0, "Hard": 5}], "ulimits"),
        ("HostConfig", "Tmpfs", {"/mnt": "rw"}, "tmpfs"),
        ("HostConfig", "ShmSize", 64 * MiB, "shm_size"),
        ("HostConfig", "LogConfig", {"Type": "json-file"}, "log_config"),
        ("HostConfig", "SecurityOpt", None, "security_opt"),
        ("HostConfig", "SecurityOpt", ["seccomp=unconfined"], "security_opt"),
        ("HostConfig", "Privileged", True, "Privileged"),
        ("HostConfig", "PidMode", "host", "PidMode"),
        ("HostConfig", "Binds", ["/:/host"], "Binds"),
        ("HostConfig", "CapAdd", ["SYS_ADMIN"], "CapAdd"),
        ("HostConfig", "PidsLimit", 0, "pids_limit"),
        ("HostConfig", "NetworkMode", "bridge", "network_mode"),
        ("Config", "User", "", "user"),
        ("Config", "Labels", None, "labels"),
        ("", "Mounts", [], "mounts"),
    ],
)
def test_each_flag_that_reads_otherwise_is_named(
    sandbox: Sandbox, client: Any, where: str, name: str, value: object, complaint: str
) -> None:
    sandbox.execute("pass")
    attrs: dict[str, Any] = ours(client)[0].attrs
    wanted = wanted_of(ours(client)[0], Limits(wall=5.0, memory=256 * MiB))
    changed = {**attrs[where], name: value} if where else value
    assert flags.compare({**attrs, where or name: changed}, wanted) == [complaint]


def test_the_door_is_closed_behind_the_guest(sandbox: Sandbox, client: Any) -> None:
    sandbox.execute("pass")
    for container in ours(client):
        sources = {m["Destination"]: m["Source"] for m in container.attrs["Mounts"]}
        assert os.listdir(sources[image.DOOR]) == []


def test_every_container_has_a_user_of_its_own(host: str, client: Any) -> None:
    with Sandbox("docker", workers=2) as sandbox:
        list(sandbox.map(["import time\ntime.sleep(0.3)"] * 4))
        users = [container.attrs["Config"]["User"] for container in ours(client)]
        assert len(users) == len(set(users))
        assert len(users) >= 2


def test_time_memory_and_output_have_their_words(sandbox: Sandbox) -> None:
    assert sandbox.execute("while True: pass", limits=Limits(wall=0.5)).reason == "timeout"
    assert sandbox.execute("x = bytearray(1 << 31)").reason == "memory"
    flood = "while True: print('x' * 10000)"
    assert sandbox.execute(flood, limits=Limits(wall=20.0)).reason == "output"


def test_the_limit_of_memory_is_the_programs_and_not_the_interpreters(host: str) -> None:
    hold = "held = bytearray(1 << 20) * {}\nprint(len(held) >> 20)"
    limits = Limits(wall=60.0, memory=128 * MiB)
    with Sandbox("docker", workers=1, limits=limits) as sandbox:
        fits, more = (sandbox.execute(hold.format(size)) for size in (100, 170))
    assert (fits.reason, fits.stdout) == ("ok", "100\n")
    assert (more.reason, more.stdout) == ("memory", "")


def test_calls_and_scripts_are_graded_in_containers(sandbox: Sandbox) -> None:
    cases = (Case((2,), expected=4), Case((3,), expected=6))
    code = "def f(x): return 2 * x"
    assert sandbox.grade(code, Calls("f", cases)).passed
    assert sandbox.grade(code, Calls("f", cases, "case")).passed
    assert sandbox.grade(code, Script("assert f(2) == 4")).passed
    assert not sandbox.grade("def f(x): return x", Script("assert f(2) == 4")).passed


def test_a_session_goes_on_and_branches(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.execute("x = 1")
        with session.fork() as branch:
            branch.execute("x = 2")
            assert branch.execute("x").stdout == "2\n"
        assert session.execute("x").stdout == "1\n"
        assert session.shell("pwd").stdout == "/mnt/data\n"


def test_a_killed_container_is_replaced(host: str, client: Any) -> None:
    before = {container.id for container in ours(client)}
    with Sandbox("docker", workers=1) as sandbox:
        assert sandbox.execute("print(1)").stdout == "1\n"
        for container in ours(client):
            if container.id not in before:
                container.kill()
        results = [sandbox.execute("print(2)") for _ in range(3)]
        assert results[-1].stdout == "2\n"


@pytest.mark.parametrize("what", ["execute", "aexecute", "session", "stopped"])
def test_a_container_that_somebody_paused_is_lost_and_blames_no_guest(
    host: str, client: Any, what: str
) -> None:
    before = {container.id for container in ours(client)}
    with Sandbox("docker", workers=1, limits=Limits(wall=0.2)) as sandbox:
        session = sandbox.session()
        sandbox.execute("1")
        for container in ours(client):
            if container.id not in before and what == "stopped":
                container.reload()
                os.kill(container.attrs["State"]["Pid"], signal.SIGSTOP)
            elif container.id not in before:
                container.pause()
        if what == "session":
            assert session.execute("1").reason == "lost"
        run = sandbox.aexecute("1") if what == "aexecute" else None
        result = sandbox.execute("1") if run is None else asyncio.run(run)
        assert result.reason == "lost"
        assert sandbox.execute("print(1)", limits=Limits(wall=60.0)).stdout == "1\n"


def test_nothing_is_left_after_a_close(
    host: str,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {container.id for container in ours(client)}
    doors = tempfile.mkdtemp()
    monkeypatch.setattr(tempfile, "tempdir", doors)
    with Sandbox("docker", workers=2) as sandbox:
        list(sandbox.map(["print(1)"] * 4))
        sandbox.session().execute("1")
        assert {container.id for container in ours(client)} - before
    assert until(lambda: {container.id for container in ours(client)} <= before, 120.0)
    os.rmdir(doors)  # it would not go if anything were in it


def test_containers_of_a_dead_trainer_are_removed_at_the_next_start(
    host: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tempfile.mkdtemp()  # where no neighbour that starts can be quicker
    monkeypatch.setattr(tempfile, "tempdir", place)
    program = textwrap.dedent(
        """
        from palaestra.tool_sandbox import Sandbox
        sandbox = Sandbox("docker", workers=1)
        sandbox.execute("pass")
        print("ready", flush=True)
        input()
        """
    )
    trainer = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": place},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert trainer.stdin is not None
    assert trainer.stdout is not None
    with trainer.stdin, trainer.stdout:
        assert trainer.stdout.readline() == b"ready\n"
        label = f"{trainer.pid}:{owners.start_time(trainer.pid)}:"
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    doors = f"{owners.DOORS}{label.replace(':', '-')}"
    assert [name for name in os.listdir(place) if name.startswith(doors)]
    backend.remove_orphans(client)
    assert owners.remove_doors() >= 1
    os.rmdir(place)  # it would not go if anything were in it

    def left() -> list[Any]:
        held = client.containers.list(
            all=True, filters={"label": owners.OWNER}, ignore_removed=True
        )
        return [one for one in held if one.labels[owners.PID].startswith(label)]

    assert until(lambda: not left(), 120.0)


def test_containers_of_the_living_and_of_other_machines_stay(sandbox: Sandbox, client: Any) -> None:
    sandbox.execute("pass")
    (cell,) = cast("list[Any]", sandbox._engine.pool._idle)  # pyright: ignore[reportPrivateUsage]
    backend.remove_orphans(client)
    assert cell.keeper.container.id in {container.id for container in ours(client)}

    class Stranger:
        labels = {owners.PID: "1:5:4711", owners.BOOT: "x"}  # noqa: RUF012

        def remove(self, force: bool) -> None:
            raise AssertionError("another pid namespace's container was removed")

    class Engine:
        class containers:  # noqa: N801
            @staticmethod
            def list(**_: Any) -> list[Stranger]:
                return [Stranger()]

    assert backend.remove_orphans(Engine()) == 0


def test_an_image_that_does_not_exist_names_the_builds(host: str) -> None:
    with pytest.raises(SandboxUnavailable, match="sandbox build --rootfs self"):
        Sandbox("docker", image="palaestra-none:none").isolation  # noqa: B018


def test_an_image_without_our_label_is_refused(host: str, client: Any) -> None:
    data = BytesIO()
    with tarfile.open(fileobj=data, mode="w"):
        pass
    client.api.import_image_from_data(data.getvalue(), repository="palaestra-bare", tag="1")
    with pytest.raises(SandboxUnavailable, match="no label"):
        Sandbox("docker", image="palaestra-bare:1").isolation  # noqa: B018
    client.images.remove("palaestra-bare:1")


def test_an_engine_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(SandboxUnavailable, match="no docker engine answers"):
        Sandbox("docker").isolation  # noqa: B018


def test_paths_of_the_host_are_refused() -> None:
    with pytest.raises(SandboxUnavailable, match="bake it in"):
        Sandbox("docker", readable=["/etc"]).isolation  # noqa: B018


def test_an_image_is_built_on_another_one(host: str, client: Any) -> None:
    name = backend.build(base=image.tag(), tag="palaestra-test:built")
    labels = client.images.get(name).labels
    assert labels[image.PYTHON].startswith("/opt/python/bin/python3.")
    with Sandbox("docker", image=name, workers=1) as sandbox:
        assert sandbox.execute("print(1)").stdout == "1\n"
    client.images.remove(name)


def test_an_image_is_made_from_a_folder_with_a_root_file_system(
    host: str, client: Any, tmp_path: Path
) -> None:
    data, _ = image.pack("self")
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        archive.extractall(tmp_path, filter="tar")
    stale = tmp_path / image.INSIDE.lstrip("/") / "guest" / "stale.py"
    stale.write_text("of a guest that was")
    name = backend.build(rootfs=str(tmp_path), tag="palaestra-test:folder")
    labels = client.images.get(name).labels
    assert labels[image.PYTHON].startswith("/opt/python/bin/python3.")
    assert labels[image.GUEST] == image.digest()
    with Sandbox("docker", image=name, workers=1) as sandbox:
        assert sandbox.execute("print(1)").stdout == "1\n"
    client.images.remove(name)
    with tarfile.open(fileobj=BytesIO(image.pack(str(tmp_path))[0])) as archive:
        assert not [entry for entry in archive.getnames() if "stale" in entry]


def test_the_machines_own_image_knows_its_locale_and_its_interpreter(sandbox: Sandbox) -> None:
    code = "python3 -c 'print(1)' && python -c 'print(2)'; bash -c 'echo $LC_ALL é'; tty </dev/null"
    result = sandbox.execute(code, language="shell")
    assert (result.stdout, result.stderr) == ("1\n2\nC.UTF-8 é\nnot a tty\n", "")
    program = "import locale\nprint(locale.setlocale(locale.LC_ALL, ''), locale.getencoding())"
    assert sandbox.execute(program).stdout == "C.UTF-8 UTF-8\n"


@pytest.mark.timeout(2400)  # every named attack, one after another
@pytest.mark.skipif(os.geteuid() != 0, reason="this suite runs as a plain user already")
def test_a_plain_user_of_the_engine_sees_the_same(host: str) -> None:
    arguments = ["-p", "no:cacheprovider", "-q", "-m", "docker", "-k", "docker_holds"]
    done = plain_user.run(
        [sys.executable, "-m", "pytest", str(CONFORMANCE), *arguments],
        env={"DOCKER_HOST": host},
        groups=[os.stat(host.removeprefix("unix://")).st_gid],
        timeout=2380.0,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "passed" in done.stdout.strip().splitlines()[-1]
