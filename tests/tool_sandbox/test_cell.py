from __future__ import annotations

import os
import resource
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from palaestra.tool_sandbox import BadRequest, Limits, MiB, Sandbox
from palaestra.tool_sandbox.cell import Request

pytestmark = pytest.mark.linux


def run(cells: Sandbox, code: str, wall: float = 60.0, **options: object) -> str:
    result = cells.execute(code, limits=Limits(wall=wall, memory=256 * MiB), **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert result.ok, result
    return result.stdout


def test_a_program_prints_and_ends_well(cells: Sandbox) -> None:
    result = cells.execute("print(6 * 7)")
    assert (result.reason, result.exit_code, result.stdout) == ("ok", 0, "42\n")
    assert result.wall > 0
    assert result.cpu > 0


def test_an_uncaught_exception_shows_its_line_and_none_of_ours(cells: Sandbox) -> None:
    result = cells.execute("def f():\n    return 1 / 0\nf()")
    assert (result.reason, result.exit_code) == ("error", 1)
    assert "return 1 / 0" in result.stderr
    assert "ZeroDivisionError" in result.stderr
    assert "execution.py" not in result.stderr


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("raise SystemExit(7)", 7),
        ("raise SystemExit(None)", 0),
        ("raise SystemExit(-1)", 255),
        ("raise SystemExit('words')", 1),
        ("import os; os._exit(0)", 0),
        ("import os; os._exit(99)", 99),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.abort()", -signal.SIGABRT),
        ("import ctypes; ctypes.string_at(0)", -signal.SIGSEGV),
        ("x = (", 1),
        ("x = '\\0'; eval(x)", 1),
    ],
)
def test_the_exit_code_is_the_kernels(cells: Sandbox, code: str, exit_code: int) -> None:
    assert cells.execute(code).exit_code == exit_code


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "import signal, time\nfor s in range(1, 65):\n try: signal.signal(s, signal.SIG_IGN)\n"
        " except (OSError, ValueError): pass\nwhile True: time.sleep(1)",
        "import re; re.match(r'(a+)+$', 'a' * 40 + 'b')",
        "import atexit, time; atexit.register(time.sleep, 60)",
        "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()",
        "while True:\n try:\n  while True: pass\n except BaseException: pass",
        "x = 7 ** (10 ** 9)",
    ],
)
def test_whatever_does_not_end_is_ended_at_the_wall(cells: Sandbox, code: str) -> None:
    limits = Limits(wall=0.3, cpu=10, memory=256 * MiB)
    result = cells.execute(code, limits=limits)
    assert (result.reason, result.exit_code) == ("timeout", -9)


def test_processor_time_has_a_limit_of_its_own(cells: Sandbox) -> None:
    limits = Limits(wall=200, cpu=1, memory=256 * MiB)
    assert cells.execute("while True: pass", limits=limits).reason == "cpu"


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(900 << 20)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "import os\nfor i in range(8):\n if not os.fork():\n  x = bytearray(60 << 20)\n"
        "  import signal; signal.pause()\nos.wait()",  # the kernel may choose one of them
        "import mmap\nm = mmap.mmap(-1, 600 << 20)\nfor i in range(0, 600 << 20, 4096): m[i] = 1",
    ],
)
def test_memory_is_bounded_over_the_whole_tree(cells: Sandbox, code: str) -> None:
    result = cells.execute(code, limits=Limits(wall=60, memory=256 * MiB))
    assert result.reason == "memory", result


def test_a_flood_of_output_is_ended_and_its_head_kept(cells: Sandbox) -> None:
    limits = Limits(wall=60, memory=256 * MiB, output=1000, output_stop=100_000)
    result = cells.execute("while True: print('x' * 100)", limits=limits)
    assert result.reason == "output"
    assert len(result.stdout) == 1000
    assert result.stdout_bytes > 100_000
    assert result.truncated


@given(st.integers(0, 200_000), st.integers(1, 100_000))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_output_is_counted_to_the_byte(cells: Sandbox, size: int, cap: int) -> None:
    limits = Limits(wall=60, memory=256 * MiB, output=cap)
    result = cells.execute(
        f"import os\nd = b'x' * {size}\nwhile d: d = d[os.write(1, d):]", limits=limits
    )
    assert result.stdout_bytes == size
    assert result.stdout == "x" * min(size, cap)


