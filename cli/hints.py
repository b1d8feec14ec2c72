"""The commands that messages name, as they have to be typed for the inventory in use."""

from __future__ import annotations

import re
import shlex

from cli.inventory import DEFAULT_INVENTORY, Service

_TARGETS = "up|down|stop|status|diagnose|logs|ssh|deploy|rollback|rebuild|backup|restore"
_COMMAND = re.compile(rf"\bmake ({_TARGETS})\b")


def typed(service: Service, text: str) -> str:
    """Return `text` with the inventory in each command of it, where that is not the default."""
    if service.inventory == DEFAULT_INVENTORY:
        return text
    quoted = shlex.quote(service.inventory)
    text = text.replace("ansible-playbook site.yml", f"ansible-playbook -i {quoted} site.yml")
    return _COMMAND.sub(lambda found: f"{found[0]} INVENTORY={quoted}", text)
