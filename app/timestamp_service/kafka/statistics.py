"""librdkafka's statistics of a client (STATISTICS.md of its source)."""

from typing import Any


def connected(statistics: dict[str, Any]) -> bool:
    """Return whether the client is connected to any broker, be it one that does not answer."""
    # Those without a number are the addresses that were configured.
    return any(broker["nodeid"] >= 0 and broker["state"] == "UP" for broker in statistics["brokers"].values())
