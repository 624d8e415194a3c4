"""The point path over short ranges and joins: rows in key order, with exact filters.

Called by `point` for a SELECT that names no single row. Each table is one loop inside the one before it: over the row of a key, of a
list of keys, or over a range of the primary key or of a unique constraint (see `point_access`). Tables of inner joins are taken in
the order in which their keys become known; behind a LEFT JOIN the order of the text stays. At most `ROWS_MAX` rows are looked at;
what needs more is DuckDB's, and a plan that needs more again and again stops trying. Like every point function it means exactly
what its fallback does, or raises `Fallback`.

Left out: GROUP BY, DISTINCT, joins that compare anything but equality with a key.

What is recorded in a transaction: keys and key ranges as they are read; the range of a unique constraint that begins the statement as
the condition on the table itself, so that other conditions on the table count.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import msgspec

from khonsu_engine.commands import EVERY_KEY, KeyRange
from khonsu_engine.mvcc.predicates import ALL
from khonsu_sql.sql.plan import PointRead, Query
from khonsu_sql.sql.point_access import Access, Choice, choose, tuple_text
from khonsu_sql.sql.point_code import Code, Unsupported, function_of, sources_of
from khonsu_sql.sql.point_output import Body, aggregated, listed
from khonsu_sql.sql.point_readers import PINNED, Alone, Inside, Unrecorded
from khonsu_sql.sql.predicates import instantiate
from khonsu_sql.sql.shape import Call, ColumnRef, Expression, Shape

__all__ = ["ROWS_MAX", "found_by", "read_scan"]

ROWS_MAX = 1_000
"""Rows a point function looks at before it leaves the statement to DuckDB."""

COUNTED = ("seen += 1", f"if seen > {ROWS_MAX}: tally.missed(); raise FALLBACK")


def read_scan(shape: Shape, plan: Query, count: int) -> PointRead:
    """The point plan of a SELECT over ranges and joins. Raises Unsupported."""
    return found_by(shape, plan, count)


def found_by(shape: Shape, plan: Query, count: int, keys_of: Sequence[int] = (), *, recorded: bool = True) -> PointRead:
    """`read_scan`; `keys_of`: beside each row stand the keys of the rows of these tables. Not `recorded`: what is read is the caller's."""
    tables = [source.table for source in shape.sources]
    if [source.read.table for source in plan.sources] != tables:
        raise Unsupported
    code = Code(tables, ["row"] if len(tables) == 1 else [f"row{number}" for number in range(len(tables))])
    levels = _levels(code, shape)
    if any(isinstance(output.expression, Call) for output in shape.outputs):
        body = aggregated(code, shape)
    else:
        direction = _direction(code, shape, levels[0].access.choice)
        levels[0].reverse = bool(direction)
        keys = [tuple_text([code.cell(ColumnRef(number, column)) for column in tables[number].key_columns]) for number in keys_of]
        body = listed(code, shape, in_order=direction is not None, beside="".join(f"{key}, " for key in keys))
    code.names.update(KeyRange=KeyRange, EVERY_KEY=EVERY_KEY, ALL=ALL, islice=islice, instantiate=instantiate, tally=Tally())
    code.names.update({f"filled{number}": ((None,) * len(table.columns),) for number, table in enumerate(tables)})
    code.names.update({f"predicate{number}": source.read.predicate for number, source in enumerate(plan.sources)})
    ranges = [level.access.choice.source for level in levels if level.access.bounds]
    filters = [f"filter{number} = instantiate(predicate{number}, parameters)" for number in ranges]
    finds = [f"find{number} = tables[{table.id}].get" for number, table in enumerate(tables)]
    begin = ["if tally.hopeless: raise FALLBACK", *code.before]
    reader = (Inside if recorded else Unrecorded)([source.read.columns for source in plan.sources])
    inside = [*begin, *filters, "seen = 0", *body.start, *_loops(levels, reader, body)]
    alone = [*begin, *PINNED, *finds, "seen = 0", *body.start, *_loops(levels, Alone(), body)]
    run = function_of(code, "transaction", count, [*inside, *body.end])
    run_alone = function_of(code, "state", count, [*alone, *body.end])
    described = ", ".join(level.access.choice.described for level in levels)
    return PointRead(run, run_alone, body.columns, described, plan)


