"""DuckDB's exceptions as ours: one table, tried from the top.

Called wherever DuckDB is. DuckDB tells little by its classes (a division by zero is an InvalidInputException), so its messages are
read; `tests/query/test_translation.py` provokes each line of the table, so that another DuckDB cannot change one silently.

What is shown is cleaned: no quotation of the generated query, no list of candidates, no advice about DuckDB's settings, and no name
that was generated for a source. Names were resolved by `sql.bind` before, so few errors about them are seen here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import duckdb

from khonsu_sql.errors import Error, class_of
from khonsu_sql.sql.query.relations import Served

__all__ = ["RULES", "Rule", "from_text", "translate_duckdb"]


class Rule(NamedTuple):
    """An exception of class `kind` whose message contains `pattern` is SQLSTATE `sqlstate`, with `message` (None: DuckDB's, cleaned)."""

    kind: type[duckdb.Error]
    pattern: str
    sqlstate: str
    message: str | None = None
    hint: str | None = None


_ANY = duckdb.Error
_BINDER = duckdb.BinderException
_CATALOG = duckdb.CatalogException
_CONVERSION = duckdb.ConversionException
_INPUT = duckdb.InvalidInputException
_CASTS = "No function matches the given name and argument types: add explicit type casts."

RULES: tuple[Rule, ...] = (
    Rule(duckdb.InterruptException, "", "57014", "the statement was cancelled"),
    Rule(duckdb.OutOfMemoryException, "", "53200", "out of memory", "The statement needs more memory than DuckDB may use."),
    Rule(_ANY, r"Division by zero", "22012", "division by zero"),
    Rule(_ANY, r"Max expression depth limit", "54001", "the statement is nested too deeply"),
    Rule(_ANY, r"More than one row returned by a subquery", "21000", "more than one row returned by a subquery used as an expression"),
    # values
    Rule(_ANY, r"extract specifier", "22023"),
    Rule(_ANY, r"Unknown TimeZone '(.*?)'", "22023", "time zone {0!r} is not known"),
    Rule(_ANY, r"(?:date|time|timestamp) field value out of range", "22008"),
    Rule(_ANY, r"(?i)^(?:date|timestamp|time|interval).*out of range|Epoch .*out of range|not in timestamp range", "22008"),
    Rule(_ANY, r"invalid (?:date|time|timestamp) field format|Could not parse string", "22007"),
    Rule(_ANY, r"out of range for the destination type|Overflow |Could not cast value .* to DECIMAL", "22003"),
    Rule(_ANY, r"Casting value .* to type DECIMAL.* failed: value is out of range", "22003"),
    Rule(duckdb.OutOfRangeException, "", "22003"),
    Rule(_CONVERSION, r"Unimplemented type for cast \((.*?) -> (.*?)\)", "42846", "cannot cast type {0} to {1}"),
    Rule(_CONVERSION, r"Cannot cast ", "42846"),
    Rule(_CONVERSION, "", "22P02"),
    Rule(_INPUT, r"Malformed JSON", "22P02"),
    # functions
    Rule(_BINDER, r"No function matches the given name and argument types '(.*?)'\.", "42883", "function {0} does not exist", _CASTS),
    Rule(_BINDER, r'Could not choose a best candidate function .*? "(.*?)"\.', "42725", "function {0} is not unique", _CASTS),
    Rule(_CATALOG, r'Function with name "?([^ "]*)"? (?:does not exist|is not in the catalog)', "42883", "function {0} does not exist"),
    # names
    Rule(_CATALOG, r"Type with name (\S+) does not exist", "42704", 'type "{0}" does not exist'),
    Rule(_CATALOG, r"Collation with name (\S+) does not exist", "42704", 'collation "{0}" does not exist'),
    Rule(_CATALOG, r'Table with name "?([^ "]*)"? does not exist', "42P01", 'table "{0}" does not exist'),
    Rule(_CATALOG, r"Sequence with name (\S+) does not exist", "42P01", 'sequence "{0}" does not exist'),
    Rule(_CATALOG, "", "42704"),
    Rule(_BINDER, r'(?:Referenced column|does not have a column named|^Column) "(.*?)"', "42703", 'column "{0}" does not exist'),
    Rule(_BINDER, r'Could not find key "(.*?)" in struct', "42703", 'field "{0}" does not exist'),
    Rule(_BINDER, r'Referenced table "(.*?)" not found', "42P01", 'missing FROM-clause entry for table "{0}"'),
    Rule(_BINDER, r'Ambiguous reference to column name "(.*?)"', "42702", 'column reference "{0}" is ambiguous'),
    # meaning
    Rule(_BINDER, r"GROUP BY clause|aggregate function calls cannot be nested|cannot contain aggregates", "42803"),
    Rule(_BINDER, r"(?i)window function", "42P20"),
    Rule(_BINDER, r"Subquery returns \d+ columns|Set operations can only apply", "42601"),
    Rule(_BINDER, r"LIMIT/OFFSET cannot be negative", "2201W"),
    Rule(_BINDER, r"ORDER term out of range", "42P10"),
    Rule(_BINDER, r"Cannot extract field '(.*?)' from expression", "42809", "field {0!r} of something that is not a STRUCT"),
    Rule(_BINDER, r"DECIMAL type|parameters in the range", "22023"),
    Rule(_BINDER, r"Cannot |can only be applied|Could not convert|does not match|incompatible", "42804"),
    Rule(_BINDER, "", "42000"),
    Rule(duckdb.TypeMismatchException, "", "42804"),
    Rule(duckdb.InvalidTypeException, "", "42804"),
    # what is left: bad arguments, what DuckDB cannot or may not do, and what must not happen
    Rule(duckdb.ConstraintException, "", "23000"),
    Rule(_INPUT, r"Values were not provided|Parameter argument/count mismatch", "XX000"),
    Rule(_INPUT, r"the object registered as|the stream registered as", "XX000", "internal error: a relation cannot be read"),
    Rule(_INPUT, "", "22023"),
    Rule(duckdb.NotImplementedException, "", "0A000"),
    Rule(duckdb.PermissionException, "", "42501"),
    Rule(duckdb.ParserException, r"syntax error", "42601", "syntax error: the statement means nothing to DuckDB"),
    Rule(duckdb.ParserException, "", "42601"),
    Rule(duckdb.IOException, "", "58030"),
    Rule(_ANY, "", "XX000"),
)

_PREFIX = re.compile(r"^([A-Za-z ]{1,30}) Error: ")
_KINDS: dict[str, type[duckdb.Error]] = {
    "Binder": duckdb.BinderException,
    "Catalog": duckdb.CatalogException,
    "Constraint": duckdb.ConstraintException,
    "Conversion": duckdb.ConversionException,
    "FATAL": duckdb.FatalException,
    "INTERNAL": duckdb.InternalException,
    "INTERRUPT": duckdb.InterruptException,
    "IO": duckdb.IOException,
    "Invalid Input": duckdb.InvalidInputException,
    "Not implemented": duckdb.NotImplementedException,
    "Out of Memory": duckdb.OutOfMemoryException,
    "Out of Range": duckdb.OutOfRangeException,
}
_SUGGESTION = re.compile(r'Did you mean "([^"]*)"\?')
_REST = re.compile(r"\s*(?:\n\nLINE \d+:|\n\s*Candidate |\nCandidate |\nDid you mean|\n\nUse \"SET|\n\nDid you mean)")


def from_text(error: Exception) -> duckdb.Error:
    """DuckDB's exception for what Arrow raises when a stream breaks off: an OSError with DuckDB's text."""
    match = _PREFIX.match(str(error))
    return _KINDS.get(match[1] if match else "", duckdb.Error)(str(error))


def translate_duckdb(error: duckdb.Error, relations: Iterable[Served] = ()) -> Error:
    """Our error for DuckDB's, to be raised from it. `relations`: whose generated names may not be shown."""
    text = _PREFIX.sub("", str(error))
    for rule in RULES:
        if isinstance(error, rule.kind):
            match = re.search(rule.pattern, text)
            if match is not None:
                return _made(rule, match, text, relations)
    raise AssertionError("the last rule takes everything")


def _made(rule: Rule, match: re.Match[str], text: str, relations: Iterable[Served]) -> Error:
    message = _cleaned(text) if rule.message is None else rule.message.format(*match.groups())
    hint = rule.hint
    if hint is None and rule.sqlstate in ("42883", "42704"):
        suggestion = _SUGGESTION.search(text)
        hint = None if suggestion is None else f"Did you mean {suggestion[1]}?"
    return class_of(rule.sqlstate)(_without(relations, message), sqlstate=rule.sqlstate, hint=hint)


def _cleaned(text: str) -> str:
    """The first statement of the message."""
    return _REST.split(text, maxsplit=1)[0].strip() or "DuckDB gave no reason"


def _without(relations: Iterable[Served], message: str) -> str:
    """`message` with what people call the sources in place of their generated names."""
    for served in relations:
        name = re.escape(served.name)
        message = re.sub(rf'(?:temp\.main\.)?(?:"{name}"|\b{name}\b)\.(?=["\w])', "", message)
        message = message.replace(f'"{served.name}"', f'"{served.shown}"')
    return message
