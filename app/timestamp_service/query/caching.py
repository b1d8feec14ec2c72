"""Caching of records (RFC 9110, 9111): none ever changes, so that its id is its version too."""

import falcon.asgi

from timestamp_service.web import headers

# Private: whoever may read may be decided by a client certificate.
FOR_EVER = "private, max-age=31536000, immutable"
NEVER = "no-store"


def entity_tag(identifier: str) -> str:
    """Return the ETag of the record of that id."""
    return f'"{identifier}"'


def has_it(request: falcon.asgi.Request, identifier: str) -> bool:
    """Return whether the header If-None-Match says that the client has the record of that id."""
    values = headers.lines(request, "if-none-match")
    # The comparison is a weak one (RFC 9110, section 13.1.2). In quotes, * is a tag as any other.
    return headers.members(values) == ["*"] or identifier in headers.entity_tags(values)
