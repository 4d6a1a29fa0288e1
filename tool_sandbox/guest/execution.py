"""One execution: the process that runs a guest's program, from its birth to its exit."""

from __future__ import annotations

import _random
import _signal  # pyright: ignore[reportMissingImports]
import array
import ast
import fcntl
import gc
import io
import linecache
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any, NoReturn, cast

from .. import values, wire
from . import asking, layout
from .last import BY_SIGNAL, ending, leave

REQUEST, BROKER, ROWS, PEERS = 3, 4, 5, 6  # descriptors of an execution
NAME = "main.py"
MARK = "\ufeff"  # some editors begin a file with it; Python skips it in files
_HIGH = 64  # descriptors on their way rest from here on
_FIRST = 4096  # bytes of the first piece of a request: most have no more
_RIGHTS = 128  # bytes for descriptors that come with it
_SESSION = wire.MODES.index("session")
# What `random.seed` ends in for an int, without the pages of the way there.
_seed_random = _random.Random.seed.__get__(random._inst)  # type: ignore[attr-defined]  # pyright: ignore


def environment(prefix: str) -> dict[str, str]:
    """Every variable a guest sees.

    Args:
        prefix: The interpreter's folder as seen from inside.
    """
    return {
        "PATH": f"{prefix}/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": layout.work(),
        "TMPDIR": "/tmp" if layout.jailed() else layout.temporary(),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "USER": "guest",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",  # each further arena is 64 MiB of address space
    }


def prepare() -> None:
    """What need not wait for the request; done while the host is still thinking."""
    # An open file of its own: flags and locks on one of pid 1's would reach the next guest.
    os.close(0)
    os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)
    try:
        os.setsid()
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"1000")
        os.close(fd)
    except OSError:
        pass  # without namespaces; then only who is killed first changes
    _signal.signal(2, _signal.default_int_handler)  # the plain one: an enum touches many pages
    sys.path.insert(0, "")
    sys.argv = [NAME]
    threads: Any = sys.modules.get("threading")
    if threads is not None:  # which remembers what the host calls the zygote
        threads.main_thread()._native_id = os.getpid()


def receive(channel: wire.Socket) -> wire.Order:
    """Waits for the request, and puts the descriptors that came with it in their places."""
    data, rights, _, _ = channel.recvmsg(_FIRST, _RIGHTS)
    if not data:
        os._exit(0)  # the cell closed the line: nothing will come
    total = int.from_bytes(data[:4], "little")
    if len(data) < total + 4:
        data += wire.receive(channel, total + 4 - len(data))
    order = wire.unpack_order(data[4:])
    if rights:
        _place(list(array.array("i", rights[0][2])), order.flags)
    return order


def _place(fds: list[int], flags: int) -> None:
    places = [ROWS] if flags & (wire.ROWS | wire.WANT_VALUE) else []
    places += [BROKER] if flags & wire.BROKER else []
    places += range(PEERS, PEERS + len(fds) - len(places))
    parked = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH) for fd in fds]
    for fd in fds:
        os.close(fd)
    for place, fd in zip(places, parked, strict=True):
        os.dup2(fd, place, inheritable=False)
        os.close(fd)


def set_limits(order: wire.Order) -> None:
    """The limits that belong to one call."""
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, order.cpu, order.cpu + 1),
        (resource.RLIMIT_NOFILE, order.open_files, order.open_files),
    ):
        try:
            resource.setrlimit(kind, (soft, hard))
        except ValueError:  # the trainer's own limit is lower, and nobody here may raise it
            most = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (min(soft, most), most))


def seed(order: wire.Order) -> None:
    """Fixes the random numbers of this execution; a forked interpreter repeats its parent's."""
    number = int(order.seed) if order.flags & wire.SEEDED else int.from_bytes(os.urandom(16), "big")
    _seed_random(number)
    numpy_random: Any = getattr(sys.modules.get("numpy"), "random", None)
    if numpy_random is not None:
        numpy_random.seed(number % (1 << 32))


def put_files(files: tuple[tuple[str, bytes], ...]) -> None:
    """Writes the request's files into the work directory, which is the current one."""
    for name, data in files:
        folder = os.path.dirname(name)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with open(name, "wb") as file:
            file.write(data)


