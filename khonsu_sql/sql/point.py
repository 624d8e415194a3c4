"""The point path: statements by key become one Python function each; no parsing, no Arrow, no DuckDB when they run.

Called by `core` after `bind`, with the statement's `Shape`. `compiled` returns the statement with a `PointRead` or `PointWrite`
in place of its plan, or as it was. Each function exists twice: `run`, inside an open transaction, and `alone`, as a transaction
of its own (autocommit): a read of the last durable state that registers nothing, or a write as one step of the committer.

Recognised: SELECT of columns, UPDATE and DELETE where every column of the primary key, or of a unique constraint, equals a
parameter or literal (with further exact conditions), and INSERT of one row of parameters and literals. RETURNING of columns.
Invariant: a function either means exactly what its fallback does, or raises `Fallback` (or InvalidValue) before it has any effect.
Ranges, aggregates and joins are in `point_range`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from khonsu_engine.commands import Operation, Write
from khonsu_engine.schema.catalog import Index, Table
from khonsu_sql.session import ColumnInfo
from khonsu_sql.sql.plan import Explain, PointRead, PointWrite, Query, Statement, WriteFromQuery
from khonsu_sql.sql.point_checks import check_lines
from khonsu_sql.sql.point_code import Code, Unsupported, comparison_of, flattened, function_of, row_text
from khonsu_sql.sql.point_range import columns_of_outputs, read_range
from khonsu_sql.sql.shape import ColumnRef, Expression, Shape

__all__ = ["compiled"]


def compiled(statement: Statement) -> Statement:
    """`statement` with a point plan, if it has one."""
    shape, plan = statement.shape, statement.plan
    if isinstance(plan, Explain):
        explained = compiled(msgspec.structs.replace(statement, plan=plan.plan))
        return msgspec.structs.replace(statement, plan=Explain(explained.plan))
    if shape is None or len(shape.sources) != 1:
        return statement
    spec = statement.parameters
    names = spec.names if spec.style == "named" else None
    shape = msgspec.structs.replace(shape, where=flattened(shape.where))
    try:
        match plan:
            case Query() if shape.kind == "select":
                point: PointRead | PointWrite = _read(shape, plan, spec.count)
            case WriteFromQuery():
                point = _write(shape, plan, spec.count)
            case _:
                return statement
    except Unsupported:
        return statement
    return msgspec.structs.replace(statement, plan=msgspec.structs.replace(point, names=names))


# -- keys -----------------------------------------------------------------------------------------------------------------


class _Key:
    """How a statement names its row: `text`, the code of the key; `rest`, the other conjuncts; `index`, None for the primary key."""

    def __init__(self, code: Code, shape: Shape) -> None:
        table = shape.sources[0].table
        self.index, chosen = _chosen(table, shape.where)
        parts = [code.compared(_value(conjunct), table.columns[column]) for column, conjunct in chosen.items()]
        self.text = _tuple(parts)
        self.rest = [conjunct for conjunct in shape.where if all(conjunct is not used for used in chosen.values())]
        self.columns = sum(1 << column for column in chosen)

    def entry_key(self, table: Table) -> str:
        """Code for the primary key in a row of the unique constraint's table."""
        assert self.index is not None
        width = len(self.index.columns)
        return _tuple([f"entry[{number}]" for number in range(width, width + len(table.key_columns))])


def _chosen(table: Table, where: Sequence[Expression]) -> tuple[Index | None, dict[int, Expression]]:
    """The constraint that names the row, and for each of its columns the equality that does."""
    equal: dict[int, Expression] = {}
    for conjunct in where:
        found = comparison_of(conjunct)
        if found is not None and found[1] == "=":
            equal.setdefault(found[0], conjunct)
    for index in (None, *table.indexes):
        columns = table.key_columns if index is None else index.columns
        if all(column in equal and table.columns[column].type.sql_ordered for column in columns):
            return index, {column: equal[column] for column in columns}
    raise Unsupported


def _value(conjunct: Expression) -> Expression:
    found = comparison_of(conjunct)
    assert found is not None
    return found[2]


# -- reading ----------------------------------------------------------------------------------------------------------------


