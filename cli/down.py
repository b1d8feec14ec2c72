"""`make stop` and `make down`: power the local nodes off, or erase them after asking."""

from __future__ import annotations

import sys
from collections.abc import Callable

from cli.inventory import Service
from cli.play import become_options, play


def confirmed(service: Service, force: bool, interactive: bool, ask: Callable[[str], str]) -> bool:
    """Return whether the nodes may be erased: a person at a terminal is asked, unless `force` is set."""
    if force or not interactive:
        return True
    question = (
        f"This erases the nodes in {service.state_folder} with everything that they recorded (the Kafka log, "
        "which is the golden record, and the database), and the passwords, keys and CA in "
        f"{service.secrets_folder}.\nType yes to erase them: "
    )
    return ask(question).strip().lower() == "yes"


def stop(inventory: str) -> int:
    """Power the nodes off; their data stays. Returns the exit status."""
    if play(inventory, "playbooks/local_stop.yml", become_options()):
        return 1
    print("The nodes are off. Their data is kept: `make up` boots them again.")
    return 0


def down(service: Service, inventory: str, force: bool) -> int:
    """Erase the nodes and what was generated for them, except downloads. Returns the exit status."""
    exists = service.state_folder.exists() or service.secrets_folder.exists()
    if exists and not confirmed(service, force, sys.stdin.isatty(), input):
        print("Nothing was erased.")
        return 1
    # The playbook always runs, as an interrupted run may have left a network and nothing else.
    options = ["--extra-vars", "local_node_force=true"] if force else []
    if play(inventory, "playbooks/local_down.yml", [*options, *become_options()]):
        return 1
    print(
        "The nodes and their secrets are erased; the cache of downloads is kept."
        if exists
        else "There is nothing to remove."
    )
    return 0
