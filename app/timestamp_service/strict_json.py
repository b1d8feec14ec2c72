"""JSON as RFC 8259 has it, read strictly: no NaN, no Infinity, numbers of any length, nesting of any depth.

Python's reader is fast, but it recurses, converts numbers that nobody wants, and cannot be interrupted. What
is too deep or too long for it is read here a token at a time, and nothing is kept of what is skipped.
"""

import json
import re
from collections.abc import Collection, Generator
from typing import Any, NamedTuple, TypeVar

# Possessive: no text takes longer than in proportion to its length.
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_LEXEME = re.compile(rf"[ \t\n\r]*+(?:([\[\]{{}}:,\"])|(?:{_NUMBER}|true|false|null))")
_BLANKS = re.compile(r"[ \t\n\r]*+")
# Texts without an escape, each with its comma: so many are left to Python's reader at once. The group is not
# possessive: Python 3.11 matches such a one wrongly.
_PLAIN_TEXTS = re.compile(r'(?:[ \t\n\r]*+"[^"\\\x00-\x1f]{0,100}+"[ \t\n\r]{0,100}+,){1,32}')
_CLOSING = {"[": "]", "{": "}"}
_BRACKET = ord("[")
# So many tokens are skipped between two turns: about a millisecond.
_TURN_TOKENS = 2000

# Python's reader holds up everybody else: with a text of this length for about a millisecond at most.
QUICK_LENGTH = 32_768

Result = TypeVar("Result")


class JSONError(ValueError):
    """A text is not JSON."""


class Turn:
    """What a generator here gives where others may have their turn."""


TURN = Turn()


class _Token(NamedTuple):
    """A token: its mark (`"` of a text, "" of a number or literal), what a text holds, and where it ends."""

    mark: str
    content: str
    end: int


def loads(text: str) -> Any:
    """Return what `text` holds, numbers as 0.0. Raises JSONError, and RecursionError when it is too deep."""
    try:
        return _DECODER.decode(text)
    except ValueError as error:
        raise JSONError(str(error)) from None


def _refuse(constant: str) -> None:
    raise JSONError(f"{constant} is not JSON")


def _any_number(_text: str) -> float:
    return 0.0


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_int=_any_number, parse_float=_any_number)


def texts_in_object(text: str, names: Collection[str]) -> dict[str, str | None] | None:
    """Return the members of the object `text` that have one of `names`: a text, or None for any other value.

    The last of several members of a name counts. Returns None where `text` is JSON, but no object. Raises
    JSONError.
    """
    try:
        content = loads(text)
    except RecursionError:
        return run(_read_object(text, names))
    if not isinstance(content, dict):
        return None
    wanted = ((name, content[name]) for name in names if name in content)
    return {name: member if isinstance(member, str) else None for name, member in wanted}


def elements(text: str) -> Generator[list[str | None] | Turn, None, bool]:
    """Give the elements of the array `text`, some at a time: texts, or None for any other value; TURN too.

    Returns whether `text` is an array; it is some other JSON where not. Raises JSONError, after some elements
    perhaps.
    """
    token = _token(text, 0)
    if token.mark != "[":
        _end(text, (yield from _skip(text, 0)))
        return False
    position = token.end
    token = _token(text, position)
    while token.mark != "]":
        plain = _PLAIN_TEXTS.match(text, position)
        if plain is not None:
            yield loads(f"[{plain[0][:-1]}]")
            position = plain.end()
        token = _token(text, position)
        if token.mark == '"':
            yield [token.content]
            position = token.end
        else:
            position = yield from _skip(text, position)
            yield [None]
        token = _token(text, position)
        if token.mark == ",":
            position = token.end
        elif token.mark != "]":
            raise JSONError("a comma is missing")
    _end(text, token.end)
    return True


def value(text: str) -> Generator[Turn, None, str | None]:
    """Return the text that `text` holds, or None where it is another value; give TURN now and then.

    Raises JSONError.
    """
    token = _token(text, 0)
    if token.mark == '"':
        _end(text, token.end)
        return token.content
    _end(text, (yield from _skip(text, 0)))
    return None


def run(steps: Generator[Turn, None, Result]) -> Result:
    """Run `steps` without giving anybody a turn, and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


def _read_object(text: str, names: Collection[str]) -> Generator[Turn, None, dict[str, str | None] | None]:
    token = _token(text, 0)
    if token.mark != "{":
        _end(text, (yield from _skip(text, 0)))
        return None
    members: dict[str, str | None] = {}
    token = _token(text, token.end)
    while token.mark != "}":
        if token.mark != '"':
            raise JSONError("the name of a member is missing")
        name = token.content
        token = _token(text, token.end)
        if token.mark != ":":
            raise JSONError("a colon is missing")
        position = token.end
        if name in names:
            token = _token(text, position)
            members[name] = token.content if token.mark == '"' else None
        token = _token(text, (yield from _skip(text, position)))
        if token.mark == ",":
            token = _token(text, token.end)
            if token.mark == "}":
                raise JSONError("a member is missing")
        elif token.mark != "}":
            raise JSONError("a comma is missing")
    _end(text, token.end)
    return members


def _skip(text: str, position: int) -> Generator[Turn, None, int]:
    """Return the position behind the value that begins at `position`. Raises JSONError."""
    # What is open around the place, the innermost last.
    opened = bytearray()
    expected = "value"
    count = 0
    while True:
        count += 1
        if count % _TURN_TOKENS == 0:
            yield TURN
        mark, _, position = _token(text, position)
        if mark == '"' and expected in ("name", "name or }"):
            expected = "colon"
            continue
        if mark in ("", '"'):
            if expected not in ("value", "value or ]"):
                raise JSONError(f"expected a {expected}")
        elif mark in _CLOSING and expected in ("value", "value or ]"):
            opened += mark.encode()
            expected = "value or ]" if mark == "[" else "name or }"
            continue
        elif mark == ":" and expected == "colon":
            expected = "value"
            continue
        elif mark == "," and expected == "comma":
            expected = "value" if opened[-1] == _BRACKET else "name"
            continue
        elif expected in ("comma", f"value or {mark}", f"name or {mark}") and (
            _CLOSING[chr(opened[-1])] == mark
        ):
            opened.pop()
        else:
            raise JSONError(f"expected a {expected}")
        # A value has ended.
        if not opened:
            return position
        expected = "comma"


def _token(text: str, position: int) -> _Token:
    lexeme = _LEXEME.match(text, position)
    if lexeme is None:
        raise JSONError("what follows is not JSON")
    mark, end = lexeme[1] or "", lexeme.end()
    if mark != '"':
        return _Token(mark, "", end)
    try:
        return _Token(mark, *_DECODER.raw_decode(text, lexeme.start(1)))
    except ValueError as error:
        raise JSONError(str(error)) from None


def _end(text: str, position: int) -> None:
    blanks = _BLANKS.match(text, position)
    if blanks is None or blanks.end() != len(text):
        raise JSONError("something follows")
