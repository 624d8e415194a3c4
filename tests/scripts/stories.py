"""Stories: what sessions say to a database and what it answers, as text. README.md here describes the format.

`parse` turns a file into `Story` values, `Stage.play` plays one on a database, `render` writes it back with the answers that came:
comparing the two texts is the test, writing the second one over the first is `--rewrite`. Only the public driver is used.
"""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import khonsu_sql

LEVELS = ("SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED")

STEP = re.compile(r"(?P<session>\w+)(?:\((?P<mode>open|names)\))?> ?(?P<sql>.*)$")
COMMAND = re.compile(r"! (?P<verb>\w+)(?: (?P<session>\w+))?(?: (?P<rest>.*))?$")
CREATED = re.compile(r"create\s+table\s+(?:if\s+not\s+exists\s+)?([\w.]+|\"[^\"]+\")", re.IGNORECASE)
LITERALS = {kind.__name__: kind for kind in (Decimal, datetime.date, datetime.datetime, datetime.time, datetime.timedelta, uuid.UUID)}
CONSTANTS = {"UTC": datetime.UTC, "inf": float("inf"), "nan": float("nan")}


class FormatError(Exception):
    """A file that is not in the format; names file and line."""


@dataclass
class Step:
    """One thing a session does. `text`: its lines as written; `expected`: the lines that must come back (none: anything but an error)."""

    text: list[str]
    session: str
    sql: str = ""
    mode: str = ""
    verb: str = "execute"
    rest: str = ""
    parameters: str | None = None
    expected: list[str] = field(default_factory=list)


@dataclass
class Story:
    """`parts`: steps, and the lines between them as they are (comments, empty lines)."""

    title: str
    line: int
    levels: tuple[str, ...] = ("SERIALIZABLE",)
    durable_only: bool = False
    parts: list[Step | str] = field(default_factory=list)

    @property
    def steps(self) -> list[Step]:
        return [part for part in self.parts if isinstance(part, Step)]


def parse(path: Path) -> tuple[list[str], list[Story]]:
    """The lines before the first story, and the stories."""
    preamble: list[str] = []
    stories: list[Story] = []
    lines = Lines(path)
    for line in lines:
        if line.startswith("=== "):
            stories.append(Story(line[4:].strip(), lines.number))
        elif not stories:
            preamble.append(line)
        else:
            parse_line(stories[-1], line, lines)
    return preamble, stories


