"""Known anomalies and the acceptance stories of the design as schedules, played by `harness` at every level and mode.

An anomaly is a `Case`: a script, and a function that says of the outcome whether it happened. The names are those of Martin Kleppmann's
Hermitage, after Adya's (1999) phenomena; the scripts are our own, from the definitions. A `Story` says how its sessions end, and what
they read, per level and mode. `python -m tests.interleavings.hermitage` prints the table *anomaly × level* as it was played; docs/isolation.md shows it.

A script has one step per line, `label: session> SQL`, the label only where an answer is asked for. A session's first step begins its
transaction; `close` closes it as it is; a session that failed does nothing more. `{revision}` is the last commit before the script. A step whose session waits is taken when it can be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from khonsu_engine import lock_waiter
from khonsu_sql.errors import Error
from khonsu_sql.requests import End, Execute, Request
from tests.interleavings.harness import (
    CONFIGURATIONS,
    DEADLOCK,
    LEVELS,
    OPTIMISTIC,
    PATIENCE_SECONDS,
    PESSIMISTIC,
    READ_COMMITTED,
    REFUSED,
    REPEATABLE_READ,
    SERIALIZABLE,
    SERIALIZATION_FAILURE,
    Configuration,
    Session,
    Stage,
    Undetected,
    answer_of,
    is_refused,
)

LINE = re.compile(r"(?:(?P<label>\w+): )?(?P<session>\w+)> (?P<sql>.+)")

TWO_ROWS = ("CREATE TABLE r (k INTEGER PRIMARY KEY, n INTEGER)", "INSERT INTO r VALUES (1, 10), (2, 20)")


class Act(NamedTuple):
    label: str | None
    session: str
    sql: str


class Outcome(NamedTuple):
    """`answers`: by label, of the steps that were taken without an error. `ends`: per session "ok", "gone", or the SQLSTATE it failed with.

    `refused`: what the product does not know yet, in its words. `final`: the rows of `r` in the end, by their key."""

    answers: Mapping[str, Any]
    ends: Mapping[str, str]
    waited: bool
    refused: str | None
    final: Mapping[int, Any]

    def one(self, label: str) -> Any:
        """The value, if there was one row of one column; None otherwise."""
        rows = self.answers.get(label)
        return rows[0][0] if isinstance(rows, list) and len(rows) == 1 and len(rows[0]) == 1 else None

    def committed(self, *sessions: str) -> bool:
        return all(self.ends[session] == "ok" for session in sessions)

    @property
    def how(self) -> str:
        """What kept the sessions apart."""
        ends = set(self.ends.values())
        seen = (("waits", self.waited), ("deadlock", DEADLOCK in ends), ("conflict", SERIALIZATION_FAILURE in ends))
        return ", ".join(word for word, happened in seen if happened) or "snapshot"


def acts(script: str) -> list[Act]:
    found = []
    for line in filter(str.strip, script.splitlines()):
        match = LINE.fullmatch(line.strip())
        assert match is not None, f"not a step: {line!r}"
        found.append(Act(match["label"], match["session"], match["sql"]))
    return found


class Theatre:
    """One script on a database of its own. `begins`: what a session says instead of BEGIN, after the level and the mode."""

    def __init__(self, configuration: Configuration, setup: tuple[str, ...], begins: Mapping[str, str]) -> None:
        self.configuration = configuration
        self.begins = begins
        self.stage = Stage()
        self.sessions: dict[str, Session] = {}
        self.current: dict[str, Act] = {}
        self.answers: dict[str, Any] = {}
        self.ends: dict[str, str] = {}
        self.waited = False
        self.refused: str | None = None
        try:
            for sql in setup:
                self.stage.manager.run(sql)
        except Error as error:
            self.refuse(error)

    def refuse(self, error: Error) -> None:
        self.refused = self.refused or f"{error.sqlstate} {error.message}"

    def play(self, script: str) -> Outcome:
        """Every step as soon as its turn has come and its session does not wait. Raises Undetected."""
        script = script.replace("{revision}", str(self.stage.database.metrics["commits"]))
        try:
            queue = acts(script) if self.refused is None else []
            self.ends = dict.fromkeys((act.session for act in queue), "open")
            while queue or self.blocked():
                name = next((name for name in self.blocked() if self.sessions[name].ready()), None)
                act = None if name is not None else next((act for act in queue if act.session not in self.blocked()), None)
                if act is not None:
                    queue.remove(act)
                    self.start(act)
                else:
                    self.go_on(name or self.woken(script))
            final = {} if self.refused else {row[0]: row[1] if len(row) == 2 else row[1:] for row in self.contents()}
            return Outcome(self.answers, self.ends, self.waited, self.refused, final)
        finally:
            for session in self.sessions.values():
                session.core.close()
            self.stage.close()

    def contents(self) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.stage.manager.run("SELECT * FROM r")
        return found

    def blocked(self) -> list[str]:
        return [name for name, session in self.sessions.items() if session.waiting is not None]

    def woken(self, script: str) -> str:
        for name in self.blocked():
            if self.sessions[name].ready(PATIENCE_SECONDS):
                return name
        raise Undetected(f"{self.configuration.name}: everybody waits and nobody is told\n{script}")

    def start(self, act: Act) -> None:
        if self.ends[act.session] != "open":
            return
        session = self.sessions.get(act.session)
        try:
            if session is None:
                session = self.sessions[act.session] = self.stage.session()
                session.run(f"{self.configuration.begin} {self.begins.get(act.session, '')}".rstrip())
        except Error as error:
            self.fail(act, error)
            return
        self.current[act.session] = act
        if act.sql == "close":
            session.core.close()
            self.ends[act.session] = "gone"
        else:
            self.ask(act, session, End(commit=act.sql == "COMMIT") if act.sql in ("COMMIT", "ROLLBACK") else Execute(act.sql))

    def go_on(self, name: str) -> None:
        self.ask(self.current[name], self.sessions[name], None)

    def ask(self, act: Act, session: Session, request: Request | None) -> None:
        try:
            result = session.ask(request)
        except Error as error:
            self.fail(act, error)
            return
        self.waited |= session.waited
        if result is None:
            return
        if act.label is not None:
            self.answers[act.label] = answer_of(result)
        if act.sql in ("COMMIT", "ROLLBACK"):
            self.ends[act.session] = "ok" if act.sql == "COMMIT" else "gone"

    def fail(self, act: Act, error: Error) -> None:
        self.ends[act.session] = error.sqlstate
        if is_refused(error.sqlstate):
            self.refuse(error)
        session = self.sessions[act.session]
        self.waited |= session.waited
        session.give_up()


# --- anomalies

PREVENTED, POSSIBLE, EITHER = "prevented", "possible", "either"


class Case(NamedTuple):
    """`happened`: was there the anomaly? `from_level`: the weakest level that forbids it; `below`: what is expected of weaker ones."""

    title: str
    from_level: str
    script: str
    happened: Callable[[Outcome], bool]
    below: str = POSSIBLE

    def expected(self, level: str) -> str:
        strength = (READ_COMMITTED, REPEATABLE_READ, SERIALIZABLE)
        return PREVENTED if strength.index(level) >= strength.index(self.from_level) else self.below


def rises(outcome: Outcome) -> bool:
    """OTV's reader never goes back behind a transaction it has seen."""
    rank = {11: 1, 19: 1, 12: 2, 18: 2}
    seen = [rank.get(outcome.one(label), 0) for label in ("first", "second", "third", "fourth")]
    return seen == sorted(seen)


