"""The flags of a container: all are mandatory, and what the engine made of them is read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import image
from .guest import layout
from .limits import Limits, MiB
from .zygote import ENVIRONMENT

_OWN = 96 * MiB  # for the interpreter while it starts; then the limit is tightened


def hardening(
    limits: Limits, user: int, door: Path | None, labels: Mapping[str, str]
) -> dict[str, Any]:
    """The flags of a container.

    Args:
        limits: Of the worker that it will be.
        user: Its user and group, which nobody else has.
        door: The folder of the control socket; None where no folder is shared with the engine:
            then nothing is mounted, and standard input and output are the control.
        labels: Whose it is.
    """
    shared = {} if door is None else {**image.guest_files(), door: image.DOOR}
    size = limits.memory + _OWN
    return {
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "read_only": True,
        "user": f"{user}:{user}",
        "pids_limit": limits.processes + 4,
        "mem_limit": size,
        "memswap_limit": size,
        "nano_cpus": 1_000_000_000,
        "ipc_mode": "private",
        "shm_size": MiB,
        "tmpfs": {
            "/mnt": f"rw,exec,nosuid,nodev,size={limits.disk},"
            f"nr_inodes={limits.inodes + layout.FOLDERS},mode=700,uid={user},gid={user}"
        },
        "ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "log_config": {"Type": "none", "Config": {}},
        "init": False,
        "auto_remove": True,
        "environment": ENVIRONMENT,
        "hostname": "sandbox",
        "working_dir": "/",
        "labels": dict(labels),
        "stdin_open": door is None,
        "mounts": [
            {"Target": inside, "Source": str(path), "Type": "bind", "ReadOnly": True}
            for path, inside in shared.items()
        ],
    }


def compare(attrs: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The mandatory flags that a container does not show; empty when all hold.

    Args:
        attrs: What the engine's `inspect` says of it.
        wanted: As `hardening` gave them.
    """
    config: Mapping[str, Any] = attrs["Config"]
    host: Mapping[str, Any] = attrs["HostConfig"]
    seen = {
        "network_mode": host["NetworkMode"],
        "cap_drop": host["CapDrop"],
        "security_opt": host["SecurityOpt"],
        "read_only": host["ReadonlyRootfs"],
        "user": config["User"],
        "pids_limit": host["PidsLimit"],
        "mem_limit": host["Memory"],
        "memswap_limit": host["MemorySwap"],
        "nano_cpus": host["NanoCpus"],
        "ipc_mode": host["IpcMode"],
        "shm_size": host["ShmSize"],
        "tmpfs": host["Tmpfs"],
        "init": bool(host["Init"]),
        "auto_remove": host["AutoRemove"],
        "stdin_open": config["OpenStdin"],
    }
    wrong = [name for name, value in seen.items() if value != wanted[name]]
    log: Mapping[str, Any] = host["LogConfig"]
    labels: Mapping[str, str] = config["Labels"] or {}
    held = {
        "ulimits": _ulimits(host["Ulimits"]) == _ulimits(wanted["ulimits"]),
        "log_config": log["Type"] == wanted["log_config"]["Type"],
        "labels": wanted["labels"].items() <= labels.items(),
        "mounts": _mounts(attrs["Mounts"]) == _expected(wanted["mounts"]),
    }
    wrong += [name for name, holds in held.items() if not holds]
    never = ("Privileged", "CapAdd", "Devices", "Binds", "PidMode", "UTSMode", "VolumesFrom")
    return wrong + [name for name in never if host.get(name)]


def _ulimits(rows: object) -> list[tuple[Any, ...]]:
    found: list[Mapping[str, Any]] = rows if isinstance(rows, list) else []  # pyright: ignore[reportUnknownVariableType]
    return sorted((row["Name"], row["Soft"], row["Hard"]) for row in found)


def _mounts(rows: list[Mapping[str, Any]]) -> set[tuple[str, bool]]:
    """Where the host shows inside, and whether it can be written; a tmpfs shows nothing of it."""
    return {(row["Destination"], bool(row["RW"])) for row in rows if row["Type"] != "tmpfs"}


def _expected(rows: list[Mapping[str, Any]]) -> set[tuple[str, bool]]:
    return {(row["Target"], not row["ReadOnly"]) for row in rows}
