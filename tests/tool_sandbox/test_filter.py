from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from palaestra.tool_sandbox.guest import filter as calls
from palaestra.tool_sandbox.guest.syscalls import NUMBERS, TABLES, call

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
ENOMEM, EINVAL, NOTHING = 0x0005000C, 0x00050016, 0x00050000
SHAPES = [
    calls.Shape(),
    calls.Shape(group=True),
    calls.Shape(reduced=True),
    calls.Shape(reduced=True, scoped=True),
    calls.Shape(open=True),
]
X86_HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")


def verdict(
    program: list[calls.Instruction], arch: int, number: int, arguments: tuple[int, ...] = ()
) -> int:
    """What the kernel would answer: a small interpreter of the filter's few instructions."""
    words = {0: number, 4: arch}
    for index in range(6):
        value = arguments[index] if index < len(arguments) else 0
        words[16 + 8 * index] = value & 0xFFFFFFFF
        words[20 + 8 * index] = value >> 32 & 0xFFFFFFFF
    accumulator, at = 0, 0
    for _ in range(len(program)):
        code, jump_true, jump_false, k = program[at]
        at += 1
        match code:
            case 0x20:
                accumulator = words[k]
            case 0x54:
                accumulator &= k
            case 0x15:
                at += jump_true if accumulator == k else jump_false
            case 0x35:
                at += jump_true if accumulator >= k else jump_false
            case 0x06:
                return k
            case _:
                raise AssertionError(f"instruction {code:#x}")
    raise AssertionError("the program does not end")


def expected(machine: str, shape: calls.Shape, name: str | None) -> int:
    if name is None:
        return ENOSYS
    return EPERM if name in calls.refused(shape) else ALLOW


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_filter_equals_the_table_for_every_number(machine: str, shape: calls.Shape) -> None:
    program = calls.program(machine, shape)
    names = {number: name for name, number in TABLES[machine].items()}
    special = {"clone3", "kill", "timer_create", "setpriority"}
    special |= {"sync", "syncfs", "fsync", "fdatasync", "sync_file_range", "msync"}
    special |= {"sched_setparam", "sched_setscheduler", "sched_setattr"}
    special |= set() if shape.group else {"splice", "sendfile"}
    harmless = {"socket": (2,), "socketpair": (1, 1), "ioprio_set": (1, 0)}
    for number in range(700):
        name = names.get(number)
        if name in special:
            continue
        arguments = harmless.get(name or "", (0, 0))
        answer = verdict(program, ARCH[machine], number, arguments)
        assert answer == expected(machine, shape, name), name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_another_architecture_is_killed(machine: str) -> None:
    program = calls.program(machine, calls.Shape())
    assert verdict(program, 0x40000003, 1) == KILL


@pytest.mark.parametrize("number", [0x40000000, 0x40000001, 0x4000003B, 0xFFFFFFFF])
def test_x32_does_not_exist(number: int) -> None:
    assert verdict(calls.program("x86_64", calls.Shape()), ARCH["x86_64"], number) == ENOSYS


CHECKED = [
    ("clone", (0x11,), ALLOW),
    ("clone", (0x3D0F00,), ALLOW),
    *(("clone", (bit | 0x11,), EPERM) for bit in (0x20000, 0x2000000, 0x10000000, 0x40000000)),
    ("clone", (0x80,), EPERM),
    ("clone", (18,), EPERM),
    ("clone", (0x4100 | 18,), EPERM),
    ("clone3", (0,), ENOSYS),
    ("socket", (1,), ALLOW),
    ("socket", (2,), ALLOW),
    ("socket", (10,), ALLOW),
    *(("socket", (family,), EPERM) for family in (0, 3, 16, 17, 29, 38, 40, 44)),
    ("socketpair", (1,), ALLOW),
    ("socketpair", (2,), EPERM),
    *(("ioctl", (0, request), EPERM) for request in (0x5412, 0x541C, 0x40086602, 0x401C5820)),
    ("ioctl", (0, 0x5401), ALLOW),
    ("kill", (1, 9), EPERM),
    ("kill", (2, 9), ALLOW),
    ("kill", (0xFFFFFFFFFFFFFFFF, 9), ALLOW),
    ("tgkill", (1, 1, 9), EPERM),
    ("pidfd_open", (1,), EPERM),
    ("prlimit64", (1,), EPERM),
    ("prlimit64", (0,), ALLOW),
    ("sched_setaffinity", (1,), EPERM),
    ("setpriority", (0, 0, 5), NOTHING),
    ("setpriority", (0, 1, 5), EPERM),
    ("setpriority", (1, 0, 5), EPERM),
    ("ioprio_set", (1, 0), ALLOW),
    ("ioprio_set", (1, 7), EPERM),
    ("personality", (0xFFFFFFFF,), ALLOW),
    ("personality", (0,), ALLOW),
    ("personality", (0x40000,), EPERM),
    *(("fcntl", (0, kind), EPERM) for kind in (10, 1024, 1026)),
    *(("fcntl", (0, kind), ALLOW) for kind in (0, 4, 5, 8, 36, 1030, 1031)),
    *(("fcntl", (0, kind), NOTHING) for kind in (6, 7, 37, 38)),
    *((name, (0,), NOTHING) for name in ("sched_setparam", "sched_setscheduler", "sched_setattr")),
    *((name, (7,), EPERM) for name in ("sched_setparam", "sched_setscheduler", "sched_setattr")),
    ("setsockopt", (3, 41, 32), EPERM),
    ("setsockopt", (3, 41, 26), ALLOW),
    ("setsockopt", (3, 1, 32), ALLOW),
    *((name, (3,), NOTHING) for name in ("fsync", "fdatasync", "sync_file_range", "msync")),
    *((name, (3,), ALLOW) for name in ("splice", "sendfile")),
    ("prctl", (41, 0), ALLOW),
    ("prctl", (1, 18), EPERM),
    ("prctl", (1, 9), ALLOW),
    ("prctl", (4, 18), ALLOW),
    ("timer_create", (0,), ENOSYS),
    ("sync", (), NOTHING),
    ("syncfs", (1,), NOTHING),
    ("mmap", (0, 1 << 21, 3, 0x40022), ENOMEM),
    ("mmap", (0, 1 << 21, 3, 0x22), ALLOW),
    ("memfd_create", (1, 4), EPERM),
    ("memfd_create", (1, 3), ALLOW),
]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(("name", "arguments", "answer"), CHECKED)
def test_arguments_decide_where_they_must(
    machine: str, name: str, arguments: tuple[int, ...], answer: int
) -> None:
    program = calls.program(machine, calls.Shape(group=True))
    assert verdict(program, ARCH[machine], TABLES[machine][name], arguments) == answer


