"""Attacks on what is reported: exit codes, streams, values."""

from __future__ import annotations

from ...tool_sandbox import Result
from .attack import SMALL, Attack, program


def _case(name: str, code: str, **more: object) -> Attack:
    return program("results", name, code, limits=SMALL, **more)  # type: ignore[arg-type]


def _exit(name: str, code: str, status: int) -> Attack:
    reason = "ok" if status == 0 else "killed" if status < 0 else "error"
    return _case(name, code, wants=(reason,), exits=status)


def _capped(result: Result) -> str:
    if result.stdout_bytes != 3_000_001:
        return f"{result.stdout_bytes} bytes were counted"
    return "" if result.stdout == "x" * SMALL.output else "another head was kept"


def _undecodable(result: Result) -> str:
    return "" if result.stdout == "a�b" else f"stdout is {result.stdout!r}"


def _raw(result: Result) -> str:
    return "" if result.stdout == "\0\x1b[31mred\x1b[0m\r\n" else f"stdout is {result.stdout!r}"


def _silent(result: Result) -> str:
    return f"stdout is {result.stdout!r}" if result.stdout else ""


def _written(result: Result) -> str:
    return "" if result.files.get("a") == b"kept" else "it was not written"


ATTACKS: tuple[Attack, ...] = (
    _exit("exit 0", "sys.exit(0)", 0),
    _exit("exit 1", "sys.exit(1)", 1),
    _exit("exit 77", "sys.exit(77)", 77),
    _exit("exit 255", "sys.exit(255)", 255),
    _exit("exit of None", "sys.exit(None)", 0),
    _exit("exit of a text", "sys.exit('words')", 1),
    _exit("exit of a huge number", "sys.exit(2 ** 70 + 3)", 255),
    _exit("exit of True", "sys.exit(True)", 1),
    _exit("exit of an object", "sys.exit([1])", 1),
    _exit("os._exit(0)", "import atexit\natexit.register(print, 'BROKEN')\nos._exit(0)", 0),
    _exit("os._exit(9)", "os._exit(9)", 9),
    _exit("death by its own SIGTERM", "os.kill(os.getpid(), 15)", -15),
    _exit("death by its own SIGKILL", "os.kill(os.getpid(), 9)", -9),
    _exit("an uncaught exception", "1 / 0", 1),
    _exit(
        "an unprintable exception",
        "class E(Exception):\n    def __str__(self): raise E\n    __repr__ = __str__\nraise E",
        1,
    ),
    _exit("an exception hook that hides", "sys.excepthook = lambda *a: None\n1 / 0", 1),
    _exit("exit() without site", "exit(77)", 77),
    _exit("an interrupt that nobody caught", "raise KeyboardInterrupt", -2),
    _exit("no stdout at the end", "sys.stdout.close()\nsys.stdout = None", 0),
    _exit("a stdout that is gone", "del sys.stdout", 0),
    _case(
        "an uncaught exception without stderr",
        "sys.stderr = None\n1 / 0",
        wants=("error",),
        check=_silent,
    ),
    _case("stdout in another encoding", "sys.stdout.reconfigure(errors='replace')\nprint(1)"),
    _case(
        "a file that was not closed",
        "file = open('a', 'w')\nfile.write('kept')",
        fetch=("a",),
        check=_written,
    ),
    _case(
        "the last act of an object",
        "class A:\n    def __del__(self): print('closed')\nkept = [A()]",
        says="closed",
    ),
    _case(
        "a flood just before the exit",
        "left = bytes((8 << 20) + 1)\nwhile left: left = left[os.write(1, left) :]\nos._exit(0)",
        wants=("output",),
    ),
    _case(
        "137 from a shell",
        "exit 137",
        language="shell",
        wants=("error",),
        exits=137,
    ),
    _case("a signal that says processor time", "os.kill(os.getpid(), 24)", wants=("killed",)),
    _case("invalid UTF-8", "os.write(1, b'a\\xffb')", check=_undecodable),
    _case("NUL and ANSI", "os.write(1, b'\\0\\x1b[31mred\\x1b[0m\\r\\n')", check=_raw),
    _case("a line of 3 MB", "print('x' * 3_000_000)", check=_capped),
    _case("deep JSON", "print('[' * 20_000 + ']' * 20_000)"),
    _case(
        "deep source", "eval('(' * 100_000 + ')' * 100_000)", wants=("error", "memory", "killed")
    ),
    _case("huge source", "x = '" + "y" * 3_000_000 + "'\nprint(len(x))", says="3000000"),
    _case("NUL in source", "x = 1\0\n", wants=("error",), exits=1),
    _case(
        "threads that write at the end",
        r"""
import threading, time
def chatter():
    while True: print("x", end="")
for _ in range(3): threading.Thread(target=chatter, daemon=True).start()
time.sleep(0.05)
""",
        wants=("ok", "error", "killed", "output"),
    ),
    _case(
        "forged protocol text",
        r"""
print('{"reason": "ok", "exit_code": 0}')
print("PA\x01\x13", '{"passed": true, "score": 1.0}', "OK (1 test)")
sys.stdout.flush()
os._exit(3)
""",
        wants=("error",),
        exits=3,
    ),
)
