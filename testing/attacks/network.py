"""Attacks on and over the network."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import replace

from ...tool_sandbox import Sandbox
from .attack import SMALL, Attack, Outside, program

_HEAD = r"""
import socket
CUT = (errno.EPERM, errno.EACCES, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ENOENT,
       errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT,
       errno.ENOTDIR, errno.EHOSTUNREACH)
def reach(what, family, kind, address, payload=None):
    def call():
        with socket.socket(family, kind) as link:
            link.settimeout(2)
            link.connect(address)
            if payload: link.send(payload)
            return "connected"
    try: refused(what, call, *CUT)
    except socket.timeout: broken(f"{what}: packets left")
"""


def _case(name: str, code: str) -> Attack:
    return program("network", name, _HEAD + code, limits=SMALL)


def _listening(sandbox: Sandbox, targets: Outside) -> None:
    """A server inside must not be reachable from the host."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    port: int = address[1]
    reached: list[int] = []
    stop = threading.Event()

    def knock() -> None:
        while not stop.wait(0.02):
            with contextlib.suppress(OSError), socket.create_connection(address, 5.0) as link:
                if link.recv(100) == targets.mark.encode():  # the port may be a neighbour's by now
                    reached.append(port)
                    return

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        sandbox.execute(targets.fill(_SERVER.replace("@HERE@", str(port))), limits=SMALL)
    finally:
        stop.set()
        thread.join()
    if reached:
        raise AssertionError("a server inside was reached from the host")


_SERVER = """
import socket
server = socket.socket()
server.settimeout(2)
try:
    server.bind(("0.0.0.0", @HERE@)); server.listen()
    server.accept()[0].sendall(b"@MARK@")
except OSError: pass
"""


def _waiting(once: Attack) -> Attack:
    """The same, with time for what was sent to arrive."""

    def run(sandbox: Sandbox, targets: Outside) -> None:
        once.run(sandbox, targets)
        if arrived := targets.settle(2.0):
            raise AssertionError("; ".join(arrived))

    return replace(once, run=run)


ATTACKS: tuple[Attack, ...] = (
    _case("TCP", "reach('tcp', socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', @PORT@))"),
    _waiting(
        _case(
            "UDP",  # sending proves nothing: whether it arrived is seen from outside
            r"""
try:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.sendto(b"x", ("127.0.0.1", @DATAGRAMS@))
except OSError: pass
""",
        )
    ),
    _case("unix path", "reach('unix', socket.AF_UNIX, socket.SOCK_STREAM, '@UNIX@')"),
    _case(
        "unix abstract",
        "reach('abstract', socket.AF_UNIX, socket.SOCK_STREAM, '\\0' + '@ABSTRACT@')",
    ),
    Attack("listening", "network", _listening),
    _case(
        "internet",
        "reach('internet', socket.AF_INET, socket.SOCK_STREAM, ('192.0.2.1', 443))\n"
        "try: reach('internet 6', socket.AF_INET6, socket.SOCK_STREAM, ('2001:db8::1', 443))\n"
        "except OSError: pass\n",
    ),
    _case(
        "metadata address",
        "reach('metadata', socket.AF_INET, socket.SOCK_STREAM, ('169.254.169.254', 80))",
    ),
    _case(
        "DNS",
        r"""
try: found = socket.getaddrinfo("example.com", 80)
except OSError: pass
else: broken(f"a name was resolved: {found[0]}")
""",
    ),
    _case(
        "netlink, raw and exotic families",
        r"""
for name, family, kind in (("netlink", 16, 3), ("raw", 2, 3), ("packet", 17, 3), ("alg", 38, 5),
                           ("vsock", 40, 1), ("bluetooth", 31, 3), ("kcm", 41, 5), ("tipc", 30, 1),
                           ("xdp", 44, 3), ("rds", 21, 5), ("can", 29, 3), ("key", 15, 3)):
    refused(name, lambda: socket.socket(family, kind), *CUT)
refused("socketpair", lambda: socket.socketpair(2, 1), *CUT, errno.EOPNOTSUPP)
""",
    ),
    _case(
        "daemon sockets",
        r"""
for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock",
             "/run/dbus/system_bus_socket", "/run/systemd/private", "/tmp/.X11-unix/X0",
             "/run/udev/control", "/dev/log", "/run/systemd/journal/socket"):
    gone(path, lambda: os.stat(path))
""",
    ),
)
