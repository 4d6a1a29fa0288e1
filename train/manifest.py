"""What made a run: versions, seeds, commit, machine, command."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from .checkpoint import write_text
from .config import Config, to_toml

FILE = "manifest.json"
PACKAGES = ("palaestra", "torch", "numpy", "gymnasium", "transformers", "safetensors")


def open_run(
    run_dir: Path,
    config: Config,
    *,
    command: Sequence[str],
    env_ids: Sequence[str],
    imports: Sequence[str] = (),
) -> None:
    """Write ``config.toml`` and ``manifest.json``; on resume a manifest gains one more start.

    Args:
        run_dir: folder of the run.
        config: the effective config.
        command: words of the command line.
        env_ids: ids of every environment the run makes.
        imports: modules that registered environments (``--import``).
    """
    write_text(run_dir / "config.toml", to_toml(config))
    starts = read(run_dir).get("starts", [])
    facts = {
        "config_sha256": hashlib.sha256(to_toml(config).encode()).hexdigest(),
        "seed": config.seed,
        "env_ids": list(env_ids),
        "imports": list(imports),
        "data_sha256": data_sums(config),
        "versions": versions(),
        "git": commit(Path(__file__).parent),
        "host": host(),
        "starts": [*starts, {"command": list(command), "at": _now()}],
    }
    _write(run_dir, facts)


def close_run(run_dir: Path, figures: Mapping[str, Any]) -> None:
    """Add the end, the peak memory and the final figures to the manifest."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    _write(
        run_dir,
        read(run_dir) | {"end": _now(), "peak_memory_bytes": peak, "figures": dict(figures)},
    )


def read(run_dir: Path) -> dict[str, Any]:
    """The manifest of a run; empty where there is none."""
    try:
        text = (run_dir / FILE).read_text(encoding="utf-8")
        return cast(dict[str, Any], json.loads(text))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a run depends on, and a hash of all installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    every = sorted(f"{item.name}=={item.version}" for item in importlib.metadata.distributions())
    found["installed_sha256"] = hashlib.sha256("\n".join(every).encode()).hexdigest()
    return found


def commit(folder: Path) -> dict[str, Any] | None:
    """The commit the package runs from and whether files differ from it; None outside git."""
    words = ("git", "--no-optional-locks", "-C", str(folder))  # who trains holds up no commit
    try:
        head = subprocess.run(
            [*words, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
        changed = subprocess.run(
            [*words, "status", "--porcelain"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": head.stdout.strip(), "dirty": bool(changed.stdout.strip())}


def host() -> dict[str, Any]:
    """The machine: system, processor, cores, memory, accelerator."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    torch = sys.modules.get("torch")  # a run has imported it; a manifest alone need not
    gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "gpu": gpu,
    }


def data_sums(config: Config) -> dict[str, str]:
    """The sha256 of every file that an ``[env]`` value names."""
    sums: dict[str, str] = {}
    for value in config.env.options.values():
        if isinstance(value, str) and len(value) < 4_096 and Path(value).is_file():
            with Path(value).open("rb") as file:
                sums[value] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _write(run_dir: Path, facts: Mapping[str, Any]) -> None:
    write_text(run_dir / FILE, json.dumps(facts, indent=1) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
