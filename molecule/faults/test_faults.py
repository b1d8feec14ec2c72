"""What breaks comes back by itself, and nothing that was acknowledged is lost."""

from __future__ import annotations

import pytest
from disturbed import failures
from inventory import Service


@pytest.mark.short
def test_all_is_well_at_first(service: Service) -> None:
    assert failures(service) == []
