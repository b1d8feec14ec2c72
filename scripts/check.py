"""Send one timestamp the whole way: POST it through nginx, and GET it back from the database."""

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
TIMEOUT_SECONDS = 15.0


class CheckError(Exception):
    """Which step of the way failed, and what was answered."""


@dataclass(frozen=True)
class Passage:
    """One timestamp that went the whole way: its id, and how long each half took in milliseconds."""

    id: str
    post_milliseconds: float
    get_milliseconds: float


def send_and_read_back(url: str, certificate_authority: Path) -> Passage:
    """Record one instant and read it back, trusting the given CA alone. Raises CheckError."""
    context = _trust(certificate_authority)
    start = time.perf_counter()
    posted = _ask(f"{url}/api/v1/timestamp/{INSTANT}", "POST", context)
    middle = time.perf_counter()
    identity = str(posted.get("id", ""))
    if not identity:
        raise CheckError(f"POST answered no id but {posted}")
    _read(url, context, identity)
    end = time.perf_counter()
    return Passage(identity, (middle - start) * 1000, (end - middle) * 1000)


def read_back(url: str, certificate_authority: Path, identity: str) -> None:
    """Read a record of `send_and_read_back` by its id. Raises CheckError."""
    _read(url, _trust(certificate_authority), identity)


def _read(url: str, context: ssl.SSLContext, identity: str) -> None:
    record = _ask(f"{url}/api/v1/timestamp/{identity}", "GET", context, {"Prefer": "wait=10"})
    if (record.get("id"), record.get("event_timestamp")) != (identity, INSTANT):
        raise CheckError(f"GET answered another record: {record}")


def _trust(certificate_authority: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(certificate_authority))
    except OSError as error:
        raise CheckError(
            f"the CA certificate {certificate_authority} cannot be read: {error.strerror}"
        ) from error


def _ask(
    url: str, method: str, context: ssl.SSLContext, headers: dict[str, str] | None = None
) -> dict[str, object]:
    request = urllib.request.Request(url, method=method, headers=headers or {})
    # No proxy: the nodes are on this computer or in its own network.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        said = error.read(500).decode(errors="replace").strip()
        raise CheckError(f"{method} {url} answered {error.code}: {said}") from error
    except urllib.error.URLError as error:
        raise CheckError(f"{method} {url}: {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CheckError(f"{method} {url}: {error}") from error
    if not isinstance(answer, dict):
        raise CheckError(f"{method} {url} answered no JSON object: {answer!r}")
    return answer
