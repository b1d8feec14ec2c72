"""Request headers, read as their RFCs say: lists (RFC 9110, section 5.6.1), and what may come once only."""

import re
from collections.abc import Iterable

import falcon.asgi

from timestamp_service.web.problems import Problem

# Members of a list, or a member and its parameters. A separator within a quoted string separates nothing.
_BETWEEN_COMMAS = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')
_BETWEEN_SEMICOLONS = re.compile(r'(?:[^;"]|"(?:\\.|[^"\\])*"?)+')
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_RANGE = re.compile(rf"{_NAME}/{_NAME}")
# RFC 9110, section 12.4.2.
_WEIGHT = re.compile(r"[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
# RFC 9110, section 8.8.3: nothing is escaped in it.
_ENTITY_TAG = re.compile(r'[ \t]*(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|$)')
_BLANKS = " \t"


def lines(request: falcon.asgi.Request, name: str) -> list[str]:
    """Return the values of all header lines of that name (in lower case), in their order."""
    wanted = name.encode()
    return [value.decode("latin-1") for header, value in request.scope["headers"] if header == wanted]


def single(request: falcon.asgi.Request, name: str) -> str | None:
    """Return the value of a header that may come once, or None. Raises a 400 problem when it came twice."""
    values = lines(request, name.lower())
    if len(values) > 1:
        raise Problem(400, f"The header {name} came {len(values)} times. Expected is one, or none.")
    return values[0] if values else None


def members(values: Iterable[str]) -> list[str]:
    """Return the members of a list that may be split over several lines, without the empty ones."""
    found = (member.strip(_BLANKS) for value in values for member in _BETWEEN_COMMAS.findall(value))
    return [member for member in found if member]


def parts(member: str) -> list[str]:
    """Return a member and its parameters, which semicolons separate."""
    return [part.strip(_BLANKS) for part in _BETWEEN_SEMICOLONS.findall(member)]


def accepts(accept: Iterable[str], media_type: str) -> bool:
    """Return whether the lines of a header Accept allow `media_type` (in lower case, without parameters).

    The most specific range decides (RFC 9110, section 12.5.1). A malformed member is skipped. A range with
    parameters, of which none of our answers has any, is taken as one of the type when it is wanted.
    """
    ranges = members(accept)
    if not ranges:
        return True
    kinds = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
    best, accepted = len(kinds), False
    for member in ranges:
        text, *parameters = parts(member) or [""]
        if _MEDIA_RANGE.fullmatch(text) is None or text.lower() not in kinds:
            continue
        weight = 1.0
        others = False
        for parameter in parameters:
            if parameter[:2].lower() != "q=":
                others = others or bool(parameter)
                continue
            matched = _WEIGHT.fullmatch(parameter)
            if matched is None:
                break
            weight = float(matched[1])
        else:
            place = kinds.index(text.lower())
            if place < best and (weight > 0 or not others):
                best, accepted = place, weight > 0
    return accepted


def entity_tags(values: Iterable[str]) -> list[str]:
    """Return the opaque tags of a list of entity tags, weak or not. What is none is skipped."""
    tags = []
    for value in values:
        position = 0
        while position < len(value):
            matched = _ENTITY_TAG.match(value, position)
            if matched is not None:
                tags.append(matched[1])
                position = matched.end()
                continue
            comma = value.find(",", position)
            position = len(value) if comma < 0 else comma + 1
    return tags
