"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from palaestra.cli import main as cli


@pytest.fixture
def run() -> Callable[..., int]:
    """Runs a command line in this process and gives its exit code."""

    def call(*words: str) -> int:
        with pytest.raises(SystemExit) as caught:
            cli.main(list(words))
        code = caught.value.code
        return code if isinstance(code, int) else 0 if code is None else 1

    return call
