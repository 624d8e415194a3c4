"""The values given for a statement's parameters, as one list in the statement's order.

Called at every execution by `execute` and the point path. Knows nothing of types: values are converted where they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from khonsu_sql.errors import ParameterMismatch
from khonsu_sql.sql.plan import ParameterSpec

__all__ = ["normalise"]

_NOTHING: list[Any] = []


def normalise(spec: ParameterSpec, parameters: Sequence[Any] | Mapping[str, Any] | None) -> list[Any]:
    """The values in the order of `spec`. Raises ParameterMismatch (07001): too few, too many, wrong names, the wrong kind."""
    if spec.style == "named":
        return _named(spec, parameters)
    if parameters is None:
        parameters = _NOTHING
    if isinstance(parameters, Mapping) and not parameters and not spec.count:
        return _NOTHING
    if isinstance(parameters, Mapping | str | bytes | bytearray | Set) or not isinstance(parameters, Iterable):
        raise _wrong_kind(spec, parameters)
    values = list(parameters)
    if len(values) != spec.count:
        raise ParameterMismatch(
            f"the statement takes {_counted(spec.count)}, {len(values)} {'was' if len(values) == 1 else 'were'} given",
            hint="The statement names $1 to $n." if spec.style == "numeric" else None,
        )
    return values


def _named(spec: ParameterSpec, parameters: Sequence[Any] | Mapping[str, Any] | None) -> list[Any]:
    if not isinstance(parameters, Mapping):
        raise _wrong_kind(spec, parameters)
    missing = [name for name in spec.names if name not in parameters]
    extra = [str(name) for name in parameters if name not in spec.names]
    if missing or extra:
        said = [f"no value was given for {', '.join(missing)}"] if missing else []
        said += [f"the statement has no parameter {', '.join(extra)}"] if extra else []
        raise ParameterMismatch(f"parameters do not fit: {'; '.join(said)}")
    return [parameters[name] for name in spec.names]


def _wrong_kind(spec: ParameterSpec, given: Any) -> ParameterMismatch:
    if spec.style == "named":
        wanted = f"a mapping with {', '.join(spec.names)}"
    elif spec.count:
        wanted = f"a sequence of {_counted(spec.count)}"
    else:
        wanted = "no parameters"
    return ParameterMismatch(
        f"the statement takes {wanted}, a {type(given).__name__} was given" if given is not None else f"the statement takes {wanted}"
    )


def _counted(count: int) -> str:
    return f"{count} parameter{'' if count == 1 else 's'}" if count else "no parameters"
