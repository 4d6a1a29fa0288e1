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

settings.register_profile("dev", deadline=None, max_examples=25)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=50,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)
