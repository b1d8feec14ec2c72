import json
import logging

from timestamp_service.logs import Log
from timestamp_service.repeats import Repeats


def test_what_goes_on_is_said_now_and_then() -> None:
    lines: list[bytes] = []
    now = 100.0
    repeats = Repeats(Log("s", logging.INFO, lines.append), every_seconds=30, clock=lambda: now)
    for now in (100.0, 101.0, 129.9, 130.0, 131.0):
        repeats.warning("kafka_error", "_TRANSPORT", error=str(now))
    repeats.warning("kafka_error", "_RESOLVE", error="another kind")
    repeats.warning("other", "_TRANSPORT", error="another event")

    told = [(line["error"], line.get("left_out")) for line in map(json.loads, lines)]
    assert told == [("100.0", None), ("130.0", 2), ("another kind", None), ("another event", None)]