class Tally:
    """How often a range function was right to try."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = self.misses = 0

    def missed(self) -> None:
        """The range was too long."""
        self.misses += 1

    @property
    def hopeless(self) -> bool:
        """Most ranges were too long: better not to try."""
        return self.misses > 3 and self.misses > self.hits


def _direction(code: Code, shape: Shape, first: Choice) -> bool | None:
    """Does the order of the first loop do for ORDER BY: forwards (False), backwards (True), or not at all (None)?"""
    references = [code.reference(item.expression) for item in shape.order]
    if None in references:
        raise Unsupported
    wanted = []
    for reference, item in zip(references, shape.order, strict=True):
        assert reference is not None
        if reference.source != first.source:
            return None
        if reference.column not in first.equal:
            wanted.append((reference.column, item.descending))
    if first.single:
        return False
    key = [column for column in first.key if column not in first.equal]
    directions = {descending for _, descending in wanted}
    if len(directions) > 1 or [column for column, _ in wanted] != key[: len(wanted)]:
        return None
    return directions == {True}


# -- the loops ----------------------------------------------------------------------------------------------------------------


class _Level(msgspec.Struct):
    """One loop. `on`: conditions of a LEFT JOIN, None for any other; `guards`, then `conditions` of the rows so far."""

    access: Access
    on: Sequence[str] | None
    guards: Sequence[str] = ()
    conditions: Sequence[str] = ()
    reverse: bool = False


def _levels(code: Code, shape: Shape) -> list[_Level]:
    """The tables in the order of their loops, each with the conditions that can be decided there."""
    left = any(source.join == "left" for source in shape.sources)
    pool = [*shape.where, *(condition for source in shape.sources if source.join != "left" for condition in source.on)]
    waiting, bound = list(range(len(shape.sources))), set[int]()
    levels: list[_Level] = []
    while waiting:
        candidates = [choice for number in (waiting[:1] if left else waiting) if (choice := _candidate(code, shape, number, pool, bound))]
        choice = min(candidates, key=lambda candidate: candidate.rank, default=None)
        if choice is None or (bound and choice.rank == 4):
            raise Unsupported
        waiting.remove(choice.source)
        bound.add(choice.source)
        access = Access(code, choice, str(choice.source))
        on = None
        if shape.sources[choice.source].join == "left":
            on = [code.condition(condition) for condition in shape.sources[choice.source].on if condition not in choice.used]
            if code.after or choice.listed or not (choice.single or choice.index is None):
                raise Unsupported
        pool = [condition for condition in pool if on is not None or condition not in choice.used]
        here = [condition for condition in pool if sources_of(condition) <= bound]
        pool = [condition for condition in pool if condition not in here]
        conditions = [code.condition(condition) for condition in here]
        levels.append(_Level(access, on, code.after, conditions))
        code.after = []
    return levels


def _candidate(code: Code, shape: Shape, number: int, pool: Sequence[Expression], bound: set[int]) -> Choice | None:
    return choose(code, number, shape.sources[number].on if shape.sources[number].join == "left" else pool, bound)


def _loops(levels: Sequence[_Level], reader: Inside | Alone, body: Body) -> list[str]:
    """The loops with `body.each` in the innermost."""
    lines: list[str] = []
    for depth, level in enumerate(levels):
        indent = "    " * depth
        if depth == 0 and level.access.index is not None and level.access.bounds:
            lines += reader.record(level.access)
        lines += [indent + line for line in _loop(level, reader, first=depth == 0)]
        inner = [*level.guards]
        if level.conditions:
            inner.append(f"if not ({' and '.join(f'({condition})' for condition in level.conditions)}): continue")
        lines += [indent + "    " + line for line in inner]
    lines += ["    " * len(levels) + line for line in body.each]
    return [*lines, "tally.hits += 1"]


def _loop(level: _Level, reader: Inside | Alone, *, first: bool) -> list[str]:
    """The head of one loop and the lines that find its row; NULLs stand for the row a LEFT JOIN does not find."""
    access, row, on = level.access, level.access.row, level.on
    filled = f"filled{access.choice.source}"
    pruned = [f"    if {row} is PRUNED: raise FALLBACK"] if reader.checked else []
    missing = [f"    if {row} is None: continue"]
    if on is not None:
        missing = [f"    if {_unmatched(row, on)}: {row} = {filled}[0]"]
    if access.index is not None:
        return _indexed_loop(level, reader, missing, first=first)
    if access.choice.single:
        found = reader.row(access, access.key)
        return [f"for {row} in ({_unless(access, 'None', found)},):", *pruned, *missing]
    if access.listed:
        key = f"key_{row}"
        return [f"for {key} in {_sorted(access, level.reverse)}:", f"    {row} = {reader.row(access, key)}", *pruned, *missing]
    if on is None:
        found = _unless(access, "()", reader.rows(access, level.reverse))
        return [f"for _, {row} in {found}:", *("    " + line for line in COUNTED)]
    matches = f"matches_{row}"
    found = _unless(access, "()", reader.rows(access, level.reverse))
    test = f" if not ({_unmatched(row, on)})" if on else ""
    return [
        f"{matches} = [found for _, found in islice({found}, {ROWS_MAX + 1})]",
        f"seen += len({matches})",
        COUNTED[1],
        f"for {row} in [{row} for {row} in {matches}{test}] or {filled}:",
    ]


def _indexed_loop(level: _Level, reader: Inside | Alone, missing: list[str], *, first: bool) -> list[str]:
    """By a unique constraint: the entry, then the row."""
    access, row, entry = level.access, level.access.row, level.access.entry
    pruned = [f"    if {row} is PRUNED: raise FALLBACK"] if reader.checked else []
    unseen = [f"    if {entry} is PRUNED: raise FALLBACK"] if reader.checked else []
    found = reader.row(access, access.primary)
    then = [*unseen, f"    {row} = None if {entry} is None else {found}", *pruned, *missing]
    if access.choice.single:
        return [f"for {entry} in ({_unless(access, 'None', reader.entry(access, access.key))},):", *then]
    if access.listed:
        key = f"key_{row}"
        return [f"for {key} in {_sorted(access, level.reverse)}:", f"    {entry} = {reader.entry(access, key)}", *then]
    entries = _unless(access, "()", reader.entries(access, level.reverse, recorded=first))
    found = reader.row(access, access.primary, recorded=first)
    return [f"for _, {entry} in {entries}:", *("    " + line for line in COUNTED), f"    {row} = {found}", *pruned]


def _unless(access: Access, otherwise: str, found: str) -> str:
    """`found`, unless NULL is in the key."""
    return f"({otherwise} if {access.unknown} else {found})" if access.unknown else found


def _unmatched(row: str, on: Sequence[str]) -> str:
    return " or ".join([f"{row} is None", *(f"not ({condition})" for condition in on)])


def _sorted(access: Access, reverse: bool) -> str:
    return f"sorted({{{', '.join(access.listed)}}}, reverse={reverse})"
