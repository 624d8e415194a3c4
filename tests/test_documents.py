"""What the documents tell a reader to type works.

Every fenced block of README.md, CONTRIBUTING.md and docs/*.md is run, in the order of the page and in one folder per page:
`python` in one namespace, `sql` on one database in memory, `sh` line by line: `khonsu …` runs, `make target` must be a target,
`.ci/run` must be there. A block that is not to be run is `text` or has no language.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import khonsu_sql
from khonsu_sql.cli.scanner import split

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = {"python", "sql", "sh"}
SHOWN = {"", "text", "toml", "ini"}


class Block(NamedTuple):
    """`line`: of its first line in the page."""

    language: str
    line: int
    text: str


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(found[1], text.count("\n", 0, found.start(2)) + 1, found[2])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_works(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(blocks(page.read_text()))
    assert {block.language for block in found} <= RUN | SHOWN
    namespace: dict[str, object] = {"__name__": "page"}
    with khonsu_sql.connect(autocommit=True) as connection:
        for block in found:
            run(block, page, namespace, connection)


def run(block: Block, page: Path, namespace: dict[str, object], connection: khonsu_sql.Connection) -> None:
    match block.language:
        case "python":
            source = "\n" * (block.line - 1) + block.text  # so that a traceback names the line of the page
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source, str(page), "exec", dont_inherit=True), namespace)
        case "sql":
            for statement in split(block.text):
                connection.execute(statement).close()
        case "sh":
            for line in block.text.splitlines():
                run_command(line.split("#")[0].strip())


def run_command(command: str) -> None:
    if not command:
        return
    first, *words = command.split()
    if first == "khonsu":
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "engine")))}
        shell = (
            f'khonsu() {{ "{sys.executable}" -c "import sys; from khonsu_sql.cli.main import main; sys.exit(main())" "$@"; }}; {command}'
        )
        done = subprocess.run(["bash", "-c", shell], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0 and not done.stderr, f"{command}: {done.stderr}"
    elif first == "make":
        assert words[0] in targets(), f"{command}: the Makefile has no such target"
    else:
        assert command == ".ci/run" and shutil.which(str(ROOT / ".ci" / "run")), f"{command}: nobody knows how to run that here"


def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_blocks_are_found_with_their_lines() -> None:
    page = "Text\n\n```python\na = 1\n```\nmore\n```\nshown\n```\n"
    assert list(blocks(page)) == [Block("python", 4, "a = 1\n"), Block("", 8, "shown\n")]
    assert {"demo", "test", "bench", "lint"} <= targets()


@pytest.mark.parametrize("command", ["make nonsense", "rm -rf /", "khonsu --nonsense"])
def test_a_command_that_does_not_work_is_noticed(command: str) -> None:
    with pytest.raises(AssertionError):
        run_command(command)


def test_pages_link_to_what_exists() -> None:
    missing = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert missing == []
