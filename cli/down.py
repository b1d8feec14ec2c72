"""`make stop` and `make down`: power the local nodes off, or erase them after asking."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from cli.hints import typed
from cli.inventory import Service, require_local
from cli.play import become_options, play


def confirmed(
    state_folder: Path, secrets_folder: Path, force: bool, interactive: bool, ask: Callable[[str], str]
) -> bool:
    """Return whether the nodes may be erased: unless `force` is set, a person at a terminal has to say so."""
    if force:
        return True
    if not interactive:
        print("Nobody can be asked without a terminal. To erase the nodes all the same, add FORCE=1.")
        return False
    question = (
        f"This erases the nodes in {state_folder} with everything that they recorded (the Kafka log, "
        "which is the golden record, and the database), and the passwords, keys and CA in "
        f"{secrets_folder}.\nType yes to erase them: "
    )
    return ask(question).strip().lower() == "yes"


def stop(service: Service) -> int:
    """Power the nodes off; their data stays. Returns the exit status. Raises InventoryError."""
    require_local(service)
    if play(service.inventory, "playbooks/local_stop.yml", become_options()):
        return 1
    print(typed(service, "The nodes are off. Their data is kept: `make up` boots them again."))
    return 0


def down(service: Service, force: bool) -> int:
    """Erase the nodes and what was generated for them, except downloads. Returns the exit status.

    Raises InventoryError when the inventory is not made of local nodes.
    """
    state_folder = require_local(service)
    exists = state_folder.exists() or service.secrets_folder.exists()
    if exists and not confirmed(state_folder, service.secrets_folder, force, sys.stdin.isatty(), input):
        print("Nothing was erased.")
        return 1
    # The playbook always runs, as an interrupted run may have left a network and nothing else.
    options = ["--extra-vars", "local_node_force=true"] if force else []
    if play(service.inventory, "playbooks/local_down.yml", [*options, *become_options()]):
        return 1
    print(
        "The nodes and their secrets are erased; the cache of downloads is kept."
        if exists
        else "There is nothing to remove."
    )
    return 0