class Lines:
    """The lines of a file with one of look-ahead."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self.lines = path.read_text().splitlines()

    def __iter__(self) -> Iterator[str]:
        while self.number < len(self.lines):
            self.number += 1
            yield self.lines[self.number - 1]

    def take_while(self, wanted: Callable[[str], bool]) -> list[str]:
        taken = []
        while self.number < len(self.lines) and wanted(self.lines[self.number]):
            taken.append(self.lines[self.number])
            self.number += 1
        return taken

    def take_one(self) -> str:
        if self.number == len(self.lines):
            raise self.error("the last statement has no ';' at the end of a line")
        self.number += 1
        return self.lines[self.number - 1]

    def error(self, message: str) -> FormatError:
        return FormatError(f"{self.path.name} line {self.number}: {message}")


def parse_line(story: Story, line: str, lines: Lines) -> None:
    if line.startswith("levels:"):
        story.levels = tuple(name.strip().upper() for name in line[7:].split(","))
        if not set(story.levels) <= set(LEVELS):
            raise lines.error(f"levels are {', '.join(LEVELS)}")
        story.parts.append(line)
    elif not line.strip() or line.startswith("#"):
        story.parts.append(line)
    elif line.startswith("! "):
        story.parts.append(parse_command(line, lines))
        story.durable_only |= story.steps[-1].verb == "reopen"
    else:
        story.parts.append(parse_statement(line, lines))


def parse_command(line: str, lines: Lines) -> Step:
    found = COMMAND.match(line)
    if found is None or found["verb"] not in Stage.VERBS:
        raise lines.error(f"unknown command {line!r}")
    step = Step([line], found["session"] or "", verb=found["verb"], rest=found["rest"] or "")
    step.expected = lines.take_while(is_answer)
    return step


def parse_statement(line: str, lines: Lines) -> Step:
    found = STEP.match(line)
    if found is None:
        raise lines.error(f"neither a step nor a comment: {line!r}")
    text, sql = [line], [found["sql"]]
    while not text[-1].rstrip().endswith(";"):
        following = lines.take_one()
        text.append(following)
        sql.append(following)
    step = Step(text, found["session"], "\n".join(sql), found["mode"] or "")
    for extra in lines.take_while(lambda candidate: candidate.startswith(("with ", "many "))):
        step.text.append(extra)
        step.verb, step.parameters = ("execute" if extra.startswith("with ") else "many"), extra[5:]
    step.expected = lines.take_while(is_answer)
    return step


def is_answer(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(("#", "! ", "===")) and STEP.match(line) is None


# --- playing


@dataclass
class Stage:
    """A database at `database` with the sessions of one story."""

    database: str
    level: str
    connections: dict[str, khonsu_sql.Connection] = field(default_factory=dict)
    cursors: dict[str, khonsu_sql.Cursor] = field(default_factory=dict)

    VERBS = ("session", "commit", "rollback", "close", "checkpoint", "reopen", "fetch")

    def play(self, story: Story) -> list[list[str]]:
        """What each step answered, in order."""
        return [self.answer(step) for step in story.steps]

    def answer(self, step: Step) -> list[str]:
        try:
            return getattr(self, f"do_{step.verb}")(step)
        except khonsu_sql.Error as error:
            return [describe_error(error)]

    def connection(self, name: str) -> khonsu_sql.Connection:
        if name not in self.connections:
            self.connections[name] = khonsu_sql.connect(self.database, autocommit=True, isolation_level=self.level)
        return self.connections[name]

    def do_execute(self, step: Step) -> list[str]:
        cursor = self.connection(step.session).cursor()
        cursor.execute(step.sql, None if step.parameters is None else evaluate(step.parameters))
        self.cursors[step.session] = cursor
        return ["open"] if step.mode == "open" else answers(cursor, step)

    def do_many(self, step: Step) -> list[str]:
        cursor = self.connection(step.session).cursor()
        cursor.executemany(step.sql, evaluate(step.parameters or ""))
        return answers(cursor, step)

    def do_fetch(self, step: Step) -> list[str]:
        cursor = self.cursors[step.session]
        rows = cursor.fetchmany(int(step.rest)) if step.rest else cursor.fetchall()
        return [describe_row(row) for row in rows] or ["(no rows)"]

    def do_session(self, step: Step) -> list[str]:
        options = {"autocommit": True, "isolation_level": self.level} | evaluate(f"dict({step.rest})")
        self.connections[step.session] = khonsu_sql.connect(self.database, **options)
        return ["ok"]

    def do_commit(self, step: Step) -> list[str]:
        self.connections[step.session].commit()
        return ["ok"]

    def do_rollback(self, step: Step) -> list[str]:
        self.connections[step.session].rollback()
        return ["ok"]

    def do_close(self, step: Step) -> list[str]:
        self.connections.pop(step.session).close()
        return ["ok"]

    def do_checkpoint(self, step: Step) -> list[str]:
        self.connection(step.session or "the end").checkpoint()
        return ["ok"]

    def do_reopen(self, step: Step) -> list[str]:
        self.close()
        return ["ok"]

    def close(self) -> None:
        """Close every session, and with the last one the database."""
        self.cursors.clear()
        while self.connections:
            self.connections.popitem()[1].close()

    def contents(self, story: Story) -> dict[str, list[str]]:
        """Every table the story made and that still exists, as sorted lines; read by a new session."""
        found = {}
        names = {name for step in story.steps for name in CREATED.findall(step.sql)}
        for name in sorted(names):
            cursor = self.connection("the end").cursor()
            try:
                cursor.execute(f"SELECT * FROM {name}")
            except khonsu_sql.ProgrammingError:
                continue
            found[name] = sorted(describe_row(row) for row in cursor.fetchall())
        return found


def evaluate(text: str) -> Any:
    """Parameters as a Python expression over plain literals, Decimal, date, datetime, time, timedelta, UUID, UTC, inf, nan."""
    return eval(text, {"__builtins__": {"dict": dict, "range": range, "str": str}}, {**LITERALS, **CONSTANTS})


def answers(cursor: khonsu_sql.Cursor, step: Step) -> list[str]:
    """Results of all statements of the call, one after the other."""
    lines = describe_result(cursor, step)
    while cursor.nextset():
        lines += describe_result(cursor, step)
    return lines


def describe_result(cursor: khonsu_sql.Cursor, step: Step) -> list[str]:
    if cursor.description is None:
        return ["ok"] if cursor.rowcount < 0 else [f"{cursor.rowcount} row{'' if cursor.rowcount == 1 else 's'}"]
    rows = [describe_row(row) for row in cursor.fetchall()] or ["(no rows)"]
    if "order by" not in step.sql.casefold():
        rows.sort()
    names = [" | ".join(column[0] for column in cursor.description)] if step.mode == "names" else []
    return names + rows


def describe_row(row: tuple[Any, ...]) -> str:
    return " | ".join(describe_value(value) for value in row)


def describe_value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "NULL", True: "true", False: "false"}[value]
    return repr(value).removeprefix("datetime.")


def describe_error(error: khonsu_sql.Error) -> str:
    return f"error {error.sqlstate} ~ {' '.join(str(error).split())}"


# --- comparing


def agrees(expected: list[str], observed: list[str]) -> bool:
    """Do the answers satisfy the expectation? Errors by SQLSTATE, and by the parts of the message the story names."""
    if not expected:
        return not any(line.startswith("error ") for line in observed)
    if len(expected) != len(observed):
        return False
    return all(line_agrees(*pair) for pair in zip(expected, observed, strict=True))


def line_agrees(expected: str, observed: str) -> bool:
    return any(alternative_agrees(alternative.strip(), observed) for alternative in expected.split(" || "))


def alternative_agrees(expected: str, observed: str) -> bool:
    if not (expected.startswith("error ") and observed.startswith("error ")):
        return expected == observed
    state, *words = (part.strip() for part in expected.split("~"))
    return observed.startswith(f"{state} ~ ") and all(word.casefold() in observed.casefold() for word in words)


def render(story: Story, observed: list[list[str]]) -> list[str]:
    """The story's lines with what was observed where it differs from what was expected."""
    lines = [f"=== {story.title}"]
    waiting = iter(observed)
    for part in story.parts:
        if isinstance(part, str):
            lines.append(part)
        else:
            answer = next(waiting)
            lines += [*part.text, *(part.expected if agrees(part.expected, answer) else answer)]
    return lines
