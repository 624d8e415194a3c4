"""Canonical text, bytes, UUIDs, JSON and enumerations.

Called by `codecs` only. Text is any Unicode without NUL and without lone surrogates (22021, as PostgreSQL; DuckDB would take
NUL). `VARCHAR(n)` is enforced as in PostgreSQL: at most n characters, of which trailing blanks beyond n are cut.
JSON is the text itself, never re-formatted; dicts, lists and integers become compact JSON text (how a float is spelled is
DuckDB's affair).
"""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import UUID

from khonsu_engine.errors import InvalidValue, StringTooLong, UnstorableText
from khonsu_engine.schema.values import WIDEST, Codec, identity, needs_cast, plain, shown

__all__ = ["blob", "enumeration", "json_text", "storable", "uuid_codec", "varchar"]

_UUID_TEXT = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def storable(text: str) -> str:
    """`text` itself. Raises UnstorableText."""
    if "\0" in text:
        raise UnstorableText(f"text must not contain NUL (character {text.index(chr(0)) + 1})", hint="Use a BLOB column for bytes.")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UnstorableText(f"text contains a lone surrogate (character {error.start + 1}), which UTF-8 cannot encode") from None
    return text


def varchar(length: int) -> Codec:
    """VARCHAR, of at most `length` characters if that is not 0."""

    def canonical(value: Any) -> Any:
        if type(value) is not str:
            value = _as_text(value)
            if value is None:
                return None
        if length and len(value) > length:
            value = shortened(value, length)
        if value.isascii() and "\0" not in value:
            return value
        return storable(value)

    return Codec(canonical, exact_text, identity, identity, identity)


def shortened(text: str, length: int) -> str:
    """`text` without the blanks beyond `length` characters. Raises StringTooLong when there is more than blanks."""
    if text[length:].strip(" "):
        raise StringTooLong(f"value too long for type VARCHAR({length}): {len(text)} characters, {shown(text)}")
    return text[:length]


def _as_text(value: Any) -> str | None:
    value = plain(value)
    match value:
        case None:
            return None
        case str():
            return str(value)
        case bool():
            return "true" if value else "false"
        case int() if abs(value) < WIDEST:
            return str(int(value))
    raise needs_cast(value, "VARCHAR")


def exact_text(value: Any) -> Any:
    """Text compares with text only."""
    value = plain(value)
    if value is None:
        return None
    if isinstance(value, str):
        return storable(str(value))
    raise needs_cast(value, "VARCHAR")


def blob() -> Codec:
    """BLOB: bytes."""

    def canonical(value: Any) -> Any:
        if type(value) is bytes:
            return value
        value = plain(value)
        if value is None:
            return None
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        raise needs_cast(value, "BLOB")

    return Codec(canonical, canonical, identity, identity, identity)


def uuid_codec() -> Codec:
    """UUID: `uuid.UUID`; text in its usual spelling."""

    def exact(value: Any) -> Any:
        if value is None or type(value) is UUID:
            return value
        if isinstance(value, UUID):
            return UUID(int=value.int)
        raise needs_cast(value, "UUID")

    def canonical(value: Any) -> Any:
        value = plain(value)
        if isinstance(value, str) and _UUID_TEXT.match(value):
            return UUID(value)
        return exact(value)

    return Codec(canonical, exact, identity, _uuid_to_log, _uuid_from_log)


def _uuid_to_log(value: UUID | None) -> bytes | None:
    return None if value is None else value.bytes


def _uuid_from_log(value: bytes | None) -> UUID | None:
    return None if value is None else UUID(bytes=value)


def json_text() -> Codec:
    """JSON: its text. Two texts of one document are different values, as in DuckDB; so JSON is no key."""

    def canonical(value: Any) -> Any:
        value = plain(value)
        match value:
            case None:
                return None
            case str():
                return _checked_json(value)
            case list() | tuple() | dict():
                return _json_of(value)
            case int() if abs(value) < WIDEST:
                return _json_of(value)
        raise needs_cast(value, "JSON")

    def exact(value: Any) -> Any:
        if value is None:
            return None
        raise needs_cast(value, "JSON")

    return Codec(canonical, exact, identity, identity, identity)


def _not_json(constant: str) -> Any:
    raise ValueError(constant)


def _checked_json(text: str) -> str:
    """`text`, if it is JSON beyond doubt: DuckDB takes a little more (`[1,]`) and refuses escapes of half a character."""
    storable(text)
    try:
        document = json.loads(text, parse_constant=_not_json)
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise needs_cast(text, "JSON") from None
    return text


def _json_of(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidValue(f"cannot be written as JSON ({error}): {shown(value)}") from None
    return storable(text)


def enumeration(members: tuple[str, ...]) -> Codec:
    """ENUM: one of `members`, as text. Its order in SQL is that of `members`, not that of the text."""
    known = {member: member for member in members}

    def canonical(value: Any) -> Any:
        value = plain(value)
        if value is None:
            return None
        if isinstance(value, str):
            found = known.get(value)
            if found is not None:
                return found
            raise InvalidValue(f"{shown(value)} is not a value of this ENUM", hint=f"It has {', '.join(map(repr, members))}.")
        raise needs_cast(value, "ENUM")

    def exact(value: Any) -> Any:
        if isinstance(value, str) and value not in known:
            raise needs_cast(value, "ENUM")
        return canonical(value)

    return Codec(canonical, exact, identity, identity, identity)
