"""The paths of the API, and the methods that each has in both APIs together."""

import re
from dataclasses import dataclass

READ = ("GET", "HEAD")

RECORD = "/api/v1/timestamp/{text}"
RECORDS = "/api/v1/timestamps"
NOW = ("/api/v1/timestamp", "/api/v1/timestamp/", "/app")
OPENAPI = "/api/v1/openapi.json"
DOCS = "/docs"
HEALTH = "/health"
READY = "/ready"
METRICS = "/metrics"


@dataclass(frozen=True, slots=True)
class Route:
    """A path (its variable part in braces) and its methods."""

    path: str
    methods: tuple[str, ...]


ROUTES = (
    Route(RECORD, (*READ, "POST")),
    Route(RECORDS, (*READ, "POST")),
    *(Route(path, ("POST",)) for path in NOW),
    *(Route(path, READ) for path in (OPENAPI, DOCS, HEALTH, READY, METRICS)),
)

_PATTERNS = [
    (re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path))), (*route.methods, "OPTIONS"))
    for route in ROUTES
]


def allowed(path: str) -> tuple[str, ...]:
    """Return the methods of `path`, whichever API answers them; none where there is nothing."""
    for pattern, methods in _PATTERNS:
        if pattern.fullmatch(path) is not None:
            return methods
    return ()
