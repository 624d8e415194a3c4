"""The settings of a session, with their defaults: the one file they stand in.

Read by `core` and `execute`; changed by `SET name = value`, shown by `SHOW name` and `SHOW ALL`. Changing one is no part of a
transaction; SET LOCAL changes it until the transaction ends, or until ROLLBACK TO an earlier savepoint. What belongs to the whole
database (`synchronous`, the engine's limits) is an option of `connect`.
The environment variable KHONSU_POINT_PATH=off makes `point_path` off by default: the whole test suite passes under it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from khonsu_engine.commands import ConflictPolicy, Isolation
from khonsu_engine.locks import Locking
from khonsu_sql.durations import TIMEOUT_ALIAS, seconds_of, text_of
from khonsu_sql.errors import FeatureNotSupported, InvalidParameterValue, UndefinedObject
from khonsu_sql.isolation import NAMES, level_of, name_of
from khonsu_sql.policies import policy_named
from khonsu_sql.session import ColumnInfo, Result

__all__ = ["LATER", "NO_TIMEOUTS", "SPECS", "SettingSpec", "Settings", "change", "show"]

NO_TIMEOUTS: Mapping[str, float] = MappingProxyType({})


class Settings:
    """The values in force for one session. Plain attributes: the point path reads them at every statement.

    Durations are seconds, 0 = without end. `timed`: one of the three timeouts of statements and transactions is set. `local`: what
    SET LOCAL changed -> what it was before."""

    __slots__ = (
        "conflict_resolution",
        "default_transaction_isolation",
        "default_transaction_read_only",
        "idle_in_transaction_timeout",
        "local",
        "lock_timeout",
        "locking",
        "point_path",
        "statement_bytes_max",
        "statement_timeout",
        "stream_rows_min",
        "timed",
        "transaction_timeout",
    )

    def __init__(
        self,
        *,
        isolation: Isolation = Isolation.SERIALIZABLE,
        read_only: bool = False,
        locking: Locking = Locking.ADAPTIVE,
        lock_timeout_seconds: float = 10.0,
        timeouts: Mapping[str, float] = NO_TIMEOUTS,
    ) -> None:
        """`timeouts`: statement_timeout, transaction_timeout and idle_in_transaction_timeout in seconds, those that are set."""
        self.local: dict[str, Any] = {}
        for spec in SPECS:
            setattr(self, spec.name, timeouts.get(spec.name, spec.default()))
        self.default_transaction_isolation = isolation
        self.default_transaction_read_only = read_only
        self.locking = locking
        self.lock_timeout = lock_timeout_seconds
        self._note_timeouts()

    def assign(self, name: str, value: Any) -> None:
        """`value`, already parsed, from now on."""
        setattr(self, name, value)
        self._note_timeouts()

    def _note_timeouts(self) -> None:
        self.timed = bool(self.statement_timeout or self.transaction_timeout or self.idle_in_transaction_timeout)

    # --- SET LOCAL

    def local_values(self) -> dict[str, Any]:
        """What SET LOCAL gave in this transaction so far."""
        return {name: getattr(self, name) for name in self.local}

    def end_local(self, kept: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Take back what SET LOCAL changed, but for what it had given as `kept` (an earlier `local_values`) says."""
        for name, before in list(self.local.items()):
            self.assign(name, kept.get(name, before))
            if name not in kept:
                del self.local[name]

    timed: bool
    conflict_resolution: ConflictPolicy
    statement_timeout: float
    transaction_timeout: float
    idle_in_transaction_timeout: float
    lock_timeout: float
    locking: Locking
    point_path: bool
    statement_bytes_max: int
    stream_rows_min: int
    default_transaction_isolation: Isolation
    default_transaction_read_only: bool


class SettingSpec(msgspec.Struct, frozen=True):
    """One setting: its default, how text becomes its value (`parse` raises ValueError) and back, what it does."""

    name: str
    default: Callable[[], Any]
    parse: Callable[[str], Any]
    show: Callable[[Any], str]
    description: str


_SWITCH = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}


def _switch(text: str) -> bool:
    try:
        return _SWITCH[text.casefold()]
    except KeyError:
        raise ValueError("it must be on or off") from None


def _on_or_off(value: bool) -> str:
    return "on" if value else "off"


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ValueError("it must be a positive integer")
    return int(text)


def _isolation(text: str) -> Isolation:
    level = level_of(text)
    if level is None:
        raise ValueError(f"it must be one of {', '.join(NAMES).lower()}")
    return level


def _level(value: Isolation) -> str:
    return name_of(value).lower()


