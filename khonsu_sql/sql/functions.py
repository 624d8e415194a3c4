"""Which functions a statement may call: DuckDB's, except those that reach out of the tables they are given.

Called by `bind` and `define` on every tree. Scalar functions and aggregates are allowed unless refused (DuckDB itself says which
exist); table functions are refused unless allowed, because nearly all of DuckDB's read files, settings or other tables.
DuckDB runs locked down besides; this is the first of two walls, and the one with the better message.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from sqlglot import exp

from khonsu_sql.errors import Error, FeatureNotSupported, InsufficientPrivilege, UndefinedFunction
from khonsu_sql.sql.native import AGGREGATES
from khonsu_sql.sql.normal import start_of

__all__ = ["TABLE_FUNCTIONS", "check_functions", "is_aggregate"]

TABLE_FUNCTIONS = frozenset(
    """
    generate_series generate_subscripts khonsu_batch json_each json_tree pg_timezone_names icu_calendar_names range regexp_split_to_table
    repeat repeat_row unnest
    """.split()
)

_OUTSIDE = re.compile(
    r"""
    (read_|duckdb_|pragma_|parquet_|sniff_|enable_|disable_|register_|deregister_|create_external|destroy_external|truncate_|__).*
  | .*_scan(_dumb)?
  | query | query_table | glob | getenv | getvariable | current_setting | set_config | checkpoint | force_checkpoint | which_secret
  | summary | write_log | json_execute_serialized_sql | json_serialize_sql | json_serialize_plan | json_deserialize_sql | seq_scan
  | current_query | current_query_id | current_connection_id | current_transaction_id | txid_current | get_block_size | add_parquet_key
  | python_map_function | test_all_types | test_vector_types | in_search_path | stats | vector_type | hive_partition_component
  | copy_database | import_database | pg_conf_load_time | pg_postmaster_start_time
    """,
    re.VERBOSE,
)
_SEQUENCES = frozenset(["nextval", "currval", "setval", "lastval"])


def is_aggregate(node: Any) -> bool:
    """Is `node` the call of an aggregate?"""
    return isinstance(node, exp.AggFunc) or (isinstance(node, exp.Anonymous) and _name(node) in AGGREGATES)


def check_functions(tree: Any, sql: str) -> None:
    """Raises InsufficientPrivilege (42501), FeatureNotSupported (0A000: sequences), UndefinedFunction (42883: table functions)."""
    for node in tree.find_all(exp.Func, exp.Table):
        if isinstance(node, exp.Table):
            _check_table_function(node, sql)
        else:
            _check_name(_name(node), node, sql)


def _name(node: Any) -> str:
    if isinstance(node, exp.Anonymous):
        return str(node.name).lower()
    return str(node.sql_name()).lower() if node.sql_names() else ""


def _check_name(name: str, node: Any, sql: str) -> None:
    if name in _SEQUENCES:
        raise FeatureNotSupported(f"function {name} (sequences) is not supported yet", position=_position(node), sql=sql)
    if _OUTSIDE.fullmatch(name):
        raise _outside(name, node, sql)


def _check_table_function(table: Any, sql: str) -> None:
    function = table.this
    if isinstance(function, exp.Dot):
        function = function.expression
    if not isinstance(function, exp.Func):
        return
    name = _name(function)
    _check_name(name, function, sql)
    if name not in TABLE_FUNCTIONS and not isinstance(function, exp.GenerateSeries | exp.ExplodingGenerateSeries | exp.Unnest):
        near = difflib.get_close_matches(name, TABLE_FUNCTIONS, 1, 0.6)
        raise UndefinedFunction(
            f"table function {name} does not exist",
            position=_position(function),
            sql=sql,
            hint=f"Did you mean {near[0]}?" if near else None,
        )


def _outside(name: str, node: Any, sql: str) -> Error:
    return InsufficientPrivilege(
        f"function {name} is not allowed: it reaches out of this database",
        position=_position(node),
        sql=sql,
        hint="Use cursor.ingest() for data from outside." if name.startswith("read_") else None,
    )


def _position(node: Any) -> int | None:
    start = start_of(node)
    return None if start is None else start + 1
