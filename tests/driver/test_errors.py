"""The tree of errors: classes by SQLSTATE, carets, translation of the engine's errors."""

from __future__ import annotations

import pickle

import pytest

import khonsu_sql
from khonsu_engine import errors as engine_errors
from khonsu_sql import errors
from khonsu_sql.errors import by_sqlstate, class_of, translate


@pytest.mark.parametrize(
    ("sqlstate", "name", "parent"),
    [
        ("40001", "SerializationFailure", "OperationalError"),
        ("23505", "UniqueViolation", "IntegrityError"),
        ("23502", "NotNullViolation", "IntegrityError"),
        ("22003", "NumericValueOutOfRange", "DataError"),
        ("42P01", "UndefinedTable", "ProgrammingError"),
        ("25P02", "InFailedSqlTransaction", "InternalError"),
        ("24000", "InvalidCursorState", "InternalError"),
        ("0A000", "FeatureNotSupported", "NotSupportedError"),
        ("08003", "ConnectionDoesNotExist", "OperationalError"),
        ("HY092", "InvalidOption", "InterfaceError"),
    ],
)
def test_a_sqlstate_has_its_class_and_pep_249_parent(sqlstate: str, name: str, parent: str) -> None:
    found = by_sqlstate[sqlstate]
    assert found.__name__ == name
    assert issubclass(found, getattr(khonsu_sql, parent))
    assert getattr(khonsu_sql, name) is found


def test_the_registry_holds_every_class_under_its_own_sqlstate_once() -> None:
    named = [value for name in errors.__all__ if isinstance(value := getattr(errors, name), type) and issubclass(value, errors.Error)]
    leaves = [each for each in named if not each.__subclasses__()]
    assert sorted(each.sqlstate for each in leaves) == sorted(by_sqlstate)
    assert {by_sqlstate[each.sqlstate] for each in leaves} == set(leaves)


@pytest.mark.parametrize(
    ("sqlstate", "parent"),
    [("22999", "DataError"), ("40999", "OperationalError"), ("42999", "ProgrammingError"), ("99999", "DatabaseError")],
)
def test_an_unnamed_sqlstate_falls_back_to_its_class(sqlstate: str, parent: str) -> None:
    assert class_of(sqlstate) is getattr(khonsu_sql, parent)


def test_only_conflicts_and_deadlocks_are_retryable() -> None:
    assert {each.sqlstate for each in by_sqlstate.values() if each.retryable} == {"40001", "40P01"}


def test_the_caret_stands_under_the_offending_token() -> None:
    sql = "SELECT *\n  FROMM t\nWHERE x"
    error = errors.SyntaxError_('syntax error at "FROMM"', sql=sql, position=sql.index("FROMM") + 1, hint="Did you mean FROM?")
    message, line, caret, hint = str(error).split("\n")
    assert message == 'syntax error at "FROMM"'
    assert line == "LINE 2:   FROMM t"
    assert line[caret.index("^") :].startswith("FROMM")
    assert hint == "HINT:  Did you mean FROM?"


def test_a_long_line_is_cut_around_the_caret() -> None:
    sql = f"SELECT {'a, ' * 500}BAD, {'b, ' * 500}c"
    _, line, caret = str(errors.UndefinedColumn("no", sql=sql, position=sql.index("BAD") + 1)).split("\n")
    assert len(line) < 100
    assert line[caret.index("^") :].startswith("BAD")
    assert line.startswith("LINE 1: ...") and line.endswith("...")


def test_a_position_at_the_end_of_the_text_has_a_caret_behind_it() -> None:
    _, line, caret = str(errors.SyntaxError_("unexpected end", sql="SELECT", position=7)).split("\n")
    assert (line, caret.index("^")) == ("LINE 1: SELECT", len(line))


def test_without_position_there_is_no_caret() -> None:
    assert str(errors.SyntaxError_("no", sql="SELECT")) == "no"
    assert str(errors.DataError("no", detail="because")) == "no\nDETAIL:  because"


def test_translate_keeps_everything_and_the_original_as_cause() -> None:
    original = engine_errors.SerializationConflict("conflict", detail="d", hint="h", evidence={"table": "t", "rule": "write-write"})
    error = translate(original)
    assert type(error) is errors.SerializationFailure
    assert (error.message, error.detail, error.hint, error.retryable) == ("conflict", "d", "h", True)
    assert error.evidence == {"table": "t", "rule": "write-write"}
    assert error.__cause__ is original


def test_translate_knows_every_error_of_the_engine() -> None:
    for name in engine_errors.__all__:
        engine_class = getattr(engine_errors, name)
        if engine_class is engine_errors.CommitOutcomeUnknown:
            error = translate(engine_class("m", transaction_id=b"0123456789abcdef"))
            assert isinstance(error, errors.CommitOutcomeUnknown) and error.transaction_id == b"0123456789abcdef"
        else:
            error = translate(engine_class("m"))
            assert error.sqlstate == engine_class.sqlstate
            assert error.retryable == engine_class.retryable
            assert type(error) is not errors.DatabaseError, f"{name} has no class"


def test_translate_returns_our_own_errors_as_they_are() -> None:
    error = errors.UniqueViolation("twice")
    assert translate(error) is error


def test_errors_survive_pickling() -> None:
    error = errors.CommitOutcomeUnknown("who knows", transaction_id=b"x" * 16, hint="ask")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.transaction_id) == (type(error), str(error), error.transaction_id)
