"""CREATE TABLE, ALTER TABLE and DROP TABLE: puts and deletes of catalog rows, as transactional as any others.

Called by `execute`; calls the transaction. Ids are assigned by the engine. Left out: ALTER of columns, CREATE INDEX, views (issue C).
"""

from __future__ import annotations

import msgspec

import khonsu_engine.errors as engine_errors
from khonsu_engine.schema.catalog import CATALOG_TABLE, Table
from khonsu_engine.transaction import LocalTransaction
from khonsu_sql.errors import DuplicateTable, UndefinedTable
from khonsu_sql.session import Result
from khonsu_sql.sql.plan import AlterTable, CreateTable, DropTable
from khonsu_sql.sql.table_options import altered

__all__ = ["alter_table", "create_table", "drop_tables"]


def create_table(plan: CreateTable, transaction: LocalTransaction) -> Result:
    """Raises DuplicateTable (42P07), unless IF NOT EXISTS makes that a notice."""
    table = plan.table
    if transaction.catalog.find(table.name, table.schema) is not None:
        transaction.guard(CATALOG_TABLE, (table.schema, table.name.casefold()))
        if not plan.if_not_exists:
            raise _duplicate(table)
        return Result(None, -1, "CREATE TABLE", notices=(f'table "{table.name}" already exists, skipping',))
    try:
        transaction.create_table(table)
    except engine_errors.UniqueViolation as error:
        raise _duplicate(table) from error
    return Result(None, -1, "CREATE TABLE")


def alter_table(plan: AlterTable, transaction: LocalTransaction) -> Result:
    """Raises UndefinedTable (42P01), unless IF EXISTS makes that a notice, and as `alter.altered` does."""
    transaction.guard(CATALOG_TABLE, (plan.schema, plan.name.casefold()))
    table = transaction.catalog.find(plan.name, plan.schema)
    if table is None:
        if plan.if_exists:
            return Result(None, -1, "ALTER TABLE", notices=(f'table "{plan.name}" does not exist, skipping',))
        raise UndefinedTable(f'table "{plan.name}" does not exist')
    policy, columns = altered(table, plan.options)
    transaction.alter_table(table, msgspec.structs.replace(table, conflict_resolution=policy, columns=columns))
    return Result(None, -1, "ALTER TABLE")


def _duplicate(table: Table) -> DuplicateTable:
    return DuplicateTable(f'table "{table.name}" already exists', hint="Use CREATE TABLE IF NOT EXISTS, or drop it first.")


def drop_tables(plan: DropTable, transaction: LocalTransaction) -> Result:
    """Raises UndefinedTable (42P01), unless IF EXISTS makes that a notice. All names are looked up before the first is dropped."""
    found: dict[int, Table] = {}
    notices = []
    for schema, name in plan.names:
        transaction.guard(CATALOG_TABLE, (schema, name.casefold()))
        table = transaction.catalog.find(name, schema)
        if table is not None:
            found[table.id] = table
        elif plan.if_exists:
            notices.append(f'table "{name}" does not exist, skipping')
        else:
            raise UndefinedTable(f'table "{name}" does not exist', hint="DROP TABLE IF EXISTS does nothing then.")
    for table in found.values():
        transaction.drop_table(table)
    return Result(None, -1, "DROP TABLE", notices=tuple(notices))