def test_files_go_in_and_come_out(cells: Sandbox) -> None:
    code = "s = open('a/in.txt').read()\nopen('out.bin', 'wb').write(s.encode() * 2)"
    result = cells.execute(code, files={"a/in.txt": "hé"}, fetch=("out.bin", "missing", "a/in.txt"))
    assert result.files == {"out.bin": "héhé".encode(), "a/in.txt": "hé".encode()}


def test_a_large_file_comes_back_whole(cells: Sandbox) -> None:
    code = "open('big', 'wb').write(bytes(range(256)) * (4 << 12) * 3)"
    result = cells.execute(code, fetch=("big",))
    assert result.files["big"] == bytes(range(256)) * (4 << 12) * 3


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.symlink('/etc/passwd', 'out')",
        "import os; os.mkfifo('out')",
        "import os; os.mkdir('out')",
        "import socket; socket.socket(socket.AF_UNIX).bind('out')",
        "import os; os.symlink('/dev/zero', 'out')",
    ],
)
def test_only_regular_files_come_back(cells: Sandbox, code: str) -> None:
    result = cells.execute(code, fetch=("out",))
    assert result.files == {}


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../b", "a//b", "", "a\0b", "x" * 5000])
def test_paths_that_leave_the_work_directory_are_refused(cells: Sandbox, path: str) -> None:
    with pytest.raises(BadRequest, match="path"):
        cells.execute("1", files={path: b""})
    with pytest.raises(BadRequest, match="path"):
        cells.execute("1", fetch=(path,))


def test_input_of_any_size_can_be_read(cells: Sandbox) -> None:
    data = os.urandom(300_000)
    code = "import sys; d = sys.stdin.buffer.read(); print(len(d), hash(d) == hash(d))"
    assert run(cells, code, stdin=data) == "300000 True\n"
    assert run(cells, "print(input())", stdin="line\n") == "line\n"
    assert run(cells, "import sys; print(repr(sys.stdin.read()))") == "''\n"


def test_a_shell_runs_with_the_fixed_environment(cells: Sandbox) -> None:
    result = cells.execute("echo $HOME; pwd; exit 3", language="shell")
    assert (result.reason, result.exit_code) == ("error", 3)
    assert result.stdout == "/mnt/data\n/mnt/data\n"


def test_the_value_of_the_last_expression_comes_back(cells: Sandbox) -> None:
    result = cells.execute("x = 2\n{'a': [x, (1.5, None)]}", want_value=True)
    assert result.value == {"a": [2, (1.5, None)]}
    assert cells.execute("x = 2", want_value=True).value is None
    assert cells.execute("object()", want_value=True).value is None


@pytest.mark.parametrize(
    "code",
    [
        "print(list({'a', 'b', 'c', 'd'}))",
        "import random; print(random.random(), random.getrandbits(64))",
        "import os; print(sorted(os.environ.items()), os.getcwd(), os.uname().nodename)",
        "import time; print(time.tzname, time.localtime(0).tm_hour)",
    ],
)
def test_two_cells_say_the_same(cells: Sandbox, code: str) -> None:
    with cells._living().borrow() as one, cells._living().borrow() as two:  # pyright: ignore[reportPrivateUsage]
        assert one is not two
        first, second = (cell.execute(Request(code)).result.stdout for cell in (one, two))
    assert first == second


def test_seeds_fix_and_vary_the_random_numbers(cells: Sandbox) -> None:
    code = "import random; print(random.random())"
    assert run(cells, code, seed=1) == run(cells, code, seed=1)
    assert run(cells, code, seed=1) != run(cells, code, seed=2)
    assert run(cells, code, seed=None) != run(cells, code, seed=None)
    assert run(cells, code, seed=-5)


