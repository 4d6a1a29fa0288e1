"""What README, docs and examples say is run: programs, their output, commands, links."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.timeout(900)  # programs that train, on a machine with much to do
ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
MARK = "\x1e"
# commands that neither train nor need a run or a terminal: they run as they stand
RUNS_AS_IT_STANDS = ("envs list", "envs describe", "--version")

# one process for the commands of a page: most of what a command costs is its start
ALL_IN_ONE = """
import json, sys
from palaestra.cli.main import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as end:
        if end.code:
            sys.exit(f"palaestra {' '.join(words)}: exit code {end.code}")
"""


class Block(NamedTuple):
    """One fenced block of a page."""

    kind: str
    text: str
    start: int
    end: int


class Done(NamedTuple):
    """A process that ended."""

    code: int
    out: str
    err: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], m.start(), m.end()) for m in FENCE.finditer(text)]


def programs(page: Path) -> list[tuple[str, str | None]]:
    """Each python block, and the output that a text block right under it promises."""
    text, found = page.read_text(encoding="utf-8"), blocks(page)
    pairs: list[tuple[str, str | None]] = []
    for number, block in enumerate(found):
        after = found[number + 1] if number + 1 < len(found) else None
        if block.kind == "python":
            near = after is not None and not text[block.end : after.start].strip()
            shown = after.text if after is not None and near and after.kind == "text" else None
            pairs.append((block.text, shown))
    return pairs


def commands(page: Path) -> Iterator[list[str]]:
    for block in blocks(page):
        for line in block.text.splitlines() if block.kind == "bash" else ():
            words = shlex.split(line, comments=True)
            if words and Path(words[0]).name == "palaestra":
                yield words[1:]


def run(folder: Path, *words: str, path: Path | None = None) -> Done:
    """Run this interpreter with warnings as errors, in a folder of its own."""
    environ = {**os.environ, "COLUMNS": "100", "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"}
    if path is not None:
        environ["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environ,
        input="",
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def dry(words: list[str]) -> list[str]:
    """The same command, so that it parses and does no work."""
    if " ".join(words).startswith(RUNS_AS_IT_STANDS):
        return words
    if words[0] == "train" and not {"--resume", "--keys", "--dry-run"} & set(words):
        return [*words, "--dry-run"]
    return words if {"--keys", "--dry-run"} & set(words) else [*words, "--help"]


def without_model(words: list[str]) -> list[str]:
    """The same command with a policy that needs no folder of weights."""
    return ["tiny" if word.startswith("hf:") else word for word in words]


WITH_PROGRAMS = [page for page in PAGES if programs(page)]
WITH_COMMANDS = [page for page in PAGES if any(commands(page))]


def furnish(folder: Path, page: Path) -> None:
    """Put into a folder what the page's programs and commands lean on."""
    for example in EXAMPLES:
        shutil.copy(example, folder)
    for block in blocks(page):
        first = block.text.partition("\n")[0]
        if block.kind in ("toml", "python") and re.fullmatch(r"# \w+\.(toml|py)", first):
            (folder / first.removeprefix("# ")).write_text(block.text, encoding="utf-8")


@pytest.mark.parametrize("page", WITH_PROGRAMS, ids=lambda page: page.stem)
def test_programs_of_a_page_print_what_it_says(page: Path, tmp_path: Path) -> None:
    found = programs(page)
    furnish(tmp_path, page)
    mark = f"\nprint({MARK!r})\n"
    script = tmp_path / "page.py"
    script.write_text(mark.join(code for code, _ in found), encoding="utf-8")
    done = run(tmp_path, "page.py")
    assert done.code == 0, done.err
    printed = done.out.split(f"{MARK}\n")
    for (_, promised), out in zip(found, printed, strict=True):
        if promised is not None:
            assert out.strip() == promised.strip()


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_commands_of_a_page_are_understood(page: Path, tmp_path: Path) -> None:
    furnish(tmp_path, page)
    lines = [dry(without_model(words)) for words in commands(page)]
    done = run(tmp_path, "-c", ALL_IN_ONE, json.dumps(lines))
    assert done.code == 0, done.err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = [link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8"))]
    lost = [
        target
        for target in targets
        if target and "://" not in target and not (page.parent / target).exists()
    ]
    assert not lost


def test_readme_is_short_and_starts_with_a_program() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert "```python" in lines[:30]


def test_every_page_stands_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").split()
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= {*index, "index"}


def test_the_cards_are_what_the_environments_say(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); import make_cards; "
        "sys.stdout.write(make_cards.page())"
    )
    done = run(tmp_path, "-c", code)
    assert done.code == 0, done.err
    assert done.out == (ROOT / "docs" / "environments.md").read_text(encoding="utf-8"), (
        "docs/environments.md is stale; run: python docs/make_cards.py"
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_from_another_folder(example: Path, tmp_path: Path) -> None:
    short = ["--train.iterations", "2"] if example.stem == "my_env" else []
    done = run(tmp_path, str(example), *short)
    assert done.code == 0, done.err


def test_my_env_is_at_most_forty_lines_and_keeps_the_laws(tmp_path: Path) -> None:
    example = ROOT / "examples" / "my_env.py"
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 40
    shutil.copy(example, tmp_path)
    words = ("envs", "check", "my/Env-v0", "--import", "my_env", "--quick")
    done = run(tmp_path, "-m", "palaestra", *words)
    assert done.code == 0, done.out + done.err


def test_my_env_trains_by_import_and_its_curve_is_drawn(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "my_env.py", tmp_path)
    words = ("--import", "my_env", "--env.id", "my/Env-v0", "--train.iterations", "2")
    done = run(tmp_path, "-m", "palaestra", "train", *words, "--run", "mine")
    assert done.code == 0, done.err
    assert len((tmp_path / "mine" / "metrics.jsonl").read_text().splitlines()) == 2
    plot = ROOT / "benchmarks" / "plot_default.py"
    drawn = run(tmp_path, str(plot), "mine", "--out", "curve.png")
    assert drawn.code == 0, drawn.err
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_my_env_trains_from_an_installed_package(tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "cups-0.1.dist-info"
    info.mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "my_env.py", site / "cups.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cups\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[palaestra.envs]\ncups = cups\n")
    listed = run(tmp_path, "-m", "palaestra", "envs", "list", "my/", path=site)
    assert "my/Env-v0" in listed.out, listed.err
    assert "plug-in cups" in listed.out
    words = ("train", "--env.id", "my/Env-v0", "--train.iterations", "2", "--run", "mine")
    done = run(tmp_path, "-m", "palaestra", *words, path=site)
    assert done.code == 0, done.err
    assert (tmp_path / "mine" / "checkpoints").is_dir()