CASES: dict[str, Case] = {
    "G0": Case(
        "dirty write: two transactions' writes are mixed",
        READ_COMMITTED,
        """
        a> UPDATE r SET n = 11 WHERE k = 1
        b> UPDATE r SET n = 12 WHERE k = 1
        a> UPDATE r SET n = 21 WHERE k = 2
        a> COMMIT
        b> UPDATE r SET n = 22 WHERE k = 2
        b> COMMIT
        """,
        lambda outcome: outcome.final not in ({1: 11, 2: 21}, {1: 12, 2: 22}),
    ),
    "G1a": Case(
        "aborted read: of something that is rolled back",
        READ_COMMITTED,
        """
        a> UPDATE r SET n = 101 WHERE k = 1
        before: b> SELECT n FROM r WHERE k = 1
        a> ROLLBACK
        after: b> SELECT n FROM r WHERE k = 1
        b> COMMIT
        """,
        lambda outcome: 101 in (outcome.one("before"), outcome.one("after")),
    ),
    "G1b": Case(
        "intermediate read: of something that is overwritten before its COMMIT",
        READ_COMMITTED,
        """
        a> UPDATE r SET n = 101 WHERE k = 1
        before: b> SELECT n FROM r WHERE k = 1
        a> UPDATE r SET n = 11 WHERE k = 1
        a> COMMIT
        after: b> SELECT n FROM r WHERE k = 1
        b> COMMIT
        """,
        lambda outcome: 101 in (outcome.one("before"), outcome.one("after")),
    ),
    "G1c": Case(
        "circular information flow: each sees what the other has not committed",
        READ_COMMITTED,
        """
        a> UPDATE r SET n = 11 WHERE k = 1
        b> UPDATE r SET n = 22 WHERE k = 2
        theirs: a> SELECT n FROM r WHERE k = 2
        ours: b> SELECT n FROM r WHERE k = 1
        a> COMMIT
        b> COMMIT
        """,
        lambda outcome: outcome.one("theirs") == 22 or outcome.one("ours") == 11,
    ),
    "OTV": Case(
        "an observed transaction vanishes",
        READ_COMMITTED,
        """
        a> UPDATE r SET n = 11 WHERE k = 1
        a> UPDATE r SET n = 19 WHERE k = 2
        b> UPDATE r SET n = 12 WHERE k = 1
        a> COMMIT
        first: c> SELECT n FROM r WHERE k = 1
        b> UPDATE r SET n = 18 WHERE k = 2
        second: c> SELECT n FROM r WHERE k = 2
        b> COMMIT
        third: c> SELECT n FROM r WHERE k = 2
        fourth: c> SELECT n FROM r WHERE k = 1
        c> COMMIT
        """,
        lambda outcome: not rises(outcome),
    ),
    "lost increment": Case(
        "of two `n = n + 1` one counts",
        READ_COMMITTED,
        """
        a> UPDATE r SET n = n + 1 WHERE k = 1
        b> UPDATE r SET n = n + 1 WHERE k = 1
        a> COMMIT
        b> COMMIT
        """,
        lambda outcome: outcome.final[1] != 10 + list(outcome.ends.values()).count("ok"),
    ),
    "PMP": Case(
        "predicate-many-preceders: a search finds what an earlier one did not",
        REPEATABLE_READ,
        """
        before: a> SELECT count(*) FROM r WHERE n = 30
        b> INSERT INTO r VALUES (3, 30)
        b> COMMIT
        after: a> SELECT count(*) FROM r WHERE n % 3 = 0
        a> COMMIT
        """,
        lambda outcome: (outcome.one("before"), outcome.one("after")) == (0, 1),
    ),
    "PMP for write predicates": Case(
        "a DELETE meets other rows than the search before it",
        REPEATABLE_READ,
        """
        a> UPDATE r SET n = n + 10
        b> SELECT k FROM r WHERE n = 20
        b> DELETE FROM r WHERE n = 20
        a> COMMIT
        b> COMMIT
        """,
        lambda outcome: outcome.committed("a", "b") and outcome.final != {1: 20},
        EITHER,
    ),
    "P4": Case(
        "lost update: both read, both write what they make of it",
        REPEATABLE_READ,
        """
        a> SELECT n FROM r WHERE k = 1
        b> SELECT n FROM r WHERE k = 1
        a> UPDATE r SET n = 11 WHERE k = 1
        b> UPDATE r SET n = 11 WHERE k = 1
        a> COMMIT
        b> COMMIT
        """,
        lambda outcome: outcome.committed("a", "b"),
        EITHER,
    ),
    "G-single": Case(
        "read skew: one row before, the other after somebody's COMMIT",
        REPEATABLE_READ,
        """
        before: a> SELECT n FROM r WHERE k = 1
        b> UPDATE r SET n = 12 WHERE k = 1
        b> UPDATE r SET n = 18 WHERE k = 2
        b> COMMIT
        after: a> SELECT n FROM r WHERE k = 2
        a> COMMIT
        """,
        lambda outcome: (outcome.one("before"), outcome.one("after")) == (10, 18),
    ),
    "G-single with dependencies": Case(
        "read skew between two searches",
        REPEATABLE_READ,
        """
        before: a> SELECT count(*) FROM r WHERE n % 5 = 0
        b> UPDATE r SET n = 12 WHERE n = 10
        b> COMMIT
        after: a> SELECT count(*) FROM r WHERE n % 3 = 0
        a> COMMIT
        """,
        lambda outcome: (outcome.one("before"), outcome.one("after")) == (2, 1),
    ),
    "G-single for write predicates": Case(
        "read skew between a SELECT and a DELETE",
        REPEATABLE_READ,
        """
        a> SELECT n FROM r WHERE k = 1
        b> UPDATE r SET n = 12 WHERE k = 1
        b> UPDATE r SET n = 18 WHERE k = 2
        b> COMMIT
        a> DELETE FROM r WHERE n = 20
        a> COMMIT
        """,
        lambda outcome: outcome.committed("a", "b"),
    ),
    "G2-item": Case(
        "write skew: both read both rows, each writes one",
        SERIALIZABLE,
        """
        a> SELECT n FROM r WHERE k BETWEEN 1 AND 2
        b> SELECT n FROM r WHERE k BETWEEN 1 AND 2
        a> UPDATE r SET n = 11 WHERE k = 1
        b> UPDATE r SET n = 21 WHERE k = 2
        a> COMMIT
        b> COMMIT
        """,
        lambda outcome: outcome.committed("a", "b"),
    ),
    "G2": Case(
        "phantoms: both search, each inserts what the other would have found",
        SERIALIZABLE,
        """
        a> SELECT k FROM r WHERE n % 3 = 0
        b> SELECT k FROM r WHERE n % 3 = 0
        a> INSERT INTO r VALUES (3, 30)
        b> INSERT INTO r VALUES (4, 42)
        a> COMMIT
        b> COMMIT
        """,
        lambda outcome: outcome.committed("a", "b"),
    ),
    "G2 with two edges": Case(
        "the read-only anomaly (Fekete, O'Neil, O'Neil 2004)",
        SERIALIZABLE,
        """
        a> SELECT k, n FROM r
        b> UPDATE r SET n = n + 5 WHERE k = 2
        b> COMMIT
        c> SELECT k, n FROM r
        c> COMMIT
        a> UPDATE r SET n = 0 WHERE k = 1
        a> COMMIT
        """,
        lambda outcome: outcome.committed("a", "b", "c"),
    ),
}


