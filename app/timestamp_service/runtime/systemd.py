"""Notifying systemd of a service's state: sd_notify(3), without a library."""

import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notifier:
    """Where systemd listens (None: nowhere), and how often it expects progress (None: never)."""

    address: str | None = None
    watchdog_seconds: float | None = None

    def ready(self) -> None:
        """Notify systemd that the service does its work."""
        self._send("READY=1\nSTATUS=Ready")

    def status(self, text: str) -> None:
        """Say in a few words what the service is doing; `systemctl status` shows it."""
        self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """Notify systemd that the service is about to end."""
        self._send("STOPPING=1\nSTATUS=Stopping")

    def progress(self) -> None:
        """Feed the watchdog."""
        if self.watchdog_seconds is not None:
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if self.address is None:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer:
            # systemd that does not listen is no reason to stop serving, nor to wait.
            peer.setblocking(False)
            try:
                peer.sendto(state.encode(), address)
            except OSError:
                return


# Where `hide` puts the address: libraries look for systemd's own name only.
_HIDDEN = "TIMESTAMP_SERVICE_NOTIFY_SOCKET"


def hide(environment: MutableMapping[str, str]) -> None:
    """Hide systemd's address from libraries: gunicorn would say READY before a dependency was asked."""
    address = environment.pop("NOTIFY_SOCKET", None)
    if address:
        environment[_HIDDEN] = address


def from_environment(environment: Mapping[str, str]) -> Notifier:
    """Return the notifier that systemd asked for in `environment`, hidden or not."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    return Notifier(
        environment.get("NOTIFY_SOCKET") or environment.get(_HIDDEN) or None,
        int(microseconds) / 1_000_000 if microseconds.isdecimal() and int(microseconds) else None,
    )
