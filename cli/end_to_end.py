"""Check the service end to end: POST one timestamp through nginx, and GET it back from the database."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

INSTANT = "2009-09-28T19:03:12Z"
# A POST may wait for 15 s while a cluster fails over.
TIMEOUT_SECONDS = 20.0


class EndToEndError(Exception):
    """Which request failed, and how it was answered."""


@dataclass(frozen=True)
class RoundTrip:
    """One timestamp that was recorded and read back: its id, and the milliseconds of each request."""

    id: str
    post_milliseconds: float
    get_milliseconds: float


def send_and_read_back(url: str, certificate_authority: Path) -> RoundTrip:
    """Record one instant and read it back, trusting only the given CA. Raises EndToEndError."""
    context = _context(certificate_authority)
    start = time.perf_counter()
    answer = _ask(f"{url}/api/v1/timestamp/{INSTANT}", "POST", context)
    middle = time.perf_counter()
    identifier = str(answer.get("id", ""))
    if not identifier:
        raise EndToEndError(f"POST answered no id but {answer}")
    _check_record(url, context, identifier)
    end = time.perf_counter()
    return RoundTrip(identifier, (middle - start) * 1000, (end - middle) * 1000)


def read_back(url: str, certificate_authority: Path, identifier: str) -> None:
    """Read a record of `send_and_read_back` by its id. Raises EndToEndError."""
    _check_record(url, _context(certificate_authority), identifier)


def _check_record(url: str, context: ssl.SSLContext, identifier: str) -> None:
    record = _ask(f"{url}/api/v1/timestamp/{identifier}", "GET", context, {"Prefer": "wait=10"})
    if (record.get("id"), record.get("event_timestamp")) != (identifier, INSTANT):
        raise EndToEndError(f"GET answered another record: {record}")


def _context(certificate_authority: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(certificate_authority))
    except OSError as error:
        raise EndToEndError(
            f"the CA certificate {certificate_authority} cannot be read: {error.strerror}"
        ) from error


def _ask(
    url: str, method: str, context: ssl.SSLContext, headers: dict[str, str] | None = None
) -> dict[str, object]:
    request = urllib.request.Request(url, method=method, headers=headers or {})
    # No proxy: the nodes are on this computer or in its network.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read(500).decode(errors="replace").strip()
        raise EndToEndError(f"{method} {url} answered {error.code}: {text}") from error
    except urllib.error.URLError as error:
        raise EndToEndError(f"{method} {url}: {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise EndToEndError(f"{method} {url}: {error}") from error
    if not isinstance(answer, dict):
        raise EndToEndError(f"{method} {url} answered no JSON object: {answer!r}")
    return answer
