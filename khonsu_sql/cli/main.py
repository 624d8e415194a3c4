"""`khonsu`: the console script.

    khonsu [DB] [-c SQL]… [-f FILE]… [-v NAME=VALUE]…
    khonsu check HISTORY [--level LEVEL] [--allow-vacuous]

Without -c and -f it reads statements: from a person when it stands in a terminal, else as a script from standard input.
Exit codes are psql's: 0 well, 1 an error of -c or of the shell itself, 2 no connection, 3 a script stopped by ON_ERROR_STOP; and
130 for a script ended by Ctrl-C, which in a terminal only cancels the statement.
Sub-commands are `check` and what the entry points of group `khonsu.commands` name; a first word that names one is one, so a database called
check is opened as ./check.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import khonsu_sql
from khonsu_sql.cli.check import check_command
from khonsu_sql.cli.commands import set_variable
from khonsu_sql.cli.shell import FAILURE, NO_CONNECTION, SUCCESS, Shell

__all__ = ["main"]

INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2 for wrong arguments, which means "no connection" here."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f'khonsu: error: {message}\nTry "khonsu --help" for more information.\n')
        raise SystemExit(FAILURE)


class _Action(argparse.Action):
    """Keeps -c and -f in the order in which they were given."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, option_string: str | None = None) -> None:
        namespace.actions = [*namespace.actions, (self.dest, values)]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="khonsu",
        description="The shell of Khonsu SQL.",
        epilog="A database is a directory. It is made when it does not exist. khonsu check --help is about checking histories.",
    )
    parser.add_argument("database", nargs="?", default=":memory:", metavar="DB", help="path of a database (default: one in memory)")
    parser.add_argument("-c", "--command", action=_Action, metavar="SQL", help="run this and exit; may be given several times")
    parser.add_argument("-f", "--file", action=_Action, metavar="FILE", help="run this file (- is standard input) and exit")
    parser.add_argument(
        "-v", "--set", "--variable", action="append", default=[], metavar="NAME=VALUE", help="set a variable, as \\set does"
    )
    parser.add_argument("-V", "--version", action="version", version=f"khonsu (Khonsu SQL) {khonsu_sql.__version__}")
    parser.set_defaults(actions=[])
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the shell; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = _command(words[0]) if words and not words[0].startswith("-") else None
    try:
        code = command(words[1:]) if command is not None else _shell(_parser().parse_args(words))
        sys.stdout.flush()
        return int(code or 0)
    except KeyboardInterrupt:
        sys.stderr.write("khonsu: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:  # `khonsu … | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE


def _command(name: str) -> Callable[[Sequence[str]], int | None] | None:
    """The sub-command of that name, or None."""
    if name == "check":
        return check_command
    from importlib.metadata import entry_points

    found = entry_points(group="khonsu.commands", name=name)
    for entry_point in found:
        command: Callable[[Sequence[str]], int | None] = entry_point.load()
        return command
    return None


def _shell(options: argparse.Namespace) -> int:
    try:
        connection = khonsu_sql.connect(options.database, autocommit=True)
    except khonsu_sql.Error as error:
        sys.stderr.write(f"khonsu: error: {error}\n")
        return NO_CONNECTION
    with closing(connection):  # not `with connection`, which commits: what is open when the shell ends is rolled back
        shell = Shell(connection, _name(options.database), sys.stdout, sys.stderr)
        for setting in options.set:
            name, _, value = setting.partition("=")
            if not set_variable(shell, name, value or "on"):
                return FAILURE
        return _run(shell, options.actions)


def _run(shell: Shell, actions: Sequence[tuple[str, str]]) -> int:
    """What was asked for on the command line in its order, else whatever comes from standard input."""
    code = SUCCESS
    for kind, text in actions:
        code = shell.run_string(text) if kind == "command" else shell.run_text(sys.stdin) if text == "-" else shell.run_file(text)
        if code != SUCCESS and shell.stops_on_error:
            return code
    if actions:
        return code
    if sys.stdin.isatty() and sys.stdout.isatty():
        from khonsu_sql.cli.repl import interact

        return interact(shell, khonsu_sql.__version__)
    return shell.run_text(sys.stdin)


def _name(database: str) -> str:
    """The database's name in prompts: bank for /data/bank.khonsu, memory for one in memory."""
    if database.startswith(":memory:"):
        return database.removeprefix(":memory:") or "memory"
    return Path(database).name.removesuffix(".khonsu") or database