WITHOUT_GROUP = [
    *(("prctl", first, answer) for first, answer in (((41, 0), EPERM), ((1, 18), EPERM))),
    ("prctl", (4, 1), ALLOW),
    *((name, (3,), EINVAL) for name in ("splice", "sendfile")),
]
SHOWN = [
    *(("socketpair", (1, kind), ALLOW) for kind in (1, 5, 1 | 0x80800, 5 | 0x80000)),
    *(("socketpair", (1, kind), EPERM) for kind in (2, 3, 2 | 0x80800)),
    ("socketpair", (2, 1), EPERM),
]
OPEN = [("socket", (2,), ALLOW), ("socket", (10,), ALLOW), ("socket", (1,), EPERM)]
REDUCED = [("socket", (2,), EPERM), ("connect", (3,), EPERM)]
CELLS = [
    (calls.Shape(), WITHOUT_GROUP),
    (calls.Shape(open=True), SHOWN + OPEN),
    (calls.Shape(reduced=True), SHOWN + REDUCED),
]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(("shape", "answers"), CELLS)
def test_what_a_cell_lacks_decides_too(
    machine: str, shape: calls.Shape, answers: list[tuple[str, tuple[int, ...], int]]
) -> None:
    program = calls.program(machine, shape)
    for name, arguments, answer in answers:
        found = verdict(program, ARCH[machine], TABLES[machine][name], arguments)
        assert found == answer, (name, arguments)


def test_the_upper_half_of_an_argument_cannot_smuggle() -> None:
    program = calls.program("x86_64", calls.Shape(group=True))
    number = TABLES["x86_64"]["kill"]
    assert verdict(program, ARCH["x86_64"], number, (1 | 1 << 32, 9)) == EPERM


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    ("length", "flags", "answer"),
    [
        (1 << 30, 0x22, ALLOW),
        (1 << 30, 0x01, ALLOW),
        (4096, 0x21, ALLOW),
        (4097, 0x21, ENOMEM),
        (1 << 32, 0x21, ENOMEM),
        (1 << 20, 0x4021, ENOMEM),
    ],
)
def test_shared_memory_that_no_look_would_show_needs_a_group(
    machine: str, length: int, flags: int, answer: int
) -> None:
    number = TABLES[machine]["mmap"]
    arguments = (0, length, 3, flags)
    alone = calls.program(machine, calls.Shape())
    assert verdict(alone, ARCH[machine], number, arguments) == answer
    counted = calls.program(machine, calls.Shape(group=True))
    assert verdict(counted, ARCH[machine], number, arguments) == ALLOW


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_maps_pages_of_a_pool_that_nobody_counts(shape: calls.Shape) -> None:
    program = calls.program("x86_64", shape)
    for flags in (0x40021, 0x40022, 0x54040022):
        mapped = (0, 4096, 3, flags)
        assert verdict(program, ARCH["x86_64"], TABLES["x86_64"]["mmap"], mapped) == ENOMEM


def test_without_namespaces_kill_reaches_the_own_group_only() -> None:
    program = calls.program("x86_64", calls.Shape(reduced=True))
    number = TABLES["x86_64"]["kill"]
    assert verdict(program, ARCH["x86_64"], number, (0, 9)) == ALLOW
    assert verdict(program, ARCH["x86_64"], number, (7, 9)) == EPERM


@pytest.mark.skipif(not X86_HEADER.exists(), reason="the kernel's headers are not installed")
def test_the_x86_table_agrees_with_the_headers() -> None:
    found = re.findall(r"#define __NR_(\w+) (\d+)", X86_HEADER.read_text())
    for name, number in found:
        assert TABLES["x86_64"].get(name) == int(number), name


def test_the_aarch64_table_agrees_with_the_headers() -> None:
    source = "#define __ARCH_WANT_SYS_CLONE3\n#include <asm-generic/unistd.h>\n"
    try:
        done = subprocess.run(
            ["gcc", "-E", "-dM", "-"], input=source, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no compiler, or no kernel headers")
    found = re.findall(r"#define __NR_(\w+) (\d+)$", done.stdout, re.MULTILINE)
    assert len(found) > 200
    for name, number in found:
        if name not in ("syscalls", "arch_specific_syscall"):
            assert TABLES["aarch64"].get(name) == int(number), name


def test_raw_calls_reach_the_kernel() -> None:
    assert call("getpid") == os.getpid()
    with pytest.raises(OSError, match="close"):
        call("close", 12345)
    assert NUMBERS
