"""The image of the docker backend: an interpreter, a shell, and the guest's own files.

The tag names the state of these files. Where the engine shares our folders, those of here are
mounted over them, so that another image serves too; where it does not, they are what runs.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .errors import BadRequest

REPOSITORY = "palaestra-sandbox"
PYTHON = "palaestra.python"  # label: the interpreter's path inside
GUEST = "palaestra.guest"  # label: the state of the guest's files inside
DEFAULT = "python:3.12-slim"
HERE = Path(__file__).parent
INSIDE = "/opt/palaestra/tool_sandbox"  # where the guest's files are mounted
DOOR = "/run/palaestra"  # where the folder with the control socket is mounted
_PLACES = ("/usr/local/bin", "/opt/*/bin", "/usr/bin")
_TOOLS = (
    *("sh", "bash", "ls", "cat", "cp", "mv", "rm", "mkdir", "rmdir", "ln", "chmod", "touch"),
    *("echo", "printf", "test", "[", "true", "false", "expr", "seq", "sleep", "date", "env"),
    *("head", "tail", "wc", "sort", "uniq", "cut", "tr", "tee", "nl", "paste", "comm", "split"),
    *("grep", "egrep", "sed", "awk", "mawk", "find", "xargs", "diff", "cmp", "od", "dd", "du"),
    *("pwd", "basename", "dirname", "readlink", "realpath", "stat", "mktemp", "id", "uname"),
    *("df", "yes", "timeout", "md5sum", "sha256sum", "base64", "which", "kill", "ps", "tty"),
)
# What every guest's LC_ALL names; Debian's folder, and that of others.
_LOCALES = ("/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8")
_LEFT_OUT = frozenset(
    (
        *("test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip"),
        *("site-packages", "dist-packages", "__pycache__"),
    )
)
SHARED = ("kinds.py", "reading.py", "values.py", "wire.py")  # of host and guest
_FOLDERS = ("dev", "etc", "mnt", "proc", "run", "sys", "var", DOOR.strip("/"), INSIDE.strip("/"))
_PASSWD = "root:x:0:0::/:/bin/false\nguest:x:1000:1000::/mnt/data:/bin/sh\n"


def guest_files() -> dict[Path, str]:
    """The guest's own files: path here -> path inside."""
    found = {HERE / name: f"{INSIDE}/{name}" for name in SHARED}
    return {**found, HERE / "guest": f"{INSIDE}/guest"}


def baked_files() -> dict[Path, str]:
    """Each of the guest's own files by itself: path here -> path inside."""
    names = sorted(path.relative_to(HERE) for path in (HERE / "guest").glob("*.py"))
    return {HERE / name: f"{INSIDE}/{name}" for name in (*names, *map(Path, SHARED))}


def digest() -> str:
    """The state of the guest's files, and of what else goes into an image: this file."""
    found = hashlib.sha256()
    for path in (*sorted(baked_files()), Path(__file__)):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:12]


def tag() -> str:
    """Name of the image for the guest as it is now."""
    return f"{REPOSITORY}:{digest()}"


def labels(python: str) -> dict[str, str]:
    """What is written on an image."""
    return {PYTHON: python, GUEST: digest()}


def dockerfile(base: str, python: str) -> str:
    """The build of an image from another one."""
    return "\n".join(
        (
            f"FROM {base}",
            "USER 0:0",
            "RUN rm -rf /tmp && ln -s mnt/.tmp /tmp",
            f"RUN mkdir -p /mnt {DOOR} && rm -rf {INSIDE}",
            f"COPY {INSIDE[1:]} {INSIDE}",
            *(f"LABEL {key}={value}" for key, value in labels(python).items()),
            "WORKDIR /",
            "ENTRYPOINT []",
            "CMD []",
            "",
        )
    )


