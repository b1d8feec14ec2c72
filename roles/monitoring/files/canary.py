#!/usr/bin/python3 -IS
"""Record a timestamp through the address that clients use, read it back, and say so in metrics.

A file for Prometheus' node exporter is written when the whole way was gone. When it was not, the journal has
the reason, and the time of the last success in the file grows old. Standard library alone: it runs with the
system's interpreter.
"""

from __future__ import annotations

import argparse
import http.client
import json
import pathlib
import ssl
import sys
import time
import urllib.request
from collections.abc import Sequence

# No client asks for this instant, and a range with a beginning never meets it.
INSTANT = "0001-01-01T00:00:00Z"
# Of a request, and of what the second one waits for; together less than the minute until the next run.
SECONDS, WAIT_SECONDS = 10, 8


def client(authority: str) -> urllib.request.OpenerDirector:
    """Return a client that trusts the certificates of a file alone, and knows no proxy."""
    context = ssl.create_default_context(cafile=authority)
    return urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )


def record(opener: urllib.request.OpenerDirector, url: str) -> str:
    """Record the instant; returns its id. Raises OSError, HTTPException, ValueError or KeyError."""
    request = urllib.request.Request(f"{url}/api/v1/timestamp/{INSTANT}", method="POST")
    with opener.open(request, timeout=SECONDS) as answer:
        return str(json.load(answer)["id"])


def read_back(opener: urllib.request.OpenerDirector, url: str, identifier: str) -> None:
    """Read the record, once it is there. Raises what `record` does; ValueError if it is another one."""
    headers = {"Prefer": f"wait={WAIT_SECONDS}"}
    request = urllib.request.Request(f"{url}/api/v1/timestamp/{identifier}", headers=headers)
    with opener.open(request, timeout=SECONDS) as answer:
        found = json.load(answer)
    if (found["id"], found["event_timestamp"]) != (identifier, INSTANT):
        raise ValueError(f"{found['id']} at {found['event_timestamp']} came back")


def metrics(now: float, seconds: float) -> str:
    """Return the metrics of a success at a Unix time, after so many seconds, in Prometheus' text form."""
    return (
        "# HELP timestamp_canary_enabled Whether a timestamp is recorded and read back each minute.\n"
        "# TYPE timestamp_canary_enabled gauge\n"
        "timestamp_canary_enabled 1\n"
        "# HELP timestamp_canary_last_success_seconds Unix time of the last that was read back.\n"
        "# TYPE timestamp_canary_last_success_seconds gauge\n"
        f"timestamp_canary_last_success_seconds {now:.3f}\n"
        "# HELP timestamp_canary_duration_seconds Time that this took.\n"
        "# TYPE timestamp_canary_duration_seconds gauge\n"
        f"timestamp_canary_duration_seconds {seconds:.4f}\n"
    )


def main(arguments: Sequence[str]) -> int:
    """Go the whole way once; returns 1 when it was not gone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--url", required=True, help="of the service, without a slash at its end")
    parser.add_argument("--authority", required=True, help="file of the certificates that are trusted")
    parser.add_argument("--textfile", required=True, help="write the metrics to this file")
    chosen = parser.parse_args(arguments)
    identifier = ""
    begin = time.monotonic()
    try:
        opener = client(chosen.authority)
        identifier = record(opener, chosen.url)
        read_back(opener, chosen.url, identifier)
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        what = f"{identifier} not read back" if identifier else "not recorded"
        print(f"{what} at {chosen.url}: {error!r}", file=sys.stderr)
        return 1
    # Never half a file: the exporter may read at any time.
    new = pathlib.Path(chosen.textfile + ".new")
    new.write_text(metrics(time.time(), time.monotonic() - begin), encoding="utf-8")
    new.chmod(0o644)
    new.replace(chosen.textfile)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
