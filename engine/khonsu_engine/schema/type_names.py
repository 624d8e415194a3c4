"""From the name of a type to `SqlType`: PostgreSQL's and DuckDB's spellings, in any case.

Called by the front's DDL and CAST binding (`parse_type`) and by `arrow_rows` for DuckDB's own names. Where the two dialects disagree
PostgreSQL's meaning wins: FLOAT is eight bytes, CHAR is CHAR(1). Unknown names raise UndefinedType with the nearest known one,
known ones that have no home here (SERIAL, TIMETZ, BIT, …) raise NotSupported.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import lru_cache

from khonsu_engine.errors import InvalidValue, NotSupported, UndefinedType
from khonsu_engine.schema.sql_type import KINDS, SqlType

__all__ = ["parse_type"]

_NAMES: dict[str, str] = {
    "tinyint": "TINYINT", "int1": "TINYINT",
    "smallint": "SMALLINT", "int2": "SMALLINT", "short": "SMALLINT",
    "integer": "INTEGER", "int": "INTEGER", "int4": "INTEGER", "signed": "INTEGER",
    "bigint": "BIGINT", "int8": "BIGINT", "long": "BIGINT", "oid": "BIGINT",
    "hugeint": "HUGEINT", "int128": "HUGEINT",
    "utinyint": "UTINYINT", "uint8": "UTINYINT",
    "usmallint": "USMALLINT", "uint16": "USMALLINT",
    "uinteger": "UINTEGER", "uint32": "UINTEGER",
    "ubigint": "UBIGINT", "uint64": "UBIGINT",
    "decimal": "DECIMAL", "numeric": "DECIMAL", "dec": "DECIMAL",
    "real": "REAL", "float4": "REAL",
    "double": "DOUBLE", "double precision": "DOUBLE", "float8": "DOUBLE", "float": "DOUBLE",
    "boolean": "BOOLEAN", "bool": "BOOLEAN", "logical": "BOOLEAN",
    "varchar": "VARCHAR", "text": "VARCHAR", "string": "VARCHAR", "character varying": "VARCHAR", "nvarchar": "VARCHAR",
    "char": "CHAR", "character": "CHAR", "bpchar": "VARCHAR", "name": "VARCHAR",
    "blob": "BLOB", "bytea": "BLOB", "binary": "BLOB", "varbinary": "BLOB",
    "date": "DATE",
    "time": "TIME", "time without time zone": "TIME",
    "timestamp": "TIMESTAMP", "datetime": "TIMESTAMP", "timestamp without time zone": "TIMESTAMP", "timestamp_us": "TIMESTAMP",
    "timestamp_s": "TIMESTAMP_S", "timestamp_ms": "TIMESTAMP_MS", "timestamp_ns": "TIMESTAMP_NS",
    "timestamptz": "TIMESTAMPTZ", "timestamp with time zone": "TIMESTAMPTZ",
    "interval": "INTERVAL",
    "uuid": "UUID", "guid": "UUID",
    "json": "JSON",
    "null": "NULL",
}  # fmt: skip

_REFUSED: dict[str, str] = {
    "jsonb": "Use JSON: its text is kept as it was given.",
    "serial": "Use BIGINT and choose the keys, or no primary key.",
    "bigserial": "Use BIGINT and choose the keys, or no primary key.",
    "smallserial": "Use SMALLINT and choose the keys, or no primary key.",
    "timetz": "Use TIME or TIMESTAMPTZ.",
    "time with time zone": "Use TIME or TIMESTAMPTZ.",
    "time_ns": "Use TIME (microseconds).",
    "timestamptz_ns": "Use TIMESTAMPTZ (microseconds) or TIMESTAMP_NS.",
    "uhugeint": "Use HUGEINT or DECIMAL(38,0).",
    "bit": "Use BLOB, or VARCHAR for its digits.",
    "bit varying": "Use BLOB, or VARCHAR for its digits.",
    "bitstring": "Use BLOB, or VARCHAR for its digits.",
    "bignum": "Use DECIMAL(38,0) or VARCHAR.",
    "varint": "Use DECIMAL(38,0) or VARCHAR.",
    "union": "Use a STRUCT with one field per alternative.",
    "variant": "Use JSON.",
    "geometry": "Use BLOB (WKB).",
    "xml": "Use VARCHAR.",
    "money": "Use DECIMAL(18,2).",
    "inet": "Use VARCHAR.",
    "tsvector": "Use VARCHAR.",
}

_TOKEN = re.compile(r"""\s*(?:("(?:[^"]|"")*")|('(?:[^']|'')*')|([^\W\d]\w*)|(\d+)|([(),\[\]]))""")
_DEPTH_MAX = 32


