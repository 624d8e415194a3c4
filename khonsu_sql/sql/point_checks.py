"""CHECK constraints on the point path: code that notices a row that violates one.

Called by `point` for INSERT and UPDATE. A check is bound like a SELECT over its table; what is made of simple conditions on columns
and literals is compiled, anything else has no point plan. A violation is only noticed here: the general path raises it.
Invariant: a CHECK is violated when it is false; NULL is not false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from khonsu_engine.schema.catalog import Catalog, Check, Table
from khonsu_engine.schema.sql_type import quoted
from khonsu_sql.sql.bind import bind
from khonsu_sql.sql.parse import parse
from khonsu_sql.sql.point_code import Code, Unsupported, folded

__all__ = ["check_lines", "row_check"]

CHECK_BYTES_MAX = 1 << 20


def check_lines(code: Code, table: Table, checks: Sequence[Check]) -> list[str]:
    """Lines that leave a row that violates one of `checks` to the general path, which says so."""
    return [f"if {violation}: raise FALLBACK" for _, violation in _violations(code, table, checks)]


def row_check(table: Table, checks: Sequence[Check]) -> Callable[[Any], str | None]:
    """A function from a row to the name of the check it violates, or None. Raises Unsupported."""
    code = Code([table])
    lines = [f"if {violation}: return {check.name!r}" for check, violation in _violations(code, table, checks)]
    text = "\n    ".join(["def function(new):", *lines, "return None"])
    scope: dict[str, Any] = dict(code.names)
    exec(compile(text, "<checks>", "exec"), scope)
    function: Callable[[Any], str | None] = scope["function"]
    return function


def _violations(code: Code, table: Table, checks: Sequence[Check]) -> Iterator[tuple[Check, str]]:
    """Each check with code that is true where the row `new` violates it."""
    new = code.about(("new",))
    for check in checks:
        named = Catalog(0, {(table.schema, table.name.casefold()): table})
        bound = bind(parse(f"SELECT {check.expression} FROM {quoted(table.name)}", CHECK_BYTES_MAX)[0], named)
        if bound.shape is None or len(bound.shape.outputs) != 1 or bound.parameters.count:
            raise Unsupported
        violation = new.condition(folded(bound.shape.outputs[0].expression), truth=False)
        if new.after:  # NaN has SQL's own order
            raise Unsupported
        yield check, violation
