"""Canonical lists, structs and maps: tuples of canonical values.

Called by `sql_type` only, with the codecs of the parts. A list from Python must hold values of one Python class: for a
mixed one DuckDB first looks for a common type, which is its to decide (NeedsCast). Struct fields are found by their exact names.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from khonsu_engine.errors import InvalidValue
from khonsu_engine.schema.values import Codec, needs_cast, plain

__all__ = ["list_codec", "map_codec", "struct_codec", "tuple_codec"]


def _of_one_class(values: Any, name: str) -> None:
    classes = {type(value) for value in values if value is not None}
    if len(classes) > 1:
        raise needs_cast(values, name)


def list_codec(name: str, element: Codec) -> Codec:
    """T[]: a tuple; the driver returns a list."""

    def canonical(value: Any) -> Any:
        value = plain(value)
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            raise needs_cast(value, name)
        _of_one_class(value, name)
        return tuple([element.canonical(part) for part in value])

    def each(convert: Callable[[Any], Any], container: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda value: None if value is None else container([convert(part) for part in value])

    to_python, to_log, from_log = each(element.to_python, list), each(element.to_log, tuple), each(element.from_log, tuple)
    return Codec(canonical, _never_exact(name), to_python, to_log, from_log)


def _never_exact(name: str) -> Callable[[Any], Any]:
    def exact(value: Any) -> Any:
        if value is None:
            return None
        raise needs_cast(value, name)

    return exact


def struct_codec(name: str, fields: tuple[tuple[str, Codec], ...]) -> Codec:
    """STRUCT: a tuple in the order of the fields; the driver returns a dict."""
    names = [field for field, _ in fields]
    expected = set(names)

    def canonical(value: Any) -> Any:
        value = plain(value)
        if value is None:
            return None
        if not isinstance(value, Mapping) or value.keys() != expected:
            raise needs_cast(value, name)
        return tuple([codec.canonical(value[field]) for field, codec in fields])

    def to_python(value: Any) -> Any:
        return None if value is None else {field: codec.to_python(part) for (field, codec), part in zip(fields, value, strict=True)}

    def to_log(value: Any) -> Any:
        return None if value is None else tuple([codec.to_log(part) for (_, codec), part in zip(fields, value, strict=True)])

    def from_log(value: Any) -> Any:
        return None if value is None else tuple([codec.from_log(part) for (_, codec), part in zip(fields, value, strict=True)])

    return Codec(canonical, _never_exact(name), to_python, to_log, from_log)


def tuple_codec(codec: Codec, parts: list[Codec]) -> Codec:
    """TUPLE: a struct whose fields have no names; the driver returns a tuple. Occurs in results only."""

    def to_python(value: Any) -> Any:
        return None if value is None else tuple([part.to_python(each) for part, each in zip(parts, value, strict=True)])

    return codec._replace(to_python=to_python)


def map_codec(name: str, key: Codec, item: Codec) -> Codec:
    """MAP: a tuple of (key, value) in the order given; the driver returns a dict (keys stay canonical where Python's cannot be hashed)."""

    def canonical(value: Any) -> Any:
        value = plain(value)
        if value is None:
            return None
        if not isinstance(value, Mapping) or value.keys() == {"key", "value"}:
            raise needs_cast(value, name)
        _of_one_class(list(value.keys()), name)
        _of_one_class(list(value.values()), name)
        pairs = tuple([(key.canonical(left), item.canonical(right)) for left, right in value.items()])
        if any(left is None for left, _ in pairs) or len({left for left, _ in pairs}) != len(pairs):
            raise InvalidValue("the keys of a MAP must be distinct and not NULL")
        return pairs

    def key_to_python(value: Any) -> Hashable:
        converted = key.to_python(value)
        return value if isinstance(converted, list | dict) else converted  # type: ignore[no-any-return]

    def to_python(value: Any) -> Any:
        return None if value is None else {key_to_python(left): item.to_python(right) for left, right in value}

    def to_log(value: Any) -> Any:
        return None if value is None else tuple([(key.to_log(left), item.to_log(right)) for left, right in value])

    def from_log(value: Any) -> Any:
        return None if value is None else tuple([(key.from_log(left), item.from_log(right)) for left, right in value])

    return Codec(canonical, _never_exact(name), to_python, to_log, from_log)
