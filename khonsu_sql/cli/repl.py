"""The shell with a person in front of it: prompts, history, multi-line editing, colours.

Called by `main` when input and output are a terminal; calls `shell`. Enter ends the input when a statement is complete, else it
continues the line; a statement is one entry of the history, however many lines it has. Ctrl-C throws the input away (or cancels
the statement that runs), Ctrl-D leaves.
"""

from __future__ import annotations

import os
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import PostgresLexer

from khonsu_sql.cli.commands import Quit
from khonsu_sql.cli.scanner import Scanner
from khonsu_sql.cli.shell import SUCCESS, Shell

__all__ = ["interact"]


def interact(shell: Shell, version: str) -> int:
    """Read, run and show until \\q or Ctrl-D; returns the exit code."""
    shell.write(f"khonsu ({version})", 'Type "\\?" for help.', "")
    session = _session(shell)
    while True:
        try:
            _run(shell, session.prompt(lambda: shell.prompt("=")))
        except KeyboardInterrupt:  # of an input that was not entered yet
            continue
        except (EOFError, Quit):
            return SUCCESS


def _run(shell: Shell, text: str) -> None:
    """Run what was entered: a command, or statements one after the other. Ctrl-C cancels the one that runs and drops the rest."""
    committed = shell.connection.last_commit
    try:
        for statement in [text.strip()] if text.lstrip().startswith("\\") else Scanner().feed(text):
            committed = shell.connection.last_commit
            shell.run(statement)
    except KeyboardInterrupt:
        late = shell.connection.last_commit != committed
        shell.complain("Cancelled too late: it is committed." if late else "Cancelled.")


def _session(shell: Shell) -> PromptSession[str]:
    def continuation(columns: int, line: int, wrapped: int) -> str:
        return shell.prompt(_mark("\n".join(session.default_buffer.document.lines[:line])))

    session: PromptSession[str] = PromptSession(
        history=_history(shell),
        multiline=True,
        prompt_continuation=continuation,
        key_bindings=_keys(),
        lexer=PygmentsLexer(PostgresLexer),
        enable_history_search=True,
    )
    return session


def _mark(text: str) -> str:
    """The prompt's mark after the lines of `text`."""
    scanner = Scanner()
    list(scanner.feed(text + "\n"))
    return scanner.mark


def _is_complete(text: str) -> bool:
    """May Enter end the input? A command, nothing at all, or statements of which the last has its semicolon."""
    stripped = text.strip()
    if not stripped or stripped.startswith("\\"):
        return True
    scanner = Scanner()
    return bool(list(scanner.feed(text))) and not scanner.pending


def _keys() -> KeyBindings:
    keys = KeyBindings()

    def complete() -> bool:
        from prompt_toolkit.application import get_app

        return _is_complete(get_app().current_buffer.text)

    @keys.add("enter", filter=Condition(complete))
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    return keys


def _history(shell: Shell) -> History:
    """~/.khonsu_history, or KHONSU_HISTORY; in memory when it cannot be written."""
    path = Path(os.environ.get("KHONSU_HISTORY", "~/.khonsu_history")).expanduser()
    try:
        path.touch(mode=0o600)
    except OSError as error:
        shell.complain(f"could not open history file {path}: {error.strerror}")
        return InMemoryHistory()
    return FileHistory(str(path))
