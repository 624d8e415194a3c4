"""The point path: statements by key become one Python function each; no parsing, no Arrow, no DuckDB when they run.

Called by `core` after `bind`, with the statement's `Shape`. `compiled` returns the statement with a `PointRead` or `PointWrite`
in place of its plan, or as it was. Each function exists twice: `run`, inside an open transaction, and `alone`, as a transaction
of its own (autocommit): a read of the last durable state that registers nothing, or a write as one step of the committer.

Recognised: SELECT of columns, UPDATE and DELETE where every column of the primary key, or of a unique constraint, equals a
parameter or literal (with further exact conditions), and INSERT of one row of parameters and literals. RETURNING of columns.
Invariant: a function either means exactly what its fallback does, or raises `Fallback` (or InvalidValue) before it has any effect.
Ranges, lists of keys, aggregates and joins are in `point_scan`; how a key is found in the conditions, in `point_access`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from khonsu_engine.commands import Operation, TableId, Write
from khonsu_engine.schema.catalog import Index, Table
from khonsu_sql.session import ColumnInfo
from khonsu_sql.sql.plan import Explain, LockedQuery, PointLock, PointRead, PointWrite, Query, Statement, WriteFromQuery
from khonsu_sql.sql.point_access import Access, choose, tuple_text
from khonsu_sql.sql.point_checks import check_lines
from khonsu_sql.sql.point_code import Code, Unsupported, flattened, folded, function_of
from khonsu_sql.sql.point_lock import read_locked
from khonsu_sql.sql.point_output import shown
from khonsu_sql.sql.point_readers import PINNED
from khonsu_sql.sql.point_scan import read_scan
from khonsu_sql.sql.shape import Call, Expression, Shape

__all__ = ["compiled"]


def compiled(statement: Statement) -> Statement:
    """`statement` with a point plan, if it has one."""
    shape, plan = statement.shape, statement.plan
    if isinstance(plan, Explain):
        explained = compiled(msgspec.structs.replace(statement, plan=plan.plan))
        return msgspec.structs.replace(statement, plan=Explain(explained.plan))
    if shape is None:
        return statement
    spec = statement.parameters
    names = spec.names if spec.style == "named" else None
    sources = tuple(msgspec.structs.replace(source, on=flattened(source.on)) for source in shape.sources)
    assigned = tuple((column, folded(value)) for column, value in shape.assigned)
    rows = None if shape.rows is None else tuple(tuple(map(folded, row)) for row in shape.rows)
    shape = msgspec.structs.replace(shape, where=flattened(shape.where), sources=sources, assigned=assigned, rows=rows)
    try:
        match plan:
            case Query() if shape.kind == "select":
                point: PointRead | PointLock | PointWrite = _read(shape, plan, spec.count)
            case LockedQuery():
                point = read_locked(shape, plan, spec.count)
            case WriteFromQuery():
                point = _write(shape, plan, spec.count)
            case _:
                return statement
    except Unsupported:
        return statement
    return msgspec.structs.replace(statement, plan=msgspec.structs.replace(point, names=names))


# -- reading ----------------------------------------------------------------------------------------------------------------


def _read(shape: Shape, plan: Query, count: int) -> PointRead:
    """One row by its key, else what `point_scan` can do."""
    code = Code([source.table for source in shape.sources])
    choice = choose(code, 0, shape.where, set())
    if len(shape.sources) > 1 or choice is None or not choice.single or shape.limit is not None or shape.offset is not None:
        return read_scan(shape, plan, count)
    if any(isinstance(output.expression, Call) for output in shape.outputs):
        return read_scan(shape, plan, count)
    table, access = choice.table, Access(code, choice, "")
    conditions = [code.condition(conjunct) for conjunct in shape.where if conjunct not in choice.used]
    row, types = shown(code, [output.expression for output in shape.outputs])
    mask = plan.sources[0].read.columns
    after = ["if row is None: return []", *code.after, *(f"if not ({condition}): return []" for condition in conditions), f"return [{row}]"]
    alone = function_of(code, "state", count, [*code.before, *PINNED, *_found_alone(table, access), *after])
    run = function_of(code, "transaction", count, [*code.before, *_found(table, access, mask), *after])
    columns = tuple(ColumnInfo(output.name, sql_type) for output, sql_type in zip(shape.outputs, types, strict=True))
    return PointRead(run, alone, columns, choice.described, plan)


def _found_alone(table: Table, access: Access) -> list[str]:
    """Lines that read `row` from `tables` at `timestamp`."""
    if access.index is None:
        return [f"row = tables[{table.id}].get({access.key}, timestamp)", "if row is PRUNED: raise FALLBACK"]
    return [
        f"entry = tables[{access.index.id}].get({access.key}, timestamp)",
        "if entry is PRUNED: raise FALLBACK",
        f"row = None if entry is None else tables[{table.id}].get({access.primary}, timestamp)",
        "if row is PRUNED: raise FALLBACK",
    ]


def _found(table: Table, access: Access, mask: int) -> list[str]:
    """Lines that read `row` in a transaction."""
    if access.index is None:
        return [f"row = transaction.get({table.id}, {access.key}, columns={mask})"]
    return [
        f"entry = transaction.get({access.index.id}, {access.key})",
        f"row = None if entry is None else transaction.get({table.id}, {access.primary}, columns={mask})",
    ]


# -- writing ----------------------------------------------------------------------------------------------------------------


def _write(shape: Shape, plan: WriteFromQuery, count: int) -> PointWrite:
    table, code = plan.table, Code([plan.table])
    if plan.operation is Operation.INSERT:
        lines, described = _insert(code, table, shape), f"insert into {table.name}"
    else:
        choice = choose(code, 0, shape.where, set())
        if choice is None or not choice.single:
            raise Unsupported
        access = Access(code, choice, "")
        conditions = [conjunct for conjunct in shape.where if conjunct not in choice.used]
        make = _update if plan.operation is Operation.UPDATE else _delete
        lines, described = make(code, access, conditions, shape, plan.query.sources[0].read.columns), choice.described
    result, columns = "None", None
    if plan.returning is not None:
        affected = code.about(("row" if plan.operation is Operation.DELETE else "new",))
        result, types = shown(affected, [output.expression for output in shape.outputs])
        columns = tuple(ColumnInfo(output.name, sql_type) for output, sql_type in zip(shape.outputs, types, strict=True))
    code.names.update(Write=Write, table=table)
    run = function_of(code, "transaction", count, [*lines.in_transaction(table, plan.operation), f"return 1, {result}"])
    alone = None
    if not lines.entries and not lines.entry and columns is None:
        alone = function_of(code, "database, name", count, lines.alone(table))
    return PointWrite(run, alone, plan.operation, columns, described, plan)


class _Entry(NamedTuple):
    """An entry of a unique constraint: its table, code of its key, of its row, and of whether there is one (no NULL in it)."""

    table: TableId
    key: str
    row: str
    present: str


class _Lines(NamedTuple):
    """A write in parts: `before` the row is read, the code of its `key`, `change`, from `row` (None: absent) to `new`.

    `change` says SKIP when there is nothing to do. `mask`: columns read, None when the row is not read (INSERT). `checks`: lines about
    `new`. `entries`: of unique constraints, which come or go with the row. `entry`: lines that find the entry the key is taken from."""

    before: list[str]
    key: str
    change: list[str]
    new: str
    mask: int | None
    checks: Sequence[str] = ()
    entries: Sequence[_Entry] = ()
    entry: Sequence[str] = ()

    def in_transaction(self, table: Table, operation: Operation) -> list[str]:
        lines = [*self.before, *self.entry]
        if self.mask is None:
            if table.has_row_id:
                lines.append(f"rowid = transaction.reserve_row_ids({table.id}, 1)")
            lines += [f"key = {self.key}", "row = None"]
            for entry in self.entries:
                lines.append(f"if {entry.present} and transaction.get({entry.table}, {entry.key}) is not None: raise FALLBACK")
        else:
            lines += [f"key = {self.key}", f"row = transaction.get({table.id}, key, columns={self.mask})"]
            lines += [line.replace("SKIP", "return 0, None") for line in self.change]
        lines += [f"new = {self.new}", *self.checks, "base = transaction.read_timestamp"]
        lines.append(f"transaction.put({table.id}, Write({int(operation)}, key, new, row, base))")
        for entry in self.entries:
            old, new = (entry.row, "None") if operation is Operation.DELETE else ("None", entry.row)
            write = f"Write({int(operation)}, {entry.key}, {new}, {old}, base)"
            lines.append(f"if {entry.present}: transaction.put({entry.table}, {write})")
        return lines

    def alone(self, table: Table) -> list[str]:
        inserts = self.mask is None
        absent = ["if row is not None: raise FALLBACK"] if inserts else []
        number = [f"rowid = database.reserve_row_ids({table.id}, 1)"] if inserts and table.has_row_id else []
        change = [*absent, *(line.replace("SKIP", "return row") for line in self.change), f"new = {self.new}", *self.checks, "return new"]
        return [
            *self.before,
            *number,
            f"key = {self.key}",
            "def change(row):",
            *("    " + line for line in change),
            "return database.committer.write_point(table, key, change, name)",
        ]


def _insert(code: Code, table: Table, shape: Shape) -> _Lines:
    if shape.rows is None or len(shape.rows) != 1:
        raise Unsupported
    values = ["rowid"] * len(table.columns)
    for position, expression in zip(table.visible, shape.rows[0], strict=True):
        column = table.columns[position]
        values[position] = value = code.assigned(expression, column)
        if not column.nullable:
            code.before.append(f"if {code.null(value)}: raise FALLBACK")
    key = tuple_text([values[position] for position in table.key_columns])
    entries = [_entry(code, table, index, values) for index in table.indexes]
    return _Lines(code.before, key, [], f"({', '.join(values)},)", None, check_lines(code, table, table.checks), entries)


def _entry(code: Code, table: Table, index: Index, values: Sequence[str]) -> _Entry:
    """The entry of `index` for a row with these values, as code."""
    indexed = [values[position] for position in index.columns]
    row = ", ".join([*indexed, *(values[position] for position in table.key_columns)])
    return _Entry(index.id, tuple_text(indexed), f"({row},)", " and ".join(f"not ({code.null(value)})" for value in indexed))


def _update(code: Code, access: Access, conditions: Sequence[Expression], shape: Shape, mask: int) -> _Lines:
    table, assigned = access.table, dict(shape.assigned)
    touched = {*table.key_columns, *(position for index in table.indexes for position in index.columns)}
    if touched & assigned.keys() or len(assigned) != len(shape.assigned):
        raise Unsupported
    checks = check_lines(code, table, [check for check in table.checks if not check.columns or assigned.keys() & set(check.columns)])
    tests = [code.condition(condition) for condition in conditions]
    guards, code.after = code.after, []
    values, not_null = [f"row[{position}]" for position in range(len(table.columns))], []
    for position, expression in assigned.items():
        values[position] = code.assigned(expression, table.columns[position])
        if not table.columns[position].nullable:
            not_null.append(f"if {code.null(values[position])}: raise FALLBACK")
    change = ["if row is None: SKIP", *guards, *(f"if not ({text}): SKIP" for text in tests), *code.after, *not_null]
    return _Lines(code.before, _key(access), change, f"({', '.join(values)},)", mask, checks, (), _entry_lines(access))


def _delete(code: Code, access: Access, conditions: Sequence[Expression], shape: Shape, mask: int) -> _Lines:
    table = access.table
    tests = [code.condition(condition) for condition in conditions]
    change = ["if row is None: SKIP", *code.after, *(f"if not ({text}): SKIP" for text in tests)]
    entries = [_entry(code, table, index, [f"row[{position}]" for position in range(len(table.columns))]) for index in table.indexes]
    return _Lines(code.before, _key(access), change, "None", mask, (), entries, _entry_lines(access))


def _key(access: Access) -> str:
    return access.key if access.index is None else access.primary


def _entry_lines(access: Access) -> list[str]:
    if access.index is None:
        return []
    return [f"entry = transaction.get({access.index.id}, {access.key})", "if entry is None: return 0, None"]