def set_stdin(data: bytes) -> None:
    """Gives descriptor 0 these bytes: a file without a name, so it can be read at any pace."""
    if not data:
        return
    try:
        fd = os.open(layout.temporary(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        fd = os.memfd_create("stdin")
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    if fd:
        os.dup2(fd, 0)
        os.close(fd)
    else:  # a session's program has closed it
        os.set_inheritable(0, True)


def fresh_main() -> ModuleType:
    """A new, empty `__main__`."""
    module = ModuleType("__main__")
    module.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = module
    return module


def run(order: wire.Order) -> int:
    """Runs a program in a fresh `__main__`; its exit code."""
    try:
        code = order.code.decode("utf-8", "surrogatepass").removeprefix(MARK)
        if order.mode:
            from . import driver

            driver.drive(wire.MODES[order.mode], code, order.payload)
        elif order.flags & wire.WANT_VALUE:
            _send_value(evaluate(code, NAME, fresh_main().__dict__))
        else:
            remember(code, NAME)
            exec(compile(code, NAME, "exec", dont_inherit=True), fresh_main().__dict__)
        return 0
    except BaseException as problem:
        code = ending(problem)
        return BY_SIGNAL if isinstance(problem, KeyboardInterrupt) else code


def remember(code: str, name: str) -> None:
    """Lets tracebacks and `inspect` find the text of a program that is no file."""
    if "\r" in code:
        code = code.replace("\r\n", "\n").replace("\r", "\n")
    # `splitlines` knows more ends than Python; and `traceback` places its marks by a last one.
    lines = [f"{line}\n" for line in code.removesuffix("\n").split("\n")]
    linecache.cache[name] = (len(code), None, lines, name)


def split(code: str, name: str) -> tuple[CodeType | None, CodeType | None]:
    """A program as (statements, last expression); either may be missing."""
    # Nothing is inherited: this file's `from __future__` must not be the guest's.
    flags = ast.PyCF_ONLY_AST
    tree = cast("ast.Module", compile(code, name, "exec", flags, dont_inherit=True))
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        return compile(tree, name, "exec", dont_inherit=True), None
    tree.body.pop()
    expression = compile(ast.Expression(last.value), name, "eval", dont_inherit=True)
    statements = compile(tree, name, "exec", dont_inherit=True) if tree.body else None
    return statements, expression


def evaluate(code: str, name: str, scope: dict[str, Any]) -> object:
    """Runs a program; the value of its last expression, None without one."""
    remember(code, name)
    statements, expression = split(code, name)
    if statements is not None:
        exec(statements, scope)
    return None if expression is None else eval(expression, scope)


def _send_value(value: object) -> None:
    try:
        data = values.encode(value)
    except values.ValueProblem:
        return  # not plain data: the host sees None
    write_all(ROWS, data)


def write_all(fd: int, data: bytes) -> None:
    """Writes all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def shell(order: wire.Order, prefix: str) -> NoReturn:
    """Becomes a shell that runs the program."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    code = order.code.replace(b"\0", b"")  # a NUL would end the argument early
    os.execve("/bin/sh", ["sh", "-c", os.fsdecode(code)], environment(prefix))


def main(channel: wire.Socket, prefix: str, again: Callable[[], None] | None = None) -> NoReturn:
    """The life of an execution, in a process just cloned; it never returns.

    Args:
        channel: Where the request comes from.
        prefix: The interpreter's folder as seen from inside.
        again: A restriction each execution puts on itself, besides what it inherits.
    """
    try:
        prepare()
        if again is not None:
            again()
        order = receive(channel)
        if order.mode == _SESSION:
            from . import repl

            start(order, prefix)
            repl.converse(channel, prefix)
        channel.close()
        start(order, prefix)
        leave(run(order))
    except BaseException as problem:
        leave(ending(problem))


def start(order: wire.Order, prefix: str) -> None:
    """Limits, seed, files, input; a shell does not come back from here."""
    set_stdin(order.stdin)
    if order.files:
        put_files(order.files)
    set_limits(order)
    if order.language:
        shell(order, prefix)
    seed(order)
    if order.flags & wire.BROKER:
        asking.install(BROKER)
    gc.enable()


def dry_run(count: int) -> None:
    """Warms the paths of compiler, traceback and codecs, so that no execution pays for them."""
    programs = (
        b"import sys\nclass A:\n    def f(self, x=1):\n        return [i * x for i in range(3)]\n"
        b"print(A().f(2), f'{1.5:.2f}', {1: 'a'}, file=sys.stdout)\n",
        b"def f(n):\n    return n / 0\n"
        b"try:\n    f(1)\nexcept ZeroDivisionError as e:\n    raise KeyError(1) from e\n",
        b"x = (\n",
        b"raise SystemExit(0)\n",
    )
    held = sys.modules["__main__"], sys.stderr
    for index in range(count):
        code = programs[index % len(programs)]
        order = wire.unpack_order(wire.pack_order(wire.Order(code)))
        seed(order)
        sys.stderr = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", line_buffering=True)
        run(order)
        split(code.decode() if index % 4 != 2 else "1 + 1", NAME)
        sys.stdout.flush()
    sys.modules["__main__"], sys.stderr = held
    linecache.cache.pop(NAME, None)
