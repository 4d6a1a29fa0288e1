"""The tree holds to its own rules: floors, doors, packages, names, docstrings."""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("algos", "tool_sandbox", "envs", "agents", "rollout", "train", "testing", "cli")

# Who may import whom (docs/architecture.md). A room may always import itself.
FLOORS: dict[str, set[str]] = {
    "algos": set(),
    "tool_sandbox": set(),
    "envs": {"tool_sandbox"},
    "agents": {"algos", "envs"},
    "rollout": {"algos", "agents", "envs"},
    "train": {"algos", "envs", "agents", "rollout"},
    "testing": {"algos", "tool_sandbox", "envs", "agents", "rollout"},
    "cli": {"tool_sandbox", "envs", "agents", "rollout", "train", "testing"},
}
STANDARD = set(sys.stdlib_module_names)
ALLOWED: dict[str, set[str]] = {
    "algos": {"torch", "jaxtyping"},
    "tool_sandbox": set(),
    "envs": {"numpy", "gymnasium"},
    "agents": {"torch", "numpy", "safetensors", "jaxtyping"},
    "rollout": {"torch", "numpy", "jaxtyping"},
    "train": {"torch", "numpy", "safetensors", "jaxtyping"},
    "testing": {"torch", "numpy", "gymnasium", "hypothesis", "jaxtyping"},
    "cli": {"typer", "rich"},
}
# One door each: outside library -> the only files that may import it.
DOORS: dict[str, set[str]] = {
    "docker": {"tool_sandbox/docker.py"},
    "transformers": {"agents/language_model.py", "testing/tiny_llm.py"},
    "tokenizers": {"testing/tiny_llm.py"},
    "tensorboard": {"train/metrics.py"},
    "pydantic": {"envs/tools.py"},
    "pydantic_core": {"envs/tools.py"},
    "pyarrow": {"envs/tasks.py", "rollout/trajectory.py"},
    "pettingzoo": {"envs/multiagent.py"},
    "rich": {"envs/rendering.py", "train/console.py"},
    "click": {"cli/main.py"},
}


def modules(room: str) -> Iterator[Path]:
    yield from sorted(path for path in (ROOT / room).rglob("*.py") if "_build" not in path.parts)


def names_of(node: ast.Import | ast.ImportFrom) -> list[tuple[str, int]]:
    """Names that an absolute import statement brings, with its line."""
    if isinstance(node, ast.Import):
        return [(alias.name, node.lineno) for alias in node.names]
    return [(node.module or "", node.lineno)]