def _read(shape: Shape, plan: Query, count: int) -> PointRead:
    """One row by its key, else rows of a key range."""
    try:
        return _read_one(shape, plan, count)
    except Unsupported:
        return read_range(shape, plan, count)


def _read_one(shape: Shape, plan: Query, count: int) -> PointRead:
    if shape.limit is not None or shape.offset is not None:
        raise Unsupported
    table, code = shape.sources[0].table, Code()
    key = _Key(code, shape)
    conditions = [code.condition(conjunct, table.columns) for conjunct in key.rest]
    outputs = columns_of_outputs(shape.outputs)
    row = row_text(code, table, outputs)
    mask = key.columns | sum({1 << column for column in outputs}) | _columns_of(key.rest)
    after = ["if row is None: return []", *code.after, *(f"if not ({condition}): return []" for condition in conditions), f"return [{row}]"]
    alone = function_of(code, "state", count, [*code.before, *_PINNED, *_found_alone(table, key), *after])
    run = function_of(code, "transaction", count, [*code.before, *_found(table, key, mask), *after])
    columns = tuple(ColumnInfo(output.name, table.columns[number].type) for output, number in zip(shape.outputs, outputs, strict=True))
    return PointRead(run, alone, columns, _described(table, key), plan)


_PINNED = (
    "tables = state.tables",
    "timestamp = state.durable",
    "if tables is not state.tables: raise FALLBACK",
)
"""A snapshot without registering it: the table versions, and a timestamp that was durable while they were the newest."""


def _found_alone(table: Table, key: _Key) -> list[str]:
    """Lines that read `row` from `tables` at `timestamp`."""
    if key.index is None:
        return [f"row = tables[{table.id}].get({key.text}, timestamp)", "if row is PRUNED: raise FALLBACK"]
    return [
        f"entry = tables[{key.index.id}].get({key.text}, timestamp)",
        "if entry is PRUNED: raise FALLBACK",
        f"row = None if entry is None else tables[{table.id}].get({key.entry_key(table)}, timestamp)",
        "if row is PRUNED: raise FALLBACK",
    ]


def _found(table: Table, key: _Key, mask: int) -> list[str]:
    """Lines that read `row` in a transaction."""
    if key.index is None:
        return [f"row = transaction.get({table.id}, {key.text}, columns={mask})"]
    return [
        f"entry = transaction.get({key.index.id}, {key.text})",
        f"row = None if entry is None else transaction.get({table.id}, {key.entry_key(table)}, columns={mask})",
    ]


def _columns_of(expressions: Sequence[Expression]) -> int:
    """The columns of simple expressions, as a bit mask."""
    mask = 0
    for expression in expressions:
        mask |= 1 << expression.column if isinstance(expression, ColumnRef) else _columns_of(getattr(expression, "operands", ()))
    return mask


def _described(table: Table, key: _Key) -> str:
    return f"{table.name} by " + ("primary key" if key.index is None else f"unique constraint {key.index.name}")


# -- writing ----------------------------------------------------------------------------------------------------------------


def _write(shape: Shape, plan: WriteFromQuery, count: int) -> PointWrite:
    table = plan.table
    outputs = columns_of_outputs(shape.outputs) if plan.returning is not None else []
    code = Code()
    if plan.operation is Operation.INSERT:
        lines = _insert(code, table, shape)
        described = f"insert into {table.name}"
    else:
        key = _Key(code, shape)
        if key.index is not None:
            raise Unsupported
        lines = _update(code, table, shape, key) if plan.operation is Operation.UPDATE else _delete(code, table, shape, key)
        described = _described(table, key)
    shown = row_text(code, table, outputs, "row" if plan.operation is Operation.DELETE else "new") if outputs else "None"
    columns = tuple(ColumnInfo(output.name, table.columns[number].type) for output, number in zip(shape.outputs, outputs, strict=True))
    code.names.update(Write=Write, table=table)
    run = function_of(code, "transaction", count, [*lines.in_transaction(table, plan.operation), f"return 1, {shown}"])
    alone = None
    if not lines.entries and not outputs:
        alone = function_of(code, "database, name", count, lines.alone(table))
    return PointWrite(run, alone, plan.operation, columns if outputs else None, described, plan)


