"""Anomalies and acceptance stories at every level and mode; see `hermitage`. What the product refuses is skipped with its own words."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest

from khonsu_engine.mvcc import validation
from khonsu_sql.errors import Error
from khonsu_sql.requests import End, Execute
from tests.interleavings.harness import (
    BY_DEFAULT,
    CONFIGURATIONS,
    LEVELS,
    OPTIMISTIC,
    REPEATABLE_READ,
    SERIALIZABLE,
    Configuration,
    Session,
    Stage,
)
from tests.interleavings.hermitage import (
    BEGIN_MARKER,
    CASES,
    EITHER,
    ELSEWHERE,
    END_MARKER,
    POSSIBLE,
    PREVENTED,
    STORIES,
    TWO_ROWS,
    Outcome,
    Story,
    Theatre,
    acts,
    markdown,
    play_case,
    play_story,
    verdict,
)

ROOT = Path(__file__).resolve().parents[2]

LEVEL_CASES = [pytest.param(configuration, id=configuration.name) for configuration in CONFIGURATIONS]


@pytest.mark.parametrize("configuration", LEVEL_CASES)
@pytest.mark.parametrize("name", CASES)
def test_anomaly(name: str, configuration: Configuration) -> None:
    case = CASES[name]
    outcome = play_case(case, configuration)
    expected = case.expected(configuration.level)
    found = verdict(case, outcome)
    assert expected == EITHER or found.startswith(expected), f"{name} at {configuration.name} is {found}\n{case.script}\n{outcome}"
    if found.startswith(PREVENTED) and not configuration.locks:
        assert not outcome.waited, "nobody waits without locks"


@pytest.mark.parametrize("configuration", LEVEL_CASES)
@pytest.mark.parametrize("story", [pytest.param(story, id=f"{story.number}: {story.title}") for story in STORIES])
def test_story(story: Story, configuration: Configuration) -> None:
    outcome = play_story(story, configuration)
    if outcome.refused is not None:
        assert story.needs, f"refused, though the story needs nothing new: {outcome.refused}"
        pytest.skip(f"needs {story.needs}: {outcome.refused}")
    differences = story.expects(configuration).differences(outcome)
    assert not differences, f"{differences}\n{configuration.name}\n{story.script}\n{outcome}"


@pytest.mark.parametrize("number", ELSEWHERE)
def test_a_story_without_a_script(number: str) -> None:
    pytest.skip(f"acceptance story {number}: {ELSEWHERE[number]}")


def test_all_eighteen_are_accounted_for() -> None:
    assert {story.number for story in STORIES} | set(ELSEWHERE) == {str(number) for number in range(1, 19)}
    assert not {story.number for story in STORIES} & set(ELSEWHERE)


def test_the_table_of_stories_names_what_exists() -> None:
    text = (ROOT / "tests" / "scripts" / "README.md").read_text().partition("## The acceptance stories")[2]
    rows = re.findall(r"^\| (\d+) .*$", text, re.MULTILINE)
    assert rows == [str(number) for number in range(1, 19)]
    for name in set(re.findall(r"`([\w/]+\.\w+)`", text)):
        places = (ROOT / name, ROOT / "tests" / "scripts" / name, ROOT / "tests" / "interleavings" / name)
        assert any(place.exists() for place in places), name


# --- story 10: increments with retry


@pytest.mark.parametrize("configuration", LEVEL_CASES)
@pytest.mark.parametrize("seed", range(3))
def test_every_increment_counts(configuration: Configuration, seed: int) -> None:
    """Four sessions with five increments each, in a drawn order, each again until it commits."""
    random = Random(seed)
    stage = Stage()
    stage.manager.run("INSERT INTO s VALUES (1, 0)")
    workers = [Worker(stage, configuration) for _ in range(4)]
    while live := [worker for worker in workers if worker.left]:
        able = [worker for worker in live if worker.session.ready()] or [worker for worker in live if worker.session.ready(1.0)]
        assert able, "everybody waits and nobody is told"
        random.choice(able).advance()
    assert stage.manager.run("SELECT n FROM s WHERE k = 1") == [(20,)]
    assert configuration.locks or sum(worker.retries for worker in workers) > 0, "they must have met"
    stage.close()


class Worker:
    """One session that increments the row until it has done so five times."""

    def __init__(self, stage: Stage, configuration: Configuration) -> None:
        self.session: Session = stage.session()
        self.begin = configuration.begin
        self.left = 5
        self.step = self.retries = 0

    def advance(self) -> None:
        if self.session.waiting is None and self.step == 0:
            self.session.run(self.begin)
        request = None
        if self.session.waiting is None:
            request = (Execute("SELECT n FROM s WHERE k = 2"), Execute("UPDATE s SET n = n + 1 WHERE k = 1"), End(commit=True))[self.step]
        try:
            result = self.session.ask(request)
        except Error as error:
            assert error.sqlstate in ("40001", "40P01") and error.retryable
            self.session.give_up()
            self.step = 0
            self.retries += 1
            return
        if result is not None:
            self.step = (self.step + 1) % 3
            self.left -= self.step == 0


# --- the table, and the players themselves


DOCUMENT = ROOT / "docs" / "isolation.md"


def test_the_table_of_the_document(request: pytest.FixtureRequest) -> None:
    """docs/isolation.md shows what was played just now. `--rewrite` writes it there; read the diff."""
    made = markdown()
    lines = made.splitlines()
    assert (lines[0], lines[-1]) == (BEGIN_MARKER, END_MARKER)
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 1 + len(CASES) and {row.count(" | ") for row in rows} == {1 + len(LEVELS)}
    text = DOCUMENT.read_text()
    begin, end = text.index(BEGIN_MARKER), text.index(END_MARKER) + len(END_MARKER)
    if text[begin:end] != made and request.config.getoption("--rewrite"):
        DOCUMENT.write_text(text[:begin] + made + text[end:])
        return
    assert text[begin:end].splitlines() == lines, "pytest tests/interleavings/test_hermitage.py -k document --rewrite"


def outcome(**changes: object) -> Outcome:
    return Outcome({}, {"a": "ok", "b": "ok"}, False, None, {})._replace(**changes)


HAPPENED = {
    "G0": outcome(final={1: 12, 2: 21}),
    "G1a": outcome(answers={"before": [(101,)]}),
    "G1b": outcome(answers={"after": [(101,)]}),
    "G1c": outcome(answers={"theirs": [(22,)]}),
    "OTV": outcome(answers={"first": [(12,)], "second": [(19,)], "third": [(18,)], "fourth": [(12,)]}),
    "lost increment": outcome(final={1: 11, 2: 20}),
    "PMP": outcome(answers={"before": [(0,)], "after": [(1,)]}),
    "PMP for write predicates": outcome(final={1: 20, 2: 30}),
    "G-single": outcome(answers={"before": [(10,)], "after": [(18,)]}),
    "G-single with dependencies": outcome(answers={"before": [(2,)], "after": [(1,)]}),
    "P4": outcome(),
    "G-single for write predicates": outcome(),
}
"""What the anomalies that no level lets through today would look like. The others happen at REPEATABLE READ: see the table."""


@pytest.mark.parametrize("name", CASES)
def test_an_anomaly_is_recognised(name: str) -> None:
    case = CASES[name]
    if name in HAPPENED:
        assert verdict(case, HAPPENED[name]) == POSSIBLE
    else:
        assert verdict(case, play_case(case, Configuration(REPEATABLE_READ, MODE))) == POSSIBLE


MODE = OPTIMISTIC if any(configuration.mode == OPTIMISTIC for configuration in CONFIGURATIONS) else BY_DEFAULT

BREAKS = {
    "lost increment": ("_write_conflict", REPEATABLE_READ),
    "P4": ("_write_conflict", REPEATABLE_READ),
    "G2-item": ("_predicate_conflict", SERIALIZABLE),
    "G2": ("_predicate_conflict", SERIALIZABLE),
    "G2 with two edges": ("_predicate_conflict", SERIALIZABLE),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_product_lets_it_happen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, level = BREAKS[name]
    assert verdict(CASES[name], play_case(CASES[name], Configuration(level, MODE))) == "prevented: conflict"
    monkeypatch.setattr(validation, function, lambda *_: None)
    assert verdict(CASES[name], play_case(CASES[name], Configuration(level, MODE))) == POSSIBLE


def test_scripts_are_read() -> None:
    assert [tuple(act) for act in acts("\n x: a> SELECT 1\n  b> COMMIT\n")] == [("x", "a", "SELECT 1"), (None, "b", "COMMIT")]
    with pytest.raises(AssertionError, match="not a step"):
        acts("SELECT 1")


def test_a_refusal_is_kept() -> None:
    played = Theatre(CONFIGURATIONS[0], TWO_ROWS, {}).play("a> LISTEN to_me\na> COMMIT")
    assert played.refused is not None and played.refused.startswith("0A000")
    played = Theatre(CONFIGURATIONS[0], ("CREATE DOMAIN d AS INTEGER",), {}).play("a> SELECT 1")
    assert played.refused is not None and played.ends == {}
