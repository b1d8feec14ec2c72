"""The second half of `make up`: create and boot the nodes, set them up, and check them end to end."""

from __future__ import annotations

import shlex
import sys
import time
import urllib.request

from cli import diagnose
from cli.end_to_end import INSTANT, EndToEndError, send_and_read_back
from cli.hints import typed
from cli.inventory import Service, require_local
from cli.play import become_options, play

# The first two are those of scripts/setup.sh.
STEPS = 5


def failed(service: Service, step: int, what: str, advice: str) -> int:
    """Say which step failed and what to look at; returns the exit status."""
    print(f"\n[{step}/{STEPS}] failed: {what}\n{typed(service, advice)}", file=sys.stderr)
    return 1


def diagnosis(service: Service) -> None:
    """Run the checks of `make diagnose`, which is what somebody whose run failed would do next."""
    print("\nThe checks of `make diagnose`:", flush=True)
    diagnose.show(service)


def up(service: Service, started: float) -> int:
    """Bring the service up on the local nodes of an inventory; `started` is when that began (Unix time).

    Raises InventoryError when the inventory is not made of local nodes.
    """
    require_local(service)
    print(f"[3/{STEPS}] Machines: create and boot those that do not run", flush=True)
    if play(service.inventory, "playbooks/local_up.yml", become_options()):
        return failed(
            service,
            3,
            "the machines",
            "The message above says why. `make up` continues from here; `make down` removes everything.",
        )
    print(f"[4/{STEPS}] Set up the service on the machines (site.yml)", flush=True)
    if play(service.inventory, "site.yml"):
        diagnosis(service)
        return failed(
            service,
            4,
            "the setup",
            "The task that failed says why; the checks above and `make logs` show more. "
            "`make up` continues from here.",
        )
    print(f"[5/{STEPS}] Record one timestamp and read it back", flush=True)
    try:
        trip = send_and_read_back(service.url, service.certificate_authority)
    except EndToEndError as error:
        diagnosis(service)
        return failed(
            service, 5, str(error), "The checks above say what does not work; `make logs` shows why."
        )

    # A proxy of the environment does not reach the nodes.
    direct = "--noproxy '*' " if urllib.request.getproxies() else ""
    curl = f"curl {direct}--cacert {shlex.quote(str(service.certificate_authority))}"
    print(
        f"      {INSTANT} is recorded as {trip.id} (POST {trip.post_milliseconds:.0f} ms, "
        f"GET {trip.get_milliseconds:.0f} ms)\n\n"
        f"Up in {time.time() - started:.0f} s. The service: {service.url}\n"
        f"Its CA certificate: {service.certificate_authority}\n\n"
        f"{curl} -X POST {service.url}/api/v1/timestamp/{INSTANT}\n"
        f"{curl} {service.url}/api/v1/timestamp/{trip.id}\n\n"
        + typed(service, "Next: make status, make logs, make ssh NODE=web, make stop, make down, make help")
    )
    return 0