def play_case(case: Case, configuration: Configuration) -> Outcome:
    return Theatre(configuration, TWO_ROWS, {}).play(case.script)


def verdict(case: Case, outcome: Outcome) -> str:
    """`prevented: how`, or `possible`."""
    assert outcome.refused is None, outcome.refused
    return POSSIBLE if case.happened(outcome) else f"{PREVENTED}: {outcome.how}"


BEGIN_MARKER, END_MARKER = "<!-- anomalies: made by python -m tests.interleavings.hermitage -->", "<!-- anomalies: end -->"


PATIENT_SECONDS = 1.0
"""Patience of soft requests while the table is made: a loaded machine must not change it. Less than PATIENCE_SECONDS."""


def markdown() -> str:
    """The table *anomaly × level*, as played now, between its two markers; where the modes of a level differ, each says its own."""
    patience, lock_waiter.PATIENCE_SECONDS = lock_waiter.PATIENCE_SECONDS, PATIENT_SECONDS
    try:
        rows = [[name, case.title, *(cell(case, level) for level in LEVELS)] for name, case in CASES.items()]
    finally:
        lock_waiter.PATIENCE_SECONDS = patience
    heads = ["anomaly", "what happens", *LEVELS]
    lines = [BEGIN_MARKER, f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *(f"| {' | '.join(row)} |" for row in rows)]
    if REFUSED:
        lines += ["", *(f"Not played: {name} ({reason})." for name, reason in REFUSED.items())]
    return "\n".join([*lines, END_MARKER])


