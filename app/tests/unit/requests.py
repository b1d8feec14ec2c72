"""Requests as Falcon hands them to a resource."""

from collections.abc import Iterable, Mapping

import falcon.asgi
import falcon.testing


def request_with(
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
    method: str = "GET",
    emitter: falcon.testing.ASGIRequestEventEmitter | None = None,
) -> falcon.asgi.Request:
    """Return a request with these headers, of which several may have one name."""
    scope = falcon.testing.create_scope(method=method)
    sent = headers.items() if isinstance(headers, Mapping) else headers
    # As the server hands them over; the library's own are an iterator that can be read once.
    scope["headers"] = [(name.lower().encode(), value.encode("latin-1")) for name, value in sent]
    return falcon.asgi.Request(scope, emitter or falcon.testing.ASGIRequestEventEmitter())
