"""What a launcher becomes once its work is done: a program of some forty bytes that only waits.

A launcher has nothing left to do but to be there, and to bury its child. As a fork of the zygote
it would hold two megabytes of memory for that, in each worker.
"""

from __future__ import annotations

import os
import struct

from .syscalls import MACHINE

_NAME = "palaestra-launcher"
_BASE = 0x400000  # where the program lies in memory
# again: wait4(-1, 0, 0, 0), and again while there was a child; then exit_group(0)
_X86_64 = bytes.fromhex(
    "48c7c7ffffffff"  # again: mov rdi, -1
    "31f6"  # xor esi, esi
    "31d2"  # xor edx, edx
    "4531d2"  # xor r10d, r10d
    "b83d000000"  # mov eax, 61
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "7fe6"  # jg again
    "31ff"  # xor edi, edi
    "b8e7000000"  # mov eax, 231
    "0f05"  # syscall
)
_AARCH64 = struct.pack(
    "<11I",
    0x92800000,  # again: mov x0, #-1
    0xD2800001,  # mov x1, #0
    0xD2800002,  # mov x2, #0
    0xD2800003,  # mov x3, #0
    0xD2802088,  # mov x8, #260
    0xD4000001,  # svc #0
    0xF100001F,  # cmp x0, #0
    0x54FFFF2C,  # b.gt again
    0xD2800000,  # mov x0, #0
    0xD2800BC8,  # mov x8, #94
    0xD4000001,  # svc #0
)
_PROGRAMS = {"x86_64": (62, _X86_64), "aarch64": (183, _AARCH64)}  # ELF's number of the machine
_HEAD = struct.Struct("<16sHHIQQQIHHHHHH")
_PART = struct.Struct("<IIQQQQQQ")


def program(machine: str) -> bytes:
    """The whole executable; empty for a machine that has none.

    >>> len(program("x86_64")), program("vax")
    (155, b'')
    """
    if machine not in _PROGRAMS:
        return b""
    number, code = _PROGRAMS[machine]
    start = _HEAD.size + _PART.size
    size = start + len(code)
    magic = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian
    head = _HEAD.pack(
        magic, 2, number, 1, _BASE + start, _HEAD.size, 0, 0, _HEAD.size, _PART.size, 1, 0, 0, 0
    )
    part = _PART.pack(1, 5, 0, _BASE, _BASE, size, size, 0x10000)  # loaded, readable, executable
    return head + part + code


def become() -> None:
    """Turns this process into the waiter, which ends after its last child.

    Returns only where that is impossible. All descriptors that do not survive an exec are closed.
    """
    code = program(MACHINE)
    if not code:
        return
    fd = os.memfd_create(_NAME)
    try:
        os.write(fd, code)
        os.execve(fd, [_NAME], {})
    except OSError:  # a machine may forbid to execute what is no file
        os.close(fd)