@lru_cache(maxsize=1024)
def parse_type(text: str, *, duckdb: bool = False) -> SqlType:
    """The type that `text` names. With `duckdb` the text is DuckDB's own (`typeof`): there FLOAT has four bytes.

    Raises UndefinedType, NotSupported, InvalidValue (a precision or length that cannot be)."""
    parser = _Parser(text, duckdb)
    result = parser.type(0)
    if parser.position < len(parser.tokens):
        raise parser.unreadable()
    return result


def _tokens(text: str) -> list[str]:
    tokens, position, end = [], 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise UndefinedType(f"cannot read the type {text[:80]!r} at {text[position : position + 10]!r}")
        tokens.append(match[0].strip())
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens of one type."""

    def __init__(self, text: str, duckdb: bool) -> None:
        self.text = text[:200]
        self.duckdb = duckdb
        self.tokens = _tokens(text)
        self.position = 0

    def unreadable(self) -> UndefinedType:
        return UndefinedType(f"cannot read the type {self.text!r}")

    def peek(self, ahead: int = 0) -> str:
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise self.unreadable()
        self.position += 1
        return token

    def accept(self, token: str) -> bool:
        if self.peek() != token:
            return False
        self.position += 1
        return True

    def type(self, depth: int) -> SqlType:
        if depth > _DEPTH_MAX:
            raise NotSupported(f"types may be nested {_DEPTH_MAX} deep")
        result = self.base(depth)
        while self.accept("["):
            if self.peek().isdigit():
                self.fixed_size()
            self.take("]")
            result = SqlType("LIST", element=result)
        return result

    def fixed_size(self) -> None:
        """DuckDB's T[3]: read as a list in results, refused as a column's type."""
        if not self.duckdb:
            raise NotSupported(f"arrays of a fixed size are not supported: {self.text}", hint="Use a list: T[].")
        self.take()

    def base(self, depth: int) -> SqlType:
        name = self.name()
        match name:
            case "enum":
                return self.enumeration()
            case "struct" | "row" if self.peek() == "(":
                return self.struct(depth)
            case "tuple" if self.duckdb and self.accept("("):
                return self.tuple(depth)
            case "map" if self.peek() == "(":
                self.take("(")
                key = self.type(depth + 1)
                self.take(",")
                item = self.type(depth + 1)
                self.take(")")
                return SqlType("MAP", key=key, element=item)
            case "list" if self.accept("("):
                element = self.type(depth + 1)
                self.take(")")
                return SqlType("LIST", element=element)
        return self.scalar(name)

    def name(self) -> str:
        """The words of a name; `TIMESTAMP(6) WITH TIME ZONE` has its precision in between."""
        name = _unquoted(self.take()).lower()
        following = {"double": ("precision",), "character": ("varying",), "bit": ("varying",)}.get(name, ())
        for word in following:
            if self.peek().lower() == word:
                name = f"{name} {self.take().lower()}"
        return name

    def arguments(self) -> list[int]:
        numbers: list[int] = []
        if self.accept("("):
            while not self.accept(")"):
                token = self.take()
                if not token.isdigit() or len(token) > 9:
                    raise self.unreadable()
                numbers.append(int(token))
                if self.peek() != ")":
                    self.take(",")
        return numbers

    def zone(self, name: str) -> str:
        words = [self.peek(number).lower() for number in range(3)]
        if name in ("timestamp", "time") and words[1:] == ["time", "zone"] and words[0] in ("with", "without"):
            self.position += 3
            return f"{name} {' '.join(words)}"
        return name

    def scalar(self, name: str) -> SqlType:
        if name not in _NAMES:
            raise _unknown(name)
        arguments = self.arguments()
        name = self.zone(name)
        kind = _NAMES.get(name)
        if kind is None:
            raise _unknown(name)
        if self.duckdb and name == "float":
            return SqlType("REAL")
        return _with_arguments(kind, name, arguments)

    def enumeration(self) -> SqlType:
        self.take("(")
        members = [_unquoted(self.take())]
        while self.accept(","):
            members.append(_unquoted(self.take()))
        self.take(")")
        if len(set(members)) != len(members):
            raise InvalidValue(f"the values of an ENUM must differ: {self.text}")
        return SqlType("ENUM", members=tuple(members))

    def struct(self, depth: int) -> SqlType:
        self.take("(")
        fields: list[tuple[str, SqlType]] = []
        while not fields or self.accept(","):
            name = _unquoted(self.take())
            fields.append((name, self.type(depth + 1)))
        self.take(")")
        if len({name.casefold() for name, _ in fields}) != len(fields):
            raise InvalidValue(f"the fields of a STRUCT must have different names: {self.text}")
        return SqlType("STRUCT", fields=tuple(fields))

    def tuple(self, depth: int) -> SqlType:
        parts = [self.type(depth + 1)]
        while self.accept(","):
            parts.append(self.type(depth + 1))
        self.take(")")
        return SqlType("TUPLE", fields=tuple((f"element{number}", part) for number, part in enumerate(parts, 1)))


def _unquoted(token: str) -> str:
    if token[0] in "\"'":
        return token[1:-1].replace(token[0] * 2, token[0])
    return token


def _unknown(name: str) -> UndefinedType | NotSupported:
    if name in _REFUSED:
        return NotSupported(f"type {name.upper()} is not supported", hint=_REFUSED[name])
    near = get_close_matches(name, [*_NAMES, *_REFUSED, *(kind.lower() for kind in KINDS)], n=1, cutoff=0.5)
    return UndefinedType(f"type {name!r} does not exist", hint=f"Did you mean {near[0].upper()}?" if near else None)


def _with_arguments(kind: str, name: str, arguments: list[int]) -> SqlType:
    match kind, arguments:
        case "DECIMAL", _:
            return _decimal(arguments)
        case "CHAR", _:
            return _text(arguments or [1])
        case "VARCHAR", _:
            return _text(arguments)
        case "DOUBLE", [bits] if name == "float" and 1 <= bits <= 53:
            return SqlType("REAL" if bits <= 24 else "DOUBLE")
        case "TIMESTAMP", [digits] if digits <= 9:
            return SqlType(next(found for most, found in _TIMESTAMPS if digits <= most))
        case "TIMESTAMPTZ" | "TIME", [6]:
            return SqlType(kind)
        case _, []:
            return SqlType(kind)
    raise InvalidValue(f"type {name.upper()} cannot have the arguments {tuple(arguments)}")


_TIMESTAMPS = ((0, "TIMESTAMP_S"), (3, "TIMESTAMP_MS"), (6, "TIMESTAMP"), (9, "TIMESTAMP_NS"))


def _decimal(arguments: list[int]) -> SqlType:
    match arguments:
        case []:
            return SqlType("DECIMAL", precision=18, scale=3)
        case [precision] if 1 <= precision <= 38:
            return SqlType("DECIMAL", precision=precision)
        case [precision, scale] if 1 <= precision <= 38 and scale <= precision:
            return SqlType("DECIMAL", precision=precision, scale=scale)
    raise InvalidValue(f"DECIMAL takes a precision from 1 to 38 and a scale up to the precision, not {tuple(arguments)}")


def _text(arguments: list[int]) -> SqlType:
    if len(arguments) > 1 or arguments == [0]:
        raise InvalidValue(f"VARCHAR takes one length of at least 1, not {tuple(arguments)}")
    return SqlType("VARCHAR", length=arguments[0] if arguments else 0)