def context(base: str, python: str) -> bytes:
    """The Dockerfile and the guest's files, as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add(archive, "Dockerfile", dockerfile(base, python).encode())
        _bake(archive)
    return buffer.getvalue()


def _bake(archive: tarfile.TarFile) -> None:
    for path, inside in baked_files().items():
        _add(archive, inside.lstrip("/"), path.read_bytes())


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = _entry(name, tarfile.REGTYPE, 0o644)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def search() -> str:
    """Shell text that prints the first interpreter of an image that is new enough."""
    names = " ".join(f"{place}/python3.1[1-9]" for place in _PLACES)
    return f"for p in {names}; do if [ -x $p ]; then echo $p; exit 0; fi; done; exit 1"


def find_python(names: Iterable[str]) -> str:
    """The first interpreter, 3.11 or newer, among the paths of a root file system.

    Raises:
        BadRequest: There is none.

    >>> find_python(["usr/bin/python3.9", "opt/python/bin/python3.12"])
    '/opt/python/bin/python3.12'
    """
    paths = sorted("/" + name.strip("/") for name in names)
    for place in _PLACES:
        pattern = re.escape(place).replace(r"\*", "[^/]+") + r"/python3\.1[1-9]"
        for path in paths:
            if re.fullmatch(pattern, path):
                return path
    raise BadRequest(f"the root file system has no python3.11 or newer in {', '.join(_PLACES)}")


def pack(rootfs: str) -> tuple[bytes, str]:
    """A root file system as a tar archive, and its interpreter's path.

    Args:
        rootfs: A folder; or "self", which gathers this machine's interpreter, its libraries by the
            loader's own list, a shell and the common small programs.

    Raises:
        BadRequest: No folder, or no interpreter in it.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        if rootfs == "self":
            _Gatherer(archive).gather()
        else:
            if not Path(rootfs).is_dir():
                raise BadRequest(f'rootfs is {rootfs!r}; give a folder, or "self"')
            for entry in sorted(os.listdir(rootfs)):
                if entry != "tmp":
                    archive.add(os.path.join(rootfs, entry), entry, filter=_not_ours)
        names = set(archive.getnames())
        for folder in _FOLDERS:
            if folder not in names:
                archive.addfile(_entry(folder, tarfile.DIRTYPE, 0o755))
        _bake(archive)
        link = _entry("tmp", tarfile.SYMTYPE, 0o777)
        link.linkname = "mnt/.tmp"
        archive.addfile(link)
    return buffer.getvalue(), find_python(names)


def _not_ours(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """A root file system may be an image's that was built before: its guest is not taken over."""
    return None if f"/{info.name}/".startswith(f"{INSIDE}/") else info


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, mode
    return info


class _Gatherer:
    """Collects what this machine's interpreter needs into an archive, each file once."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._seen: set[str] = set()

    def gather(self) -> None:
        """Everything."""
        executable = os.path.realpath(sys.executable)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        library = Path(os.__file__).resolve().parent
        binaries = [
            executable,
            *(shutil.which(tool, path="/usr/bin:/bin") or "" for tool in _TOOLS),
        ]
        self._file(executable, f"opt/python/bin/{version}")
        for name in ("python3", "python"):  # the folder is the first in a guest's PATH
            self._link(f"opt/python/bin/{name}", version)
        self._tree(library, f"opt/python/lib/{version}")
        for path in filter(None, binaries[1:]):
            self._program(path)
        extensions = [str(path) for path in library.glob("lib-dynload/*.so")]
        for path in libraries([path for path in (*binaries, *extensions) if path]):
            usual = path.startswith(("/lib", "/usr/lib"))
            self._file(path, path.lstrip("/") if usual else f"usr/lib/{os.path.basename(path)}")
        for path in filter(os.path.isdir, _LOCALES):
            self._tree(Path(path), path.lstrip("/"))
        self._text("etc/passwd", _PASSWD)
        self._text("etc/group", "root:x:0:\nguest:x:1000:\n")

    def _program(self, path: str) -> None:
        """A program under the name it is called by, whatever the links behind that name."""
        name = path.lstrip("/")
        self._file(os.path.realpath(path), f"bin/{os.path.basename(name)}")

    def _tree(self, folder: Path, name: str) -> None:
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(folder).parts
            wanted = _LEFT_OUT.isdisjoint(parts) and not parts[0].startswith("config-")
            if wanted and path.is_file():
                self._file(str(path), f"{name}/{'/'.join(parts)}")

    def _file(self, path: str, name: str) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        real = os.path.realpath(path)
        info = self._archive.gettarinfo(real, name)
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.mode & 0o100 else 0o644  # no set-uid bits
        info.type = tarfile.REGTYPE  # a hard link's partner may be left out
        info.size = os.path.getsize(real)
        with open(real, "rb") as file:
            self._archive.addfile(info, file)

    def _link(self, name: str, target: str) -> None:
        link = _entry(name, tarfile.SYMTYPE, 0o777)
        link.linkname = target
        self._archive.addfile(link)

    def _text(self, name: str, text: str) -> None:
        _add(self._archive, name, text.encode())


def libraries(binaries: Sequence[str]) -> Iterator[str]:
    """The shared libraries of programs, the loader included, as the loader itself lists them."""
    done = subprocess.run(
        ["ldd", *binaries], capture_output=True, text=True, check=False, env={"LC_ALL": "C"}
    )
    found = re.findall(r"(?:=>\s*|^\s+)(/\S+)\s+\(0x", done.stdout, re.MULTILINE)
    yield from dict.fromkeys(found)
