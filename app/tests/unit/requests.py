"""Requests as Falcon hands them to a resource."""

import falcon.asgi
import falcon.testing


def request_with(headers: dict[str, str]) -> falcon.asgi.Request:
    """Return a GET request with these headers."""
    scope = falcon.testing.create_scope(headers=headers)
    return falcon.asgi.Request(scope, falcon.testing.ASGIRequestEventEmitter())
