"""Caching of records (RFC 9110, 9111): none ever changes, so that its id is its version too."""

import falcon.asgi

# Private: whoever may read may be decided by a client certificate.
FOR_EVER = "private, max-age=31536000, immutable"
NEVER = "no-store"


def entity_tag(identifier: str) -> str:
    """Return the ETag of the record of that id."""
    return f'"{identifier}"'


def has_it(request: falcon.asgi.Request, identifier: str) -> bool:
    """Return whether the header If-None-Match says that the client has the record of that id."""
    if request.get_header("If-None-Match") is None:
        return False
    # The comparison is a weak one (RFC 9110, section 13.1.2).
    return any(tag in ("*", identifier) for tag in request.if_none_match or ())