def cell(case: Case, level: str) -> str:
    """What came of it: the word for all modes, or each word with its modes."""
    modes: dict[str, list[str]] = {}
    for configuration in CONFIGURATIONS:
        if configuration.level == level:
            found = verdict(case, play_case(case, configuration))
            modes.setdefault(found.removeprefix(f"{PREVENTED}: "), []).append(configuration.mode)
    said = {word: f"**{word}**" if word == POSSIBLE else word for word in modes}
    if len(modes) == 1:
        return next(iter(said.values()))
    return "; ".join(f"{said[word]} ({', '.join(names)})" for word, names in modes.items())


# --- the acceptance stories

WITH_LOCKS = "with locks"


class Expected(NamedTuple):
    """`ends`: "a ok, b 40001/40P01". `answers`: by label. `final`: the rows in the end. `check`: whatever else must hold."""

    ends: str = ""
    answers: Mapping[str, Any] = {}
    final: Mapping[int, Any] | None = None
    check: Callable[[Outcome], bool] | None = None

    def differences(self, outcome: Outcome) -> list[str]:
        found = []
        for part in filter(None, self.ends.split(", ")):
            session, wanted = part.split()
            if outcome.ends[session] not in wanted.split("/"):
                found.append(f"{session} ended with {outcome.ends[session]}, not {wanted}")
        for label, value in self.answers.items():
            if outcome.answers.get(label) != value:
                found.append(f"{label} answered {outcome.answers.get(label)}, not {value}")
        if self.final is not None and outcome.final != self.final:
            found.append(f"the rows are {outcome.final}, not {self.final}")
        if self.check is not None and not self.check(outcome):
            found.append("what must hold does not")
        return found


