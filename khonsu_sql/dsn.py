"""Where a database is and how it is to be opened: the arguments of `connect`, checked and made one value each.

Called by `connection.connect`; calls nobody. Accepted names of databases:

    :memory:                      private to its connection
    :memory:name                  shared within the process by all that name it
    path, os.PathLike             a directory
    khonsu:///relative/path       the same as a URL; a fourth slash makes it absolute; khonsu:///:memory: works too
    khonsu:///path?option=value   options of `connect`; a keyword that differs from its default wins over the URL's

`khonsu://host…` (a cluster) is refused by name until the remote driver comes.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from khonsu_engine.commands import ConflictPolicy, Isolation
from khonsu_engine.locks import Locking
from khonsu_sql.durations import TIMEOUT_ALIAS, TIMEOUTS, seconds_of
from khonsu_sql.errors import CannotConnect, FeatureNotSupported, InterfaceError, InvalidOption, InvalidOptionValue
from khonsu_sql.isolation import NAMES as NAMES_OF_LEVELS
from khonsu_sql.isolation import level_of
from khonsu_sql.policies import policy_of

if TYPE_CHECKING:
    from khonsu_engine.limits import Limits

__all__ = ["Options", "Target", "isolation_of", "locking_of", "options_of", "parse", "refuse_unknown"]

MEMORY = ":memory:"
SYNCHRONOUS = ("full", "normal", "off")
LATER = {
    "read_from": "remote connections",
    "tls": "remote connections",
    "history_window": "history",
}
"""Options that exist in later versions, refused by name, and what they belong to."""


class Target(msgspec.Struct, frozen=True):
    """`path`: real path of a database's directory, None = in memory. `name`: of a shared one in memory, None = private.

    `options`: those of a URL, as text.
    """

    path: str | None = None
    name: str | None = None
    options: Mapping[str, str] = {}


class Options(msgspec.Struct, frozen=True):
    """The checked options of `connect`. `synchronous` and `limits` belong to the database, the others to the connection."""

    isolation: Isolation = Isolation.SERIALIZABLE
    autocommit: bool = False
    read_only: bool = False
    timeout_seconds: float = 10.0
    synchronous: str = "full"
    limits: Limits | None = None
    locking: Locking = Locking.ADAPTIVE
    on_conflict: ConflictPolicy = ConflictPolicy.FAIL
    timeouts: Mapping[str, float] = {}


NAMES = ("isolation_level", "autocommit", "read_only", "timeout", "synchronous", "limits", "locking", "on_conflict", *TIMEOUTS)
DEFAULTS: dict[str, Any] = dict(zip(NAMES, (None, False, False, 10.0, "full", None, None, None, 0, 0, 0), strict=True))


def parse(database: str | os.PathLike[str]) -> Target:
    """The target `database` names. Raises `FeatureNotSupported` for remote URLs, `CannotConnect` for names that cannot be one."""
    text = _text(database)
    if text.startswith("khonsu:"):
        return _parse_url(text)
    return _target(text, {})


def _text(database: Any) -> str:
    try:
        text = os.fsdecode(database)
    except TypeError:
        raise InterfaceError(f"database must be a path, a URL or {MEMORY!r}, not {type(database).__name__}", sqlstate="HY024") from None
    if not text or "\0" in text:
        raise CannotConnect("the database's name is empty" if not text else "the database's name contains a NUL character")
    return text


def _parse_url(text: str) -> Target:
    parts = urlsplit(text)
    if parts.netloc:
        raise FeatureNotSupported(
            "remote databases (khonsu://host) are not supported by this version", hint="Use a path, or khonsu:///path."
        )
    if not parts.path.startswith("/") or not text.startswith("khonsu:///"):
        raise CannotConnect(f"{text!r} is not a database URL", hint="Write khonsu:///relative/path or khonsu:////absolute/path.")
    name = unquote(parts.path[1:])
    if not name or "\0" in name or parts.fragment:
        raise CannotConnect(f"{text!r} names no database", hint="A '#' or '?' in a path must be written %23 or %3F in a URL.")
    return _target(name, dict(parse_qsl(parts.query, keep_blank_values=True)))


def _target(name: str, options: Mapping[str, str]) -> Target:
    if name.startswith(MEMORY):
        return Target(name=name[len(MEMORY) :] or None, options=options)
    return Target(path=os.path.realpath(name), options=options)


def options_of(given: Mapping[str, Any], url: Mapping[str, str]) -> Options:
    """`given` (the keywords of `connect`, defaults included) over `url`, checked. Raises `InvalidOption`, `InvalidOptionValue`, 0A000."""
    refuse_unknown(url)
    given = _one_spelling(given)
    chosen = DEFAULTS | _one_spelling(url) | {name: value for name, value in given.items() if value != DEFAULTS[name]}
    return Options(
        isolation_of(chosen["isolation_level"]),
        _boolean("autocommit", chosen["autocommit"]),
        _boolean("read_only", chosen["read_only"]),
        _seconds("timeout", chosen["timeout"]),
        _one_of("synchronous", chosen["synchronous"], SYNCHRONOUS),
        _limits(chosen["limits"]),
        locking_of(chosen["locking"]),
        policy_of(chosen["on_conflict"]) or ConflictPolicy.FAIL,
        {name: _duration(name, chosen[name]) for name in TIMEOUTS},
    )


def _one_spelling(options: Mapping[str, Any]) -> dict[str, Any]:
    """PostgreSQL's name of idle_in_transaction_timeout as ours."""
    own = {name: value for name, value in options.items() if name != TIMEOUT_ALIAS}
    if TIMEOUT_ALIAS in options:
        if own.get(TIMEOUTS[-1], 0) not in (0, options[TIMEOUT_ALIAS]):
            raise InvalidOption(f"options {TIMEOUTS[-1]!r} and {TIMEOUT_ALIAS!r} are the same", hint="Give one of them.")
        own[TIMEOUTS[-1]] = options[TIMEOUT_ALIAS]
    return own


