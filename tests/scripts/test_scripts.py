"""Plays every story of this folder, in memory and in a directory, at every level it names.

In a directory the story ends with one step more: the database is closed and opened again, and every table must be what it was.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from tests.scripts.stories import LEVELS, FormatError, Stage, Step, Story, agrees, parse, render

HERE = Path(__file__).parent
FILES = sorted(path for path in HERE.rglob("*.txt"))


def cases() -> list[object]:
    found = []
    for path in FILES:
        for number, story in enumerate(parse(path)[1]):
            for level in story.levels:
                for place in ("directory",) if story.durable_only else ("memory", "directory"):
                    name = f"{path.relative_to(HERE).with_suffix('')}:{story.title}"
                    suffix = f"{place}-{level}" if len(story.levels) > 1 else place
                    found.append(pytest.param(path, number, level, place, id=f"{name}[{suffix}]"))
    return found


@pytest.mark.parametrize(("path", "number", "level", "place"), cases())
def test_story(path: Path, number: int, level: str, place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    story = parse(path)[1][number]
    stage = Stage(str(tmp_path / "story.khonsu") if place == "directory" else f":memory:{tmp_path.name}", level)
    stage.connection("the end")  # a named memory database lives as long as somebody has it open
    try:
        observed = stage.play(story)
        if all(agrees(step.expected, answer) for step, answer in zip(story.steps, observed, strict=True)):
            check_reopened(stage, story, place)
        elif request.config.getoption("--rewrite"):
            rewrite(path, number, observed)
        else:
            pytest.fail(difference(story, observed), pytrace=False)
    finally:
        stage.close()


def check_reopened(stage: Stage, story: Story, place: str) -> None:
    """What everybody can see now is what the next open finds: from the log, and then from segments."""
    if place == "directory":
        before = stage.contents(story)
        stage.close()
        assert stage.contents(story) == before
        stage.connection("the end").checkpoint()
        assert stage.contents(story) == before
        stage.close()
        assert stage.contents(story) == before


def difference(story: Story, observed: list[list[str]]) -> str:
    expected = [line for part in story.parts for line in ([*part.text, *part.expected] if isinstance(part, Step) else [part])]
    before, after = [f"=== {story.title}", *expected], render(story, observed)
    return "\n".join(difflib.unified_diff(before, after, "expected", "observed", lineterm="", n=5))


def rewrite(path: Path, number: int, observed: list[list[str]]) -> None:
    preamble, stories = parse(path)
    lines = list(preamble)
    for place, story in enumerate(stories):
        lines += render(story, observed if place == number else [step.expected for step in story.steps])
    path.write_text("\n".join(lines) + "\n")


# --- the runner itself


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(text)
    return path


SMALL = """# A comment before everything.
=== A story
levels: serializable, repeatable read, read committed

a> CREATE TABLE t (x INTEGER,
  y INTEGER);
# in between
b(names)> SELECT ? AS one;
with (1,)
one
1
! reopen
"""


def test_parsing_keeps_every_line(tmp_path: Path) -> None:
    preamble, (story,) = parse(written(tmp_path, SMALL))
    assert story.levels == LEVELS and story.durable_only
    assert [step.verb for step in story.steps] == ["execute", "execute", "reopen"]
    assert story.steps[0].sql == "CREATE TABLE t (x INTEGER,\n  y INTEGER);"
    assert story.steps[1].expected == ["one", "1"] and story.steps[1].parameters == "(1,)"
    assert "\n".join([*preamble, *render(story, [["ok"], ["one", "1"], ["ok"]])]) + "\n" == SMALL


def test_rewriting_changes_only_what_differs(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL)
    rewrite(path, 0, [["ok"], ["one", "2"], ["ok"]])
    assert path.read_text() == SMALL.replace("\n1\n", "\n2\n")


@pytest.mark.parametrize(
    ("expected", "observed", "verdict"),
    [
        ([], ["ok"], True),
        ([], ["error 42601 ~ no"], False),
        (["1 row"], ["2 rows"], False),
        (["error 40001"], ["error 40001 ~ whatever it says"], True),
        (["error 40001"], ["error 40002 ~ whatever it says"], False),
        (["error 40001 ~ Says ~ what"], ["error 40001 ~ whatever it says"], True),
        (["error 40001 ~ nothing"], ["error 40001 ~ whatever it says"], False),
        (["error 40001"], ["ok"], False),
        (["1 row || error 40001"], ["1 row"], True),
        (["1 row || error 40001"], ["error 40001 ~ x"], True),
        (["1 row || error 40001"], ["2 rows"], False),
        (["1", "2"], ["1"], False),
    ],
)
def test_agreement(expected: list[str], observed: list[str], verdict: bool) -> None:
    assert agrees(expected, observed) is verdict


@pytest.mark.parametrize("text", ["=== s\nwhat is this\n", "=== s\na> SELECT 1\n", "=== s\n! dance\n", "=== s\nlevels: chaos\n"])
def test_a_file_in_another_format_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(FormatError):
        parse(written(tmp_path, text))
