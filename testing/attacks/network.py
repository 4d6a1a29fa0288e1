"""Attacks on and over the network."""

from __future__ import annotations

from .attack import Attack, program, wall

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
    return program("network", name, _HEAD + code, limits=wall(8.0))


ATTACKS: tuple[Attack, ...] = (
    _case("TCP", "reach('tcp', socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', @PORT@))"),
    _case(
        "UDP",
        "try: reach('udp', socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', @DATAGRAMS@), b'x')\n"
        "except NameError: pass\n".replace("try: ", "").replace("except NameError: pass\n", ""),
    ),
    _case("unix path", "reach('unix', socket.AF_UNIX, socket.SOCK_STREAM, '@UNIX@')"),
    _case(
        "unix abstract",
        "reach('abstract', socket.AF_UNIX, socket.SOCK_STREAM, '\\0' + '@ABSTRACT@')",
    ),
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
