"""librdkafka's statistics of a client (STATISTICS.md of its source)."""

from typing import Any


def connected(statistics: dict[str, Any]) -> bool:
    """Return whether the client is connected to any broker, be it one that does not answer."""
    # Those without a number are the addresses that were configured.
    return any(broker["nodeid"] >= 0 and broker["state"] == "UP" for broker in statistics["brokers"].values())


# What is logged of a client that is replaced for it.
FORGOTTEN = "the library knows no broker any more"


class Brokers:
    """Notices that a client has no broker left to connect to, for ever.

    A broker that stops may answer that there are no brokers, and close the connection at once. librdkafka
    (2.10 to 2.16, issue 5301) forgets all of them then, and may forget to begin anew with those that were
    configured: only a new client connects again.
    """

    # Statistics in a row that know none: one or two are usual when the library begins anew.
    _MOST = 3

    def __init__(self) -> None:
        """Begin with a new client."""
        self._without = 0

    def forgotten(self, statistics: dict[str, Any]) -> bool:
        """Return whether the client needs to be replaced, by its newest statistics."""
        # A logical one, such as the coordinator, is one of the others.
        known = any(broker["source"] != "logical" for broker in statistics["brokers"].values())
        self._without = 0 if known else self._without + 1
        return self._without >= self._MOST
