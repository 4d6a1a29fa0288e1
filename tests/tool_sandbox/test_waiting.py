"""Descriptors of any number can be waited for."""

from __future__ import annotations

import fcntl
import os
import resource

import pytest
from palaestra.tool_sandbox.waiting import readable


def test_a_descriptor_beyond_1024_is_waited_for() -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 2_000:
        pytest.skip("this process may not open descriptor 2,000")
    out, into = os.pipe()
    high = fcntl.fcntl(out, fcntl.F_DUPFD_CLOEXEC, 2_000)
    try:
        assert readable([high], 0) == []
        os.write(into, b"x")
        assert readable([high], 60) == [high]
    finally:
        for fd in (out, into, high):
            os.close(fd)


def test_a_descriptor_that_hung_up_is_ready() -> None:
    out, into = os.pipe()
    os.close(into)
    assert readable([out]) == [out]
    os.close(out)