class Story(NamedTuple):
    """`number`: of the acceptance story. `expected`: by (level, mode), (level, WITH_LOCKS), level, mode, WITH_LOCKS or "", the first that is there.

    `needs`: what it uses that the product may not have yet: then a refusal is a reason to skip it. `only`: the modes it is about."""

    number: str
    title: str
    script: str
    expected: Mapping[Any, Expected]
    setup: tuple[str, ...] = TWO_ROWS
    begins: Mapping[str, str] = {}
    needs: str = ""
    only: tuple[str, ...] = ()

    def expects(self, configuration: Configuration) -> Expected:
        level, mode = configuration
        locks = [(level, WITH_LOCKS)] if configuration.locks else []
        keys = [(level, mode or OPTIMISTIC), *locks, level, mode or OPTIMISTIC, *([WITH_LOCKS] if locks else []), ""]
        return next(self.expected[key] for key in keys if key in self.expected)


def play_story(story: Story, configuration: Configuration) -> Outcome:
    return Theatre(configuration, story.setup, story.begins).play(story.script)


def not_both(outcome: Outcome) -> bool:
    return list(outcome.ends.values()).count("ok") == 1


def someone(outcome: Outcome) -> bool:
    return "ok" in outcome.ends.values()


ONE_WINS = Expected(check=not_both)
BOTH = Expected("a ok, b ok")
SKEW = {"": ONE_WINS, REPEATABLE_READ: BOTH, READ_COMMITTED: BOTH}
"""Only SERIALIZABLE forbids it."""

ACCOUNTS = ("CREATE TABLE r (k INTEGER PRIMARY KEY, n INTEGER)", "INSERT INTO r VALUES (1, 500), (2, 500)")
UNIQUE_ROWS = ("CREATE TABLE r (k INTEGER PRIMARY KEY, n INTEGER UNIQUE)", "INSERT INTO r VALUES (1, 10), (2, 20)")
FAMILY = (
    "CREATE TABLE r (k INTEGER PRIMARY KEY, n INTEGER)",
    "CREATE TABLE c (k INTEGER PRIMARY KEY, r INTEGER REFERENCES r (k))",
    "INSERT INTO r VALUES (1, 10), (2, 20)",
)
WIDE = ("CREATE TABLE r (k INTEGER PRIMARY KEY, n INTEGER, m INTEGER)", "INSERT INTO r VALUES (1, 10, 0), (2, 20, 0)")

COLLIDING = """
a> UPDATE r SET n = 11 WHERE k = 1
a> UPDATE r SET n = 21 WHERE k = 2
b> UPDATE r SET m = 5 WHERE k = 1
b> COMMIT
a> COMMIT
"""


def colliding(policy: str, final: Mapping[int, Any], ends: str = "a ok, b ok") -> Story:
    """Two keys, of which one collides. At SERIALIZABLE a policy acts only on what was not read, and else the transaction aborts."""
    strict = Expected("a ok/40001, b ok", check=lambda outcome: not outcome.committed("a") or outcome.final == final)
    return Story(
        "9",
        f"{policy}: of two keys one collides",
        COLLIDING,
        {
            "": Expected(ends, final=final),
            (SERIALIZABLE, WITH_LOCKS): Expected(check=someone),
            SERIALIZABLE: strict,
            READ_COMMITTED: Expected(check=someone),
            WITH_LOCKS: Expected(check=someone),
        },
        WIDE,
        {} if policy == "FAIL" else {"a": f"ON CONFLICT {policy}"},
        "" if policy == "FAIL" else "conflict policies",
    )


