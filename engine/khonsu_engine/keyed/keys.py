"""What a key may be, and prefixes as ranges of keys.

Called by `batches` and `key_value`. Keys are ordered by their characters' code points, which is also the order of their UTF-8 bytes.
"""

from __future__ import annotations

from typing import Any

from khonsu_engine.commands import EVERY_KEY, KeyRange
from khonsu_engine.errors import InvalidArgument, LimitExceeded, UnstorableText

__all__ = ["KEY_BYTES_MAX", "checked_key", "checked_prefix", "prefix_range", "shown"]

KEY_BYTES_MAX = 1_024
"""Of a key as UTF-8."""

_LAST = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


def checked_key(key: Any) -> str:
    """`key` itself. Raises InvalidArgument (no text, or empty), UnstorableText, LimitExceeded."""
    if type(key) is str and key and key.isascii() and len(key) <= KEY_BYTES_MAX and "\0" not in key:
        return key
    return _checked("key", key)


def checked_prefix(prefix: Any) -> str:
    """`prefix` itself; it may be empty. Raises as `checked_key` does."""
    return "" if isinstance(prefix, str) and not prefix else _checked("prefix", prefix)


def _checked(what: str, text: Any) -> str:
    if not isinstance(text, str):
        raise InvalidArgument(f"a {what} is text (str), not {type(text).__name__}")
    if not text:
        raise InvalidArgument("a key must not be empty")
    if "\0" in text:
        raise UnstorableText(f"a {what} must not contain NUL (character {text.index(chr(0)) + 1})")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise UnstorableText(f"a {what} contains a lone surrogate (character {error.start + 1}), which UTF-8 cannot encode") from None
    if size > KEY_BYTES_MAX:
        raise LimitExceeded(f"a {what} has at most {KEY_BYTES_MAX} bytes as UTF-8, this one {size}: {shown(text)}")
    return str(text)


def prefix_range(prefix: str) -> KeyRange:
    """All keys that begin with `prefix`."""
    return KeyRange(prefix, _after(prefix), True, False) if prefix else EVERY_KEY


def _after(prefix: str) -> str | None:
    """The least text above every text with that prefix; None: there is none."""
    for position in reversed(range(len(prefix))):
        code = ord(prefix[position])
        if code != _LAST:
            following = code + 1
            return prefix[:position] + chr(_SURROGATES.stop if following in _SURROGATES else following)
    return None


def shown(key: str) -> str:
    """A key in a message."""
    return repr(key if len(key) <= 100 else key[:99] + "…")
