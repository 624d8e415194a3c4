"""What happens to a write whose key somebody else has changed meanwhile: the one place where that is decided.

Called by `batches`. Today a conflict always fails; the other policies of SQL are refused by name.
"""

from __future__ import annotations

from khonsu_engine.errors import InvalidArgument, NotSupported

__all__ = ["policy_of"]

_POLICIES = ("fail", "ignore", "replace", "append", "merge")


def policy_of(on_conflict: str | None) -> str:
    """The policy of that name, in any case; None stands for 'fail'.

    Raises InvalidArgument for an unknown name, NotSupported for the policies of a later version."""
    if on_conflict is None:
        return "fail"
    name = on_conflict.lower() if isinstance(on_conflict, str) else ""
    if name not in _POLICIES:
        raise InvalidArgument(f"on_conflict must be one of {', '.join(map(repr, _POLICIES))}, not {on_conflict!r}")
    if name != "fail":
        raise NotSupported(f"on_conflict={name!r} is not supported yet", hint="'fail' is: the second to commit gets 40001 and runs again.")
    return name
