"""The second half of `make up`: start the nodes, set them up, check the whole way, say how to go on."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence

import diagnose
from check import INSTANT, CheckError, send_and_read_back
from inventory import PROJECT, InventoryError, environment, read_service, tool

STEPS = 5


def become_options() -> list[str]:
    """Ask for sudo's password where one is needed: what a terminal has remembered is not Ansible's to use."""
    if (
        os.geteuid() == 0
        or subprocess.run(["sudo", "-k", "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        return []
    return ["--ask-become-pass"]


def play(inventory: str, playbook: str, options: Sequence[str] = ()) -> int:
    """Run a playbook; only what changes or fails is shown, unless V=1 is in the environment."""
    quiet = {"ANSIBLE_DISPLAY_OK_HOSTS": "0", "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "0"}
    command = [tool("ansible-playbook"), "-i", inventory, *options, playbook]
    extra = {} if os.environ.get("V") == "1" else quiet
    return subprocess.run(command, cwd=PROJECT, env=environment(extra), check=False).returncode


def failed(step: int, what: str, advice: str) -> int:
    """Say which step failed and what to look at; returns the exit status."""
    print(f"\n[{step}/{STEPS}] failed: {what}\n{advice}", file=sys.stderr)
    return 1


def diagnosed(inventory: str) -> None:
    """Show what `make diagnose` finds, as somebody whose run failed would ask next."""
    print("\nWhat `make diagnose` finds:", flush=True)
    diagnose.main(["--inventory", inventory])


def main(arguments: Sequence[str]) -> int:
    """Bring the service up on the local nodes of an inventory."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--inventory", required=True)
    parser.add_argument("--started", type=float, default=time.time(), help="when `make up` began (Unix time)")
    chosen = parser.parse_args(arguments)
    inventory = chosen.inventory

    print(f"[3/{STEPS}] Machines: make and boot those that do not run", flush=True)
    if play(inventory, "playbooks/local_up.yml", become_options()):
        return failed(
            3,
            "the machines",
            "The message above says why. `make up` goes on from here, `make down` removes all.",
        )
    print(f"[4/{STEPS}] Set up the service on the machines (site.yml)", flush=True)
    if play(inventory, "site.yml"):
        diagnosed(inventory)
        return failed(
            4,
            "the set-up",
            "The task that failed says why, the checks above and `make logs` show more. `make up` goes on.",
        )
    print(f"[5/{STEPS}] Send one timestamp the whole way and read it back", flush=True)
    try:
        service = read_service(inventory)
        passage = send_and_read_back(service.url, service.certificate_authority)
    except (CheckError, InventoryError) as error:
        diagnosed(inventory)
        return failed(5, str(error), "The checks above say what does not work, `make logs` why.")

    authority = shlex.quote(str(service.certificate_authority))
    print(
        f"      {INSTANT} is recorded as {passage.id} (POST {passage.post_milliseconds:.0f} ms, "
        f"GET {passage.get_milliseconds:.0f} ms)\n\n"
        f"Up in {time.time() - chosen.started:.0f} s. The service: {service.url}\n"
        f"Its CA certificate: {service.certificate_authority}\n\n"
        f"curl --cacert {authority} -X POST {service.url}/api/v1/timestamp/{INSTANT}\n"
        f"curl --cacert {authority} {service.url}/api/v1/timestamp/{passage.id}\n\n"
        "Next: make status, make logs, make ssh NODE=web, make stop, make down, make help"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
