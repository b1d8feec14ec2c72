from typing import Any

import pytest

from timestamp_service.kafka.statistics import Brokers

NONE: dict[str, Any] = {"brokers": {}}
COORDINATOR: dict[str, Any] = {"brokers": {"GroupCoordinator": {"source": "logical"}}}
CONFIGURED: dict[str, Any] = {"brokers": {"a": {"source": "configured"}, **COORDINATOR["brokers"]}}
LEARNED: dict[str, Any] = {"brokers": {"a/1": {"source": "learned"}}}


@pytest.mark.parametrize(
    ("statistics", "forgotten"),
    [
        ((NONE, NONE), False),
        ((NONE, NONE, NONE), True),
        ((LEARNED, COORDINATOR, NONE, COORDINATOR), True),
        # The library begins anew with the brokers that were configured.
        ((NONE, NONE, CONFIGURED, NONE, NONE), False),
        ((NONE, NONE, LEARNED, NONE, NONE), False),
    ],
)
def test_a_client_without_brokers_is_noticed(statistics: tuple[dict[str, Any], ...], forgotten: bool) -> None:
    brokers = Brokers()
    assert [brokers.forgotten(one) for one in statistics][-1] == forgotten
