"""One shell on one connection: runs statements and commands, writes what comes of them, and knows whether it went well.

Made by `main`, driven by `repl` (a person) or by `run_text` (scripts, -c, -f, pipes). Uses the public driver only. Errors of
statements are written to `errors` and do not end the shell.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TextIO

import khonsu_sql
from khonsu_sql.cli import commands, render
from khonsu_sql.cli.commands import Quit
from khonsu_sql.cli.scanner import Scanner, split

__all__ = ["FAILURE", "NO_CONNECTION", "SCRIPT_STOPPED", "SUCCESS", "Shell"]

# Exit codes, psql's.
SUCCESS, FAILURE, NO_CONNECTION, SCRIPT_STOPPED = 0, 1, 2, 3

BLOCK_ROWS = 5_000
"""Rows laid out at once; a larger result is aligned block by block."""


class Shell:
    """`name`: the database's, for prompts. `expanded`: off, on or auto. `screen_columns`: asked when `expanded` is auto."""

    def __init__(self, connection: khonsu_sql.Connection, name: str, output: TextIO, errors: TextIO) -> None:
        self.connection = connection
        self.name = name
        self.output = output
        self.errors = errors
        self.timing = False
        self.expanded = "off"
        self.variables = {"ON_ERROR_STOP": "off"}
        self.place = ""  # "file:line: " before the message of an error in a file

    @property
    def stops_on_error(self) -> bool:
        """Whether a script ends with its first error."""
        return self.variables["ON_ERROR_STOP"] == "on"

    def prompt(self, mark: str) -> str:
        """psql's: the database, what is pending (= nothing), * in a transaction, ! in a failed one."""
        status = {"idle": "", "active": "*", "failed": "!"}[self.connection.transaction_status]
        return f"{self.name}{mark}{status}> "

    def write(self, *lines: str) -> None:
        """Lines for the user."""
        for line in lines:
            self.output.write(line + "\n")

    def complain(self, message: str) -> None:
        """An error, where errors go."""
        self.output.flush()
        self.errors.write(f"{self.place}{message}\n")
        self.errors.flush()

    # --- running

    def run(self, text: str) -> bool:
        """Run one statement (or a call of several) or one command; True when it went well. Ctrl-C is the caller's."""
        started = time.perf_counter()
        try:
            if text.startswith("\\"):
                return commands.run(self, text)
            self._execute(text)
        except khonsu_sql.Error as error:
            self.complain(f"ERROR:  {error}")
            return False
        finally:
            self.output.flush()
        if self.timing:
            self.write(f"Time: {(time.perf_counter() - started) * 1000:.3f} ms")
        return True

    def run_text(self, lines: Iterable[str], file: str = "") -> int:
        """Run a script; returns the exit code. Commands stand on lines of their own."""
        for number, text in _pieces(lines):
            self.place = f"khonsu:{file}:{number}: " if file else ""
            try:
                well = self.run(text)
            except Quit:
                return SUCCESS
            finally:
                self.place = ""
            if not well and self.stops_on_error:
                return SCRIPT_STOPPED
        return SUCCESS

    def run_file(self, path: str) -> int:
        """-f: run a file."""
        try:
            with open(path, encoding="utf-8") as lines:
                return self.run_text(lines, path)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self.complain(f"khonsu: error: {path}: {reason}")
            return FAILURE

    def run_string(self, text: str) -> int:
        """-c: one command, or SQL of any number of statements as one call."""
        if not text.startswith("\\") and not split(text):
            return SUCCESS
        try:
            return SUCCESS if self.run(text) else FAILURE
        except Quit:
            return SUCCESS

    # --- results

    def _execute(self, sql: str) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            self._show(cursor)
            while cursor.nextset():
                self._show(cursor)

    def _show(self, cursor: khonsu_sql.Cursor) -> None:
        for notice in cursor.notices:
            self.complain(f"NOTICE:  {notice}")
        if cursor.description is not None:
            self.show_rows(cursor)
        tag = cursor.statusmessage or ""
        if tag == "INSERT":
            self.write(f"INSERT 0 {cursor.rowcount}")
        elif tag in ("UPDATE", "DELETE"):
            self.write(f"{tag} {cursor.rowcount}")
        elif cursor.description is None:
            self.write(tag)

    def show_rows(self, cursor: khonsu_sql.Cursor) -> None:
        """The rows of a result, aligned or expanded."""
        assert cursor.description is not None
        names = [column[0] for column in cursor.description]
        table = render.Table(names, [column[1] == khonsu_sql.NUMBER for column in cursor.description])
        count = 0
        vertical = False
        while rows := cursor.fetchmany(BLOCK_ROWS):
            body = table.body(rows)
            vertical = vertical or (count == 0 and self._is_vertical(table))
            self.write(*(render.expanded(names, rows, count + 1) if vertical else [*(table.header() if count == 0 else []), *body]))
            count += len(rows)
        if count == 0:
            self.write(*(table.header() if self.expanded != "on" else []))
        self.write(*([] if vertical else [render.row_count(count)]), "")

    def _is_vertical(self, table: render.Table) -> bool:
        return self.expanded == "on" or (self.expanded == "auto" and table.line_width > commands.screen_columns(self.output))


def _pieces(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The statements and commands of a script, each with the line it begins in. What lacks its semicolon at the end runs too."""
    scanner = Scanner()
    begin = 1
    for number, line in enumerate(lines, 1):
        if scanner.mark in "=-(" and line.lstrip().startswith("\\"):
            yield number, line.strip()
            continue
        if not scanner.pending:
            begin = number
        for statement in scanner.feed(line):
            yield begin, statement
            begin = number
    if scanner.pending:
        yield begin, scanner.pending.strip()
