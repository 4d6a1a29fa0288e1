"""What every test shares: one copy of the package, Hypothesis profiles, one torch thread."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import palaestra
from hypothesis import HealthCheck, settings

# pytest imports the root's __init__.py under the name of the checkout folder as well
sys.modules.setdefault(Path(palaestra.__file__).parent.name, palaestra)

# the same examples each time, so that a commit's tests say one thing; `fuzz` looks for new ones
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", calm, max_examples=50, derandomize=True)
settings.register_profile("fuzz", calm, max_examples=2_000)
settings.load_profile("same")
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)