def imports(path: Path, *, top_level: bool = False) -> Iterator[tuple[str, int]]:
    """Absolute dotted names that a module imports (its relative imports resolved)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["palaestra", *path.relative_to(ROOT).with_suffix("").parts]
    if package[-1] == "__init__":
        package.pop()
        package.append("")  # a package's own level counts as one
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if node.level and not node.module:
                yield from ((f"{name}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield name, node.lineno


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_the_floors_below_it(room: str) -> None:
    wrong: list[str] = []
    for path in modules(room):
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] == "palaestra" and len(parts) > 1:
                target = parts[1]
                if target in ROOMS and target != room and target not in FLOORS[room]:
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, wrong


@pytest.mark.parametrize("room", ROOMS)
def test_a_heavy_library_enters_by_one_door(room: str) -> None:
    wrong: list[str] = []
    for path in modules(room):
        place = str(path.relative_to(ROOT))
        for name, line in imports(path):
            top = name.split(".")[0]
            if name.startswith("torch.utils.tensorboard"):
                top = "tensorboard"
            if top == "palaestra" or top in STANDARD or top in ALLOWED[room]:
                continue
            if place not in DOORS.get(top, set()):
                wrong.append(f"{place}:{line} imports {name}")
    assert not wrong, wrong


@pytest.mark.parametrize("room", ROOMS)
def test_inside_the_package_imports_are_relative(room: str) -> None:
    # ruff's banned-api could say this, but not in a clone whose folder is named palaestra
    wrong: list[str] = []
    for path in modules(room):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import) or (
                isinstance(node, ast.ImportFrom) and not node.level
            ):
                wrong += [
                    f"{path.relative_to(ROOT)}:{line} imports {name}"
                    for name, line in names_of(node)
                    if name.split(".")[0] == "palaestra"
                ]
    assert not wrong, wrong


def test_the_guest_imports_nothing_but_itself_and_the_standard_library() -> None:
    wrong: list[str] = []
    for path in modules("tool_sandbox/guest"):
        for name, line in imports(path):
            inside = name.startswith("palaestra.tool_sandbox.guest")
            shared = name in ("palaestra.tool_sandbox.values", "palaestra.tool_sandbox.wire")
            top = name.split(".")[0]
            handed = (ROOT / "tool_sandbox" / "guest" / f"{top}.py").exists() or top in (
                "values",
                "wire",
                "guest",
            )
            if not (inside or shared or handed or top in STANDARD or top == "numpy"):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, wrong


def test_the_command_line_imports_nothing_heavy_at_module_level() -> None:
    heavy = {"torch", "transformers", "numpy", "gymnasium"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules("cli")
        for name, line in imports(path, top_level=True)
        if name.split(".")[0] in heavy or name.startswith(("palaestra.train", "palaestra.agents"))
    ]
    assert not wrong, wrong


def test_importing_the_package_stays_light() -> None:
    code = (
        "import palaestra, palaestra.cli.main, sys;"
        "print([m for m in ('torch','transformers','ray','docker','pettingzoo','tensorboard')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.strip() == "[]"


def test_the_wheel_holds_every_package_on_the_disk() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(config["tool"]["setuptools"]["packages"])
    found = {"palaestra"}
    for room in ROOMS:
        for init in (ROOT / room).rglob("__init__.py"):
            found.add(".".join(["palaestra", *init.parent.relative_to(ROOT).parts]))
    assert listed == found


def test_the_root_holds_two_python_files_only() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_no_root_folder_shadows_a_standard_module() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert not folders & STANDARD


def test_there_is_no_import_circle() -> None:
    graph: dict[str, set[str]] = {}
    paths = [path for room in ROOMS for path in modules(room)]
    names = {".".join(["palaestra", *p.relative_to(ROOT).with_suffix("").parts]) for p in paths}
    for path in paths:
        own = ".".join(["palaestra", *path.relative_to(ROOT).with_suffix("").parts])
        edges: set[str] = set()
        for name, _ in imports(path, top_level=True):
            if name in names:
                edges.add(name)
        graph[own] = edges - {own}
    state: dict[str, int] = {}

    def visit(node: str, trail: tuple[str, ...]) -> None:
        state[node] = 1
        for target in sorted(graph.get(node, ())):
            assert state.get(target) != 1, f"circle: {' -> '.join((*trail, node, target))}"
            if target not in state:
                visit(target, (*trail, node))
        state[node] = 2

    for node in sorted(graph):
        if node not in state:
            visit(node, ())


def _public(tree: ast.Module) -> Iterator[ast.AST]:
    yield tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_a_docstring(room: str) -> None:
    bare: list[str] = []
    for path in modules(room):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in _public(tree):
            assert isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            marks = getattr(node, "decorator_list", [])
            if any(ast.unparse(mark) == "overload" for mark in marks):
                continue  # the implementation has the words
            if not ast.get_docstring(node):
                name = getattr(node, "name", "module")
                bare.append(f"{path.relative_to(ROOT)}: {name}")
    assert not bare, bare


def _examples() -> list[str]:
    found: list[str] = []
    for room in ROOMS:
        for path in modules(room):
            if ">>>" in path.read_text(encoding="utf-8"):
                parts = path.relative_to(ROOT).with_suffix("").parts
                if parts[-1] == "__init__":
                    parts = parts[:-1]
                found.append(".".join(["palaestra", *parts]))
    return found


@pytest.mark.parametrize("name", _examples())
def test_every_docstring_example_runs(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