STORIES: tuple[Story, ...] = (
    Story(
        "1",
        "a reader beside a writer: the old value throughout, and it commits",
        """
        first: b> SELECT n FROM r WHERE k = 1
        a> UPDATE r SET n = 11 WHERE k = 1
        a> COMMIT
        second: b> SELECT n FROM r WHERE k = 1
        third: b> SELECT n FROM r
        b> COMMIT
        """,
        {
            "": Expected("a ok, b ok", {"first": [(10,)], "second": [(10,)], "third": [(10,), (20,)]}),
            READ_COMMITTED: Expected("a ok, b ok", {"first": [(10,)], "second": [(11,)], "third": [(11,), (20,)]}),
        },
    ),
    Story(
        "1",
        "had it written anything: conflict",
        """
        b> SELECT n FROM r WHERE k = 1
        a> UPDATE r SET n = 11 WHERE k = 1
        a> COMMIT
        b> UPDATE r SET n = 22 WHERE k = 2
        b> COMMIT
        """,
        {SERIALIZABLE: Expected("a ok, b 40001", final={1: 11, 2: 20}), "": Expected("a ok, b ok", final={1: 11, 2: 22})},
    ),
    Story(
        "2",
        "two write one row: the first to commit wins",
        """
        a> UPDATE r SET n = 11 WHERE k = 1
        b> UPDATE r SET n = 12 WHERE k = 1
        a> COMMIT
        b> COMMIT
        """,
        {
            "": Expected("a ok, b 40001", final={1: 11, 2: 20}),
            WITH_LOCKS: Expected("a ok, b ok/40001", check=lambda outcome: outcome.final[1] == (12 if outcome.committed("b") else 11)),
        },
    ),
    Story(
        "2",
        "the mirror image: who began to write later commits first",
        """
        a> SELECT n FROM r WHERE k = 2
        a> UPDATE r SET n = 11 WHERE k = 1
        b> UPDATE r SET n = 12 WHERE k = 1
        b> COMMIT
        a> COMMIT
        """,
        {
            "": Expected("a 40001, b ok", final={1: 12, 2: 20}),
            WITH_LOCKS: Expected(check=lambda outcome: someone(outcome) and outcome.final[1] == (12 if outcome.committed("b") else 11)),
        },
    ),
    Story(
        "3",
        "R(a) W(b) and R(b) W(a): never both",
        """
        a> SELECT n FROM r WHERE k = 1
        b> SELECT n FROM r WHERE k = 2
        a> UPDATE r SET n = 21 WHERE k = 2
        b> UPDATE r SET n = 11 WHERE k = 1
        a> COMMIT
        b> COMMIT
        """,
        SKEW,
    ),
    Story(
        "4",
        "the pivot conflicts",
        """
        a> SELECT n FROM r WHERE k = 1
        b> UPDATE r SET n = 11 WHERE k = 1
        b> COMMIT
        a> UPDATE r SET n = 21 WHERE k = 2
        old: c> SELECT n FROM r WHERE k = 2
        c> COMMIT
        a> COMMIT
        """,
        {SERIALIZABLE: Expected("a 40001, b ok, c ok", {"old": [(20,)]}), "": Expected("a ok, b ok, c ok", {"old": [(20,)]})},
    ),
    Story(
        "5",
        "two withdrawals under a common limit",
        """
        a> SELECT sum(n) FROM r
        b> SELECT sum(n) FROM r
        a> UPDATE r SET n = n - 300 WHERE k = 1
        b> UPDATE r SET n = n - 300 WHERE k = 2
        a> COMMIT
        b> COMMIT
        """,
        SKEW,
        ACCOUNTS,
    ),
    Story(
        "5",
        "two withdrawals, each in one statement",
        """
        a> UPDATE r SET n = n - 300 WHERE k = 1 AND (SELECT sum(n) FROM r) >= 800
        b> UPDATE r SET n = n - 300 WHERE k = 2 AND (SELECT sum(n) FROM r) >= 800
        a> COMMIT
        b> COMMIT
        """,
        SKEW,
        ACCOUNTS,
    ),
    Story(
        "5",
        "the receipt report: a day that was reported as closed gets no receipt any more",
        """
        day: a> SELECT n FROM r WHERE k = 0
        b> UPDATE r SET n = 2 WHERE k = 0
        b> COMMIT
        report: c> SELECT count(*) FROM r WHERE n = 1 AND k > 0
        c> SELECT n FROM r WHERE k = 0
        c> COMMIT
        a> INSERT INTO r VALUES (7, 1)
        a> COMMIT
        """,
        {SERIALIZABLE: Expected("a 40001, b ok, c ok", {"report": [(1,)]}), "": Expected("a ok, b ok, c ok")},
        ("CREATE TABLE r (k INTEGER PRIMARY KEY, n INTEGER)", "INSERT INTO r VALUES (0, 1), (5, 1)"),
    ),
    Story(
        "5",
        "two doctors on call: one stays",
        """
        a> SELECT count(*) FROM r WHERE n = 1
        b> SELECT count(*) FROM r WHERE n = 1
        a> UPDATE r SET n = 0 WHERE k = 1
        b> UPDATE r SET n = 0 WHERE k = 2
        a> COMMIT
        b> COMMIT
        """,
        SKEW,
        ("CREATE TABLE r (k INTEGER PRIMARY KEY, n INTEGER)", "INSERT INTO r VALUES (1, 1), (2, 1)"),
    ),
    Story(
        "5",
        "two ids: each takes one more than the highest there is",
        """
        a> SELECT max(n) FROM r
        b> SELECT max(n) FROM r
        a> INSERT INTO r VALUES (3, 21)
        b> INSERT INTO r VALUES (4, 21)
        a> COMMIT
        b> COMMIT
        """,
        SKEW,
    ),
    Story(
        "5",
        "total cash: a sum is written down while a row comes in",
        """
        a> INSERT INTO r SELECT 100, sum(n) FROM r
        b> INSERT INTO r SELECT 200, sum(n) FROM r
        a> COMMIT
        b> COMMIT
        """,
        SKEW,
    ),
    Story(
        "6",
        "a row that was read is deleted, and the reader writes elsewhere",
        """
        a> SELECT n FROM r WHERE k = 1
        b> DELETE FROM r WHERE k = 1
        b> COMMIT
        a> UPDATE r SET n = 21 WHERE k = 2
        a> COMMIT
        """,
        {SERIALIZABLE: Expected("a 40001, b ok", final={2: 20}), "": Expected("a ok, b ok", final={2: 21})},
    ),
    Story(
        "6",
        "a blind UPDATE of a row that is deleted meanwhile: no resurrection",
        """
        a> UPDATE r SET n = 11 WHERE k = 1
        b> DELETE FROM r WHERE k = 1
        b> COMMIT
        a> COMMIT
        """,
        {
            "": Expected("a 40001, b ok", final={2: 20}),
            WITH_LOCKS: Expected(check=lambda outcome: someone(outcome) and 1 not in outcome.final),
        },
    ),
    Story(
        "6",
        "two inserts of one new key",
        """
        a> INSERT INTO r VALUES (3, 31)
        b> INSERT INTO r VALUES (3, 32)
        a> COMMIT
        b> COMMIT
        """,
        {"": Expected("a ok, b 40001/23505", final={1: 10, 2: 20, 3: 31})},
    ),
    Story(
        "6",
        "two inserts of one unique value under two keys",
        """
        a> INSERT INTO r VALUES (3, 30)
        b> INSERT INTO r VALUES (4, 30)
        a> COMMIT
        b> COMMIT
        """,
        {"": Expected("a ok, b 40001/23505", final={1: 10, 2: 20, 3: 30})},
        UNIQUE_ROWS,
    ),
    Story(
        "6",
        "a unique value that is free again, and taken twice",
        """
        a> UPDATE r SET n = NULL WHERE k = 1
        a> COMMIT
        b> UPDATE r SET n = 10 WHERE k = 2
        c> INSERT INTO r VALUES (3, 10)
        b> COMMIT
        c> COMMIT
        """,
        {"": Expected("a ok, b ok, c 40001/23505", final={1: None, 2: 10})},
        UNIQUE_ROWS,
    ),
    Story(
        "7",
        "reading again after another's COMMIT",
        """
        first: a> SELECT n FROM r WHERE k = 1
        b> UPDATE r SET n = 11 WHERE k = 1
        b> COMMIT
        second: a> SELECT n FROM r WHERE k = 1
        a> COMMIT
        """,
        {
            "": Expected("a ok, b ok", {"first": [(10,)], "second": [(10,)]}),
            READ_COMMITTED: Expected("a ok, b ok", {"first": [(10,)], "second": [(11,)]}),
        },
    ),
    Story(
        "8",
        "a phantom within what was counted",
        """
        a> SELECT count(*) FROM r WHERE n > 10
        b> INSERT INTO r VALUES (3, 30)
        b> COMMIT
        a> UPDATE r SET n = 1 WHERE k = 1
        a> COMMIT
        """,
        {SERIALIZABLE: Expected("a 40001, b ok", final={1: 10, 2: 20, 3: 30}), "": Expected("a ok, b ok")},
    ),
    Story(
        "8",
        "an insert outside what was counted",
        """
        a> SELECT count(*) FROM r WHERE n > 10
        b> INSERT INTO r VALUES (3, 5)
        b> COMMIT
        a> UPDATE r SET n = 1 WHERE k = 1
        a> COMMIT
        """,
        {"": Expected("a ok, b ok", final={1: 1, 2: 20, 3: 5})},
    ),
    colliding("FAIL", {1: (10, 5), 2: (20, 0)}, "a 40001, b ok"),
    colliding("IGNORE", {1: (10, 5), 2: (21, 0)}),
    colliding("REPLACE", {1: (11, 0), 2: (21, 0)}),
    colliding("APPEND", {1: (11, 5), 2: (21, 0)}),
    Story(
        "12",
        "crossed locks: one victim, the other goes on",
        """
        a> UPDATE r SET n = 11 WHERE k = 1
        b> UPDATE r SET n = 22 WHERE k = 2
        a> UPDATE r SET n = 21 WHERE k = 2
        b> UPDATE r SET n = 12 WHERE k = 1
        a> COMMIT
        b> COMMIT
        """,
        {"": Expected(check=not_both), PESSIMISTIC: Expected("a ok, b 40P01", final={1: 11, 2: 21})},
    ),
    Story(
        "13",
        "a connection that is dropped holds nothing",
        """
        a> UPDATE r SET n = 11 WHERE k = 1
        a> close
        b> UPDATE r SET n = 12 WHERE k = 1
        b> COMMIT
        """,
        {"": Expected("a gone, b ok", final={1: 12, 2: 20}, check=lambda outcome: not outcome.waited)},
    ),
    Story(
        "13",
        "a connection that is dropped lets the waiting go on",
        """
        a> UPDATE r SET n = 11 WHERE k = 1
        b> UPDATE r SET n = 12 WHERE k = 1
        a> close
        b> COMMIT
        """,
        {"": Expected("a gone, b ok", final={1: 12, 2: 20})},
    ),
    Story(
        "13",
        "a statement that failed leaves nothing",
        """
        a> UPDATE r SET n = 11 WHERE k = 1
        a> INSERT INTO r VALUES (2, 0)
        b> UPDATE r SET n = 12 WHERE k = 1
        b> COMMIT
        """,
        {"": Expected("a 23505, b ok", final={1: 12, 2: 20}, check=lambda outcome: not outcome.waited)},
    ),
    Story(
        "14",
        "AS OF before a deletion returns the row",
        """
        a> DELETE FROM r WHERE k = 1
        a> COMMIT
        then: b> SELECT n FROM r AS OF REVISION {revision} WHERE k = 1
        b> COMMIT
        """,
        {"": Expected("a ok, b ok", {"then": [(10,)]}, final={2: 20})},
        needs="AS OF REVISION",
    ),
    Story(
        "15",
        "one deletes the parent, one inserts a child: never both",
        """
        a> DELETE FROM r WHERE k = 1
        b> INSERT INTO c VALUES (1, 1)
        a> COMMIT
        b> COMMIT
        """,
        {"": ONE_WINS},
        FAMILY,
        needs="foreign keys",
    ),
    Story(
        "15",
        "a child, and an update of the parent's other columns: both",
        """
        a> UPDATE r SET n = 11 WHERE k = 1
        b> INSERT INTO c VALUES (1, 1)
        a> COMMIT
        b> COMMIT
        """,
        {"": Expected("a ok, b ok", final={1: 11, 2: 20})},
        FAMILY,
        needs="foreign keys",
    ),
    Story(
        "16",
        "after a read the snapshot stands: a newer row is a conflict",
        """
        first: a> SELECT n FROM r WHERE k = 1
        b> UPDATE r SET n = 11 WHERE k = 1
        b> UPDATE r SET n = 21 WHERE k = 2
        b> COMMIT
        a> UPDATE r SET n = n + 1 WHERE k = 2
        second: a> SELECT n FROM r WHERE k = 1
        a> COMMIT
        """,
        {
            "": Expected("a 40001, b ok", final={1: 11, 2: 21}, check=lambda outcome: outcome.one("second") in (None, 10)),
            READ_COMMITTED: Expected("a ok, b ok", {"second": [(11,)]}, final={1: 11, 2: 22}),
        },
    ),
    Story(
        "18",
        "ALTER TABLE ADD COLUMN beside an open writer: planned again, in conflict, or finished first",
        """
        a> UPDATE r SET n = 11 WHERE k = 1
        b> ALTER TABLE r ADD COLUMN m INTEGER
        b> COMMIT
        a> UPDATE r SET n = 21 WHERE k = 2
        a> COMMIT
        """,
        {"": Expected("a ok/40001, b ok/40001", check=someone)},
        needs="ALTER TABLE",
    ),
)

ELSEWHERE = {
    "10": "threads and retries: test_hermitage plays it as drawn schedules with retry; with threads it is in tests/driver/test_locks.py",
    "11": "prefix intents, as ranges of FOR UPDATE: tests/scripts/isolation/table_locks.txt and tests/driver/test_row_locks.py",
    "17": "sums under MERGE: tests/scripts/isolation/policies.txt",
}
"""Acceptance stories without a script here, and why."""


if __name__ == "__main__":
    print(markdown())
