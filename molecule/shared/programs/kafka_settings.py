"""How a client of this node's services reaches Kafka."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path("/etc/timestamp-service")


def settings(broker: str, service: str, password: str = "") -> dict[str, Any]:
    """Return a client's settings as this service's; its password is read from the node's file."""
    return {
        "bootstrap.servers": broker,
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(FOLDER / "ca.crt"),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": service,
        "sasl.password": password or (FOLDER / f"{service}.kafka_password_file").read_text().strip(),
    }
