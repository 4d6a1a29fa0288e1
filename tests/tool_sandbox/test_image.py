"""What the docker backend's image is packed from, without any engine."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from palaestra.tool_sandbox import BadRequest, image

pytestmark = [pytest.mark.linux, pytest.mark.slow]


def test_an_image_holds_the_guests_own_files() -> None:
    data, _ = image.pack("self")
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        for path, inside in image.baked_files().items():
            file = archive.extractfile(inside.lstrip("/"))
            assert file is not None
            assert file.read() == path.read_bytes()


def test_a_root_file_system_needs_an_interpreter(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no python"):
        image.pack(str(tmp_path))
    with pytest.raises(BadRequest, match="give a folder"):
        image.pack(str(tmp_path / "none"))


def test_the_machines_own_image_holds_nothing_of_the_machine() -> None:
    data, python = image.pack("self")
    assert python.startswith("/opt/python/bin/python3.")
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        members = archive.getmembers()
    names = {member.name for member in members}
    assert {"bin/sh", "bin/tty", "tmp", "mnt", "etc/passwd"} <= names
    assert {"opt/python/bin/python3", "opt/python/bin/python"} <= names
    assert not [member.name for member in members if member.mode & 0o6000]
    assert not [name for name in names if name.startswith(("root", "home", "opt/palaestra/t/"))]
    assert not [name for name in names if "site-packages" in name or "__pycache__" in name]
