r"""The commands that begin with a backslash: \d, \dt, \set, \timing, \x, \q, \?.

Called by `shell`; each is a function of the shell and its arguments in `COMMANDS`, with the line that \? shows for it.
Left out: the rest of psql's, which are refused by name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from khonsu_sql.cli import render

if TYPE_CHECKING:
    from khonsu_sql.cli.shell import Shell

__all__ = ["COMMANDS", "Quit", "run", "screen_columns", "set_variable"]


class Quit(Exception):
    r"""\\q: leave the shell."""


class Command(NamedTuple):
    """`run(shell, arguments)` returns whether it went well. `usage` and `help` are what \\? shows."""

    run: Callable[[Shell, list[str]], bool]
    arguments_max: int
    usage: str
    help: str


def run(shell: Shell, text: str) -> bool:
    """Run the command in `text`; True when it went well."""
    name, *arguments = text.rstrip(";").split()
    command = COMMANDS.get(name)
    if command is None:
        shell.complain(f"invalid command {name}\nTry \\? for help.")
        return False
    for extra in arguments[command.arguments_max :]:
        shell.complain(f'{name}: extra argument "{extra}" ignored')
    return command.run(shell, arguments[: command.arguments_max])


def screen_columns(output: TextIO) -> int:
    """How wide the terminal is, 80 when there is none."""
    return shutil.get_terminal_size((80, 24)).columns if output.isatty() else 80


def _quit(shell: Shell, arguments: list[str]) -> bool:
    raise Quit


def _help(shell: Shell, arguments: list[str]) -> bool:
    left = max(len(command.usage) for command in COMMANDS.values())
    shell.write(*(f"  {command.usage:<{left}}  {command.help}" for command in COMMANDS.values()))
    shell.write("", "A statement ends with a semicolon. Ctrl-C cancels it, Ctrl-D leaves.")
    return True


def _switch(shell: Shell, name: str, old: str, arguments: Sequence[str], states: Sequence[str]) -> str | None:
    """The new state of a switch: the argument's, or the other one of the first two. Complains and returns None if it is no state."""
    if not arguments:
        return states[0] if old != states[0] else states[1]
    state = {"true": "on", "1": "on", "yes": "on", "false": "off", "0": "off", "no": "off"}.get(arguments[0].lower(), arguments[0].lower())
    if state in states:
        return state
    shell.complain(f'unrecognized value "{arguments[0]}" for "{name}": {" or ".join(states)} expected')
    return None


def _timing(shell: Shell, arguments: list[str]) -> bool:
    state = _switch(shell, "\\timing", "on" if shell.timing else "off", arguments, ("on", "off"))
    if state is not None:
        shell.timing = state == "on"
        shell.write(f"Timing is {state}.")
    return state is not None


def _expanded(shell: Shell, arguments: list[str]) -> bool:
    state = _switch(shell, "\\x", shell.expanded, arguments, ("on", "off", "auto"))
    if state is not None:
        shell.expanded = state
        shell.write("Expanded display is used automatically." if state == "auto" else f"Expanded display is {state}.")
    return state is not None


def _set(shell: Shell, arguments: list[str]) -> bool:
    if not arguments:
        shell.write(*(f"{name} = '{value}'" for name, value in sorted(shell.variables.items())))
        return True
    return set_variable(shell, arguments[0], arguments[1] if len(arguments) > 1 else "on")


def set_variable(shell: Shell, name: str, value: str) -> bool:
    """\\set and -v. A variable the shell does not know is refused: setting it would have no effect."""
    if name not in shell.variables:
        shell.complain(f'unknown variable "{name}": known are {", ".join(shell.variables)}')
        return False
    state = _switch(shell, name, "", [value], ("on", "off"))
    if state is not None:
        shell.variables[name] = state
    return state is not None


# --- what tables there are


def _tables(shell: Shell, arguments: list[str]) -> bool:
    found = shell.connection.tables()
    if not found:
        shell.complain("Did not find any tables.")
        return True
    table = render.Table(("Schema", "Name", "Type"), (False, False, False))
    body = table.body([(one.schema, one.name, "table") for one in found])
    title = "List of tables"
    shell.write(title.rjust((table.line_width + len(title)) // 2), *table.header(), *body, render.row_count(len(found)), "")
    return True


def _describe(shell: Shell, arguments: list[str]) -> bool:
    if not arguments:
        return _tables(shell, arguments)
    wanted = _fold(arguments[0])
    found = [one for one in shell.connection.tables() if wanted in (_fold(one.name), _fold(f"{one.schema}.{one.name}"))]
    if not found:
        shell.complain(f'Did not find any table named "{arguments[0]}".')
    for one in found:
        shell.write(*_description(one), "")
    return bool(found)


def _fold(name: str) -> str:
    return name.replace('"', "").casefold()


def _description(table: Any) -> list[str]:
    """Columns, keys and constraints of one table, as psql shows them."""
    layout = render.Table(("Column", "Type", "Nullable", "Default"), (False,) * 4)
    body = layout.body((column.name, column.type, "" if column.nullable else "not null", column.default or "") for column in table.columns)
    title = f'Table "{table.schema}.{table.name}"'
    lines = [title.rjust((layout.line_width + len(title)) // 2), *layout.header(), *body]
    keys = [f'    "{key.name}" {"PRIMARY KEY" if key.primary else "UNIQUE"} ({", ".join(key.columns)})' for key in table.keys]
    checks = [f'    "{check.name}" CHECK ({check.expression})' for check in table.checks]
    return lines + (["Keys:", *keys] if keys else []) + (["Check constraints:", *checks] if checks else [])


COMMANDS = {
    "\\d": Command(_describe, 1, "\\d [NAME]", "list tables, or describe one"),
    "\\dt": Command(_tables, 0, "\\dt", "list tables"),
    "\\x": Command(_expanded, 1, "\\x [on|off|auto]", "one line per value instead of one per row"),
    "\\timing": Command(_timing, 1, "\\timing [on|off]", "show how long statements take"),
    "\\set": Command(_set, 2, "\\set [NAME [VALUE]]", "set a variable (ON_ERROR_STOP), or show them"),
    "\\q": Command(_quit, 0, "\\q", "leave"),
    "\\?": Command(_help, 0, "\\?", "this list"),
}
