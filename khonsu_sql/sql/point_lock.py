"""The point path of SELECT … FOR UPDATE and FOR SHARE: the rows with their keys, found as `point_scan` finds them.

Called by `point`; what is made here is run by `locked_query`, which locks the rows. With SKIP LOCKED it finds more rows than are wanted and
records nothing: of one table, and what is returned of it is recorded when it is locked.
"""

from __future__ import annotations

import msgspec

from khonsu_sql.sql.plan import LockedQuery, PointLock
from khonsu_sql.sql.point_code import Unsupported
from khonsu_sql.sql.point_scan import found_by
from khonsu_sql.sql.shape import Call, Constant, Shape

__all__ = ["read_locked"]


def read_locked(shape: Shape, plan: LockedQuery, count: int) -> PointLock:
    """The point plan of a locking SELECT. Raises Unsupported."""
    if any(isinstance(output.expression, Call) for output in shape.outputs):
        raise Unsupported
    if plan.skips:
        if len(shape.sources) > 1:
            raise Unsupported
        shape = msgspec.structs.replace(shape, limit=None if plan.most is None else Constant(plan.most), offset=None)
    found = found_by(shape, plan.query, count, [lock.source for lock in plan.locks], recorded=not plan.skips)
    return PointLock(found.run, found.columns, f"{found.description}, {plan.text}", plan)