def _locking(text: str) -> Locking:
    try:
        return Locking[text.upper()]
    except KeyError:
        raise ValueError("it must be optimistic, adaptive or pessimistic") from None


def _policy(text: str) -> ConflictPolicy:
    policy = policy_named(text)
    if policy is None:
        raise ValueError("it must be fail, ignore, replace, append or merge")
    return policy


def _lower(value: Locking | ConflictPolicy) -> str:
    return value.name.lower()


def _duration(name: str, default: float, description: str) -> SettingSpec:
    return SettingSpec(name, lambda: default, lambda text: seconds_of(text, name), text_of, description)


def _point_path() -> bool:
    return _SWITCH.get(os.environ.get("KHONSU_POINT_PATH", "on").casefold(), True)


SPECS = (
    SettingSpec("conflict_resolution", lambda: ConflictPolicy.FAIL, _policy, _lower, "what becomes of rows that collide"),
    SettingSpec(
        "default_transaction_isolation",
        lambda: Isolation.SERIALIZABLE,
        _isolation,
        _level,
        "isolation level of transactions that name none",
    ),
    SettingSpec(
        "default_transaction_read_only", lambda: False, _switch, _on_or_off, "transactions refuse to write unless they say READ WRITE"
    ),
    _duration("idle_in_transaction_timeout", 0.0, "a transaction without a statement for so long is rolled back (25P03); 0 is off"),
    _duration("lock_timeout", 10.0, "how long a statement waits for a lock (55P03 then); 0 is without end"),
    SettingSpec("locking", lambda: Locking.ADAPTIVE, _locking, _lower, "how transactions that say nothing else meet rivals"),
    SettingSpec("point_path", _point_path, _switch, _on_or_off, "statements by key run as compiled Python functions instead of in DuckDB"),
    SettingSpec("statement_bytes_max", lambda: 1 << 20, _positive, str, "bytes of SQL text one call may have (54000 beyond)"),
    _duration("statement_timeout", 0.0, "a statement that takes longer is cancelled (57014); 0 is off"),
    SettingSpec("stream_rows_min", lambda: 10_000, _positive, str, "results with more rows than this are streamed"),
    _duration("transaction_timeout", 0.0, "a transaction that is open for longer is rolled back (25P04); 0 is off"),
)

_BY_NAME = {spec.name: spec for spec in SPECS}
_BY_NAME[TIMEOUT_ALIAS] = _BY_NAME["idle_in_transaction_timeout"]

LATER = {
    "history_window": "history",
    "search_path": "schemas",
}
"""Settings of later versions, refused by name, and what they belong to."""


def change(settings: Settings, name: str, value: str, *, local: bool = False) -> Result:
    """SET [LOCAL] name = value; `default` gives the default back. Raises 42704, 22023, 0A000."""
    spec = _find(name)
    try:
        parsed = spec.default() if value.casefold() == "default" else spec.parse(value.strip())
    except ValueError as error:
        reason = str(error)
        hint = f"{reason[0].upper()}{reason[1:]}."
        raise InvalidParameterValue(f'invalid value for parameter "{spec.name}": "{value}"', hint=hint) from error
    if local:
        settings.local.setdefault(spec.name, getattr(settings, spec.name))
    else:
        settings.local.pop(spec.name, None)
    settings.assign(spec.name, parsed)
    return Result(None, -1, "SET")


def show(settings: Settings, name: str) -> Result:
    """SHOW name, or SHOW ALL: name, value and description of each."""
    from khonsu_engine.schema.types import VARCHAR

    if name.casefold() == "all":
        rows: list[tuple[Any, ...]] = [(spec.name, spec.show(getattr(settings, spec.name)), spec.description) for spec in SPECS]
        columns = tuple(ColumnInfo(title, VARCHAR, False) for title in ("name", "setting", "description"))
        return Result(columns, len(rows), "SHOW", rows)
    spec = _find(name)
    return Result((ColumnInfo(spec.name, VARCHAR, False),), 1, "SHOW", [(spec.show(getattr(settings, spec.name)),)])


def _find(name: str) -> SettingSpec:
    folded = name.casefold()
    spec = _BY_NAME.get(folded)
    if spec is not None:
        return spec
    if folded in LATER:
        raise FeatureNotSupported(f"setting {folded} ({LATER[folded]}) is not supported yet")
    near = difflib.get_close_matches(folded, _BY_NAME, 1, 0.4)
    raise UndefinedObject(f"unrecognized setting {name!r}", hint=f"Did you mean {near[0]}?" if near else "SHOW ALL lists the settings.")
