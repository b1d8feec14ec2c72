import pytest

from timestamp_service.web import routes


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/api/v1/timestamp/2009-09-28T19:03:12Z", ("GET", "HEAD", "POST", "OPTIONS")),
        ("/api/v1/timestamp/x", ("GET", "HEAD", "POST", "OPTIONS")),
        ("/api/v1/timestamp", ("POST", "OPTIONS")),
        ("/api/v1/timestamp/", ("POST", "OPTIONS")),
        ("/api/v1/timestamps", ("GET", "HEAD", "POST", "OPTIONS")),
        ("/app", ("POST", "OPTIONS")),
        ("/health", ("GET", "HEAD", "OPTIONS")),
        ("/ready", ("GET", "HEAD", "OPTIONS")),
        ("/metrics", ("GET", "HEAD", "OPTIONS")),
        ("/docs", ("GET", "HEAD", "OPTIONS")),
        ("/api/v1/openapi.json", ("GET", "HEAD", "OPTIONS")),
        ("/api/v1/timestamp/x/y", ()),
        ("/api/v1/timestampx", ()),
        ("/", ()),
        ("/health\n", ()),
    ],
)
def test_allowed(path: str, methods: tuple[str, ...]) -> None:
    assert routes.allowed(path) == methods