def refuse_unknown(options: Mapping[str, Any]) -> None:
    """Raises for the first option that does not exist (naming the nearest that does) or exists only in later versions."""
    for name, value in options.items():
        if name in LATER:
            if value is not None:
                raise FeatureNotSupported(f"option {name!r} ({LATER[name]}) is not supported by this version")
        elif name not in NAMES and name != TIMEOUT_ALIAS:
            near = difflib.get_close_matches(name.lower(), [*NAMES, *LATER], 1, 0.4)
            hint = f"Did you mean {near[0]!r}?" if near else f"Options are {', '.join(NAMES)}."
            raise InvalidOption(f"connect has no option {name!r}", hint=hint)


def isolation_of(value: Any) -> Isolation:
    """The level `value` names: None (SERIALIZABLE), an `Isolation`, or text in any case."""
    if value is None:
        return Isolation.SERIALIZABLE
    if isinstance(value, Isolation):
        return value
    level = level_of(str(value))
    if level is None:
        raise InvalidOptionValue(f"{value!r} is not an isolation level", hint=f"Use {', '.join(NAMES_OF_LEVELS)}.")
    return level


def locking_of(value: Any) -> Locking:
    """The mode `value` names: None (ADAPTIVE), a `Locking`, or text in any case."""
    if value is None:
        return Locking.ADAPTIVE
    if isinstance(value, Locking):
        return value
    try:
        return Locking[str(value).upper()]
    except KeyError:
        raise InvalidOptionValue(f"{value!r} is not a locking mode", hint="Use OPTIMISTIC, ADAPTIVE or PESSIMISTIC.") from None


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}
    if isinstance(value, str) and value.lower() in known:
        return known[value.lower()]
    raise InvalidOptionValue(f"option {name!r} must be true or false, not {value!r}")


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InvalidOptionValue(f"option {name!r} must be a number of seconds, not {value!r}")
    return seconds


def _duration(name: str, value: Any) -> float:
    try:
        return seconds_of(value, name)
    except ValueError as error:
        raise InvalidOptionValue(f"option {name!r} must be a duration, not {value!r}", hint=f"{error}.") from error


def _one_of(name: str, value: Any, values: tuple[str, ...]) -> str:
    if isinstance(value, str) and value.lower() in values:
        return value.lower()
    raise InvalidOptionValue(f"option {name!r} must be one of {', '.join(values)}, not {value!r}")


def _limits(value: Any) -> Limits | None:
    from khonsu_engine.limits import Limits

    if value is None or isinstance(value, Limits):
        return value
    raise InvalidOptionValue(f"option 'limits' must be khonsu_engine.limits.Limits, not {type(value).__name__}")
