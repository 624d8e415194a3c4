"""Effects as MessagePack carries them: values converted where it must be, keys as tuples again.

Called by `log` for every body. Which columns need a conversion is known per table (`Table.to_log`, `Table.from_log`); most tables
need none on the way in, so `portable` is a look and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from khonsu_engine.commands import Effect, Row, TableId
from khonsu_engine.schema.catalog import CATALOG_TABLE, Table
from khonsu_engine.schema.values import Converter

__all__ = ["canonical", "portable"]

Converters = tuple[tuple[int, Converter], ...]

_CATALOG_KEY = (0, 1)
_DEFINITION = 2

_definition = msgspec.msgpack.Decoder(Table)


def portable(effects: Sequence[Effect], tables: Mapping[TableId, Table]) -> Sequence[Effect]:
    """What MessagePack can carry exactly. `tables`: at least those in `effects`; the catalog's own needs no entry."""
    for effect in effects:
        if effect.table != CATALOG_TABLE and tables[effect.table].to_log:
            return [_portable(effect, tables) for effect in effects]
    return effects


def canonical(effects: Sequence[Effect], tables: Mapping[TableId, Table]) -> tuple[Effect, ...]:
    """The inverse, in the same order. `tables` as they stand just before; those the effects make or drop are found in them.

    Raises ValueError for a table that is not there at the schema version the effect names."""
    if any(effect.table == CATALOG_TABLE for effect in effects):
        tables = {**tables, **_defined(effects)}
    return tuple(_canonical(effect, tables) for effect in effects)


def _portable(effect: Effect, tables: Mapping[TableId, Table]) -> Effect:
    if effect.table == CATALOG_TABLE:
        return effect
    table = tables[effect.table]
    return _mapped(effect, table.key_columns, table.to_log) if table.to_log else effect


def _canonical(effect: Effect, tables: Mapping[TableId, Table]) -> Effect:
    if effect.table == CATALOG_TABLE:
        return _mapped(effect, _CATALOG_KEY, ())
    table = tables.get(effect.table)
    if table is None or table.version != effect.schema_version:
        known = "unknown" if table is None else f"at version {table.version}"
        raise ValueError(f"it changes table {effect.table} at schema version {effect.schema_version}, but that is {known}")
    return _mapped(effect, table.key_columns, table.from_log)


def _defined(effects: Iterable[Effect]) -> dict[TableId, Table]:
    """The tables that catalog rows among `effects` define, before and after, with their index tables."""
    found: dict[TableId, Table] = {}
    images = (image for effect in effects if effect.table == CATALOG_TABLE for _, _, row, before in effect.rows for image in (before, row))
    for image in images:
        if image is not None:
            table = _definition.decode(image[_DEFINITION])
            found[table.id] = table
            found |= {index.id: table.index_table(index) for index in table.indexes}
    return found


def _mapped(effect: Effect, key_columns: tuple[int, ...], converters: Converters) -> Effect:
    """`effect` with converted values, and keys of several columns as tuples."""
    composite = len(key_columns) > 1
    place = {column: number for number, column in enumerate(key_columns)}
    of_key = tuple((place[column], convert) for column, convert in converters if column in place)
    rows = tuple(
        (operation, _key(key, composite, of_key), _row(row, converters), _row(before, converters))
        for operation, key, row, before in effect.rows
    )
    return Effect(effect.table, effect.schema_version, rows)


def _key(key: Any, composite: bool, converters: Converters) -> Any:
    if composite:
        return _row(tuple(key), converters)
    return converters[0][1](key) if converters else key


def _row(row: Row | None, converters: Converters) -> Row | None:
    if row is None or not converters:
        return row
    values = list(row)
    for column, convert in converters:
        values[column] = convert(values[column])
    return tuple(values)