LEAVE = {
    "a file": "open('x', 'w').write('1')",
    "a file in tmp": "open('/tmp/x', 'w').write('1')",
    "a file in shm": "open('/dev/shm/x', 'w').write('1')",
    "many files": "for i in range(150): open(str(i), 'w').write('1')",
    "a folder": "import os; os.makedirs('a/b/c'); open('a/b/c/d', 'w').write('1')",
    "a mode": "import os; os.chmod('/mnt/data', 0o777)",
    "a removed folder": "import os; os.chdir('/'); os.rmdir('/mnt/data')",
    "a link instead": "import os; os.rmdir('/mnt/data'); os.symlink('/etc', '/mnt/data')",
    "a deep tree": "import os\nfor i in range(500):\n os.mkdir('d'); os.chdir('d')",
    "a touched folder": "import os; os.utime('/mnt/data', (0, 0))",
    "a patched module": "import json; json.loads = None; import builtins; builtins.len = None",
    "a niceness": "import os; os.nice(5); os.umask(0)",
    "a stray": "import os, time\nif not os.fork():\n os.setsid()\n os.fork() or time.sleep(60)",
}
PROBE = (
    "import os, json\nprint(os.listdir('.'), os.listdir('/tmp'), os.listdir('/dev/shm'), len('ab'),"
    " json.loads('1'), os.stat('.').st_mode, os.getpriority(0, 0), os.umask(0), os.getcwd(),"
    " sorted(os.listdir('/mnt')), [p for p in os.listdir('/proc') if p.isdigit()].__len__())"
)


@pytest.mark.parametrize("code", LEAVE.values(), ids=LEAVE.keys())
def test_nothing_reaches_the_next_execution(cells: Sandbox, code: str) -> None:
    before = run(cells, PROBE)
    for _ in range(2):
        cells.execute(code)
    assert run(cells, PROBE) == before


def test_inherited_descriptors_are_none(cells: Sandbox) -> None:
    # 3 is the listing's own.
    assert run(cells, "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))") == (
        "[0, 1, 2, 3]\n"
    )


def test_limits_are_visible_inside(cells: Sandbox) -> None:
    limits = Limits(
        wall=60, memory=128 * MiB, processes=5, open_files=33, file_size=5 * MiB, disk=8 * MiB,
        inodes=64,
    )  # fmt: skip
    code = (
        "import os, resource as r\n"
        "print([r.getrlimit(k)[1] for k in (r.RLIMIT_NOFILE, r.RLIMIT_FSIZE, r.RLIMIT_NPROC, "
        "r.RLIMIT_CORE)], os.statvfs('.').f_blocks * os.statvfs('.').f_frsize)"
    )
    out = cells.execute(code, limits=limits).stdout
    assert out == f"[33, {5 * MiB}, 8, 0] {8 * MiB}\n"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] != 33


def test_a_full_disk_is_the_guests_problem(cells: Sandbox) -> None:
    code = "try:\n open('x', 'wb').write(bytes(9 << 20))\nexcept OSError as e: print(e.errno)"
    limits = Limits(wall=60, disk=4 * MiB, memory=256 * MiB)
    assert cells.execute(code, limits=limits).stdout == "28\n"


def test_processes_and_threads_are_counted(cells: Sandbox) -> None:
    code = (
        "import os, time\nn = 0\ntry:\n while n < 100:\n  os.fork() or time.sleep(60)\n  n += 1\n"
        "except OSError: pass\nprint(n)"
    )
    limits = Limits(wall=60, processes=6, memory=256 * MiB)
    assert int(cells.execute(code, limits=limits).stdout) <= 7


@pytest.mark.parametrize(
    "code",
    ["\0", "x = 1\0", "(" * 100_000, "# \ud800", "\ud800", "x=" + "1+" * 50_000 + "1", "", "\x0c"],
    ids=[
        "nul",
        "nul inside",
        "brackets",
        "surrogate in comment",
        "surrogate",
        "sum",
        "empty",
        "ff",
    ],
)
def test_any_text_is_a_program_with_a_result(cells: Sandbox, code: str) -> None:
    assert cells.execute(code).reason in ("ok", "error", "memory", "killed")


def test_ten_megabytes_of_source_run(cells: Sandbox) -> None:
    assert run(cells, "# " + "x" * (10 << 20) + "\nprint(1)") == "1\n"


def test_source_beyond_a_frame_is_refused_before_it_runs(cells: Sandbox) -> None:
    with pytest.raises(BadRequest, match="bytes"):
        cells.execute("#" * (16 << 20))


@given(st.text(max_size=60))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_text_without_sense_never_raises_here(cells: Sandbox, code: str) -> None:
    assert cells.execute(code, limits=Limits(wall=1, memory=256 * MiB)).reason != "lost"
