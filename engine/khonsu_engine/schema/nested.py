"""Canonical lists, structs and maps: tuples of canonical values.

Called by `codecs` only, with the codecs of the parts. A list from Python must hold values of one Python class: for a
mixed one DuckDB first looks for a common type, which is its to decide (NeedsCast). Struct fields are found by their exact names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from khonsu_engine.errors import InvalidValue
from khonsu_engine.schema.values import Codec, Converter, identity, needs_cast, plain

__all__ = ["list_codec", "map_codec", "struct_codec", "tuple_codec"]


def _of_one_class(values: Iterable[Any], name: str) -> None:
    classes = {type(value) for value in values if value is not None}
    if len(classes) > 1:
        raise needs_cast(values, name)


def _unless_null(convert: Converter) -> Converter:
    return lambda value: None if value is None else convert(value)


def _never_exact(name: str) -> Converter:
    def exact(value: Any) -> Any:
        if value is None:
            return None
        raise needs_cast(value, name)

    return exact


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

    def each(convert: Converter, container: Callable[[list[Any]], Any] = tuple) -> Converter:
        return _unless_null(lambda value: container([convert(part) for part in value]))

    to_python = each(element.to_python, list)
    return Codec(canonical, _never_exact(name), to_python, each(element.to_log), each(element.from_log), each(element.from_python))


def struct_codec(name: str, fields: tuple[tuple[str, Codec], ...]) -> Codec:
    """STRUCT: a tuple in the order of the fields; the driver returns a dict."""
    expected = {field for field, _ in fields}
    parts = [codec for _, codec in fields]

    def canonical(value: Any) -> Any:
        value = plain(value)
        if value is None:
            return None
        if not isinstance(value, Mapping) or value.keys() != expected:
            raise needs_cast(value, name)
        return tuple([codec.canonical(value[field]) for field, codec in fields])

    def to_python(value: Any) -> Any:
        return {field: codec.to_python(part) for (field, codec), part in zip(fields, value, strict=True)}

    def from_python(value: Any) -> Any:
        return tuple([codec.from_python(value[field]) for field, codec in fields])

    to_log, from_log = _each_of([part.to_log for part in parts]), _each_of([part.from_log for part in parts])
    return Codec(canonical, _never_exact(name), _unless_null(to_python), to_log, from_log, _unless_null(from_python))


def _each_of(converters: Sequence[Converter]) -> Converter:
    """Convert the parts of a tuple, each in its way."""
    return _unless_null(lambda value: tuple([convert(part) for convert, part in zip(converters, value, strict=True)]))


def tuple_codec(name: str, parts: Sequence[Codec]) -> Codec:
    """TUPLE: a struct whose fields have no names; the driver returns a tuple. It occurs in results only."""
    to_python, to_log = _each_of([part.to_python for part in parts]), _each_of([part.to_log for part in parts])
    from_log, from_python = _each_of([part.from_log for part in parts]), _each_of([part.from_python for part in parts])
    return Codec(_never_exact(name), _never_exact(name), to_python, to_log, from_log, from_python)


def map_codec(name: str, key: Codec, item: Codec, hashable: bool) -> Codec:
    """MAP: a tuple of (key, value) in the order given; the driver returns a dict. `hashable`: what the driver returns for a key
    can be one in a dict; otherwise (lists) keys stay canonical."""

    def canonical(value: Any) -> Any:
        value = plain(value)
        if value is None:
            return None
        if not isinstance(value, Mapping) or value.keys() == {"key", "value"}:
            raise needs_cast(value, name)
        _of_one_class(value.keys(), name)
        _of_one_class(value.values(), name)
        pairs = tuple([(key.canonical(left), item.canonical(right)) for left, right in value.items()])
        if any(left is None for left, _ in pairs) or len({left for left, _ in pairs}) != len(pairs):
            raise InvalidValue("the keys of a MAP must be distinct and not NULL")
        return pairs

    key_to_python, key_from_python = (key.to_python, key.from_python) if hashable else (identity, identity)

    def to_python(value: Any) -> Any:
        return {key_to_python(left): item.to_python(right) for left, right in value}

    def from_python(value: Any) -> Any:
        return tuple([(key_from_python(left), item.from_python(right)) for left, right in value.items()])

    def pairs_of(left: Converter, right: Converter) -> Converter:
        return _unless_null(lambda value: tuple([(left(first), right(second)) for first, second in value]))

    logged, read = pairs_of(key.to_log, item.to_log), pairs_of(key.from_log, item.from_log)
    return Codec(canonical, _never_exact(name), _unless_null(to_python), logged, read, _unless_null(from_python))