class _Lines:
    """A write in parts: `before` the row is read, the code of its `key`, `change`, from `row` (None: absent) to `new`.

    `change` says SKIP when there is nothing to do. `mask`: columns read, None when the row is not read (INSERT).
    `entries`: (index table, code of its key, of its row, condition) for each entry an INSERT adds. `checks`: lines about `new`."""

    def __init__(
        self,
        before: list[str],
        key: str,
        change: list[str],
        new: str,
        mask: int | None,
        entries: Sequence[tuple[int, str, str, str]] = (),
        checks: Sequence[str] = (),
    ) -> None:
        self.before = before
        self.key = key
        self.change = change
        self.new = new
        self.mask = mask
        self.entries = entries
        self.checks = checks

    def in_transaction(self, table: Table, operation: Operation) -> list[str]:
        lines = [*self.before]
        if self.mask is None:
            if table.has_row_id:
                lines.append(f"rowid = transaction.reserve_row_ids({table.id}, 1)")
            lines += [f"key = {self.key}", "row = None"]
            for number, key, _, present in self.entries:
                lines.append(f"if {present} and transaction.get({number}, {key}) is not None: raise FALLBACK")
        else:
            lines += [f"key = {self.key}", f"row = transaction.get({table.id}, key, columns={self.mask})"]
            lines += [line.replace("SKIP", "return 0, None") for line in self.change]
        lines += [f"new = {self.new}", *self.checks, "base = transaction.read_timestamp"]
        lines.append(f"transaction.put({table.id}, Write({int(operation)}, key, new, row, base))")
        for number, key, entry, present in self.entries:
            lines.append(f"if {present}: transaction.put({number}, Write({int(operation)}, {key}, {entry}, None, base))")
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
        values[position] = value = code.assigned(expression, column, ())
        if not column.nullable:
            code.before.append(f"if {code.null(value)}: raise FALLBACK")
    key = _tuple([values[position] for position in table.key_columns])
    entries = []
    for index in table.indexes:
        indexed = [values[position] for position in index.columns]
        entry = [*indexed, *(values[position] for position in table.key_columns)]
        present = " and ".join(f"not ({code.null(value)})" for value in indexed)
        entries.append((index.id, _tuple(indexed), f"({', '.join(entry)},)", present))
    return _Lines(code.before, key, [], f"({', '.join(values)},)", None, entries, check_lines(code, table, table.checks))


def _tuple(parts: Sequence[str]) -> str:
    """Code for a key of these parts: one alone is the key itself."""
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


def _update(code: Code, table: Table, shape: Shape, key: _Key) -> _Lines:
    assigned = dict(shape.assigned)
    touched = {*table.key_columns, *(position for index in table.indexes for position in index.columns)}
    if touched & assigned.keys() or len(assigned) != len(shape.assigned):
        raise Unsupported
    checks = check_lines(code, table, [check for check in table.checks if not check.columns or assigned.keys() & set(check.columns)])
    conditions = [code.condition(conjunct, table.columns) for conjunct in key.rest]
    guards, code.after = code.after, []
    values, not_null = [], []
    mask = key.columns | _columns_of(key.rest)
    for position, column in enumerate(table.columns):
        if position not in assigned:
            values.append(f"row[{position}]")
            continue
        expression = assigned[position]
        value = code.assigned(expression, column, table.columns)
        mask |= 1 << expression.column if isinstance(expression, ColumnRef) else _columns_of((expression,))
        if not column.nullable:
            not_null.append(f"if {code.null(value)}: raise FALLBACK")
        values.append(value)
    change = ["if row is None: SKIP", *guards, *(f"if not ({text}): SKIP" for text in conditions), *code.after, *not_null]
    return _Lines(code.before, key.text, change, f"({', '.join(values)},)", mask, checks=checks)


def _delete(code: Code, table: Table, shape: Shape, key: _Key) -> _Lines:
    if table.indexes:
        raise Unsupported
    conditions = [code.condition(conjunct, table.columns) for conjunct in key.rest]
    change = ["if row is None: SKIP", *code.after, *(f"if not ({text}): SKIP" for text in conditions)]
    return _Lines(code.before, key.text, change, "None", key.columns | _columns_of(key.rest))
