"""`make stop` and `make down`: power the local nodes off, or erase them after asking."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from inventory import InventoryError, Service, read_service
from up import become_options, play


def confirmed(service: Service, force: bool, interactive: bool, ask: Callable[[str], str]) -> bool:
    """Say whether the nodes may be erased: a person at a terminal is asked, unless that was forced."""
    if force or not interactive:
        return True
    question = (
        f"This erases the nodes in {service.state_folder} with all that they recorded (the Kafka log, which "
        "is the golden record, and the database), and the passwords, keys and CA in "
        f"{service.secrets_folder}.\nType yes to erase them: "
    )
    return ask(question).strip().lower() == "yes"


def stop(inventory: str) -> int:
    """Power the nodes off; their data stays."""
    if play(inventory, "playbooks/local_stop.yml", become_options()):
        return 1
    print("The nodes are off. Their data is kept: `make up` boots them again.")
    return 0


def down(inventory: str, force: bool) -> int:
    """Erase the nodes and what was generated for them. The cache of downloads stays."""
    service = read_service(inventory)
    there = service.state_folder.exists() or service.secrets_folder.exists()
    if there and not confirmed(service, force, sys.stdin.isatty(), input):
        print("Nothing was erased.")
        return 1
    # The playbook runs even when nothing seems to be there: a network may have been left by a broken run.
    options = ["--extra-vars", "local_node_force=true"] if force else []
    if play(inventory, "playbooks/local_down.yml", [*options, *become_options()]):
        return 1
    print(
        "The nodes and their secrets are erased; the cache of downloads is kept."
        if there
        else "There is nothing to remove."
    )
    return 0


def main(arguments: Sequence[str]) -> int:
    """Stop or erase the local nodes of an inventory. FORCE=1 in the environment asks nothing."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--inventory", required=True)
    parser.add_argument("action", choices=["stop", "down"])
    chosen = parser.parse_args(arguments)
    try:
        if chosen.action == "stop":
            return stop(chosen.inventory)
        return down(chosen.inventory, force=os.environ.get("FORCE") == "1")
    except InventoryError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
